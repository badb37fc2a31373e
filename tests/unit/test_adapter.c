/* Low-rank adapters: what they add, their gradients, their files. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/text.h"
#include "model_pass.h"
#include "models/import.h"
#include "models/model.h"
#include "tiny_forms.h"

enum { VOCAB = 31 };

typedef struct Fixture {
  Arena arena;
  Backend *backend;
  const char *folder; /* base, adapter and merged stand in it */
  Pass pass;
  float dropout; /* of the adapters made */
} Fixture;

static DecoderConfig config_of(bool llama) { return tiny_form(llama ? LLAMA : GPT2, VOCAB); }

/* Every target that the family has, the whole of qkv beside its parts. */
static LoraConfig every_target(bool llama, float dropout) {
  LoraConfig lora = {.rank = 3, .alpha = 5, .dropout = dropout};
  for (int t = 0; t < LORA_TARGETS; t++) lora.target[t] = llama || t != LORA_GATE;
  return lora;
}

static const char *path_of(Fixture *f, const char *name) { return path_join(&f->arena, f->folder, name); }

static void open_fixture_with(Fixture *f, bool llama, Model *base, float dropout) {
  *f = (Fixture){.dropout = dropout};
  char template[] = "/tmp/popalm-adapter-XXXXXX";
  f->folder = arena_strdup(&f->arena, mkdtemp(template));
  DecoderConfig config = config_of(llama);
  assert_int_equal(cpu_backend_open(0, &f->backend), OK);
  assert_int_equal(model_create(&f->arena, base, f->backend, &config, NULL, (ModelParts){0}, true, 7), OK);
  const char *folders[] = {"base", "adapter", "merged"};
  for (int i = 0; i < 3; i++) assert_int_equal(make_folders(path_of(f, folders[i])), OK);
  assert_int_equal(model_save(base, path_of(f, "base")), OK);
  config.lora = every_target(llama, f->dropout);
  pass_open(&f->pass, &f->arena, base, &config, ACTIVATIONS_KEPT);
  f->pass.training = dropout > 0;
  const int lengths[] = {11, 2, 17, 1, 7};
  for (int s = 0; s < 5; s++) {
    int32_t tokens[32];
    for (int t = 0; t < lengths[s]; t++) tokens[t] = (7 * t + 5 * s + 3) % VOCAB;
    batch_add(&f->pass.batch, tokens, lengths[s], lengths[s] / 2 + 1);
  }
  batch_upload(&f->pass.batch);
}

static void open_fixture(Fixture *f, bool llama, Model *base) { open_fixture_with(f, llama, base, 0); }

static void close_fixture(Fixture *f, Model *base) {
  char command[256];
  snprintf(command, sizeof command, "rm -r '%s'", f->folder);
  assert_int_equal(system(command), 0);
  pass_close(&f->pass);
  model_free(base);
  f->backend->close(f->backend);
  arena_free(&f->arena);
}

static void adapt(Fixture *f, Model *model, bool llama, const Model *lender, double b_scale) {
  DecoderConfig config = config_of(llama);
  config.lora = every_target(llama, f->dropout);
  assert_int_equal(model_create(&f->arena, model, f->backend, &config, path_of(f, "base"),
                                (ModelParts){.frozen_from = lender}, true, 9),
                   OK);
  Parameters *p = &model->parameters;
  for (int i = 0; i < p->count; i++) {
    const char *name = p->list[i].name;
    float *b = parameters_weight(p, i);
    if (name[strlen(name) - 1] != 'b' || p->list[i].frozen) continue;
    for (size_t j = 0; j < p->list[i].count; j++)
      b[j] = (float)(b_scale * random_normal((RandomKey){3, RANDOM_TEST, (uint32_t)i}, (uint32_t)j, 0));
  }
}

static void an_untrained_adapter_changes_nothing(void **state) {
  (void)state;
  for (int llama = 0; llama < 2; llama++) {
    Fixture f;
    Model base, model;
    open_fixture(&f, llama, &base);
    double want = pass_forward(&f.pass, &base);
    adapt(&f, &model, llama, NULL, 0);
    assert_true(pass_forward(&f.pass, &model) == want);
    model_free(&model);
    close_fixture(&f, &base);
  }
}

/* What an export reads of the model, as a folder of its own. */
static void save_merged(Fixture *f, const Model *model) {
  OwnModel exported;
  assert_int_equal(model_save(model, path_of(f, "adapter")), OK);
  assert_int_equal(export_open(&f->arena, path_of(f, "adapter"), &exported), OK);
  cJSON *meta = model_meta(&exported.config);
  assert_int_equal(checkpoint_write(path_of(f, "merged/model.safetensors"), exported.checkpoint.tensors,
                                    exported.checkpoint.count, meta, false),
                   OK);
  cJSON_Delete(meta);
  export_close(&exported);
}

static void merged_weights_equal_the_adapter(void **state) {
  (void)state;
  for (int llama = 0; llama < 2; llama++) {
    Fixture f;
    Model base, model, merged;
    open_fixture(&f, llama, &base);
    double plain = pass_forward(&f.pass, &base);
    adapt(&f, &model, llama, NULL, 0.3);
    double want = pass_forward(&f.pass, &model);
    assert_true(fabs(want - plain) > 0.1);
    save_merged(&f, &model);
    assert_int_equal(
        model_load(&f.arena, &merged, f.backend, path_of(&f, "merged"), (ModelParts){0}, false, 1), OK);
    assert_int_equal(merged.decoder.config.lora.rank, 0);
    double got = pass_forward(&f.pass, &merged);
    if (fabs(got - want) > 1e-4 * fabs(want)) fail_msg("merged %g, adapter %g", got, want);
    model_free(&merged);
    model_free(&model);
    close_fixture(&f, &base);
  }
}

static void gradients_are_those_of_differences(float dropout) {
  for (int llama = 0; llama < 2; llama++) {
    Fixture f;
    Model base, model;
    open_fixture_with(&f, llama, &base, dropout);
    adapt(&f, &model, llama, NULL, 0.3);
    assert_true(pass_check_gradients(&f.pass, &f.arena, &model, ".lora.", 1e-2) >= 2 * 2 * 6);
    model_free(&model);
    close_fixture(&f, &base);
  }
}

static void gradients_match_finite_differences(void **state) {
  (void)state;
  gradients_are_those_of_differences(0);
}

static void gradients_with_dropout_match_finite_differences(void **state) {
  (void)state;
  gradients_are_those_of_differences(0.4f);
}

static void dropout_is_of_training_passes_only(void **state) {
  (void)state;
  Fixture f;
  Model base, model;
  open_fixture_with(&f, true, &base, 0.4f);
  adapt(&f, &model, true, NULL, 0.3);
  double dropped = pass_forward(&f.pass, &model);
  f.pass.training = false; /* as an evaluation of the same model */
  double whole = pass_forward(&f.pass, &model);
  assert_true(fabs(dropped - whole) > 0.1);
  assert_int_equal(model_save(&model, path_of(&f, "adapter")), OK);
  DecoderConfig saved;
  assert_int_equal(model_describe(&f.arena, path_of(&f, "adapter"), &saved), OK);
  assert_true(saved.lora.dropout == 0.4f);
  model_free(&model);
  close_fixture(&f, &base);
}

static void a_file_holds_the_adapter_and_names_its_base(void **state) {
  (void)state;
  Fixture f;
  Model base, model, loaded;
  open_fixture(&f, true, &base);
  adapt(&f, &model, true, NULL, 0.3);
  double want = pass_forward(&f.pass, &model);
  assert_int_equal(model_save(&model, path_of(&f, "adapter")), OK);
  Checkpoint checkpoint;
  assert_int_equal(checkpoint_open(&f.arena, path_of(&f, "adapter/model.safetensors"), &checkpoint), OK);
  assert_int_equal(checkpoint.count, 2 * 2 * LORA_TARGETS); /* A and B of two layers, nothing of the base */
  checkpoint_close(&checkpoint);
  assert_int_equal(
      model_load(&f.arena, &loaded, f.backend, path_of(&f, "adapter"), (ModelParts){0}, false, 1), OK);
  assert_true(pass_forward(&f.pass, &loaded) == want);
  model_free(&loaded);
  model_free(&model);
  close_fixture(&f, &base);
}

/* W += alpha / rank B A of one target, in the rows from `first` on of the weight of that name. */
static void add_target(Fixture *f, const Model *model, const char *tensor, double *weight,
                       const char *product, const char *target, int first) {
  const Parameters *p = &model->parameters;
  const char *layer = tensor + strlen("layers.");
  if (strncmp(tensor, "layers.", 7) != 0 || strncmp(layer + 2, product, strlen(product)) != 0 ||
      strcmp(layer + 2 + strlen(product), ".weight") != 0)
    return;
  const Parameter *a = NULL, *b = NULL;
  for (int i = 0; i < p->count; i++) {
    if (strcmp(p->list[i].name, arena_print(&f->arena, "layers.%c.lora.%s.a", layer[0], target)) == 0)
      a = &p->list[i];
    if (strcmp(p->list[i].name, arena_print(&f->arena, "layers.%c.lora.%s.b", layer[0], target)) == 0)
      b = &p->list[i];
  }
  if (!a) return; /* no such target in this family */
  const float *values_a = (const float *)p->weights + a->offset,
              *values_b = (const float *)p->weights + b->offset;
  int rank = (int)a->shape[0], in = (int)a->shape[1], out = (int)b->shape[0];
  for (int o = 0; o < out; o++)
    for (int i = 0; i < in; i++)
      for (int r = 0; r < rank; r++)
        weight[(first + o) * in + i] += (double)model->decoder.config.lora.alpha / rank *
                                        (double)values_b[o * rank + r] * (double)values_a[r * in + i];
}

static void an_export_holds_the_merged_weights(void **state) {
  (void)state;
  for (int llama = 0; llama < 2; llama++) {
    Fixture f;
    Model base, model;
    open_fixture(&f, llama, &base);
    adapt(&f, &model, llama, NULL, 0.3);
    assert_int_equal(model_save(&model, path_of(&f, "adapter")), OK);
    OwnModel exported;
    Checkpoint plain;
    assert_int_equal(export_open(&f.arena, path_of(&f, "adapter"), &exported), OK);
    assert_int_equal(checkpoint_open(&f.arena, path_of(&f, "base/model.safetensors"), &plain), OK);
    assert_int_equal(exported.config.lora.rank, 0);
    assert_int_equal(exported.checkpoint.count, plain.count);
    int q = llama ? 32 : 16, kv = 16, up = llama ? 24 : 0;
    for (int i = 0; i < plain.count; i++) {
      const HostTensor *tensor = &plain.tensors[i],
                       *got = checkpoint_tensor(&exported.checkpoint, tensor->name);
      assert_non_null(got);
      size_t count = (size_t)tensor->shape[0] * (size_t)(tensor->rank == 2 ? tensor->shape[1] : 1);
      double *want = NEW(&f.arena, double, count);
      for (size_t j = 0; j < count; j++) want[j] = (double)((const float *)tensor->data)[j];
      const struct {
        const char *product, *target;
        int first;
      } targets[] = {{"attention.qkv", "qkv", 0},    {"attention.qkv", "q", 0},     {"attention.qkv", "k", q},
                     {"attention.qkv", "v", q + kv}, {"attention.proj", "proj", 0}, {"mlp.up", "gate", 0},
                     {"mlp.up", "up", up},           {"mlp.down", "down", 0}};
      for (int t = 0; t < LORA_TARGETS; t++)
        add_target(&f, &model, tensor->name, want, targets[t].product, targets[t].target, targets[t].first);
      bool changed = false;
      for (size_t j = 0; j < count; j++) {
        double value = (double)((const float *)got->data)[j],
               before = (double)((const float *)tensor->data)[j];
        if (fabs(value - want[j]) > 1e-6)
          fail_msg("%s[%zu] is %g, should be %g", tensor->name, j, value, want[j]);
        changed = changed || want[j] != before;
      }
      if (!changed) assert_memory_equal(got->data, tensor->data, count * sizeof(float));
    }
    checkpoint_close(&plain);
    export_close(&exported);
    model_free(&model);
    close_fixture(&f, &base);
  }
}

static void several_adapters_share_one_base(void **state) {
  (void)state;
  Fixture f;
  Model base, first, second;
  open_fixture(&f, true, &base);
  size_t before, after, total;
  adapt(&f, &first, true, NULL, 0.3);
  double want = pass_forward(&f.pass, &first);
  f.backend->memory(f.backend, &before, &total);
  adapt(&f, &second, true, &first, 0.3);
  f.backend->memory(f.backend, &after, &total);
  assert_ptr_equal(first.parameters.frozen, second.parameters.frozen);
  assert_true(after - before < first.parameters.total * 4 * sizeof(float) + 64);
  assert_true(pass_forward(&f.pass, &second) == want);
  model_free(&second);
  assert_true(pass_forward(&f.pass, &first) == want);
  model_free(&first);
  close_fixture(&f, &base);
}

static void an_adapter_without_a_base_is_refused(void **state) {
  (void)state;
  Fixture f;
  Model base, model;
  open_fixture(&f, false, &base);
  DecoderConfig config = config_of(false);
  config.lora = every_target(false, 0);
  assert_int_equal(model_create(&f.arena, &model, f.backend, &config, NULL, (ModelParts){0}, true, 1),
                   INVALID);
  assert_non_null(strstr(error_message(), "model.from"));
  model_free(&model);
  config.lora.rank = 0;
  close_fixture(&f, &base);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(an_untrained_adapter_changes_nothing),
      cmocka_unit_test(merged_weights_equal_the_adapter),
      cmocka_unit_test(gradients_match_finite_differences),
      cmocka_unit_test(gradients_with_dropout_match_finite_differences),
      cmocka_unit_test(dropout_is_of_training_passes_only),
      cmocka_unit_test(a_file_holds_the_adapter_and_names_its_base),
      cmocka_unit_test(an_export_holds_the_merged_weights),
      cmocka_unit_test(several_adapters_share_one_base),
      cmocka_unit_test(an_adapter_without_a_base_is_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

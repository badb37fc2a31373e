/* A trained prefix before every sequence: what it means, its gradients, decoding behind it, its files. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/text.h"
#include "model_pass.h"
#include "models/decode.h"
#include "models/import.h"
#include "safetensors.h"
#include "tiny_forms.h"

enum { VOCAB = 31, LAYERS = 2, PREFIX = 5 };

typedef struct Fixture {
  Arena arena;
  Backend *backend;
  const char *folder; /* base and adapter stand in it */
  Model base, model;
  Pass pass;
} Fixture;

static DecoderConfig config_of(Form form) {
  DecoderConfig config = tiny_form(form, VOCAB);
  config.layers = LAYERS;
  config.max_positions = 32;
  return config;
}

static const char *path_of(Fixture *f, const char *name) { return path_join(&f->arena, f->folder, name); }

/* A base model of this form, and one with a prefix on it; rank: of low-rank adapters beside it, 0: none. */
static void open_with(Fixture *f, Form form, int rank, ActivationsUse use) {
  *f = (Fixture){0};
  char template[] = "/tmp/popalm-prefix-XXXXXX";
  f->folder = arena_strdup(&f->arena, mkdtemp(template));
  DecoderConfig config = config_of(form);
  assert_int_equal(cpu_backend_open(0, &f->backend), OK);
  assert_int_equal(model_create(&f->arena, &f->base, f->backend, &config, NULL, (ModelParts){0}, true, 7),
                   OK);
  assert_int_equal(make_folders(path_of(f, "base")), OK);
  assert_int_equal(make_folders(path_of(f, "adapter")), OK);
  assert_int_equal(model_save(&f->base, path_of(f, "base")), OK);
  config.prefix_tokens = PREFIX;
  if (rank)
    config.lora = (LoraConfig){.rank = rank, .alpha = 4, .target = {[LORA_Q] = true, [LORA_V] = true}};
  assert_int_equal(
      model_create(&f->arena, &f->model, f->backend, &config, path_of(f, "base"), (ModelParts){0}, true, 9),
      OK);
  pass_open(&f->pass, &f->arena, &f->base, &config, use);
}

static void open_fixture(Fixture *f, Form form) { open_with(f, form, 0, ACTIVATIONS_KEPT); }

static void close_fixture(Fixture *f) {
  char command[256];
  snprintf(command, sizeof command, "rm -r '%s'", f->folder);
  assert_int_equal(system(command), 0);
  pass_close(&f->pass);
  model_free(&f->model);
  model_free(&f->base);
  f->backend->close(f->backend);
  arena_free(&f->arena);
}

/* Sequence s of these lengths; the tokens of its second half are targets. */
static void fill(Batch *batch, const int *lengths, int count) {
  batch_clear(batch);
  for (int s = 0; s < count; s++) {
    int32_t tokens[32];
    for (int t = 0; t < lengths[s]; t++) tokens[t] = (7 * t + 5 * s + 3) % VOCAB;
    batch_add(batch, tokens, lengths[s], lengths[s] / 2 + 1);
  }
  batch_upload(batch);
}

/* The final hidden states of the last `count` rows of one sequence. */
static float *hidden_of(Fixture *f, const Model *model, const int32_t *tokens, int length, int count) {
  batch_clear(&f->pass.batch);
  batch_add(&f->pass.batch, tokens, length, length);
  batch_upload(&f->pass.batch);
  DecoderInput input = batch_input(&f->pass.batch);
  decoder_forward(&model->decoder, &f->pass.activations, &input);
  int32_t index[PASS_TOKENS];
  for (int i = 0; i < count; i++) index[i] = length - count + i;
  model_rows_forward(model, &f->pass.activations, &f->pass.rows, index, count);
  size_t values = (size_t)(count * model->decoder.config.hidden);
  float *out = NEW(&f->arena, float, values);
  memcpy(out, f->pass.rows.normed, values * sizeof *out);
  return out;
}

/* A prefix made of the keys and values that a model has for some text continues that text: so positions begin
 * behind it, and its keys are neither normed nor turned again. */
static void the_keys_of_a_text_as_prefix_continue_it(void **state) {
  (void)state;
  enum { REST = 9 };
  for (Form form = 0; form < FORMS; form++) {
    Fixture f;
    open_fixture(&f, form);
    int32_t tokens[PREFIX + REST];
    for (int t = 0; t < PREFIX + REST; t++) tokens[t] = (11 * t + 2) % VOCAB;
    float *want = hidden_of(&f, &f.base, tokens, PREFIX + REST, REST);
    const DecoderConfig *c = &f.base.decoder.config;
    int query = c->heads * c->head_dim, width = 2 * c->kv_heads * c->head_dim;
    for (int l = 0; l < LAYERS; l++) {
      float *prefix = parameters_weight(&f.model.parameters, f.model.decoder.layer[l].prefix);
      const float *qkv = f.pass.activations.layer[l].qkv;
      for (int t = 0; t < PREFIX; t++)
        memcpy(prefix + t * width, qkv + t * (query + width) + query, sizeof *prefix * (size_t)width);
    }
    float *got = hidden_of(&f, &f.model, tokens + PREFIX, REST, REST),
          *without = hidden_of(&f, &f.base, tokens + PREFIX, REST, REST);
    double moved = 0;
    for (int i = 0; i < REST * c->hidden; i++) {
      assert_float_equal(got[i], want[i], 1e-5);
      moved = fmax(moved, fabs((double)got[i] - (double)without[i]));
    }
    assert_true(moved > 0.05);
    close_fixture(&f);
  }
}

static void gradients_match_finite_differences(void **state) {
  (void)state;
  for (Form form = 0; form < FORMS; form++) {
    Fixture f;
    open_with(&f, form, 3, ACTIVATIONS_KEPT);
    fill(&f.pass.batch, (int[]){11, 2, 17, 1, 7}, 5);
    assert_int_equal(pass_check_gradients(&f.pass, &f.arena, &f.model, ".prefix", 5e-3), LAYERS);
    close_fixture(&f);
  }
}

static void recomputed_activations_give_the_same_gradients(void **state) {
  (void)state;
  for (Form form = 0; form < FORMS; form++) {
    Fixture f[2];
    for (int i = 0; i < 2; i++) {
      open_with(&f[i], form, 2, i ? ACTIVATIONS_RECOMPUTED : ACTIVATIONS_KEPT);
      fill(&f[i].pass.batch, (int[]){11, 2, 23, 7, 1, 13}, 6);
      pass_forward(&f[i].pass, &f[i].model);
      pass_backward(&f[i].pass, &f[i].model);
    }
    size_t bytes = f[0].model.parameters.total * sizeof(float);
    assert_memory_equal(f[0].model.parameters.grads, f[1].model.parameters.grads, bytes);
    for (int i = 0; i < 2; i++) close_fixture(&f[i]);
  }
}

/* Two posts, whose replies are decoded token by token behind the same prefix. */
static void decode_equals_forward(void **state) {
  (void)state;
  enum { POST = 9, REPLY = 6 };
  for (Form form = 0; form < FORMS; form++) {
    Fixture f;
    open_fixture(&f, form);
    int H = f.model.decoder.config.hidden;
    int32_t tokens[2][POST + REPLY];
    float *want[2];
    for (int p = 0; p < 2; p++) {
      for (int t = 0; t < POST + REPLY; t++) tokens[p][t] = (7 * t + 3 + 4 * p) % VOCAB;
      want[p] = hidden_of(&f, &f.model, tokens[p], POST + REPLY, REPLY);
    }
    DecodeCache cache;
    assert_int_equal(decode_cache_allocate(&f.arena, &cache, &f.model, 2 * POST, 3, REPLY), OK);
    batch_clear(&f.pass.batch);
    for (int p = 0; p < 2; p++) batch_add(&f.pass.batch, tokens[p], POST, POST);
    batch_upload(&f.pass.batch);
    DecoderInput input = batch_input(&f.pass.batch);
    input.kv_cache = cache.post;
    decoder_forward(&f.model.decoder, &f.pass.activations, &input);
    int32_t post[2] = {0, 1}, slot[2] = {2, 0}, token[2], position[2], length[2], row[2];
    for (int t = 0; t < REPLY; t++) {
      for (int p = 0; p < 2; p++)
        token[p] = tokens[p][POST + t], position[p] = POST + t, length[p] = t + 1,
        row[p] = slot[p] * REPLY + t;
      DecodeRows rows = {.rows = 2,
                         .post_cu_seqlens = f.pass.batch.device.cu_seqlens,
                         .post = post,
                         .slot = slot,
                         .token = token,
                         .position = position,
                         .reply_len = length,
                         .cache_row = row};
      decode_step(&f.model, &f.pass.activations, &cache, &rows);
      model_rows_forward(&f.model, &f.pass.activations, &f.pass.rows, post, 2);
      for (int p = 0; p < 2; p++)
        for (int h = 0; h < H; h++)
          assert_float_equal(((float *)f.pass.rows.normed)[p * H + h], want[p][t * H + h], 2e-4);
    }
    decode_cache_free(&cache, f.backend);
    close_fixture(&f);
  }
}

static void a_file_holds_the_prefix_and_names_its_base(void **state) {
  (void)state;
  Fixture f;
  open_fixture(&f, LLAMA);
  fill(&f.pass.batch, (int[]){11, 6}, 2);
  double want = pass_forward(&f.pass, &f.model);
  assert_int_equal(model_save(&f.model, path_of(&f, "adapter")), OK);
  Checkpoint checkpoint;
  assert_int_equal(checkpoint_open(&f.arena, path_of(&f, "adapter/model.safetensors"), &checkpoint), OK);
  assert_int_equal(checkpoint.count, LAYERS);
  const HostTensor *prefix = checkpoint_tensor(&checkpoint, "layers.1.prefix");
  assert_non_null(prefix);
  assert_int_equal(prefix->shape[0], PREFIX);
  assert_int_equal(prefix->shape[1], 2 * 2 * 8);
  checkpoint_close(&checkpoint);
  Model loaded;
  assert_int_equal(model_load(&f.arena, &loaded, f.backend, path_of(&f, "adapter"),
                              (ModelParts){.frozen_from = &f.model}, false, 1),
                   OK);
  assert_ptr_equal(loaded.parameters.frozen, f.model.parameters.frozen);
  assert_true(pass_forward(&f.pass, &loaded) == want);
  model_free(&loaded);
  close_fixture(&f);
}

/* Row t of PEFT's one tensor holds layer by layer the keys, then the values. */
static void peft_takes_all_layers_as_one_tensor(void **state) {
  (void)state;
  Fixture f;
  open_fixture(&f, LLAMA);
  assert_int_equal(model_save(&f.model, path_of(&f, "adapter")), OK);
  OwnModel merged;
  assert_int_equal(export_open(&f.arena, path_of(&f, "adapter"), &merged), INVALID);
  assert_non_null(strstr(error_message(), "--format peft"));
  assert_int_equal(export_peft(&f.arena, path_of(&f, "adapter"), path_of(&f, "peft")), OK);
  SafeFile file;
  assert_int_equal(safetensors_open(&f.arena, path_of(&f, "peft/adapter_model.safetensors"), &file), OK);
  const SafeTensor *all = safetensors_find(&file, "prompt_embeddings");
  assert_non_null(all);
  int width = 2 * 2 * 8;
  assert_int_equal(all->shape[0], PREFIX);
  assert_int_equal(all->shape[1], LAYERS * width);
  float *values = NEW(&f.arena, float, PREFIX *LAYERS *width);
  memcpy(values, all->data, all->bytes);
  for (int l = 0; l < LAYERS; l++) {
    const float *prefix = parameters_weight(&f.model.parameters, f.model.decoder.layer[l].prefix);
    for (int t = 0; t < PREFIX; t++)
      for (int i = 0; i < width; i++)
        assert_true(values[(t * LAYERS + l) * width + i] == prefix[t * width + i]);
  }
  safetensors_close(&file);
  close_fixture(&f);
  open_with(&f, LLAMA, 2, ACTIVATIONS_KEPT);
  assert_int_equal(model_save(&f.model, path_of(&f, "adapter")), OK);
  assert_int_equal(export_peft(&f.arena, path_of(&f, "adapter"), path_of(&f, "peft")), INVALID);
  assert_non_null(strstr(error_message(), "train one of them alone"));
  close_fixture(&f);
}

static void a_prefix_takes_positions_of_the_context(void **state) {
  (void)state;
  DecoderConfig config = config_of(GPT2);
  config.prefix_tokens = 31;
  assert_int_equal(decoder_config_check("it", &config), OK);
  assert_int_equal(decoder_context(&config), 1);
  config.prefix_tokens = 32;
  assert_int_equal(decoder_config_check("it", &config), INVALID);
  assert_non_null(strstr(error_message(), "it: a prefix of 32 tokens leaves none of the 32 positions"));
}

static void a_description_keeps_the_prefix(void **state) {
  (void)state;
  DecoderConfig config = config_of(LLAMA), parsed;
  config.prefix_tokens = 12;
  cJSON *object = decoder_config_json(&config);
  Json json = {.path = "it", .text = "", .root = object};
  assert_int_equal(decoder_config_parse(&json, object, &parsed), OK);
  assert_int_equal(parsed.prefix_tokens, 12);
  const double wrong[] = {0, -1, 65537};
  for (int i = 0; i < 3; i++) {
    cJSON_SetNumberValue(cJSON_GetObjectItem(object, "prefix_tokens"), wrong[i]);
    assert_int_equal(decoder_config_parse(&json, object, &parsed), INVALID);
    assert_non_null(strstr(error_message(), "\"prefix_tokens\" is"));
  }
  cJSON_Delete(object);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_keys_of_a_text_as_prefix_continue_it),
      cmocka_unit_test(gradients_match_finite_differences),
      cmocka_unit_test(recomputed_activations_give_the_same_gradients),
      cmocka_unit_test(decode_equals_forward),
      cmocka_unit_test(a_file_holds_the_prefix_and_names_its_base),
      cmocka_unit_test(peft_takes_all_layers_as_one_tensor),
      cmocka_unit_test(a_prefix_takes_positions_of_the_context),
      cmocka_unit_test(a_description_keeps_the_prefix),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

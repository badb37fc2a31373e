/* A frozen base in bf16 or int8 under an adapter: the bits of a base whose weights have these values, the
 * memory that was promised, and what its files say. Widths that are no multiples of 32. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/text.h"
#include "batch.h"
#include "models/import.h"
#include "models/model.h"
#include "models/reduce.h"
#include "testing.h"
#include "tiny_forms.h"

enum { VOCAB = 37, MAX_TOKENS = 64 };
static const WeightType reduced[] = {WEIGHT_BF16, WEIGHT_INT8};

typedef struct Fixture {
  Arena arena;
  Backend *backend;
  const char *folder;
  DecoderConfig config; /* of the base */
  Activations activations;
  ModelRows rows;
  Batch batch;
  float logprob[MAX_TOKENS];
} Fixture;

/* Widths that are no multiples of a block of 32. */
static DecoderConfig config_of(bool llama) {
  DecoderConfig config = tiny_form(llama ? LLAMA : GPT2, VOCAB);
  config.hidden = 40;
  config.heads = 5;
  config.kv_heads = llama ? 1 : 5;
  config.mlp = 72;
  return config;
}

/* The same with an adapter over a base of this type. */
static DecoderConfig adapted_config(const Fixture *f, WeightType base) {
  DecoderConfig config = f->config;
  config.lora = (LoraConfig){.rank = 3, .alpha = 5, .target = {[LORA_Q] = true, [LORA_DOWN] = true}};
  config.base = base;
  return config;
}

static const char *path_of(Fixture *f, const char *name) { return path_join(&f->arena, f->folder, name); }

static const char *model_file(Fixture *f, const char *name) {
  return path_join(&f->arena, path_of(f, name), "model.safetensors");
}

/* Writes a model folder with what change makes of the base's tensors. */
static void write_changed(Fixture *f, const char *name, void (*change)(Arena *, HostTensor *, int),
                          int argument) {
  Checkpoint base;
  assert_int_equal(checkpoint_open(&f->arena, model_file(f, "base"), &base), OK);
  for (int i = 0; i < base.count; i++)
    if (base.tensors[i].rank == 2) change(&f->arena, &base.tensors[i], argument);
  cJSON *meta = model_meta(&f->config);
  assert_int_equal(make_folders(path_of(f, name)), OK);
  assert_int_equal(checkpoint_write(model_file(f, name), base.tensors, base.count, meta, false), OK);
  cJSON_Delete(meta);
  checkpoint_close(&base);
}

/* Every row through the element type and back. */
static void round_values(Arena *arena, HostTensor *tensor, int element) {
  const Element *e = &elements[element];
  size_t columns = (size_t)tensor->shape[1],
         blocks = (columns + (size_t)e->elements - 1) / (size_t)e->elements;
  float *values = NEW(arena, float, (size_t)tensor->shape[0] * columns);
  float *row = NEW(arena, float, blocks *(size_t)e->elements);
  unsigned char *bytes = NEW(arena, unsigned char, blocks *(size_t)e->bytes);
  for (size_t r = 0; r < (size_t)tensor->shape[0]; r++) {
    memset(row, 0, blocks * (size_t)e->elements * sizeof *row);
    memcpy(row, (const float *)tensor->data + r * columns, columns * sizeof *row);
    e->write(bytes, row, blocks);
    e->read(bytes, row, blocks);
    memcpy(values + r * columns, row, columns * sizeof *row);
  }
  tensor->data = values;
}

static void store_bf16(Arena *arena, HostTensor *tensor, int unused) {
  (void)unused;
  size_t count = (size_t)tensor->shape[0] * (size_t)tensor->shape[1];
  unsigned char *bytes = NEW(arena, unsigned char, 2 * count);
  elements[ELEMENT_BF16].write(bytes, tensor->data, count);
  tensor->type = BF16;
  tensor->data = bytes;
}

static void spoil(Arena *arena, HostTensor *tensor, int infinite) {
  if (!strstr(tensor->name, "layers.1.mlp.down")) return;
  size_t count = (size_t)tensor->shape[0] * (size_t)tensor->shape[1];
  float *values = NEW(arena, float, count);
  memcpy(values, tensor->data, count * sizeof *values);
  values[count - 1] = infinite ? NAN : 1e7f;
  tensor->data = values;
}

static void open_fixture(Fixture *f, bool llama) {
  *f = (Fixture){.config = config_of(llama)};
  char template[] = "/tmp/popalm-base-XXXXXX";
  f->folder = arena_strdup(&f->arena, mkdtemp(template));
  Model base;
  assert_int_equal(cpu_backend_open(0, &f->backend), OK);
  assert_int_equal(model_create(&f->arena, &base, f->backend, &f->config, NULL, (ModelParts){0}, false, 7),
                   OK);
  assert_int_equal(make_folders(path_of(f, "base")), OK);
  assert_int_equal(make_folders(path_of(f, "adapter")), OK);
  assert_int_equal(model_save(&base, path_of(f, "base")), OK);
  DecoderConfig adapted = adapted_config(f, WEIGHT_NATIVE);
  assert_int_equal(
      activations_allocate(&f->activations, &f->arena, &adapted, f->backend, MAX_TOKENS, ACTIVATIONS_KEPT),
      OK);
  assert_int_equal(model_rows_allocate(&f->rows, &base, MAX_TOKENS, true), OK);
  assert_int_equal(batch_allocate(&f->arena, &f->batch, f->backend, MAX_TOKENS, 8), OK);
  model_free(&base);
  for (int s = 0; s < 4; s++) {
    int32_t tokens[32];
    for (int t = 0; t < 3 + 4 * s; t++) tokens[t] = (7 * t + 5 * s + 3) % VOCAB;
    batch_add(&f->batch, tokens, 3 + 4 * s, 1);
  }
  batch_upload(&f->batch);
}

static void close_fixture(Fixture *f) {
  char command[256];
  snprintf(command, sizeof command, "rm -r '%s'", f->folder);
  assert_int_equal(system(command), 0);
  model_rows_free(&f->rows, f->backend);
  activations_free(&f->activations, f->backend);
  batch_free(&f->batch);
  f->backend->close(f->backend);
  arena_free(&f->arena);
}

static Status create(Fixture *f, Model *model, const char *base, WeightType type, const Model *lender) {
  DecoderConfig config = adapted_config(f, type);
  return model_create(&f->arena, model, f->backend, &config, path_of(f, base),
                      (ModelParts){.frozen_from = lender}, true, 9);
}

/* An adapter whose B is not zero. */
static void adapt(Fixture *f, Model *model, const char *base, WeightType type) {
  assert_int_equal(create(f, model, base, type, NULL), OK);
  Parameters *p = &model->parameters;
  for (int i = 0; i < p->count; i++) {
    float *b = parameters_weight(p, i);
    if (p->list[i].frozen || p->list[i].name[strlen(p->list[i].name) - 1] != 'b') continue;
    for (size_t j = 0; j < p->list[i].count; j++)
      b[j] = (float)(0.3 * random_normal((RandomKey){3, RANDOM_TEST, (uint32_t)i}, (uint32_t)j, 0));
  }
}

/* logprobs of the batch and the gradients of their sum */
static void pass(Fixture *f, const Model *model) {
  const Parameters *p = &model->parameters;
  int vocab_weight = model->decoder.vocab_weight;
  DecoderInput input = batch_input(&f->batch);
  float ones[MAX_TOKENS];
  for (int i = 0; i < MAX_TOKENS; i++) ones[i] = 1;
  decoder_forward(&model->decoder, &f->activations, &input);
  model_rows_forward(model, &f->activations, &f->rows, f->batch.device.rows, f->batch.rows);
  f->backend->zero(f->backend, p->grads, p->total * sizeof(float));
  f->backend->vocab_backward(f->backend,
                             &(VocabBackward){.hidden = f->rows.normed,
                                              .weight = parameters_weight(p, vocab_weight),
                                              .weight_type = parameters_weight_type(p, vocab_weight),
                                              .targets = f->batch.device.targets,
                                              .dlogprob = ones,
                                              .logprob = f->logprob,
                                              .dhidden = f->rows.dnormed,
                                              .rows = f->batch.rows,
                                              .hidden_size = model->decoder.config.hidden,
                                              .vocab = VOCAB});
  model_rows_backward(model, &f->activations, &f->rows, f->batch.device.rows, f->batch.rows, &input);
}

/* Two models give the same logprobs and gradients. */
static void expect_same(Fixture *f, const Model *a, const Model *b) {
  float logprob[MAX_TOKENS];
  size_t bytes = a->parameters.total * sizeof(float), count = (size_t)f->batch.rows * sizeof *logprob;
  pass(f, a);
  memcpy(logprob, f->logprob, count);
  pass(f, b);
  assert_int_equal(a->parameters.total, b->parameters.total);
  assert_memory_equal(f->logprob, logprob, count);
  assert_memory_equal(a->parameters.grads, b->parameters.grads, bytes);
  double sum = 0;
  for (size_t i = 0; i < a->parameters.total; i++) sum += fabs((double)((float *)a->parameters.grads)[i]);
  assert_true(sum > 0.1 && isfinite(sum));
}

static void a_reduced_base_is_one_of_rounded_weights(void **state) {
  (void)state;
  for (int i = 0; i < 4; i++) {
    Fixture f;
    Model model, rounded, plain;
    WeightType type = reduced[i % 2];
    open_fixture(&f, i / 2);
    write_changed(&f, "rounded", round_values, type == WEIGHT_BF16 ? ELEMENT_BF16 : ELEMENT_Q8_0);
    adapt(&f, &model, "base", type);
    adapt(&f, &rounded, "rounded", WEIGHT_NATIVE);
    expect_same(&f, &model, &rounded);
    adapt(&f, &plain, "base", WEIGHT_NATIVE);
    float logprob[MAX_TOKENS];
    memcpy(logprob, f.logprob, sizeof logprob);
    pass(&f, &plain);
    assert_memory_not_equal(f.logprob, logprob, (size_t)f.batch.rows * sizeof *logprob);
    model_free(&plain), model_free(&rounded), model_free(&model);
    close_fixture(&f);
  }
}

static void a_base_stored_in_bf16_gives_the_same_bits(void **state) {
  (void)state;
  for (int i = 0; i < 4; i++) {
    Fixture f;
    Model model, rounded, widened;
    open_fixture(&f, i / 2);
    write_changed(&f, "stored", store_bf16, 0);
    write_changed(&f, "rounded", round_values, ELEMENT_BF16);
    adapt(&f, &model, "stored", reduced[i % 2]);
    adapt(&f, &rounded, "rounded", reduced[i % 2]);
    expect_same(&f, &model, &rounded);
    adapt(&f, &widened, "stored", WEIGHT_NATIVE);
    if (reduced[i % 2] == WEIGHT_BF16) expect_same(&f, &model, &widened);
    model_free(&widened), model_free(&rounded), model_free(&model);
    close_fixture(&f);
  }
}

/* What quantised weights of a GGUF file say becomes the blocks that they were. */
static void int8_of_q8_0_values_is_their_blocks(void **state) {
  (void)state;
  enum { BLOCKS = 50 };
  float values[BLOCKS * INT8_BLOCK];
  unsigned char first[BLOCKS * INT8_BLOCK_BYTES], again[BLOCKS * INT8_BLOCK_BYTES];
  for (int i = 0; i < BLOCKS * INT8_BLOCK; i++)
    values[i] =
        (float)random_normal((RandomKey){5, RANDOM_TEST, 0}, (uint32_t)i, 0) * ldexpf(1, i / 32 % 20 - 9);
  elements[ELEMENT_Q8_0].write(first, values, BLOCKS);
  elements[ELEMENT_Q8_0].read(first, values, BLOCKS);
  elements[ELEMENT_Q8_0].write(again, values, BLOCKS);
  assert_memory_equal(first, again, sizeof first);
}

/* Matrices of several pieces: made at once or as a file is read, every row is what its values alone give. */
static void large_matrices_are_made_row_by_row(void **state) {
  (void)state;
  enum { ROWS = 27001, COLUMNS = 40, WIDE = 1001, HIGH = 1100 };
  for (int k = 0; k < 2; k++) {
    Fixture f;
    Model base, model;
    open_fixture(&f, true);
    f.config.vocab = ROWS;
    assert_int_equal(model_create(&f.arena, &base, f.backend, &f.config, NULL, (ModelParts){0}, false, 7),
                     OK);
    assert_int_equal(model_save(&base, path_of(&f, "base")), OK);
    adapt(&f, &model, "base", reduced[k]);
    const float *values = parameters_weight(&base.parameters, base.decoder.token_table);
    const char *made = parameters_weight(&model.parameters, model.decoder.token_table);
    size_t bytes = weight_row_bytes(reduced[k], F32, COLUMNS);
    char *row = NEW(&f.arena, char, weight_row_bytes(reduced[k], F32, WIDE));
    for (int r = 0; r < ROWS; r += r < ROWS - 1000 ? 97 : 1) {
      assert_true(reduce_matrix(f.backend, row, reduced[k], values + r * COLUMNS, F32, 1, COLUMNS));
      assert_memory_equal(row, made + (size_t)r * bytes, bytes);
    }
    /* wider than what is read of a row at once */
    bytes = weight_row_bytes(reduced[k], F32, WIDE);
    char *all = NEW(&f.arena, char, HIGH *bytes);
    float *wide = NEW(&f.arena, float, HIGH *WIDE), *back = NEW(&f.arena, float, WIDE + INT8_BLOCK);
    for (int i = 0; i < HIGH * WIDE; i++) wide[i] = sinf((float)i) * (float)(1 + i % 7);
    assert_true(reduce_matrix(f.backend, all, reduced[k], wide, F32, HIGH, WIDE));
    const Element *e = &elements[reduced[k] == WEIGHT_BF16 ? ELEMENT_BF16 : ELEMENT_Q8_0];
    for (int r = 0; r < HIGH; r++) {
      e->read((const unsigned char *)all + (size_t)r * bytes, back, bytes / (size_t)e->bytes);
      for (int c = 0; c < WIDE; c++) assert_true(fabsf(back[c] - wide[r * WIDE + c]) < 0.03f);
    }
    model_free(&model), model_free(&base);
    close_fixture(&f);
  }
}

static void memory_is_what_was_promised(void **state) {
  (void)state;
  Fixture f;
  Model model, second;
  open_fixture(&f, true);
  size_t bytes[3];
  for (int t = 0; t < 3; t++) {
    size_t before, after, shared, total;
    f.backend->memory(f.backend, &before, &total);
    assert_int_equal(create(&f, &model, "base", (WeightType)t, NULL), OK);
    f.backend->memory(f.backend, &after, &total);
    bytes[t] = parameters_frozen_bytes(&model.parameters, F32);
    size_t all = parameters_bytes(&model.parameters, F32, true);
    assert_true(after - before >= all && after - before <= all + 64); /* the gradient norm stands apart */
    assert_int_equal(create(&f, &second, "base", (WeightType)t, &model), OK);
    f.backend->memory(f.backend, &shared, &total);
    assert_true(shared - after <= all - bytes[t] + 64);
    model_free(&second), model_free(&model);
  }
  assert_true(bytes[1] < bytes[0] * 0.6 && bytes[2] < bytes[1] * 0.95);
  close_fixture(&f);
}

static void files_name_the_type_of_the_base(void **state) {
  (void)state;
  for (int i = 0; i < 2; i++) {
    Fixture f;
    Model model, loaded;
    open_fixture(&f, i);
    adapt(&f, &model, "base", reduced[i]);
    assert_int_equal(model_save(&model, path_of(&f, "adapter")), OK);
    assert_int_equal(
        model_load(&f.arena, &loaded, f.backend, path_of(&f, "adapter"), (ModelParts){0}, true, 1), OK);
    assert_int_equal(loaded.decoder.config.base, reduced[i]);
    expect_same(&f, &model, &loaded);
    model_free(&loaded), model_free(&model);
    close_fixture(&f);
  }
}

/* The same adapter over any base is merged into the base's own values, stored as fp32 or bf16. */
static void an_export_merges_into_the_base_itself(void **state) {
  (void)state;
  for (int i = 0; i < 4; i++) {
    Fixture f;
    Model model;
    OwnModel exported[2];
    open_fixture(&f, true);
    write_changed(&f, "stored", store_bf16, 0);
    const char *base = i / 2 ? "stored" : "base";
    for (int k = 0; k < 2; k++) {
      adapt(&f, &model, base, k ? reduced[i % 2] : WEIGHT_NATIVE);
      assert_int_equal(model_save(&model, path_of(&f, "adapter")), OK);
      assert_int_equal(export_open(&f.arena, path_of(&f, "adapter"), &exported[k]), OK);
      assert_int_equal(exported[k].config.base, WEIGHT_NATIVE);
      model_free(&model);
    }
    Checkpoint own;
    assert_int_equal(checkpoint_open(&f.arena, model_file(&f, base), &own), OK);
    for (int t = 0; t < own.count; t++) {
      const char *name = own.tensors[t].name;
      const HostTensor *a = checkpoint_tensor(&exported[0].checkpoint, name),
                       *b = checkpoint_tensor(&exported[1].checkpoint, name);
      size_t count = (size_t)a->shape[0] * (size_t)(a->rank == 2 ? a->shape[1] : 1);
      bool adapted = strstr(name, "mlp.down.weight") || strstr(name, "qkv.weight");
      assert_int_equal(a->type, adapted ? F32 : own.tensors[t].type);
      assert_memory_equal(a->data, b->data, count * dtype_bytes(a->type));
      if (!adapted) continue;
      const uint16_t *half = own.tensors[t].data;
      double far = 0;
      for (size_t j = 0; j < count; j++) {
        uint32_t bits = i / 2 ? (uint32_t)half[j] << 16 : 0;
        float before;
        memcpy(&before, i / 2 ? (const void *)&bits : (const float *)own.tensors[t].data + j, sizeof before);
        far = fmax(far, fabs((double)((const float *)a->data)[j] - (double)before));
      }
      assert_true(far > 1e-3 && far < 10);
    }
    checkpoint_close(&own);
    export_close(&exported[0]), export_close(&exported[1]);
    close_fixture(&f);
  }
}

static void values_that_int8_cannot_hold_are_refused(void **state) {
  (void)state;
  for (int i = 0; i < 2; i++) {
    Fixture f;
    Model model;
    open_fixture(&f, true);
    write_changed(&f, "spoiled", spoil, i);
    assert_int_equal(create(&f, &model, "spoiled", WEIGHT_INT8, NULL), INVALID);
    assert_non_null(
        strstr(error_message(), "spoiled/model.safetensors: tensor \"layers.1.mlp.down.weight\""));
    model_free(&model);
    assert_int_equal(create(&f, &model, "spoiled", WEIGHT_BF16, NULL), OK);
    model_free(&model);
    close_fixture(&f);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_reduced_base_is_one_of_rounded_weights),
      cmocka_unit_test(a_base_stored_in_bf16_gives_the_same_bits),
      cmocka_unit_test(int8_of_q8_0_values_is_their_blocks),
      cmocka_unit_test(large_matrices_are_made_row_by_row),
      cmocka_unit_test(memory_is_what_was_promised),
      cmocka_unit_test(files_name_the_type_of_the_base),
      cmocka_unit_test(an_export_merges_into_the_base_itself),
      cmocka_unit_test(values_that_int8_cannot_hold_are_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

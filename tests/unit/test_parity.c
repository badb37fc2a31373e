/* Tiny random models of every family, as transformers saved them: our logits, loss and gradients are its own.
 * The fixtures and the versions they were made with: tests/fixtures/make_models.py, models/versions.json. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "batch.h"
#include "models/import.h"
#include "models/model.h"
#include "testing.h"

#define FIXTURES "tests/fixtures/models/"
enum { MAX_TOKENS = 32 };

/* A fixture imported, loaded and run over its input. */
typedef struct Parity {
  Arena arena;
  Backend *backend;
  SafeFile expected;
  const Family *family;
  Model model;
  Activations activations;
  ModelRows rows;
  Batch batch;
  int tokens, vocab;
} Parity;

static const float *expected_floats(const Parity *p, const char *name) {
  const SafeTensor *tensor = safetensors_find(&p->expected, name);
  if (!tensor) fail_msg("the fixture has no tensor %s", name);
  assert_int_equal(tensor->type, SAFE_F32);
  float *copy =
      NEW((Arena *)(uintptr_t)&p->arena, float, tensor->bytes / sizeof(float)); /* it may be unaligned */
  memcpy(copy, tensor->data, tensor->bytes);
  return copy;
}

static const int32_t *expected_ints(Parity *p, const char *name, int *count) {
  const SafeTensor *tensor = safetensors_find(&p->expected, name);
  assert_non_null(tensor);
  *count = (int)tensor->shape[0];
  int32_t *copy = NEW(&p->arena, int32_t, *count);
  memcpy(copy, tensor->data, tensor->bytes);
  return copy;
}

static void import_fixture(Parity *p, const char *source, bool gguf) {
  char folder[] = "/tmp/popalm-parity-XXXXXX";
  assert_non_null(mkdtemp(folder));
  ForeignModel foreign;
  const char *path = arena_print(&p->arena, FIXTURES "%s", source);
  Status status =
      gguf ? import_open_gguf(&p->arena, path, 0, &foreign) : import_open_hf(&p->arena, path, 0, &foreign);
  if (status == OK) status = import_write(&p->arena, &foreign, folder);
  if (status != OK) fail_msg("%s", error_message());
  p->family = foreign.family;
  import_close(&foreign);
  status = model_load(&p->arena, &p->model, p->backend, folder, (ModelParts){0}, true, 1);
  if (status != OK) fail_msg("%s", error_message());
  remove(path_join(&p->arena, folder, "model.safetensors"));
  remove(folder);
}

/* Every token is input and every next token a target, sequence by sequence. */
static void fill_batch(Parity *p) {
  int sequences;
  const int32_t *tokens = expected_ints(p, "tokens", &p->tokens);
  const int32_t *lengths = expected_ints(p, "lengths", &sequences);
  batch_clear(&p->batch);
  for (int s = 0, at = 0; s < sequences; at += lengths[s++]) batch_add(&p->batch, tokens + at, lengths[s], 1);
  batch_upload(&p->batch);
}

static void open_parity(Parity *p, const char *source, const char *fixture, bool gguf) {
  *p = (Parity){0};
  assert_int_equal(cpu_backend_open(0, &p->backend), OK);
  Status status = safetensors_open(
      &p->arena, arena_print(&p->arena, FIXTURES "%s/expected.safetensors", fixture), &p->expected);
  if (status != OK) fail_msg("%s", error_message());
  import_fixture(p, source, gguf);
  const DecoderConfig *config = &p->model.decoder.config;
  p->vocab = config->vocab;
  assert_int_equal(
      activations_allocate(&p->activations, &p->arena, config, p->backend, MAX_TOKENS, ACTIVATIONS_KEPT), OK);
  assert_int_equal(model_rows_allocate(&p->rows, &p->model, MAX_TOKENS, true), OK);
  assert_int_equal(batch_allocate(&p->arena, &p->batch, p->backend, MAX_TOKENS, MAX_TOKENS), OK);
  fill_batch(p);
  DecoderInput input = batch_input(&p->batch);
  decoder_forward(&p->model.decoder, &p->activations, &input);
}

static void close_parity(Parity *p) {
  model_rows_free(&p->rows, p->backend);
  activations_free(&p->activations, p->backend);
  batch_free(&p->batch);
  model_free(&p->model);
  safetensors_close(&p->expected);
  p->backend->close(p->backend);
  arena_free(&p->arena);
}

static const void *vocab_weight(const Parity *p) {
  return parameters_weight(&p->model.parameters, p->model.decoder.vocab_weight);
}

static void compare_logits(Parity *p, const char *source) {
  int32_t index[MAX_TOKENS];
  for (int i = 0; i < p->tokens; i++) index[i] = i;
  model_rows_forward(&p->model, &p->activations, &p->rows, index, p->tokens);
  float *logits = NEW(&p->arena, float, p->tokens * p->vocab);
  p->backend->vocab_logits(p->backend, &(VocabLogits){.hidden = p->rows.normed,
                                                      .weight = vocab_weight(p),
                                                      .logits = logits,
                                                      .rows = p->tokens,
                                                      .hidden_size = p->model.decoder.config.hidden,
                                                      .vocab = p->vocab});
  const float *expected = expected_floats(p, "logits");
  double largest = 0, spread = 0;
  bool close = true; /* false for NaN too */
  for (int i = 0; i < p->tokens * p->vocab; i++) {
    double difference = fabs((double)logits[i] - (double)expected[i]);
    close = close && difference < 1e-4;
    largest = fmax(largest, difference);
    spread = fmax(spread, fabs((double)expected[i]));
  }
  print_message("%s: logits up to %.1f differ by %.1e at most\n", source, spread, largest);
  assert_true(spread > 0.5);
  assert_true(close);
}

static double backward(Parity *p) {
  int rows = p->batch.rows;
  float dlogprob[MAX_TOKENS], logprob[MAX_TOKENS];
  for (int i = 0; i < rows; i++) dlogprob[i] = -1.0f / (float)rows;
  model_rows_forward(&p->model, &p->activations, &p->rows, p->batch.device.rows, rows);
  int weight = p->model.decoder.vocab_weight;
  p->backend->vocab_backward(p->backend,
                             &(VocabBackward){.hidden = p->rows.normed,
                                              .weight = vocab_weight(p),
                                              .targets = p->batch.device.targets,
                                              .dlogprob = dlogprob,
                                              .logprob = logprob,
                                              .dhidden = p->rows.dnormed,
                                              .dweight = parameters_grad(&p->model.parameters, weight),
                                              .rows = rows,
                                              .hidden_size = p->model.decoder.config.hidden,
                                              .vocab = p->vocab});
  DecoderInput input = batch_input(&p->batch);
  model_rows_backward(&p->model, &p->activations, &p->rows, p->batch.device.rows, rows, &input);
  double loss = 0;
  for (int i = 0; i < rows; i++) loss -= (double)logprob[i] / rows;
  return loss;
}

static const float *gradient_of(const Parity *p, const Slice *slice) {
  const Parameters *parameters = &p->model.parameters;
  for (int i = 0; i < parameters->count; i++)
    if (strcmp(parameters->list[i].name, slice->parameter) == 0)
      return (const float *)parameters_grad(parameters, i) + slice->first * (slice->cols ? slice->cols : 1);
  fail_msg("no parameter %s", slice->parameter);
  return NULL;
}

/* The norm of every tensor's gradient within 1e-4 of itself, and each value of the small ones within 1e-4 of
 * the tensor's norm (1e-5 for tensors whose gradient vanishes, such as a key bias). */
static void compare_gradients(Parity *p, const char *source) {
  Slice *slices;
  int count, whole = 0;
  family_slices(&p->arena, p->family, &p->model.decoder.config, OUTSIDE_HF, &slices, &count);
  for (int s = 0; s < count; s++) {
    const Slice *slice = &slices[s];
    const float *got = gradient_of(p, slice);
    double square = 0, expected = (double)*expected_floats(p, arena_print(&p->arena, "norm.%s", slice->name));
    int64_t cols = slice->cols ? slice->cols : 1;
    for (int64_t i = 0; i < slice->rows * cols; i++) square += (double)got[i] * (double)got[i];
    double tolerance = 1e-4 * expected + 1e-5; /* comparisons below fail for NaN too */
    if (!(fabs(sqrt(square) - expected) <= tolerance))
      fail_msg("%s: gradient of %s has norm %.7g, not %.7g", source, slice->name, sqrt(square), expected);
    const char *name = arena_print(&p->arena, "grad.%s", slice->name);
    if (!safetensors_find(&p->expected, name)) continue;
    const float *wanted = expected_floats(p, name);
    for (int64_t r = 0; r < slice->rows; r++)
      for (int64_t c = 0; c < cols; c++) {
        double value = (double)wanted[slice->transposed ? c * slice->rows + r : r * cols + c];
        if (!(fabs((double)got[r * cols + c] - value) <= tolerance))
          fail_msg("%s: gradient of %s at %d, %d is %.7g, not %.7g", source, slice->name, (int)r, (int)c,
                   (double)got[r * cols + c], value);
      }
    whole++;
  }
  print_message("%s: gradients of %d tensors, %d of them value by value\n", source, count, whole);
  assert_true(count >= 12 && whole >= 4);
}

static void equals_transformers(const char *name) {
  Parity p;
  open_parity(&p, name, name, false);
  compare_logits(&p, name);
  double loss = backward(&p), expected = (double)*expected_floats(&p, "loss");
  if (!(fabs(loss - expected) <= 1e-5)) fail_msg("%s: the loss is %.8g, not %.8g", name, loss, expected);
  compare_gradients(&p, name);
  close_parity(&p);
}

#define EQUALS(name, fixture)      \
  static void name(void **state) { \
    (void)state;                   \
    equals_transformers(fixture);  \
  }
EQUALS(gpt2_equals_transformers, "gpt2")
EQUALS(smollm2_equals_transformers, "smollm2")
EQUALS(llama_with_biases_equals_transformers, "llama-bias")
EQUALS(llama3_with_scaled_rope_equals_transformers, "llama3")
EQUALS(mistral_in_three_files_equals_transformers, "mistral")
EQUALS(qwen2_in_bf16_equals_transformers, "qwen2")
EQUALS(qwen3_equals_transformers, "qwen3")

/* Made by the gguf package from the weights of smollm2; one matrix a layer is fp16 there. */
static void gguf_turns_query_and_key_rows_back(void **state) {
  (void)state;
  Parity hf, gguf;
  open_parity(&hf, "smollm2", "smollm2", false);
  open_parity(&gguf, "smollm2.gguf", "smollm2", true);
  assert_int_equal(hf.model.parameters.total, gguf.model.parameters.total);
  for (int i = 0; i < hf.model.parameters.count; i++) {
    const Parameter *parameter = &hf.model.parameters.list[i];
    bool half = strstr(parameter->name, "mlp.up") != NULL;
    const float *a = hf.model.parameters.master + parameter->offset;
    const float *b = gguf.model.parameters.master + parameter->offset;
    for (size_t j = 0; j < parameter->count; j++)
      if (half ? fabsf(a[j] - b[j]) > 1e-3f * fabsf(a[j]) + 1e-7f : a[j] != b[j])
        fail_msg("%s[%zu] is %g, not %g", parameter->name, j, (double)b[j], (double)a[j]);
  }
  close_parity(&hf);
  close_parity(&gguf);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(gpt2_equals_transformers),
      cmocka_unit_test(smollm2_equals_transformers),
      cmocka_unit_test(llama_with_biases_equals_transformers),
      cmocka_unit_test(llama3_with_scaled_rope_equals_transformers),
      cmocka_unit_test(mistral_in_three_files_equals_transformers),
      cmocka_unit_test(qwen2_in_bf16_equals_transformers),
      cmocka_unit_test(qwen3_equals_transformers),
      cmocka_unit_test(gguf_turns_query_and_key_rows_back),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Tiny random models of every family, as transformers saved them: our logits, loss and gradients are its own.
 * The fixtures and the versions they were made with: tests/fixtures/make_models.py, models/versions.json. */
#include "parity.h"

#define FIXTURES "tests/fixtures/models/"

static void open_parity(Parity *p, const char *source, const char *fixture, bool gguf) {
  char folder[] = "/tmp/popalm-parity-XXXXXX";
  assert_non_null(mkdtemp(folder));
  char expected[128];
  snprintf(expected, sizeof expected, FIXTURES "%s", fixture);
  open_expected(p, expected);
  import_into(p, arena_print(&p->arena, FIXTURES "%s", source), gguf, folder);
  Status status = model_load(&p->arena, &p->model, p->backend, folder, (ModelParts){0}, true, 1);
  if (status != OK) fail_msg("%s", error_message());
  remove(path_join(&p->arena, folder, "model.safetensors"));
  remove(folder);
  run_parity(p);
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
  compare_loss(&p, name);
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

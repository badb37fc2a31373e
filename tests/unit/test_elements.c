/* Blocks of GGUF's types against the values that the gguf package reads from them
 * (tests/fixtures/make_models.py), and 16-bit floats against their definition. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/bf16.h"
#include "base/fp16.h"
#include "gguf.h"
#include "safetensors.h"
#include "testing.h"

static void open_fixtures(Arena *arena, GgufFile *blocks, SafeFile *values) {
  Status status = gguf_open(arena, "tests/fixtures/models/blocks.gguf", blocks);
  if (status == OK) status = safetensors_open(arena, "tests/fixtures/models/blocks.safetensors", values);
  if (status != OK) fail_msg("%s", error_message());
}

static float value_at(const SafeTensor *tensor, size_t i) {
  float value;
  memcpy(&value, (const char *)tensor->data + i * sizeof value, sizeof value);
  return value;
}

static void every_type_reads_as_the_gguf_package_does(void **state) {
  (void)state;
  Arena arena = {0};
  GgufFile blocks;
  SafeFile values;
  open_fixtures(&arena, &blocks, &values);
  int seen = 0;
  for (int t = 0; t < ELEMENT_COUNT; t++) {
    const GgufTensor *tensor = gguf_tensor(&blocks, elements[t].name);
    if (!tensor) continue;
    const SafeTensor *expected = safetensors_find(&values, elements[t].name);
    assert_non_null(expected);
    assert_int_equal(tensor->type, t);
    size_t count = (size_t)(tensor->shape[0] * tensor->shape[1]);
    assert_int_equal(count * sizeof(float), expected->bytes);
    float *got = NEW(&arena, float, count);
    elements[t].read(tensor->data, got, count / (size_t)elements[t].elements);
    for (size_t i = 0; i < count; i++)
      if (got[i] != value_at(expected, i))
        fail_msg("%s: value %zu is %.9g, not %.9g", elements[t].name, i, (double)got[i],
                 (double)value_at(expected, i));
    seen++;
  }
  assert_int_equal(seen, ELEMENT_COUNT - 1); /* all but F32 */
  gguf_close(&blocks);
  safetensors_close(&values);
  arena_free(&arena);
}

static void q8_0_is_written_as_the_gguf_package_does(void **state) {
  (void)state;
  Arena arena = {0};
  GgufFile blocks;
  SafeFile values;
  open_fixtures(&arena, &blocks, &values);
  const GgufTensor *expected = gguf_tensor(&blocks, "written");
  const SafeTensor *source = safetensors_find(&values, "written");
  assert_non_null(expected);
  assert_non_null(source);
  size_t count = source->bytes / sizeof(float);
  float *floats = NEW(&arena, float, count);
  memcpy(floats, source->data, source->bytes);
  unsigned char *bytes = NEW(&arena, unsigned char, expected->bytes);
  elements[ELEMENT_Q8_0].write(bytes, floats, count / 32);
  assert_memory_equal(bytes, expected->data, expected->bytes);
  gguf_close(&blocks);
  safetensors_close(&values);
  arena_free(&arena);
}

/* The value of 16 bits by the formula of IEEE 754. */
static double half_value(uint16_t half) {
  int exponent = half >> 10 & 31, fraction = half & 1023;
  double magnitude = exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
  return half & 0x8000 ? -magnitude : magnitude;
}

static void half_floats_round_to_the_nearest_and_ties_to_even(void **state) {
  (void)state;
  for (uint32_t h = 0; h < 0x7c00; h++) {
    float value = half_to_float((uint16_t)h);
    assert_true((double)value == half_value((uint16_t)h));
    assert_true((double)half_to_float((uint16_t)(h | 0x8000)) == -half_value((uint16_t)h));
    assert_int_equal(float_to_half(value), h);
    float next = h == 0x7bff ? 65536 : half_to_float((uint16_t)(h + 1)), middle = 0.5f * (value + next);
    assert_int_equal(float_to_half(middle), h % 2 ? h + 1 : h);
    assert_int_equal(float_to_half(nextafterf(middle, 0)), h);
    assert_int_equal(float_to_half(nextafterf(middle, 1e9f)), h + 1);
    assert_int_equal(float_to_half(-nextafterf(middle, 1e9f)), (h + 1) | 0x8000);
  }
  assert_true(isinf(half_to_float(0x7c00)) && isnan(half_to_float(0x7e01)));
  assert_int_equal(float_to_half(INFINITY), 0x7c00);
  assert_true(isnan(half_to_float(float_to_half(NAN))));
}

static void bf16_rounds_to_the_nearest_and_ties_to_even(void **state) {
  (void)state;
  for (uint32_t b = 0; b < 0x7f80; b++) {
    float value = bf16_to_float((uint16_t)b);
    assert_int_equal(float_to_bf16(value), b);
    if (b == 0x7f7f) continue; /* the next is infinity */
    uint32_t bits = b << 16 | 0x8000u;
    float middle;
    memcpy(&middle, &bits, sizeof middle);
    assert_int_equal(float_to_bf16(middle), b % 2 ? b + 1 : b);
    assert_int_equal(float_to_bf16(nextafterf(middle, 0)), b);
    assert_int_equal(float_to_bf16(nextafterf(middle, INFINITY)), b + 1);
  }
  assert_true(isnan(bf16_to_float(float_to_bf16(NAN))));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_type_reads_as_the_gguf_package_does),
      cmocka_unit_test(q8_0_is_written_as_the_gguf_package_does),
      cmocka_unit_test(half_floats_round_to_the_nearest_and_ties_to_even),
      cmocka_unit_test(bf16_rounds_to_the_nearest_and_ties_to_even),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

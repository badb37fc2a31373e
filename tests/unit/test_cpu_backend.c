/* Memory, copies and conversions of the CPU backend. */
#include <time.h>

#include "gradcheck.h"

static void memory_is_counted_and_given_back(void **state) {
  (void)state;
  Check check;
  check_begin(&check, "memory");
  Backend *backend = check.backend;
  size_t before, used, total;
  backend->memory(backend, &before, &total);
  assert_true(total > 0);
  void *a, *b;
  assert_int_equal(backend->alloc(backend, 1000, "a", &a), OK);
  assert_int_equal(backend->alloc(backend, 0, "nothing", &b), OK);
  assert_true((uintptr_t)a % 64 == 0 && (uintptr_t)b % 64 == 0);
  backend->memory(backend, &used, &total);
  assert_int_equal(used, before + 1000);
  backend->free(backend, a);
  backend->free(backend, b);
  backend->free(backend, NULL);
  backend->memory(backend, &used, &total);
  assert_int_equal(used, before);
  check_end(&check);
}

static void a_lack_of_memory_names_the_use_and_the_sizes(void **state) {
  (void)state;
  Check check;
  check_begin(&check, "no memory");
  size_t used, total;
  check.backend->memory(check.backend, &used, &total);
  void *a = NULL;
  const size_t sizes[] = {total + 1, SIZE_MAX, SIZE_MAX - 63};
  for (int i = 0; i < 3; i++) {
    assert_int_equal(check.backend->alloc(check.backend, sizes[i], "the activations", &a), FAILED);
    assert_non_null(strstr(error_message(), "the activations"));
    assert_non_null(strstr(error_message(), "MiB"));
  }
  check.backend->memory(check.backend, &total, &used);
  assert_int_equal(total, 0);
  check_end(&check);
}

static void uploads_come_back_by_download(void **state) {
  (void)state;
  Check check;
  check_begin(&check, "copies");
  Backend *backend = check.backend;
  const int32_t host[] = {1, 2, 3, 4, 5};
  int32_t back[5];
  void *device, *other;
  assert_int_equal(backend->alloc(backend, sizeof host, "numbers", &device), OK);
  assert_int_equal(backend->alloc(backend, sizeof host, "numbers", &other), OK);
  backend->zero(backend, other, sizeof host);
  backend->upload(backend, device, host, sizeof host);
  backend->copy(backend, other, device, 3 * sizeof *host);
  assert_int_equal(backend->download(backend, back, other, sizeof back), OK);
  const int32_t want[] = {1, 2, 3, 0, 0};
  assert_memory_equal(back, want, sizeof want);
  assert_int_equal(backend->synchronize(backend), OK);
  backend->free(backend, device);
  backend->free(backend, other);
  assert_false(backend->records);
  check_end(&check);
}

/* Copies of any size, and those whose source and target overlap. */
static void large_copies_are_whole(void **state) {
  (void)state;
  Check check;
  check_begin(&check, "large copies");
  static const size_t sizes[] = {(1 << 20) - 1, 1 << 20, (3 << 20) + 5};
  enum { SHIFT = 12345 };
  for (int i = 0; i < 3; i++) {
    size_t bytes = sizes[i];
    unsigned char *from = NEW(&check.arena, unsigned char, bytes + SHIFT),
                  *to = NEW(&check.arena, unsigned char, bytes + 1);
    for (size_t j = 0; j < bytes; j++) from[j] = (unsigned char)(j * 2654435761u >> 13);
    to[bytes] = 77;
    check.backend->copy(check.backend, to, from, bytes);
    assert_memory_equal(to, from, bytes);
    assert_int_equal(to[bytes], 77);
    check.backend->copy(check.backend, from + SHIFT, from, bytes);
    assert_memory_equal(from + SHIFT, to, bytes);
  }
  check_end(&check);
}

static void bf16_rounds_to_the_nearest_even(void **state) {
  (void)state;
  Check check;
  check_begin(&check, "bf16");
  const float x[] = {1, -2.5f, 0x1.01p0f, 0x1.03p0f, 0x1.010002p0f, -0.0f, INFINITY, 3.4e38f, NAN};
  const uint16_t want[] = {0x3f80, 0xc020, 0x3f80, 0x3f82, 0x3f81, 0x8000, 0x7f80, 0x7f80};
  uint16_t y[9];
  float back[9];
  check.backend->convert(check.backend, y, BF16, x, F32, 9);
  assert_memory_equal(y, want, sizeof want);
  check.backend->convert(check.backend, back, F32, y, BF16, 9);
  assert_true(back[0] == 1 && back[1] == -2.5f && isinf(back[6]) && isnan(back[8]));
  check_end(&check);
}

static void conversions_cover_every_element_and_type(void **state) {
  (void)state;
  Check check;
  check_begin(&check, "convert");
  static const int counts[] = {0, 1, 511, 512, 513, 40000};
  for (size_t n = 0; n < sizeof counts / sizeof *counts; n++) {
    size_t count = (size_t)counts[n];
    uint8_t *bytes = NEW(&check.arena, uint8_t, count), *back = NEW(&check.arena, uint8_t, count);
    for (size_t i = 0; i < count; i++) bytes[i] = (uint8_t)check_size(&check, 0, 255);
    void *stage[3] = {arena_alloc(&check.arena, count * 4), arena_alloc(&check.arena, count * 4),
                      arena_alloc(&check.arena, count * 4)};
    /* integers up to 255 are exact in every type */
    check.backend->convert(check.backend, stage[0], I32, bytes, U8, count);
    check.backend->convert(check.backend, stage[1], BF16, stage[0], I32, count);
    check.backend->convert(check.backend, stage[2], F32, stage[1], BF16, count);
    check.backend->convert(check.backend, back, U8, stage[2], F32, count);
    for (size_t i = 0; i < count; i++) assert_int_equal(((int32_t *)stage[0])[i], bytes[i]);
    if (count) assert_memory_equal(back, bytes, count);
  }
  check_end(&check);
}

static void the_backend_describes_itself(void **state) {
  (void)state;
  Check check;
  check_begin(&check, "description");
  assert_string_equal(check.backend->name, "cpu");
  assert_int_equal(check.backend->storage, F32);
  assert_non_null(strstr(check.backend->device, "thread"));
  check_end(&check);
}

static void the_timer_measures_the_time_between_start_and_stop(void **state) {
  (void)state;
  Check check;
  check_begin(&check, "timer");
  const struct timespec pause = {.tv_nsec = 20000000};
  double empty, long_one;
  check.backend->timer_start(check.backend);
  assert_int_equal(check.backend->timer_stop(check.backend, &empty), OK);
  check.backend->timer_start(check.backend);
  nanosleep(&pause, NULL);
  assert_int_equal(check.backend->timer_stop(check.backend, &long_one), OK);
  assert_true(empty >= 0 && long_one >= 0.02 && long_one > empty);
  check_end(&check);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(memory_is_counted_and_given_back),
      cmocka_unit_test(a_lack_of_memory_names_the_use_and_the_sizes),
      cmocka_unit_test(uploads_come_back_by_download),
      cmocka_unit_test(large_copies_are_whole),
      cmocka_unit_test(bf16_rounds_to_the_nearest_even),
      cmocka_unit_test(conversions_cover_every_element_and_type),
      cmocka_unit_test(the_backend_describes_itself),
      cmocka_unit_test(the_timer_measures_the_time_between_start_and_stop),
  };
  return cmocka_run_group_tests_name("cpu backend", tests, NULL, NULL);
}

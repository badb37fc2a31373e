/* The emulator itself: each kernel here has one fault, which must be reported or show in the result. */
#include <string>

#include "kernel_test.h"

namespace {

/* Runs kernel under every schedule; the reports, one a schedule, "" for none. */
template <typename... Parameters, typename... Arguments>
std::vector<std::string> reports_of(unsigned blocks, unsigned threads, bool cooperative,
                                    void (*kernel)(Parameters...), Arguments... arguments) {
  std::vector<std::string> reports;
  FOR_EACH_SCHEDULE {
    emulator_expect_begin();
    Launch shape = {"faulty", blocks, threads, 256};
    if (cooperative)
      launch_cooperative(cuda_state(emulator_backend()), shape, kernel, arguments...);
    else
      launch(cuda_state(emulator_backend()), shape, kernel, arguments...);
    reports.push_back(emulator_expect_end());
  }
  return reports;
}

void expect_all(const std::vector<std::string> &reports, const char *fragment) {
  for (const std::string &report : reports)
    if (report.find(fragment) == std::string::npos)
      fail_msg("the report \"%s\" does not say \"%s\"", report.c_str(), fragment);
}

void divergent_barrier() {
  if (threadIdx.x < 32)
    block_sync();
  else
    block_sync();
}

void early_return() {
  if (threadIdx.x == 40) return;
  block_sync();
}

void divergent_warp() {
  if (threadIdx.x % 2)
    warp_sync();
  else
    warp_sync();
}

void lane_missing(int *out) {
  if (threadIdx.x == 7) return;
  out[0] = warp_sum(1);
}

void deadlocked() {
  if (threadIdx.x < 32)
    named_sync(1, 64);
  else
    named_sync(2, 64);
}

void copy_without_wait(const float *from, float *out) {
  SHARED(float, buffer, [128]);
  copy_async16(buffer + 4 * lane_index(), from + 4 * lane_index());
  copy_async_commit();
  out[lane_index()] = buffer[4 * lane_index()];
  copy_async_wait<0>();
}

void copy_waits_for_the_wrong_group(const float *from, float *out) {
  SHARED(float, buffer, [128]);
  copy_async16(buffer + 4 * lane_index(), from + 4 * lane_index());
  copy_async_commit();
  copy_async_wait<1>();
  out[lane_index()] = buffer[4 * lane_index()];
  copy_async_wait<0>();
}

void copy_left_in_flight(const float *from) {
  SHARED(float, buffer, [128]);
  copy_async16(buffer + 4 * lane_index(), from + 4 * lane_index());
  copy_async_commit();
}

void misaligned_copy(const float *from) {
  SHARED(float, buffer, [160]);
  copy_async16(buffer + 4 * lane_index() + 1, from + 4 * lane_index());
}

void neighbour(int *out, bool barrier) {
  SHARED(int, slot, [64]);
  slot[threadIdx.x] = static_cast<int>(threadIdx.x);
  if (barrier) block_sync();
  out[threadIdx.x] = slot[(threadIdx.x + 33) % 64];
}

void shared_keeps_nothing(float *out) {
  SHARED(float, kept, [1]);
  if (threadIdx.x == 0) {
    out[blockIdx.x] = kept[0];
    kept[0] = 1;
  }
}

void grid_sum(int *partial, int *total, uint32_t *counter) {
  if (threadIdx.x == 0) partial[blockIdx.x] = static_cast<int>(blockIdx.x) + 1;
  grid_barrier(counter);
  if (threadIdx.x == 0) {
    int sum = 0;
    for (unsigned i = 0; i < gridDim.x; i++) sum += partial[i];
    total[blockIdx.x] = sum;
  }
}

void waits_for_ever(const uint32_t *flag) {
  while (load_volatile(flag) == 0) {
  }
}

void handshake(uint32_t *flag, int *out) {
  if (threadIdx.x == 63) atomic_add(flag, 1);
  while (load_volatile(flag) == 0) {
  }
  out[threadIdx.x] = 1;
}

void overrun() {
  SHARED(int, small, [8]);
  if (threadIdx.x < 9) small[threadIdx.x + 1] = 1;
}

void reductions(float *out) {
  float x = static_cast<float>(threadIdx.x);
  out[threadIdx.x] = block_sum(x) + 10000 * block_max(x) + 0 * warp_shuffle(x, 3);
}

/* c = a b for one 16 x 8 x 16 product whose operands come through shared memory. */
void one_product(const bf16 *a, const bf16 *b, bool b_is_k_major, float *c) {
  SHARED(bf16, left, [16][16]);
  SHARED(bf16, right, [16][16]);
  for (int i = lane_index(); i < 256; i += 32) {
    left[i / 16][i % 16] = a[i];
    right[i / 16][i % 16] = b[i];
  }
  warp_sync();
  int lane = lane_index();
  uint32_t fa[4], fb[4];
  float acc[2][4] = {};
  load_matrix_x4(fa, &left[lane % 16][lane / 16 * 8]);
  if (b_is_k_major)
    load_matrix_x4_trans(fb, &right[lane % 16][lane / 16 * 8]);
  else
    load_matrix_x4(fb, &right[lane % 8 + lane / 16 * 8][lane / 8 % 2 * 8]);
  for (int n = 0; n < 2; n++) {
    mma_bf16(acc[n], fa, fb[2 * n], fb[2 * n + 1]);
    for (int i = 0; i < 4; i++) c[(lane / 4 + i / 2 * 8) * 16 + n * 8 + lane % 4 * 2 + i % 2] = acc[n][i];
  }
}

void divergent_barriers_are_reported(void **) {
  expect_all(reports_of(1, 64, false, divergent_barrier), "block_sync, but other threads are in the one at");
}
void a_thread_that_returned_early_is_reported(void **) {
  for (const std::string &report : reports_of(1, 64, false, early_return))
    assert_true(report.find("return") != std::string::npos);
}
void lanes_must_meet_at_one_place(void **) {
  expect_all(reports_of(1, 32, false, divergent_warp), "but other lanes of the warp are in warp_sync at");
}
void a_lane_that_is_missing_is_reported(void **) {
  DeviceArray<int> out(1);
  for (const std::string &report : reports_of(1, 32, false, lane_missing, out.get()))
    assert_true(report.find("return") != std::string::npos);
}
void deadlocks_say_who_waits_where(void **) {
  expect_all(reports_of(1, 64, false, deadlocked), "32 wait in named_sync at");
}

void copies_land_only_when_waited_for(void **) {
  DeviceArray<float> from(std::vector<float>(128, 1.0f)), out(32);
  FOR_EACH_SCHEDULE {
    launch(cuda_state(emulator_backend()), {"copy", 1, 32, 0}, copy_without_wait, from.get(), out.get());
    for (size_t i = 0; i < 32; i++) assert_true(isnan(out[i]));
    launch(cuda_state(emulator_backend()), {"copy", 1, 32, 0}, copy_waits_for_the_wrong_group, from.get(),
           out.get());
    for (size_t i = 0; i < 32; i++) assert_true(isnan(out[i]));
  }
  expect_all(reports_of(1, 32, false, copy_left_in_flight, from.get()), "never waited for");
  expect_all(reports_of(1, 32, false, misaligned_copy, from.get()), "not 16-byte aligned");
}

void a_missing_barrier_shows_in_some_schedule(void **) {
#if defined(__SANITIZE_THREAD__)
  skip(); /* reported as a race, see test_races.cpp */
#endif
  DeviceArray<int> out(64);
  int wrong = 0;
  FOR_EACH_SCHEDULE {
    launch(cuda_state(emulator_backend()), {"neighbour", 1, 64, 0}, neighbour, out.get(), false);
    for (size_t i = 0; i < 64; i++) wrong += out[i] != (static_cast<int>(i) + 33) % 64;
    launch(cuda_state(emulator_backend()), {"neighbour", 1, 64, 0}, neighbour, out.get(), true);
    for (int i = 0; i < 64; i++) assert_int_equal(out[static_cast<size_t>(i)], (i + 33) % 64);
  }
  assert_true(wrong > 0);
}

void shared_memory_starts_as_nan_in_every_block(void **) {
  DeviceArray<float> out(std::vector<float>(3, 0.0f));
  launch(cuda_state(emulator_backend()), {"kept", 3, 32, 0}, shared_keeps_nothing, out.get());
  for (size_t i = 0; i < 3; i++) assert_true(isnan(out[i]));
}

void cooperative_blocks_meet_at_the_grid_barrier(void **) {
  DeviceArray<int> partial(5), total(5);
  DeviceArray<uint32_t> counter(std::vector<uint32_t>(1, 0));
  for (const std::string &report :
       reports_of(5, 64, true, grid_sum, partial.get(), total.get(), counter.get())) {
    assert_string_equal(report.c_str(), "");
    for (size_t i = 0; i < 5; i++) assert_int_equal(total[i], 15);
  }
  expect_all(reports_of(5, 64, false, grid_sum, partial.get(), total.get(), counter.get()),
             "not cooperative");
}

void waiting_loops_end_or_are_reported(void **) {
  DeviceArray<uint32_t> flag(std::vector<uint32_t>(1, 0));
  DeviceArray<int> out(64);
  emulator_schedule({SCHEDULE_IN_ORDER, 0});
  emulator_expect_begin();
  launch(cuda_state(emulator_backend()), {"waits", 1, 32, 0}, waits_for_ever,
         static_cast<const uint32_t *>(flag.get()));
  assert_non_null(strstr(emulator_expect_end(), "waits forever"));
  launch(cuda_state(emulator_backend()), {"handshake", 1, 64, 0}, handshake, flag.get(), out.get());
  assert_int_equal(out[0], 1);
}

void overruns_of_shared_arrays_are_reported(void **) {
#if defined(__SANITIZE_ADDRESS__)
  skip(); /* the sanitizer stops the program itself */
#else
  expect_all(reports_of(1, 32, false, overrun), "past the end of shared array small");
#endif
}

void illegal_launches_are_reported(void **) {
  expect_all(reports_of(1, 33, false, deadlocked), "a multiple of 32");
  expect_all(reports_of(1, 1056, false, deadlocked), "a multiple of 32");
}

void reductions_reach_every_thread(void **) {
  DeviceArray<float> out(96);
  FOR_EACH_SCHEDULE {
    out.poison();
    launch(cuda_state(emulator_backend()), {"reductions", 1, 96, 0}, reductions, out.get());
    for (size_t i = 0; i < 96; i++) assert_true(out[i] == 4560.0f + 950000.0f);
  }
}

void fragments_make_a_product(void **) {
  TestRandom random(1);
  DeviceArray<bf16> a(random.normals(256)), b(random.normals(256));
  DeviceArray<float> c(256);
  for (int k_major = 0; k_major < 2; k_major++) {
    std::vector<double> want(256, 0.0);
    for (size_t i = 0; i < 16; i++)
      for (size_t j = 0; j < 16; j++)
        for (size_t k = 0; k < 16; k++)
          want[i * 16 + j] += number(a[i * 16 + k]) * number(k_major ? b[k * 16 + j] : b[j * 16 + k]);
    FOR_EACH_SCHEDULE {
      c.poison();
      launch(cuda_state(emulator_backend()), {"product", 1, 32, 0}, one_product,
             static_cast<const bf16 *>(a.get()), static_cast<const bf16 *>(b.get()), k_major != 0, c.get());
      expect_close("c", c.get(), want, 1e-5, 1e-5);
    }
  }
}

void bf16_rounds_to_nearest_even(void **) {
  assert_int_equal(to_bf16(1.0f).bits, 0x3f80);
  assert_int_equal(to_bf16(1.0f + 0x1p-8f).bits, 0x3f80);
  assert_int_equal(to_bf16(1.0f + 3 * 0x1p-8f).bits, 0x3f82);
  assert_int_equal(to_bf16(1.0f + 0x1.1p-8f).bits, 0x3f81);
  assert_int_equal(to_bf16(INFINITY).bits, 0x7f80);
  assert_true(isnan(to_float(to_bf16(NAN))));
}

void wide_products(const uint64_t *a, const uint64_t *b, uint64_t *high) {
  high[threadIdx.x] = multiply_high(a[threadIdx.x], b[threadIdx.x]);
}

/* Against long multiplication by 32-bit halves. */
void multiply_high_is_the_upper_half_of_the_product(void **) {
  TestRandom random(2);
  DeviceArray<uint64_t> a(64), b(64), high(64);
  for (size_t i = 0; i < 64; i++) {
    a[i] = static_cast<uint64_t>(random.uniform() * 0x1p53) << random.below(12);
    b[i] = i % 4 == 0 ? ~0ull : static_cast<uint64_t>(random.uniform() * 0x1p53) << random.below(12);
  }
  a[0] = ~0ull, a[1] = 0, a[2] = 1ull << 32, b[2] = 1ull << 32;
  launch(cuda_state(emulator_backend()), {"wide_products", 1, 64, 0}, wide_products, a.get(), b.get(),
         high.get());
  for (size_t i = 0; i < 64; i++) {
    uint64_t a0 = a[i] & 0xffffffffu, a1 = a[i] >> 32, b0 = b[i] & 0xffffffffu, b1 = b[i] >> 32;
    uint64_t middle = a1 * b0 + (a0 * b0 >> 32), other = a0 * b1 + (middle & 0xffffffffu);
    assert_true(high[i] == a1 * b1 + (middle >> 32) + (other >> 32));
  }
  assert_true(high[0] == ~0ull - 1 && high[1] == 0 && high[2] == 1);
}

void swap_words(uint32_t *pairs) {
  Bytes8 bytes = load_bytes8(pairs + 2 * threadIdx.x);
  store_bytes8(pairs + 2 * threadIdx.x, {{bytes.word[1], bytes.word[0]}});
}

void misaligned_bytes8(uint32_t *pairs) { load_bytes8(pairs + 1); }

void eight_bytes_keep_their_order_and_must_be_aligned(void **) {
  DeviceArray<uint32_t> pairs(64);
  for (uint32_t i = 0; i < 64; i++) pairs[i] = i;
  launch(cuda_state(emulator_backend()), {"swap_words", 1, 32, 0}, swap_words, pairs.get());
  for (uint32_t i = 0; i < 64; i++) assert_int_equal(pairs[i], i ^ 1u);
  expect_all(reports_of(1, 32, false, misaligned_bytes8, pairs.get()), "not 8-byte aligned");
}

}  // namespace

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(divergent_barriers_are_reported),
      cmocka_unit_test(a_thread_that_returned_early_is_reported),
      cmocka_unit_test(lanes_must_meet_at_one_place),
      cmocka_unit_test(a_lane_that_is_missing_is_reported),
      cmocka_unit_test(deadlocks_say_who_waits_where),
      cmocka_unit_test(copies_land_only_when_waited_for),
      cmocka_unit_test(a_missing_barrier_shows_in_some_schedule),
      cmocka_unit_test(shared_memory_starts_as_nan_in_every_block),
      cmocka_unit_test(cooperative_blocks_meet_at_the_grid_barrier),
      cmocka_unit_test(waiting_loops_end_or_are_reported),
      cmocka_unit_test(overruns_of_shared_arrays_are_reported),
      cmocka_unit_test(illegal_launches_are_reported),
      cmocka_unit_test(reductions_reach_every_thread),
      cmocka_unit_test(fragments_make_a_product),
      cmocka_unit_test(bf16_rounds_to_nearest_even),
      cmocka_unit_test(multiply_high_is_the_upper_half_of_the_product),
      cmocka_unit_test(eight_bytes_keep_their_order_and_must_be_aligned),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}

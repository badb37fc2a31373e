/* The emulator's words for compute capability 9.0a: golden results by the layouts of the PTX manual, and one
 * fault a kernel, which must be reported or show in the result. */
#include <string>

#include "kernel_test.h"

namespace {

enum Fault {
  NONE,
  NO_INIT_FENCE,
  NO_EXPECT,
  TOO_FEW_BYTES,
  TOO_MANY_BYTES,
  NO_WAIT,
  WRONG_PARITY,
  NO_WGMMA_FENCE,
  NO_WGMMA_WAIT,
  READ_BEFORE_WAIT,
  SETTLE_BEFORE_WAIT,
  WRITE_BEFORE_WAIT,
  OPERAND_OVERWRITTEN,
  WRONG_STRIDE,
  WRONG_LEADING,
  NO_SWIZZLE,
  WRONG_START,
  OUTSIDE,
  LANES_DIFFER,
  WARPS_DIFFER,
  NO_PROXY_FENCE,
  REGISTERS_OVERWRITTEN,
  UNALIGNED,
  NEVER_WAITED
};

const int depth = 64; /* of the products, four steps of 16 */

struct Shape {
  bool a_mn_major, b_mn_major, by_threads, a_registers;
};

/* Where element (row, column) of rows of 64 bf16 lies when they are swizzled: the permutation of 16-byte
 * pieces as the manual draws it. */
DEVICE int swizzled_at(int row, int column) { return row * 64 + (column / 8 ^ row % 8) * 8 + column % 8; }

/* c [64, n] = A B, A [64, 64] or its transpose, B [64, n] stored as [n, 64] (K-major) or [64, n] (MN-major)
 */
template <int n, bool a_mn, bool b_mn>
void product(const TensorMap a_map, const TensorMap b_map, const bf16 *a, const bf16 *b, float *c,
             Fault fault, bool by_threads, bool a_registers) {
  DYNAMIC_SHARED(shared);
  const int a_bytes = 64 * depth * 2, b_bytes = n * depth * 2;
  unsigned char *a_tile = shared, *b_tile = shared + a_bytes;
  MBarrier *full = reinterpret_cast<MBarrier *>(shared + a_bytes + b_bytes);
  int thread = static_cast<int>(threadIdx.x);
  if (thread == 0) {
    mbarrier_init(full, 1);
    if (fault != NO_INIT_FENCE) mbarrier_init_fence();
  }
  block_sync();
  if (by_threads) {
    for (int i = thread; i < 64 * depth; i += 128)
      reinterpret_cast<bf16 *>(a_tile)[swizzled_at(i / 64, i % 64)] = a[i];
    for (int i = thread; i < n * depth; i += 128) {
      int row = b_mn ? i / n : i / 64, column = b_mn ? i % n : i % 64;
      reinterpret_cast<bf16 *>(b_tile)[column / 64 * (depth * 64) + swizzled_at(row, column % 64)] = b[i];
    }
    if (fault != NO_PROXY_FENCE) async_proxy_fence();
    block_sync();
  } else {
    if (thread == 0) {
      int bytes = a_bytes + b_bytes;
      if (fault == TOO_FEW_BYTES) bytes -= a_bytes;
      if (fault == TOO_MANY_BYTES) bytes += 16;
      if (fault == NO_EXPECT)
        mbarrier_arrive(full);
      else
        mbarrier_arrive_expect(full, bytes);
      tensor_load(a_tile + (fault == UNALIGNED ? 64 : 0), a_map, 0, 0, full);
      for (int i = 0; i < n / 64; i++)
        tensor_load(b_tile + i * 8192, b_map, b_mn ? i * 64 : 0, b_mn ? 0 : i * 64, full);
    }
    if (fault != NO_WAIT) mbarrier_wait(full, fault == WRONG_PARITY ? 1 : 0);
  }
  float acc[n / 8][4];
  uint32_t registers[depth / 16][4];
  int lane = lane_index(), warp = warp_index();
  for (int k = 0; a_registers && k < depth / 16; k++)
    for (int i = 0; i < 4; i++) {
      int row = warp * 16 + lane / 4 + i % 2 * 8, column = k * 16 + lane % 4 * 2 + i / 2 * 8;
      memcpy(&registers[k][i], a + row * depth + column, 4);
    }
  int stride = fault == WRONG_STRIDE ? 512 : 1024, leading = fault == WRONG_LEADING ? 4096 : depth * 128;
  uint64_t da = wgmma_descriptor(a_tile, 8192, 1024), db = wgmma_descriptor(b_tile, leading, stride);
  if (fault == NO_SWIZZLE) db &= ~(1ull << 62);
  if (fault == WRONG_START) db += 8;
  if (fault == OUTSIDE) db += 4096;
  if (fault == LANES_DIFFER && lane == 5) db += 1 << 16;
  if (fault == WARPS_DIFFER && warp == 2) db += 1 << 16;
  if (fault != NO_WGMMA_FENCE) wgmma_fence();
  for (int k = 0; k < depth / 16; k++) {
    uint64_t a_step = static_cast<uint64_t>(k * (a_mn ? 2048 : 32) / 16);
    uint64_t b_step = static_cast<uint64_t>(k * (b_mn ? 2048 : 32) / 16);
    if (a_registers)
      wgmma_registers<n, b_mn>(acc, registers[k], db + b_step, k > 0);
    else
      wgmma_shared<n, a_mn, b_mn>(acc, da + a_step, db + b_step, k > 0);
  }
  wgmma_commit();
  if (fault == REGISTERS_OVERWRITTEN) registers[1][2] ^= 0x00010000u;
  if (fault == WRITE_BEFORE_WAIT) acc[1][1] = 0.0f;
  if (fault == OPERAND_OVERWRITTEN && thread == 127) {
    for (int i = 0; i < 64; i++) reinterpret_cast<bf16 *>(b_tile)[i] = {0};
    async_proxy_fence();
  }
  if (fault == SETTLE_BEFORE_WAIT) wgmma_settle(acc);
  float early = acc[0][0];
  if (fault != NO_WGMMA_WAIT) wgmma_wait<0>();
  wgmma_settle(acc);
  if (fault == READ_BEFORE_WAIT) acc[0][0] = early;
  if (fault == NEVER_WAITED && thread == 0) {
    mbarrier_arrive_expect(full, a_bytes);
    tensor_load(a_tile, a_map, 0, 0, full);
  }
  for (int j = 0; j < n / 8; j++)
    for (int i = 0; i < 4; i++)
      c[(warp * 16 + lane / 4 + i / 2 * 8) * n + j * 8 + lane % 4 * 2 + i % 2] = acc[j][i];
}

template <int n, bool a_mn, bool b_mn>
class ProductCase {
 public:
  explicit ProductCase(uint32_t test_case)
      : random_(test_case), a_(random_.normals(64 * depth)), b_(random_.normals(n * depth)), c_(64 * n) {
    CudaState *state = cuda_state(emulator_backend());
    assert_true(make_tensor_map(state, &a_map_, a_.get(), 64, 64, 128, 64, 64));
    assert_true(make_tensor_map(state, &b_map_, b_.get(), b_mn ? n : 64, b_mn ? 64 : n,
                                (b_mn ? n : 64) * sizeof(bf16), 64, 64));
    for (int i = 0; i < 64; i++)
      for (int j = 0; j < n; j++) {
        double sum = 0;
        for (int k = 0; k < depth; k++)
          sum += number(a_[static_cast<size_t>(a_mn ? k * 64 + i : i * 64 + k)]) *
                 number(b_[static_cast<size_t>(b_mn ? k * n + j : j * 64 + k)]);
        want_.push_back(sum);
      }
  }

  void run(Fault fault, bool by_threads = false, bool a_registers = false) {
    c_.poison();
    launch(cuda_state(emulator_backend()), {"product", 1, 128, 64 * depth * 2 + n * depth * 2 + 8},
           product<n, a_mn, b_mn>, a_map_, b_map_, static_cast<const bf16 *>(a_.get()),
           static_cast<const bf16 *>(b_.get()), c_.get(), fault, by_threads, a_registers);
  }

  void expect_right(bool by_threads = false, bool a_registers = false) {
    FOR_EACH_SCHEDULE {
      run(NONE, by_threads, a_registers);
      expect_close("c", c_.get(), want_, 1e-4, 1e-4);
    }
  }

  /* Reported with this fragment, or wrong numbers, under every schedule or at least under `times`. */
  void expect_caught(Fault fault, const char *fragment, int times = schedules, bool by_threads = false,
                     bool a_registers = false) {
    int caught = 0;
    FOR_EACH_SCHEDULE {
      emulator_expect_begin();
      run(fault, by_threads, a_registers);
      std::string report = emulator_expect_end();
      bool wrong = false;
      for (size_t i = 0; i < want_.size() && report.empty(); i++)
        wrong |= !(fabs(number(c_[i]) - want_[i]) <= 1e-3);
      if (!report.empty() && report.find(fragment) == std::string::npos)
        fail_msg("fault %d: the report \"%s\" does not say \"%s\"", fault, report.c_str(), fragment);
      caught += !report.empty() || (wrong && !*fragment);
    }
    if (caught < times) fail_msg("fault %d was seen under %d schedules only", fault, caught);
  }

 private:
  TestRandom random_;
  DeviceArray<bf16> a_, b_;
  DeviceArray<float> c_;
  TensorMap a_map_, b_map_;
  std::vector<double> want_;
};

void products_follow_the_layouts(void **) {
  ProductCase<64, false, false>(1).expect_right();
  ProductCase<128, false, false>(2).expect_right();
  ProductCase<64, false, true>(3).expect_right();
  ProductCase<128, false, true>(4).expect_right();
  ProductCase<64, true, false>(5).expect_right();
  ProductCase<64, true, true>(6).expect_right();
}

/* The same tiles, written by threads into the places that the manual draws. */
void tensor_copies_leave_the_swizzled_layout(void **) {
  ProductCase<128, false, false>(10).expect_right(true);
  ProductCase<128, false, true>(11).expect_right(true);
  ProductCase<64, true, true>(12).expect_right(true);
}

void a_may_come_from_registers(void **) {
  ProductCase<128, false, false>(20).expect_right(false, true);
  ProductCase<64, false, true>(21).expect_right(false, true);
}

void faults_of_barriers_are_caught(void **) {
  ProductCase<64, false, false> c(30);
  c.expect_caught(NO_INIT_FENCE, "mbarrier_init_fence");
  c.expect_caught(TOO_MANY_BYTES, "wait in mbarrier_wait");
  c.expect_caught(UNALIGNED, "not 128-byte aligned");
#if !defined(__SANITIZE_THREAD__) /* races, see test_races.cpp; a copy may land in time by chance */
  c.expect_caught(NO_EXPECT, "", schedules - 2);
  c.expect_caught(TOO_FEW_BYTES, "", schedules - 2);
  c.expect_caught(NO_WAIT, "", 1);
  c.expect_caught(WRONG_PARITY, "", 1);
  c.expect_caught(NEVER_WAITED, "never waited for", 1);
#endif
}

void faults_of_waits_are_caught(void **) {
  ProductCase<64, false, false> c(31);
  c.expect_caught(NO_WGMMA_FENCE, "no wgmma_fence");
  c.expect_caught(NO_WGMMA_WAIT, "in flight");
  c.expect_caught(SETTLE_BEFORE_WAIT, "in flight");
  c.expect_caught(READ_BEFORE_WAIT, "");
  c.expect_caught(WRITE_BEFORE_WAIT, "accumulators were written");
#if !defined(__SANITIZE_THREAD__)
  c.expect_caught(OPERAND_OVERWRITTEN, "", schedules / 2); /* some products are computed as soon as issued */
#endif
  c.expect_caught(REGISTERS_OVERWRITTEN, "registers of A were written", schedules, false, true);
}

void faults_of_descriptors_are_caught(void **) {
  ProductCase<64, false, false> c(32);
  c.expect_caught(WRONG_STRIDE, "");
  c.expect_caught(NO_SWIZZLE, "swizzle mode 0");
  c.expect_caught(WRONG_START, "");
  c.expect_caught(OUTSIDE, "leads out of");
  c.expect_caught(LANES_DIFFER, "the lanes of the warp");
  c.expect_caught(WARPS_DIFFER, "the warps of the warpgroup");
  ProductCase<128, false, true> wide(33);
  wide.expect_caught(WRONG_LEADING, "");
  wide.expect_caught(WRONG_STRIDE, "");
}

void written_operands_need_a_proxy_fence(void **) {
  ProductCase<64, false, false>(34).expect_caught(NO_PROXY_FENCE, "", schedules, true);
}

/* A box that hangs over the end: zeros there, and all bytes count. */
void copy_box(const TensorMap map, int column, int row, bf16 *out) {
  DYNAMIC_SHARED(shared);
  MBarrier *full = reinterpret_cast<MBarrier *>(shared + 8192);
  if (threadIdx.x == 0) {
    mbarrier_init(full, 1);
    mbarrier_init_fence();
    mbarrier_arrive_expect(full, 8192);
    tensor_load(shared, map, column, row, full);
  }
  block_sync();
  mbarrier_wait(full, 0);
  for (int i = static_cast<int>(threadIdx.x); i < 4096; i += 128)
    out[i] = reinterpret_cast<bf16 *>(shared)[swizzled_at(i / 64, i % 64)];
}

void boxes_are_zero_outside_of_the_array(void **) {
  const int rows = 70, columns = 136;
  TestRandom random(40);
  DeviceArray<bf16> from(random.normals(rows * columns)), out(4096);
  TensorMap map;
  assert_true(make_tensor_map(cuda_state(emulator_backend()), &map, from.get(), columns, rows,
                              columns * sizeof(bf16), 64, 64));
  const int places[][2] = {{0, 0}, {64, 6}, {0, 30}, {128, 69}, {0, 70}, {0, -5}};
  for (const int *at : places) FOR_EACH_SCHEDULE {
      out.poison();
      launch(cuda_state(emulator_backend()), {"copy_box", 1, 128, 8200}, copy_box, map, at[0], at[1],
             out.get());
      for (int i = 0; i < 4096; i++) {
        int row = at[1] + i / 64, column = at[0] + i % 64;
        bool inside = row >= 0 && row < rows && column < columns;
        uint16_t want = inside ? from[static_cast<size_t>(row * columns + column)].bits : 0;
        assert_int_equal(out[static_cast<size_t>(i)].bits, want);
      }
    }
  assert_false(
      make_tensor_map(cuda_state(emulator_backend()), &map, from.get() + 1, columns, rows, 272, 64, 64));
}

/* A producer warp and three consumers over a ring of two stages; the number of turns. */
void ring(const TensorMap map, int turns, float *sums, Fault fault) {
  DYNAMIC_SHARED(shared);
  MBarrier *full = reinterpret_cast<MBarrier *>(shared + 2 * 8192), *empty = full + 2;
  if (threadIdx.x == 0) {
    for (int s = 0; s < 2; s++) {
      mbarrier_init(full + s, 1);
      mbarrier_init(empty + s, 3);
    }
    mbarrier_init_fence();
  }
  block_sync();
  if (warp_index() == 3) {
    for (int t = 0; t < turns && lane_index() == 0; t++) {
      int s = t % 2, phase = t / 2 % 2;
      if (fault != NO_WAIT) mbarrier_wait(empty + s, fault == WRONG_PARITY ? phase : phase ^ 1);
      mbarrier_arrive_expect(full + s, 8192);
      tensor_load(shared + s * 8192, map, 0, t, full + s);
    }
    return;
  }
  float sum = 0.0f;
  for (int t = 0; t < turns; t++) {
    int s = t % 2;
    mbarrier_wait(full + s, t / 2 % 2);
    for (int i = static_cast<int>(threadIdx.x); i < 4096; i += 96)
      sum += to_float(reinterpret_cast<bf16 *>(shared + s * 8192)[i]);
    warp_sync();
    if (lane_index() == 0 && fault != NO_EXPECT) mbarrier_arrive(empty + s);
  }
  sums[threadIdx.x] = sum;
}

void a_ring_of_stages_goes_round(void **) {
  const int rows = 80, turns = 9;
  TestRandom random(50);
  DeviceArray<bf16> from(random.normals(rows * 64));
  DeviceArray<float> sums(96);
  TensorMap map;
  assert_true(make_tensor_map(cuda_state(emulator_backend()), &map, from.get(), 64, rows, 128, 64, 64));
  double want = 0;
  for (int t = 0; t < turns; t++)
    for (int i = 0; i < 4096; i++) want += number(from[static_cast<size_t>(t * 64 + i)]);
  auto sums_right = [&](Fault fault) {
    sums.poison();
    launch(cuda_state(emulator_backend()), {"ring", 1, 128, 16416}, ring, map, turns, sums.get(), fault);
    double sum = 0;
    for (size_t i = 0; i < 96; i++) sum += number(sums[i]);
    return fabs(sum - want) < 1e-2;
  };
  [[maybe_unused]] int caught = 0; /* a race, which the thread sanitizer would report instead */
  FOR_EACH_SCHEDULE {
    assert_true(sums_right(NONE));
#if !defined(__SANITIZE_THREAD__)
    emulator_expect_begin();
    bool right = sums_right(NO_WAIT);
    caught += *emulator_expect_end() || !right;
#endif
    const Fault faults[] = {NO_EXPECT, WRONG_PARITY}; /* nobody empties; the wrong phase is waited for */
    for (Fault fault : faults) {
      emulator_expect_begin();
      sums_right(fault);
      assert_non_null(strstr(emulator_expect_end(), "deadlock"));
    }
  }
#if !defined(__SANITIZE_THREAD__)
  assert_true(caught >= schedules - 1);
#endif
}

/* 512 threads are launched with 128 registers each. */
template <int producer, int consumer>
void hand_over(int *out) {
  if (threadIdx.x < 128)
    registers_give<producer>();
  else
    registers_take<consumer>();
  out[threadIdx.x] = 1;
}

void registers_come_from_those_who_gave_them(void **) {
  DeviceArray<int> out(512);
  CudaState *state = cuda_state(emulator_backend());
  FOR_EACH_SCHEDULE {
    out.poison();
    launch(state, {"hand_over", 1, 512, 0}, hand_over<32, 160>, out.get());
    for (size_t i = 0; i < 512; i++) assert_int_equal(out[i], 1);
    emulator_expect_begin();
    launch(state, {"hand_over", 1, 512, 0}, hand_over<40, 160>, out.get());
    assert_non_null(strstr(emulator_expect_end(), "wait in registers_take"));
    emulator_expect_begin();
    launch(state, {"hand_over", 1, 512, 0}, hand_over<136, 160>, out.get());
    assert_non_null(strstr(emulator_expect_end(), "registers_give: 136, but a thread has 128"));
  }
}

}  // namespace

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(products_follow_the_layouts),
      cmocka_unit_test(tensor_copies_leave_the_swizzled_layout),
      cmocka_unit_test(a_may_come_from_registers),
      cmocka_unit_test(boxes_are_zero_outside_of_the_array),
      cmocka_unit_test(a_ring_of_stages_goes_round),
      cmocka_unit_test(faults_of_barriers_are_caught),
      cmocka_unit_test(faults_of_waits_are_caught),
      cmocka_unit_test(faults_of_descriptors_are_caught),
      cmocka_unit_test(written_operands_need_a_proxy_fence),
      cmocka_unit_test(registers_come_from_those_who_gave_them),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}

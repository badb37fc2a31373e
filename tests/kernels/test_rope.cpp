/* cuda/rope.cu on the emulator against double precision. */
#include "kernel_test.h"

static size_t size(int x) { return static_cast<size_t>(x); }

struct RopeCase {
  RopeCase(int rows, int heads, int kv_heads, int head_dim, int largest, uint32_t test_case)
      : random(test_case), positions(size(rows)) {
    size_t count = size(rows) * size(heads + 2 * kv_heads) * size(head_dim);
    start = random.normals(count);
    for (size_t r = 0; r < size(rows); r++) positions[r] = r == 0 ? largest : random.below(largest + 1);
    op.positions = positions.get();
    op.rows = rows, op.heads = heads, op.kv_heads = kv_heads, op.head_dim = head_dim, op.theta = 10000;
  }

  /* Llama 3.1's scaling, by wavelengths. */
  long double scaled(long double frequency) const {
    long double turns = static_cast<long double>(op.scaling.context) * frequency / (2 * M_PIl);
    long double low = op.scaling.low, high = op.scaling.high, factor = op.scaling.factor;
    if (factor == 0 || turns > high) return frequency;
    if (turns < low) return frequency / factor;
    long double smooth = (turns - low) / (high - low);
    return (1 - smooth) * frequency / factor + smooth * frequency;
  }

  /* long double: at a million radians a double's angle is good to 1e-10. */
  std::vector<double> wanted() const {
    std::vector<double> out;
    for (bf16 x : start) out.push_back(number(x));
    int half = op.head_dim / 2, turned = op.heads + op.kv_heads;
    size_t stride = size(turned + op.kv_heads) * size(op.head_dim);
    for (int r = 0; r < op.rows; r++)
      for (int h = 0; h < turned; h++)
        for (int i = 0; i < half; i++) {
          long double angle = (op.first_position + positions[size(r)]) * scaled(powl(op.theta, -2.0L * i / op.head_dim));
          double c = static_cast<double>(cosl(angle)),
                 s = static_cast<double>(sinl(op.inverse ? -angle : angle));
          double &a = out[size(r) * stride + size(h * op.head_dim + i)], &b = (&a)[half], x = a, y = b;
          a = x * c - y * s;
          b = x * s + y * c;
        }
    return out;
  }

  void check() {
    DeviceArray<bf16> qkv(start.size());
    std::vector<double> want = wanted();
    std::vector<bf16> first;
    FOR_EACH_SCHEDULE {
      for (size_t i = 0; i < start.size(); i++) qkv[i] = start[i];
      op.qkv = qkv.get();
      cuda_rope(emulator_backend(), &op);
      expect_close("qkv", qkv.get(), want, 4e-3, 2e-6);
      if (schedule_ == 0) first.assign(qkv.get(), qkv.get() + start.size());
      expect_same_bits("qkv", qkv.get(), first);
    }
  }

  TestRandom random;
  DeviceArray<int32_t> positions;
  std::vector<bf16> start;
  Rope op = {};
};

/* Ragged halves (not a multiple of 8), grouped heads, more pairs than threads. */
static const int shapes[][4] = {{0, 2, 1, 16},  {1, 1, 1, 2},   {3, 1, 1, 8},   {5, 4, 2, 16}, {7, 3, 1, 24},
                                {11, 2, 2, 64}, {4, 7, 1, 128}, {3, 1, 1, 256}, {2, 1, 1, 520}};

static void query_and_key_heads_turn_and_values_stay(void **) {
  uint32_t test_case = 0;
  for (const int *s : shapes) RopeCase(s[0], s[1], s[2], s[3], 50, test_case++).check();
}

static void slow_pairs_turn_slower_when_scaled(void **) {
  uint32_t test_case = 300;
  for (const int *s : shapes) {
    RopeCase c(s[0], s[1], s[2], s[3], 5000, test_case++);
    c.op.scaling = {8, 1, 4, test_case % 2 ? 64.0f : 8192.0f};
    c.check();
  }
}

static void inverse_turns_backwards(void **) {
  uint32_t test_case = 100;
  for (const int *s : shapes) {
    RopeCase c(s[0], s[1], s[2], s[3], 50, test_case++);
    c.op.inverse = true;
    c.check();
  }
}

static void large_positions_keep_their_fraction(void **) {
  RopeCase c(9, 1, 1, 64, 1000000, 200);
  c.check();
  c.op.theta = 1e6f;
  c.check();
}

static void theta_sets_the_slowest_pair(void **) {
  RopeCase c(5, 2, 1, 32, 3000, 210);
  c.op.theta = 500;
  c.check();
}

/* From 513 rows on a block takes several; 2 heads of 16 share one with 32 rows at most. */
static void blocks_take_several_rows(void **) {
  RopeCase(1030, 1, 1, 4, 1030, 220).check();
  RopeCase(515, 1, 1, 16, 515, 221).check();
}

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(query_and_key_heads_turn_and_values_stay),
      cmocka_unit_test(slow_pairs_turn_slower_when_scaled),
      cmocka_unit_test(inverse_turns_backwards),
      cmocka_unit_test(large_positions_keep_their_fraction),
      cmocka_unit_test(theta_sets_the_slowest_pair),
      cmocka_unit_test(blocks_take_several_rows),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}

/* cuda/attention_backward.cu on the emulator against double precision. */
#include "attention_reference.h"

static void check(const AttentionShape &shape, uint32_t test_case) {
  AttentionCase c(shape, test_case);
  std::vector<double> exact_out, exact_lse;
  c.forward(&exact_out, &exact_lse);
  DeviceArray<bf16> out(exact_out.size()), dout(c.random.normals(exact_out.size())), dqkv(c.qkv.count());
  DeviceArray<float> lse(exact_lse.size());
  for (size_t i = 0; i < exact_out.size(); i++) out[i] = to_bf16(static_cast<float>(exact_out[i]));
  for (size_t i = 0; i < exact_lse.size(); i++) lse[i] = static_cast<float>(exact_lse[i]);
  std::vector<double> want = c.backward(dout);
  std::vector<bf16> first;
  /* Sums of products of numbers of size 1, each factor rounded to bf16. */
  double absolute = 0.02 * sqrt(static_cast<double>(shape.heads / shape.kv_heads));
  FOR_EACH_SCHEDULE {
    dqkv.poison();
    AttentionBackward op = {c.sequences(), c.qkv.get(), nullptr, out.get(),   dout.get(),     lse.get(),
                            dqkv.get(),    nullptr,     0,       shape.heads, shape.kv_heads, shape.head_dim};
    cuda_attention_backward(emulator_backend(), &op);
    expect_close("dqkv", dqkv.get(), want, 0.015, absolute);
    if (first.empty()) first.assign(dqkv.get(), dqkv.get() + dqkv.count());
    expect_same_bits("dqkv", dqkv.get(), first);
  }
}

static void every_width_up_to_128(void **) {
  const int widths[] = {8, 16, 32, 40, 64, 80, 128};
  uint32_t test_case = 0;
  for (int d : widths) check({{17, 70}, 1, 1, d}, test_case++);
}

static void ragged_sequences_do_not_touch_each_other(void **) {
  TestRandom random(50);
  check({{0, 1, 2, 0, 31, 67, 1, 0}, 2, 2, 16}, 51);
  std::vector<int> lengths;
  for (int i = 0; i < 5; i++) lengths.push_back(random.below(140));
  check({lengths, 2, 1, 32}, 52);
}

/* Up to 256 tokens a block has 64 rows of its own, beyond them 128; steps are of 64 rows, with d = 128 of 48.
 */
static void tiles_of_short_sequences_meet_at_their_edges(void **) {
  const int lengths[] = {63, 64, 65, 129, 193, 256};
  uint32_t test_case = 100;
  for (int length : lengths) check({{length}, 1, 1, 64}, test_case++);
  check({{47, 48, 49, 64, 65, 97}, 1, 1, 128}, test_case);
}

static void tiles_of_long_sequences_meet_at_their_edges(void **) {
  const int lengths[] = {257, 385};
  uint32_t test_case = 120;
  for (int length : lengths) check({{length}, 1, 1, 32}, test_case++);
  check({{257, 48, 49, 127, 129, 0, 1}, 1, 1, 128}, test_case);
}

static void every_width_in_long_batches(void **) {
  const int widths[] = {8, 40, 80};
  uint32_t test_case = 140;
  for (int d : widths) check({{17, 259}, 1, 1, d}, test_case++);
}

static void shared_key_heads_sum_over_their_group(void **) {
  check({{33, 50, 131}, 6, 2, 16}, 200);
  check({{257, 70}, 2, 1, 16}, 201);
}

static void an_empty_batch_does_nothing(void **) {
  check({{}, 2, 2, 32}, 230);
  check({{0, 0}, 2, 2, 32}, 231);
}

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(every_width_up_to_128),
      cmocka_unit_test(ragged_sequences_do_not_touch_each_other),
      cmocka_unit_test(tiles_of_short_sequences_meet_at_their_edges),
      cmocka_unit_test(tiles_of_long_sequences_meet_at_their_edges),
      cmocka_unit_test(every_width_in_long_batches),
      cmocka_unit_test(shared_key_heads_sum_over_their_group),
      cmocka_unit_test(an_empty_batch_does_nothing),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}

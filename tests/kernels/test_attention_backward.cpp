/* cuda/attention_backward.cu on the emulator against double precision. */
#include <limits.h>

#include "attention_reference.h"

static void check(AttentionCase &c, float scale, int most_schedules = INT_MAX) {
  const AttentionShape &shape = c.shape;
  std::vector<double> exact_out, exact_lse;
  c.forward(&exact_out, &exact_lse);
  DeviceArray<bf16> out(exact_out.size()), dout(c.random.normals(exact_out.size())), dqkv(c.qkv.count());
  DeviceArray<float> lse(exact_lse.size());
  for (size_t i = 0; i < exact_out.size(); i++) out[i] = to_bf16(static_cast<float>(exact_out[i]));
  for (size_t i = 0; i < exact_lse.size(); i++) lse[i] = static_cast<float>(exact_lse[i]);
  DeviceArray<bf16> added_to(c.random.normals(c.prefix.count())), dprefix(c.prefix.count());
  std::vector<double> want_prefix;
  for (size_t i = 0; i < added_to.count(); i++) want_prefix.push_back(number(added_to[i]));
  std::vector<double> want = c.backward(dout, &want_prefix);
  std::vector<bf16> first, first_prefix;
  /* Sums of products of numbers of size 1, each factor rounded to bf16. */
  double absolute =
      0.02 * sqrt(static_cast<double>(shape.heads / shape.kv_heads)) * static_cast<double>(scale);
  double absolute_prefix = absolute * sqrt(static_cast<double>(1 + shape.lengths.size()));
  FOR_EACH_SCHEDULE {
    if (schedule_ >= most_schedules) break;
    dqkv.poison();
    for (size_t i = 0; i < dprefix.count(); i++) dprefix[i] = added_to[i];
    AttentionBackward op = {c.sequences(),    c.qkv.get(), c.prefix.get(), out.get(),
                            dout.get(),       lse.get(),   dqkv.get(),     dprefix.get(),
                            shape.prefix_len, shape.heads, shape.kv_heads, shape.head_dim};
    cuda_attention_backward(emulator_backend(), &op);
    expect_close("dqkv", dqkv.get(), want, 0.015, absolute);
    expect_close("dprefix", dprefix.get(), want_prefix, 0.015, absolute_prefix);
    if (first.empty()) first.assign(dqkv.get(), dqkv.get() + dqkv.count());
    if (first_prefix.empty()) first_prefix.assign(dprefix.get(), dprefix.get() + dprefix.count());
    expect_same_bits("dqkv", dqkv.get(), first);
    expect_same_bits("dprefix", dprefix.get(), first_prefix);
  }
}

static void check(const AttentionShape &shape, uint32_t test_case) {
  AttentionCase c(shape, test_case);
  check(c, 1);
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

static void the_gradient_of_a_prefix_sums_over_all_sequences(void **) {
  const int widths[] = {8, 16, 32, 40, 64, 80, 128};
  uint32_t test_case = 300;
  for (int d : widths) check({{17, 0, 70, 1}, 1, 1, d, 3}, test_case++);
  check({{17, 259}, 1, 1, 40, 21}, test_case);
}

/* Up to 64 of the prefix's keys a block has 64 rows of its own, beyond them 128; steps are of 64 tokens, with
 * d = 128 of 48. */
static void prefixes_meet_the_tiles_at_their_edges(void **) {
  const int lengths[] = {1, 17, 63, 64, 65, 128, 129};
  uint32_t test_case = 320;
  for (int length : lengths) check({{65, 2}, 1, 1, 32, length}, test_case++);
  for (int length : {48, 49, 65}) check({{33}, 1, 1, 128, length}, test_case++);
}

/* A step's tokens may be of several sequences; of 18 steps in 17 slices one has two. */
static void slices_of_the_tokens_are_of_unequal_size(void **) {
  check({std::vector<int>(9, 15), 2, 1, 8, 5}, 350);
  AttentionCase unequal({{65}, 72, 8, 8, 129}, 351);
  check(unequal, 1, 1);
}

/* Where all scores are near -400, exp(-lse), the weight of a key of zeros, is infinite: rows and columns
 * beyond the end are that. */
static void low_scores_leave_gradients_finite(void **) {
  for (int prefix_len : {20, 63}) {
    AttentionCase c({{9, 40}, 1, 1, 16, prefix_len}, 360);
    c.lower_scores(10);
    check(c, 10);
  }
}

static void a_frozen_prefix_has_no_gradient(void **) {
  AttentionCase c({{20, 7}, 2, 1, 16, 10}, 370);
  std::vector<double> out_of, lse_of;
  c.forward(&out_of, &lse_of);
  DeviceArray<bf16> out(out_of.size()), dout(c.random.normals(out_of.size())), dqkv(c.qkv.count());
  DeviceArray<float> lse(lse_of.size());
  for (size_t i = 0; i < out_of.size(); i++) out[i] = to_bf16(static_cast<float>(out_of[i]));
  for (size_t i = 0; i < lse_of.size(); i++) lse[i] = static_cast<float>(lse_of[i]);
  AttentionBackward op = {c.sequences(),
                          c.qkv.get(),
                          c.prefix.get(),
                          out.get(),
                          dout.get(),
                          lse.get(),
                          dqkv.get(),
                          nullptr,
                          10,
                          2,
                          1,
                          16};
  cuda_attention_backward(emulator_backend(), &op);
  expect_close("dqkv", dqkv.get(), c.backward(dout, nullptr), 0.015, 0.03);
}

static void an_empty_batch_does_nothing(void **) {
  check({{}, 2, 2, 32}, 230);
  check({{0, 0}, 2, 2, 32}, 231);
  check({{0, 0}, 2, 2, 32, 7}, 232);
}

int main() {
  cuda_state(emulator_backend())->hopper = false; /* its kernels have tests of their own */
  const CMUnitTest tests[] = {
      cmocka_unit_test(every_width_up_to_128),
      cmocka_unit_test(ragged_sequences_do_not_touch_each_other),
      cmocka_unit_test(tiles_of_short_sequences_meet_at_their_edges),
      cmocka_unit_test(tiles_of_long_sequences_meet_at_their_edges),
      cmocka_unit_test(every_width_in_long_batches),
      cmocka_unit_test(shared_key_heads_sum_over_their_group),
      cmocka_unit_test(the_gradient_of_a_prefix_sums_over_all_sequences),
      cmocka_unit_test(prefixes_meet_the_tiles_at_their_edges),
      cmocka_unit_test(slices_of_the_tokens_are_of_unequal_size),
      cmocka_unit_test(low_scores_leave_gradients_finite),
      cmocka_unit_test(a_frozen_prefix_has_no_gradient),
      cmocka_unit_test(an_empty_batch_does_nothing),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}

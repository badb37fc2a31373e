/* cuda/attention_backward.cu on the emulator against double precision. */
#include "attention_reference.h"

static void check(const AttentionShape &shape, uint32_t test_case) {
  AttentionCase c(shape, test_case);
  check_backward(c);
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
  check_backward(unequal, 1, 1);
}

/* Where all scores are near -400, exp(-lse), the weight of a key of zeros, is infinite: rows and columns
 * beyond the end are that. */
static void low_scores_leave_gradients_finite(void **) {
  for (int prefix_len : {20, 63}) {
    AttentionCase c({{9, 40}, 1, 1, 16, prefix_len}, 360);
    c.lower_scores(10);
    check_backward(c, 10);
  }
}

static void branches_touch_the_shared_part_and_themselves(void **) {
  check({{40, 17, 0, 9}, 2, 1, 16, 0, false, {{5, 1, 20, 14}, {}, {}, {0, 4, 5}}}, 400);
  check({{70, 20}, 2, 1, 32, 5, false, {{0, 30, 40}, {7, 6, 7}}}, 401);
  check(random_branches(402, 60, 1, 1, 40), 402);
  check(random_branches(403, 60, 2, 1, 128), 403);
}

static void branches_cross_tiles(void **) {
  check({{150, 33}, 1, 1, 64, 0, false, {{0, 70, 1, 79}, {10, 23}}}, 410);
  check({{300, 20}, 1, 1, 32, 0, false, {{100, 1, 150, 49}, {}}}, 411);
  check({{420}, 1, 1, 16, 3, false, {{3, 200, 1, 216}}}, 412);
  check({{280}, 1, 1, 128, 0, false, {{0, 130, 150}}}, 413);
}

static void full_rows_see_later_keys(void **) {
  check({{17, 70, 0, 1, 64}, 2, 1, 16, 0, true}, 430);
  check({{33, 65}, 1, 1, 128, 21, true}, 431);
  check({{259, 48}, 1, 1, 32, 0, true}, 432);
}

static void a_frozen_prefix_has_no_gradient(void **) {
  AttentionCase c({{20, 7}, 2, 1, 16, 10}, 370);
  BackwardArrays a(c);
  AttentionBackward op = a.op(c, nullptr);
  cuda_attention_backward(emulator_backend(), &op);
  expect_close("dqkv", a.dqkv.get(), c.backward(a.dout, nullptr), 0.015, 0.03);
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
      cmocka_unit_test(branches_touch_the_shared_part_and_themselves),
      cmocka_unit_test(branches_cross_tiles),
      cmocka_unit_test(full_rows_see_later_keys),
      cmocka_unit_test(a_frozen_prefix_has_no_gradient),
      cmocka_unit_test(an_empty_batch_does_nothing),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}

/* cuda/attention.cu on the emulator against double precision. */
#include "attention_reference.h"

static void check(const AttentionCase &c, float scale) {
  check_forward(c, scale, [](const Attention *op) { cuda_attention(emulator_backend(), op); });
}

static void check(const AttentionShape &shape, uint32_t test_case, float scale = 1) {
  check(AttentionCase(shape, test_case, scale), scale);
}

static void every_width_up_to_128(void **) {
  const int widths[] = {8, 16, 32, 40, 64, 80, 128};
  uint32_t test_case = 0;
  for (int d : widths) check({{17, 70}, 1, 1, d}, test_case++);
}

static void ragged_sequences_do_not_see_each_other(void **) {
  TestRandom random(50);
  check({{0, 1, 2, 0, 31, 67, 1, 0}, 2, 2, 16}, 51);
  std::vector<int> lengths;
  for (int i = 0; i < 6; i++) lengths.push_back(random.below(140));
  check({lengths, 2, 1, 32}, 52);
}

/* Up to 256 tokens a block has 64 queries, beyond them 128; steps are of 64 keys, with d = 128 of 32 or 48.
 */
static void tiles_of_short_sequences_meet_at_their_edges(void **) {
  const int lengths[] = {63, 64, 65, 127, 128, 129, 193, 255, 256};
  uint32_t test_case = 100;
  for (int length : lengths) check({{length}, 1, 1, 64}, test_case++);
  check({{31, 32, 33, 63, 65, 97}, 1, 1, 128}, test_case);
}

static void tiles_of_long_sequences_meet_at_their_edges(void **) {
  const int lengths[] = {257, 383, 384, 385};
  uint32_t test_case = 120;
  for (int length : lengths) check({{length}, 1, 1, 64}, test_case++);
  check({{257, 47, 48, 49, 95, 97, 129, 0, 1}, 1, 1, 128}, test_case);
}

static void every_width_in_long_batches(void **) {
  const int widths[] = {8, 32, 40, 80};
  uint32_t test_case = 140;
  for (int d : widths) check({{17, 259}, 2, 1, d}, test_case++);
}

static void query_heads_share_key_heads(void **) { check({{33, 50}, 6, 2, 32}, 200); }

static void a_prefix_comes_before_every_sequence(void **) {
  const int widths[] = {8, 16, 32, 40, 64, 80, 128};
  uint32_t test_case = 300;
  for (int d : widths) check({{17, 0, 70, 1}, 1, 1, d, 3}, test_case++);
  for (int d : {8, 40, 128}) check({{17, 259}, 1, 1, d, 21}, test_case++);
}

/* Steps are of 64 keys, with d = 128 of 32 or 48. */
static void prefixes_meet_the_tiles_at_their_edges(void **) {
  const int lengths[] = {1, 31, 33, 49, 63, 64, 65, 129};
  uint32_t test_case = 320;
  for (int length : lengths) check({{65, 2}, 1, 1, 32, length}, test_case++);
  for (int length : lengths) check({{33}, 1, 1, 128, length}, test_case++);
  check({{257, 1}, 1, 1, 128, 95}, test_case++);
  check({{257, 1}, 1, 1, 64, 127}, test_case);
}

static void query_heads_share_the_prefix_of_their_key_head(void **) { check({{33, 50}, 6, 2, 32, 37}, 350); }

static void large_scores_stay_finite(void **) {
  check({{70}, 1, 1, 64, 50}, 212, 6);
  AttentionCase low({{9, 40}, 1, 1, 16, 20}, 213);
  low.lower_scores(10);
  check(low, 1);
  check({{150}, 1, 1, 64}, 210, 6);
  check({{270}, 1, 1, 128}, 211, 6);
}

static void branches_see_the_shared_part_and_themselves(void **) {
  check({{40, 17, 0, 9}, 2, 1, 16, 0, false, {{5, 1, 20, 14}, {}, {}, {0, 4, 5}}}, 400);
  check({{70, 20}, 2, 1, 32, 5, false, {{0, 30, 40}, {7, 6, 7}}}, 401);
  check(random_branches(402, 60, 1, 1, 40), 402);
  check(random_branches(403, 60, 2, 1, 128, 9), 403);
}

/* Without a shared part, all of the first tile is another branch's for some rows; behind a short one, whole
 * tiles are. */
static void branches_cross_tiles(void **) {
  check({{150, 33}, 1, 1, 64, 0, false, {{0, 70, 1, 79}, {10, 23}}}, 410);
  check({{200}, 1, 1, 128, 0, false, {{3, 98, 99}}}, 411);
  check({{300, 20}, 1, 1, 32, 0, false, {{100, 1, 150, 49}, {}}}, 412);
  check({{420}, 1, 1, 64, 3, false, {{3, 200, 1, 216}}}, 413);
  check({{280}, 1, 1, 128, 0, false, {{0, 130, 150}}}, 414, 6);
}

static void branches_equal_separate_sequences(void **) {
  check_separate_sequences({{90, 40}, 2, 1, 32, 0, false, {{20, 30, 1, 39}, {0, 10, 30}}}, 420,
                           [](const Attention *op) { cuda_attention(emulator_backend(), op); });
}

static void full_rows_see_later_keys(void **) {
  check({{17, 70, 0, 1, 64}, 2, 1, 16, 0, true}, 430);
  check({{33, 65}, 1, 1, 128, 21, true}, 431);
  check({{259, 48}, 1, 1, 64, 0, true}, 432);
  check({{257, 5}, 1, 1, 128, 7, true}, 433);
}

static void lse_may_be_left_out(void **) {
  AttentionCase c({{40, 7}, 2, 2, 32}, 220);
  std::vector<double> want_out, want_lse;
  c.forward(&want_out, &want_lse);
  DeviceArray<bf16> out(want_out.size());
  Attention op = c.forward_op(out.get(), nullptr);
  cuda_attention(emulator_backend(), &op);
  expect_close("out", out.get(), want_out, 8e-3, 8e-3);
}

static void an_empty_batch_does_nothing(void **) {
  check({{}, 2, 2, 32}, 230);
  check({{0, 0}, 2, 2, 32}, 231);
  check({{0, 0}, 2, 2, 32, 9}, 232);
}

int main() {
  cuda_state(emulator_backend())->hopper = false; /* its kernels have tests of their own */
  const CMUnitTest tests[] = {
      cmocka_unit_test(every_width_up_to_128),
      cmocka_unit_test(ragged_sequences_do_not_see_each_other),
      cmocka_unit_test(tiles_of_short_sequences_meet_at_their_edges),
      cmocka_unit_test(tiles_of_long_sequences_meet_at_their_edges),
      cmocka_unit_test(every_width_in_long_batches),
      cmocka_unit_test(query_heads_share_key_heads),
      cmocka_unit_test(a_prefix_comes_before_every_sequence),
      cmocka_unit_test(prefixes_meet_the_tiles_at_their_edges),
      cmocka_unit_test(query_heads_share_the_prefix_of_their_key_head),
      cmocka_unit_test(large_scores_stay_finite),
      cmocka_unit_test(branches_see_the_shared_part_and_themselves),
      cmocka_unit_test(branches_cross_tiles),
      cmocka_unit_test(branches_equal_separate_sequences),
      cmocka_unit_test(full_rows_see_later_keys),
      cmocka_unit_test(lse_may_be_left_out),
      cmocka_unit_test(an_empty_batch_does_nothing),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}

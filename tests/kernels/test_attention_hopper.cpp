/* cuda/attention_hopper.cu on the emulator against double precision and against the portable kernel. On a GPU
 * without compute capability 9.0 there is nothing to test. */
#include "attention_reference.h"

static bool available() {
  static const bool found = cuda_state(emulator_backend())->hopper;
  return found;
}

static void check(const AttentionShape &shape, uint32_t test_case, float scale = 1) {
  if (!available()) skip();
  check_forward(AttentionCase(shape, test_case, scale), scale,
                [](const Attention *op) { assert_true(cuda_attention_hopper(emulator_backend(), op)); });
}

static void rows_of_every_length_up_to_two_tiles(void **) {
  check({{0, 1, 2, 63, 64, 65}, 1, 1, 64, 0}, 0);
  check({{127, 128, 129, 31}, 1, 1, 64, 0}, 1);
  check({{160, 191, 7}, 1, 1, 64, 0}, 2);
  check({{192, 193, 3}, 1, 1, 64, 0}, 3);
  check({{1, 63, 64, 65, 0, 127}, 1, 1, 128, 0}, 4);
  check({{128, 129, 5}, 1, 1, 128, 0}, 5);
}

static void long_rows_go_over_many_blocks(void **) {
  check({{577, 13}, 1, 1, 64, 0}, 20);
  check({{385}, 1, 1, 128, 0}, 21);
  check({{256, 257}, 1, 1, 128, 0}, 22);
}

static void ragged_rows_do_not_see_each_other(void **) {
  TestRandom random(30);
  for (uint32_t i = 0; i < 2; i++) {
    std::vector<int> lengths;
    for (int b = 0; b < 5; b++) lengths.push_back(random.below(180));
    check({lengths, 2, 2, i ? 128 : 64, 0}, 31 + i);
  }
}

static void query_heads_share_key_heads(void **) {
  check({{70, 131}, 6, 2, 64, 0}, 40);
  check({{33, 140}, 4, 1, 128, 0}, 41);
}

static void every_query_sees_the_prefix(void **) {
  const int lengths[] = {1, 7, 128, 130};
  uint32_t test_case = 50;
  for (int length : lengths) check({{5, 160, 0, 64}, 1, 1, 64, length}, test_case++);
  check({{1, 129}, 2, 1, 128, 127}, test_case++);
  check({{1, 29}, 2, 1, 128, 128}, test_case);
}

/* The first block that is visited is the last of the row: its edges, and tiles with consumers beyond the end.
 */
static void full_rows_see_later_keys(void **) {
  check({{1, 64, 65, 127, 128, 129}, 1, 1, 64, 0, true}, 200);
  check({{193, 0, 20}, 2, 1, 64, 5, true}, 201);
  check({{128, 1, 63}, 1, 1, 128, 0, true}, 202);
  check({{65, 0, 257}, 2, 1, 128, 129, true}, 203);
  TestRandom random(204);
  for (uint32_t i = 0; i < 2; i++)
    check({{random.below(300), random.below(120), random.below(60)}, 1, 1, i ? 128 : 64, 0, true}, 205 + i);
}

static void branches_see_the_shared_part_and_themselves(void **) {
  check({{40, 17, 0, 70}, 2, 1, 64, 0, false, {{5, 1, 20, 14}, {}, {}, {0, 4, 66}}}, 210);
  check({{150, 20}, 1, 1, 128, 5, false, {{130, 10, 10}, {7, 6, 7}}}, 211);
  check(random_branches(212, 150, 1, 1, 64, 9), 212);
  check(random_branches(213, 150, 2, 1, 128), 213);
}

/* Blocks of 128 keys between the shared part and a tile's branches are left out, one of the first case and
 * two of the second; where a branch ends within a tile, one consumer has to hide what another sees. */
static void branches_cross_tiles(void **) {
  check({{520}, 1, 1, 64, 3, false, {{3, 270, 1, 246}}}, 220);
  check({{390}, 1, 1, 128, 0, false, {{0, 258, 132}}}, 221, 6);
  check({{192, 256}, 1, 1, 64, 0, false, {{128, 64}, {64, 64, 128}}}, 222);
}

static void branches_equal_separate_sequences(void **) {
  if (!available()) skip();
  check_separate_sequences(
      {{90, 140}, 2, 1, 64, 0, false, {{20, 30, 1, 39}, {0, 10, 130}}}, 230,
      [](const Attention *op) { assert_true(cuda_attention_hopper(emulator_backend(), op)); });
}

static void large_scores_stay_finite(void **) {
  check({{150, 20}, 1, 1, 64, 9}, 70, 8);
  check({{150, 20}, 1, 1, 128, 0}, 71, 8);
  check({{150, 20}, 1, 1, 64, 9, true}, 72, 8);
}

static void an_empty_batch_does_nothing(void **) {
  check({{}, 2, 2, 64, 0}, 80);
  check({{0, 0}, 2, 2, 128, 3}, 81);
}

static void lse_may_be_left_out(void **) {
  if (!available()) skip();
  AttentionCase c({{90, 10}, 2, 2, 64, 4}, 90);
  std::vector<double> want_out, want_lse;
  c.forward(&want_out, &want_lse);
  DeviceArray<bf16> out(want_out.size());
  Attention op = c.forward_op(out.get(), nullptr);
  assert_true(cuda_attention_hopper(emulator_backend(), &op));
  expect_close("out", out.get(), want_out, 8e-3, 8e-3);
}

static void other_widths_are_left_to_the_portable_kernel(void **) {
  AttentionCase c({{9, 3}, 2, 2, 32, 0}, 91);
  DeviceArray<bf16> out(c.tokens * c.out_width);
  Attention op = c.forward_op(out.get(), nullptr);
  assert_false(cuda_attention_hopper(emulator_backend(), &op));
  for (size_t i = 0; i < out.count(); i++) assert_int_equal(out[i].bits, 0xFFFF);
}

/* cuda_attention with and without the kernels for 9.0. */
static void both_kernels_compute_the_same(void **) {
  if (!available()) skip();
  CudaState *state = cuda_state(emulator_backend());
  const int widths[] = {64, 128};
  for (int d : widths) {
    AttentionCase c({{160, 1, 100, 300}, 2, 1, d, 9}, static_cast<uint32_t>(100 + d));
    DeviceArray<bf16> out(c.tokens * c.out_width), portable(c.tokens * c.out_width);
    DeviceArray<float> lse(c.tokens * 2), portable_lse(c.tokens * 2);
    Attention op = c.forward_op(out.get(), lse.get()),
              other = c.forward_op(portable.get(), portable_lse.get());
    cuda_attention(emulator_backend(), &op);
    state->hopper = false;
    assert_false(cuda_attention_hopper(emulator_backend(), &other));
    cuda_attention(emulator_backend(), &other);
    state->hopper = true;
    std::vector<double> want, want_lse;
    for (size_t i = 0; i < portable.count(); i++) want.push_back(number(portable[i]));
    for (size_t i = 0; i < portable_lse.count(); i++) want_lse.push_back(number(portable_lse[i]));
    expect_close("out", out.get(), want, 8e-3, 8e-3);
    expect_close("lse", lse.get(), want_lse, 1e-5, 1e-4);
  }
}

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(rows_of_every_length_up_to_two_tiles),
      cmocka_unit_test(long_rows_go_over_many_blocks),
      cmocka_unit_test(ragged_rows_do_not_see_each_other),
      cmocka_unit_test(query_heads_share_key_heads),
      cmocka_unit_test(every_query_sees_the_prefix),
      cmocka_unit_test(full_rows_see_later_keys),
      cmocka_unit_test(branches_see_the_shared_part_and_themselves),
      cmocka_unit_test(branches_cross_tiles),
      cmocka_unit_test(branches_equal_separate_sequences),
      cmocka_unit_test(large_scores_stay_finite),
      cmocka_unit_test(an_empty_batch_does_nothing),
      cmocka_unit_test(lse_may_be_left_out),
      cmocka_unit_test(other_widths_are_left_to_the_portable_kernel),
      cmocka_unit_test(both_kernels_compute_the_same),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}

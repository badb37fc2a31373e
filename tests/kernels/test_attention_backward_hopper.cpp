/* cuda/attention_backward_hopper.cu, and the long rows' second kernel, on the emulator against double
 * precision and against the portable kernels. On a GPU without compute capability 9.0 there is nothing to
 * test. */
#include "attention_reference.h"
#include "attention_tile.cuh"

static void check(const AttentionShape &shape, uint32_t test_case) {
  if (!cuda_state(emulator_backend())->hopper) skip();
  AttentionCase c(shape, test_case);
  assert_true(hopper_fits(emulator_backend(), c.forward_op(nullptr, nullptr)));
  check_backward(c);
}

static void one_tile_covers_short_rows(void **) {
  check({{0, 1, 2, 63, 64, 65}, 1, 1, 64, 0}, 0);
  check({{127, 129, 31}, 1, 1, 64, 0}, 1);
  check({{160, 192}, 1, 1, 64, 0}, 2);
  check({{1, 63, 65, 0, 128}, 1, 1, 128, 0}, 3);
}

static void ragged_rows_do_not_touch_each_other(void **) {
  TestRandom random(30);
  for (uint32_t i = 0; i < 2; i++) {
    std::vector<int> lengths;
    for (int b = 0; b < 4; b++) lengths.push_back(random.below(i ? 129 : 193));
    check({lengths, 2, 2, i ? 128 : 64, 0}, 31 + i);
  }
}

static void shared_key_heads_sum_over_their_group(void **) {
  check({{20, 131}, 6, 2, 64, 0}, 40);
  check({{33, 100}, 4, 1, 128, 0}, 41);
}

static void long_rows_take_two_kernels(void **) {
  check({{193, 5}, 1, 1, 64, 0}, 50);
  check({{257}, 2, 1, 64, 0}, 51);
  check({{257, 0, 1}, 1, 1, 128, 0}, 52);
}

/* Keys beyond a row's end are nobody's future: they are hidden one by one, and their consumers idle. */
static void full_rows_see_later_keys(void **) {
  check({{1, 65, 0, 130, 192}, 1, 1, 64, 0, true}, 200);
  check({{128, 20}, 2, 1, 128, 0, true}, 201);
  check({{193, 20}, 1, 1, 64, 0, true}, 202);
  check({{129, 0}, 2, 1, 128, 0, true}, 203);
  TestRandom random(204);
  for (uint32_t i = 0; i < 2; i++) {
    int longest = random.below(i ? 130 : 200);
    check({{longest, random.below(80)}, 1, 1, i ? 128 : 64, 0, true}, 205 + i);
  }
}

static void branches_touch_the_shared_part_and_themselves(void **) {
  check({{40, 17, 0, 70}, 2, 1, 64, 0, false, {{5, 1, 20, 14}, {}, {}, {0, 4, 66}}}, 210);
  check({{192, 20}, 1, 1, 64, 0, false, {{100, 92}, {7, 6, 7}}}, 211);
  check({{128, 33}, 2, 1, 128, 0, false, {{30, 40, 58}, {0, 33}}}, 212);
  check(random_branches(213, 150, 1, 1, 64), 213);
  check(random_branches(214, 100, 1, 1, 128), 214);
}

/* Steps of queries behind the last branch that sees one of an item's keys are left out, and blocks of keys
 * between the shared part and an item's branches. */
static void branches_cross_tiles(void **) {
  check({{403}, 1, 1, 64, 0, false, {{3, 250, 140, 10}}}, 220);
  check({{300, 20}, 2, 1, 128, 0, false, {{0, 128, 64, 108}, {}}}, 221);
}

/* dq comes from the second kernel then, and the prefix's own gradient from the portable one. */
static void every_query_sees_the_prefix(void **) {
  check({{5, 65, 0}, 2, 1, 64, 64}, 230);
  check({{1, 70}, 1, 1, 64, 7}, 231);
  check({{1, 129}, 1, 1, 128, 65}, 232);
  check({{70, 20}, 2, 2, 128, 9, true}, 233);
  check(random_branches(234, 60, 1, 1, 64, 70), 234);
}

/* exp(-lse), the weight of a key of zeros, is infinite: keys beyond the end are that. */
static void low_scores_leave_gradients_finite(void **) {
  if (!cuda_state(emulator_backend())->hopper) skip();
  const AttentionShape shapes[] = {
      {{9, 40}, 1, 1, 64, 20}, {{9, 40}, 1, 1, 64, 20, true}, {{70}, 1, 1, 128, 0, true}};
  for (const AttentionShape &shape : shapes) {
    AttentionCase c(shape, 250);
    c.lower_scores(5); /* to about -200 */
    check_backward(c, 20);
  }
}

static void a_frozen_prefix_has_no_gradient(void **) {
  if (!cuda_state(emulator_backend())->hopper) skip();
  AttentionCase c({{20, 7}, 2, 1, 64, 10}, 240);
  BackwardArrays a(c);
  AttentionBackward op = a.op(c, nullptr);
  cuda_attention_backward(emulator_backend(), &op);
  expect_close("dqkv", a.dqkv.get(), c.backward(a.dout, nullptr), 0.015, 0.03);
}

static void both_kernels_compute_the_same(void **) {
  CudaState *state = cuda_state(emulator_backend());
  if (!state->hopper) skip();
  const int widths[] = {64, 128};
  for (int d : widths) {
    AttentionCase c({{100, 1, 77}, 2, 1, d, 0}, static_cast<uint32_t>(60 + d));
    BackwardArrays a(c);
    AttentionBackward op = a.op(c, nullptr);
    cuda_attention_backward(emulator_backend(), &op);
    std::vector<double> hopper;
    for (size_t i = 0; i < a.dqkv.count(); i++) hopper.push_back(number(a.dqkv[i]));
    a.dqkv.poison();
    state->hopper = false;
    cuda_attention_backward(emulator_backend(), &op);
    state->hopper = true;
    expect_close("dqkv", a.dqkv.get(), hopper, 0.015, 0.03);
    size_t equal = 0; /* all, if one of them had run twice: sums are in another order */
    for (size_t i = 0; i < a.dqkv.count(); i++) equal += number(a.dqkv[i]) == hopper[i];
    assert_true(equal < a.dqkv.count());
  }
}

static void an_empty_batch_does_nothing(void **) {
  check({{}, 2, 2, 64, 0}, 80);
  check({{0, 0}, 2, 2, 128, 0}, 81);
}

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(one_tile_covers_short_rows),
      cmocka_unit_test(ragged_rows_do_not_touch_each_other),
      cmocka_unit_test(shared_key_heads_sum_over_their_group),
      cmocka_unit_test(long_rows_take_two_kernels),
      cmocka_unit_test(full_rows_see_later_keys),
      cmocka_unit_test(branches_touch_the_shared_part_and_themselves),
      cmocka_unit_test(branches_cross_tiles),
      cmocka_unit_test(every_query_sees_the_prefix),
      cmocka_unit_test(low_scores_leave_gradients_finite),
      cmocka_unit_test(a_frozen_prefix_has_no_gradient),
      cmocka_unit_test(both_kernels_compute_the_same),
      cmocka_unit_test(an_empty_batch_does_nothing),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}

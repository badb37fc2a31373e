/* The rules of the curriculum, each on samples small enough to work out by hand. */
#include <math.h>

#include "curriculum.h"
#include "testing.h"

static const CurriculumSettings plain = {.rank_keep = 1.0 / 3,
                                         .pace_start = 0.01,
                                         .pace_decay = 0.95,
                                         .pace_q_start = 0.2,
                                         .pace_q_end_at = 0.5,
                                         .pace_order = ORDER_EASY};

static const RandomKey key = {1, RANDOM_CURRICULUM, 0};

static CurriculumStep choose(const CurriculumSettings *settings, int64_t step, CurriculumSample *samples,
                             int count) {
  Arena scratch = {0};
  CurriculumStep out = curriculum_select(settings, step, 100, key, samples, count, &scratch);
  arena_free(&scratch);
  return out;
}

/* post, reward, logprob, length */
static const CurriculumSample six[] = {{0, 0.9, -1, 4, 0, 0, KEPT},  {0, 0.1, -2, 6, 0, 0, KEPT},
                                       {0, 0.8, -9, 12, 0, 0, KEPT}, {1, -3.0, -1, 3, 0, 0, KEPT},
                                       {1, -0.2, -4, 8, 0, 0, KEPT}, {1, 0.3, -3, 5, 0, 0, KEPT}};

static void copy(CurriculumSample *out) {
  for (int i = 0; i < 6; i++) out[i] = six[i];
}

static void no_curriculum_keeps_everything(void **state) {
  (void)state;
  CurriculumSample samples[6];
  copy(samples);
  CurriculumStep out = choose(&plain, 0, samples, 6);
  assert_int_equal(out.kept_pace, 6);
  assert_true(isnan(out.threshold));
}

static void batch_rank_keeps_the_highest_rewards_of_all_posts(void **state) {
  (void)state;
  CurriculumSample samples[6];
  copy(samples);
  CurriculumSettings settings = plain;
  settings.rank = RANK_BATCH;
  CurriculumStep out = choose(&settings, 0, samples, 6);
  assert_int_equal(out.kept_rank, 2);
  assert_int_equal(samples[0].fate, KEPT);
  assert_int_equal(samples[2].fate, KEPT);
  assert_int_equal(samples[5].fate, DROPPED_BY_RANK);
}

static void post_rank_keeps_the_best_of_each_post(void **state) {
  (void)state;
  CurriculumSample samples[6];
  copy(samples);
  CurriculumSettings settings = plain;
  settings.rank = RANK_POST;
  CurriculumStep out = choose(&settings, 0, samples, 6);
  assert_int_equal(out.kept_rank, 2);
  assert_int_equal(samples[0].fate, KEPT);
  assert_int_equal(samples[2].fate, DROPPED_BY_RANK);
  assert_int_equal(samples[5].fate, KEPT);
}

static void reward_prob_drops_what_is_not_above_lambda(void **state) {
  (void)state;
  CurriculumSample samples[6];
  copy(samples);
  CurriculumSettings settings = plain;
  settings.pace = PACE_REWARD_PROB;
  CurriculumStep out = choose(&settings, 0, samples, 6);
  for (int i = 0; i < 6; i++)
    assert_int_equal(samples[i].fate, six[i].reward * exp(six[i].logprob) > 0.01 ? KEPT : DROPPED_BY_PACE);
  assert_int_equal(out.kept_pace, 3);
  assert_float_equal(out.threshold, 0.01, 1e-12);
}

static void the_released_code_lets_very_negative_rewards_pass(void **state) {
  (void)state;
  CurriculumSample samples[6];
  copy(samples);
  CurriculumSettings settings = plain;
  settings.pace = PACE_REWARD_PROB;
  settings.pace_absolute = true;
  choose(&settings, 0, samples, 6);
  assert_int_equal(samples[3].fate, KEPT);
}

static void lambda_decays_every_step_until_long_replies_pass(void **state) {
  (void)state;
  CurriculumSettings settings = plain;
  settings.pace = PACE_REWARD_PROB;
  settings.pace_absolute = true;
  /* mean token probability 1/2, reward 1: |R prob| = 2^-n passes when lambda = 0.01 * 0.95^step is below it
   */
  for (int n = 10; n <= 30; n += 10) {
    int first = -1;
    for (int step = 0; step < 400 && first < 0; step++) {
      CurriculumSample sample = {.reward = 1, .logprob = -n * log(2), .length = n};
      if (choose(&settings, step, &sample, 1).kept_pace) first = step;
    }
    assert_int_equal(first, n == 10 ? 46 : n == 20 ? 181 : 316);
  }
}

static void geometric_probability_does_not_depend_on_length(void **state) {
  (void)state;
  CurriculumSettings settings = plain;
  settings.pace_prob = PROB_GEOMETRIC;
  assert_float_equal(sample_probability(&settings, -10 * log(2), 10), 0.5, 1e-12);
  assert_float_equal(sample_probability(&settings, -30 * log(2), 30), 0.5, 1e-12);
}

static void quantile_grows_from_its_start_to_all(void **state) {
  (void)state;
  for (int q = Q_LINEAR; q <= Q_COMPETENCE; q++) {
    CurriculumSettings settings = plain;
    settings.pace_q = (PaceQ)q;
    assert_float_equal(pace_quantile(&settings, 0, 100), 0.2, 1e-9);
    for (int step = 1; step <= 100; step++)
      assert_true(pace_quantile(&settings, step, 100) >= pace_quantile(&settings, step - 1, 100));
    assert_float_equal(pace_quantile(&settings, 50, 100), 1, 1e-9);
    assert_float_equal(pace_quantile(&settings, 99, 100), 1, 1e-9);
  }
}

static void easy_and_hard_keep_opposite_ends_and_random_the_same_number(void **state) {
  (void)state;
  CurriculumSettings settings = plain;
  settings.pace = PACE_QUANTILE;
  settings.pace_difficulty = DIFFICULTY_LENGTH;
  settings.pace_q_start = 0.5;
  int counts[3];
  SampleFate fates[3][6];
  for (int order = ORDER_EASY; order <= ORDER_RANDOM; order++) {
    CurriculumSample samples[6];
    copy(samples);
    settings.pace_order = (PaceOrder)order;
    counts[order] = choose(&settings, 0, samples, 6).kept_pace;
    for (int i = 0; i < 6; i++) fates[order][i] = samples[i].fate;
  }
  assert_int_equal(counts[ORDER_EASY], 3);
  assert_int_equal(counts[ORDER_HARD], 3);
  assert_int_equal(counts[ORDER_RANDOM], 3);
  for (int i = 0; i < 6; i++) assert_int_not_equal(fates[ORDER_EASY][i], fates[ORDER_HARD][i]);
  assert_int_equal(fates[ORDER_EASY][3], KEPT); /* the shortest */
  assert_int_equal(fates[ORDER_HARD][2], KEPT); /* the longest */
}

static void random_order_keeps_as_many_as_reward_prob_would(void **state) {
  (void)state;
  CurriculumSample samples[6];
  copy(samples);
  CurriculumSettings settings = plain;
  settings.pace = PACE_REWARD_PROB;
  settings.pace_order = ORDER_RANDOM;
  assert_int_equal(choose(&settings, 0, samples, 6).kept_pace, 3);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(no_curriculum_keeps_everything),
      cmocka_unit_test(batch_rank_keeps_the_highest_rewards_of_all_posts),
      cmocka_unit_test(post_rank_keeps_the_best_of_each_post),
      cmocka_unit_test(reward_prob_drops_what_is_not_above_lambda),
      cmocka_unit_test(the_released_code_lets_very_negative_rewards_pass),
      cmocka_unit_test(lambda_decays_every_step_until_long_replies_pass),
      cmocka_unit_test(geometric_probability_does_not_depend_on_length),
      cmocka_unit_test(quantile_grows_from_its_start_to_all),
      cmocka_unit_test(easy_and_hard_keep_opposite_ends_and_random_the_same_number),
      cmocka_unit_test(random_order_keeps_as_many_as_reward_prob_would),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

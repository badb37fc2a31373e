/* Intervals, the sign-flip test and Holm's correction, against values from tables and by hand. */
#include <math.h>
#include <stdlib.h>

#include "base/philox.h"
#include "statistics.h"
#include "testing.h"

static void near(double have, double want, double tolerance) {
  if (!(fabs(have - want) <= tolerance)) fail_msg("%.15g, expected %.15g", have, want);
}

static void student_t_quantiles_equal_the_tables(void **state) {
  (void)state;
  static const struct {
    double probability, freedom, t;
  } table[] = {{0.975, 1, 12.706204736432095}, {0.975, 2, 4.302652729911275},
               {0.975, 4, 2.776445105197793},  {0.975, 9, 2.262157162740992},
               {0.95, 5, 2.015048372669157},   {0.995, 10, 3.169272672616873},
               {0.975, 1000, 1.962339080792},  {0.5, 3, 0},
               {0.025, 4, -2.776445105197793}};
  for (size_t i = 0; i < sizeof table / sizeof *table; i++)
    near(student_t_quantile(table[i].probability, table[i].freedom), table[i].t,
         1e-7 * (1 + fabs(table[i].t)));
}

static void the_interval_is_students(void **state) {
  (void)state;
  const double values[] = {1, 2, 3, 4, 5}; /* mean 3, s / sqrt(n) = sqrt(2.5 / 5) */
  Interval interval = interval_95(values, 5);
  near(interval.mean, 3, 0);
  near(interval.high - 3, 2.776445105197793 * sqrt(0.5), 1e-8);
  near(3 - interval.low, interval.high - 3, 1e-12);
  assert_true(isnan(interval_95(values, 1).low));
  assert_true(isnan(interval_95(values, 0).mean));
}

static void the_interval_covers_the_truth_as_often_as_it_says(void **state) {
  (void)state;
  const RandomKey key = {.seed = 5, .use = RANDOM_TEST};
  int covered = 0, trials = 4000;
  for (uint32_t trial = 0; trial < (uint32_t)trials; trial++) {
    double values[5];
    for (uint32_t i = 0; i < 5; i++) values[i] = random_normal(key, trial, i);
    Interval interval = interval_95(values, 5);
    covered += interval.low <= 0 && 0 <= interval.high;
  }
  near((double)covered / trials, 0.95, 0.012); /* 3.5 standard errors */
}

static void sign_flips_are_counted_exactly(void **state) {
  (void)state;
  const double same_sign[] = {0.5, 0.1, 0.7, 0.2, 0.3};
  near(sign_flip_p(same_sign, 5), 2.0 / 32, 0); /* only all plus and all minus reach the sum */
  const double mixed[] = {3, 2, -1};            /* |sum| 4; reached by +3+2+1, +3+2-1 and their opposites */
  near(sign_flip_p(mixed, 3), 4.0 / 8, 0);
  const double zeros[] = {0, 0, 0};
  near(sign_flip_p(zeros, 3), 1, 0);
  assert_true(isnan(sign_flip_p(zeros, 0)));
}

static void many_pairs_are_sampled_near_the_exact_value(void **state) {
  (void)state;
  double differences[20];
  for (int i = 0; i < 20; i++) differences[i] = i < 14 ? 1 : -1; /* sum 8: P(|S| >= 8) of 20 fair coins */
  double exact = 0, choose = 1;                                  /* C(20, k) */
  for (int k = 0; k <= 20; k++) {
    if (abs(20 - 2 * k) >= 8) exact += choose / 1048576;
    choose = choose * (20 - k) / (k + 1);
  }
  near(sign_flip_p(differences, 20), exact, 0.006);
}

static void sign_flips_keep_their_level(void **state) {
  (void)state;
  const RandomKey key = {.seed = 9, .use = RANDOM_TEST};
  int rejected = 0, trials = 4000;
  for (uint32_t trial = 0; trial < (uint32_t)trials; trial++) {
    double differences[6];
    for (uint32_t i = 0; i < 6; i++) differences[i] = random_normal(key, trial, i);
    rejected += sign_flip_p(differences, 6) <= 0.0625;
  }
  near((double)rejected / trials, 0.0625, 0.015);
}

static void holm_steps_down_and_never_falls(void **state) {
  (void)state;
  double p[] = {0.01, NAN, 0.04, 0.03, 0.005};
  const double want[] = {0.03, NAN, 0.06, 0.06,
                         0.02}; /* sorted: 4 x .005, 3 x .01, 2 x .03, then at least .06 */
  holm(p, 5);
  for (int i = 0; i < 5; i++) {
    if (i == 1)
      assert_true(isnan(p[i]));
    else
      near(p[i], want[i], 1e-15);
  }
  double equal[] = {0.5, 0.5, 0};
  holm(equal, 3);
  near(equal[0], 1, 0);
  near(equal[2], 0, 0);
}

static void the_sign_test_is_the_binomial_one(void **state) {
  (void)state;
  const double eight_of_ten[] = {1, 2, 1, 3, 1, 1, 5, 1, -1, -9};
  near(sign_test_p(eight_of_ten, 10), 0.109375, 1e-15); /* 2 (1 + 10 + 45) / 1024 */
  const double with_zeros[] = {1, 0, 2, 3, 0, 4};
  near(sign_test_p(with_zeros, 6), 0.125, 1e-15); /* four of four */
  const double even[] = {1, -1}, zero[] = {0};
  near(sign_test_p(even, 2), 1, 0);
  near(sign_test_p(zero, 1), 1, 0);
  assert_true(isnan(sign_test_p(even, 0)));
}

static void the_effect_size_is_hedges(void **state) {
  (void)state;
  const double values[] = {1, 2, 3, 4, 5}; /* 3 / sqrt(2.5), corrected by 1 - 3 / 15 */
  near(effect_size(values, 5), 0.8 * 3 / sqrt(2.5), 1e-12);
  const double same[] = {0.1, 0.1, 0.1};
  assert_true(isnan(effect_size(same, 3)));
  assert_true(isnan(effect_size(values, 1)));
  const double falling[] = {-1, -2};
  near(effect_size(falling, 2), -1.5 / sqrt(0.5), 1e-12);
}

/* All 27 resamples of three pairs: those with a sum of 0 or less are counted. */
static void the_bootstrap_resamples_pairs(void **state) {
  (void)state;
  Arena arena = {0};
  const double differences[] = {3, 2, -1};
  Bootstrap bootstrap = bootstrap_make(&arena, 3);
  double p, again, at_or_below = 0;
  Interval interval = bootstrap_95(&bootstrap, differences, &p);
  for (int i = 0; i < 27; i++)
    at_or_below += differences[i % 3] + differences[i / 3 % 3] + differences[i / 9] <= 0;
  near(p, 2 * at_or_below / 27, 0.03);
  near(interval.mean, 4.0 / 3, 1e-15);
  near(interval.low, -1, 0); /* 1 of 27, above 2.5% */
  near(interval.high, 3, 0);
  Bootstrap second = bootstrap_make(&arena, 3);
  assert_true(bootstrap_95(&second, differences, &again).low == interval.low && again == p);
  const double same[] = {0.5, 0.5, 0.5};
  interval = bootstrap_95(&bootstrap, same, &p);
  assert_true(interval.low == 0.5 && interval.high == 0.5);
  near(p, 2.0 / 4001, 1e-15);
  Bootstrap one = bootstrap_make(&arena, 1);
  assert_true(isnan(bootstrap_95(&one, same, &p).low) && isnan(p));
  arena_free(&arena);
}

static void the_bootstrap_interval_covers_the_truth_with_many_pairs(void **state) {
  (void)state;
  Arena arena = {0};
  const RandomKey key = {.seed = 6, .use = RANDOM_TEST};
  Bootstrap bootstrap = bootstrap_make(&arena, 40);
  int covered = 0, rejected = 0, trials = 300;
  for (uint32_t trial = 0; trial < (uint32_t)trials; trial++) {
    double values[40], p;
    for (uint32_t i = 0; i < 40; i++) values[i] = random_normal(key, trial, i);
    Interval interval = bootstrap_95(&bootstrap, values, &p);
    bool covers = interval.low <= 0 && 0 <= interval.high;
    covered += covers;
    rejected += p < 0.05;
  }
  near((double)covered / trials, 0.94, 0.04);
  near((double)rejected / trials, 0.06, 0.04);
  arena_free(&arena);
}

static void too_few_pairs_cannot_tell(void **state) {
  (void)state;
  near(smallest_p(5, 1), 0.0625, 0);
  near(smallest_p(9, 8), 8.0 / 256, 0);
  near(smallest_p(2, 9), 1, 0);
  assert_int_equal(pairs_needed(1), 6);
  assert_int_equal(pairs_needed(8), 9);
  for (int comparisons = 1; comparisons < 20; comparisons++) {
    int pairs =
        pairs_needed(comparisons); /* the very best result is significant with them, and not with one less */
    double best[32];
    for (int i = 0; i < pairs; i++) best[i] = 1 + i;
    assert_true(comparisons * sign_flip_p(best, pairs) < 0.05);
    assert_true(comparisons * sign_flip_p(best, pairs - 1) >= 0.05);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(student_t_quantiles_equal_the_tables),
      cmocka_unit_test(the_interval_is_students),
      cmocka_unit_test(the_interval_covers_the_truth_as_often_as_it_says),
      cmocka_unit_test(sign_flips_are_counted_exactly),
      cmocka_unit_test(many_pairs_are_sampled_near_the_exact_value),
      cmocka_unit_test(sign_flips_keep_their_level),
      cmocka_unit_test(the_sign_test_is_the_binomial_one),
      cmocka_unit_test(the_effect_size_is_hedges),
      cmocka_unit_test(the_bootstrap_resamples_pairs),
      cmocka_unit_test(the_bootstrap_interval_covers_the_truth_with_many_pairs),
      cmocka_unit_test(too_few_pairs_cannot_tell),
      cmocka_unit_test(holm_steps_down_and_never_falls),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Comparing arms over seeds: intervals, paired tests that assume no distribution, the size of an effect, and
 * the correction for several comparisons. */
#ifndef POPALM_STATISTICS_H
#define POPALM_STATISTICS_H

#include <stdbool.h>

#include "base/arena.h"

typedef struct Interval {
  double mean;
  double low, high; /* 95%, Student's t; NaN for fewer than two values */
} Interval;

Interval interval_95(const double *values, int count);

/* P(T <= t) for Student's t with `freedom` degrees. */
double student_t_cdf(double t, double freedom);
/* The t with that probability; 0 < probability < 1. */
double student_t_quantile(double probability, double freedom);

/* Two-sided p-value of paired differences under "their signs are random" (Fisher's randomisation): the share
 * of all 2^n sign patterns whose |sum| is at least the observed one. Exact up to 16 pairs, beyond that 65536
 * patterns from a fixed seed. The smallest value that n pairs can give is 2 / 2^n. NaN without a pair. */
double sign_flip_p(const double *differences, int count);

/* Two-sided exact sign test: P(a fair coin is as uneven as the signs are), zeros left out. NaN without a
 * pair. */
double sign_test_p(const double *differences, int count);

/* Mean over standard deviation of paired differences, with Hedges' correction 1 - 3 / (4 (n - 1) - 1) for few
 * pairs. NaN for fewer than two, or when they are all the same. */
double effect_size(const double *differences, int count);

/* Resamples of `count` pairs with replacement, from a fixed seed: the same for every arm and metric. */
typedef struct Bootstrap {
  int count, resamples;
  const int *pick; /* [resamples][count] indices of pairs */
} Bootstrap;
Bootstrap bootstrap_make(Arena *arena, int count);
/* Mean and the 2.5 and 97.5 percentiles of the resampled means; *p: twice the smaller share of means at or
 * beyond 0 (the observed one counts as one more), at most 1. NaN for fewer than two pairs. With few pairs
 * both are too optimistic: n pairs have only a few different resamples. */
Interval bootstrap_95(const Bootstrap *bootstrap, const double *differences, double *p);

void sort_rising(double *values, int count);
/* Of sorted values: the one below which the share lies, between neighbours by their distance. */
double quantile(const double *sorted, int count, double share);

/* The smallest p-value that `pairs` of the sign-flip test can give after Holm's correction for `comparisons`,
 * and the least number of pairs with which it is below 0.05. */
double smallest_p(int pairs, int comparisons);
int pairs_needed(int comparisons);

/* Holm's step-down correction (1979), in place; NaN stays and does not count. */
void holm(double *p, int count);

#endif

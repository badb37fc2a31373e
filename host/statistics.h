/* Comparing arms over seeds: intervals, a paired test that assumes no distribution, and its correction for
 * several comparisons. */
#ifndef POPALM_STATISTICS_H
#define POPALM_STATISTICS_H

#include <stdbool.h>

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

/* Holm's step-down correction (1979), in place; NaN stays and does not count. */
void holm(double *p, int count);

#endif

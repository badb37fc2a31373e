#include "statistics.h"

#include <math.h>
#include <stdlib.h>

#include "base/philox.h"

enum { EXACT_PAIRS = 16, PATTERNS = 1 << EXACT_PAIRS, MAX_TERMS = 300, RESAMPLES = 4000 };

/* Continued fraction of the incomplete beta function, by Lentz's method (Numerical Recipes, 6.4). */
static double beta_fraction(double a, double b, double x) {
  const double tiny = 1e-300;
  double c = 1, d = 1 - (a + b) * x / (a + 1);
  d = 1 / (fabs(d) < tiny ? tiny : d);
  double value = d;
  for (int m = 1; m <= MAX_TERMS; m++) {
    double before = value;
    for (int odd = 0; odd < 2; odd++) {
      double term = odd ? -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
                        : m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
      d = 1 + term * d;
      c = 1 + term / c;
      d = 1 / (fabs(d) < tiny ? tiny : d);
      if (fabs(c) < tiny) c = tiny;
      value *= d * c;
    }
    if (fabs(value - before) < 1e-16 * fabs(value)) break;
  }
  return value;
}

/* The regularised incomplete beta function I_x(a, b). */
static double incomplete_beta(double a, double b, double x) {
  if (x <= 0 || x >= 1) return x <= 0 ? 0 : 1;
  double front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x));
  if (x < (a + 1) / (a + b + 2)) return front * beta_fraction(a, b, x) / a;
  return 1 - front * beta_fraction(b, a, 1 - x) / b;
}

double student_t_cdf(double t, double freedom) {
  double tail = 0.5 * incomplete_beta(0.5 * freedom, 0.5, freedom / (freedom + t * t));
  return t > 0 ? 1 - tail : tail;
}

double student_t_quantile(double probability, double freedom) {
  double low = -1, high = 1;
  while (student_t_cdf(low, freedom) > probability) low *= 2;
  while (student_t_cdf(high, freedom) < probability) high *= 2;
  for (int i = 0; i < 200 && low < high; i++) {
    double middle = 0.5 * (low + high);
    if (middle <= low || middle >= high) break;
    if (student_t_cdf(middle, freedom) < probability)
      low = middle;
    else
      high = middle;
  }
  return 0.5 * (low + high);
}

Interval interval_95(const double *values, int count) {
  Interval out = {NAN, NAN, NAN};
  double sum = 0, squares = 0;
  for (int i = 0; i < count; i++) sum += values[i];
  if (count > 0) out.mean = sum / count;
  if (count < 2) return out;
  for (int i = 0; i < count; i++) squares += (values[i] - out.mean) * (values[i] - out.mean);
  double half = student_t_quantile(0.975, count - 1) * sqrt(squares / (count - 1) / count);
  out.low = out.mean - half;
  out.high = out.mean + half;
  return out;
}

/* |sum| with the signs of one pattern: its bits, or random bits where there are more pairs than bits. */
static double flipped_sum(const double *differences, int count, uint32_t pattern) {
  const RandomKey key = {.seed = 1, .use = RANDOM_BOOTSTRAP};
  double sum = 0;
  for (int i = 0; i < count; i++) {
    uint32_t bit = count <= EXACT_PAIRS ? pattern >> i : philox(key, pattern, (uint32_t)i).v[0];
    sum += bit & 1 ? -differences[i] : differences[i];
  }
  return fabs(sum);
}

double sign_flip_p(const double *differences, int count) {
  if (count <= 0) return NAN;
  double observed = 0, scale = 0;
  for (int i = 0; i < count; i++) {
    observed += differences[i];
    scale += fabs(differences[i]);
  }
  uint32_t patterns = count <= EXACT_PAIRS ? 1u << count : PATTERNS, extreme = 0;
  for (uint32_t pattern = 0; pattern < patterns; pattern++) /* equal sums may differ in their last bits */
    extreme += flipped_sum(differences, count, pattern) >= fabs(observed) - 1e-12 * scale;
  if (count > EXACT_PAIRS) return (extreme + 1.0) / (patterns + 1.0); /* the observed one is a pattern too */
  return (double)extreme / patterns;
}

double sign_test_p(const double *differences, int count) {
  int rising = 0, falling = 0;
  for (int i = 0; i < count; i++) {
    rising += differences[i] > 0;
    falling += differences[i] < 0;
  }
  if (count <= 0) return NAN;
  int n = rising + falling, fewer = rising < falling ? rising : falling;
  double choose = pow(0.5, n), sum = 0; /* C(n, k) / 2^n */
  for (int k = 0; k <= fewer; k++) {
    sum += choose;
    choose = choose * (n - k) / (k + 1);
  }
  return fmin(1, 2 * sum);
}

double effect_size(const double *differences, int count) {
  double mean = 0, squares = 0, largest = 0;
  for (int i = 0; i < count; i++) mean += differences[i] / count;
  for (int i = 0; i < count; i++) {
    squares += (differences[i] - mean) * (differences[i] - mean);
    largest = fmax(largest, fabs(differences[i]));
  }
  if (count < 2 || isnan(mean)) return NAN;
  double deviation = sqrt(squares / (count - 1));
  if (deviation <= 1e-12 * largest) return NAN; /* rounding of equal differences */
  double correction = count > 2 ? 1 - 3.0 / (4.0 * (count - 1) - 1) : 1;
  return correction * mean / deviation;
}

Bootstrap bootstrap_make(Arena *arena, int count) {
  const RandomKey key = {.seed = 1, .use = RANDOM_BOOTSTRAP, .step = 1};
  int *pick = NEW(arena, int, (size_t)RESAMPLES *(size_t)(count > 0 ? count : 1));
  for (int r = 0; r < RESAMPLES; r++)
    for (int i = 0; i < count; i++)
      pick[r * count + i] = (int)random_below(key, (uint32_t)r, (uint32_t)i, (uint32_t)count);
  return (Bootstrap){count, RESAMPLES, pick};
}

static int rising(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

void sort_rising(double *values, int count) { qsort(values, (size_t)count, sizeof *values, rising); }

double quantile(const double *sorted, int count, double share) {
  double at = share * (count - 1);
  int below = (int)at, above = below + 1 < count ? below + 1 : below;
  return sorted[below] + (at - below) * (sorted[above] - sorted[below]);
}

Interval bootstrap_95(const Bootstrap *bootstrap, const double *differences, double *p) {
  int count = bootstrap->count, low = 0, high = 0;
  double means[RESAMPLES], scale = 0;
  Interval out = interval_95(differences, count);
  *p = NAN;
  if (count < 2 || isnan(out.mean)) return (Interval){out.mean, NAN, NAN};
  for (int i = 0; i < count; i++) scale = fmax(scale, fabs(differences[i]));
  for (int r = 0; r < bootstrap->resamples; r++) {
    means[r] = 0;
    for (int i = 0; i < count; i++) means[r] += differences[bootstrap->pick[r * count + i]];
    means[r] /= count;
    low += means[r] <= 1e-12 * scale; /* sums that should cancel may miss 0 by their last bits */
    high += means[r] >= -1e-12 * scale;
  }
  sort_rising(means, bootstrap->resamples);
  out.low = quantile(means, bootstrap->resamples, 0.025);
  out.high = quantile(means, bootstrap->resamples, 0.975);
  *p = fmin(1, 2.0 * ((low < high ? low : high) + 1) / (bootstrap->resamples + 1));
  return out;
}

double smallest_p(int pairs, int comparisons) { return fmin(1, comparisons * pow(0.5, pairs - 1)); }

int pairs_needed(int comparisons) {
  int pairs = 1;
  while (smallest_p(pairs, comparisons) >= 0.05) pairs++;
  return pairs;
}

void holm(double *p, int count) {
  int left = 0;
  for (int i = 0; i < count; i++) left += !isnan(p[i]);
  double floor = 0; /* the corrected values rise with the raw ones */
  for (double above = -1; left > 0;) {
    double smallest = INFINITY;
    for (int i = 0; i < count; i++)
      if (p[i] >= 0 && p[i] > above && p[i] < smallest) smallest = p[i];
    if (isinf(smallest)) break;
    above = smallest;
    double corrected = fmin(1, fmax(floor, smallest * left));
    floor = corrected;
    for (int i = 0; i < count; i++)
      if (p[i] == smallest) {
        p[i] = -1 - corrected; /* marked as done */
        left--;
      }
  }
  for (int i = 0; i < count; i++)
    if (p[i] <= -1) p[i] = -1 - p[i];
}

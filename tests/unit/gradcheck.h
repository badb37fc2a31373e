/* For tests of operations: random data from a printed seed, comparison with a double-precision
 * reference, and numerical gradients of such a reference by central differences.
 *
 *   Check check;
 *   check_begin(&check, "softmax");
 *   int rows = check_size(&check, 0, 40);
 *   double *x = check_doubles(&check, rows * 8, 1.0);  // what the reference reads
 *   float *xf = check_floats(&check, x, rows * 8);     // the same for the backend
 *   ... run the backend's forward and backward ...
 *   check_close(&check, "y", y, reference_y, rows * 8, 1e-5);
 *   check_gradient(&check, "dx", reference_loss, &context, x, dx, rows * 8, 1e-4);
 *   check_end(&check);
 *
 * The seed is 2023, or the number in POPALM_TEST_SEED.
 */
#ifndef POPALM_TESTS_GRADCHECK_H
#define POPALM_TESTS_GRADCHECK_H

/* cmocka.h needs the others before it, and takes the name fail for a macro of its own. */
/* clang-format off */
#include "backend.h"
#include "base/arena.h"
#include "base/philox.h"

#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
/* clang-format on */

#define CHECK_FUNCTION static inline __attribute__((unused))

typedef struct Check {
  const char *name;
  Arena arena;
  Backend *backend; /* the CPU's */
  RandomKey key;
  uint32_t drawn;
} Check;

CHECK_FUNCTION void check_begin(Check *check, const char *name) {
  const char *seed = getenv("POPALM_TEST_SEED");
  *check = (Check){.name = name, .key = {seed ? strtoull(seed, NULL, 10) : 2023, RANDOM_TEST, 0}};
  for (const char *c = name; *c; c++) check->key.step = check->key.step * 31 + (unsigned char)*c;
  print_message("%s: POPALM_TEST_SEED=%llu\n", name, (unsigned long long)check->key.seed);
  assert_int_equal(cpu_backend_open(0, &check->backend), OK);
}

CHECK_FUNCTION void check_end(Check *check) {
  check->backend->close(check->backend);
  arena_free(&check->arena);
}

/* Uniform in [0, 1) */
CHECK_FUNCTION double check_uniform(Check *check) { return random_double(check->key, check->drawn++, 0); }

/* Uniform in [low, high], both included */
CHECK_FUNCTION int check_size(Check *check, int low, int high) {
  return low + (int)(check_uniform(check) * (high - low + 1));
}

/* Uniform in [-scale, scale], rounded to fp32 so that both sides see the same numbers. */
CHECK_FUNCTION double *check_doubles(Check *check, size_t count, double scale) {
  double *x = NEW(&check->arena, double, count);
  for (size_t i = 0; i < count; i++) x[i] = (float)((check_uniform(check) * 2 - 1) * scale);
  return x;
}

CHECK_FUNCTION float *check_floats(Check *check, const double *x, size_t count) {
  float *y = NEW(&check->arena, float, count);
  for (size_t i = 0; i < count; i++) y[i] = (float)x[i];
  return y;
}

/* Uniform in [-1, 1], for inputs that no reference reads. */
CHECK_FUNCTION float *check_random(Check *check, size_t count) {
  return check_floats(check, check_doubles(check, count, 1), count);
}

/* Memory for an output, filled with NaN so that what was not written is seen. */
CHECK_FUNCTION float *check_output(Check *check, size_t count) {
  float *y = NEW(&check->arena, float, count);
  for (size_t i = 0; i < count; i++) y[i] = NAN;
  return y;
}

/* 0 .. count-1 in random order; the first k are k distinct indices */
CHECK_FUNCTION int32_t *check_permutation(Check *check, int count) {
  int32_t *order = NEW(&check->arena, int32_t, count);
  for (int i = 0; i < count; i++) order[i] = i;
  for (int i = count - 1; i > 0; i--) {
    int j = check_size(check, 0, i);
    int32_t kept = order[i];
    order[i] = order[j];
    order[j] = kept;
  }
  return order;
}

CHECK_FUNCTION double check_scale(const double *x, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; i++) sum += x[i] * x[i];
  return count ? sqrt(sum / (double)count) : 0;
}

/* |got - want| <= tolerance * (|want| + the root mean square of all want) */
CHECK_FUNCTION void check_close(Check *check, const char *what, const float *got, const double *want,
                                size_t count, double tolerance) {
  double scale = check_scale(want, count);
  for (size_t i = 0; i < count; i++)
    if (!(fabs(got[i] - want[i]) <= tolerance * (fabs(want[i]) + scale) + 1e-30))
      fail_msg("%s: %s[%zu of %zu] is %.9g, not %.9g", check->name, what, i, count, (double)got[i], want[i]);
}

/* The same bits (so that NaN equals NaN) */
CHECK_FUNCTION void check_same(Check *check, const char *what, const float *got, const float *want,
                               size_t count) {
  for (size_t i = 0; i < count; i++)
    if (memcmp(&got[i], &want[i], sizeof *got) != 0)
      fail_msg("%s: %s[%zu of %zu] is %.9g, not %.9g", check->name, what, i, count, (double)got[i],
               (double)want[i]);
}

/* Compares got[] with the central differences of loss(context) by x[]: all entries, or 48 of them if
 * there are more. loss must read x, which is put back. */
CHECK_FUNCTION void check_gradient(Check *check, const char *what, double (*loss)(void *), void *context,
                                   double *x, const float *got, size_t count, double tolerance) {
  enum { PROBES = 48 };
  size_t probes = count < PROBES ? count : PROBES, at[PROBES];
  double numerical[PROBES];
  for (size_t p = 0; p < probes; p++) {
    at[p] = probes == count ? p : (size_t)(check_uniform(check) * (double)count);
    double kept = x[at[p]], step = 1e-5 * (fabs(kept) + 1);
    x[at[p]] = kept + step;
    double up = loss(context);
    x[at[p]] = kept - step;
    double down = loss(context);
    x[at[p]] = kept;
    numerical[p] = (up - down) / (2 * step);
  }
  double scale = check_scale(numerical, probes);
  for (size_t p = 0; p < probes; p++)
    if (!(fabs(got[at[p]] - numerical[p]) <= tolerance * (fabs(numerical[p]) + scale) + 1e-9))
      fail_msg("%s: %s[%zu of %zu] is %.9g, not %.9g", check->name, what, at[p], count, (double)got[at[p]],
               numerical[p]);
}

/* Runs the operation with one and with two threads and wants the same bits in output[count]. reset, if
 * given, is called before each run (for accumulated outputs). */
CHECK_FUNCTION void check_threads(Check *check, const char *what, void (*run)(void *), void *context,
                                  void (*reset)(void *), const float *output, size_t count) {
  int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  if (reset) reset(context);
  run(context);
  float *one = NEW(&check->arena, float, count);
  memcpy(one, output, count * sizeof *one);
  omp_set_num_threads(2);
  if (reset) reset(context);
  run(context);
  omp_set_num_threads(threads);
  check_same(check, what, output, one, count);
}

#endif

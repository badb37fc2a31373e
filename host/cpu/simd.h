/* Elementary functions that the compiler can vectorise, and row reductions. Inline, without branches
 * or calls: use them in loops under `#pragma omp simd`. */
#ifndef POPALM_CPU_SIMD_H
#define POPALM_CPU_SIMD_H

#include <math.h>
#include <stdint.h>
#include <string.h>

static inline uint32_t float_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

static inline float bits_float(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

/* exp(x) within 2 ulp: x = n ln 2 + r, |r| <= ln 2 / 2, a polynomial for exp(r), and 2^n in two
 * factors so that the ends of the range over- and underflow as they should. exp(-inf) = 0, NaN stays. */
static inline float fast_exp(float x) {
  const float to_int = 0x1.8p23f; /* adding it rounds to an integer, which then stands in the low bits */
  x = x > 89.0f ? 89.0f : x;
  x = x < -104.0f ? -104.0f : x;
  float shifted = fmaf(x, 0x1.715476p0f, to_int);
  float n = shifted - to_int;
  float r = fmaf(n, -0x1.62e4p-1f, x); /* ln 2 in two parts, the first exact in the product */
  r = fmaf(n, -0x1.7f7d1cp-20f, r);
  float p = 0x1.6a234ep-10f; /* exp(r) = 1 + r + r^2 p(r), minimax, 3e-9 off */
  p = fmaf(p, r, 0x1.123a6cp-7f);
  p = fmaf(p, r, 0x1.5558f4p-5f);
  p = fmaf(p, r, 0x1.55549p-3f);
  p = fmaf(p, r, 0x1.fffffcp-2f);
  p = fmaf(p * r, r, r) + 1.0f;
  int32_t power = (int32_t)(float_bits(shifted) - float_bits(to_int));
  int32_t half = power >> 1;
  float low = bits_float((uint32_t)(half + 127) << 23);
  float high = bits_float((uint32_t)(power - half + 127) << 23);
  return p * low * high;
}

/* 1 / (1 + exp(-x)), with full relative accuracy for negative x too */
static inline float fast_sigmoid(float x) { return 1.0f / (1.0f + fast_exp(-x)); }

static inline float simd_sum(const float *x, int count) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int i = 0; i < count; i++) sum += x[i];
  return sum;
}

static inline float simd_dot(const float *a, const float *b, int count) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int i = 0; i < count; i++) sum += a[i] * b[i];
  return sum;
}

/* -infinity for none */
static inline float simd_max(const float *x, int count) {
  float max = -INFINITY;
#pragma omp simd reduction(max : max)
  for (int i = 0; i < count; i++) max = x[i] > max ? x[i] : max;
  return max;
}

#endif

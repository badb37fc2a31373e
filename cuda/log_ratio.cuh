/* What the PPO kernels do with a difference of two logprobs. */
#ifndef POPALM_LOG_RATIO_CUH
#define POPALM_LOG_RATIO_CUH

#include "primitives.cuh"

/* NaN stays NaN, so that it is seen. */
DEVICE float clamp(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

/* exp(x) - 1 - x, never negative. The terms cancel near 0, where it is about x^2 / 2: its series there, to a
 * relative error of 5e-8. */
DEVICE float exp_remainder(float x) {
  if (x < -0.5f || x > 0.5f) return expf(x) - 1.0f - x;
  float series = 1.0f / 40320.0f;
  series = fmaf(series, x, 1.0f / 5040.0f);
  series = fmaf(series, x, 1.0f / 720.0f);
  series = fmaf(series, x, 1.0f / 120.0f);
  series = fmaf(series, x, 1.0f / 24.0f);
  series = fmaf(series, x, 1.0f / 6.0f);
  series = fmaf(series, x, 0.5f);
  return series * x * x;
}

#endif

/* Slower turning of rope's slow pairs for a context longer than the trained one, as Llama 3.1 does it. The
 * same inline code runs on the device. */
#ifndef POPALM_BASE_ROPE_SCALING_H
#define POPALM_BASE_ROPE_SCALING_H

#ifdef __CUDACC__
#define ROPE_INLINE static __host__ __device__ inline
#else
#define ROPE_INLINE static inline
#endif

/* A pair that turns less than `low` times within the trained context is slowed by `factor`, one that turns
 * more than `high` times is left alone, between them the two are blended. */
typedef struct RopeScaling {
  float factor; /* 0: no scaling */
  float low, high;
  float context; /* tokens */
} RopeScaling;

/* frequency: radians a token */
ROPE_INLINE double rope_scaled(RopeScaling scaling, double frequency) {
  if (!(scaling.factor > 0)) return frequency;
  double turns = (double)scaling.context * frequency * 0.15915494309189535; /* 1 / 2 pi */
  if (turns > (double)scaling.high) return frequency;
  if (turns < (double)scaling.low) return frequency / (double)scaling.factor;
  double share = (turns - (double)scaling.low) / ((double)scaling.high - (double)scaling.low);
  return frequency * ((1 - share) / (double)scaling.factor + share);
}

#endif

/* Slower turning of rope's slow pairs for a context longer than the trained one, as Llama 3.1 does it: a pair
 * that turns less than `low` times within the trained context is slowed by `factor`, one that turns more than
 * `high` times is left alone, between them the two are blended. The same inline code runs on the device. */
#ifndef POPALM_BASE_ROPE_SCALING_H
#define POPALM_BASE_ROPE_SCALING_H

#ifdef __CUDACC__
#define ROPE_INLINE static __host__ __device__ inline
#else
#define ROPE_INLINE static inline
#endif

typedef struct RopeScaling {
  float factor; /* 0: no scaling */
  float low, high;
  float context; /* tokens */
} RopeScaling;

/* The same without divisions, for many angles. */
typedef struct RopeBlend {
  double slowed;         /* 1 / factor */
  double turns;          /* of the context a radian a token */
  double low, per_share; /* share left alone: (turns - low) per_share, from 0 to 1 */
} RopeBlend;

static inline RopeBlend rope_blend(RopeScaling scaling) {
  RopeBlend none = {1, 0, 0, 0};
  if (!(scaling.factor > 0)) return none;
  RopeBlend blend = {1 / (double)scaling.factor, (double)scaling.context * 0.15915494309189535 /* 1 / 2 pi */,
                     (double)scaling.low, 1 / ((double)scaling.high - (double)scaling.low)};
  return blend;
}

/* frequency: radians a token */
ROPE_INLINE double rope_blended(RopeBlend blend, double frequency) {
  double share = (blend.turns * frequency - blend.low) * blend.per_share;
  share = share < 0 ? 0 : share > 1 ? 1 : share;
  return frequency * (blend.slowed + (1 - blend.slowed) * share);
}

#endif

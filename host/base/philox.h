/* Counter-based random numbers: Philox4x32-10 (Salmon et al., SC 2011, "Parallel random numbers: as
 * easy as 1, 2, 3"). A number is a pure function of where it is used (seed, stage, step, sample,
 * token), so neither batch composition, resuming nor the number of ranks can change it. The same
 * inline code runs on the device. */
#ifndef POPALM_BASE_PHILOX_H
#define POPALM_BASE_PHILOX_H

#include <stdint.h>

#ifdef __CUDACC__
#define PHILOX_INLINE static __host__ __device__ inline
#else
#define PHILOX_INLINE static inline
#endif

/* What a random number is for: one row a use, so that no two uses share a stream. */
enum RandomUse {
  RANDOM_INIT = 1,     /* parameter initialisation */
  RANDOM_SHUFFLE = 2,  /* order of the training examples */
  RANDOM_ROLLOUT = 3,  /* PPO samples */
  RANDOM_EVALUATE = 4, /* evaluation samples */
  RANDOM_WORLD = 5,    /* the synthetic world */
  RANDOM_CURRICULUM = 6,
  RANDOM_BOOTSTRAP = 7,
  RANDOM_GENERATE = 8,
  RANDOM_TEST = 9,
  RANDOM_DROPOUT_SFT = 10, /* step: the update */
  RANDOM_DROPOUT_REWARD = 11
};

typedef struct RandomKey {
  uint64_t seed;
  uint32_t use;  /* enum RandomUse */
  uint32_t step; /* step, epoch or tensor */
} RandomKey;

typedef struct Random4 {
  uint32_t v[4];
} Random4;

/* Four 32-bit numbers for counter (a, b) under key. */
PHILOX_INLINE Random4 philox(RandomKey key, uint32_t a, uint32_t b) {
  uint32_t c0 = a, c1 = b, c2 = key.step, c3 = key.use;
  uint32_t k0 = (uint32_t)key.seed, k1 = (uint32_t)(key.seed >> 32);
  for (int round = 0; round < 10; round++) {
    uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
    uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
    c1 = (uint32_t)p1;
    c3 = (uint32_t)p0;
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  Random4 out = {{c0, c1, c2, c3}};
  return out;
}

/* Uniform in [0, 1), 24 bits. */
PHILOX_INLINE float random_float(uint32_t bits) { return (float)(bits >> 8) * 0x1p-24f; }

/* Uniform in [0, 1), 53 bits, for counter (a, b) under key. */
PHILOX_INLINE double random_double(RandomKey key, uint32_t a, uint32_t b) {
  Random4 r = philox(key, a, b);
  return (double)((((uint64_t)r.v[0] << 32) | r.v[1]) >> 11) * 0x1p-53;
}

/* Uniform integer in [0, n). */
PHILOX_INLINE uint32_t random_below(RandomKey key, uint32_t a, uint32_t b, uint32_t n) {
  return (uint32_t)(random_double(key, a, b) * n);
}

/* Standard normal by Box-Muller. Host only: device code has its own cosine. */
double random_normal(RandomKey key, uint32_t a, uint32_t b);

/* The i-th element of a pseudo-random permutation of [0, n), by a Feistel network with cycle
 * walking: no memory, whatever n. */
uint64_t random_permutation(RandomKey key, uint64_t n, uint64_t i);

#endif

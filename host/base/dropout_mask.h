/* Which positions a dropout keeps: a pure function of the token, the place in the model and the column, so
 * that the backward pass draws it again instead of keeping it, and that no packing or number of ranks changes
 * it. The same inline code runs on the device. */
#ifndef POPALM_BASE_DROPOUT_MASK_H
#define POPALM_BASE_DROPOUT_MASK_H

#include "base/philox.h"

/* A position is dropped when its 16 random bits are below this. */
PHILOX_INLINE uint32_t dropout_threshold(float rate) { return (uint32_t)(rate * 65536.0f + 0.5f); }

/* What kept values are multiplied by. threshold: below 65536 */
PHILOX_INLINE float dropout_scale(uint32_t threshold) { return 65536.0f / (float)(65536u - threshold); }

/* The numbers of columns 8 block .. 8 block + 7 of token `id` at `site`; block below 16384, site below 2^18.
 */
PHILOX_INLINE Random4 dropout_numbers(RandomKey key, int32_t id, uint32_t site, uint32_t block) {
  return philox(key, (uint32_t)id, site << 14 | block);
}

/* Whether column i (0..7) of that block is kept. */
PHILOX_INLINE int dropout_keeps(const Random4 *numbers, int i, uint32_t threshold) {
  return (numbers->v[i >> 1] >> (i & 1) * 16 & 0xffffu) >= threshold;
}

#endif

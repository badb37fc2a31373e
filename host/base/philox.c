#include "base/philox.h"

#include <math.h>

double random_normal(RandomKey key, uint32_t a, uint32_t b) {
  Random4 r = philox(key, a, b);
  double u = ((double)(((uint64_t)r.v[0] << 32 | r.v[1]) >> 11) + 0.5) * 0x1p-53;
  double v = (double)(((uint64_t)r.v[2] << 32 | r.v[3]) >> 11) * 0x1p-53;
  return sqrt(-2 * log(u)) * cos(2 * M_PI * v);
}

uint64_t random_permutation(RandomKey key, uint64_t n, uint64_t i) {
  int half = 1; /* bits of one half; the domain is the smallest power of four that holds n */
  while (half < 31 && ((uint64_t)1 << (2 * half)) < n) half++;
  uint64_t mask = ((uint64_t)1 << half) - 1;
  do {
    uint64_t left = i >> half, right = i & mask;
    for (uint32_t round = 0; round < 6; round++) {
      uint64_t mixed = left ^ (philox(key, (uint32_t)right, round).v[0] & mask);
      left = right;
      right = mixed;
    }
    i = left << half | right;
  } while (i >= n);
  return i;
}

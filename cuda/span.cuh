/* Up to 8 neighbouring bf16 of a row as fp32: one 16-byte access where the row allows it, else one by one. */
#ifndef POPALM_SPAN_CUH
#define POPALM_SPAN_CUH

#include "primitives.cuh"

/* aligned: every span of the row starts at a multiple of 16 bytes. Elements from count on are 0. */
DEVICE void load_span(const bf16 *from, int count, bool aligned, float (&to)[8]) {
  if (aligned && count == 8) {
    load8(from, to);
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; i++) to[i] = i < count ? to_float(from[i]) : 0.0f;
}

DEVICE void store_span(bf16 *to, int count, bool aligned, const float (&from)[8]) {
  if (aligned && count == 8) {
    store8(to, from);
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; i++)
    if (i < count) to[i] = to_bf16(from[i]);
}

#endif

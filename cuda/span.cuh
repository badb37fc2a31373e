/* Spans: up to 8 neighbouring bf16 of a row, moved by one 16-byte access where the row allows it, else one by
 * one. */
#ifndef POPALM_SPAN_CUH
#define POPALM_SPAN_CUH

#include "primitives.cuh"

/* The span of a [rows, width] matrix that a thread takes, when neighbouring threads take neighbouring spans.
 */
struct Span {
  size_t row;
  int column, count; /* count is 8, or less at the end of a row; 0: nothing to do */
};

DEVICE Span span_of(int rows, int width) {
  size_t spans = static_cast<size_t>((width + 7) / 8);
  size_t i = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= spans * static_cast<size_t>(rows)) return {0, 0, 0};
  int column = static_cast<int>(i % spans) * 8;
  return {i / spans, column, width - column < 8 ? width - column : 8};
}

/* How many blocks give every span a thread. */
static inline unsigned span_blocks(int rows, int width, int block_threads) {
  size_t spans = static_cast<size_t>(rows) * static_cast<size_t>((width + 7) / 8);
  return static_cast<unsigned>(ceil_div(spans, static_cast<size_t>(block_threads)));
}

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

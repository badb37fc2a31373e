/* y (+)= x kept / (1 - rate) (Srivastava et al. 2014), the mask drawn from counters (base/dropout_mask.h), so
 * that none is stored.
 *
 * Shapes: x, y [rows, cols] bf16. A thread takes 8 neighbouring elements of a row, one call of Philox. Lower
 * bound, bytes an element: 4, accumulated 6; about 100 integer operations for 8 elements stay below it. */
#include "base/dropout_mask.h"
#include "span.cuh"

namespace {

const int threads = 256;

__global__ void __launch_bounds__(threads) dropout(Dropout op, uint32_t threshold, float scale) {
  Span span = span_of(op.rows, op.cols);
  if (span.count == 0) return;
  bool aligned = op.cols % 8 == 0;
  size_t at = span.row * static_cast<size_t>(op.cols) + static_cast<size_t>(span.column);
  bf16 *to = static_cast<bf16 *>(op.y) + at;
  float x[8], y[8] = {};
  load_span(static_cast<const bf16 *>(op.x) + at, span.count, aligned, x);
  if (op.accumulate) load_span(to, span.count, aligned, y);
  Random4 numbers = dropout_numbers(op.key, op.id[span.row], op.site, static_cast<uint32_t>(span.column) / 8);
#pragma unroll
  for (int i = 0; i < 8; i++)
    if (dropout_keeps(&numbers, i, threshold)) y[i] += x[i] * scale;
  store_span(to, span.count, aligned, y);
}

}  // namespace

void cuda_dropout(Backend *backend, const Dropout *op) {
  uint32_t threshold = dropout_threshold(op->rate);
  launch(cuda_state(backend), {"dropout", span_blocks(op->rows, op->cols, threads), threads, 0}, dropout, *op,
         threshold, dropout_scale(threshold));
}

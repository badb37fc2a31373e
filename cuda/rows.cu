/* gather: dst[i] = src[index[i]] + addend[index[i]];  scatter: dst = 0 but dst[index[i]] = src[i]
 *
 * Shapes: src, addend, dst rows of `cols`. 8 elements a thread. Scatter zeroes dst in one launch and writes
 * the named rows over it in a second. Lower bound, bytes an element: gather 4, with an addend 6; scatter 4,
 * and 2 for every element of dst. */
#include "span.cuh"

namespace {

const int threads = 256;

__global__ void __launch_bounds__(threads) gather_rows(GatherRows op) {
  Span span = span_of(op.rows, op.cols);
  if (span.count == 0) return;
  bool aligned = op.cols % 8 == 0;
  size_t cols = static_cast<size_t>(op.cols), column = static_cast<size_t>(span.column);
  size_t from = static_cast<size_t>(op.index[span.row]) * cols + column;
  float x[8], added[8];
  load_span(static_cast<const bf16 *>(op.src) + from, span.count, aligned, x);
  if (op.addend) {
    load_span(static_cast<const bf16 *>(op.addend) + from, span.count, aligned, added);
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] += added[i];
  }
  store_span(static_cast<bf16 *>(op.dst) + span.row * cols + column, span.count, aligned, x);
}

__global__ void __launch_bounds__(threads) zero_rows(bf16 *dst, int rows, int cols) {
  Span span = span_of(rows, cols);
  if (span.count == 0) return;
  float zeros[8] = {};
  size_t at = span.row * static_cast<size_t>(cols) + static_cast<size_t>(span.column);
  store_span(dst + at, span.count, cols % 8 == 0, zeros);
}

__global__ void __launch_bounds__(threads) scatter_rows(ScatterRows op) {
  Span span = span_of(op.rows, op.cols);
  if (span.count == 0) return;
  bool aligned = op.cols % 8 == 0;
  size_t cols = static_cast<size_t>(op.cols), column = static_cast<size_t>(span.column);
  size_t to = static_cast<size_t>(op.index[span.row]) * cols + column;
  float x[8];
  load_span(static_cast<const bf16 *>(op.src) + span.row * cols + column, span.count, aligned, x);
  store_span(static_cast<bf16 *>(op.dst) + to, span.count, aligned, x);
}

}  // namespace

void cuda_gather_rows(Backend *backend, const GatherRows *op) {
  unsigned blocks = span_blocks(op->rows, op->cols, threads);
  launch(cuda_state(backend), {"gather_rows", blocks, threads, 0}, gather_rows, *op);
}

void cuda_scatter_rows(Backend *backend, const ScatterRows *op) {
  CudaState *state = cuda_state(backend);
  launch(state, {"zero_rows", span_blocks(op->dst_rows, op->cols, threads), threads, 0}, zero_rows,
         static_cast<bf16 *>(op->dst), op->dst_rows, op->cols);
  launch(state, {"scatter_rows", span_blocks(op->rows, op->cols, threads), threads, 0}, scatter_rows, *op);
}

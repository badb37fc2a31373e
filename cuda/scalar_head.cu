/* out[i] = hidden[row i] . weight + bias
 * dhidden[row i] (+)= dout[i] weight;  dweight += sum_i dout[i] hidden[row i];  dbias += sum_i dout[i]
 *
 * Shapes: hidden [.., H], weight [H], out and dout [rows]. Forward: a warp a row, 8 elements a lane and step;
 * the weight comes from the L1. Backward: a block takes a slice of rows and 256 columns; it reads a piece of
 * hidden, writes the same piece of dhidden, and leaves the slice's sums of its columns; a second kernel adds
 * the slices in their order. The number of slices follows from the number of rows, so the bits are the same
 * on every GPU. Lower bound, bytes a row: forward 2 H; backward 4 H, 6 H where dhidden is added to. */
#include "span.cuh"

namespace {

const int threads = 256, warps = threads / 32;
const int block_columns = 32 * 8; /* 8 a lane */
const int rows_at_once = 2;       /* of a warp: loads in flight before the first store */
const int least_slice = 32, most_slices = 128;

DEVICE size_t offset_of(const int32_t *row, int i, int hidden_size) {
  return static_cast<size_t>(row ? row[i] : i) * static_cast<size_t>(hidden_size);
}

DEVICE int smaller(int a, int b) { return a < b ? a : b; }

__global__ void __launch_bounds__(threads) scalar_head(ScalarHead op) {
  int i = static_cast<int>(blockIdx.x) * warps + warp_index(), size = op.hidden_size;
  if (i >= op.rows) return;
  bool aligned = size % 8 == 0;
  const bf16 *hidden = static_cast<const bf16 *>(op.hidden) + offset_of(op.row, i, size);
  const bf16 *weight = static_cast<const bf16 *>(op.weight);
  float sum = 0.0f;
#pragma unroll 4
  for (int c = lane_index() * 8; c < size; c += 32 * 8) {
    float x[8], w[8];
    load_span(hidden + c, smaller(size - c, 8), aligned, x);
    load_span(weight + c, smaller(size - c, 8), aligned, w);
#pragma unroll
    for (int k = 0; k < 8; k++) sum = fmaf(x[k], w[k], sum);
  }
  sum = warp_sum(sum);
  if (lane_index() == 0) op.out[i] = sum + to_float(static_cast<const bf16 *>(op.bias)[0]);
}

/* partial [slices][H + 1]: the sums of a slice of rows; column H is the bias's. */
__global__ void __launch_bounds__(threads)
    scalar_head_slice(ScalarHeadBackward op, int slice_rows, float *partial) {
  SHARED(float, sums, [warps][block_columns]);
  SHARED(float, bias_sums, [warps]);
  int size = op.hidden_size, column = static_cast<int>(blockIdx.x) * block_columns + lane_index() * 8;
  int first = static_cast<int>(blockIdx.y) * slice_rows, end = smaller(first + slice_rows, op.rows);
  int count = smaller(size - column, 8); /* not positive right of the last column */
  bool aligned = size % 8 == 0;
  const bf16 *hidden = static_cast<const bf16 *>(op.hidden);
  bf16 *dhidden = static_cast<bf16 *>(op.dhidden);
  float w[8], sum[8] = {}, bias_sum = 0.0f;
  load_span(static_cast<const bf16 *>(op.weight) + column, count, aligned, w);
  for (int i = first + warp_index(); i < end; i += rows_at_once * warps) {
    float x[rows_at_once][8] = {}, dx[rows_at_once][8] = {}, d[rows_at_once] = {};
    size_t at[rows_at_once] = {};
#pragma unroll
    for (int r = 0; r < rows_at_once; r++) {
      if (i + r * warps >= end) continue;
      at[r] = offset_of(op.row, i + r * warps, size) + static_cast<size_t>(column);
      d[r] = op.dout[i + r * warps];
      if (op.dweight) load_span(hidden + at[r], count, aligned, x[r]);
      if (dhidden && op.accumulate) load_span(dhidden + at[r], count, aligned, dx[r]);
    }
#pragma unroll
    for (int r = 0; r < rows_at_once; r++) {
      if (i + r * warps >= end) continue;
      bias_sum += d[r];
#pragma unroll
      for (int k = 0; k < 8; k++) {
        sum[k] = fmaf(d[r], x[r][k], sum[k]);
        dx[r][k] = fmaf(d[r], w[k], dx[r][k]);
      }
      if (dhidden) store_span(dhidden + at[r], count, aligned, dx[r]);
    }
  }
#pragma unroll
  for (int k = 0; k < 8; k++) sums[warp_index()][lane_index() * 8 + k] = sum[k];
  if (lane_index() == 0) bias_sums[warp_index()] = bias_sum;
  block_sync();
  int own = static_cast<int>(threadIdx.x), out = static_cast<int>(blockIdx.x) * block_columns + own;
  partial += static_cast<size_t>(blockIdx.y) * static_cast<size_t>(size + 1);
  if (out < size) {
    float total = 0.0f;
    for (int i = 0; i < warps; i++) total += sums[i][own];
    partial[out] = total;
  }
  if (out == 0) {
    float total = 0.0f;
    for (int i = 0; i < warps; i++) total += bias_sums[i];
    partial[size] = total;
  }
}

}  // namespace

void cuda_scalar_head(Backend *backend, const ScalarHead *op) {
  unsigned blocks = static_cast<unsigned>(ceil_div<int>(op->rows, warps));
  launch(cuda_state(backend), {"scalar_head", blocks, threads, 0}, scalar_head, *op);
}

void cuda_scalar_head_backward(Backend *backend, const ScalarHeadBackward *op) {
  if (op->rows == 0) return;
  int size = op->hidden_size, slice_rows = ceil_div<int>(op->rows, most_slices);
  if (slice_rows < least_slice) slice_rows = least_slice;
  int slices = ceil_div(op->rows, slice_rows);
  float *partial = static_cast<float *>(
      cuda_workspace(backend, static_cast<size_t>(slices) * static_cast<size_t>(size + 1) * sizeof(float)));
  if (!partial) return;
  dim3 grid(static_cast<unsigned>(ceil_div<int>(size, block_columns)), static_cast<unsigned>(slices));
  launch(cuda_state(backend), {"scalar_head_slice", grid, threads, 0}, scalar_head_slice, *op, slice_rows,
         partial);
  cuda_add_slices(backend, partial, slices, op->dweight, size, op->dbias, 1);
}

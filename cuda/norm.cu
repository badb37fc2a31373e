/* Layer norm (Ba et al. 2016) and RMS norm (Zhang and Sennrich 2019), with the residual added first.
 *   sum = bf16(x + residual);  y = (sum - mean) rstd gain + bias;  rstd = 1 / sqrt(variance + epsilon)
 *   RMS: mean = 0, and the variance is the mean square
 *
 * Shapes: x, residual, sum, y [rows, H]; gain, bias [H]. The statistics are those of the rounded sum, which
 * is what the backward pass reads. A row stays in registers between its one read and its one write, so the
 * variance is taken from deviations. 8 to 32 lanes a row up to H = 1024, a block a row up to 8192, 16 bytes
 * an access. Lower bound, bytes an element: 4, with a residual 8. */
#include "norm_row.cuh"

namespace {

DEVICE Bytes16 add_rounded(const Bytes16 &a, const Bytes16 &b) {
  float x[8], y[8];
  unpack8(a, x);
  unpack8(b, y);
#pragma unroll
  for (int i = 0; i < 8; i++) x[i] += y[i];
  return pack8(x);
}

template <int lanes, int spans>
__global__ void __launch_bounds__(lanes ? lanes_threads : most_threads) norm_forward(Norm op) {
  int row = static_cast<int>(blockIdx.x) * rows_at_once(lanes) + own_row<lanes>();
  Share share = share_of<lanes>(row, op.rows, op.hidden);
  Bytes16 sum[spans], residual[spans], gain[spans], bias[spans];
  load_share(share, op.x, share.start, sum);
  load_share(share, op.residual, share.start, residual);
  load_share(share, op.gain, 0, gain);
  load_share(share, op.bias, 0, bias);
  float x[spans][8], total = 0.0f, squares = 0.0f, mean = 0.0f;
#pragma unroll
  for (int s = 0; s < spans; s++) {
    if (op.residual) sum[s] = add_rounded(sum[s], residual[s]);
    unpack8(sum[s], x[s]);
#pragma unroll
    for (int i = 0; i < 8; i++) total += x[s][i];
  }
  if (op.sum) store_share(share, op.sum, sum);
  float width = static_cast<float>(op.hidden);
  if (op.kind == NORM_LAYER) mean = row_sum<lanes>(total) / width;
#pragma unroll
  for (int s = 0; s < spans; s++)
#pragma unroll
    for (int i = 0; i < 8; i++) {
      x[s][i] = share.holds(s) ? x[s][i] - mean : 0.0f;
      squares += x[s][i] * x[s][i];
    }
  float rstd = rsqrtf(row_sum<lanes>(squares) / width + op.epsilon);
#pragma unroll
  for (int s = 0; s < spans; s++) {
    float g[8], b[8];
    unpack8(gain[s], g);
    unpack8(bias[s], b);
#pragma unroll
    for (int i = 0; i < 8; i++) x[s][i] = x[s][i] * rstd * g[i] + b[i];
    sum[s] = pack8(x[s]);
  }
  store_share(share, op.y, sum);
  if (share.lane != 0 || share.end == 0) return;
  if (op.mean) op.mean[row] = mean;
  if (op.rstd) op.rstd[row] = rstd;
}

/* Any width, a block a row, element by element; every thread comes back to the elements that it wrote. */
__global__ void __launch_bounds__(most_threads) norm_forward_wide(Norm op) {
  size_t row = blockIdx.x, start = row * static_cast<size_t>(op.hidden);
  const bf16 *x = static_cast<const bf16 *>(op.x) + start, *gain = static_cast<const bf16 *>(op.gain),
             *bias = static_cast<const bf16 *>(op.bias);
  const bf16 *residual = op.residual ? static_cast<const bf16 *>(op.residual) + start : nullptr;
  bf16 *sum = op.sum ? static_cast<bf16 *>(op.sum) + start : nullptr, *y = static_cast<bf16 *>(op.y) + start;
  int thread = static_cast<int>(threadIdx.x);
  float total = 0.0f, squares = 0.0f, mean = 0.0f, width = static_cast<float>(op.hidden);
  for (int i = thread; i < op.hidden; i += most_threads) {
    bf16 value = residual ? to_bf16(to_float(x[i]) + to_float(residual[i])) : x[i];
    if (sum) sum[i] = value;
    total += to_float(value);
  }
  if (sum) x = sum;
  if (op.kind == NORM_LAYER) mean = block_sum(total) / width;
  for (int i = thread; i < op.hidden; i += most_threads) {
    float deviation = to_float(x[i]) - mean;
    squares += deviation * deviation;
  }
  float rstd = rsqrtf(block_sum(squares) / width + op.epsilon);
  for (int i = thread; i < op.hidden; i += most_threads)
    y[i] = to_bf16((to_float(x[i]) - mean) * rstd * to_float(gain[i]) + (bias ? to_float(bias[i]) : 0.0f));
  if (thread != 0) return;
  if (op.mean) op.mean[row] = mean;
  if (op.rstd) op.rstd[row] = rstd;
}

const RowKernel<void (*)(Norm)> kernels[] = {
    {64, 8, norm_forward<8, 1>},
    {128, 16, norm_forward<16, 1>},
    {256, 32, norm_forward<32, 1>},
    {512, 32, norm_forward<32, 2>},
    {768, 32, norm_forward<32, 3>},
    {1024, 32, norm_forward<32, 4>},
    {widest_row, 0, norm_forward<0, block_spans>},
};

}  // namespace

void cuda_norm(Backend *backend, const Norm *op) {
  if (op->hidden == 0) return;
  unsigned rows = static_cast<unsigned>(op->rows);
  const RowKernel<void (*)(Norm)> *k = row_kernel(kernels, op->hidden);
  if (!k) {
    launch(cuda_state(backend), {"norm_forward_wide", rows, most_threads, 0}, norm_forward_wide, *op);
    return;
  }
  unsigned threads = static_cast<unsigned>(row_threads(k->lanes, op->hidden));
  unsigned blocks = ceil_div(rows, static_cast<unsigned>(rows_at_once(k->lanes)));
  launch(cuda_state(backend), {"norm_forward", blocks, threads, 0}, k->kernel, *op);
}

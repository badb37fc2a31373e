/* Backward pass of the layer and RMS norms of norm.cu, n = (sum - mean) rstd, dn = dy gain:
 *   dx = rstd (dn - mean_H(dn) - n mean_H(dn n)) + dresidual     (RMS: without the first mean)
 *   dgain += sum over rows of dy n;  dbias += sum over rows of dy
 *
 * Shapes: sum, dy, dresidual, dx [rows, H]; dgain, dbias [H]. A block takes a slice of rows; its threads keep
 * the sums of their columns in registers over the slice and leave them as fp32 [slices, 2, H] in the
 * workspace, where a second launch adds the slices in their order. How rows are sliced depends on the shape
 * alone. Lower bound, bytes an element: 6, with dresidual 8; the slices add at most 16 / rows of a slice. */
#include "norm_row.cuh"

namespace {

const int most_slices = 528; /* 4 blocks a multiprocessor of a large GPU */
const int least_steps = 4;   /* rows a thread sees at least, where there are that many */

/* Sums of the columns over the rows that the block took: to[H]. scratch: [rows at once, H]. */
template <int lanes, int spans>
DEVICE void store_sums(const Share &share, const float (&sums)[spans][8], int hidden, float *scratch,
                       float *to) {
  float *own = lanes ? scratch + own_row<lanes>() * hidden : to;
#pragma unroll
  for (int s = 0; s < spans; s++)
    if (share.column(s) < hidden) store_floats(own + share.column(s), sums[s]);
  if constexpr (lanes != 0) {
    block_sync();
    for (int i = static_cast<int>(threadIdx.x); i < hidden; i += lanes_threads) {
      float total = 0.0f;
      for (int r = 0; r < rows_at_once(lanes); r++) total += scratch[r * hidden + i];
      to[i] = total;
    }
    block_sync();
  }
}

/* partial: [slices, 2, H], or NULL when neither dgain nor dbias is wanted. */
template <int lanes, int spans>
__global__ void __launch_bounds__(lanes ? lanes_threads : most_threads)
    norm_backward(NormBackward op, int slice_rows, float *partial) {
  DYNAMIC_SHARED(scratch);
  int hidden = op.hidden;
  int first = static_cast<int>(blockIdx.x) * slice_rows;
  int end = first + slice_rows < op.rows ? first + slice_rows : op.rows;
  bool layer = op.kind == NORM_LAYER;
  float dgain[spans][8] = {}, dbias[spans][8] = {}, width = static_cast<float>(hidden);
  for (int from = first; from < end; from += rows_at_once(lanes)) {
    int row = from + own_row<lanes>();
    Share share = share_of<lanes>(row, end, hidden);
    Bytes16 sum[spans], dy[spans], gain[spans], dx[spans];
    load_share(share, op.sum, share.start, sum);
    load_share(share, op.dy, share.start, dy);
    load_share(share, op.gain, 0, gain);
    load_share(share, op.dresidual, share.start, dx);
    float mean = layer && row < end ? op.mean[row] : 0.0f, rstd = row < end ? op.rstd[row] : 0.0f;
    float n[spans][8], dn[spans][8], sum_dn = 0.0f, sum_dn_n = 0.0f;
#pragma unroll
    for (int s = 0; s < spans; s++) {
      float g[8];
      unpack8(sum[s], n[s]);
      unpack8(dy[s], dn[s]);
      unpack8(gain[s], g);
#pragma unroll
      for (int i = 0; i < 8; i++) {
        n[s][i] = (n[s][i] - mean) * rstd;
        dgain[s][i] += dn[s][i] * n[s][i];
        dbias[s][i] += dn[s][i];
        dn[s][i] *= g[i];
        sum_dn += dn[s][i];
        sum_dn_n += dn[s][i] * n[s][i];
      }
    }
    if (!op.dx) continue;
    float mean_dn = layer ? row_sum<lanes>(sum_dn) / width : 0.0f;
    float mean_dn_n = row_sum<lanes>(sum_dn_n) / width;
#pragma unroll
    for (int s = 0; s < spans; s++) {
      float d[8];
      unpack8(dx[s], d);
#pragma unroll
      for (int i = 0; i < 8; i++) d[i] += rstd * (dn[s][i] - mean_dn - n[s][i] * mean_dn_n);
      dx[s] = pack8(d);
    }
    store_share(share, op.dx, dx);
  }
  if (!partial) return;
  Share share = share_of<lanes>(0, 1, hidden);
  float *out = partial + static_cast<size_t>(blockIdx.x) * 2 * static_cast<size_t>(hidden);
  float *sums = reinterpret_cast<float *>(scratch);
  store_sums<lanes>(share, dgain, hidden, sums, out);
  store_sums<lanes>(share, dbias, hidden, sums, out + hidden);
}

/* Any width, element by element; the sums of the columns grow in the workspace itself, every column in the
 * hands of one thread. */
__global__ void __launch_bounds__(most_threads)
    norm_backward_wide(NormBackward op, int slice_rows, float *partial) {
  int hidden = op.hidden, thread = static_cast<int>(threadIdx.x);
  int first = static_cast<int>(blockIdx.x) * slice_rows;
  int end = first + slice_rows < op.rows ? first + slice_rows : op.rows;
  bool layer = op.kind == NORM_LAYER;
  const bf16 *gain = static_cast<const bf16 *>(op.gain);
  float *sums = partial + static_cast<size_t>(blockIdx.x) * 2 * static_cast<size_t>(hidden);
  for (int row = first; row < end; row++) {
    size_t start = static_cast<size_t>(row) * static_cast<size_t>(hidden);
    const bf16 *sum = static_cast<const bf16 *>(op.sum) + start,
               *dy = static_cast<const bf16 *>(op.dy) + start;
    float mean = layer ? op.mean[row] : 0.0f, rstd = op.rstd[row], sum_dn = 0.0f, sum_dn_n = 0.0f;
    for (int i = thread; i < hidden; i += most_threads) {
      float n = (to_float(sum[i]) - mean) * rstd, d = to_float(dy[i]), dn = d * to_float(gain[i]);
      sum_dn += dn;
      sum_dn_n += dn * n;
      if (!partial) continue;
      sums[i] = row > first ? sums[i] + d * n : d * n;
      sums[hidden + i] = row > first ? sums[hidden + i] + d : d;
    }
    if (!op.dx) continue;
    float mean_dn = layer ? block_sum(sum_dn) / static_cast<float>(hidden) : 0.0f;
    float mean_dn_n = block_sum(sum_dn_n) / static_cast<float>(hidden);
    const bf16 *dresidual = op.dresidual ? static_cast<const bf16 *>(op.dresidual) + start : nullptr;
    for (int i = thread; i < hidden; i += most_threads) {
      float n = (to_float(sum[i]) - mean) * rstd, dn = to_float(dy[i]) * to_float(gain[i]);
      float d = rstd * (dn - mean_dn - n * mean_dn_n) + (dresidual ? to_float(dresidual[i]) : 0.0f);
      static_cast<bf16 *>(op.dx)[start + static_cast<size_t>(i)] = to_bf16(d);
    }
  }
}

typedef void (*Kernel)(NormBackward, int, float *);
const RowKernel<Kernel> kernels[] = {
    {64, 8, norm_backward<8, 1>},
    {128, 16, norm_backward<16, 1>},
    {256, 32, norm_backward<32, 1>},
    {512, 32, norm_backward<32, 2>},
    {768, 32, norm_backward<32, 3>},
    {1024, 32, norm_backward<32, 4>},
    {widest_row, 0, norm_backward<0, block_spans>},
};

}  // namespace

void cuda_norm_backward(Backend *backend, const NormBackward *op) {
  bool sums = op->dgain || op->dbias;
  if (op->rows == 0 || op->hidden == 0 || (!op->dx && !sums)) return;
  const RowKernel<Kernel> *k = row_kernel(kernels, op->hidden);
  int at_once = k ? rows_at_once(k->lanes) : 1;
  int steps = ceil_div(op->rows, most_slices * at_once);
  int slice_rows = (steps > least_steps ? steps : least_steps) * at_once;
  int slices = ceil_div(op->rows, slice_rows);
  size_t hidden = static_cast<size_t>(op->hidden);
  float *partial = nullptr;
  if (sums) {
    size_t bytes = static_cast<size_t>(slices) * 2 * hidden * sizeof(float);
    partial = static_cast<float *>(cuda_workspace(backend, bytes));
    if (!partial) return;
  }
  CudaState *state = cuda_state(backend);
  unsigned blocks = static_cast<unsigned>(slices);
  if (k) {
    unsigned threads = static_cast<unsigned>(row_threads(k->lanes, op->hidden));
    size_t scratch = k->lanes && sums ? static_cast<size_t>(at_once) * hidden * sizeof(float) : 0;
    launch(state, {"norm_backward", blocks, threads, scratch}, k->kernel, *op, slice_rows, partial);
  } else {
    launch(state, {"norm_backward_wide", blocks, most_threads, 0}, norm_backward_wide, *op, slice_rows,
           partial);
  }
  if (!sums) return;
  cuda_add_slices(backend, partial, slices, op->dgain, op->hidden, op->dbias, op->hidden);
}

/* RMS norm of query and key heads (Qwen3), in place on packed qkv rows.
 *   n = x rstd;  y = n gain;  rstd = 1 / sqrt(mean_d(x^2) + epsilon)
 *   dn = dy gain;  dx = rstd (dn - n mean_d(dn n));  dgain = sum over rows and heads of dy n
 *
 * Shapes: qkv [rows, (Hq + 2 Hkv) d], of which the first (Hq + Hkv) d are normed; kept [rows, (Hq + Hkv) d];
 * rstd [rows, Hq + Hkv]; gains [d], d up to 256. 8, 16 or 32 lanes a head, 16 bytes a lane. The gains'
 * gradients are summed by slices of rows into fp32 partial sums, then slice by slice. Lower bound, bytes an
 * element of the normed heads: 4, with kept 6; backward 6. */
#include "span.cuh"

namespace {

const int block_threads = 128, most_dim = 256;
const int slice_rows = 32, most_slices = 1024;

/* The sum over the lanes of a head; every lane of them gets it. */
template <int lanes>
DEVICE float head_sum(float value) {
#pragma unroll
  for (int mask = lanes / 2; mask > 0; mask /= 2) value += warp_shuffle_xor(value, mask);
  return value;
}

/* A head vector and this lane's share of it. */
struct HeadPart {
  size_t in_qkv, in_kept, number; /* offsets of the share; which of all head vectors */
  int column, count;              /* of the share in the head; count is 0 where there is nothing */
  bool query;
};

template <int lanes>
DEVICE HeadPart head_part(size_t number, size_t end, int heads, int kv_heads, int dim) {
  size_t normed = static_cast<size_t>(heads + kv_heads), row = number / normed, head = number % normed;
  size_t width = static_cast<size_t>(dim), stride = normed + static_cast<size_t>(kv_heads);
  int column = lane_index() % lanes * 8, left = dim - column;
  HeadPart part;
  part.column = column;
  part.count = number >= end || left <= 0 ? 0 : left < 8 ? left : 8;
  part.in_qkv = (row * stride + head) * width + static_cast<size_t>(column);
  part.in_kept = number * width + static_cast<size_t>(column);
  part.number = number;
  part.query = head < static_cast<size_t>(heads);
  return part;
}

template <int lanes>
__global__ void __launch_bounds__(block_threads) qk_norm_forward(QkNorm op) {
  size_t end = static_cast<size_t>(op.rows) * static_cast<size_t>(op.heads + op.kv_heads);
  size_t number = (static_cast<size_t>(blockIdx.x) * block_threads + threadIdx.x) / lanes;
  HeadPart part = head_part<lanes>(number, end, op.heads, op.kv_heads, op.head_dim);
  bool aligned = op.head_dim % 8 == 0;
  bf16 *at = static_cast<bf16 *>(op.qkv) + part.in_qkv;
  const bf16 *gains = static_cast<const bf16 *>(part.query ? op.q_gain : op.k_gain) + part.column;
  float x[8], gain[8], squares = 0.0f;
  load_span(at, part.count, aligned, x);
  load_span(gains, part.count, aligned, gain);
#pragma unroll
  for (int i = 0; i < 8; i++) squares += x[i] * x[i];
  float rstd = rsqrtf(head_sum<lanes>(squares) / static_cast<float>(op.head_dim) + op.epsilon);
  if (op.kept) store_span(static_cast<bf16 *>(op.kept) + part.in_kept, part.count, aligned, x);
#pragma unroll
  for (int i = 0; i < 8; i++) x[i] *= rstd * gain[i];
  store_span(at, part.count, aligned, x);
  if (op.rstd && part.count > 0 && part.column == 0) op.rstd[part.number] = rstd;
}

/* A slice of rows a block. partial: [slices][2][d], the query gain's sums and the key gain's; or NULL. */
template <int lanes>
__global__ void __launch_bounds__(block_threads)
    qk_norm_backward(QkNormBackward op, int rows_each, float *partial) {
  const int groups = block_threads / lanes, width = lanes * 8;
  SHARED(float, sums, [2][block_threads * 8]);
  size_t normed = static_cast<size_t>(op.heads + op.kv_heads), each = static_cast<size_t>(rows_each) * normed;
  size_t first = static_cast<size_t>(blockIdx.x) * each, all = static_cast<size_t>(op.rows) * normed;
  size_t end = first + each < all ? first + each : all;
  int own = static_cast<int>(threadIdx.x) / lanes;
  bool aligned = op.head_dim % 8 == 0;
  float query_sum[8] = {}, key_sum[8] = {};
  for (size_t start = first; start < end; start += groups) {
    HeadPart part =
        head_part<lanes>(start + static_cast<size_t>(own), end, op.heads, op.kv_heads, op.head_dim);
    bf16 *at = static_cast<bf16 *>(op.dqkv) + part.in_qkv;
    float dy[8], n[8], gain[8], dot = 0.0f;
    load_span(at, part.count, aligned, dy);
    load_span(static_cast<const bf16 *>(op.kept) + part.in_kept, part.count, aligned, n);
    load_span(static_cast<const bf16 *>(part.query ? op.q_gain : op.k_gain) + part.column, part.count,
              aligned, gain);
    float rstd = part.count > 0 ? op.rstd[part.number] : 0.0f;
#pragma unroll
    for (int i = 0; i < 8; i++) {
      n[i] *= rstd;
      query_sum[i] += part.query ? dy[i] * n[i] : 0.0f;
      key_sum[i] += part.query ? 0.0f : dy[i] * n[i];
      dy[i] *= gain[i];
      dot += dy[i] * n[i];
    }
    float mean = head_sum<lanes>(dot) / static_cast<float>(op.head_dim);
#pragma unroll
    for (int i = 0; i < 8; i++) dy[i] = rstd * (dy[i] - n[i] * mean);
    store_span(at, part.count, aligned, dy);
  }
  if (!partial) return;
  int column = own * width + lane_index() % lanes * 8;
#pragma unroll
  for (int i = 0; i < 8; i++) {
    sums[0][column + i] = query_sum[i];
    sums[1][column + i] = key_sum[i];
  }
  block_sync();
  for (int c = static_cast<int>(threadIdx.x); c < 2 * op.head_dim; c += block_threads) {
    int kind = c / op.head_dim, at = c % op.head_dim;
    float total = 0.0f;
    for (int g = 0; g < groups; g++) total += sums[kind][g * width + at];
    partial[static_cast<size_t>(blockIdx.x) * 2 * static_cast<size_t>(op.head_dim) + static_cast<size_t>(c)] =
        total;
  }
}

template <typename Kernel>
Kernel by_lanes(int dim, Kernel lanes_8, Kernel lanes_16, Kernel lanes_32) {
  return dim <= 64 ? lanes_8 : dim <= 128 ? lanes_16 : lanes_32;
}

}  // namespace

void cuda_qk_norm(Backend *backend, const QkNorm *op) {
  if (op->head_dim == 0 || op->head_dim > most_dim) return;
  int lanes = by_lanes(op->head_dim, 8, 16, 32);
  size_t heads = static_cast<size_t>(op->rows) * static_cast<size_t>(op->heads + op->kv_heads);
  unsigned blocks = static_cast<unsigned>(ceil_div(heads, static_cast<size_t>(block_threads / lanes)));
  launch(cuda_state(backend), {"qk_norm_forward", blocks, block_threads, 0},
         by_lanes(op->head_dim, qk_norm_forward<8>, qk_norm_forward<16>, qk_norm_forward<32>), *op);
}

void cuda_qk_norm_backward(Backend *backend, const QkNormBackward *op) {
  if (op->rows == 0 || op->head_dim == 0 || op->head_dim > most_dim) return;
  int least = ceil_div<int>(op->rows, most_slices), rows_each = least < slice_rows ? slice_rows : least;
  int slices = ceil_div<int>(op->rows, rows_each);
  float *partial = nullptr;
  if (op->dq_gain) {
    size_t sums = static_cast<size_t>(slices) * 2 * static_cast<size_t>(op->head_dim);
    partial = static_cast<float *>(cuda_workspace(backend, sums * sizeof(float)));
    if (!partial) return;
  }
  launch(cuda_state(backend), {"qk_norm_backward", static_cast<unsigned>(slices), block_threads, 0},
         by_lanes(op->head_dim, qk_norm_backward<8>, qk_norm_backward<16>, qk_norm_backward<32>), *op,
         rows_each, partial);
  if (!partial) return;
  cuda_add_slices(backend, partial, slices, op->dq_gain, op->head_dim, op->dk_gain, op->head_dim);
}

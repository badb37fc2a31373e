/* norm = sqrt(sum of squares) of n bf16 gradients and of a few fp32 norms
 *
 * Sums of 8 squares in fp32, of everything else in double; 8 squares that do not fit into fp32 are taken in
 * double, too, so that nothing overflows before the norm itself does. A block sums 16384 gradients, a second
 * kernel adds the blocks' sums: the grid depends on n alone, so the bits do not depend on the GPU. Lower
 * bound: 2 n bytes. */
#include "span.cuh"

namespace {

const int threads = 256, spans = 8; /* 16-byte loads of a thread, all in flight */
const size_t block_size = threads * spans * 8;

DEVICE double sum_of_squares(const float (&x)[8]) {
  float sum = 0.0f;
  for (int i = 0; i < 8; i++) sum = fmaf(x[i], x[i], sum);
  if (sum > 0x1p-100f && sum < 0x1p127f) return static_cast<double>(sum);
  double exact = 0.0;
  for (int i = 0; i < 8; i++) exact += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return exact;
}

__global__ void __launch_bounds__(threads)
    square_sums(const bf16 *grad, size_t count, bool aligned, double *sums) {
  size_t first = blockIdx.x * block_size + threadIdx.x * 8;
  float x[spans][8];
#pragma unroll
  for (int u = 0; u < spans; u++) {
    size_t i = first + static_cast<size_t>(u) * threads * 8;
    int valid = i >= count ? 0 : count - i < 8 ? static_cast<int>(count - i) : 8;
    load_span(grad + i, valid, aligned, x[u]);
  }
  double sum = 0.0;
#pragma unroll
  for (int u = 0; u < spans; u++) sum += sum_of_squares(x[u]);
  sum = block_sum(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(threads)
    norm_of_sums(const double *sums, size_t blocks, const float *others, int other_count, float *norm) {
  double sum = 0.0;
  for (size_t i = threadIdx.x; i < blocks; i += threads) sum += sums[i];
  for (int i = threadIdx.x; i < other_count; i += threads)
    sum += static_cast<double>(others[i]) * static_cast<double>(others[i]);
  sum = block_sum(sum);
  if (threadIdx.x == 0) *norm = static_cast<float>(sqrt(sum));
}

}  // namespace

void cuda_grad_norm(Backend *backend, const GradNorm *op) {
  size_t blocks = ceil_div(op->count, block_size);
  double *sums = static_cast<double *>(cuda_workspace(backend, (blocks + 1) * sizeof(double)));
  if (!sums) return;
  bool aligned = reinterpret_cast<uintptr_t>(op->grad) % 16 == 0;
  launch(cuda_state(backend), {"square_sums", static_cast<unsigned>(blocks), threads, 0}, square_sums,
         static_cast<const bf16 *>(op->grad), op->count, aligned, sums);
  launch(cuda_state(backend), {"norm_of_sums", 1, threads, 0}, norm_of_sums, sums, blocks, op->others,
         op->other_count, op->norm);
}

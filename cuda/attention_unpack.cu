/* What a library reads of a packed batch in another form than ours, for backend_cudnn.cu: the statistics of
 * padded sequences, lengths, and where each sequence's rows begin. 8 bytes a query and head. */
#include "primitives.cuh"

namespace {

const int threads = 128;

/* Sequence blockIdx.x, head blockIdx.y. */
__global__ void __launch_bounds__(threads) unpack_rows(UnpackRows r) {
  int b = static_cast<int>(blockIdx.x), h = static_cast<int>(blockIdx.y),
      thread = static_cast<int>(threadIdx.x);
  int begin = r.cu_seqlens[b], length = r.cu_seqlens[b + 1] - begin;
  if (r.lengths && h == 0 && thread == 0) {
    r.lengths[b] = length;
    for (int i = b; i <= b + (b + 1 == r.count); i++) {
      r.qkv_offsets[i] = static_cast<int64_t>(r.cu_seqlens[i]) * r.qkv_width;
      r.out_offsets[i] = static_cast<int64_t>(r.cu_seqlens[i]) * r.out_width;
    }
  }
  if (!r.lse) return;
  const float *lse = r.lse + static_cast<size_t>(h) * static_cast<size_t>(r.tokens) + begin;
  float *stats = r.stats + static_cast<size_t>(b * r.heads + h) * static_cast<size_t>(r.max_len);
  for (int t = thread; t < r.max_len; t += threads) stats[t] = t < length ? lse[t] : 0.0f;
}

}  // namespace

void cuda_unpack_rows(Backend *backend, const UnpackRows &rows) {
  dim3 grid(static_cast<unsigned>(rows.count), rows.lse ? static_cast<unsigned>(rows.heads) : 1u);
  launch(cuda_state(backend), {"unpack_rows", grid, threads, 0}, unpack_rows, rows);
}

/* Attention as it is done without fusion, for `popalm bench` to compare with: for each sequence S = q K^T /
 * sqrt(d) of all heads by one batched cuBLAS product, stored in bf16, the softmax in place, then out =
 * P V by another. lse is not written. The products compute the half that a causal mask hides, too.
 *
 * Heads with keys of their own are one batch; with grouped heads the query heads of one key-value head are.
 * Not part of any run: the library is opened at the first use and stays open until the program ends. */
#include <cublas_v2.h>
#include <dlfcn.h>
#include <math.h>
#include <string.h>

#include <vector>

#include "primitives.cuh"

namespace {

const int threads = 256;
const size_t scores_most = static_cast<size_t>(4)
                           << 30; /* bytes of scores at a time, if one head's are not more */

/* cublasGemmStridedBatchedEx, whose name the header overloads. */
typedef cublasStatus_t (*BatchedProduct)(cublasHandle_t, cublasOperation_t of_a, cublasOperation_t of_b,
                                         int m, int n, int k, const void *alpha, const void *a, cudaDataType,
                                         int lda, long long step_a, const void *b, cudaDataType, int ldb,
                                         long long step_b, const void *beta, void *c, cudaDataType, int ldc,
                                         long long step_c, int count, cublasComputeType_t, cublasGemmAlgo_t);

struct Cublas {
  cublasHandle_t handle;
  decltype(&cublasSetStream_v2) set_stream;
  BatchedProduct product;
};

/* NULL where the library cannot be found. */
const Cublas *open_cublas() {
  static Cublas library;
  static bool tried;
  if (tried) return library.handle ? &library : nullptr;
  tried = true;
  void *file = nullptr;
  for (const char *name : {"libcublas.so.13", "libcublas.so.12", "libcublas.so"})
    if (!file) file = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (!file) return nullptr;
  decltype(&cublasCreate_v2) create;
  void *symbols[] = {dlsym(file, "cublasCreate_v2"), dlsym(file, "cublasSetStream_v2"),
                     dlsym(file, "cublasGemmStridedBatchedEx")};
  if (!symbols[0] || !symbols[1] || !symbols[2]) return nullptr;
  memcpy(&create, &symbols[0], sizeof create);
  memcpy(&library.set_stream, &symbols[1], sizeof library.set_stream);
  memcpy(&library.product, &symbols[2], sizeof library.product);
  if (create(&library.handle) != CUBLAS_STATUS_SUCCESS) library.handle = nullptr;
  return library.handle ? &library : nullptr;
}

/* Row blockIdx.x of head blockIdx.y becomes its softmax over the keys 0 .. blockIdx.x, zeros behind, or over
 * all. */
__global__ void __launch_bounds__(threads) score_softmax(bf16 *scores, int length, int ld, bool full) {
  size_t at = static_cast<size_t>(blockIdx.y) * static_cast<size_t>(length) + blockIdx.x;
  bf16 *row = scores + at * static_cast<size_t>(ld);
  int seen = full ? length : static_cast<int>(blockIdx.x) + 1, first = static_cast<int>(threadIdx.x);
  float top = -INFINITY, sum = 0.0f;
  for (int j = first; j < seen; j += threads) top = fmaxf(top, to_float(row[j]));
  top = block_max(top);
  for (int j = first; j < seen; j += threads) sum += fast_exp(to_float(row[j]) - top);
  sum = block_sum(sum);
  for (int j = first; j < length; j += threads)
    row[j] = to_bf16(j < seen ? fast_exp(to_float(row[j]) - top) / sum : 0.0f);
}

/* `count` heads of one sequence of `length` tokens: query head h of them at q + h d, its keys at k + h
 * key_step. */
struct Heads {
  const bf16 *q, *k, *v;
  bf16 *out, *scores;
  int length, ld, count, key_step, dim, qkv_width, out_width;
  bool full;
};

/* The library's matrices are column-major: a row-major [rows, columns] is its [columns, rows]. */
bool run_heads(Backend *backend, const Cublas *library, const Heads &h) {
  const float scale = 1.0f / sqrtf(static_cast<float>(h.dim)), one = 1.0f, zero = 0.0f;
  long long square = static_cast<long long>(h.length) * h.ld;
  cublasStatus_t scored =
      library->product(library->handle, CUBLAS_OP_T, CUBLAS_OP_N, h.length, h.length, h.dim, &scale, h.k,
                       CUDA_R_16BF, h.qkv_width, h.key_step, h.q, CUDA_R_16BF, h.qkv_width, h.dim, &zero,
                       h.scores, CUDA_R_16BF, h.ld, square, h.count, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
  if (scored != CUBLAS_STATUS_SUCCESS) return false;
  dim3 grid(static_cast<unsigned>(h.length), static_cast<unsigned>(h.count));
  launch(cuda_state(backend), {"score_softmax", grid, threads, 0}, score_softmax, h.scores, h.length, h.ld,
         h.full);
  return library->product(library->handle, CUBLAS_OP_N, CUBLAS_OP_N, h.dim, h.length, h.length, &one, h.v,
                          CUDA_R_16BF, h.qkv_width, h.key_step, h.scores, CUDA_R_16BF, h.ld, square, &zero,
                          h.out, CUDA_R_16BF, h.out_width, h.dim, h.count, CUBLAS_COMPUTE_32F,
                          CUBLAS_GEMM_DEFAULT) == CUBLAS_STATUS_SUCCESS;
}

size_t score_bytes(int length, int heads) {
  return static_cast<size_t>(heads) * static_cast<size_t>(length) *
         static_cast<size_t>((length + 7) / 8 * 8) * 2;
}

/* Heads whose scores are stored at a time. */
int heads_at_once(const Attention &a) {
  int group = a.heads / a.kv_heads, most = group == 1 ? a.heads : group;
  while (most > 1 && score_bytes(a.sequences.max_len, most) > scores_most) most = (most + 1) / 2;
  return most;
}

bool run_sequence(Backend *backend, const Cublas *library, const Attention &a, int first, int length,
                  bf16 *scores) {
  int d = a.head_dim, group = a.heads / a.kv_heads, at_once = heads_at_once(a);
  int width = (a.heads + 2 * a.kv_heads) * d;
  const bf16 *row =
      static_cast<const bf16 *>(a.qkv) + static_cast<size_t>(first) * static_cast<size_t>(width);
  bf16 *out = static_cast<bf16 *>(a.out) + static_cast<size_t>(first) * static_cast<size_t>(a.heads * d);
  for (int h = 0; h < a.heads;) {
    int kv = h / group, left = group == 1 ? a.heads - h : (kv + 1) * group - h;
    int count = left < at_once ? left : at_once;
    const bf16 *k = row + (a.heads + kv) * d;
    Heads heads = {row + h * d,
                   k,
                   k + a.kv_heads * d,
                   out + h * d,
                   scores,
                   length,
                   (length + 7) / 8 * 8,
                   count,
                   group == 1 ? d : 0,
                   d,
                   width,
                   a.heads * d,
                   a.full};
    if (!run_heads(backend, library, heads)) return false;
    h += count;
  }
  return true;
}

}  // namespace

bool cublas_takes(Backend *, const Attention &a) {
  return a.prefix_len == 0 && !a.sequences.branch && open_cublas();
}

void cuda_attention_unfused(Backend *backend, const Attention *a) {
  const Cublas *library = open_cublas();
  std::vector<int32_t> cu(static_cast<size_t>(a->sequences.count) + 1);
  if (backend->download(backend, cu.data(), a->sequences.cu_seqlens, cu.size() * sizeof(int32_t)) != OK)
    return;
  void *scores = cuda_workspace(backend, score_bytes(a->sequences.max_len, heads_at_once(*a)));
  if (!scores) return; /* noted */
  bool good = library->set_stream(library->handle, cuda_state(backend)->stream) == CUBLAS_STATUS_SUCCESS;
  for (size_t b = 0; good && b + 1 < cu.size(); b++) {
    int length = cu[b + 1] - cu[b];
    good = !length || run_sequence(backend, library, *a, cu[b], length, static_cast<bf16 *>(scores));
  }
  if (!good) cuda_note(cuda_state(backend), cudaErrorUnknown, "attention by cuBLAS");
}

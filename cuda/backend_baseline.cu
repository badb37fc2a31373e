/* Attention as it is done without fusion, for `popalm bench` to compare with: for each sequence S = q K^T /
 * sqrt(d) of all heads by one batched cuBLAS product, stored in bf16, the softmax in place, then out =
 * P V by another. lse is not written. The gradient computes P again, then dP = dout V^T and in its place dS =
 * P (dP - rowsum(P dP)) / sqrt(d); dq = dS K, dk = dS^T q and dv = P^T dout. The products compute the half
 * that a causal mask hides, too.
 *
 * Heads with keys of their own are one batch; with grouped heads the query heads of one key-value head are,
 * and dk and dv are added up head by head. Not part of any run: the library is opened at the first use and
 * stays open until the program ends. */
#include <cublas_v2.h>
#include <math.h>

#include <vector>

#include "library.h"
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
  void *file = library_open({"libcublas.so.13", "libcublas.so.12", "libcublas.so"});
  decltype(&cublasCreate_v2) create;
  if (!file || !library_find(file, {{"cublasCreate_v2", &create},
                                    {"cublasSetStream_v2", &library.set_stream},
                                    {"cublasGemmStridedBatchedEx", &library.product}}))
    return nullptr;
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

/* Row blockIdx.x of head blockIdx.y of dP becomes dS. Hidden keys have p = 0. */
__global__ void __launch_bounds__(threads)
    score_gradient(const bf16 *p, bf16 *dp, int length, int ld, float scale) {
  size_t at =
      (static_cast<size_t>(blockIdx.y) * static_cast<size_t>(length) + blockIdx.x) * static_cast<size_t>(ld);
  int first = static_cast<int>(threadIdx.x);
  float sum = 0.0f;
  p += at, dp += at;
  for (int j = first; j < length; j += threads) sum += to_float(p[j]) * to_float(dp[j]);
  sum = block_sum(sum);
  for (int j = first; j < length; j += threads)
    dp[j] = to_bf16(to_float(p[j]) * (to_float(dp[j]) - sum) * scale);
}

/* Rows of one head, `ld` elements apart, and the distance to the next head's. */
struct Rows {
  const bf16 *at;
  int ld;
  long long step;
};

/* `count` heads of one sequence of `length` tokens. */
struct Heads {
  Rows q, k, v, out, dout, dq, dk, dv; /* those behind out only for the gradient */
  Rows scores, gradients;              /* [count, length, ld] scratch */
  int length, dim, count;
  bool full;
  bool adds; /* dk and dv are of a group's heads before these, too */
};

/* c = alpha a b + beta c in the library's column-major sense, where a row-major [rows, columns] is [columns,
 * rows]. */
bool multiply(const Cublas *library, cublasOperation_t of_a, cublasOperation_t of_b, int m, int n, int k,
              float alpha, const Rows &a, const Rows &b, float beta, const Rows &c, int count) {
  return library->product(library->handle, of_a, of_b, m, n, k, &alpha, a.at, CUDA_R_16BF, a.ld, a.step, b.at,
                          CUDA_R_16BF, b.ld, b.step, &beta, const_cast<bf16 *>(c.at), CUDA_R_16BF, c.ld,
                          c.step, count, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT) == CUBLAS_STATUS_SUCCESS;
}

/* square [length, length] = alpha a [length, dim] b^T */
bool multiply_rows(const Cublas *library, const Heads &h, float alpha, const Rows &a, const Rows &b,
                   const Rows &square) {
  return multiply(library, CUBLAS_OP_T, CUBLAS_OP_N, h.length, h.length, h.dim, alpha, b, a, 0.0f, square,
                  h.count);
}

/* c [length, dim] = square b */
bool multiply_square(const Cublas *library, const Heads &h, const Rows &square, const Rows &b,
                     const Rows &c) {
  return multiply(library, CUBLAS_OP_N, CUBLAS_OP_N, h.dim, h.length, h.length, 1.0f, b, square, 0.0f, c,
                  h.count);
}

/* c (+)= square^T b: of heads with keys of their own at once, else one after the other. */
bool multiply_transposed(const Cublas *library, const Heads &h, const Rows &square, const Rows &b,
                         const Rows &c) {
  int at_once = c.step ? h.count : 1;
  bool good = true;
  for (int i = 0; i < h.count && good; i += at_once) {
    Rows square_i = square, b_i = b;
    square_i.at += i * square.step, b_i.at += i * b.step;
    good = multiply(library, CUBLAS_OP_N, CUBLAS_OP_T, h.dim, h.length, h.length, 1.0f, b_i, square_i,
                    h.adds || i ? 1.0f : 0.0f, c, at_once);
  }
  return good;
}

float scale_of(const Heads &h) { return 1.0f / sqrtf(static_cast<float>(h.dim)); }

dim3 rows_of(const Heads &h) { return dim3(static_cast<unsigned>(h.length), static_cast<unsigned>(h.count)); }

bool run_scores(Backend *backend, const Cublas *library, const Heads &h) {
  if (!multiply_rows(library, h, scale_of(h), h.q, h.k, h.scores)) return false;
  launch(cuda_state(backend), {"score_softmax", rows_of(h), threads, 0}, score_softmax,
         const_cast<bf16 *>(h.scores.at), h.length, h.scores.ld, h.full);
  return true;
}

bool run_forward(Backend *backend, const Cublas *library, const Heads &h) {
  return run_scores(backend, library, h) && multiply_square(library, h, h.scores, h.v, h.out);
}

bool run_backward(Backend *backend, const Cublas *library, const Heads &h) {
  if (!run_scores(backend, library, h) || !multiply_transposed(library, h, h.scores, h.dout, h.dv) ||
      !multiply_rows(library, h, 1.0f, h.dout, h.v, h.gradients))
    return false;
  launch(cuda_state(backend), {"score_gradient", rows_of(h), threads, 0}, score_gradient, h.scores.at,
         const_cast<bf16 *>(h.gradients.at), h.length, h.scores.ld, scale_of(h));
  return multiply_square(library, h, h.gradients, h.k, h.dq) &&
         multiply_transposed(library, h, h.gradients, h.q, h.dk);
}

/* ---- batches ---- */

/* Attention or its gradient. */
struct Pass {
  const Sequences *sequences;
  const bf16 *qkv, *out, *dout, *dqkv; /* the last two: NULL without the gradient */
  int heads, kv_heads, dim;
  bool full;
};

int padded(int length) { return (length + 7) / 8 * 8; }

size_t score_bytes(int length, int heads) {
  return static_cast<size_t>(heads) * static_cast<size_t>(length) * static_cast<size_t>(padded(length)) * 2;
}

/* Heads whose scores are stored at a time. */
int heads_at_once(const Pass &p) {
  int group = p.heads / p.kv_heads, most = group == 1 ? p.heads : group;
  while (most > 1 && score_bytes(p.sequences->max_len, most) > scores_most) most = (most + 1) / 2;
  return most;
}

/* Heads from `first` on of the sequence whose rows begin at token `begin`. */
Heads heads_of(const Pass &p, int begin, int length, int first, int count, bf16 *scores) {
  int group = p.heads / p.kv_heads, width = (p.heads + 2 * p.kv_heads) * p.dim, kv = first / group;
  int out_width = p.heads * p.dim, keys = (p.heads + kv) * p.dim, values = keys + p.kv_heads * p.dim;
  size_t row = static_cast<size_t>(begin) * static_cast<size_t>(width),
         out_row = static_cast<size_t>(begin) * static_cast<size_t>(out_width);
  long long own = p.dim, shared = group == 1 ? p.dim : 0,
            square = static_cast<long long>(length) * padded(length);
  const bf16 *qkv = p.qkv + row, *dqkv = p.dqkv ? p.dqkv + row : nullptr;
  Heads h = {};
  h.q = {qkv + first * p.dim, width, own};
  h.k = {qkv + keys, width, shared};
  h.v = {qkv + values, width, shared};
  h.out = {p.out + out_row + first * p.dim, out_width, own};
  h.scores = {scores, padded(length), square};
  h.length = length, h.dim = p.dim, h.count = count, h.full = p.full;
  if (!dqkv) return h;
  h.dout = {p.dout + out_row + first * p.dim, out_width, own};
  h.dq = {dqkv + first * p.dim, width, own};
  h.dk = {dqkv + keys, width, shared};
  h.dv = {dqkv + values, width, shared};
  h.gradients = {scores + square * count, padded(length), square};
  h.adds = first % group != 0;
  return h;
}

bool run_sequence(Backend *backend, const Cublas *library, const Pass &p, int begin, int length,
                  bf16 *scores) {
  int group = p.heads / p.kv_heads, at_once = heads_at_once(p);
  for (int first = 0; first < p.heads;) {
    int left = group == 1 ? p.heads - first : group - first % group;
    int count = left < at_once ? left : at_once;
    Heads h = heads_of(p, begin, length, first, count, scores);
    if (!(p.dqkv ? run_backward(backend, library, h) : run_forward(backend, library, h))) return false;
    first += count;
  }
  return true;
}

bool run_pass(Backend *backend, const Pass &p) {
  const Cublas *library = open_cublas();
  std::vector<int32_t> cu(static_cast<size_t>(p.sequences->count) + 1);
  if (backend->download(backend, cu.data(), p.sequences->cu_seqlens, cu.size() * sizeof(int32_t)) != OK)
    return false;
  void *scores =
      cuda_workspace(backend, (p.dqkv ? 2 : 1) * score_bytes(p.sequences->max_len, heads_at_once(p)));
  if (!scores) return false;
  bool good = library->set_stream(library->handle, cuda_state(backend)->stream) == CUBLAS_STATUS_SUCCESS;
  for (size_t b = 0; good && b + 1 < cu.size(); b++) {
    int length = cu[b + 1] - cu[b];
    good = !length || run_sequence(backend, library, p, cu[b], length, static_cast<bf16 *>(scores));
  }
  return good;
}

template <typename Operation>
bool takes(const Operation &op) {
  return op.prefix_len == 0 && !op.sequences.branch && open_cublas();
}

}  // namespace

bool cublas_takes(Backend *, const Attention &op) { return takes(op); }

bool cublas_takes(Backend *, const AttentionBackward &op) { return takes(op); }

bool cuda_attention_unfused(Backend *backend, const Attention *a) {
  return run_pass(
      backend, {&a->sequences, static_cast<const bf16 *>(a->qkv), static_cast<const bf16 *>(a->out), nullptr,
                nullptr, a->heads, a->kv_heads, a->head_dim, a->full});
}

bool cuda_attention_backward_unfused(Backend *backend, const AttentionBackward *a) {
  return run_pass(backend, {&a->sequences, static_cast<const bf16 *>(a->qkv),
                            static_cast<const bf16 *>(a->out), static_cast<const bf16 *>(a->dout),
                            static_cast<const bf16 *>(a->dqkv), a->heads, a->kv_heads, a->head_dim, a->full});
}

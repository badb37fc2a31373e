/* What the files under cuda/ share: the state of one GPU and the operations' launchers. Read by nvcc and,
 * in the host-run tests of the kernels, by a plain C++ compiler. */
#ifndef POPALM_CUDA_BACKEND_H
#define POPALM_CUDA_BACKEND_H

extern "C" {
#include "backend.h"
}

/* cudaStream_t, without the toolkit's headers. */
struct CUstream_st;

struct CudaState {
  int sm_count;        /* multiprocessors */
  bool hopper;         /* the attention kernels for compute capability 9.0 are used where they fit */
  CUstream_st *stream; /* everything runs on it, in order */
  uint32_t
      *grid_counter; /* device, one word whose lower 31 bits are 0 at rest: see grid_barrier, last_block */
  void *workspace;   /* device scratch, see cuda_workspace */
  size_t workspace_bytes;
  struct NcclGroup *ranks;  /* NULL until cuda_join */
  struct CublasLt *library; /* for cuda_product; NULL: every product goes by the kernel of product.cu */
  const char *failed;       /* kernel or call of the first error, or NULL */
  int error;                /* its cudaError_t */
};

static inline CudaState *cuda_state(Backend *backend) { return static_cast<CudaState *>(backend->state); }

/* At least bytes of device scratch memory, 256-byte aligned, with undefined content: the caller's until
 * the next operation begins. NULL, with the error kept, when the device has no memory left. */
void *cuda_workspace(Backend *backend, size_t bytes);

/* Keeps the first error, a cudaError_t; synchronize and download report it. what lives as long as the
 * program. */
void cuda_note(CudaState *state, int error, const char *what);

/* d [m, n] = scale a [m, k] b [k, n], bf16 in, fp32 sums. All row-major; a leading dimension is the distance
 * of two stored rows in elements. The host-run tests have a plain loop for cuda_product. */
struct Product {
  const void *a, *b;
  void *d;
  int m, n, k;
  bool a_transposed; /* a is stored [k, m] */
  bool b_transposed; /* b is stored [n, k] */
  int lda, ldb, ldd;
  DType out;        /* of d: BF16 or F32 */
  const void *bias; /* [n] bf16, added to every row; NULL: none */
  bool accumulate;  /* d += */
  float scale;      /* 0: 1 */
};
void cuda_product(Backend *backend, const Product *product);
/* into[c] += sum of partial[s][c] over the slices in a fixed order, of partial [slices, split + others]: the
 * first `split` columns to first, the others to second; bf16 both, NULL: left out. The second step of sums
 * over rows. */
void cuda_add_slices(Backend *backend, const float *partial, int slices, void *first, int split, void *second,
                     int others);
/* The kernel of product.cu: any shape and alignment, no library. */
void cuda_product_plain(Backend *backend, const Product *product);

/* A matrix [rows, columns] of any weight type in bf16: itself, or made so in scratch, which then has that many
 * bytes (0: none is needed). */
size_t cuda_native_bytes(WeightType type, int rows, int columns);
const void *cuda_native_weight(Backend *backend, const void *weight, WeightType type, int rows, int columns,
                               void *scratch);
/* Likewise, with the workspace as its scratch; false without memory. */
bool cuda_find_weight(Backend *backend, const void *weight, WeightType type, int rows, int columns,
                      const void **found);

/* cuBLASLt for one device, or NULL where its library cannot be found (LD_LIBRARY_PATH) or opened. */
CublasLt *cublaslt_open(void);
void cublaslt_close(CublasLt *library);
size_t cublaslt_version(const CublasLt *library); /* as CUBLAS_VERSION: 130100 is 13.1 */

/* Backend.join, and its end (backend_collectives.cu). */
Status cuda_join(Backend *backend);
void cuda_leave(CudaState *state);

/* The launchers, one an operation, each in the file of its name. */
void cuda_embedding(Backend *backend, const Embedding *op);
void cuda_embedding_backward(Backend *backend, const EmbeddingBackward *op);
void cuda_linear(Backend *backend, const Linear *op);
void cuda_linear_backward(Backend *backend, const LinearBackward *op);
void cuda_norm(Backend *backend, const Norm *op);
void cuda_norm_backward(Backend *backend, const NormBackward *op);
void cuda_qk_norm(Backend *backend, const QkNorm *op);
void cuda_qk_norm_backward(Backend *backend, const QkNormBackward *op);
void cuda_rope(Backend *backend, const Rope *op);
void cuda_attention(Backend *backend, const Attention *op);
void cuda_attention_backward(Backend *backend, const AttentionBackward *op);
void cuda_kv_store(Backend *backend, const KvStore *op);
void cuda_attention_decode(Backend *backend, const AttentionDecode *op);
void cuda_activation(Backend *backend, const Activation *op);
void cuda_activation_backward(Backend *backend, const ActivationBackward *op);
void cuda_dropout(Backend *backend, const Dropout *op);
void cuda_gather_rows(Backend *backend, const GatherRows *op);
void cuda_scatter_rows(Backend *backend, const ScatterRows *op);
void cuda_vocab(Backend *backend, const Vocab *op);
void cuda_vocab_backward(Backend *backend, const VocabBackward *op);
void cuda_vocab_logits(Backend *backend, const VocabLogits *op);
void cuda_sample(Backend *backend, const Sample *op);
void cuda_decode_advance(Backend *backend, const DecodeAdvance *op);
void cuda_scalar_head(Backend *backend, const ScalarHead *op);
void cuda_scalar_head_backward(Backend *backend, const ScalarHeadBackward *op);
void cuda_reward_head(Backend *backend, const RewardHead *op);
void cuda_ppo_advantage(Backend *backend, const PpoAdvantage *op);
void cuda_ppo_loss(Backend *backend, const PpoLoss *op);
void cuda_grad_norm(Backend *backend, const GradNorm *op);
void cuda_adamw(Backend *backend, const AdamW *op);

/* The two kernels behind cuda_attention and behind cuda_attention_backward: those for compute capability 9.0 are
 * tried first; they return false, having done nothing, where they do not fit. The gradient's write dqkv only. */
bool cuda_attention_hopper(Backend *backend, const Attention *op);
void cuda_attention_portable(Backend *backend, const Attention *op);
bool cuda_attention_backward_hopper(Backend *backend, const AttentionBackward *op, const float *delta);
void cuda_attention_backward_portable(Backend *backend, const AttentionBackward *op);

/* For benchmarks only: attention_baseline.cu; with cuBLAS, which waits for the device to read the lengths:
 * backend_baseline.cu; with cuDNN: backend_cudnn.cu. The last two are called where their library takes the operation,
 * and return false when it refuses all the same: no reason to end a benchmark. */
bool cuda_attention_baseline(Backend *backend, const Attention *op, int which, Baseline *is);
bool cuda_attention_backward_baseline(Backend *backend, const AttentionBackward *op, int which, Baseline *is);
bool cublas_takes(Backend *backend, const Attention &op);
bool cublas_takes(Backend *backend, const AttentionBackward &op);
bool cuda_attention_unfused(Backend *backend, const Attention *op);
bool cuda_attention_backward_unfused(Backend *backend, const AttentionBackward *op);
bool cudnn_takes(Backend *backend, const Attention &op);
bool cudnn_takes(Backend *backend, const AttentionBackward &op);
bool cuda_attention_cudnn(Backend *backend, const Attention *op);
bool cuda_attention_backward_cudnn(Backend *backend, const AttentionBackward *op);

/* The rows of a packed batch as cuDNN reads them: attention_unpack.cu. */
struct UnpackRows {
  const int32_t *cu_seqlens; /* [count + 1] */
  const float *lse;          /* [heads, tokens]; NULL: no statistics are wanted */
  float *stats;              /* [count, heads, max_len], zeros behind a sequence's end */
  int32_t *lengths;          /* [count]; NULL: none are wanted, nor offsets */
  int64_t *qkv_offsets;      /* [count + 1] elements to each sequence's rows of qkv_width */
  int64_t *out_offsets;      /* the same of out_width */
  int count, heads, tokens, max_len, qkv_width, out_width;
};
void cuda_unpack_rows(Backend *backend, const UnpackRows &rows);

void cuda_convert(Backend *backend, void *to, DType to_type, const void *from, DType from_type, size_t count);

#endif

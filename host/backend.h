/* The contract between everything above (plain C that does not know the device) and the devices
 * below: memory, one stream, and one function pointer an operation.
 *
 * Conventions
 *   N tokens of a packed batch, B sequences, H hidden size, V vocabulary, d head_dim,
 *   Hq / Hkv query / key-value heads.
 *   Pointers inside an operation's struct are device pointers. `const void *` and `void *` hold the
 *   backend's storage type (fp32 on the CPU, bf16 on CUDA); `float *` is fp32 on every backend:
 *   statistics, logprobs, values, rewards, losses.
 *   Matrices are row-major and dense unless a stride is named.
 *   Gradients of parameters are accumulated (+=); gradients of activations are overwritten unless
 *   the field says otherwise.
 *   A size of 0 (rows, tokens, count) is legal and does nothing (accumulated outputs unchanged).
 *   Every operation is deterministic: the same inputs give the same bits, whatever the thread count.
 *   An operation cannot fail by itself; a device error is kept and reported by synchronize and
 *   download. Scratch memory is the backend's own, grown at first use.
 */
#ifndef POPALM_BACKEND_H
#define POPALM_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/philox.h"
#include "base/rope_scaling.h"
#include "base/status.h"

typedef struct Backend Backend;

typedef enum DType { F32, BF16, I32, U8 } DType;
size_t dtype_bytes(DType type);

/* How a matrix that is only read stands in memory. WEIGHT_NATIVE is the backend's storage type; a row of
 * WEIGHT_INT8 is blocks of 32 values, each an fp16 scale and 32 signed bytes, value = scale * byte (GGUF's Q8_0),
 * the last one filled up with zeros. Every operation computes what it would from the native weights of the same
 * values. */
typedef enum WeightType { WEIGHT_NATIVE, WEIGHT_BF16, WEIGHT_INT8 } WeightType;
enum { INT8_BLOCK = 32, INT8_BLOCK_BYTES = 34 };
size_t weight_row_bytes(WeightType type, DType storage, int columns);

/* B packed sequences: sequence b holds tokens cu_seqlens[b] .. cu_seqlens[b+1]-1. In attention a sequence may have
 * branches, the replies to one post: its first shared[b] tokens stand before each of them. Token t then sees, of
 * those up to itself, the shared ones and those from branch[t] on. branch never falls within a sequence, and is the
 * sequence's first token for the shared tokens; with shared[b] 0 the branches are sequences that only lie in one
 * place. */
typedef struct Sequences {
  const int32_t *cu_seqlens; /* [count+1], device */
  int count;                 /* B */
  int tokens;                /* N = cu_seqlens[count] */
  int max_len;               /* of the longest sequence */
  const int32_t *shared;     /* [count], device; NULL: no sequence has branches */
  const int32_t *branch;     /* [N], device: the first token of each token's branch; NULL as shared is */
} Sequences;

/* x[n] = token_table[tokens[n]] + position_table[positions[n]] */
typedef struct Embedding {
  const int32_t *tokens;    /* [rows] */
  const int32_t *positions; /* [rows] */
  int rows, hidden, vocab, max_positions;
  const void *token_table;    /* [V, H] */
  const void *position_table; /* [max_positions, H], or NULL: rope models have none */
  void *out;                  /* [rows, H] */
  WeightType table_type;      /* of both tables */
} Embedding;

typedef struct EmbeddingBackward {
  const int32_t *tokens, *positions; /* [rows] */
  int rows, hidden, vocab, max_positions;
  const void *dout;      /* [rows, H] */
  void *dtoken_table;    /* [V, H], accumulated; or NULL */
  void *dposition_table; /* [max_positions, H], accumulated; or NULL */
} EmbeddingBackward;

/* y = scale x Wt + bias, weights as [out, in] */
typedef struct Linear {
  const void *x;      /* [rows, in] */
  const void *weight; /* [out, in] */
  const void *bias;   /* [out] or NULL */
  void *y;            /* [rows, out] */
  int rows, in, out;
  bool accumulate; /* y += instead of y = */
  int y_stride;    /* elements between rows of y; 0: out */
  float scale;     /* 0: 1 */
  WeightType weight_type;
} Linear;

/* dx = scale dy W; dW += scale dyt x; dbias += column sums of dy. Any output may be NULL. */
typedef struct LinearBackward {
  const void *x;      /* [rows, in]; needed for dweight */
  const void *weight; /* [out, in]; needed for dx */
  const void *dy;     /* [rows, out] */
  void *dx;           /* [rows, in] */
  void *dweight;      /* [out, in], accumulated */
  void *dbias;        /* [out], accumulated */
  int rows, in, out;
  bool accumulate; /* dx += instead of dx = */
  int dy_stride;   /* elements between rows of dy; 0: out */
  float scale;     /* 0: 1 */
  WeightType weight_type;
} LinearBackward;

typedef enum NormKind { NORM_LAYER, NORM_RMS } NormKind;

/* sum = x + residual; y = (sum - mean) * rstd * gain + bias   (RMS: no mean, no bias) */
typedef struct Norm {
  NormKind kind;
  const void *x;        /* [rows, H] */
  const void *residual; /* [rows, H] or NULL */
  void *sum;            /* [rows, H]; needed with residual, else may be NULL. May alias x. */
  void *y;              /* [rows, H] */
  float *mean, *rstd;   /* [rows]; mean is NULL for RMS; both NULL when no backward follows */
  const void *gain;     /* [H] */
  const void *bias;     /* [H] or NULL */
  int rows, hidden;
  float epsilon;
} Norm;

/* dx = gradient through the norm + dresidual (the gradient that reaches sum by the other path) */
typedef struct NormBackward {
  NormKind kind;
  const void *sum;          /* [rows, H]: what the norm was taken of */
  const void *dy;           /* [rows, H] */
  const void *dresidual;    /* [rows, H] or NULL; may alias dx */
  const float *mean, *rstd; /* [rows] from the forward pass; mean is NULL for RMS */
  const void *gain;         /* [H] */
  void *dx;                 /* [rows, H]; may be NULL */
  void *dgain, *dbias;      /* [H], accumulated; may be NULL */
  int rows, hidden;
} NormBackward;

/* RMS norm of every query and key head over its own d values (Qwen3), in place on packed qkv rows before rope:
 * y = x rstd gain, rstd = 1 / sqrt(mean of x^2 + epsilon). The query heads share one gain, the key heads
 * another; the value heads stay. */
typedef struct QkNorm {
  void *qkv;                   /* [rows, (Hq + 2 Hkv) d] */
  void *kept;                  /* [rows, (Hq + Hkv) d] the heads before; NULL when no backward follows */
  float *rstd;                 /* [rows, Hq + Hkv]; NULL when no backward follows */
  const void *q_gain, *k_gain; /* [d] */
  int rows, heads, kv_heads, head_dim;
  float epsilon;
} QkNorm;

/* From the gradient of what QkNorm left in qkv to the gradient of what stood there, in place. */
typedef struct QkNormBackward {
  void *dqkv;                  /* [rows, (Hq + 2 Hkv) d]; the value heads' part stays */
  const void *kept;            /* from the forward pass */
  const float *rstd;           /* from the forward pass */
  const void *q_gain, *k_gain; /* [d] */
  void *dq_gain, *dk_gain;     /* [d], accumulated; both NULL when the gains are frozen */
  int rows, heads, kv_heads, head_dim;
} QkNormBackward;

/* Rotary embedding in place on the query and key heads of packed qkv rows, pairs (i, i + d/2) as in
 * the Llama and Qwen checkpoints: angle = position * theta^(-2i/d). inverse turns backwards, which is
 * also the gradient. */
typedef struct Rope {
  void *qkv; /* [rows, (Hq + 2 Hkv) d] */
  const int32_t *positions; /* [rows] */
  int rows, heads, kv_heads, head_dim;
  float theta;
  bool inverse;
  RopeScaling scaling; /* of the angles a token */
  int first_position;  /* added to every position */
} Rope;

/* Causal self-attention over packed sequences with grouped heads:
 * out = softmax(q kt / sqrt(d)) v, each query head h with key-value head h / (Hq / Hkv). The keys and values of
 * the prefix stand before those of every sequence, and every query sees them all. full: so it does all keys of its
 * sequence, which has no branches then. */
typedef struct Attention {
  Sequences sequences;
  const void *qkv;    /* [N, (Hq + 2 Hkv) d]: query heads, key heads, value heads */
  const void *prefix; /* [prefix_len, 2 Hkv d]: key heads, value heads; NULL when prefix_len is 0 */
  int prefix_len;
  void *out;       /* [N, Hq d] */
  float *lse;      /* [Hq, N], natural log of the softmax denominators (scores scaled); NULL when no backward follows */
  int heads, kv_heads, head_dim;
  bool full; /* not causal */
} Attention;

typedef struct AttentionBackward {
  Sequences sequences;
  const void *qkv, *prefix, *out, *dout;
  const float *lse;
  void *dqkv;    /* [N, (Hq + 2 Hkv) d] */
  void *dprefix; /* [prefix_len, 2 Hkv d], accumulated over all sequences; NULL: not wanted */
  int prefix_len;
  int heads, kv_heads, head_dim;
  bool full;
} AttentionBackward;

/* Another way to compute an operation, for benchmarks. */
typedef struct Baseline {
  const char *name;
  bool waits;  /* for the device, and so cannot be recorded */
  bool failed; /* its library refused: what it has written means nothing */
} Baseline;

/* Copies the key and value parts of qkv rows into a cache of rows of 2 Hkv d. */
typedef struct KvStore {
  const void *qkv;    /* [rows, (Hq + 2 Hkv) d] */
  const int32_t *row; /* [rows] cache row of each; NULL: row i to cache row i */
  void *cache;        /* [.., 2 Hkv d] */
  int rows, heads, kv_heads, head_dim;
} KvStore;

/* One new token for each of `rows` sequences against its keys and values: first the prefix, shared by all, then
 * the post's, shared by the samples of a post, then the sample's own (its newest key is already stored). */
typedef struct AttentionDecode {
  const void *qkv;                /* [rows, (Hq + 2 Hkv) d], the new tokens */
  const void *post_cache;         /* [post tokens, 2 Hkv d], posts packed */
  const int32_t *post_cu_seqlens; /* [posts+1] into post_cache */
  const int32_t *post;            /* [rows] which post */
  const void *reply_cache;        /* [slots, max_reply, 2 Hkv d] */
  const int32_t *slot;            /* [rows] which slot */
  const int32_t *reply_len;       /* [rows] keys in the slot, the new one included */
  int rows, max_reply, heads, kv_heads, head_dim;
  void *out; /* [rows, Hq d] */
  const void *prefix; /* [prefix_len, 2 Hkv d], or NULL */
  int prefix_len;
} AttentionDecode;

typedef enum ActivationKind { ACTIVATION_GELU, ACTIVATION_SWIGLU } ActivationKind;

/* GELU (tanh form, as GPT-2): y = gelu(x). SwiGLU: x = [gate | up], y = silu(gate) * up. */
typedef struct Activation {
  ActivationKind kind;
  const void *x; /* [rows, F] or [rows, 2F] */
  void *y;       /* [rows, F] */
  int rows, width; /* width = F */
} Activation;

typedef struct ActivationBackward {
  ActivationKind kind;
  const void *x, *dy;
  void *dx; /* shape of x; may alias dy for GELU */
  int rows, width;
} ActivationBackward;

/* y = x / (1 - rate) where a position is kept, else 0; column c of row r is kept as base/dropout_mask.h says of
 * (key, id[r], site, c). The rate is rounded to a multiple of 1 / 65536. */
typedef struct Dropout {
  const void *x;     /* [rows, cols] */
  void *y;           /* [rows, cols] */
  const int32_t *id; /* [rows] of the tokens */
  RandomKey key;
  uint32_t site; /* place in the model, below 2^18 */
  float rate;    /* below 1 */
  int rows, cols;
  bool accumulate; /* y += instead of y = */
} Dropout;

/* dst[i] = src[index[i]] + addend[index[i]] */
typedef struct GatherRows {
  const void *src, *addend; /* [.., cols]; addend may be NULL */
  const int32_t *index;     /* [rows] */
  void *dst;                /* [rows, cols] */
  int rows, cols;
} GatherRows;

/* dst = 0 but dst[index[i]] = src[i] */
typedef struct ScatterRows {
  const void *src;      /* [rows, cols] */
  const int32_t *index; /* [rows], distinct */
  void *dst;            /* [dst_rows, cols] */
  int rows, dst_rows, cols;
} ScatterRows;

/* Logprob and entropy of the vocabulary's softmax, logits = hidden Wt, in chunks: the logits of all
 * rows never stand in memory at once. */
typedef struct Vocab {
  const void *hidden;     /* [rows, H], after the final norm */
  const void *weight;     /* [V, H] */
  const int32_t *targets; /* [rows] */
  float *logprob;         /* [rows] log p(target); may be NULL */
  float *entropy;         /* [rows] nats; may be NULL */
  int rows, hidden_size, vocab;
  WeightType weight_type;
} Vocab;

/* The backward pass, which recomputes the logits, so that for a cross-entropy (whose dlogprob is
 * known beforehand) this one call is the whole loss.
 * dlogits_j = dlogprob (1[j = target] - p_j) - dentropy p_j (log p_j + entropy) */
typedef struct VocabBackward {
  const void *hidden, *weight;
  const int32_t *targets;
  const float *dlogprob; /* [rows] */
  const float *dentropy; /* [rows] or NULL */
  float *logprob;        /* [rows] or NULL, as in Vocab */
  void *dhidden;         /* [rows, H] */
  void *dweight;         /* [V, H], accumulated; or NULL */
  int rows, hidden_size, vocab;
  WeightType weight_type;
} VocabBackward;

/* logits = hidden Wt in fp32, for sampling */
typedef struct VocabLogits {
  const void *hidden, *weight;
  float *logits; /* [rows, V] */
  int rows, hidden_size, vocab;
  WeightType weight_type;
} VocabLogits;

/* Draws one token a row from softmax(logits / temperature) cut to the top_k most likely (0: all) and
 * then to the smallest set whose share of what top_k left reaches top_p (1: all), renormalised; among
 * equals the lower ids stay. temperature 0 takes the most likely, the lower id on ties, logprob 0.
 * All sums are exact: the weight of a token is the 64-bit integer w = floor(2^40 e) of the fp32
 * e = exp((logit - largest) * (1 / temperature)); "more likely" compares e; the nucleus is full at
 * ceil(top_p * sum of w) (product in double, at least 1). Row i takes the 64 bits v[0] 2^32 + v[1] of
 * philox(key, sample[i], position[i]); r = the upper 64 bits of their product with the sum W of the
 * weights kept; the token is the first in id order whose running sum of kept weights exceeds r, its
 * logprob log(w / W). A row whose largest logit is not finite gets logprob NaN. */
typedef struct Sample {
  float *logits; /* [rows, V]; overwritten */
  int rows, vocab;
  float temperature, top_p;
  int top_k;
  const RandomKey *key;    /* [1] */
  const int32_t *sample;   /* [rows] */
  const int32_t *position; /* [rows] index of the new token in the reply */
  int32_t *token;          /* [rows] */
  float *logprob;          /* [rows] under the distribution that was drawn from */
} Sample;

/* Bookkeeping of one decode step, on the device so that no token waits for the host: row r (of slot s)
 * drew token[r]. Appends it to reply[s], its logprob to reply_logprob[s]; a row that drew eos or is
 * full becomes finished. Finished rows stay as they are. */
typedef struct DecodeAdvance {
  const int32_t *slot;  /* [rows] */
  const int32_t *token; /* [rows] as drawn */
  const float *logprob; /* [rows] */
  int32_t eos;
  int rows, max_reply;
  int32_t *reply;       /* [slots, max_reply] */
  float *reply_logprob; /* [slots, max_reply] */
  int32_t *length;      /* [slots] tokens so far, eos included */
  int32_t *finished;    /* [slots] 0 or 1 */
  int32_t *next_token;     /* [rows] input of the next step */
  int32_t *next_position;  /* [rows] its position in the sequence: +1 */
  int32_t *next_reply_len; /* [rows] +1, at most max_reply */
  int32_t *next_cache_row; /* [rows] slot * max_reply + next_reply_len - 1 */
  int32_t *next_index;     /* [rows] index of the token to be drawn next: +1 */
} DecodeAdvance;

/* out[i] = hidden[row[i]] . weight + bias: the value head on every reply token, the reward head on the
 * last token of each sequence. */
typedef struct ScalarHead {
  const void *hidden;   /* [.., H] */
  const int32_t *row;   /* [rows], distinct; NULL: row i */
  const void *weight;   /* [H] */
  const void *bias;     /* [1] */
  float *out;           /* [rows] */
  int rows, hidden_size;
} ScalarHead;

typedef struct ScalarHeadBackward {
  const void *hidden;
  const int32_t *row;
  const void *weight;
  const float *dout; /* [rows] */
  void *dhidden;     /* the same rows as hidden; only those named by row are written */
  bool accumulate;   /* dhidden += instead of = */
  void *dweight;     /* [H], accumulated */
  void *dbias;       /* [1], accumulated */
  int rows, hidden_size;
} ScalarHeadBackward;

/* The reward model's head, pairwise loss and their backward in one launch. Rows 2i and 2i+1 are the
 * preferred and the other reply of pair i. With D = r(2i) - r(2i+1) - margin[i]:
 *   loss_i = -(1 - smoothing) log sigmoid(D) - smoothing log sigmoid(-D)     (Bradley-Terry)
 * The gradients are of scale * sum_i loss_i. */
typedef struct RewardHead {
  const void *hidden;  /* [.., H], after the final norm */
  const int32_t *row;  /* [2 pairs] last-token rows, distinct; NULL: row i */
  const void *weight;  /* [H] */
  const void *bias;    /* [1] */
  const float *margin; /* [pairs] or NULL: 0 */
  float smoothing, scale;
  float *reward;       /* [2 pairs] */
  float *loss;         /* [pairs] */
  void *dhidden;       /* only the named rows are written; NULL: no backward */
  void *dweight;       /* [H], accumulated */
  void *dbias;         /* [1], accumulated */
  int pairs, hidden_size;
} RewardHead;

/* Per-token reward, generalised advantage estimation (Schulman et al. 2016) and whitening:
 *   r_t = -kl_coef * kl_t + score at a reply's last token,  kl_t by kl_kind of logprob - ref_logprob
 *   delta_t = r_t + gamma V_{t+1} - V_t  (V = 0 past the end)
 *   A_t = delta_t + gamma lambda A_{t+1};  returns_t = A_t + V_t
 *   whiten: A <- (A - mean) / sqrt(var + 1e-8) over all tokens, var with Bessel's correction */
typedef enum KlKind { KL_K1, KL_K2, KL_K3 } KlKind; /* x = logprob - ref: x; x^2/2; exp(-x) - 1 + x with x >= -40 */

enum { ADVANTAGE_MEAN, ADVANTAGE_VARIANCE, ADVANTAGE_KL, ADVANTAGE_RETURN, ADVANTAGE_STATS };

typedef struct PpoAdvantage {
  Sequences replies;
  const float *logprob, *ref_logprob, *value; /* [tokens] */
  const float *score;                         /* [count] */
  KlKind kl_kind;
  float kl_coef, gamma, lambda;
  bool whiten;
  float *advantage, *returns; /* [tokens] */
  float *stats; /* [ADVANTAGE_STATS]: mean and variance before whitening, sum of kl_t / count, mean of returns_t */
} PpoAdvantage;

/* Clipped policy and value losses, forward and backward fused (Schulman et al. 2017):
 *   ratio = exp(x), x = logprob - old_logprob clamped to +-PPO_LOG_RATIO_MOST so that nothing overflows
 *   policy = max(-A ratio, -A clip(ratio, 1 - clip_low, 1 + clip_high)); with dual_clip c > 0 and A < 0: min(policy, -A c)
 *   value = 1/2 max((V - returns)^2, (V_old + clip(V - V_old, +-value_clip) - returns)^2)
 *   loss = scale * sum(policy + value_coef * value) */
enum {
  PPO_POLICY_LOSS, PPO_VALUE_LOSS, /* sums over tokens, unscaled */
  PPO_CLIPPED, PPO_VALUE_CLIPPED,  /* number of tokens where the clipped branch was the larger */
  PPO_APPROX_KL,                   /* sum of k3 = exp(x) - 1 - x */
  PPO_RATIO,                       /* sum of ratios */
  PPO_STATS
};
enum { PPO_LOG_RATIO_MOST = 40 };

typedef struct PpoLoss {
  const float *logprob, *old_logprob, *advantage; /* [tokens] */
  const float *value, *old_value, *returns;       /* [tokens] */
  float clip_low, clip_high, dual_clip, value_clip, value_coef, scale;
  float *dlogprob, *dvalue; /* [tokens] gradients of loss */
  float *stats;             /* [PPO_STATS], overwritten */
  int tokens;
} PpoLoss;

/* norm = sqrt(sum of squares) of all gradients, and of the norms of gradients that are elsewhere */
typedef struct GradNorm {
  const void *grad; /* [count] */
  size_t count;
  float *norm;         /* [1]; not one of others */
  const float *others; /* [other_count]; may be NULL when there are none */
  int other_count;
} GradNorm;

/* AdamW (Loshchilov and Hutter 2019) over all parameters in one launch. Gradients are first scaled by
 * min(1, max_norm / (norm + 1e-6)); decay is applied to the first decay_count parameters. Parameters with
 * a non-finite gradient norm are left alone. */
typedef struct AdamW {
  float *master, *m, *v; /* [count] fp32 */
  const void *grad;      /* [count] storage type */
  void *copy;            /* [count] storage type, what the forward pass reads; equals master on the CPU */
  size_t count, decay_count;
  float lr, beta1, beta2, epsilon, weight_decay;
  int step;           /* from 1 */
  const float *norm;  /* [1] from GradNorm; NULL: no clipping */
  float max_norm;     /* 0: no clipping */
} AdamW;

/* Sums and copies between the ranks of a job (base/comm.h), in a backend's memory. They run beside its other
 * operations: a buffer must be complete when its collective is started, and neither it nor the result may be
 * used before wait. Every rank starts the same ones in the same order. Starting gives a ticket, 1, 2, 3 and so on. */
typedef struct Collectives {
  int rank, size;
  /* part [count] = this rank's part of the sum of all [size, count], in the storage type */
  int64_t (*reduce_scatter)(Backend *, const void *all, void *part, size_t count);
  /* all [size, count] = the ranks' parts [count], one after the other */
  int64_t (*all_gather)(Backend *, const void *part, void *all, size_t count, DType type);
  void (*progress)(Backend *);             /* moves them on where nothing else does; cheap */
  void (*wait)(Backend *, int64_t ticket); /* operations after it see the results up to that ticket's */
} Collectives;

struct Backend {
  const char *name;  /* "cpu", "cuda:0" */
  char device[128];  /* for people: "Intel Xeon, 2 threads", "NVIDIA H200" */
  DType storage;     /* F32 or BF16 */
  void *state;       /* the backend's own */
  const Collectives *collectives; /* NULL until join */

  /* Memory. what names the use in the out-of-memory message. alloc'd memory is not cleared. */
  Status (*alloc)(Backend *, size_t bytes, const char *what, void **out) CHECKED;
  void (*free)(Backend *, void *memory);
  void (*upload)(Backend *, void *device, const void *host, size_t bytes);
  Status (*download)(Backend *, void *host, const void *device, size_t bytes) CHECKED; /* waits */
  void (*zero)(Backend *, void *device, size_t bytes);
  void (*copy)(Backend *, void *to, const void *from, size_t bytes);
  void (*convert)(Backend *, void *to, DType to_type, const void *from, DType from_type, size_t count);
  Status (*synchronize)(Backend *) CHECKED;
  void (*memory)(Backend *, size_t *used, size_t *total); /* bytes */
  /* The most bytes that allocations of this backend and its scratch memory took together since the start or the
   * last reset, which also gives the scratch memory back. Not while there are recordings. */
  size_t (*peak)(Backend *, bool reset);
  bool host_memory; /* its memory is the host's: what is to be written to a file need not be downloaded */
  void (*close)(Backend *);
  /* Connects with the backends of the other ranks: gives collectives. Under a launcher only. */
  Status (*join)(Backend *) CHECKED;

  /* Seconds of the device between start and stop, on the backend's stream; stop waits for it. One pair at a
   * time, not inside a recording. */
  void (*timer_start)(Backend *);
  Status (*timer_stop)(Backend *, double *seconds) CHECKED;

  /* A sequence of operations between record_begin and record_end is not run but kept, and each replay runs it
   * with the pointers and sizes of then, without launch cost. Operations only: no uploads or downloads. Run the
   * sequence once before it is recorded: first calls may load code or grow scratch memory. */
  bool records; /* false where there is nothing to gain (CPU): the four are NULL */
  void (*record_begin)(Backend *);
  void *(*record_end)(Backend *);
  void (*replay)(Backend *, void *recording);
  void (*record_free)(Backend *, void *recording);

  void (*embedding)(Backend *, const Embedding *);
  void (*embedding_backward)(Backend *, const EmbeddingBackward *);
  void (*linear)(Backend *, const Linear *);
  void (*linear_backward)(Backend *, const LinearBackward *);
  void (*norm)(Backend *, const Norm *);
  void (*norm_backward)(Backend *, const NormBackward *);
  void (*qk_norm)(Backend *, const QkNorm *);
  void (*qk_norm_backward)(Backend *, const QkNormBackward *);
  void (*rope)(Backend *, const Rope *);
  void (*attention)(Backend *, const Attention *);
  void (*attention_backward)(Backend *, const AttentionBackward *);
  void (*kv_store)(Backend *, const KvStore *);
  void (*attention_decode)(Backend *, const AttentionDecode *);
  void (*activation)(Backend *, const Activation *);
  void (*activation_backward)(Backend *, const ActivationBackward *);
  void (*dropout)(Backend *, const Dropout *);
  void (*gather_rows)(Backend *, const GatherRows *);
  void (*scatter_rows)(Backend *, const ScatterRows *);
  void (*vocab)(Backend *, const Vocab *);
  void (*vocab_backward)(Backend *, const VocabBackward *);
  void (*vocab_logits)(Backend *, const VocabLogits *);
  void (*sample)(Backend *, const Sample *);
  void (*decode_advance)(Backend *, const DecodeAdvance *);
  void (*scalar_head)(Backend *, const ScalarHead *);
  void (*scalar_head_backward)(Backend *, const ScalarHeadBackward *);
  void (*reward_head)(Backend *, const RewardHead *);
  void (*ppo_advantage)(Backend *, const PpoAdvantage *);
  void (*ppo_loss)(Backend *, const PpoLoss *);
  void (*grad_norm)(Backend *, const GradNorm *);
  void (*adamw)(Backend *, const AdamW *);

  /* attention as other kernels compute it (without fusion; those for any GPU; the vendor's), for benchmarks to compare
   * with: variant `which` from 0 on, and what it is. Returns false, having done nothing, when there is no such variant.
   * lse need not be written. NULL: none. */
  bool (*attention_baseline)(Backend *, const Attention *, int which, Baseline *is);
  bool (*attention_backward_baseline)(Backend *, const AttentionBackward *, int which, Baseline *is);
};

/* Opens the backend named by "auto" (the first GPU, else the CPU), "cpu", "cuda" or "cuda:n". */
Status backend_open(const char *device, Backend **out) CHECKED;

/* The kind of backend that device would open, without opening it: "cpu" or "cuda". */
Status backend_kind(const char *device, const char **out) CHECKED;

/* The shapes of a stage's passes through a model, of which the operations' scratch memory depends. */
typedef struct PassShape {
  int tokens, rows, sampled_rows;   /* of a pass; those with logits; those that are sampled at once, or 0 */
  int hidden, mlp, mlp_out, attention, qkv, vocab; /* widths: of the stream, F, of up, of attended, of qkv; V */
  int head_dim, kv_heads, max_len, prefix_len;
  bool trains, trains_matrices; /* a backward pass follows; with gradients of the decoder's own matrices */
  WeightType weights;
} PassShape;

/* Bytes of scratch memory that the largest operation of such a pass takes on this kind of backend ("cpu" or
 * "cuda"), which need not be in this build. */
size_t backend_scratch(const char *kind, const PassShape *shape);
/* Bytes that the backend itself takes on its device from its opening on. */
size_t backend_fixed(const char *kind);

/* What a kind of backend stores. */
DType backend_storage(const char *kind);

/* How many devices of this kind ("cpu" or "cuda") can be used; *why says why there are none. */
int backend_devices(const char *kind, const char **why);

/* The implementations; each is one row of the table in backend.c. */
Status cpu_backend_open(int index, Backend **out) CHECKED;
size_t cpu_scratch(const PassShape *shape);
size_t cuda_scratch(const PassShape *shape);
size_t cuda_fixed(void);
#ifdef POPALM_CUDA
Status cuda_backend_open(int index, Backend **out) CHECKED;
int cuda_backend_devices(void);         /* number of GPUs; 0 without a driver */
const char *cuda_backend_problem(void); /* why there are none */
#endif

#endif

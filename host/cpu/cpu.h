/* What the files of this folder share: one function an operation (backend.h says what each does), the
 * workspace, and the sizes from which threads pay. Storage is fp32.
 *
 * Determinism: work is cut into pieces whose size depends on the shapes alone, never on the thread
 * count, and sums over pieces are taken in the pieces' order.
 */
#ifndef POPALM_CPU_CPU_H
#define POPALM_CPU_CPU_H

#include "backend.h"

/* Below so many elements of work a parallel region costs more than it saves; for
 * `#pragma omp parallel for if (work >= PARALLEL_FROM)`. Products count multiply-adds / 16. */
enum { PARALLEL_FROM = 32768 };

/* Scratch memory of at least this many bytes, 64-byte aligned, not cleared, valid until the next call.
 * An operation that calls another (linear_backward uses it, linear does not) must not hold it meanwhile. */
void *cpu_workspace(Backend *backend, size_t bytes);

/* What the backend takes for a workspace of this size: a little more, so that it seldom grows. */
size_t cpu_grown(size_t bytes);
/* Bytes of scratch memory of the operations that take much, which both they and statements of memory use. */
size_t cpu_vocab_scratch(int rows, int hidden, int vocab, WeightType type, bool backward);
size_t cpu_linear_backward_scratch(int rows, int in, int out, WeightType type, bool dx, bool dweight);
size_t cpu_attention_scratch(int most_keys, int head_dim, bool backward);
enum { PREFIX_SLICES = 16 }; /* of the batch, whose sums of a prefix's gradient stand there too */

/* Threads that may share an operation, and which of them this is. */
size_t cpu_threads(void);
size_t cpu_thread(void);
Status cpu_join(Backend *) CHECKED; /* collectives.c */

void cpu_embedding(Backend *, const Embedding *);
void cpu_embedding_backward(Backend *, const EmbeddingBackward *);
void cpu_linear(Backend *, const Linear *);
void cpu_linear_backward(Backend *, const LinearBackward *);
void cpu_norm(Backend *, const Norm *);
void cpu_norm_backward(Backend *, const NormBackward *);
void cpu_qk_norm(Backend *, const QkNorm *);
void cpu_qk_norm_backward(Backend *, const QkNormBackward *);
void cpu_rope(Backend *, const Rope *);
void cpu_attention(Backend *, const Attention *);
void cpu_attention_backward(Backend *, const AttentionBackward *);
bool cpu_attention_baseline(Backend *, const Attention *, int which, Baseline *is);
void cpu_kv_store(Backend *, const KvStore *);
void cpu_attention_decode(Backend *, const AttentionDecode *);
void cpu_activation(Backend *, const Activation *);
void cpu_activation_backward(Backend *, const ActivationBackward *);
void cpu_dropout(Backend *, const Dropout *);
void cpu_gather_rows(Backend *, const GatherRows *);
void cpu_scatter_rows(Backend *, const ScatterRows *);
void cpu_vocab(Backend *, const Vocab *);
void cpu_vocab_backward(Backend *, const VocabBackward *);
void cpu_vocab_logits(Backend *, const VocabLogits *);
void cpu_sample(Backend *, const Sample *);
void cpu_decode_advance(Backend *, const DecodeAdvance *);
void cpu_scalar_head(Backend *, const ScalarHead *);
void cpu_scalar_head_backward(Backend *, const ScalarHeadBackward *);
void cpu_reward_head(Backend *, const RewardHead *);
void cpu_ppo_advantage(Backend *, const PpoAdvantage *);
void cpu_ppo_loss(Backend *, const PpoLoss *);
void cpu_grad_norm(Backend *, const GradNorm *);
void cpu_adamw(Backend *, const AdamW *);

#endif

/* logits = hidden Wt;  logprob = z_t - log sum e^z_j;  entropy = log sum e^z_j - (sum z_j e^z_j) / (sum
 * e^z_j), z = logit - largest;  dlogits_j = dlogprob (1[j = t] - p_j) - dentropy p_j (log p_j + entropy)
 *
 * Shapes: hidden [rows, H], W [V, H]. Rows go in chunks whose fp32 logits take at most 64 MiB of scratch (but
 * at least 128 rows), so the logits never stand in memory whole; fp32, because bf16 has an error of about
 * 0.03 at a logit of 10, and a PPO ratio is the exponential of a difference of logprobs. One pass reads a row
 * for its softmax; the backward pass reads it again and writes the gradient over it, as bf16 in the lower
 * half of the row, which is what the two products behind it take. dW: with one chunk the product adds to the
 * bf16 gradient. With more the chunks are summed in fp32 scratch (4 V H bytes more) and added once, so that
 * the gradient is rounded once however many chunks there are. A weight in int8 is dequantised into scratch
 * first (2 V H bytes more). Lower bound: 2 rows H V operations forward, 6 backward; about 8 rows V bytes of
 * logits through the L2. */
#include "primitives.cuh"
#include "scratch.h"

namespace {

const int threads = 512;

/* The chunks: logits is scratch, [rows, ld] with ld a multiple of 64 so that rows are aligned. */
struct Chunks {
  float *logits;
  float *dweight;     /* [V, H] fp32 scratch, or NULL */
  const void *weight; /* [V, H] bf16, perhaps in scratch too */
  int rows, ld;
};

/* What the softmax of a row is known by: the largest logit, sums of e^z and z e^z. */
struct Softmax {
  float top, sum, weighted;
};

DEVICE void move_top(Softmax &s, float top) {
  float shift = s.top - top;
  if (s.sum > 0.0f) {
    float factor = fast_exp(shift);
    s.weighted = factor * (s.weighted + s.sum * shift);
    s.sum *= factor;
  }
  s.top = top;
}

DEVICE void add_logits(Softmax &s, const float *x, int count) {
  float top = s.top;
  for (int i = 0; i < count; i++) top = fmaxf(top, x[i]);
  if (top > s.top) move_top(s, top);
  for (int i = 0; i < count; i++) {
    float z = x[i] - s.top, e = fast_exp(z);
    s.sum += e;
    s.weighted += z * e;
  }
}

/* Rows of a chunk are 16-byte aligned (ld is a multiple of 64). */
DEVICE void load_logits(const float *from, int count, float (&to)[4]) {
  if (count == 4) {
    load_floats(from, to);
  } else {
    for (int i = 0; i < 4; i++) to[i] = i < count ? from[i] : 0.0f;
  }
}

/* By the whole block, of one row. */
DEVICE Softmax softmax_of(const float *row, int vocab) {
  Softmax s = {-INFINITY, 0.0f, 0.0f};
  for (int j = static_cast<int>(threadIdx.x) * 4; j < vocab; j += threads * 4) {
    float x[4];
    int count = vocab - j < 4 ? vocab - j : 4;
    load_logits(row + j, count, x);
    add_logits(s, x, count);
  }
  move_top(s, block_max(s.top));
  s.sum = block_sum(s.sum);
  s.weighted = block_sum(s.weighted);
  return s;
}

__global__ void __launch_bounds__(threads)
    vocab_softmax(const float *logits, int ld, int vocab, const int32_t *targets, float *logprob,
                  float *entropy) {
  size_t r = blockIdx.x;
  const float *row = logits + r * static_cast<size_t>(ld);
  Softmax s = softmax_of(row, vocab);
  if (threadIdx.x != 0) return;
  float log_sum = logf(s.sum);
  if (logprob) logprob[r] = row[targets[r]] - s.top - log_sum;
  if (entropy) entropy[r] = log_sum - s.weighted / s.sum;
}

/* A row's logits become its gradient: bf16 j at byte 2 j of the row. Tile by tile of threads * 4 elements in
 * rising order: the bf16 of tile i lie over fp32 that all threads have read before the barrier. */
__global__ void __launch_bounds__(threads)
    vocab_gradient(float *logits, int ld, int vocab, const int32_t *targets, const float *dlogprob,
                   const float *dentropy, float *logprob) {
  size_t r = blockIdx.x;
  float *row = logits + r * static_cast<size_t>(ld);
  bf16 *out = reinterpret_cast<bf16 *>(row);
  int target = targets[r];
  float target_logit = row[target], d = dlogprob[r], de = dentropy ? dentropy[r] : 0.0f;
  Softmax s = softmax_of(row, vocab);
  float log_sum = logf(s.sum), entropy = log_sum - s.weighted / s.sum, lse = s.top + log_sum;
  if (logprob && threadIdx.x == 0) logprob[r] = target_logit - s.top - log_sum;
  for (int first = 0; first < vocab; first += threads * 4) {
    int j = first + static_cast<int>(threadIdx.x) * 4, count = vocab - j < 4 ? vocab - j : 4;
    float x[4] = {};
    if (count > 0) load_logits(row + j, count, x);
    block_sync();
    for (int i = 0; i < 4; i++) {
      float log_p = x[i] - lse, g = -fast_exp(log_p) * (d + de * (log_p + entropy));
      if (j + i == target) g += d;
      if (i < count) out[j + i] = to_bf16(g);
    }
  }
}

__global__ void __launch_bounds__(threads) add_gradient(const float *from, bf16 *to, size_t count) {
  size_t i = static_cast<size_t>(blockIdx.x) * threads + threadIdx.x;
  if (i < count) to[i] = to_bf16(to_float(to[i]) + from[i]);
}

int smaller(int a, int b) { return a < b ? a : b; }

/* op: Vocab or VocabBackward; gradient: of the weight too */
template <typename Op>
bool plan_chunks(Backend *backend, const Op &op, bool gradient, Chunks *out) {
  int ld = vocab_stride(op.vocab), chunk = vocab_chunk(op.rows, op.vocab);
  size_t logits =
      static_cast<size_t>(chunk) * static_cast<size_t>(ld) * sizeof(float); /* a multiple of 256 */
  size_t dweight = gradient ? vocab_sums_bytes(op.rows, op.hidden_size, op.vocab) : 0;
  size_t native = cuda_native_bytes(op.weight_type, op.vocab, op.hidden_size);
  char *scratch = static_cast<char *>(cuda_workspace(backend, logits + dweight + native));
  if (!scratch) return false;
  float *sums = dweight ? reinterpret_cast<float *>(scratch + logits) : nullptr;
  const void *weight = cuda_native_weight(backend, op.weight, op.weight_type, op.vocab, op.hidden_size,
                                          scratch + logits + dweight);
  *out = {reinterpret_cast<float *>(scratch), sums, weight, chunk, ld};
  return true;
}

void logits_of(Backend *backend, const bf16 *hidden, const void *weight, int rows, int hidden_size, int vocab,
               float *logits, int ld) {
  Product product = {};
  product.a = hidden;
  product.b = weight;
  product.d = logits;
  product.m = rows;
  product.n = vocab;
  product.k = hidden_size;
  product.b_transposed = true;
  product.lda = product.ldb = hidden_size;
  product.ldd = ld;
  product.out = F32;
  cuda_product(backend, &product);
}

/* dhidden [rows, H] = dlogits [rows, V] W [V, H] */
void hidden_gradient(Backend *backend, const VocabBackward &op, const Chunks &chunks, int rows,
                     bf16 *dhidden) {
  Product product = {};
  product.a = chunks.logits;
  product.b = chunks.weight;
  product.d = dhidden;
  product.m = rows;
  product.n = op.hidden_size;
  product.k = op.vocab;
  product.lda = 2 * chunks.ld;
  product.ldb = product.ldd = op.hidden_size;
  product.out = BF16;
  cuda_product(backend, &product);
}

/* dW [V, H] += dlogits [rows, V]t hidden [rows, H] */
void weight_gradient(Backend *backend, const VocabBackward &op, const Chunks &chunks, int from, int rows,
                     const bf16 *hidden) {
  Product product = {};
  product.a = chunks.logits;
  product.b = hidden;
  product.d = chunks.dweight ? static_cast<void *>(chunks.dweight) : op.dweight;
  product.m = op.vocab;
  product.n = op.hidden_size;
  product.k = rows;
  product.a_transposed = true;
  product.lda = 2 * chunks.ld;
  product.ldb = product.ldd = op.hidden_size;
  product.out = chunks.dweight ? F32 : BF16;
  product.accumulate = !chunks.dweight || from > 0;
  cuda_product(backend, &product);
}

}  // namespace

void cuda_vocab(Backend *backend, const Vocab *op) {
  Chunks chunks;
  if (op->rows == 0 || !plan_chunks(backend, *op, false, &chunks)) return;
  for (int from = 0; from < op->rows; from += chunks.rows) {
    int rows = smaller(chunks.rows, op->rows - from);
    const bf16 *hidden = static_cast<const bf16 *>(op->hidden) +
                         static_cast<size_t>(from) * static_cast<size_t>(op->hidden_size);
    logits_of(backend, hidden, chunks.weight, rows, op->hidden_size, op->vocab, chunks.logits, chunks.ld);
    launch(cuda_state(backend), {"vocab_softmax", static_cast<unsigned>(rows), threads, 0}, vocab_softmax,
           chunks.logits, chunks.ld, op->vocab, op->targets + from,
           op->logprob ? op->logprob + from : nullptr, op->entropy ? op->entropy + from : nullptr);
  }
}

void cuda_vocab_backward(Backend *backend, const VocabBackward *op) {
  Chunks chunks;
  bool gradient = op->dweight != nullptr;
  if (op->rows == 0 || !plan_chunks(backend, *op, gradient, &chunks)) return;
  for (int from = 0; from < op->rows; from += chunks.rows) {
    int rows = smaller(chunks.rows, op->rows - from);
    size_t at = static_cast<size_t>(from) * static_cast<size_t>(op->hidden_size);
    const bf16 *hidden = static_cast<const bf16 *>(op->hidden) + at;
    logits_of(backend, hidden, chunks.weight, rows, op->hidden_size, op->vocab, chunks.logits, chunks.ld);
    launch(cuda_state(backend), {"vocab_gradient", static_cast<unsigned>(rows), threads, 0}, vocab_gradient,
           chunks.logits, chunks.ld, op->vocab, op->targets + from, op->dlogprob + from,
           op->dentropy ? op->dentropy + from : nullptr, op->logprob ? op->logprob + from : nullptr);
    if (op->dhidden) hidden_gradient(backend, *op, chunks, rows, static_cast<bf16 *>(op->dhidden) + at);
    if (op->dweight) weight_gradient(backend, *op, chunks, from, rows, hidden);
  }
  if (!chunks.dweight) return;
  size_t count = static_cast<size_t>(op->vocab) * static_cast<size_t>(op->hidden_size);
  unsigned blocks = static_cast<unsigned>(ceil_div(count, static_cast<size_t>(threads)));
  launch(cuda_state(backend), {"add_gradient", blocks, threads, 0}, add_gradient, chunks.dweight,
         static_cast<bf16 *>(op->dweight), count);
}

void cuda_vocab_logits(Backend *backend, const VocabLogits *op) {
  const void *weight;
  if (op->rows == 0 ||
      !cuda_find_weight(backend, op->weight, op->weight_type, op->vocab, op->hidden_size, &weight))
    return;
  logits_of(backend, static_cast<const bf16 *>(op->hidden), weight, op->rows, op->hidden_size, op->vocab,
            op->logits, op->vocab);
}

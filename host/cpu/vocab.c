/* The vocabulary's softmax: logprob, entropy and their gradients from the final hidden states. The
 * logits of a chunk of rows stand in the workspace, are turned into their own gradient in place, and
 * are gone; their size does not grow with the batch. The products of the backward pass are
 * single-threaded BLAS calls on tiles whose sizes depend on the shapes alone. */
#include <cblas.h>

#include "cpu/simd.h"
#include "cpu/weights.h"

enum {
  CHUNK_LOGITS = 1 << 22, /* logits that stand in memory at once, about */
  ROWS_LEAST = 64,        /* rows of a chunk at least, whatever the vocabulary */
  ROWS_MOST = 1024,       /* and at most */
  TILE_ROWS = 256,        /* of dhidden */
  TILE_COLS = 128,        /* of dhidden */
  TILE_VOCAB = 512,       /* vocabulary entries of one product */
  SUM_BLOCK = 1024        /* floats summed in single precision; the blocks' sums in double */
};

static int smaller(int a, int b) { return a < b ? a : b; }

static int chunk_rows(int rows, int vocab) {
  int most = CHUNK_LOGITS / (vocab > 0 ? vocab : 1) / 64 * 64;
  most = most < ROWS_LEAST ? ROWS_LEAST : most > ROWS_MOST ? ROWS_MOST : most;
  return smaller(rows, most);
}

size_t cpu_vocab_scratch(int rows, int hidden, int vocab, WeightType type, bool backward) {
  size_t wide = backward ? cpu_threads() * weight_tile_scratch(type, vocab, smaller(TILE_COLS, hidden)) : 0;
  return ((size_t)chunk_rows(rows, vocab) * (size_t)vocab + wide) * sizeof(float);
}

/* logits[rows, V] = hidden[rows, H] weight[V, H]t, by the linear operation, whose rows do not depend on
 * the rows beside them: a token's logprob is the same in any batch. It does not use the workspace. */
static void logits_of(Backend *backend, const float *hidden, const void *weight, WeightType type, int rows,
                      int size, int vocab, float *logits) {
  cpu_linear(backend, &(Linear){.x = hidden,
                                .weight = weight,
                                .weight_type = type,
                                .y = logits,
                                .rows = rows,
                                .in = size,
                                .out = vocab});
}

/* dhidden[rows, H] = dlogits[rows, V] weight[V, H]; wide: scratch of every thread */
static void hidden_gradient(const VocabBackward *a, const float *dlogits, int rows, float *dhidden,
                            float *wide) {
  int size = a->hidden_size, vocab = a->vocab;
  size_t scratch = weight_tile_scratch(a->weight_type, vocab, smaller(TILE_COLS, size));
#pragma omp parallel for collapse(2) schedule(dynamic)
  for (int r = 0; r < rows; r += TILE_ROWS)
    for (int c = 0; c < size; c += TILE_COLS) {
      WeightTile tile = {.a = dlogits + (size_t)r * vocab,
                         .a_stride = vocab,
                         .weight = a->weight,
                         .type = a->weight_type,
                         .outs = vocab,
                         .in = size,
                         .first = c,
                         .rows = smaller(TILE_ROWS, rows - r),
                         .columns = smaller(TILE_COLS, size - c),
                         .scale = 1,
                         .into = dhidden + (size_t)r * size + c,
                         .into_stride = size};
      multiply_weight_tile(&tile, wide + cpu_thread() * scratch);
    }
}

/* dweight[V, H] += dlogits[rows, V]t hidden[rows, H] */
static void weight_gradient(const float *dlogits, const float *hidden, int rows, int size, int vocab,
                            float *dweight) {
#pragma omp parallel for schedule(dynamic)
  for (int v = 0; v < vocab; v += TILE_VOCAB)
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, smaller(TILE_VOCAB, vocab - v), size, rows, 1,
                dlogits + v, vocab, hidden, size, 1, dweight + (size_t)v * size, size);
}

/* What the softmax of one row is known by. */
typedef struct Softmax {
  float lse;     /* log of the sum of exp(logit) */
  float logprob; /* of the target */
  float entropy; /* nats */
} Softmax;

/* With z = logit - top: lse = top + log sum e^z, entropy = log sum e^z - (sum z e^z) / (sum e^z) */
static Softmax softmax_of(const float *logits, int vocab, int target) {
  float top = simd_max(logits, vocab);
  double total = 0, weighted = 0;
  for (int from = 0; from < vocab; from += SUM_BLOCK) {
    int to = smaller(vocab, from + SUM_BLOCK);
    float sum = 0, sum_z = 0;
#pragma omp simd reduction(+ : sum, sum_z)
    for (int j = from; j < to; j++) {
      float z = logits[j] - top, e = fast_exp(z);
      sum += e;
      sum_z += z * e;
    }
    total += sum;
    weighted += sum_z;
  }
  double log_total = log(total);
  return (Softmax){.lse = (float)(top + log_total),
                   .logprob = (float)(logits[target] - top - log_total),
                   .entropy = (float)(log_total - weighted / total)};
}

/* logits become dlogits */
static void softmax_backward(float *logits, int vocab, int target, Softmax s, float dlogprob,
                             float dentropy) {
  float lse = s.lse, entropy = s.entropy;
#pragma omp simd
  for (int j = 0; j < vocab; j++) {
    float log_p = logits[j] - lse, p = fast_exp(log_p);
    logits[j] = -p * (dlogprob + dentropy * (log_p + entropy));
  }
  logits[target] += dlogprob;
}

void cpu_vocab(Backend *backend, const Vocab *a) {
  if (a->rows == 0 || a->vocab == 0) return;
  int chunk = chunk_rows(a->rows, a->vocab);
  float *logits =
      cpu_workspace(backend, cpu_vocab_scratch(a->rows, a->hidden_size, a->vocab, a->weight_type, false));
  for (int from = 0; from < a->rows; from += chunk) {
    int rows = smaller(chunk, a->rows - from);
    logits_of(backend, (const float *)a->hidden + (size_t)from * a->hidden_size, a->weight, a->weight_type,
              rows, a->hidden_size, a->vocab, logits);
#pragma omp parallel for schedule(static)
    for (int i = 0; i < rows; i++) {
      Softmax s = softmax_of(logits + (size_t)i * a->vocab, a->vocab, a->targets[from + i]);
      if (a->logprob) a->logprob[from + i] = s.logprob;
      if (a->entropy) a->entropy[from + i] = s.entropy;
    }
  }
}

void cpu_vocab_backward(Backend *backend, const VocabBackward *a) {
  if (a->rows == 0 || a->vocab == 0) return;
  int chunk = chunk_rows(a->rows, a->vocab), size = a->hidden_size, vocab = a->vocab;
  float *logits = cpu_workspace(backend, cpu_vocab_scratch(a->rows, size, vocab, a->weight_type, true));
  for (int from = 0; from < a->rows; from += chunk) {
    int rows = smaller(chunk, a->rows - from);
    const float *hidden = (const float *)a->hidden + (size_t)from * size;
    logits_of(backend, hidden, a->weight, a->weight_type, rows, size, vocab, logits);
#pragma omp parallel for schedule(static)
    for (int i = 0; i < rows; i++) {
      int r = from + i;
      float *row = logits + (size_t)i * vocab;
      Softmax s = softmax_of(row, vocab, a->targets[r]);
      if (a->logprob) a->logprob[r] = s.logprob;
      softmax_backward(row, vocab, a->targets[r], s, a->dlogprob[r], a->dentropy ? a->dentropy[r] : 0);
    }
    if (a->dhidden)
      hidden_gradient(a, logits, rows, (float *)a->dhidden + (size_t)from * size,
                      logits + (size_t)chunk * vocab);
    if (a->dweight) weight_gradient(logits, hidden, rows, size, vocab, a->dweight);
  }
}

void cpu_vocab_logits(Backend *backend, const VocabLogits *a) {
  logits_of(backend, a->hidden, a->weight, a->weight_type, a->rows, a->hidden_size, a->vocab, a->logits);
}

/* Sampling by integer weights. The weight of a token is floor(2^40 exp((logit - largest) / temperature)),
 * a 64-bit integer, so that sums of weights are exact in any order: which tokens are in the nucleus,
 * and which of them is drawn, does not depend on how the sums are split. No sort: the smallest set that
 * reaches an amount is found by three passes of a radix selection over the bits of the exponentials. */
#include <math.h>
#include <omp.h>

#include "cpu/cpu.h"
#include "cpu/simd.h"

static const float ONE = 0x1p40f; /* the weight of exp(0) */

static inline uint64_t weight_of(float e) { return (uint64_t)(int64_t)(e * ONE); }

/* Tokens in id order with their exponentials in (0, 1]. */
typedef struct Candidates {
  float *e;    /* [count] */
  int32_t *id; /* [count], increasing */
  int count;
  uint64_t total; /* weight of all of the vocabulary, gathered or not */
} Candidates;

/* What a set's size is measured in: tokens or weight. */
typedef enum Measure { TOKENS, WEIGHT } Measure;

static inline uint64_t amount_of(Measure measure, float e) { return measure == TOKENS ? 1 : weight_of(e); }

static uint64_t total_of(const Candidates *c, Measure measure) {
  uint64_t sum = 0;
  for (int i = 0; i < c->count; i++) sum += amount_of(measure, c->e[i]);
  return sum;
}

/* Finds the exponential of the last token of the smallest set, taken in decreasing order, that has at
 * least `want`; *left is what the tokens with exactly that exponential have to contribute. */
static float threshold(const Candidates *c, Measure measure, uint64_t want, uint64_t *left) {
  enum { BITS = 11, BINS = 1 << BITS };
  static const int shifts[] = {21, 10, 0}; /* 32 bits as 11 + 11 + 10 */
  uint32_t prefix = 0;
  int done = 32; /* the bits from here on up equal prefix */
  for (int level = 0; level < 3; level++) {
    uint64_t amount[BINS] = {0};
    int shift = shifts[level], bins = 1 << (done - shift);
    for (int i = 0; i < c->count; i++) {
      uint32_t bits = float_bits(c->e[i]);
      if (done == 32 || bits >> done == prefix)
        amount[(bits >> shift) & (uint32_t)(bins - 1)] += amount_of(measure, c->e[i]);
    }
    int bin = bins - 1;
    while (bin > 0 && amount[bin] < want) want -= amount[bin--];
    prefix = (level ? prefix << (done - shift) : 0) | (uint32_t)bin;
    done = shift;
  }
  *left = want;
  return bits_float(prefix);
}

/* Leaves the smallest set that has at least `want` <= the total; among equals the lower ids stay. */
static void keep_smallest_set(Candidates *c, Measure measure, uint64_t want) {
  uint64_t left;
  float last = threshold(c, measure, want, &left);
  int kept = 0;
  uint64_t taken = 0;
  for (int i = 0; i < c->count; i++) {
    if (c->e[i] < last || (c->e[i] == last && taken >= left)) continue;
    if (c->e[i] == last) taken += amount_of(measure, last);
    c->e[kept] = c->e[i];
    c->id[kept++] = c->id[i];
  }
  c->count = kept;
}

static uint64_t share(uint64_t total, float top_p) {
  uint64_t want = (uint64_t)ceil((double)total * top_p);
  return want < 1 ? 1 : want > total ? total : want;
}

/* Turns logits into exponentials and gathers those that can be in the nucleus. Tokens below
 * (1 - top_p) total / V have less than 1 - top_p together, so the nucleus is full without them. */
static Candidates gather(const Sample *a, float *logits, float top, int32_t *id) {
  float inverse = 1 / a->temperature, least = 1 / ONE;
  uint64_t total = 0;
#pragma omp simd reduction(+ : total)
  for (int j = 0; j < a->vocab; j++) {
    float e = fast_exp((logits[j] - top) * inverse);
    e = e > 0 ? e : 0; /* NaN counts for nothing */
    logits[j] = e;
    total += weight_of(e);
  }
  if (a->top_k <= 0 && a->top_p < 1) {
    float sure = (float)((double)(total - share(total, a->top_p)) / ONE / a->vocab * 0.999);
    if (sure > least) least = sure;
  }
  Candidates c = {.e = logits, .id = id, .total = total};
  for (int j = 0; j < a->vocab; j++) {
    float e = logits[j];
    c.e[c.count] = e; /* count <= j */
    c.id[c.count] = j;
    c.count += e >= least;
  }
  return c;
}

static int lowest_largest(const float *logits, int vocab, float top) {
  for (int j = 0; j < vocab; j++)
    if (logits[j] == top) return j;
  return 0;
}

static void sample_row(const Sample *a, int row, int32_t *id) {
  float *logits = a->logits + (size_t)row * a->vocab, top = simd_max(logits, a->vocab);
  if (!(a->temperature > 0) || !isfinite(1 / a->temperature) || !isfinite(top)) {
    a->token[row] = lowest_largest(logits, a->vocab, top);
    a->logprob[row] = isfinite(top) ? 0 : NAN; /* a model that is broken must be seen */
    return;
  }
  Candidates c = gather(a, logits, top, id);
  uint64_t total = c.total;
  if (a->top_k > 0 && a->top_k < c.count) {
    keep_smallest_set(&c, TOKENS, (uint64_t)a->top_k);
    total = total_of(&c, WEIGHT);
  }
  if (a->top_p < 1) {
    keep_smallest_set(&c, WEIGHT, share(total, a->top_p));
  }
  total = total_of(&c, WEIGHT);
  Random4 r = philox(*a->key, (uint32_t)a->sample[row], (uint32_t)a->position[row]);
  uint64_t bits = (uint64_t)r.v[0] << 32 | r.v[1], sum = 0;
  uint64_t drawn = (uint64_t)((unsigned __int128)bits * total >> 64); /* uniform in [0, total) */
  int i = 0;
  while (i + 1 < c.count && (sum += weight_of(c.e[i])) <= drawn) i++;
  a->token[row] = c.id[i];
  a->logprob[row] = (float)log((double)weight_of(c.e[i]) / (double)total);
}

void cpu_sample(Backend *backend, const Sample *a) {
  if (a->rows == 0 || a->vocab == 0) return;
  int32_t *ids = cpu_workspace(backend, (size_t)omp_get_max_threads() * a->vocab * sizeof *ids);
#pragma omp parallel for schedule(dynamic)
  for (int i = 0; i < a->rows; i++) sample_row(a, i, ids + (size_t)omp_get_thread_num() * a->vocab);
}

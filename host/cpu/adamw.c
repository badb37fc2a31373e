/* AdamW (Loshchilov and Hutter 2019, algorithm 2, with the bias corrections folded in):
 *   g = grad * min(1, max_norm / (norm + 1e-6))
 *   m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
 *   w = w - lr weight_decay w - lr (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + epsilon)
 * Bound by memory: 16 bytes read, 16 written an element (master, m, v and the copy).
 */
#include <math.h>

#include "cpu/cpu.h"

enum { BLOCK = 4096 }; /* elements a thread takes at a time */

typedef struct Factors {
  float clip, beta1, beta2, rest1, rest2, rate, correction, epsilon;
} Factors;

static void update(const AdamW *op, const Factors *f, float kept, size_t first, size_t end) {
  const float *restrict grad = op->grad;
  float *restrict master = op->master, *restrict m = op->m, *restrict v = op->v, *restrict copy = op->copy;
#pragma omp simd
  for (size_t i = first; i < end; i++) {
    float g = grad[i] * f->clip;
    float mi = f->beta1 * m[i] + f->rest1 * g;
    float vi = f->beta2 * v[i] + f->rest2 * g * g;
    float w = kept * master[i] - f->rate * mi / (sqrtf(vi) * f->correction + f->epsilon);
    m[i] = mi;
    v[i] = vi;
    master[i] = w;
    copy[i] = w;
  }
}

void cpu_adamw(Backend *backend, const AdamW *op) {
  (void)backend;
  float clip = 1;
  if (op->norm) {
    if (!isfinite(*op->norm)) return;
    if (op->max_norm > 0) clip = fminf(1, op->max_norm / (*op->norm + 1e-6f));
  }
  double correction1 = 1 - pow((double)op->beta1, op->step),
         correction2 = 1 - pow((double)op->beta2, op->step);
  Factors f = {.clip = clip,
               .beta1 = op->beta1,
               .beta2 = op->beta2,
               .rest1 = (float)(1 - (double)op->beta1),
               .rest2 = (float)(1 - (double)op->beta2),
               .rate = (float)((double)op->lr / correction1),
               .correction = (float)(1 / sqrt(correction2)),
               .epsilon = op->epsilon};
  float decayed = 1 - op->lr * op->weight_decay;
#pragma omp parallel for schedule(static) if (op->count >= PARALLEL_FROM)
  for (size_t first = 0; first < op->count; first += BLOCK) {
    size_t end = first + BLOCK < op->count ? first + BLOCK : op->count;
    size_t middle = op->decay_count < first ? first : op->decay_count > end ? end : op->decay_count;
    update(op, &f, decayed, first, middle);
    update(op, &f, 1, middle, end);
  }
}

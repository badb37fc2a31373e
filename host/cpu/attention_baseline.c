/* Attention as it is done without fusion, for `popalm bench` to compare with: the whole T x T matrix of
 * scores of a head by one OpenBLAS product, its softmax row by row, then the product with the values. The
 * products compute the half that a causal mask hides, too. */
#include <cblas.h>
#include <math.h>
#include <omp.h>

#include "cpu/cpu.h"

/* One query head of one sequence of t tokens. */
typedef struct Head {
  const float *q, *k, *v;
  float *out, *lse; /* lse may be NULL */
  int t, dim, stride, out_stride;
  bool full;
} Head;

/* A row of the scores becomes its softmax over the first `seen` of t keys, zeros behind; returns log sum exp.
 */
static float softmax_row(float *s, int seen, int t) {
  float top = -INFINITY, sum = 0;
  for (int j = 0; j < seen; j++) top = fmaxf(top, s[j]);
  for (int j = 0; j < seen; j++) sum += s[j] = expf(s[j] - top);
  for (int j = 0; j < seen; j++) s[j] /= sum;
  for (int j = seen; j < t; j++) s[j] = 0;
  return top + logf(sum);
}

static void run_head(const Head *h, float *scores) {
  float scale = 1 / sqrtf((float)h->dim);
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, h->t, h->t, h->dim, scale, h->q, h->stride, h->k,
              h->stride, 0, scores, h->t);
  for (int i = 0; i < h->t; i++) {
    float lse = softmax_row(scores + (size_t)i * h->t, h->full ? h->t : i + 1, h->t);
    if (h->lse) h->lse[i] = lse;
  }
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, h->t, h->dim, h->t, 1, scores, h->t, h->v, h->stride,
              0, h->out, h->out_stride);
}

bool cpu_attention_baseline(Backend *backend, const Attention *a, int which, Baseline *is) {
  if (which != 0 || a->prefix_len || a->sequences.branch) return false;
  *is = (Baseline){.name = "OpenBLAS, scores stored"};
  const Sequences *s = &a->sequences;
  int stride = (a->heads + 2 * a->kv_heads) * a->head_dim, group = a->heads / a->kv_heads;
  size_t square = (size_t)s->max_len * s->max_len;
  float *scores = cpu_workspace(backend, (size_t)omp_get_max_threads() * square * sizeof *scores);
#pragma omp parallel for collapse(2) schedule(dynamic)
  for (int b = 0; b < s->count; b++)
    for (int h = 0; h < a->heads; h++) {
      size_t first = (size_t)s->cu_seqlens[b];
      const float *row = (const float *)a->qkv + first * stride;
      Head head = {.q = row + (size_t)h * a->head_dim,
                   .k = row + (size_t)(a->heads + h / group) * a->head_dim,
                   .v = row + (size_t)(a->heads + a->kv_heads + h / group) * a->head_dim,
                   .out = (float *)a->out + (first * a->heads + h) * a->head_dim,
                   .lse = a->lse ? a->lse + (size_t)h * s->tokens + first : NULL,
                   .t = s->cu_seqlens[b + 1] - s->cu_seqlens[b],
                   .dim = a->head_dim,
                   .stride = stride,
                   .out_stride = a->heads * a->head_dim,
                   .full = a->full};
      if (head.t) run_head(&head, scores + (size_t)omp_get_thread_num() * square);
    }
  return true;
}

/* Causal self-attention by blocks with a running softmax (Dao et al. 2022, Dao 2023): a block of
 * QUERIES rows against up to KEYS keys at a time, so that no T x T matrix is ever stored. Short rows
 * (T <= KEYS) need one pass only. The products are single-threaded BLAS calls on blocks; the threads
 * share out (sequence, head) pairs, each of which writes its own part of the output, so the number of
 * threads changes nothing. */
#include <cblas.h>
#include <math.h>
#include <string.h>

#include "cpu/cpu.h"
#include "cpu/simd.h"

enum { QUERIES = 64, KEYS = 256 };
_Static_assert(KEYS % QUERIES == 0,
               "a block of keys that begins inside a block of queries would mask whole rows");

/* One head of one sequence: where its rows begin in the packed tensors. */
typedef struct Head {
  const float *q, *k, *v; /* row stride `stride` */
  int length, stride, dim;
  float scale;
} Head;

static Head head_of(const Sequences *s, const float *qkv, int b, int h, int heads, int kv_heads, int dim) {
  int kv = h / (heads / kv_heads), stride = (heads + 2 * kv_heads) * dim;
  const float *row = qkv + (size_t)s->cu_seqlens[b] * stride;
  return (Head){.q = row + h * dim,
                .k = row + (heads + kv) * dim,
                .v = row + (heads + kv_heads + kv) * dim,
                .length = s->cu_seqlens[b + 1] - s->cu_seqlens[b],
                .stride = stride,
                .dim = dim,
                .scale = 1 / sqrtf((float)dim)};
}

static int smaller(int a, int b) { return a < b ? a : b; }

/* c[m, n] = alpha a[m, dim] bt[dim, n] */
static void rows_times_rows(const float *a, int lda, const float *b, int ldb, int m, int n, int dim,
                            float alpha, float *c) {
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, n, dim, alpha, a, lda, b, ldb, 0, c, KEYS);
}

/* c[m, dim] = beta c + p[m, n] b[n, dim] */
static void block_times_rows(const float *p, const float *b, int ldb, int m, int n, int dim, float beta,
                             float *c, int ldc) {
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, m, dim, n, 1, p, KEYS, b, ldb, beta, c, ldc);
}

/* c[n, dim] += pt[n, m] b[m, dim] */
static void add_transposed(const float *p, const float *b, int ldb, int m, int n, int dim, float *c,
                           int ldc) {
  cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, n, dim, m, 1, p, KEYS, b, ldb, 1, c, ldc);
}

/* Rows of scores are worked on in whole vectors, what is masked by a select: most rows are short, and
 * a remainder one by one would cost more than the rest. Room for it is there: KEYS is a multiple. */
enum { VECTOR = 16 };

static int whole_vectors(int n) { return (n + VECTOR - 1) / VECTOR * VECTOR; }

static float max_row(const float *s, int seen) {
  float top = -INFINITY;
  int end = whole_vectors(seen);
#pragma omp simd reduction(max : top)
  for (int j = 0; j < end; j++) {
    float x = j < seen ? s[j] : -INFINITY;
    top = x > top ? x : top;
  }
  return top;
}

/* Turns a row of scores into exp(score - top), the n - seen masked ones into 0; returns the sum. */
static float exp_row(float *s, int seen, int n, float top) {
  float sum = 0;
  int end = whole_vectors(seen);
#pragma omp simd reduction(+ : sum)
  for (int j = 0; j < end; j++) {
    float e = fast_exp(s[j] - top);
    s[j] = j < seen ? e : 0;
    sum += s[j];
  }
  for (int j = end; j < n; j++) s[j] = 0;
  return sum;
}

/* p = exp(scores - lse) and ds = scale p (dp - delta), in place of the scores and of dp; masked: 0. */
static void gradient_row(float *p, float *ds, int seen, int n, float lse, float delta, float scale) {
  int end = whole_vectors(seen);
#pragma omp simd
  for (int j = 0; j < end; j++) {
    float e = fast_exp(p[j] - lse), d = scale * e * (ds[j] - delta);
    p[j] = j < seen ? e : 0;
    ds[j] = j < seen ? d : 0;
  }
  for (int j = end; j < n; j++) p[j] = ds[j] = 0;
}

/* Rows q0 .. q0+m-1 of one head; out has row stride ldo, lse is the head's. */
static void forward_block(const Head *h, int q0, int m, float *out, int ldo, float *lse) {
  _Alignas(64) float s[QUERIES * KEYS];
  float top[QUERIES], sum[QUERIES];
  int keys = q0 + m;
  for (int k0 = 0; k0 < keys; k0 += KEYS) {
    int n = smaller(KEYS, keys - k0);
    rows_times_rows(h->q + (size_t)q0 * h->stride, h->stride, h->k + (size_t)k0 * h->stride, h->stride, m, n,
                    h->dim, h->scale, s);
    for (int i = 0; i < m; i++) {
      int seen = smaller(n, q0 + i + 1 - k0);
      float *row = s + (size_t)i * KEYS;
      float before = k0 ? top[i] : -INFINITY;
      top[i] = fmaxf(before, max_row(row, seen));
      float added = exp_row(row, seen, n, top[i]);
      float shrink = k0 ? expf(before - top[i]) : 0;
      sum[i] = k0 ? sum[i] * shrink + added : added;
      if (k0 && shrink != 1)
        for (int c = 0; c < h->dim; c++) out[(size_t)i * ldo + c] *= shrink;
    }
    block_times_rows(s, h->v + (size_t)k0 * h->stride, h->stride, m, n, h->dim, k0 ? 1 : 0, out, ldo);
  }
  for (int i = 0; i < m; i++) {
    float inverse = 1 / sum[i];
    for (int c = 0; c < h->dim; c++) out[(size_t)i * ldo + c] *= inverse;
    if (lse) lse[q0 + i] = top[i] + logf(sum[i]);
  }
}

void cpu_attention(Backend *backend, const Attention *a) {
  (void)backend;
  const Sequences *s = &a->sequences;
  int blocks = (s->max_len + QUERIES - 1) / QUERIES, ldo = a->heads * a->head_dim;
  /* The last blocks of a sequence are the longest work: first. */
#pragma omp parallel for collapse(3) schedule(dynamic)
  for (int last = 0; last < blocks; last++)
    for (int b = 0; b < s->count; b++)
      for (int h = 0; h < a->heads; h++) {
        Head head = head_of(s, a->qkv, b, h, a->heads, a->kv_heads, a->head_dim);
        int q0 = (blocks - 1 - last) * QUERIES;
        if (q0 >= head.length) continue;
        size_t first = (size_t)s->cu_seqlens[b];
        forward_block(&head, q0, smaller(QUERIES, head.length - q0),
                      (float *)a->out + (first + q0) * ldo + (size_t)h * a->head_dim, ldo,
                      a->lse ? a->lse + (size_t)h * s->tokens + first : NULL);
      }
}

/* The gradients of one block of queries against one block of keys:
 *   p = exp(scale q kt - lse), dp = dout vt, ds = scale p (dp - delta)
 *   dv += pt dout, dk += dst q, dq (+)= ds k */
typedef struct Gradient {
  const float *dout;   /* first row of the head, row stride ldo */
  const float *lse;    /* of the head */
  float *dq, *dk, *dv; /* first rows of the head, row stride as in Head */
  int ldo;
} Gradient;

static void backward_block(const Head *h, const Gradient *g, int q0, int m, int k0, int n,
                           const float *delta) {
  _Alignas(64) float p[QUERIES * KEYS], ds[QUERIES * KEYS];
  const float *q = h->q + (size_t)q0 * h->stride, *k = h->k + (size_t)k0 * h->stride;
  const float *dout = g->dout + (size_t)q0 * g->ldo;
  rows_times_rows(q, h->stride, k, h->stride, m, n, h->dim, h->scale, p);
  rows_times_rows(dout, g->ldo, h->v + (size_t)k0 * h->stride, h->stride, m, n, h->dim, 1, ds);
  for (int i = 0; i < m; i++) {
    int seen = smaller(n, q0 + i + 1 - k0);
    gradient_row(p + (size_t)i * KEYS, ds + (size_t)i * KEYS, seen, n, g->lse[q0 + i], delta[i], h->scale);
  }
  add_transposed(p, dout, g->ldo, m, n, h->dim, g->dv + (size_t)k0 * h->stride, h->stride);
  add_transposed(ds, q, h->stride, m, n, h->dim, g->dk + (size_t)k0 * h->stride, h->stride);
  block_times_rows(ds, k, h->stride, m, n, h->dim, k0 ? 1 : 0, g->dq + (size_t)q0 * h->stride, h->stride);
}

/* All rows of one query head; dk and dv are added to. out: first row of the head. */
static void backward_head(const Head *h, const Gradient *g, const float *out) {
  for (int q0 = 0; q0 < h->length; q0 += QUERIES) {
    int m = smaller(QUERIES, h->length - q0);
    float delta[QUERIES];
    for (int i = 0; i < m; i++) {
      const float *o = out + (size_t)(q0 + i) * g->ldo, *d = g->dout + (size_t)(q0 + i) * g->ldo;
      delta[i] = simd_dot(o, d, h->dim);
    }
    for (int k0 = 0; k0 < q0 + m; k0 += KEYS)
      backward_block(h, g, q0, m, k0, smaller(KEYS, q0 + m - k0), delta);
  }
}

void cpu_attention_backward(Backend *backend, const AttentionBackward *a) {
  (void)backend;
  const Sequences *s = &a->sequences;
  int group = a->heads / a->kv_heads, ldo = a->heads * a->head_dim;
#pragma omp parallel for collapse(2) schedule(dynamic)
  for (int b = 0; b < s->count; b++)
    for (int kv = 0; kv < a->kv_heads; kv++) {
      size_t first = (size_t)s->cu_seqlens[b];
      for (int h = kv * group; h < (kv + 1) * group; h++) {
        Head head = head_of(s, a->qkv, b, h, a->heads, a->kv_heads, a->head_dim);
        const float *qkv = a->qkv;
        float *dqkv = a->dqkv;
        Gradient g = {.dout = (const float *)a->dout + first * ldo + (size_t)h * a->head_dim,
                      .lse = a->lse + (size_t)h * s->tokens + first,
                      .dq = dqkv + (head.q - qkv),
                      .dk = dqkv + (head.k - qkv),
                      .dv = dqkv + (head.v - qkv),
                      .ldo = ldo};
        if (h == kv * group)
          for (int t = 0; t < head.length; t++) {
            memset(g.dk + (size_t)t * head.stride, 0, (size_t)head.dim * sizeof(float));
            memset(g.dv + (size_t)t * head.stride, 0, (size_t)head.dim * sizeof(float));
          }
        backward_head(&head, &g, (const float *)a->out + first * ldo + (size_t)h * a->head_dim);
      }
    }
}

/* Attention of one new token a row. Rows of the same post that stand next to each other share each
 * load of the post's keys and values. Every row's sums run in one fixed order, so that a row's result
 * has the same bits whichever rows stand beside it. */
#include <math.h>
#include <string.h>

#include "cpu/cpu.h"
#include "cpu/simd.h"

enum { TILE = 64, SHARED = 16 }; /* keys a step; query vectors that share a key */

void cpu_kv_store(Backend *backend, const KvStore *k) {
  (void)backend;
  size_t width = (size_t)2 * k->kv_heads * k->head_dim, query = (size_t)k->heads * k->head_dim;
  const float *qkv = k->qkv;
  float *cache = k->cache;
#pragma omp parallel for if (k->rows > 64)
  for (int i = 0; i < k->rows; i++)
    memcpy(cache + (size_t)(k->row ? k->row[i] : i) * width, qkv + (size_t)i * (query + width) + query,
           width * sizeof(float));
}

/* The running softmax of up to SHARED query vectors over the same keys. */
typedef struct Running {
  const float *query[SHARED];
  float *out[SHARED]; /* [d], the weighted sum of values so far */
  float top[SHARED], sum[SHARED];
  int count, dim;
  float scale;
} Running;

/* Adds n <= TILE keys of row stride `stride` to the queries first .. last-1. */
static void add_keys(Running *r, int first, int last, const float *keys, const float *values, size_t stride,
                     int n) {
  _Alignas(64) float p[SHARED][TILE];
  int dim = r->dim;
  for (int j = 0; j < n; j++)
    for (int i = first; i < last; i++) p[i][j] = r->scale * simd_dot(r->query[i], keys + j * stride, dim);
  for (int i = first; i < last; i++) {
    float top = fmaxf(r->top[i], simd_max(p[i], n)), sum = 0;
    float shrink = expf(r->top[i] - top); /* exp(-inf) = 0 at first */
#pragma omp simd reduction(+ : sum)
    for (int j = 0; j < n; j++) {
      p[i][j] = fast_exp(p[i][j] - top);
      sum += p[i][j];
    }
    r->top[i] = top;
    r->sum[i] = r->sum[i] * shrink + sum;
    if (shrink != 1)
      for (int c = 0; c < dim; c++) r->out[i][c] *= shrink;
  }
  for (int i = first; i < last; i++) {
    float *restrict out = r->out[i];
    int j = 0;
    for (; j + 4 <= n; j += 4) {
      const float *v = values + j * stride, *w = p[i] + j;
#pragma omp simd
      for (int c = 0; c < dim; c++)
        out[c] +=
            (w[0] * v[c] + w[1] * v[stride + c]) + (w[2] * v[2 * stride + c] + w[3] * v[3 * stride + c]);
    }
    for (; j < n; j++)
#pragma omp simd
      for (int c = 0; c < dim; c++) out[c] += p[i][j] * values[j * stride + c];
  }
}

static void add_all_keys(Running *r, int first, int last, const float *keys, const float *values,
                         size_t stride, int n) {
  for (int j = 0; j < n; j += TILE)
    add_keys(r, first, last, keys + j * stride, values + j * stride, stride, n - j < TILE ? n - j : TILE);
}

/* Rows row .. row+samples-1, all of one post, and the query heads head .. head+heads-1 of one kv head. */
static void decode_group(const AttentionDecode *a, int row, int samples, int head, int heads) {
  int dim = a->head_dim, kv = head / (a->heads / a->kv_heads), post = a->post[row];
  size_t stride = (size_t)2 * a->kv_heads * dim, qkv_row = (size_t)(a->heads + 2 * a->kv_heads) * dim;
  Running r = {.count = samples * heads, .dim = dim, .scale = 1 / sqrtf((float)dim)};
  for (int i = 0; i < r.count; i++) {
    int token = row + i / heads, h = head + i % heads;
    r.query[i] = (const float *)a->qkv + token * qkv_row + (size_t)h * dim;
    r.out[i] = (float *)a->out + ((size_t)token * a->heads + h) * dim;
    r.top[i] = -INFINITY;
    r.sum[i] = 0;
    memset(r.out[i], 0, (size_t)dim * sizeof(float));
  }
  size_t to_values = (size_t)a->kv_heads * dim;
  const float *keys = a->prefix_len ? (const float *)a->prefix + (size_t)kv * dim : NULL;
  if (keys) add_all_keys(&r, 0, r.count, keys, keys + to_values, stride, a->prefix_len);
  keys = (const float *)a->post_cache + (size_t)a->post_cu_seqlens[post] * stride + (size_t)kv * dim;
  add_all_keys(&r, 0, r.count, keys, keys + to_values, stride,
               a->post_cu_seqlens[post + 1] - a->post_cu_seqlens[post]);
  for (int i = 0; i < samples; i++) {
    keys =
        (const float *)a->reply_cache + (size_t)a->slot[row + i] * a->max_reply * stride + (size_t)kv * dim;
    add_all_keys(&r, i * heads, (i + 1) * heads, keys, keys + to_values, stride, a->reply_len[row + i]);
  }
  for (int i = 0; i < r.count; i++) {
    float inverse = r.sum[i] > 0 ? 1 / r.sum[i] : 0;
    for (int c = 0; c < dim; c++) r.out[i][c] *= inverse;
  }
}

void cpu_attention_decode(Backend *backend, const AttentionDecode *a) {
  (void)backend;
  int group = a->heads / a->kv_heads;
  int heads = group < SHARED ? group : SHARED; /* query heads taken together */
  int most = SHARED / heads;                   /* rows taken together */
#pragma omp parallel for collapse(2) schedule(dynamic)
  for (int row = 0; row < a->rows; row++)
    for (int kv = 0; kv < a->kv_heads; kv++) {
      int before = 0, samples = 1; /* rows of this post directly before this one; rows to take from here */
      while (row - before > 0 && a->post[row - before - 1] == a->post[row]) before++;
      if (before % most) continue; /* taken with an earlier row */
      while (samples < most && row + samples < a->rows && a->post[row + samples] == a->post[row]) samples++;
      for (int h = 0; h < group; h += heads)
        decode_group(a, row, samples, kv * group + h, group - h < heads ? group - h : heads);
    }
}

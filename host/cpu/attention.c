/* Self-attention by blocks with a running softmax (Dao et al. 2022, Dao 2023): QUERIES rows
 * against up to KEYS keys at a time, so that no T x T matrix is ever stored. The threads share out
 * (sequence, key-value head) pairs; each copies its head's rows into padded scratch memory, works there,
 * and writes its own part of the output, so the number of threads changes nothing. A prefix stands in that
 * scratch memory before the sequence's own keys; its gradient is a sum over sequences, taken in slices of the
 * batch, which are added in their order. */
#include <math.h>
#include <string.h>

#include "cpu/cpu.h"
#include "cpu/simd.h"
#include "cpu/tile.h"

enum {
  QUERIES = 48, /* TILE_ROWS * 8 */
  PANEL = 64,   /* keys of a transposed panel: what one tile reads at each step of depth */
  KEYS = 192,   /* 3 panels; scores of a block of queries fit the first-level cache */
};
_Static_assert(KEYS % PANEL == 0 && PANEL % TILE_PAD == 0 && QUERIES % TILE_ROWS == 0,
               "blocks are whole tiles");

static int smaller(int a, int b) { return a < b ? a : b; }
static int padded(int n, int to) { return (n + to - 1) / to * to; }

/* One head of one sequence where it lies: rows of dim floats, `stride` apart, after the `before` rows of a
 * prefix. */
typedef struct Rows {
  const float *first, *prefix;
  int count, before, dim; /* count: without the prefix */
  size_t stride, prefix_stride;
} Rows;

/* Row t, those of the prefix first. */
static const float *row_at(const Rows *r, int t) {
  return t < r->before ? r->prefix + (size_t)t * r->prefix_stride
                       : r->first + (size_t)(t - r->before) * r->stride;
}

static int all_rows(const Rows *r) { return r->before + r->count; }

static Rows rows_of(const Sequences *s, const float *packed, int b, int head, int heads, int dim) {
  size_t stride = (size_t)heads * dim;
  return (Rows){.first = packed + (size_t)s->cu_seqlens[b] * stride + (size_t)head * dim,
                .count = s->cu_seqlens[b + 1] - s->cu_seqlens[b],
                .dim = dim,
                .stride = stride};
}

/* The key heads (part 0) or the value heads (1): head kv of sequence b, after the prefix. */
static Rows keys_of(const Attention *a, int b, int kv, int part) {
  int head = part * a->kv_heads + kv;
  Rows rows = rows_of(&a->sequences, a->qkv, b, a->heads + head, a->heads + 2 * a->kv_heads, a->head_dim);
  rows.before = a->prefix_len;
  rows.prefix_stride = (size_t)2 * a->kv_heads * a->head_dim;
  if (a->prefix_len) rows.prefix = (const float *)a->prefix + (size_t)head * a->head_dim;
  return rows;
}

/* A head's rows lie far apart, where the hardware foresees nothing: asks for the row AHEAD of t. */
static void prefetch_row(const Rows *r, int t) {
  enum { AHEAD = 8, LINE = 16 };
  if (t + AHEAD >= all_rows(r)) return;
  const float *row = row_at(r, t + AHEAD);
  for (int c = 0; c < r->dim; c += LINE) __builtin_prefetch(row + c);
}

/* to[all rows, pad], the columns from dim on 0 */
static void copy_rows(const Rows *r, int pad, float *to) {
  for (int t = 0; t < all_rows(r); t++, to += pad) {
    prefetch_row(r, t);
    memcpy(to, row_at(r, t), (size_t)r->dim * sizeof *to);
    memset(to + r->dim, 0, (size_t)(pad - r->dim) * sizeof *to);
  }
}

/* to[panel][dim][PANEL], behind the last key 0 */
static void transpose_rows(const Rows *r, float *to) {
  for (int from = 0; from < all_rows(r); from += PANEL, to += (size_t)r->dim * PANEL) {
    int count = smaller(PANEL, all_rows(r) - from);
    if (count < PANEL) memset(to, 0, (size_t)r->dim * PANEL * sizeof *to);
    for (int t = 0; t < count; t++) {
      const float *row = row_at(r, from + t);
      prefetch_row(r, from + t);
      for (int c = 0; c < r->dim; c++) to[(size_t)c * PANEL + t] = row[c];
    }
  }
}

/* s[m, n] = rows[m, dim] times keys k0 .. k0+n-1 of the panels; n is rounded up to whole vectors. */
static void multiply_panels(const float *rows, size_t stride, const float *panels, int dim, int m, int k0,
                            int n, float *s) {
  for (int j = 0; j < n; j += PANEL)
    tile_product(&(TileProduct){.a = rows,
                                .row_step = stride,
                                .depth_step = 1,
                                .b = panels + (size_t)(k0 + j) * dim,
                                .ldb = PANEL,
                                .c = s + j,
                                .ldc = KEYS,
                                .m = m,
                                .n = padded(smaller(PANEL, n - j), TILE_PAD),
                                .depth = dim});
}

/* out[m, pad] (+)= p[m, n] rows[n, pad] */
static void multiply_rows(const float *p, const float *rows, int pad, int m, int n, bool add, float *out) {
  tile_product(&(TileProduct){.a = p,
                              .row_step = KEYS,
                              .depth_step = 1,
                              .b = rows,
                              .ldb = (size_t)pad,
                              .c = out,
                              .ldc = (size_t)pad,
                              .m = m,
                              .n = pad,
                              .depth = n,
                              .add = add});
}

/* out[n, pad] += pt[n, m] rows[m, pad] */
static void add_transposed(const float *p, const float *rows, int pad, int m, int n, float *out) {
  tile_product(&(TileProduct){.a = p,
                              .row_step = 1,
                              .depth_step = KEYS,
                              .b = rows,
                              .ldb = (size_t)pad,
                              .c = out,
                              .ldc = (size_t)pad,
                              .m = n,
                              .n = pad,
                              .depth = m,
                              .add = true});
}

/* Rows of scores are worked on in whole vectors, what is masked by a select: most rows are short, and
 * a remainder one by one would cost more than the rest. Room for it is there. */
static float max_row(const float *s, int seen) {
  float top = -INFINITY;
  int end = padded(seen, TILE_PAD);
#pragma omp simd reduction(max : top)
  for (int j = 0; j < end; j++) {
    float x = j < seen ? s[j] : -INFINITY;
    top = x > top ? x : top;
  }
  return top;
}

/* Turns a row of scores into exp(scale (score - top)), the n - seen masked ones into 0; returns the sum. */
static float exp_row(float *s, int seen, int n, float top, float scale) {
  float sum = 0;
  int end = padded(seen, TILE_PAD);
#pragma omp simd reduction(+ : sum)
  for (int j = 0; j < end; j++) {
    float e = fast_exp(scale * (s[j] - top));
    s[j] = j < seen ? e : 0;
    sum += s[j];
  }
  for (int j = end; j < n; j++) s[j] = 0;
  return sum;
}

/* p = exp(scale score - lse) and ds = scale p (dp - delta), in place of the scores and of dp; masked: 0. */
static void gradient_row(float *p, float *ds, int seen, int n, float lse, float delta, float scale) {
  int end = padded(seen, TILE_PAD);
#pragma omp simd
  for (int j = 0; j < end; j++) {
    float e = fast_exp(scale * p[j] - lse), d = scale * e * (ds[j] - delta);
    p[j] = j < seen ? e : 0;
    ds[j] = j < seen ? d : 0;
  }
  for (int j = end; j < n; j++) p[j] = ds[j] = 0;
}

/* Scratch memory of one thread, each part for `rows` rows of `pad` floats. */
enum { KT, V, BLOCK, FORWARD_PARTS, VT = FORWARD_PARTS, K, Q, DOUT, DK, DV, BACKWARD_PARTS };

typedef struct Scratch {
  float *part[BACKWARD_PARTS];
  int pad; /* head_dim in whole vectors */
} Scratch;

static size_t part_size(int most_keys, int dim) {
  return (size_t)padded(most_keys > QUERIES ? most_keys : QUERIES, PANEL) * padded(dim, TILE_PAD);
}

size_t cpu_attention_scratch(int most_keys, int head_dim, bool backward) {
  size_t each = (size_t)(backward ? BACKWARD_PARTS : FORWARD_PARTS) * part_size(most_keys, head_dim);
  return cpu_threads() * each * sizeof(float);
}

static Scratch scratch_of(float *workspace, int parts, int most_keys, int dim) {
  Scratch s = {.pad = padded(dim, TILE_PAD)};
  float *own = workspace + cpu_thread() * (size_t)parts * part_size(most_keys, dim);
  for (int i = 0; i < parts; i++) s.part[i] = own + (size_t)i * part_size(most_keys, dim);
  return s;
}

/* What the queries of a sequence see of the keys in scratch memory: those of the prefix and, causally or all,
 * the sequence's own without the gap between the shared ones and their branch. */
typedef struct Sight {
  int before, count, shared; /* keys of the prefix, of the sequence, of all its branches */
  const int32_t *branch;     /* [count], or NULL */
  int begin;                 /* the packed token that branch counts from */
  bool full;
} Sight;

static Sight sight_of(const Attention *a, int b) {
  const Sequences *s = &a->sequences;
  int begin = s->cu_seqlens[b];
  return (Sight){.before = a->prefix_len,
                 .count = s->cu_seqlens[b + 1] - begin,
                 .shared = s->shared ? s->shared[b] : 0,
                 .branch = s->branch ? s->branch + begin : NULL,
                 .begin = begin,
                 .full = a->full};
}

/* The keys that some of the queries up to the last one see. */
static int key_end(const Sight *sight, int last) {
  return sight->before + (sight->full ? sight->count : last + 1);
}

/* How many of the n keys from k0 on a query sees if nothing is in between. A block of keys may begin in the
 * future of some rows of a block of queries. */
static int seen_keys(const Sight *sight, int query, int k0, int n) {
  int seen = smaller(n, key_end(sight, query) - k0);
  return seen > 0 ? seen : 0;
}

/* The keys from `from` to `to` belong to other branches than the query's. */
typedef struct Gap {
  int from, to;
} Gap;

static Gap gap_of(const Sight *sight, int query) {
  if (!sight->branch) return (Gap){0, 0};
  return (Gap){sight->before + sight->shared, sight->before + sight->branch[query] - sight->begin};
}

/* The gap widens from query to query: a block of keys within the first one's is in that of all. */
static bool all_hidden(Gap first, int k0, int n) { return first.from <= k0 && k0 + n <= first.to; }

/* A score that counts for nothing beside any other, yet finite: a row may see no key of its first blocks, and
 * what it sums up until it sees one is multiplied by 0 then. */
static void hide(float *s, Gap gap, int k0, int n) {
  const float hidden = -1e30f;
  int from = gap.from > k0 ? gap.from - k0 : 0, to = smaller(n, gap.to - k0);
  for (int j = from; j < to; j++) s[j] = hidden;
}

/* Rows q0 .. q0+m-1 of one query head against the keys and values in scratch; out and lse are the head's. */
static void forward_block(const Rows *q, const Scratch *w, const Sight *sight, int q0, int m, float *out,
                          size_t ldo, float *lse) {
  _Alignas(64) float s[QUERIES * KEYS];
  float top[QUERIES], sum[QUERIES], *o = w->part[BLOCK], scale = 1 / sqrtf((float)q->dim);
  int keys = key_end(sight, q0 + m - 1);
  bool first = true;
  for (int k0 = 0; k0 < keys; k0 += KEYS) {
    int n = smaller(KEYS, keys - k0);
    if (all_hidden(gap_of(sight, q0), k0, n)) continue;
    multiply_panels(q->first + (size_t)q0 * q->stride, q->stride, w->part[KT], q->dim, m, k0, n, s);
    for (int i = 0; i < m; i++) {
      int seen = seen_keys(sight, q0 + i, k0, n);
      float *row = s + (size_t)i * KEYS, last_top = first ? -INFINITY : top[i];
      hide(row, gap_of(sight, q0 + i), k0, n);
      top[i] = fmaxf(last_top, max_row(row, seen));
      float added = exp_row(row, seen, n, top[i], scale);
      float shrink = first ? 0 : expf(scale * (last_top - top[i]));
      sum[i] = first ? added : sum[i] * shrink + added;
      if (!first && shrink != 1)
        for (int c = 0; c < w->pad; c++) o[(size_t)i * w->pad + c] *= shrink;
    }
    multiply_rows(s, w->part[V] + (size_t)k0 * w->pad, w->pad, m, n, !first, o);
    first = false;
  }
  for (int i = 0; i < m; i++) {
    float inverse = 1 / sum[i];
    for (int c = 0; c < q->dim; c++) out[(size_t)(q0 + i) * ldo + c] = o[(size_t)i * w->pad + c] * inverse;
    if (lse) lse[q0 + i] = scale * top[i] + logf(sum[i]);
  }
}

void cpu_attention(Backend *backend, const Attention *a) {
  const Sequences *s = &a->sequences;
  int group = a->heads / a->kv_heads, all = a->heads + 2 * a->kv_heads, dim = a->head_dim;
  int most = a->prefix_len + s->max_len;
  size_t ldo = (size_t)a->heads * dim;
  float *workspace = cpu_workspace(backend, cpu_attention_scratch(most, dim, false));
#pragma omp parallel for collapse(2) schedule(dynamic)
  for (int b = 0; b < s->count; b++)
    for (int kv = 0; kv < a->kv_heads; kv++) {
      Scratch w = scratch_of(workspace, FORWARD_PARTS, most, dim);
      Rows k = keys_of(a, b, kv, 0);
      Rows v = keys_of(a, b, kv, 1);
      transpose_rows(&k, w.part[KT]);
      copy_rows(&v, w.pad, w.part[V]);
      Sight sight = sight_of(a, b);
      for (int h = kv * group; h < (kv + 1) * group; h++) {
        Rows q = rows_of(s, a->qkv, b, h, all, dim);
        size_t first = (size_t)s->cu_seqlens[b];
        for (int q0 = 0; q0 < q.count; q0 += QUERIES)
          forward_block(&q, &w, &sight, q0, smaller(QUERIES, q.count - q0),
                        (float *)a->out + first * ldo + (size_t)h * dim, ldo,
                        a->lse ? a->lse + (size_t)h * s->tokens + first : NULL);
      }
    }
}

/* One block of queries of one head: q, dout in scratch are this head's.
 *   p = exp(scale q kt - lse), dp = dout vt, ds = scale p (dp - delta)
 *   dv += pt dout, dk += dst q, dq = ds k; dq goes to its place in dqkv */
static void backward_block(const Scratch *w, int dim, const Sight *sight, int q0, int m, const float *lse,
                           const float *delta, float *dq, size_t stride) {
  _Alignas(64) float p[QUERIES * KEYS], ds[QUERIES * KEYS];
  float *block = w->part[BLOCK], scale = 1 / sqrtf((float)dim);
  const float *q = w->part[Q] + (size_t)q0 * w->pad, *dout = w->part[DOUT] + (size_t)q0 * w->pad;
  int keys = key_end(sight, q0 + m - 1);
  bool first = true;
  for (int k0 = 0; k0 < keys; k0 += KEYS) {
    int n = smaller(KEYS, keys - k0);
    if (all_hidden(gap_of(sight, q0), k0, n)) continue;
    size_t at = (size_t)k0 * w->pad;
    multiply_panels(q, (size_t)w->pad, w->part[KT], dim, m, k0, n, p);
    multiply_panels(dout, (size_t)w->pad, w->part[VT], dim, m, k0, n, ds);
    for (int i = 0; i < m; i++) {
      hide(p + (size_t)i * KEYS, gap_of(sight, q0 + i), k0, n);
      gradient_row(p + (size_t)i * KEYS, ds + (size_t)i * KEYS, seen_keys(sight, q0 + i, k0, n), n,
                   lse[q0 + i], delta[i], scale);
    }
    add_transposed(p, dout, w->pad, m, n, w->part[DV] + at);
    add_transposed(ds, q, w->pad, m, n, w->part[DK] + at);
    multiply_rows(ds, w->part[K] + at, w->pad, m, n, !first, block);
    first = false;
  }
  for (int i = 0; i < m; i++)
    memcpy(dq + (size_t)(q0 + i) * stride, block + (size_t)i * w->pad, (size_t)dim * sizeof *dq);
}

/* All rows of one query head; dk and dv in scratch are added to. */
static void backward_head(const Scratch *w, const Sight *sight, const Rows *q, const Rows *out,
                          const Rows *dout, const float *lse, float *dq) {
  copy_rows(q, w->pad, w->part[Q]);
  copy_rows(dout, w->pad, w->part[DOUT]);
  for (int q0 = 0; q0 < q->count; q0 += QUERIES) {
    int m = smaller(QUERIES, q->count - q0);
    float delta[QUERIES];
    for (int i = 0; i < m; i++)
      delta[i] = simd_dot(out->first + (size_t)(q0 + i) * out->stride,
                          dout->first + (size_t)(q0 + i) * dout->stride, q->dim);
    backward_block(w, q->dim, sight, q0, m, lse, delta, dq, q->stride);
  }
}

/* The sequence's own rows, which are written, and those of the prefix, which are added. */
static void write_rows(const float *from, int pad, const Rows *shape, float *to, float *prefix) {
  for (int t = 0; prefix && t < shape->before; t++)
    for (int c = 0; c < shape->dim; c++)
      prefix[(size_t)t * shape->prefix_stride + c] += from[(size_t)t * pad + c];
  from += (size_t)shape->before * pad;
  for (int t = 0; t < shape->count; t++)
    memcpy(to + (size_t)t * shape->stride, from + (size_t)t * pad, (size_t)shape->dim * sizeof *to);
}

/* All query heads of one key-value head of one sequence. dprefix: the sum of a slice of the batch, or NULL.
 */
static void backward_kv_head(const AttentionBackward *a, const Scratch *w, int b, int kv, float *dprefix) {
  const Sequences *s = &a->sequences;
  const float *qkv = a->qkv;
  float *dqkv = a->dqkv;
  int group = a->heads / a->kv_heads, all = a->heads + 2 * a->kv_heads, dim = a->head_dim;
  const Attention forward = {.sequences = *s,
                             .qkv = qkv,
                             .prefix = a->prefix,
                             .prefix_len = a->prefix_len,
                             .heads = a->heads,
                             .kv_heads = a->kv_heads,
                             .head_dim = dim,
                             .full = a->full};
  Sight sight = sight_of(&forward, b);
  Rows k = keys_of(&forward, b, kv, 0);
  Rows v = keys_of(&forward, b, kv, 1);
  transpose_rows(&k, w->part[KT]);
  transpose_rows(&v, w->part[VT]);
  copy_rows(&k, w->pad, w->part[K]);
  memset(w->part[DK], 0, (size_t)all_rows(&k) * w->pad * sizeof(float));
  memset(w->part[DV], 0, (size_t)all_rows(&k) * w->pad * sizeof(float));
  for (int h = kv * group; h < (kv + 1) * group; h++) {
    Rows q = rows_of(s, qkv, b, h, all, dim);
    Rows out = rows_of(s, a->out, b, h, a->heads, dim), dout = rows_of(s, a->dout, b, h, a->heads, dim);
    backward_head(w, &sight, &q, &out, &dout, a->lse + (size_t)h * s->tokens + s->cu_seqlens[b],
                  dqkv + (q.first - qkv));
  }
  size_t value = (size_t)(a->kv_heads + kv) * dim;
  write_rows(w->part[DK], w->pad, &k, dqkv + (k.first - qkv), dprefix ? dprefix + (size_t)kv * dim : NULL);
  write_rows(w->part[DV], w->pad, &v, dqkv + (v.first - qkv), dprefix ? dprefix + value : NULL);
}

void cpu_attention_backward(Backend *backend, const AttentionBackward *a) {
  const Sequences *s = &a->sequences;
  int dim = a->head_dim, most = a->prefix_len + s->max_len;
  bool summed = a->dprefix && a->prefix_len;
  int slices = summed ? smaller(PREFIX_SLICES, s->count) : s->count;
  size_t width = summed ? (size_t)a->prefix_len * 2 * a->kv_heads * dim : 0;
  size_t sums = ((size_t)slices * width + TILE_PAD - 1) / TILE_PAD * TILE_PAD;
  float *partial = cpu_workspace(backend, sums * sizeof *partial + cpu_attention_scratch(most, dim, true));
  float *dprefix = a->dprefix;
  memset(partial, 0, sums * sizeof *partial);
#pragma omp parallel for collapse(2) schedule(dynamic)
  for (int slice = 0; slice < slices; slice++)
    for (int kv = 0; kv < a->kv_heads; kv++) {
      Scratch w = scratch_of(partial + sums, BACKWARD_PARTS, most, dim);
      int64_t end = (int64_t)s->count * (slice + 1) / slices;
      for (int64_t b = (int64_t)s->count * slice / slices; b < end; b++)
        backward_kv_head(a, &w, (int)b, kv, summed ? partial + (size_t)slice * width : NULL);
    }
#pragma omp parallel for
  for (size_t i = 0; i < width; i++)
    for (int slice = 0; slice < slices; slice++) dprefix[i] += partial[(size_t)slice * width + i];
}

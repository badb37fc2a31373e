/* S = q kt / sqrt(d), hidden where a query does not see the key. Forward: the softmax through its largest
 * score and sum, out = P v, stats = largest + log sum. Backward: P = exp(S - stats), delta = rowsum(dout
 * out), dS = P (dout vt - delta) / sqrt(d); dv = Pt dout, dk = dSt q, dq = dS k. With grouped heads dk and dv
 * are sums over the group. cuDNN recognises attention by this order of operations. */
#include "attention_graph.h"

typedef struct Sizes {
  int64_t count, heads, rows, columns;
} Sizes;

/* ---- tensors ---- */

static GraphTensor dense(GraphType type, Sizes s) {
  return (GraphTensor){.size = {s.count, s.heads, s.rows, s.columns},
                       .stride = {s.heads * s.rows * s.columns, s.rows * s.columns, s.columns, 1},
                       .type = type,
                       .used = true};
}

/* Heads of packed rows of `width` elements. */
static GraphTensor packed(const AttentionGraphShape *shape, int heads, int64_t width, int offsets) {
  return (GraphTensor){.size = {shape->count, heads, shape->max_len, shape->head_dim},
                       .stride = {shape->max_len * width, shape->head_dim, width, 1},
                       .type = GRAPH_BF16,
                       .offsets = shape->ragged ? offsets : GRAPH_NONE,
                       .used = true};
}

static GraphTensor transposed(GraphTensor t) {
  int64_t rows = t.size[2], step = t.stride[2];
  t.size[2] = t.size[3], t.size[3] = rows;
  t.stride[2] = t.stride[3], t.stride[3] = step;
  return t;
}

static int inner(AttentionGraph *g, GraphTensor tensor) {
  g->tensor[g->tensors] = tensor;
  return g->tensors++;
}

/* A number for every query and key: [B, Hq, T, T] */
static int square(AttentionGraph *g, GraphType type) {
  const AttentionGraphShape *s = &g->shape;
  return inner(g, dense(type, (Sizes){s->count, s->heads, s->max_len, s->max_len}));
}

static Sizes column_sizes(const AttentionGraphShape *s) { return (Sizes){s->count, s->heads, s->max_len, 1}; }

/* One for every query. */
static int column(AttentionGraph *g) { return inner(g, dense(GRAPH_F32, column_sizes(&g->shape))); }

static void lay_out_rows(AttentionGraph *g) {
  const AttentionGraphShape *s = &g->shape;
  int64_t qkv = (int64_t)(s->heads + 2 * s->kv_heads) * s->head_dim, out = (int64_t)s->heads * s->head_dim;
  GraphTensor *t = g->tensor, kv = packed(s, s->kv_heads, qkv, GRAPH_QKV_OFFSETS);
  t[GRAPH_QUERIES] = packed(s, s->heads, qkv, GRAPH_QKV_OFFSETS);
  t[GRAPH_KEYS] = transposed(kv);
  t[GRAPH_VALUES] = s->backward ? transposed(kv) : kv;
  t[GRAPH_OUT] = packed(s, s->heads, out, GRAPH_OUT_OFFSETS);
  t[GRAPH_STATS] = dense(GRAPH_F32, column_sizes(s));
  if (!s->backward) return;
  t[GRAPH_DOUT] = t[GRAPH_OUT];
  t[GRAPH_DQUERIES] = t[GRAPH_QUERIES];
  t[GRAPH_DKEYS] = t[GRAPH_DVALUES] = kv;
  t[GRAPH_DELTA] = t[GRAPH_STATS];
  t[GRAPH_DQUERIES_SUM] = dense(GRAPH_F32, (Sizes){s->count, s->heads, s->max_len, s->head_dim});
  t[GRAPH_ONE] = dense(GRAPH_F32, (Sizes){1, 1, 1, 1});
}

static void lay_out(AttentionGraph *g) {
  const AttentionGraphShape *s = &g->shape;
  GraphTensor number = dense(GRAPH_F32, (Sizes){1, 1, 1, 1});
  lay_out_rows(g);
  g->tensor[GRAPH_SCALE] = number;
  if (s->ragged || !s->full) g->tensor[GRAPH_HIDDEN] = number;
  if (!s->ragged) return;
  g->tensor[GRAPH_QUERY_LENGTHS] = g->tensor[GRAPH_KEY_LENGTHS] =
      dense(GRAPH_I32, (Sizes){s->count, 1, 1, 1});
  g->tensor[GRAPH_QKV_OFFSETS] = g->tensor[GRAPH_OUT_OFFSETS] =
      dense(GRAPH_I64, (Sizes){s->count + 1, 1, 1, 1});
}

/* ---- operations ---- */

static int apply(AttentionGraph *g, GraphOperation operation) {
  g->operation[g->operations++] = operation;
  return operation.out;
}

static int pointwise(AttentionGraph *g, GraphKind kind, int a, int b, int out) {
  return apply(g, (GraphOperation){.kind = kind, .a = a, .b = b, .out = out});
}

/* The dimensions that are queries or keys end where the sequence does. */
typedef enum Bounds { QUERIES_BY_KEYS, QUERIES_OF_KEYS, KEYS_OF_QUERIES } Bounds;

static int matmul(AttentionGraph *g, int a, int b, int out, Bounds bounds) {
  GraphOperation product = {.kind = GRAPH_MATMUL, .a = a, .b = b, .out = out};
  if (g->shape.ragged) {
    product.m = bounds == KEYS_OF_QUERIES ? GRAPH_KEY_LENGTHS : GRAPH_QUERY_LENGTHS;
    if (bounds == QUERIES_BY_KEYS)
      product.n = GRAPH_KEY_LENGTHS;
    else
      product.k = bounds == KEYS_OF_QUERIES ? GRAPH_QUERY_LENGTHS : GRAPH_KEY_LENGTHS;
  }
  return apply(g, product);
}

static int transpose(AttentionGraph *g, int a, GraphType type) {
  GraphTensor tensor = transposed(g->tensor[a]);
  tensor.type = type;
  return apply(g, (GraphOperation){.kind = GRAPH_RESHAPE, .a = a, .out = inner(g, tensor)});
}

static int position(AttentionGraph *g, int scores, int axis) {
  return apply(g,
               (GraphOperation){.kind = GRAPH_INDEX, .a = scores, .axis = axis, .out = square(g, GRAPH_I32)});
}

static int select_seen(AttentionGraph *g, int scores, int seen) {
  return apply(
      g, (GraphOperation){
             .kind = GRAPH_SELECT, .a = scores, .b = GRAPH_HIDDEN, .c = seen, .out = square(g, GRAPH_F32)});
}

static int hide_padding(AttentionGraph *g, int scores) {
  int row = position(g, scores, 2), key = position(g, scores, 3);
  int query_in = pointwise(g, GRAPH_LT, row, GRAPH_QUERY_LENGTHS, square(g, GRAPH_BOOL));
  int key_in = pointwise(g, GRAPH_LT, key, GRAPH_KEY_LENGTHS, square(g, GRAPH_BOOL));
  return select_seen(g, scores, pointwise(g, GRAPH_AND, query_in, key_in, square(g, GRAPH_BOOL)));
}

static int hide_later_keys(AttentionGraph *g, int scores) {
  int row = position(g, scores, 2), key = position(g, scores, 3);
  return select_seen(g, scores, pointwise(g, GRAPH_GE, row, key, square(g, GRAPH_BOOL)));
}

static int hide_unseen(AttentionGraph *g, int scores) {
  if (g->shape.ragged) scores = hide_padding(g, scores);
  return g->shape.full ? scores : hide_later_keys(g, scores);
}

/* q kt / sqrt(d) */
static int scaled_scores(AttentionGraph *g) {
  int scores = matmul(g, GRAPH_QUERIES, GRAPH_KEYS, square(g, GRAPH_F32), QUERIES_BY_KEYS);
  return pointwise(g, GRAPH_MUL, scores, GRAPH_SCALE, square(g, GRAPH_F32));
}

static void forward(AttentionGraph *g) {
  int scores = hide_unseen(g, scaled_scores(g));
  int top = pointwise(g, GRAPH_MAX, scores, GRAPH_NONE, column(g));
  int below = pointwise(g, GRAPH_SUB, scores, top, square(g, GRAPH_F32));
  int weights = pointwise(g, GRAPH_EXP, below, GRAPH_NONE, square(g, GRAPH_F32));
  int sum = pointwise(g, GRAPH_SUM, weights, GRAPH_NONE, column(g));
  int log = pointwise(g, GRAPH_LOG, sum, GRAPH_NONE, column(g));
  pointwise(g, GRAPH_ADD, top, log, GRAPH_STATS);
  int p = pointwise(g, GRAPH_DIV, weights, sum, square(g, GRAPH_BF16));
  matmul(g, p, GRAPH_VALUES, GRAPH_OUT, QUERIES_OF_KEYS);
}

/* at [.., keys, queries] b, summed over a group's heads: the gradient of keys or values. */
static void key_gradient(AttentionGraph *g, int at, int b, int out) {
  const AttentionGraphShape *s = &g->shape;
  if (s->heads == s->kv_heads) {
    matmul(g, at, b, out, KEYS_OF_QUERIES);
    return;
  }
  int of_heads = inner(g, dense(GRAPH_BF16, (Sizes){s->count, s->heads, s->max_len, s->head_dim}));
  matmul(g, at, b, of_heads, KEYS_OF_QUERIES);
  pointwise(g, GRAPH_SUM, of_heads, GRAPH_NONE, out);
}

static void backward(AttentionGraph *g) {
  const AttentionGraphShape *s = &g->shape;
  int rows = inner(g, dense(GRAPH_F32, (Sizes){s->count, s->heads, s->max_len, s->head_dim}));
  int sums =
      pointwise(g, GRAPH_SUM, pointwise(g, GRAPH_MUL, GRAPH_DOUT, GRAPH_OUT, rows), GRAPH_NONE, column(g));
  pointwise(g, GRAPH_MUL, sums, GRAPH_ONE, GRAPH_DELTA);

  int scores = pointwise(g, GRAPH_SUB, scaled_scores(g), GRAPH_STATS, square(g, GRAPH_F32));
  int p = pointwise(g, GRAPH_EXP, hide_unseen(g, scores), GRAPH_NONE, square(g, GRAPH_F32));
  key_gradient(g, transpose(g, p, GRAPH_BF16), GRAPH_DOUT, GRAPH_DVALUES);

  int dp = matmul(g, GRAPH_DOUT, GRAPH_VALUES, square(g, GRAPH_F32), QUERIES_BY_KEYS);
  int above = pointwise(g, GRAPH_SUB, dp, GRAPH_DELTA, square(g, GRAPH_F32));
  int ds = pointwise(g, GRAPH_MUL, above, p, square(g, GRAPH_F32));
  ds = pointwise(g, GRAPH_MUL, ds, GRAPH_SCALE, square(g, GRAPH_F32));
  key_gradient(g, transpose(g, ds, GRAPH_BF16), GRAPH_QUERIES, GRAPH_DKEYS);

  int keys = transpose(g, GRAPH_KEYS, GRAPH_BF16);
  matmul(g, ds, keys, GRAPH_DQUERIES_SUM, QUERIES_OF_KEYS);
  pointwise(g, GRAPH_IDENTITY, GRAPH_DQUERIES_SUM, GRAPH_NONE, GRAPH_DQUERIES);
}

void attention_graph(const AttentionGraphShape *shape, AttentionGraph *out) {
  *out = (AttentionGraph){.shape = *shape, .tensors = GRAPH_INNER};
  lay_out(out);
  if (shape->backward)
    backward(out);
  else
    forward(out);
}

/* The graphs that cuDNN's attention is asked for (cuda/attention_graph.c): what they compute, by going
 * through their operations in double precision, and whether the library, where it is installed, has an engine
 * for them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "cuda/attention_graph.h"
#include "testing.h"

/* ---- a batch, by the formula ---- */

enum { B = 3, T = 7, D = 8, HEADS = 4 };

typedef struct Batch {
  AttentionGraphShape shape;
  int length[B], begin[B + 1], tokens, width; /* width: of a row of qkv */
  double *qkv, *dout;                         /* as in backend.h */
  double *out, *stats, *delta, *dqkv;         /* stats, delta [B, heads, T] */
} Batch;

static double *doubles(Arena *arena, size_t count, double value) {
  double *made = NEW(arena, double, count);
  for (size_t i = 0; i < count; i++) made[i] = value;
  return made;
}

static double *waves(Arena *arena, int count, double step) {
  double *made = NEW(arena, double, count);
  for (int i = 0; i < count; i++) made[i] = 1.5 * sin(step * i + 0.1 * step);
  return made;
}

static int kv_of(const Batch *c, int h) { return h / (HEADS / c->shape.kv_heads); }
static double *query(const Batch *c, double *rows, int b, int i, int h) {
  return rows + (c->begin[b] + i) * c->width + h * D;
}
static double *key(const Batch *c, double *rows, int b, int j, int h) {
  return query(c, rows, b, j, HEADS + kv_of(c, h));
}
static double *value(const Batch *c, double *rows, int b, int j, int h) {
  return key(c, rows, b, j, h) + c->shape.kv_heads * D;
}
static double *out_row(const Batch *c, double *rows, int b, int i, int h) {
  return rows + ((c->begin[b] + i) * HEADS + h) * D;
}
static int column_at(int b, int h, int i) { return (b * HEADS + h) * T + i; }

static double dot(const double *a, const double *b) {
  double sum = 0;
  for (int x = 0; x < D; x++) sum += a[x] * b[x];
  return sum;
}

static void add_scaled(double *to, const double *from, double factor) {
  for (int x = 0; x < D; x++) to[x] += factor * from[x];
}

/* One query of one head: its row of out, its statistics, and what it adds to the gradients. */
static void attend(Batch *c, int b, int h, int i) {
  int seen = c->shape.full ? c->length[b] : i + 1, at = column_at(b, h, i);
  double p[T], sum = 0, *q = query(c, c->qkv, b, i, h), *out = out_row(c, c->out, b, i, h);
  double *dout = out_row(c, c->dout, b, i, h);
  for (int j = 0; j < seen; j++) sum += p[j] = exp(dot(q, key(c, c->qkv, b, j, h)) / sqrt(D));
  for (int j = 0; j < seen; j++) add_scaled(out, value(c, c->qkv, b, j, h), p[j] /= sum);
  c->stats[at] = log(sum);
  c->delta[at] = dot(out, dout);
  for (int j = 0; j < seen; j++) {
    double ds = p[j] * (dot(dout, value(c, c->qkv, b, j, h)) - c->delta[at]) / sqrt(D);
    add_scaled(query(c, c->dqkv, b, i, h), key(c, c->qkv, b, j, h), ds);
    add_scaled(key(c, c->dqkv, b, j, h), q, ds);
    add_scaled(value(c, c->dqkv, b, j, h), dout, p[j]);
  }
}

static Batch make_batch(Arena *arena, AttentionGraphShape shape) {
  static const int ragged[B] = {T, 1, 4};
  Batch c = {.shape = shape, .width = (HEADS + 2 * shape.kv_heads) * D};
  for (int b = 0; b < B; b++) {
    c.length[b] = shape.ragged ? ragged[b] : T;
    c.begin[b + 1] = c.tokens += c.length[b];
  }
  c.qkv = waves(arena, c.tokens * c.width, 0.7);
  c.dout = waves(arena, c.tokens * HEADS * D, 1.3);
  c.out = doubles(arena, (size_t)c.tokens * HEADS * D, 0);
  c.dqkv = doubles(arena, (size_t)(c.tokens * c.width), 0);
  c.stats = doubles(arena, B * HEADS * T, 0);
  c.delta = doubles(arena, B * HEADS * T, 0);
  for (int b = 0; b < B; b++)
    for (int h = 0; h < HEADS; h++)
      for (int i = 0; i < c.length[b]; i++) attend(&c, b, h, i);
  return c;
}

/* ---- the graph's operations ---- */

typedef struct Machine {
  const AttentionGraph *graph;
  const Batch *batch;
  double *base[GRAPH_TENSORS];
} Machine;

/* NULL behind the end of a sequence. */
static double *element(const Machine *m, int tensor, int b, int h, int i, int j) {
  const GraphTensor *t = &m->graph->tensor[tensor];
  int at[4] = {b, h, i, j};
  for (int d = 0; d < 4; d++)
    if (t->size[d] == 1) at[d] = 0;
  int64_t offset = at[1] * t->stride[1] + at[2] * t->stride[2] + at[3] * t->stride[3];
  if (!t->offsets) return m->base[tensor] + at[0] * t->stride[0] + offset;
  int row = at[t->stride[2] > t->stride[3] ? 2 : 3];
  if (row >= m->batch->length[b]) return NULL;
  return m->base[tensor] + (int64_t)m->base[t->offsets][b] + offset;
}

static double read(const Machine *m, int tensor, int b, int h, int i, int j) {
  const double *at = element(m, tensor, b, h, i, j);
  return at ? *at : NAN;
}

static void write(const Machine *m, int tensor, int b, int h, int i, int j, double value) {
  double *at = element(m, tensor, b, h, i, j);
  if (at) *at = value;
}

static int bound(const Machine *m, int lengths, int b, int64_t size) {
  return lengths ? (int)m->base[lengths][b] : (int)size;
}

static void multiply(const Machine *m, const GraphOperation *o, const GraphTensor *out) {
  const GraphTensor *a = &m->graph->tensor[o->a], *factor = &m->graph->tensor[o->b];
  int group = (int)(a->size[1] / factor->size[1]);
  assert_true(a->size[3] == factor->size[2] && a->size[2] == out->size[2] && factor->size[3] == out->size[3]);
  for (int b = 0; b < B; b++)
    for (int h = 0; h < out->size[1]; h++)
      for (int i = 0; i < out->size[2]; i++)
        for (int j = 0; j < out->size[3]; j++) {
          double sum = 0;
          if (i >= bound(m, o->m, b, out->size[2]) || j >= bound(m, o->n, b, out->size[3])) sum = NAN;
          for (int k = 0; k < bound(m, o->k, b, a->size[3]); k++)
            sum += read(m, o->a, b, h, i, k) * read(m, o->b, b, h / group, k, j);
          write(m, o->out, b, h, i, j, sum);
        }
}

static double apply(const GraphOperation *o, double a, double b, double c, int i, int j) {
  switch (o->kind) {
    case GRAPH_IDENTITY:
      return a;
    case GRAPH_MUL:
      return a * b;
    case GRAPH_ADD:
      return a + b;
    case GRAPH_SUB:
      return a - b;
    case GRAPH_DIV:
      return a / b;
    case GRAPH_EXP:
      return exp(a);
    case GRAPH_LOG:
      return log(a);
    case GRAPH_INDEX:
      return o->axis == 2 ? i : j;
    case GRAPH_GE:
      return a >= b;
    case GRAPH_LT:
      return a < b;
    case GRAPH_AND:
      return a && b;
    case GRAPH_SELECT:
      return c ? a : b;
    default:
      fail_msg("operation %d is not element by element", o->kind);
      return 0;
  }
}

static void each_element(const Machine *m, const GraphOperation *o, const GraphTensor *out) {
  for (int b = 0; b < out->size[0]; b++)
    for (int h = 0; h < out->size[1]; h++)
      for (int i = 0; i < out->size[2]; i++)
        for (int j = 0; j < out->size[3]; j++) {
          double factor = o->b ? read(m, o->b, b, h, i, j) : 0, choice = o->c ? read(m, o->c, b, h, i, j) : 0;
          write(m, o->out, b, h, i, j, apply(o, read(m, o->a, b, h, i, j), factor, choice, i, j));
        }
}

/* Of columns or of the heads of a group. */
static void reduce(const Machine *m, const GraphOperation *o, const GraphTensor *out) {
  const GraphTensor *a = &m->graph->tensor[o->a];
  int group = (int)(a->size[1] / out->size[1]), columns = (int)(a->size[3] / out->size[3]);
  for (int b = 0; b < B; b++)
    for (int h = 0; h < out->size[1]; h++)
      for (int i = 0; i < out->size[2]; i++)
        for (int j = 0; j < out->size[3]; j++) {
          double result = o->kind == GRAPH_MAX ? -INFINITY : 0;
          for (int x = 0; x < group * columns; x++) {
            double number = read(m, o->a, b, h * group + x / columns, i, j + x % columns);
            result = o->kind == GRAPH_SUM ? result + number : number > result ? number : result;
          }
          write(m, o->out, b, h, i, j, result);
        }
}

static void run_graph(Arena *arena, Machine *m) {
  for (int i = 0; i < m->graph->operations; i++) {
    const GraphOperation *o = &m->graph->operation[i];
    const GraphTensor *out = &m->graph->tensor[o->out];
    if (o->kind == GRAPH_RESHAPE) { /* another view of the same memory */
      m->base[o->out] = m->base[o->a];
      continue;
    }
    if (o->out >= GRAPH_INNER)
      m->base[o->out] =
          doubles(arena, (size_t)(out->size[0] * out->size[1] * out->size[2] * out->size[3]), NAN);
    if (o->kind == GRAPH_MATMUL)
      multiply(m, o, out);
    else if (o->kind == GRAPH_MAX || o->kind == GRAPH_SUM)
      reduce(m, o, out);
    else
      each_element(m, o, out);
  }
}

/* ---- tests ---- */

static void assert_close(const char *what, const double *got, const double *want, int count) {
  for (int i = 0; i < count; i++)
    if (!(fabs(got[i] - want[i]) <= 1e-12 * (1 + fabs(want[i]))))
      fail_msg("%s[%d] is %.17g, should be %.17g", what, i, got[i], want[i]);
}

/* Statistics of rows that there are. */
static void assert_columns(const char *what, const Batch *c, const double *got, const double *want) {
  for (int b = 0; b < B; b++)
    for (int h = 0; h < HEADS; h++)
      assert_close(what, got + column_at(b, h, 0), want + column_at(b, h, 0), c->length[b]);
}

/* The types in which backend_cudnn.cu has what is not bf16. */
static void check_types(const AttentionGraph *graph) {
  static const GraphType types[GRAPH_INNER] = {
      [GRAPH_STATS] = GRAPH_F32,        [GRAPH_DELTA] = GRAPH_F32,
      [GRAPH_DQUERIES_SUM] = GRAPH_F32, [GRAPH_QUERY_LENGTHS] = GRAPH_I32,
      [GRAPH_KEY_LENGTHS] = GRAPH_I32,  [GRAPH_QKV_OFFSETS] = GRAPH_I64,
      [GRAPH_OUT_OFFSETS] = GRAPH_I64,  [GRAPH_SCALE] = GRAPH_F32,
      [GRAPH_HIDDEN] = GRAPH_F32,       [GRAPH_ONE] = GRAPH_F32};
  for (int i = 0; i < GRAPH_INNER; i++)
    if (graph->tensor[i].used) assert_int_equal(graph->tensor[i].type, types[i]);
  for (int i = 0; i < graph->operations; i++) {
    const GraphOperation *o = &graph->operation[i];
    if (o->kind == GRAPH_RESHAPE) assert_int_equal(graph->tensor[o->out].type, GRAPH_BF16);
    if (o->kind == GRAPH_INDEX) assert_int_equal(graph->tensor[o->out].type, GRAPH_I32);
  }
}

static void check_graph(AttentionGraphShape shape) {
  Arena arena = {0};
  Batch c = make_batch(&arena, shape);
  AttentionGraph graph;
  attention_graph(&shape, &graph);
  assert_true(graph.tensors <= GRAPH_TENSORS && graph.operations <= GRAPH_OPERATIONS);
  check_types(&graph);
  int out_width = HEADS * D, keys = HEADS * D, values = keys + shape.kv_heads * D;
  double *qkv_offsets = doubles(&arena, B + 1, 0), *out_offsets = doubles(&arena, B + 1, 0);
  double *lengths = doubles(&arena, B, 0), scale = 1 / sqrt(D), hidden = -INFINITY, one = 1;
  for (int b = 0; b <= B; b++) {
    qkv_offsets[b] = c.begin[b] * c.width;
    out_offsets[b] = c.begin[b] * out_width;
    if (b < B) lengths[b] = c.length[b];
  }
  double *out = shape.backward ? c.out : doubles(&arena, (size_t)(c.tokens * out_width), NAN);
  double *stats = shape.backward ? c.stats : doubles(&arena, B * HEADS * T, NAN);
  double *dqkv = doubles(&arena, (size_t)(c.tokens * c.width), NAN);
  Machine m = {&graph,
               &c,
               {[GRAPH_QUERIES] = c.qkv,
                [GRAPH_KEYS] = c.qkv + keys,
                [GRAPH_VALUES] = c.qkv + values,
                [GRAPH_OUT] = out,
                [GRAPH_STATS] = stats,
                [GRAPH_DOUT] = c.dout,
                [GRAPH_DQUERIES] = dqkv,
                [GRAPH_DKEYS] = dqkv + keys,
                [GRAPH_DVALUES] = dqkv + values,
                [GRAPH_DELTA] = doubles(&arena, B * HEADS * T, NAN),
                [GRAPH_DQUERIES_SUM] = doubles(&arena, B * HEADS * T * D, NAN),
                [GRAPH_QUERY_LENGTHS] = lengths,
                [GRAPH_KEY_LENGTHS] = lengths,
                [GRAPH_QKV_OFFSETS] = qkv_offsets,
                [GRAPH_OUT_OFFSETS] = out_offsets,
                [GRAPH_SCALE] = &scale,
                [GRAPH_HIDDEN] = &hidden,
                [GRAPH_ONE] = &one}};
  run_graph(&arena, &m);
  if (shape.backward) {
    assert_close("dqkv", dqkv, c.dqkv, c.tokens * c.width);
    assert_columns("delta", &c, m.base[GRAPH_DELTA], c.delta);
  } else {
    assert_close("out", out, c.out, c.tokens * out_width);
    assert_columns("stats", &c, stats, c.stats);
  }
  arena_free(&arena);
}

static void for_each_graph(AttentionGraphShape shape, void (*check)(AttentionGraphShape)) {
  for (int i = 0; i < 8; i++) {
    shape.backward = i & 1, shape.full = i >> 1 & 1, shape.ragged = i >> 2;
    check(shape);
  }
}

static void graphs_compute_attention_and_its_gradient(void **state) {
  (void)state;
  for (int kv_heads = 1; kv_heads <= HEADS; kv_heads *= 2)
    for_each_graph(
        (AttentionGraphShape){.count = B, .max_len = T, .heads = HEADS, .kv_heads = kv_heads, .head_dim = D},
        check_graph);
}

#ifdef POPALM_CUDA

static const char h200[] =
    "{\"deviceName\": \"NVIDIA H200\", \"cudaDeviceId\": 0, \"deviceVer\": 900, \"driverVer\": 13000, "
    "\"multiProcessorCount\": 132, \"warpSize\": 32, \"maxGridSize\": [2147483647, 65535, 65535], "
    "\"maxBlockSize\": [1024, 1024, 64], \"regsPerBlock\": 65536, \"maxRegistersPerSM\": 65536, "
    "\"maxThreadsPerBlock\": 1024, \"maxThreadsPerSM\": 2048, \"maxCtasPerSM\": 32, "
    "\"maxSharedMemoryPerBlock\": 49152, \"maxSharedMemoryPerBlockOptin\": 232448, "
    "\"reservedSharedMemoryPerBlock\": 1024, \"l2CacheSize\": 62914560, \"totalGlobalMem\": 150754820096, "
    "\"smClockRateKHz\": 1980000, \"memClockRateKHz\": 3201000, \"pciDeviceId\": 0, \"isTccDriver\": 0, "
    "\"supportCoopLaunch\": 1}";

static void check_engine(AttentionGraphShape shape) {
  char why[4096];
  bool installed;
  if (!cudnn_takes_graph(&shape, h200, &installed, why, sizeof why) && installed)
    fail_msg("no engine for %d/%d heads of %d, backward %d, full %d, ragged %d: %s", shape.heads,
             shape.kv_heads, shape.head_dim, shape.backward, shape.full, shape.ragged, why);
  if (installed) return;
  print_message("cuDNN 9.8 or later is not installed: whether it takes the graphs is not checked\n");
  skip();
}

static void cudnn_has_engines_for_them_on_an_h200(void **state) {
  (void)state;
  for_each_graph(
      (AttentionGraphShape){.count = 8, .max_len = 1024, .heads = 32, .kv_heads = 8, .head_dim = 64},
      check_engine);
  for_each_graph(
      (AttentionGraphShape){.count = 4, .max_len = 4096, .heads = 16, .kv_heads = 16, .head_dim = 128},
      check_engine);
}

#endif

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(graphs_compute_attention_and_its_gradient),
#ifdef POPALM_CUDA
      cmocka_unit_test(cudnn_has_engines_for_them_on_an_h200),
#endif
  };
  return cmocka_run_group_tests_name("attention graph", tests, NULL, NULL);
}

/* Benchmarks of embeddings, products, norms, activations and moved rows. In the formulas w is the width of a
 * stored element, N the tokens of the batch, H the hidden size, F the width of the MLP. */
#include <string.h>

#include "bench_kernels.h"
#include "models/reduce.h"

/* Tokens of the batch; their number alone, for kernels that know no sequences. */
static int tokens_of(BenchInputs *in, const BenchShape *shape) {
  return bench_sequences(in, shape->sequences, shape->shortest, shape->longest, NULL).tokens;
}

static int distinct(Arena *arena, const int32_t *values, int count, int below) {
  char *seen = NEW(arena, char, below);
  int found = 0;
  for (int i = 0; i < count; i++) {
    found += !seen[values[i]];
    seen[values[i]] = 1;
  }
  return found;
}

/* Tables: each row that occurs is read once. 2 w N H with them, and the indices. */
static void make_embedding(BenchInputs *in, const BenchShape *shape, BenchCall *call) {
  int rows = tokens_of(in, shape), H = shape->hidden, V = shape->vocab, P = shape->max_positions;
  int32_t *tokens, *positions;
  call->op = BENCH_OP(in, Embedding, .tokens = bench_integers(in, rows, 0, V - 1, &tokens),
                      .positions = bench_integers(in, rows, 0, shape->longest - 1, &positions), .rows = rows,
                      .hidden = H, .vocab = V, .max_positions = P,
                      .token_table = bench_numbers(in, (size_t)V * H, WEIGHT),
                      .position_table = bench_numbers(in, (size_t)P * H, WEIGHT),
                      .out = bench_output(in, (size_t)rows * H * dtype_bytes(in->backend->storage)));
  double read = distinct(in->arena, tokens, rows, V) + distinct(in->arena, positions, rows, P);
  call->bytes = width_of(in) * H * (rows + read) + 8.0 * rows;
  call->size = arena_print(in->arena, "%d x %d, V %d", rows, H, V);
}

/* dout is read; the gradients of rows that occur are read and written. */
static void make_embedding_backward(BenchInputs *in, const BenchShape *shape, BenchCall *call) {
  int rows = tokens_of(in, shape), H = shape->hidden, V = shape->vocab, P = shape->max_positions;
  int32_t *tokens, *positions;
  call->op = BENCH_OP(in, EmbeddingBackward, .tokens = bench_integers(in, rows, 0, V - 1, &tokens),
                      .positions = bench_integers(in, rows, 0, shape->longest - 1, &positions), .rows = rows,
                      .hidden = H, .vocab = V, .max_positions = P,
                      .dout = bench_numbers(in, (size_t)rows * H, ACTIVATION),
                      .dtoken_table = bench_numbers(in, (size_t)V * H, WEIGHT),
                      .dposition_table = bench_numbers(in, (size_t)P * H, WEIGHT));
  double touched = distinct(in->arena, tokens, rows, V) + distinct(in->arena, positions, rows, P);
  call->bytes = width_of(in) * H * (rows + 2 * touched) + 8.0 * rows;
  call->size = arena_print(in->arena, "%d x %d, V %d", rows, H, V);
}

/* The MLP's first product. 2 N in out operations. */
static void make_linear(BenchInputs *in, const BenchShape *shape, BenchCall *call) {
  int rows = tokens_of(in, shape), H = shape->hidden, F = shape->mlp;
  call->op = BENCH_OP(in, Linear, .x = bench_numbers(in, (size_t)rows * H, ACTIVATION),
                      .weight = bench_numbers(in, (size_t)F * H, WEIGHT),
                      .bias = bench_numbers(in, (size_t)F, WEIGHT),
                      .y = bench_output(in, (size_t)rows * F * dtype_bytes(in->backend->storage)),
                      .rows = rows, .in = H, .out = F);
  call->operations = 2.0 * rows * H * F;
  call->bytes = width_of(in) * ((double)rows * H + (double)F * H + F + (double)rows * F);
  call->size = arena_print(in->arena, "%d x %d -> %d", rows, H, F);
}

/* A matrix of another weight type, from numbers of the host. */
static void *reduced_weights(BenchInputs *in, WeightType type, int rows, int columns) {
  enum { STOCK = 4096 };
  void *to = bench_output(in, (size_t)rows * weight_row_bytes(type, in->backend->storage, columns));
  float *values = NEW(in->arena, float, (size_t)columns), stock[STOCK];
  for (uint32_t i = 0; i < STOCK; i++)
    stock[i] = 0.02f * (float)random_normal((RandomKey){.seed = 2023, .use = RANDOM_TEST}, i, 2);
  for (int r = 0; r < rows && to; r++) {
    for (int c = 0; c < columns; c++) values[c] = stock[(r * 31 + c) % STOCK];
    char *row = (char *)to + (size_t)r * weight_row_bytes(type, in->backend->storage, columns);
    if (!reduce_matrix(in->backend, row, type, values, F32, 1, columns)) return NULL;
  }
  return to;
}

/* As linear, the weights in fewer bytes. */
static void make_linear_of(BenchInputs *in, const BenchShape *shape, BenchCall *call, WeightType type) {
  int rows = tokens_of(in, shape), H = shape->hidden, F = shape->mlp;
  call->op = BENCH_OP(in, Linear, .x = bench_numbers(in, (size_t)rows * H, ACTIVATION),
                      .weight = reduced_weights(in, type, F, H), .weight_type = type,
                      .bias = bench_numbers(in, (size_t)F, WEIGHT),
                      .y = bench_output(in, (size_t)rows * F * dtype_bytes(in->backend->storage)),
                      .rows = rows, .in = H, .out = F);
  call->operations = 2.0 * rows * H * F;
  call->bytes = width_of(in) * ((double)rows * H + F + (double)rows * F) +
                (double)F * (double)weight_row_bytes(type, in->backend->storage, H);
  call->size = arena_print(in->arena, "%d x %d -> %d", rows, H, F);
}

static void make_linear_bf16(BenchInputs *in, const BenchShape *shape, BenchCall *call) {
  make_linear_of(in, shape, call, WEIGHT_BF16);
}

static void make_linear_int8(BenchInputs *in, const BenchShape *shape, BenchCall *call) {
  make_linear_of(in, shape, call, WEIGHT_INT8);
}

/* 4 N in out operations; x, weight and dy are read, dx written, dweight and dbias read and written. */
static void make_linear_backward(BenchInputs *in, const BenchShape *shape, BenchCall *call) {
  int rows = tokens_of(in, shape), H = shape->hidden, F = shape->mlp;
  call->op = BENCH_OP(in, LinearBackward, .x = bench_numbers(in, (size_t)rows * H, ACTIVATION),
                      .weight = bench_numbers(in, (size_t)F * H, WEIGHT),
                      .dy = bench_numbers(in, (size_t)rows * F, WEIGHT),
                      .dx = bench_output(in, (size_t)rows * H * dtype_bytes(in->backend->storage)),
                      .dweight = bench_numbers(in, (size_t)F * H, WEIGHT),
                      .dbias = bench_numbers(in, (size_t)F, WEIGHT), .rows = rows, .in = H, .out = F);
  call->operations = 4.0 * rows * H * F;
  call->bytes = width_of(in) * (2.0 * rows * H + 3.0 * F * H + 2.0 * F + (double)rows * F);
  call->size = arena_print(in->arena, "%d x %d -> %d", rows, H, F);
}

static float *statistics(BenchInputs *in, int rows) { return bench_output(in, (size_t)rows * sizeof(float)); }

/* As inside the decoder: x and the residual are read, their sum and y written; 4 w N H. */
static void make_norm(BenchInputs *in, const BenchShape *shape, BenchCall *call) {
  int rows = tokens_of(in, shape), H = shape->hidden;
  bool layer = shape->norm == NORM_LAYER;
  size_t bytes = (size_t)rows * H * dtype_bytes(in->backend->storage);
  call->op =
      BENCH_OP(in, Norm, .kind = shape->norm, .x = bench_numbers(in, (size_t)rows * H, ACTIVATION),
               .residual = bench_numbers(in, (size_t)rows * H, ACTIVATION), .sum = bench_output(in, bytes),
               .y = bench_output(in, bytes), .mean = layer ? statistics(in, rows) : NULL,
               .rstd = statistics(in, rows), .gain = bench_numbers(in, (size_t)H, ACTIVATION),
               .bias = layer ? bench_numbers(in, (size_t)H, WEIGHT) : NULL, .rows = rows, .hidden = H,
               .epsilon = 1e-5f);
  call->bytes = width_of(in) * (4.0 * rows * H + (layer ? 2.0 : 1.0) * H) + (layer ? 8.0 : 4.0) * rows;
  call->size = arena_print(in->arena, "%s %d x %d", layer ? "layer" : "rms", rows, H);
}

/* sum, dy and dresidual are read, dx is written; 4 w N H. */
static void make_norm_backward(BenchInputs *in, const BenchShape *shape, BenchCall *call) {
  int rows = tokens_of(in, shape), H = shape->hidden;
  bool layer = shape->norm == NORM_LAYER;
  size_t count = (size_t)rows * H;
  call->op = BENCH_OP(
      in, NormBackward, .kind = shape->norm, .sum = bench_numbers(in, count, ACTIVATION),
      .dy = bench_numbers(in, count, WEIGHT), .dresidual = bench_numbers(in, count, WEIGHT),
      .mean = layer ? bench_floats(in, (size_t)rows, WEIGHT) : NULL,
      .rstd = bench_floats(in, (size_t)rows, ACTIVATION), .gain = bench_numbers(in, (size_t)H, ACTIVATION),
      .dx = bench_output(in, count * dtype_bytes(in->backend->storage)),
      .dgain = bench_numbers(in, (size_t)H, WEIGHT),
      .dbias = layer ? bench_numbers(in, (size_t)H, WEIGHT) : NULL, .rows = rows, .hidden = H);
  call->bytes = width_of(in) * (4.0 * rows * H + (layer ? 5.0 : 3.0) * H) + (layer ? 8.0 : 4.0) * rows;
  call->size = arena_print(in->arena, "%s %d x %d", layer ? "layer" : "rms", rows, H);
}

static int input_widths(const BenchShape *shape) { return shape->activation == ACTIVATION_SWIGLU ? 2 : 1; }

static const char *activation_size(BenchInputs *in, const BenchShape *shape, int rows) {
  return arena_print(in->arena, "%s %d x %d", shape->activation == ACTIVATION_SWIGLU ? "swiglu" : "gelu",
                     rows, shape->mlp);
}

/* GELU reads 1 and writes 1, SwiGLU reads 2 and writes 1 of w N F. */
static void make_activation(BenchInputs *in, const BenchShape *shape, BenchCall *call) {
  int rows = tokens_of(in, shape), widths = input_widths(shape);
  size_t count = (size_t)rows * shape->mlp;
  call->op = BENCH_OP(
      in, Activation, .kind = shape->activation, .x = bench_numbers(in, count * widths, ACTIVATION),
      .y = bench_output(in, count * dtype_bytes(in->backend->storage)), .rows = rows, .width = shape->mlp);
  call->bytes = width_of(in) * (double)count * (widths + 1);
  call->size = activation_size(in, shape, rows);
}

/* x and dy are read, dx is written: 3 (GELU) or 5 (SwiGLU) of w N F. */
static void make_activation_backward(BenchInputs *in, const BenchShape *shape, BenchCall *call) {
  int rows = tokens_of(in, shape), widths = input_widths(shape);
  size_t count = (size_t)rows * shape->mlp;
  call->op =
      BENCH_OP(in, ActivationBackward, .kind = shape->activation,
               .x = bench_numbers(in, count * widths, ACTIVATION), .dy = bench_numbers(in, count, WEIGHT),
               .dx = bench_output(in, count * widths * dtype_bytes(in->backend->storage)), .rows = rows,
               .width = shape->mlp);
  call->bytes = width_of(in) * (double)count * (2 * widths + 1);
  call->size = activation_size(in, shape, rows);
}

/* One read, one written: 2 w N H. */
static void make_dropout(BenchInputs *in, const BenchShape *shape, BenchCall *call) {
  int rows = tokens_of(in, shape), H = shape->hidden;
  size_t count = (size_t)rows * H;
  call->op = BENCH_OP(in, Dropout, .x = bench_numbers(in, count, ACTIVATION),
                      .y = bench_output(in, count * dtype_bytes(in->backend->storage)),
                      .id = bench_steps(in, rows, 0, 1), .key = {.seed = 1, .use = RANDOM_TEST}, .rate = 0.1f,
                      .rows = rows, .cols = H);
  call->bytes = width_of(in) * 2.0 * (double)count + 4.0 * rows;
  call->size = arena_print(in->arena, "%d x %d", rows, H);
}

/* The rows that have a loss, spread evenly over the batch. */
static int32_t *loss_index(BenchInputs *in, const BenchShape *shape, int *count, int *all) {
  *all = tokens_of(in, shape);
  *count = loss_rows(shape) < *all ? loss_rows(shape) : *all;
  return bench_steps(in, *count, 0, *all / (*count ? *count : 1));
}

/* Two rows are read and one is written; 3 w rows H. */
static void make_gather_rows(BenchInputs *in, const BenchShape *shape, BenchCall *call) {
  int rows, all, H = shape->hidden;
  int32_t *index = loss_index(in, shape, &rows, &all);
  call->op = BENCH_OP(in, GatherRows, .src = bench_numbers(in, (size_t)all * H, ACTIVATION),
                      .addend = bench_numbers(in, (size_t)all * H, ACTIVATION), .index = index,
                      .dst = bench_output(in, (size_t)rows * H * dtype_bytes(in->backend->storage)),
                      .rows = rows, .cols = H);
  call->bytes = width_of(in) * 3.0 * rows * H + 4.0 * rows;
  call->size = arena_print(in->arena, "%d of %d x %d", rows, all, H);
}

/* The given rows are read, all of the target is written. */
static void make_scatter_rows(BenchInputs *in, const BenchShape *shape, BenchCall *call) {
  int rows, all, H = shape->hidden;
  int32_t *index = loss_index(in, shape, &rows, &all);
  call->op = BENCH_OP(in, ScatterRows, .src = bench_numbers(in, (size_t)rows * H, ACTIVATION), .index = index,
                      .dst = bench_output(in, (size_t)all * H * dtype_bytes(in->backend->storage)),
                      .rows = rows, .dst_rows = all, .cols = H);
  call->bytes = width_of(in) * H * ((double)rows + all) + 4.0 * rows;
  call->size = arena_print(in->arena, "%d to %d x %d", rows, all, H);
}

typedef struct Conversion {
  void *to;
  const void *from;
  size_t count;
} Conversion;

/* bf16 to fp32, as when a model is loaded: 6 bytes an element. */
static void make_convert(BenchInputs *in, const BenchShape *shape, BenchCall *call) {
  size_t count = (size_t)tokens_of(in, shape) * shape->hidden;
  float *numbers = bench_floats(in, count, ACTIVATION);
  void *from = bench_output(in, count * dtype_bytes(BF16));
  if (numbers && from) in->backend->convert(in->backend, from, BF16, numbers, F32, count);
  call->op = BENCH_OP(in, Conversion, .to = numbers, .from = from, .count = count);
  call->bytes = 6.0 * (double)count;
  call->size = arena_print(in->arena, "%zu bf16 -> fp32", count);
}

static void run_convert(Backend *backend, const void *op) {
  const Conversion *c = op;
  backend->convert(backend, c->to, F32, c->from, BF16, c->count);
}

BENCH_RUN(embedding)
BENCH_RUN(embedding_backward)
BENCH_RUN(linear)
BENCH_RUN(linear_backward)
BENCH_RUN(norm)
BENCH_RUN(norm_backward)
BENCH_RUN(activation)
BENCH_RUN(activation_backward)
BENCH_RUN(dropout)
BENCH_RUN(gather_rows)
BENCH_RUN(scatter_rows)

enum { SETS = SET_RLHF | SET_LARGE | SET_TINY };

static const BenchKernel rows[] = {
    {"embedding", SETS, "token and position tables to rows", make_embedding, run_embedding, NULL, NULL},
    {"embedding_backward", SETS, "its gradient, accumulated", make_embedding_backward, run_embedding_backward,
     NULL, NULL},
    {"linear", SETS, "x Wt + bias, the MLP's first product", make_linear, run_linear, NULL, NULL},
    {"linear_bf16", SETS, "the same, frozen weights in bf16", make_linear_bf16, run_linear, NULL, NULL},
    {"linear_int8", SETS, "the same, frozen weights in int8", make_linear_int8, run_linear, NULL, NULL},
    {"linear_backward", SETS, "its three gradients", make_linear_backward, run_linear_backward, NULL, NULL},
    {"norm", SETS, "x + residual, then layer or RMS norm", make_norm, run_norm, NULL, NULL},
    {"norm_backward", SETS, "its gradients", make_norm_backward, run_norm_backward, NULL, NULL},
    {"activation", SETS, "GELU or SwiGLU", make_activation, run_activation, NULL, NULL},
    {"activation_backward", SETS, "its gradient", make_activation_backward, run_activation_backward, NULL,
     NULL},
    {"dropout", SETS, "a tenth of an adapter's input set to 0", make_dropout, run_dropout, NULL, NULL},
    {"gather_rows", SETS, "the rows that have a loss", make_gather_rows, run_gather_rows, NULL, NULL},
    {"scatter_rows", SETS, "their gradient to its places, zeros elsewhere", make_scatter_rows,
     run_scatter_rows, NULL, NULL},
    {"convert", SETS, "bf16 to fp32", make_convert, run_convert, NULL, NULL},
};

const BenchKernels bench_dense_kernels = BENCH_ROWS(rows);

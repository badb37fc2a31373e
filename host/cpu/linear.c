/* y = scale x Wt + bias and its gradients.
 *
 * The forward product has a kernel of its own. Rows of x are packed, transposed, into panels with one
 * row a vector lane; weights are read where they lie and broadcast. So an element of y is one chain of
 * fused multiply-adds over k in blocks of DEPTH, the same whatever the tile, the thread or the number
 * of rows: a row's result does not depend on the rows beside it, which a BLAS does not promise (OpenBLAS
 * picks other kernels for small products) and reproducible sampling needs. It is also faster than a BLAS
 * at the few rows of a decode step, since the weights need no packing.
 *
 * Weights that are not fp32 are widened for the few outputs that are computed next, in the first-level cache.
 *
 * The gradients are OpenBLAS products over tiles of fixed size.
 */
#include <cblas.h>

#include "cpu/weights.h"

/* LANES: floats in a vector register. A block is p vectors of rows times q outputs, whose sums stay in
 * registers; q divides LANES. */
#if defined __AVX512F__
enum { LANES = 16, OUTS_1 = 16, OUTS_2 = 8, OUTS_3 = 8 };
#elif defined __AVX__
enum { LANES = 8, OUTS_1 = 8, OUTS_2 = 4, OUTS_3 = 4 };
#else
enum { LANES = 4, OUTS_1 = 4, OUTS_2 = 4, OUTS_3 = 4 };
#endif
typedef float Lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t LaneIndex __attribute__((vector_size(4 * LANES)));
typedef float UnalignedLanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

enum {
  PANEL = 3,          /* most vectors of rows in a panel */
  DEPTH = 512,        /* of a packed panel: PANEL * LANES * DEPTH floats fit the second-level cache */
  COLUMN_BLOCK = 256, /* outputs a task */
  FEW_PANELS = 8,     /* with fewer row panels, tasks take SMALL_BLOCK outputs, so that there are enough */
  SMALL_BLOCK = 128
};

/* Transposes LANES x LANES floats: in step s, blocks of s x s change places across the diagonal. */
static inline __attribute__((always_inline)) void transpose(Lanes *rows) {
#pragma GCC unroll 4
  for (int s = 1; s < LANES; s *= 2) {
    LaneIndex low, high; /* lane l of the first operand is l, of the second LANES + l */
#pragma GCC unroll 16
    for (int l = 0; l < LANES; l++) {
      low[l] = l & s ? LANES + l - s : l;
      high[l] = l & s ? LANES + l : l + s;
    }
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) {
      if (i & s) continue;
      Lanes a = rows[i], b = rows[i + s];
      rows[i] = __builtin_shuffle(a, b, low);
      rows[i + s] = __builtin_shuffle(a, b, high);
    }
  }
}

/* panel[k][lane] = x[lane][k] for LANES rows; missing rows are 0. lanes: the panel's row length */
static void pack_lanes(float *panel, int lanes, const float *x, int rows, int stride, int depth) {
  int k = 0;
  for (; k + LANES <= depth; k += LANES) {
    Lanes block[LANES];
    for (int r = 0; r < LANES; r++)
      block[r] = r < rows ? (Lanes) * (const UnalignedLanes *)(x + (size_t)r * stride + k) : (Lanes){0};
    transpose(block);
    for (int i = 0; i < LANES; i++) *(Lanes *)(panel + (k + i) * lanes) = block[i];
  }
  for (; k < depth; k++)
    for (int r = 0; r < LANES; r++) panel[k * lanes + r] = r < rows ? x[(size_t)r * stride + k] : 0;
}

static inline __attribute__((always_inline)) void multiply_block(const int p, const int q, const float *panel,
                                                                 const float *const *weight, int depth,
                                                                 Lanes *tile) {
  Lanes sum[PANEL * LANES];
  for (int i = 0; i < p * q; i++) sum[i] = (Lanes){0};
  for (int k = 0; k < depth; k++) {
    Lanes x[PANEL];
    for (int i = 0; i < p; i++) x[i] = *(const Lanes *)(panel + (k * p + i) * LANES);
#pragma GCC unroll 16
    for (int j = 0; j < q; j++) {
      float w = weight[j][k];
#pragma GCC unroll 3
      for (int i = 0; i < p; i++) sum[i * q + j] += x[i] * w;
    }
  }
  for (int i = 0; i < p; i++)
    for (int j = 0; j < q; j++) tile[i * LANES + j] = sum[i * q + j];
}

typedef struct Target {
  const Linear *op;
  int first_row, rows; /* at most p * LANES */
  int first_out, end_out;
} Target;

/* y (+)= tile[out][row] for at most LANES rows and outputs, with the bias at the first block of k */
static inline void store_lanes(const Linear *op, Lanes *tile, int first_row, int rows, int first_out,
                               int outs, bool first_depth) {
  const float *bias = op->bias && first_depth ? (const float *)op->bias + first_out : NULL;
  float *y = (float *)op->y + (size_t)first_row * op->y_stride + first_out;
  bool add = op->accumulate || !first_depth;
  transpose(tile);
  for (int r = 0; r < rows && outs == LANES; r++, y += op->y_stride) {
    Lanes value = tile[r] * op->scale;
    if (bias) value += *(const UnalignedLanes *)bias;
    if (add) value += *(const UnalignedLanes *)y;
    *(UnalignedLanes *)y = value;
  }
  for (int r = 0; r < rows && outs < LANES; r++, y += op->y_stride)
    for (int j = 0; j < outs; j++) {
      float value = tile[r][j] * op->scale + (bias ? bias[j] : 0);
      y[j] = add ? y[j] + value : value;
    }
}

/* Where the weights of q outputs from `first` on stand as fp32, from input `start` on. Outputs from end on
 * are the last one again. */
static inline __attribute__((always_inline)) void find_weights(const int q, const Linear *op, int first,
                                                               int end, int start, int depth, float *wide,
                                                               const float **out) {
  for (int j = 0; j < q; j++) {
    size_t row = (size_t)(first + j < end ? first + j : end - 1);
    if (op->weight_type == WEIGHT_NATIVE) {
      out[j] = (const float *)op->weight + row * (size_t)op->in + start;
    } else if (j > 0 && first + j >= end) {
      out[j] = out[j - 1];
    } else {
      out[j] = wide + j * DEPTH;
      widen_row(weight_row(op->weight, op->weight_type, op->in, row), op->weight_type, start, depth,
                wide + j * DEPTH);
    }
  }
}

static inline __attribute__((always_inline)) void multiply_panel(const int p, const int q,
                                                                 const Target *target) {
  const Linear *op = target->op;
  _Alignas(64) float panel[DEPTH * PANEL * LANES], wide[LANES * DEPTH];
  Lanes tile[PANEL * LANES] = {0};
  const float *x = (const float *)op->x + (size_t)target->first_row * op->in;
  for (int start = 0; start < op->in; start += DEPTH) {
    int depth = op->in - start < DEPTH ? op->in - start : DEPTH;
    for (int i = 0; i < p; i++)
      pack_lanes(panel + i * LANES, p * LANES, x + (size_t)i * LANES * op->in + start,
                 target->rows - i * LANES, op->in, depth);
    for (int first = target->first_out; first < target->end_out; first += LANES) {
      int count = target->end_out - first < LANES ? target->end_out - first : LANES;
      for (int part = 0; part < count; part += q) {
        const float *row[LANES];
        find_weights(q, op, first + part, first + count, start, depth, wide, row);
        multiply_block(p, q, panel, row, depth, tile + part);
      }
      for (int i = 0; i < p; i++) {
        int rows = target->rows - i * LANES < LANES ? target->rows - i * LANES : LANES;
        store_lanes(op, tile + i * LANES, target->first_row + i * LANES, rows, first, count, start == 0);
      }
    }
  }
}

static __attribute__((noinline)) void multiply_1(const Target *target) { multiply_panel(1, OUTS_1, target); }
static __attribute__((noinline)) void multiply_2(const Target *target) { multiply_panel(2, OUTS_2, target); }
static __attribute__((noinline)) void multiply_3(const Target *target) { multiply_panel(3, OUTS_3, target); }

/* y for no inputs: the bias alone */
static void linear_of_nothing(const Linear *op) {
  float *y = op->y;
  const float *bias = op->bias;
  for (int r = 0; r < op->rows; r++, y += op->y_stride)
    for (int o = 0; o < op->out; o++) y[o] = (op->accumulate ? y[o] : 0) + (bias ? bias[o] : 0);
}

void cpu_linear(Backend *backend, const Linear *given) {
  (void)backend;
  Linear filled = *given, *op = &filled;
  if (op->y_stride == 0) op->y_stride = op->out;
  if (op->scale == 0) op->scale = 1;
  static void (*const multiply[])(const Target *) = {multiply_1, multiply_2, multiply_3};
  if (op->in == 0) {
    linear_of_nothing(op);
    return;
  }
  const int panel_rows = PANEL * LANES;
  int panels = (op->rows + panel_rows - 1) / panel_rows;
  int block = panels < FEW_PANELS ? SMALL_BLOCK : COLUMN_BLOCK, blocks = (op->out + block - 1) / block;
#pragma omp parallel for collapse(2) \
    schedule(dynamic) if ((size_t)op->rows * op->in * op->out / 16 >= PARALLEL_FROM)
  for (int b = 0; b < blocks; b++)
    for (int i = 0; i < panels; i++) {
      int rows = op->rows - i * panel_rows < panel_rows ? op->rows - i * panel_rows : panel_rows;
      int end = (b + 1) * block < op->out ? (b + 1) * block : op->out;
      Target target = {op, i * panel_rows, rows, b * block, end};
      multiply[(rows - 1) / LANES](&target);
    }
}

/* Tiles of the gradients. */
enum {
  DX_ROWS = 256,
  DX_COLUMNS = 384,
  DW_OUTS = 256,
  DW_INS = 384,
  FEW_TILES = 6, /* a weight of fewer tiles has its rows cut into slabs, summed in order */
  SLAB_ROWS = 512,
  MAX_SLABS = 8,
  BIAS_COLUMNS = 64,
  BIAS_ROWS = 128 /* partial sums over so many rows keep the rounding error small */
};

static int least(int a, int b) { return a < b ? a : b; }
static int parts(int size, int part) { return (size + part - 1) / part; }

/* How many slabs the rows of a weight's gradient are cut into. */
static int slabs_of(int rows, int in, int out) {
  return parts(out, DW_OUTS) * parts(in, DW_INS) < FEW_TILES ? least(parts(rows, SLAB_ROWS), MAX_SLABS) : 1;
}

size_t cpu_linear_backward_scratch(int rows, int in, int out, WeightType type, bool dx, bool dweight) {
  size_t wide = dx ? cpu_threads() * weight_tile_scratch(type, out, least(DX_COLUMNS, in)) : 0;
  size_t partial = dweight && rows > 0 ? (size_t)(slabs_of(rows, in, out) - 1) * (size_t)out * (size_t)in : 0;
  return (wide > partial ? wide : partial) * sizeof(float);
}

static void gradient_of_input(Backend *backend, const LinearBackward *op) {
  float *dx = op->dx;
  int row_tiles = parts(op->rows, DX_ROWS), column_tiles = parts(op->in, DX_COLUMNS);
  size_t scratch = weight_tile_scratch(op->weight_type, op->out, least(DX_COLUMNS, op->in));
  float *wide = scratch ? cpu_workspace(backend, cpu_linear_backward_scratch(op->rows, op->in, op->out,
                                                                             op->weight_type, true, false))
                        : NULL;
#pragma omp parallel for collapse(2) \
    schedule(dynamic) if ((size_t)op->rows * op->in * op->out / 16 >= PARALLEL_FROM)
  for (int i = 0; i < row_tiles; i++)
    for (int j = 0; j < column_tiles; j++) {
      int r = i * DX_ROWS, c = j * DX_COLUMNS;
      WeightTile tile = {.a = (const float *)op->dy + (size_t)r * op->dy_stride,
                         .a_stride = op->dy_stride,
                         .weight = op->weight,
                         .type = op->weight_type,
                         .outs = op->out,
                         .in = op->in,
                         .first = c,
                         .rows = least(DX_ROWS, op->rows - r),
                         .columns = least(DX_COLUMNS, op->in - c),
                         .scale = op->scale,
                         .accumulate = op->accumulate,
                         .into = dx + (size_t)r * op->in + c,
                         .into_stride = op->in};
      multiply_weight_tile(&tile, wide ? wide + cpu_thread() * scratch : NULL);
    }
}

/* into[out, in] = beta into + dyt x over rows first .. end-1, one tile */
static void weight_tile(const LinearBackward *op, float *into, float beta, int first, int end, int out_tile,
                        int in_tile) {
  const float *dy = (const float *)op->dy + (size_t)first * op->dy_stride;
  const float *x = (const float *)op->x + (size_t)first * op->in;
  int o = out_tile * DW_OUTS, c = in_tile * DW_INS;
  cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, least(DW_OUTS, op->out - o), least(DW_INS, op->in - c),
              end - first, op->scale, dy + o, op->dy_stride, x + c, op->in, beta,
              into + (size_t)o * op->in + c, op->in);
}

static void gradient_of_weight(Backend *backend, const LinearBackward *op) {
  int out_tiles = parts(op->out, DW_OUTS), in_tiles = parts(op->in, DW_INS);
  int slabs = slabs_of(op->rows, op->in, op->out);
  int slab_rows = parts(op->rows, slabs);
  size_t size = (size_t)op->out * op->in;
  float *dweight = op->dweight;
  /* Slab 0 adds to the gradient itself, the others stand beside it until they are added in order. */
  float *partial = slabs > 1
                       ? cpu_workspace(backend, cpu_linear_backward_scratch(op->rows, op->in, op->out,
                                                                            op->weight_type, false, true))
                       : NULL;
  bool parallel = (size_t)op->rows * size / 16 >= PARALLEL_FROM;
#pragma omp parallel for collapse(3) schedule(dynamic) if (parallel)
  for (int s = 0; s < slabs; s++)
    for (int i = 0; i < out_tiles; i++)
      for (int j = 0; j < in_tiles; j++)
        weight_tile(op, s ? partial + (size_t)(s - 1) * size : dweight, s ? 0 : 1, s * slab_rows,
                    least((s + 1) * slab_rows, op->rows), i, j);
#pragma omp parallel for simd if (parallel)
  for (size_t e = 0; e < size; e++)
    for (int s = 1; s < slabs; s++) dweight[e] += partial[(size_t)(s - 1) * size + e];
}

static void gradient_of_bias(const LinearBackward *op) {
  const float *dy = op->dy;
  float *dbias = op->dbias;
#pragma omp parallel for if ((size_t)op->rows * op->out >= PARALLEL_FROM)
  for (int c = 0; c < op->out; c += BIAS_COLUMNS) {
    int width = least(BIAS_COLUMNS, op->out - c);
    for (int first = 0; first < op->rows; first += BIAS_ROWS) {
      float sum[BIAS_COLUMNS] = {0};
      int end = least(first + BIAS_ROWS, op->rows);
      for (int r = first; r < end; r++)
        for (int j = 0; j < width; j++) sum[j] += dy[(size_t)r * op->dy_stride + c + j];
      for (int j = 0; j < width; j++) dbias[c + j] += sum[j];
    }
  }
}

void cpu_linear_backward(Backend *backend, const LinearBackward *given) {
  LinearBackward filled = *given, *op = &filled;
  if (op->dy_stride == 0) op->dy_stride = op->out;
  if (op->scale == 0) op->scale = 1;
  if (op->rows == 0) return;
  if (op->dbias) gradient_of_bias(op);
  if (op->in == 0 || op->out == 0) { /* no products; a sum over no outputs is 0 */
    if (op->dx && !op->accumulate) backend->zero(backend, op->dx, (size_t)op->rows * op->in * sizeof(float));
    return;
  }
  if (op->dx) gradient_of_input(backend, op);
  if (op->dweight) gradient_of_weight(backend, op);
}

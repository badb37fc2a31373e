/* Heads of one output: the value head, the reward head, and the reward head fused with its pairwise
 * loss. Sums over rows are taken in row order in double precision, one task a block of columns. */
#include <math.h>

#include "cpu/cpu.h"
#include "cpu/simd.h"

enum { COLS = 64 }; /* columns of one task */

static size_t row_of(const int32_t *row, int i) { return (size_t)(row ? row[i] : i); }

static void head_forward(const float *hidden, const int32_t *row, const float *weight, const float *bias,
                         int rows, int size, float *out) {
#pragma omp parallel for if ((size_t)rows * size >= PARALLEL_FROM)
  for (int i = 0; i < rows; i++) out[i] = simd_dot(hidden + row_of(row, i) * size, weight, size) + bias[0];
}

/* dhidden (+)= dout wt, dweight += doutt hidden, dbias += sum dout */
static void head_backward(const ScalarHeadBackward *a) {
  int size = a->hidden_size, rows = a->rows;
  const float *hidden = a->hidden, *weight = a->weight;
  float *dhidden = a->dhidden, *dweight = a->dweight;
#pragma omp parallel for if ((size_t)rows * size >= PARALLEL_FROM)
  for (int from = 0; from < size; from += COLS) {
    int cols = size - from < COLS ? size - from : COLS;
    double sum[COLS] = {0};
    for (int i = 0; i < rows; i++) {
      size_t at = row_of(a->row, i) * size + from;
      float d = a->dout[i];
      for (int c = 0; c < cols; c++) sum[c] += (double)d * hidden[at + c];
      if (dhidden && a->accumulate)
        for (int c = 0; c < cols; c++) dhidden[at + c] += d * weight[from + c];
      else if (dhidden)
        for (int c = 0; c < cols; c++) dhidden[at + c] = d * weight[from + c];
    }
    if (dweight)
      for (int c = 0; c < cols; c++) dweight[from + c] += (float)sum[c];
  }
  double total = 0;
  for (int i = 0; i < rows; i++) total += a->dout[i];
  if (a->dbias) *(float *)a->dbias += (float)total;
}

void cpu_scalar_head(Backend *backend, const ScalarHead *a) {
  (void)backend;
  head_forward(a->hidden, a->row, a->weight, a->bias, a->rows, a->hidden_size, a->out);
}

void cpu_scalar_head_backward(Backend *backend, const ScalarHeadBackward *a) {
  (void)backend;
  if (a->rows) head_backward(a);
}

/* log(1 / (1 + exp(-x))) without overflow at either end */
static double log_sigmoid(double x) { return x < 0 ? x - log1p(exp(x)) : -log1p(exp(-x)); }

void cpu_reward_head(Backend *backend, const RewardHead *a) {
  if (a->pairs == 0) return;
  head_forward(a->hidden, a->row, a->weight, a->bias, 2 * a->pairs, a->hidden_size, a->reward);
  float *dreward = a->dhidden ? cpu_workspace(backend, (size_t)2 * a->pairs * sizeof *dreward) : NULL;
  for (int i = 0; i < a->pairs; i++) {
    double d = (double)a->reward[2 * i] - a->reward[2 * i + 1] - (a->margin ? a->margin[i] : 0);
    double smoothing = a->smoothing;
    a->loss[i] = (float)(-(1 - smoothing) * log_sigmoid(d) - smoothing * log_sigmoid(-d));
    if (!dreward) continue;
    /* dloss/dD = sigmoid(D) - (1 - smoothing) */
    double slope = smoothing - (d < 0 ? 1 / (1 + exp(d)) : exp(-d) / (1 + exp(-d)));
    dreward[2 * i] = (float)(a->scale * slope);
    dreward[2 * i + 1] = -dreward[2 * i];
  }
  if (dreward)
    head_backward(&(ScalarHeadBackward){.hidden = a->hidden,
                                        .row = a->row,
                                        .weight = a->weight,
                                        .dout = dreward,
                                        .dhidden = a->dhidden,
                                        .dweight = a->dweight,
                                        .dbias = a->dbias,
                                        .rows = 2 * a->pairs,
                                        .hidden_size = a->hidden_size});
}

/* Layer norm (Ba et al. 2016) and RMS norm (Zhang and Sennrich 2019), with the residual added first.
 *   n = (sum - mean) rstd;  y = n gain + bias;  rstd = 1 / sqrt(variance + epsilon)
 *   dn = dy gain;  dsum = rstd (dn - mean_H(dn) - n mean_H(dn n))     (RMS: without the first mean)
 *   dgain = sum over rows of dy n;  dbias = sum over rows of dy
 * Bound by memory: 8 to 16 bytes an element.
 */
#include <math.h>

#include "cpu/cpu.h"

/* In double: far from zero, a sum in fp32 would take the digits that the deviations are made of. */
static float mean_of(const float *x, int count) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int i = 0; i < count; i++) sum += (double)x[i];
  return (float)(sum / count);
}

static float sum_of_squares(const float *x, float mean, int count) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int i = 0; i < count; i++) sum += (x[i] - mean) * (x[i] - mean);
  return sum;
}

static void norm_row(const Norm *op, int r) {
  size_t at = (size_t)r * (size_t)op->hidden;
  const float *x = (const float *)op->x + at, *gain = op->gain, *bias = op->bias;
  float *y = (float *)op->y + at;
  int hidden = op->hidden;
  if (op->sum) {
    const float *residual = op->residual ? (const float *)op->residual + at : NULL;
    float *sum = (float *)op->sum + at;
    for (int i = 0; i < hidden; i++) sum[i] = residual ? x[i] + residual[i] : x[i];
    x = sum;
  }
  float mean = op->kind == NORM_LAYER ? mean_of(x, hidden) : 0;
  float rstd = 1 / sqrtf(sum_of_squares(x, mean, hidden) / (float)hidden + op->epsilon);
  if (bias)
    for (int i = 0; i < hidden; i++) y[i] = (x[i] - mean) * rstd * gain[i] + bias[i];
  else
    for (int i = 0; i < hidden; i++) y[i] = (x[i] - mean) * rstd * gain[i];
  if (op->mean) op->mean[r] = mean;
  if (op->rstd) op->rstd[r] = rstd;
}

void cpu_norm(Backend *backend, const Norm *op) {
  (void)backend;
#pragma omp parallel for schedule(static) if ((size_t)op->rows * op->hidden >= PARALLEL_FROM)
  for (int r = 0; r < op->rows; r++) norm_row(op, r);
}

enum { BLOCK_ROWS = 64 }; /* rows whose sums for dgain and dbias are taken together */

static void norm_row_backward(const NormBackward *op, int r) {
  size_t at = (size_t)r * (size_t)op->hidden;
  const float *x = (const float *)op->sum + at, *dy = (const float *)op->dy + at, *gain = op->gain;
  const float *dresidual = op->dresidual ? (const float *)op->dresidual + at : NULL;
  float *dx = (float *)op->dx + at, mean = op->mean ? op->mean[r] : 0, rstd = op->rstd[r];
  int hidden = op->hidden;
  float first = 0, second = 0;
#pragma omp simd reduction(+ : first, second)
  for (int i = 0; i < hidden; i++) {
    float dn = dy[i] * gain[i];
    first += dn;
    second += dn * (x[i] - mean) * rstd;
  }
  first = op->kind == NORM_LAYER ? first / (float)hidden : 0;
  second /= (float)hidden;
#pragma omp simd
  for (int i = 0; i < hidden; i++) {
    float gradient = rstd * (dy[i] * gain[i] - first - (x[i] - mean) * rstd * second);
    dx[i] = dresidual ? dresidual[i] + gradient : gradient;
  }
}

/* Adds the sums of rows first .. end-1 to dgain and dbias; either may be NULL. */
static void add_parameter_gradients(const NormBackward *op, int first, int end, float *restrict dgain,
                                    float *restrict dbias) {
  int hidden = op->hidden;
  for (int r = first; r < end; r++) {
    size_t at = (size_t)r * (size_t)hidden;
    const float *x = (const float *)op->sum + at, *dy = (const float *)op->dy + at;
    float mean = op->mean ? op->mean[r] : 0, rstd = op->rstd[r];
    if (dgain)
      for (int i = 0; i < hidden; i++) dgain[i] += dy[i] * (x[i] - mean) * rstd;
    if (dbias)
      for (int i = 0; i < hidden; i++) dbias[i] += dy[i];
  }
}

void cpu_norm_backward(Backend *backend, const NormBackward *op) {
  int blocks = (op->rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
  size_t hidden = (size_t)op->hidden;
  if (blocks == 0 || hidden == 0) return;
  float *dgain = op->dgain, *dbias = op->dbias; /* partial[b]: dgain, dbias of block b */
  float *partial = cpu_workspace(backend, (size_t)blocks * 2 * hidden * sizeof *partial);
#pragma omp parallel for schedule(static) if (op->rows * hidden >= PARALLEL_FROM)
  for (int b = 0; b < blocks; b++) {
    int first = b * BLOCK_ROWS, end = first + BLOCK_ROWS < op->rows ? first + BLOCK_ROWS : op->rows;
    float *sums = partial + (size_t)b * 2 * hidden;
    for (size_t i = 0; i < 2 * hidden; i++) sums[i] = 0;
    add_parameter_gradients(op, first, end, dgain ? sums : NULL, dbias ? sums + hidden : NULL);
    if (op->dx)
      for (int r = first; r < end; r++) norm_row_backward(op, r);
  }
  for (int b = 0; b < blocks; b++) {
    const float *sums = partial + (size_t)b * 2 * hidden;
    if (dgain)
      for (size_t i = 0; i < hidden; i++) dgain[i] += sums[i];
    if (dbias)
      for (size_t i = 0; i < hidden; i++) dbias[i] += sums[hidden + i];
  }
}

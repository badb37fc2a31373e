/* RMS norm of query and key heads (Henry et al. 2020; as in Qwen3).
 *   n = x rstd;  y = n gain;  rstd = 1 / sqrt(mean_d(x^2) + epsilon)
 *   dn = dy gain;  dx = rstd (dn - n mean_d(dn n));  dgain = sum over rows and heads of dy n
 * Bound by memory: 8 bytes an element forward (12 when kept), 12 backward.
 */
#include <math.h>
#include <string.h>

#include "cpu/cpu.h"
#include "cpu/simd.h"

void cpu_qk_norm(Backend *backend, const QkNorm *op) {
  (void)backend;
  int normed = op->heads + op->kv_heads, dim = op->head_dim;
  size_t width = (size_t)normed * (size_t)dim, stride = width + (size_t)op->kv_heads * (size_t)dim;
#pragma omp parallel for schedule(static) if (op->rows * width >= PARALLEL_FROM)
  for (int r = 0; r < op->rows; r++) {
    float *row = (float *)op->qkv + (size_t)r * stride;
    if (op->kept) memcpy((float *)op->kept + (size_t)r * width, row, width * sizeof *row);
    for (int h = 0; h < normed; h++) {
      float *x = row + (size_t)h * (size_t)dim;
      const float *gain = h < op->heads ? op->q_gain : op->k_gain;
      float rstd = 1 / sqrtf(simd_dot(x, x, dim) / (float)dim + op->epsilon);
#pragma omp simd
      for (int i = 0; i < dim; i++) x[i] = x[i] * rstd * gain[i];
      if (op->rstd) op->rstd[(size_t)r * (size_t)normed + (size_t)h] = rstd;
    }
  }
}

enum { BLOCK_ROWS = 64 }; /* rows whose sums for the gains are taken together */

/* dy to dx in place; adds dy n to dgain. */
static void head_backward(float *dy, const float *x, float rstd, const float *gain, float *restrict dgain,
                          int dim) {
  float dot = 0; /* of dn and n */
#pragma omp simd reduction(+ : dot)
  for (int i = 0; i < dim; i++) dot += dy[i] * gain[i] * x[i] * rstd;
  float mean = dot / (float)dim;
#pragma omp simd
  for (int i = 0; i < dim; i++) {
    float n = x[i] * rstd;
    dgain[i] += dy[i] * n;
    dy[i] = rstd * (dy[i] * gain[i] - n * mean);
  }
}

static void row_backward(const QkNormBackward *op, int r, float *sums) {
  int normed = op->heads + op->kv_heads, dim = op->head_dim;
  size_t width = (size_t)normed * (size_t)dim, stride = width + (size_t)op->kv_heads * (size_t)dim;
  for (int h = 0; h < normed; h++) {
    bool query = h < op->heads;
    size_t at = (size_t)h * (size_t)dim;
    head_backward((float *)op->dqkv + (size_t)r * stride + at,
                  (const float *)op->kept + (size_t)r * width + at,
                  op->rstd[(size_t)r * (size_t)normed + (size_t)h], query ? op->q_gain : op->k_gain,
                  query ? sums : sums + dim, dim);
  }
}

void cpu_qk_norm_backward(Backend *backend, const QkNormBackward *op) {
  int blocks = (op->rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
  size_t dim = (size_t)op->head_dim;
  if (blocks == 0 || dim == 0) return;
  float *partial = cpu_workspace(backend, (size_t)blocks * 2 * dim * sizeof *partial); /* dq_gain, dk_gain */
  size_t work = (size_t)op->rows * (size_t)(op->heads + op->kv_heads) * dim;
#pragma omp parallel for schedule(static) if (work >= PARALLEL_FROM)
  for (int b = 0; b < blocks; b++) {
    int first = b * BLOCK_ROWS, end = first + BLOCK_ROWS < op->rows ? first + BLOCK_ROWS : op->rows;
    float *sums = partial + (size_t)b * 2 * dim;
    for (size_t i = 0; i < 2 * dim; i++) sums[i] = 0;
    for (int r = first; r < end; r++) row_backward(op, r, sums);
  }
  float *dgain[2] = {op->dq_gain, op->dk_gain};
  for (int b = 0; b < blocks; b++)
    for (int k = 0; k < 2; k++)
      for (size_t i = 0; dgain[k] && i < dim; i++)
        dgain[k][i] += partial[((size_t)b * 2 + (size_t)k) * dim + i];
}

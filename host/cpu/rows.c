/* Rows gathered from and scattered to a matrix by index. */
#include <string.h>

#include "cpu/cpu.h"

void cpu_gather_rows(Backend *backend, const GatherRows *op) {
  (void)backend;
  const float *src = op->src, *addend = op->addend;
  float *dst = op->dst;
  size_t cols = (size_t)op->cols;
#pragma omp parallel for schedule(static) if (op->rows * cols >= PARALLEL_FROM)
  for (int r = 0; r < op->rows; r++) {
    size_t at = (size_t)op->index[r] * cols;
    for (size_t i = 0; i < cols; i++) dst[r * cols + i] = addend ? src[at + i] + addend[at + i] : src[at + i];
  }
}

void cpu_scatter_rows(Backend *backend, const ScatterRows *op) {
  const float *src = op->src;
  float *dst = op->dst;
  size_t cols = (size_t)op->cols;
  backend->zero(backend, dst, (size_t)op->dst_rows * cols * sizeof *dst);
  if (cols == 0) return;
#pragma omp parallel for schedule(static) if (op->rows * cols >= PARALLEL_FROM)
  for (int r = 0; r < op->rows; r++)
    memcpy(dst + (size_t)op->index[r] * cols, src + r * cols, cols * sizeof *dst);
}

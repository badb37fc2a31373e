/* norm = sqrt(sum of squares), summed in double over blocks of fixed size. Bound by memory: 4 bytes an
 * element. */
#include <math.h>

#include "cpu/cpu.h"

enum { BLOCK = 4096 };

void cpu_grad_norm(Backend *backend, const GradNorm *op) {
  const float *grad = op->grad;
  size_t blocks = (op->count + BLOCK - 1) / BLOCK;
  double *partial = cpu_workspace(backend, blocks * sizeof *partial);
#pragma omp parallel for schedule(static) if (op->count >= PARALLEL_FROM)
  for (size_t b = 0; b < blocks; b++) {
    size_t first = b * BLOCK, end = first + BLOCK < op->count ? first + BLOCK : op->count;
    double sum = 0; /* in double: the square of a large gradient would overflow */
#pragma omp simd reduction(+ : sum)
    for (size_t i = first; i < end; i++) sum += (double)grad[i] * (double)grad[i];
    partial[b] = sum;
  }
  double sum = 0;
  for (size_t b = 0; b < blocks; b++) sum += partial[b];
  for (int i = 0; i < op->other_count; i++) sum += (double)op->others[i] * (double)op->others[i];
  *op->norm = (float)sqrt(sum);
}

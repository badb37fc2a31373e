/* y (+)= x kept / (1 - rate) (Srivastava et al. 2014), the mask drawn from counters (base/dropout_mask.h).
 * Bound by the random numbers on a CPU: ten rounds of Philox for 8 elements. */
#include "base/dropout_mask.h"
#include "cpu/cpu.h"

void cpu_dropout(Backend *backend, const Dropout *op) {
  (void)backend;
  const float *x = op->x;
  float *y = op->y;
  uint32_t threshold = dropout_threshold(op->rate);
  float scale = dropout_scale(threshold);
  size_t cols = (size_t)op->cols;
#pragma omp parallel for schedule(static) if (op->rows * cols >= PARALLEL_FROM)
  for (int r = 0; r < op->rows; r++)
    for (size_t c = 0; c < cols; c += 8) {
      Random4 numbers = dropout_numbers(op->key, op->id[r], op->site, (uint32_t)(c / 8));
      for (size_t i = 0; i < 8 && c + i < cols; i++) {
        size_t at = r * cols + c + i;
        float value = dropout_keeps(&numbers, (int)i, threshold) ? x[at] * scale : 0;
        y[at] = op->accumulate ? y[at] + value : value;
      }
    }
}

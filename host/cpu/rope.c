/* Rotary position embedding (Su et al. 2021): (a, b) -> (a cos - b sin, a sin + b cos). */
#include <math.h>

#include "cpu/cpu.h"

enum {
  MAX_HALF = 256
}; /* pairs of a head that the tables on the stack hold; larger heads take more passes */

static void turn(float *head, int half, int first, int count, const float *cosine, const float *sine) {
  float *restrict a = head + first, *restrict b = head + half + first;
#pragma omp simd
  for (int i = 0; i < count; i++) {
    float x = a[i], y = b[i];
    a[i] = x * cosine[i] - y * sine[i];
    b[i] = x * sine[i] + y * cosine[i];
  }
}

void cpu_rope(Backend *backend, const Rope *op) {
  int half = op->head_dim / 2, turned = op->heads + op->kv_heads;
  size_t stride = (size_t)(op->heads + 2 * op->kv_heads) * (size_t)op->head_dim;
  if (op->rows == 0 || half == 0) return;
  float *qkv = op->qkv;
  double *frequency = cpu_workspace(backend, (size_t)half * sizeof *frequency);
  for (int i = 0; i < half; i++) frequency[i] = pow((double)op->theta, -2.0 * i / op->head_dim);
#pragma omp parallel for schedule(static) if (op->rows * stride >= PARALLEL_FROM)
  for (int r = 0; r < op->rows; r++)
    for (int first = 0; first < half; first += MAX_HALF) {
      int count = half - first < MAX_HALF ? half - first : MAX_HALF;
      float cosine[MAX_HALF], sine[MAX_HALF];
      for (int i = 0; i < count; i++) { /* in double: an angle of thousands of turns keeps its fraction */
        double angle = op->positions[r] * frequency[first + i];
        cosine[i] = (float)cos(angle);
        sine[i] = (float)(op->inverse ? -sin(angle) : sin(angle));
      }
      for (int h = 0; h < turned; h++)
        turn(qkv + r * stride + (size_t)h * op->head_dim, half, first, count, cosine, sine);
    }
}

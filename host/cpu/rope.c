/* Rotary position embedding (Su et al. 2021): (a, b) -> (a cos - b sin, a sin + b cos). */
#include <math.h>

#include "cpu/cpu.h"

/* turns[0 .. half-1] the cosines, turns[half ..] the sines of a position's angles, taken in double: an
 * angle of thousands of turns keeps its fraction. */
static void angles_of(const Rope *op, int position, float *turns) {
  int half = op->head_dim / 2;
  RopeBlend blend = rope_blend(op->scaling);
  for (int i = 0; i < half; i++) {
    double angle = (op->first_position + position) * rope_blended(blend, pow((double)op->theta, -2.0 * i / op->head_dim));
    turns[i] = (float)cos(angle);
    turns[half + i] = (float)(op->inverse ? -sin(angle) : sin(angle));
  }
}

static void turn_heads(float *heads, int count, int half, const float *turns) {
  const float *cosine = turns, *sine = turns + half;
  for (int h = 0; h < count; h++) {
    float *a = heads + (size_t)h * 2 * (size_t)half, *b = a + half;
#pragma omp simd
    for (int i = 0; i < half; i++) {
      float x = a[i], y = b[i];
      a[i] = x * cosine[i] - y * sine[i];
      b[i] = x * sine[i] + y * cosine[i];
    }
  }
}

void cpu_rope(Backend *backend, const Rope *op) {
  if (op->rows == 0 || op->head_dim < 2) return;
  size_t dim = (size_t)op->head_dim, stride = (size_t)(op->heads + 2 * op->kv_heads) * dim;
  int last = 0;
  for (int r = 0; r < op->rows; r++) last = op->positions[r] > last ? op->positions[r] : last;
  /* Sequences of a batch share their positions: one row of the table a position, or one a row if the rows
   * are fewer, as in a decode step. */
  bool by_position = last < op->rows;
  int table_rows = by_position ? last + 1 : op->rows;
  float *table = cpu_workspace(backend, (size_t)table_rows * dim * sizeof *table), *qkv = op->qkv;
#pragma omp parallel for schedule(static) if (table_rows * dim * 32 >= PARALLEL_FROM)
  for (int t = 0; t < table_rows; t++) angles_of(op, by_position ? t : op->positions[t], table + t * dim);
#pragma omp parallel for schedule(static) if (op->rows * stride >= PARALLEL_FROM)
  for (int r = 0; r < op->rows; r++)
    turn_heads(qkv + r * stride, op->heads + op->kv_heads, op->head_dim / 2,
               table + (size_t)(by_position ? op->positions[r] : r) * dim);
}

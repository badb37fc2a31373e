#include "cpu/weights.h"

#include <cblas.h>

static int least(int a, int b) { return a < b ? a : b; }

size_t weight_tile_scratch(WeightType type, int outs, int columns) {
  return type == WEIGHT_NATIVE ? 0 : (size_t)least(outs, WIDE_ROWS) * (size_t)columns;
}

void multiply_weight_tile(const WeightTile *t, float *scratch) {
  for (int o = 0; o < t->outs; o += WIDE_ROWS) {
    int outs = least(WIDE_ROWS, t->outs - o), stride = t->in;
    const float *weight = (const float *)t->weight + (size_t)o * t->in + t->first;
    if (t->type != WEIGHT_NATIVE) {
      for (int r = 0; r < outs; r++)
        widen_row(weight_row(t->weight, t->type, t->in, (size_t)(o + r)), t->type, t->first, t->columns,
                  scratch + (size_t)r * t->columns);
      weight = scratch;
      stride = t->columns;
    }
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, t->rows, t->columns, outs, t->scale, t->a + o,
                t->a_stride, weight, stride, o > 0 || t->accumulate, t->into, t->into_stride);
  }
}

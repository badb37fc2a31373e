/* Weights of any type as fp32: a few rows at a time, where a kernel packs them. A row's values do not depend
 * on what is widened with it, so every result is the one of fp32 weights with these values, to the bit. */
#ifndef POPALM_CPU_WEIGHTS_H
#define POPALM_CPU_WEIGHTS_H

#include "base/bf16.h"
#include "base/fp16.h"
#include "cpu/cpu.h"

static inline const void *weight_row(const void *weight, WeightType type, int columns, size_t row) {
  return (const char *)weight + row * weight_row_bytes(type, F32, columns);
}

/* out[i] = row[first + i]; first is a multiple of INT8_BLOCK. */
static inline void widen_row(const void *row, WeightType type, int first, int count, float *out) {
  if (type == WEIGHT_NATIVE) {
    memcpy(out, (const float *)row + first, (size_t)count * sizeof *out);
    return;
  }
  if (type == WEIGHT_BF16) {
    const uint16_t *from = (const uint16_t *)row + first;
    for (int i = 0; i < count; i++) out[i] = bf16_to_float(from[i]);
    return;
  }
  const unsigned char *block = (const unsigned char *)row + first / INT8_BLOCK * INT8_BLOCK_BYTES;
  for (; count > 0; block += INT8_BLOCK_BYTES, out += INT8_BLOCK, count -= INT8_BLOCK) {
    float scale = half_to_float((uint16_t)(block[0] | block[1] << 8));
    const signed char *q = (const signed char *)block + 2;
    if (count >= INT8_BLOCK)
      for (int i = 0; i < INT8_BLOCK; i++) out[i] = scale * (float)q[i];
    else
      for (int i = 0; i < count; i++) out[i] = scale * (float)q[i];
  }
}

/* into [rows, columns] (+)= scale a [rows, outs] W, of the columns first .. first + columns - 1 of W [outs,
 * in]: the gradient of a product's input, one tile of it. W is taken WIDE_ROWS rows at a time. */
typedef struct WeightTile {
  const float *a;
  int a_stride;
  const void *weight;
  WeightType type;
  int outs, in, first, rows, columns; /* first is a multiple of INT8_BLOCK */
  float scale;
  bool accumulate;
  float *into;
  int into_stride;
} WeightTile;

enum { WIDE_ROWS = 2048 };

/* Scratch of one tile of so many columns: floats. */
size_t weight_tile_scratch(WeightType type, int outs, int columns);
void multiply_weight_tile(const WeightTile *tile, float *scratch);

#endif

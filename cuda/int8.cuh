/* Reading rows of WEIGHT_INT8 (backend.h): blocks of 34 bytes for 32 values, an fp16 scale and signed bytes.
 */
#ifndef POPALM_INT8_CUH
#define POPALM_INT8_CUH

#include "base/fp16.h"
#include "primitives.cuh"

DEVICE const unsigned char *int8_row(const void *matrix, int64_t row, int columns) {
  int64_t blocks = (columns + INT8_BLOCK - 1) / INT8_BLOCK;
  return static_cast<const unsigned char *>(matrix) + row * blocks * INT8_BLOCK_BYTES;
}

/* to[i] = value column + i of the row, as bf16 holds it; column is a multiple of 8, so that the 8 stand in
 * one block. Behind the row's end the block's own zeros are read. */
DEVICE void load_int8_span(const unsigned char *row, int column, float (&to)[8]) {
  const uint16_t *block =
      reinterpret_cast<const uint16_t *>(row + column / INT8_BLOCK * INT8_BLOCK_BYTES); /* 34 is even */
  float scale = half_to_float(block[0]);
  const uint16_t *pairs = block + 1 + column % INT8_BLOCK / 2;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    uint32_t pair = pairs[i];
    to[2 * i] = to_float(to_bf16(scale * static_cast<float>(static_cast<int8_t>(pair & 0xffu))));
    to[2 * i + 1] = to_float(to_bf16(scale * static_cast<float>(static_cast<int8_t>(pair >> 8))));
  }
}

#endif

/* Products of small blocks that lie in the first-level cache: c[m, n] (+)= a[m, depth] b[depth, n] with
 * a broadcast number by number (so it may be transposed) and b read in whole vectors. For the blocks of
 * attention this is faster than a BLAS, which packs its operands first. */
#ifndef POPALM_CPU_TILE_H
#define POPALM_CPU_TILE_H

#include <stdbool.h>
#include <stddef.h>

/* A tile of TILE_ROWS x TILE_VECTORS vectors of c stays in registers. */
#if defined __AVX512F__
enum { TILE_LANES = 16, TILE_VECTORS = 4 };
#elif defined __AVX__
enum { TILE_LANES = 8, TILE_VECTORS = 2 };
#else
enum { TILE_LANES = 4, TILE_VECTORS = 2 };
#endif
enum { TILE_ROWS = 6, TILE_PAD = 16 }; /* n is a multiple of TILE_PAD */

typedef float TileVector __attribute__((vector_size(4 * TILE_LANES), aligned(4), may_alias));

typedef struct TileProduct {
  const float *a; /* a(i, k) = a[i * row_step + k * depth_step] */
  size_t row_step, depth_step;
  const float *b; /* b(k, j) = b[k * ldb + j] */
  size_t ldb;
  float *c; /* c(i, j) = c[i * ldc + j] */
  size_t ldc;
  int m, n, depth;
  bool add;
} TileProduct;

static inline __attribute__((always_inline)) void tile(const int rows, const int vectors,
                                                       const TileProduct *t, int row, int column) {
  TileVector sum[TILE_ROWS * TILE_VECTORS];
  const float *a = t->a + (size_t)row * t->row_step, *b = t->b + column;
  float *c = t->c + (size_t)row * t->ldc + column;
  size_t row_step = t->row_step, depth_step = t->depth_step, ldb = t->ldb;
  for (int i = 0; i < rows * vectors; i++) sum[i] = (TileVector){0};
  for (int k = 0, depth = t->depth; k < depth; k++) {
    TileVector x[TILE_VECTORS];
#pragma GCC unroll 4
    for (int j = 0; j < vectors; j++) x[j] = *(const TileVector *)(b + (size_t)k * ldb + j * TILE_LANES);
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++) {
      float w = a[(size_t)i * row_step + (size_t)k * depth_step];
#pragma GCC unroll 4
      for (int j = 0; j < vectors; j++) sum[i * vectors + j] += x[j] * w;
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
    for (int j = 0; j < vectors; j++) {
      TileVector *out = (TileVector *)(c + (size_t)i * t->ldc + j * TILE_LANES);
      TileVector value = sum[i * vectors + j];
      if (t->add) value += *out;
      *out = value;
    }
}

/* All columns of `rows` rows. */
static inline __attribute__((always_inline)) void tile_rows(const int rows, const TileProduct *t, int row) {
  int column = 0;
  for (; column + TILE_VECTORS * TILE_LANES <= t->n; column += TILE_VECTORS * TILE_LANES)
    tile(rows, TILE_VECTORS, t, row, column);
  for (; column + 2 * TILE_LANES <= t->n; column += 2 * TILE_LANES) tile(rows, 2, t, row, column);
  if (column < t->n) tile(rows, 1, t, row, column);
}

static __attribute__((noinline)) void tile_product(const TileProduct *t) {
  int row = 0;
  for (; row + TILE_ROWS <= t->m; row += TILE_ROWS) tile_rows(TILE_ROWS, t, row);
  for (; row + 2 <= t->m; row += 2) tile_rows(2, t, row);
  if (row < t->m) tile_rows(1, t, row);
}

#endif

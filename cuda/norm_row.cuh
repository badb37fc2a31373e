/* How the norm kernels lay a row over threads: so many neighbouring lanes of a warp (8, 16 or 32) a row, or
 * the whole block (lanes = 0). A thread holds `spans` pieces of 8 elements of its row in registers. These
 * kernels need H % 8 == 0 and H <= widest_row; the _wide kernels take the rest. */
#ifndef POPALM_NORM_ROW_CUH
#define POPALM_NORM_ROW_CUH

#include "span.cuh"

const int lanes_threads = 128; /* of a block whose rows lie on lanes */
const int block_spans = 2;     /* of a row that a block takes */
const int most_threads = 512;
const int widest_row = most_threads * block_spans * 8;

/* A kernel for rows of at most `widest` elements. */
template <typename Kernel>
struct RowKernel {
  int widest, lanes;
  Kernel kernel;
};

/* The first that is wide enough; NULL: take the _wide kernel. */
template <typename Kernel, int count>
static const RowKernel<Kernel> *row_kernel(const RowKernel<Kernel> (&kernels)[count], int hidden) {
  if (hidden % 8) return nullptr;
  for (const RowKernel<Kernel> &k : kernels)
    if (hidden <= k.widest) return &k;
  return nullptr;
}

static inline int row_threads(int lanes, int hidden) {
  return lanes ? lanes_threads : ceil_div(hidden, block_spans * 8 * 32) * 32;
}
__host__ __device__ constexpr int rows_at_once(int lanes) { return lanes ? lanes_threads / lanes : 1; }

/* A thread's share of a row. */
struct Share {
  size_t start;   /* of the row, in elements */
  int lane, size; /* this thread among those of the row */
  int end;        /* H; 0 for threads whose row does not exist */
  DEVICE int column(int span) const { return (lane + span * size) * 8; }
  DEVICE bool holds(int span) const { return column(span) < end; }
};

/* Which of the rows that a block takes at once is this thread's. */
template <int lanes>
DEVICE int own_row() {
  if constexpr (lanes == 0)
    return 0;
  else
    return static_cast<int>(threadIdx.x) / lanes;
}

template <int lanes>
DEVICE Share share_of(int row, int rows, int hidden) {
  int thread = static_cast<int>(threadIdx.x), size = lanes ? lanes : static_cast<int>(blockDim.x);
  return {static_cast<size_t>(row) * static_cast<size_t>(hidden), thread % size, size,
          row < rows ? hidden : 0};
}

/* All threads of the row get the sum. */
template <int lanes>
DEVICE float row_sum(float value, Site site = SITE_HERE) {
  if constexpr (lanes == 0) {
    return block_sum(value, site);
  } else {
#pragma unroll
    for (int mask = lanes / 2; mask > 0; mask /= 2) value += warp_shuffle_xor(value, mask, site);
    return value;
  }
}

/* Zeros where the thread holds nothing. matrix NULL: all zeros. */
template <int spans>
DEVICE void load_share(const Share &share, const void *matrix, size_t start, Bytes16 (&to)[spans]) {
  const bf16 *from = static_cast<const bf16 *>(matrix);
#pragma unroll
  for (int s = 0; s < spans; s++)
    to[s] = matrix && share.holds(s) ? load16(from + start + share.column(s)) : Bytes16{{0, 0, 0, 0}};
}

template <int spans>
DEVICE void store_share(const Share &share, void *matrix, const Bytes16 (&from)[spans]) {
  bf16 *to = static_cast<bf16 *>(matrix) + share.start;
#pragma unroll
  for (int s = 0; s < spans; s++)
    if (share.holds(s)) store16(to + share.column(s), from[s]);
}

#endif

/* d (+)= scale a b + bias for any shape, leading dimension and alignment: what can run where cuBLASLt's
 * library is missing or has no algorithm for a shape. 2 m n k operations; far from the hardware's limit,
 * since elements are loaded one by one, so that both transpositions need no code of their own.
 *
 * A block computes 64 x 64 of d with 4 warps of 32 x 32 each, 32 of k at a time. In shared memory a's tile is
 * [m][k] and b's is [n][k], the layouts of the operands of mma m16n8k16. Sums over k go in a fixed order. */
#include "primitives.cuh"

namespace {

const int tile = 64, depth = 32, threads = 128;
const int pitch = depth + 8; /* of a shared row: rows in different banks */

/* Element (row, k) of an operand that is stored [row, k], or [k, row]. */
struct Operand {
  const bf16 *data;
  int rows, ld;
  bool k_first;
};

/* Copies rows [from, from + 64) x [k, k + 32) into to, zeros outside. Neighbouring threads read neighbouring
 * addresses in both layouts. */
DEVICE void load_operand(bf16 (*to)[pitch], const Operand &of, int from, int first_k, int depth_all) {
  for (int i = static_cast<int>(threadIdx.x); i < tile * depth; i += threads) {
    int row = of.k_first ? i % tile : i / depth, k = of.k_first ? i / tile : i % depth;
    bf16 x = {0};
    if (from + row < of.rows && first_k + k < depth_all) {
      size_t outer = static_cast<size_t>(of.k_first ? first_k + k : from + row);
      size_t inner = static_cast<size_t>(of.k_first ? from + row : first_k + k);
      x = of.data[outer * static_cast<size_t>(of.ld) + inner];
    }
    to[row][k] = x;
  }
}

/* Two neighbours of a shared row as an mma operand. */
DEVICE uint32_t two(const bf16 *at) { return at[0].bits | static_cast<uint32_t>(at[1].bits) << 16; }

DEVICE void write_element(const Product &p, int row, int column, float value) {
  if (row >= p.m || column >= p.n) return;
  size_t at = static_cast<size_t>(row) * static_cast<size_t>(p.ldd) + static_cast<size_t>(column);
  if (p.scale != 0.0f) value *= p.scale;
  if (p.bias) value += to_float(static_cast<const bf16 *>(p.bias)[column]);
  if (p.out == F32) {
    float *d = static_cast<float *>(p.d) + at;
    *d = p.accumulate ? *d + value : value;
  } else {
    bf16 *d = static_cast<bf16 *>(p.d) + at;
    *d = to_bf16(p.accumulate ? to_float(*d) + value : value);
  }
}

__global__ void __launch_bounds__(threads) product_plain(Product p, int column_tiles) {
  SHARED(bf16, a_tile, [tile][pitch]);
  SHARED(bf16, b_tile, [tile][pitch]);
  int first_row = static_cast<int>(blockIdx.x) / column_tiles * tile;
  int first_column = static_cast<int>(blockIdx.x) % column_tiles * tile;
  Operand a = {static_cast<const bf16 *>(p.a), p.m, p.lda, p.a_transposed};
  Operand b = {static_cast<const bf16 *>(p.b), p.n, p.ldb, !p.b_transposed};
  int row = warp_index() / 2 * 32, column = warp_index() % 2 * 32; /* of this warp, in the tile */
  int g = lane_index() / 4, t = lane_index() % 4;
  float sum[2][4][4] = {};
  for (int k = 0; k < p.k; k += depth) {
    block_sync();
    load_operand(a_tile, a, first_row, k, p.k);
    load_operand(b_tile, b, first_column, k, p.k);
    block_sync();
#pragma unroll
    for (int step = 0; step < depth; step += 16) {
#pragma unroll
      for (int m = 0; m < 2; m++) {
        const bf16 *upper = &a_tile[row + m * 16 + g][step + t * 2];
        const bf16 *lower = &a_tile[row + m * 16 + g + 8][step + t * 2];
        uint32_t fragment[4] = {two(upper), two(lower), two(upper + 8), two(lower + 8)};
#pragma unroll
        for (int n = 0; n < 4; n++) {
          const bf16 *of_b = &b_tile[column + n * 8 + g][step + t * 2];
          mma_bf16(sum[m][n], fragment, two(of_b), two(of_b + 8));
        }
      }
    }
  }
#pragma unroll
  for (int m = 0; m < 2; m++)
#pragma unroll
    for (int n = 0; n < 4; n++)
#pragma unroll
      for (int i = 0; i < 4; i++)
        write_element(p, first_row + row + m * 16 + g + i / 2 * 8,
                      first_column + column + n * 8 + t * 2 + i % 2, sum[m][n][i]);
}

}  // namespace

void cuda_product_plain(Backend *backend, const Product *product) {
  int row_tiles = ceil_div<int>(product->m, tile), column_tiles = ceil_div<int>(product->n, tile);
  unsigned blocks = static_cast<unsigned>(row_tiles) * static_cast<unsigned>(column_tiles);
  launch(cuda_state(backend), {"product_plain", blocks, threads, 0}, product_plain, *product, column_tiles);
}

/* What the attention kernels share: tiles of bf16 rows in shared memory, products of tiles on the tensor
 * cores, and the place of a block in the packed batch. D is the head_dim rounded up to 32, 64 or 128; columns
 * beyond it hold zeros. */
#ifndef POPALM_ATTENTION_TILE_CUH
#define POPALM_ATTENTION_TILE_CUH

#include "primitives.cuh"

const float log2_e = 1.44269504088896341f;
const float ln_2 = 0.693147180559945309f;

/* Where 16 bytes (8 columns) of a row lie. The chunks of a row are permuted by the row's number, so that the
 * 8 rows which ldmatrix reads together lie in different banks. */
template <int D>
DEVICE int chunk_offset(int row, int chunk) {
  int permuted = D >= 64 ? chunk ^ (row & 7) : chunk ^ ((row >> 1) & 3);
  return row * (D * 2) + permuted * 16;
}

/* chunk_offset(row + rows, chunk + chunks) from first = chunk_offset(row, chunk), for chunk 0 or 1, even
 * chunks and rows a multiple of 16: the permutation is an exclusive or and repeats after 8 rows. So a lane
 * needs one offset for all the fragments of an operand. */
template <int D>
DEVICE int offset_from(int first, int rows, int chunks) {
  return rows * (D * 2) + (first ^ chunks * 16);
}

/* Starts copying rows of head_dim columns, stride elements apart, by the whole block; zeros beyond
 * valid_rows. */
template <int D, int rows>
DEVICE void load_tile(unsigned char *tile, const bf16 *from, int stride, int valid_rows, int head_dim) {
  const int chunks = D / 8;
  for (int i = static_cast<int>(threadIdx.x); i < rows * chunks; i += static_cast<int>(blockDim.x)) {
    int row = i / chunks, chunk = i % chunks;
    bool valid = row < valid_rows && chunk * 8 < head_dim;
    const bf16 *source = valid ? from + static_cast<ptrdiff_t>(row) * stride + chunk * 8 : from;
    copy_async16(tile + chunk_offset<D>(row, chunk), source, valid);
  }
}

/* acc[m][n] += A B^T: 16 row_tiles rows of A from a_row on, columns rows of B, both D wide in shared memory.
 */
template <int D, int row_tiles, int columns>
DEVICE void multiply_transposed(float (&acc)[row_tiles][columns / 8][4], const unsigned char *a_tile,
                                int a_row, const unsigned char *b_tile) {
  int lane = lane_index();
  int a_first = chunk_offset<D>(a_row + lane % 16, lane / 16);
  int b_first = chunk_offset<D>(lane % 8 + lane / 16 * 8, lane / 8 % 2);
#pragma unroll
  for (int k = 0; k < D / 16; k++) {
    uint32_t a[row_tiles][4];
#pragma unroll
    for (int m = 0; m < row_tiles; m++) load_matrix_x4(a[m], a_tile + offset_from<D>(a_first, m * 16, k * 2));
#pragma unroll
    for (int n = 0; n < columns / 16; n++) {
      uint32_t b[4];
      load_matrix_x4(b, b_tile + offset_from<D>(b_first, n * 16, k * 2));
#pragma unroll
      for (int m = 0; m < row_tiles; m++) {
        mma_bf16(acc[m][2 * n], a[m], b[0], b[1]);
        mma_bf16(acc[m][2 * n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

/* The bf16 rounding of 16 columns of accumulators as a fragment of A, which has the same layout. */
DEVICE void pack_fragment(uint32_t (&to)[4], const float (&left)[4], const float (&right)[4]) {
  to[0] = pack_bf16(left[0], left[1]);
  to[1] = pack_bf16(left[2], left[3]);
  to[2] = pack_bf16(right[0], right[1]);
  to[3] = pack_bf16(right[2], right[3]);
}

/* acc += P B: P's bf16 rounding straight from the registers of a product before, B rows x D in shared memory.
 */
template <int D, int row_tiles, int rows>
DEVICE void multiply_registers(float (&acc)[row_tiles][D / 8][4], const float (&p)[row_tiles][rows / 8][4],
                               const unsigned char *b_tile) {
  int first = chunk_offset<D>(lane_index() % 16, lane_index() / 16);
#pragma unroll
  for (int k = 0; k < rows / 16; k++) {
    uint32_t a[row_tiles][4];
#pragma unroll
    for (int m = 0; m < row_tiles; m++) pack_fragment(a[m], p[m][2 * k], p[m][2 * k + 1]);
#pragma unroll
    for (int n = 0; n < D / 16; n++) {
      uint32_t b[4];
      load_matrix_x4_trans(b, b_tile + offset_from<D>(first, k * 16, n * 2));
#pragma unroll
      for (int m = 0; m < row_tiles; m++) {
        mma_bf16(acc[m][2 * n], a[m], b[0], b[1]);
        mma_bf16(acc[m][2 * n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

/* Writes a warp's 16 row_tiles rows of accumulators, times factor[m][half] of each row, as bf16: those of the
 * rows from first_row on that are below rows. */
template <int D, int row_tiles>
DEVICE void store_rows(bf16 *to, int stride, int first_row, int rows, int head_dim,
                       const float (&acc)[row_tiles][D / 8][4], const float (&factor)[row_tiles][2]) {
  int lane = lane_index();
#pragma unroll
  for (int m = 0; m < row_tiles; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int row = first_row + m * 16 + half * 8 + lane / 4;
      if (row >= rows) continue;
#pragma unroll
      for (int n = 0; n < D / 8; n++) {
        int column = n * 8 + lane % 4 * 2;
        if (column >= head_dim) continue;
        float f = factor[m][half];
        uint32_t pair = pack_bf16(acc[m][n][2 * half] * f, acc[m][n][2 * half + 1] * f);
        *reinterpret_cast<uint32_t *>(to + static_cast<ptrdiff_t>(row) * stride + column) = pair;
      }
    }
}

/* Starts copying tile `tile` of the keys and values of one head: the first prefix_tiles are the prefix's, the
 * others the sequence's own. K, then V, each rows x D. op: Attention or AttentionBackward */
template <int D, int rows, typename Op>
DEVICE void load_keys(unsigned char *stage, const Op &op, int begin, int length, int kv_head, int tile,
                      int prefix_tiles) {
  int d = op.head_dim, stride = 2 * op.kv_heads * d, at = kv_head * d, count = op.prefix_len;
  const bf16 *from = static_cast<const bf16 *>(op.prefix);
  if (tile >= prefix_tiles) {
    tile -= prefix_tiles;
    stride += op.heads * d;
    at += op.heads * d;
    count = length;
    from = static_cast<const bf16 *>(op.qkv) + static_cast<ptrdiff_t>(begin) * stride;
  }
  const bf16 *k = from + static_cast<ptrdiff_t>(tile * rows) * stride + at;
  load_tile<D, rows>(stage, k, stride, count - tile * rows, d);
  load_tile<D, rows>(stage + rows * D * 2, k + op.kv_heads * d, stride, count - tile * rows, d);
}

/* Batches whose longest sequence has at most so many tokens are computed in tiles of 64 rows a block instead
 * of 128: the last tile of a sequence then leaves fewer warps without work. */
const int short_length = 256;

/* A place in the packed batch: tile `tile` of sequence `begin` .. `begin + length`, its number, and a head.
 */
struct Place {
  int begin, length, tile, head, sequence;
};

/* Places are numbered tile by tile, then by sequence, then by head: the tiles of one number cost the same, so
 * that the longest start first and the heads that share keys run side by side. descending: the last tile
 * costs the most. */
DEVICE Place place_at(int index, const Sequences &sequences, int heads, int tiles, bool descending) {
  int head = index % heads, rest = index / heads, sequence = rest % sequences.count,
      tile = rest / sequences.count;
  int begin = sequences.cu_seqlens[sequence];
  return {begin, sequences.cu_seqlens[sequence + 1] - begin, descending ? tiles - 1 - tile : tile, head,
          sequence};
}

/* Where a block has one place, its number's. */
DEVICE Place place_of(const Sequences &sequences, int heads, int tiles, bool descending) {
  return place_at(static_cast<int>(blockIdx.x), sequences, heads, tiles, descending);
}

inline unsigned place_blocks(const Sequences &sequences, int heads, int tiles) {
  return static_cast<unsigned>(tiles) * static_cast<unsigned>(sequences.count) * static_cast<unsigned>(heads);
}

/* The branches of a sequence: a row sees no key from `shared` up to its own branch, counted from the
 * sequence's first token. */
struct Branches {
  const int32_t *starts; /* of each row's branch, in tokens of the batch; NULL: no branches */
  int begin, shared;

  DEVICE int of(int row) const { return starts[row] - begin; }
};

/* The score of a key in another branch. A power of two, so that scaling is exact: where a row has seen
 * nothing else, S - m is 0. */
const float other_branch = -0x1p100f;

template <bool branched>
DEVICE Branches branches_of(const Sequences &sequences, const Place &place) {
  if (!branched) return {nullptr, 0, 0};
  return {sequences.branch + place.begin, place.begin, sequences.shared[place.sequence]};
}

/* What a block of queries goes over, in tiles of keys: the prefix, the sequence up to the block's last query,
 * or all of it if full. With branches, the tiles between the shared keys and the first query's branch are
 * left out. */
struct KeyTiles {
  int prefix, count, before, gap;

  DEVICE int at(int step) const { return step < before ? step : step + gap; }
};

template <int keys, typename Op>
DEVICE KeyTiles key_tiles(const Op &op, const Place &place, const Branches &branches, int first_query,
                          int queries) {
  int end = first_query + queries, prefix = ceil_div(op.prefix_len, keys);
  int own = ceil_div(op.full || end > place.length ? place.length : end, keys);
  if (!branches.starts) return {prefix, prefix + own, 0, 0};
  int before = ceil_div(branches.shared, keys), gap = branches.of(first_query) / keys - before;
  if (gap < 0) gap = 0;
  return {prefix, prefix + own - gap, prefix + before, gap};
}

/* The end of the rows that see one of the keys up to `last`, the first of which is `first`: branches begin
 * one after another. */
DEVICE int branch_rows_end(const Branches &branches, int first, int last, int length) {
  if (first < branches.shared) return length;
  int low = first, high = length;
  while (low < high) {
    int middle = (low + high) / 2;
    if (branches.of(middle) <= last)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

/* The tiles are for multiples of 8 up to 128; otherwise the error is kept and nothing is launched. */
inline bool attention_head_dim_fits(Backend *backend, int head_dim, const char *what) {
  if (head_dim > 0 && head_dim % 8 == 0 && head_dim <= 128) return true;
  const int invalid_value = 1; /* cudaErrorInvalidValue */
  cuda_note(cuda_state(backend), invalid_value, what);
  return false;
}

/* Whether the kernels for compute capability 9.0 are used and take the shape. op: Attention or
 * AttentionBackward */
template <typename Op>
inline bool hopper_fits(Backend *backend, const Op &op) {
  return cuda_state(backend)->hopper && (op.head_dim == 64 || op.head_dim == 128);
}

#endif

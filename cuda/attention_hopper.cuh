/* What the attention kernels for compute capability 9.0 share: tiles that the copy engine fills, rings of
 * them between a producer and the warpgroups that compute, products of a warpgroup, and the order of the
 * work.
 *
 * A tile holds `rows` rows of D columns as D / 64 panels of [rows][128 bytes], swizzled: each panel is a
 * stack of boxes of 64 rows x 64 columns. A box whose rows nobody needs is loaded from behind the array's
 * end: it is zero and costs no memory traffic, and a stage always has the same number of bytes. */
#ifndef POPALM_ATTENTION_HOPPER_CUH
#define POPALM_ATTENTION_HOPPER_CUH

#include "attention_tile.cuh"

const int box_rows = 64, box_columns = 64, box_bytes = box_rows * box_columns * 2;
const int warpgroup = 128; /* threads */

/* From lane 0, so that the compiler knows that a warp's lanes do not part over it. */
DEVICE int warpgroup_index() { return warp_shuffle(warp_index() / 4, 0); }

/* Loads rows of a tile from `row` of the map on, columns from `column` on; the boxes from row_end on are
 * zero. */
template <int D, int rows>
DEVICE void load_boxes(unsigned char *tile, const TensorMap &map, int map_rows, int column, int row,
                       int row_end, MBarrier *full) {
#pragma unroll
  for (int panel = 0; panel < D / box_columns; panel++)
#pragma unroll
    for (int r = 0; r < rows; r += box_rows)
      tensor_load(tile + panel * (rows * 128) + r * 128, map, column + panel * box_columns,
                  row + r < row_end ? row + r : map_rows, full);
}

/* A ring of stages, each with a barrier that it is full and one that it is empty. Both sides count the turns:
 * the count gives the stage and the parity of its phase. */
template <int stages>
struct Ring {
  MBarrier *full; /* [stages], then the empty ones [stages] */

  DEVICE void init(int producers, int consumer_warps) const {
#pragma unroll
    for (int s = 0; s < stages; s++) {
      mbarrier_init(full + s, producers);
      mbarrier_init(full + stages + s, consumer_warps);
    }
  }
  DEVICE static int stage(int count) { return count % stages; }
  DEVICE static int parity(int count) { return count / stages & 1; }
  DEVICE void wait_full(int count) const { mbarrier_wait(full + stage(count), parity(count)); }
  DEVICE void wait_empty(int count) const { mbarrier_wait(full + stages + stage(count), parity(count) ^ 1); }
  /* The producer: waits for the stage's readers, and announces what it is going to load. */
  DEVICE MBarrier *fill(int count, int bytes) const {
    wait_empty(count);
    mbarrier_arrive_expect(full + stage(count), bytes);
    return full + stage(count);
  }
  /* By a producer's warp that writes by itself, when its writes are done. */
  DEVICE void filled(int count) const {
    warp_sync();
    if (lane_index() == 0) mbarrier_arrive(full + stage(count));
  }
  /* By every warp of the consumers, when its reads are done. */
  DEVICE void release(int count) const {
    warp_sync();
    if (lane_index() == 0) mbarrier_arrive(full + stages + stage(count));
  }
};

/* acc = A B^T: 64 rows of A, n rows of B, both D wide in tiles of a_rows and b_rows rows. */
template <int D, int n, int a_rows, int b_rows>
DEVICE void multiply_transposed_async(float (&acc)[n / 8][4], const unsigned char *a,
                                      const unsigned char *b) {
  uint64_t a_first = wgmma_descriptor(a, 0, 1024), b_first = wgmma_descriptor(b, 0, 1024);
#pragma unroll
  for (int k = 0; k < D / 16; k++) {
    const int panel = k / 4, step = k % 4 * 32;
    wgmma_shared<n, false, false>(acc, a_first + static_cast<uint64_t>((panel * a_rows * 128 + step) >> 4),
                                  b_first + static_cast<uint64_t>((panel * b_rows * 128 + step) >> 4), k > 0);
  }
}

/* acc += P B: P [64, rows] in registers as A's fragments, B `rows` rows of n columns of a tile of b_rows
 * rows. */
template <int n, int rows, int b_rows>
DEVICE void multiply_registers_async(float (&acc)[n / 8][4], const uint32_t (&p)[rows / 16][4],
                                     const unsigned char *b) {
  uint64_t first = wgmma_descriptor(b, b_rows * 128, 1024);
#pragma unroll
  for (int k = 0; k < rows / 16; k++)
    wgmma_registers<n, true>(acc, p[k], first + static_cast<uint64_t>(k * 16 * 128 >> 4), true);
}

/* Accumulators as A's fragments. */
template <int columns>
DEVICE void pack_fragments(uint32_t (&to)[columns / 2][4], const float (&from)[columns][4]) {
#pragma unroll
  for (int k = 0; k < columns / 2; k++) pack_fragment(to[k], from[2 * k], from[2 * k + 1]);
}

/* Lane t of four has words w[0..3]; afterwards it has word t of all four, in the lanes' order. */
DEVICE void transpose_quad(uint32_t (&w)[4]) {
  bool odd = lane_index() & 1, upper = lane_index() & 2;
  uint32_t a = warp_shuffle_xor(odd ? w[0] : w[1], 1), b = warp_shuffle_xor(odd ? w[2] : w[3], 1);
  (odd ? w[0] : w[1]) = a;
  (odd ? w[2] : w[3]) = b;
  a = warp_shuffle_xor(upper ? w[0] : w[2], 2);
  b = warp_shuffle_xor(upper ? w[1] : w[3], 2);
  (upper ? w[0] : w[2]) = a;
  (upper ? w[1] : w[3]) = b;
}

/* Writes a warp's 16 rows of accumulators, times factor[half] of each row, as bf16, 64 contiguous bytes a row
 * and store: those of the rows first_row.. that are below rows. */
template <int D>
DEVICE void store_wide(bf16 *to, int stride, int first_row, int rows, const float (&acc)[D / 8][4],
                       const float (&factor)[2]) {
  int lane = lane_index();
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int row = first_row + half * 8 + lane / 4;
#pragma unroll
    for (int n = 0; n < D / 8; n += 4) {
      Bytes16 words;
#pragma unroll
      for (int i = 0; i < 4; i++)
        words.word[i] =
            pack_bf16(acc[n + i][2 * half] * factor[half], acc[n + i][2 * half + 1] * factor[half]);
      transpose_quad(words.word);
      if (row < rows) store16(to + static_cast<ptrdiff_t>(row) * stride + n * 8 + lane % 4 * 8, words);
    }
  }
}

/* A thread's upper row sees the first `upper` keys of the block, its lower row the first `lower`. */
template <int columns>
DEVICE void mask(float (&s)[columns][4], int upper, int lower) {
#pragma unroll
  for (int n = 0; n < columns; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      int key = n * 8 + lane_index() % 4 * 2 + i % 2;
      if (key >= (i < 2 ? upper : lower)) s[n][i] = -INFINITY;
    }
}

/* The keys of other branches: how many of those from `shared` on are hidden from a thread's upper and lower
 * row, and from the warp's last. */
struct OtherBranches {
  int shared, upper, lower, most;
};

/* Rows beyond the end take the last one's branch. */
DEVICE OtherBranches other_branches(const Branches &branches, int first_row, int length) {
  int row = first_row + lane_index() / 4, last = length - 1;
  int upper = branches.of(row < last ? row : last) - branches.shared,
      lower = branches.of(row + 8 < last ? row + 8 : last) - branches.shared;
  return {branches.shared, upper, lower, warp_shuffle(lower, 31)};
}

template <int columns>
DEVICE void mask_branches(float (&s)[columns][4], const OtherBranches &others, int first_key) {
  int ahead = first_key - others.shared;
  if (ahead >= others.most || ahead + columns * 8 <= 0) return;
#pragma unroll
  for (int n = 0; n < columns; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      int key = ahead + n * 8 + lane_index() % 4 * 2 + i % 2;
      if (key >= 0 && key < (i < 2 ? others.upper : others.lower)) s[n][i] = -INFINITY;
    }
}

/* All items of work that a launch has, each a place; some are empty. */
DEVICE int work_items(const Sequences &sequences, int heads, int tiles) {
  return tiles * sequences.count * heads;
}

/* The item of a block's turn; false if there is none. A block takes one of every gridDim.x, from the left in
 * even turns and from the right in odd ones, so that no block always has the longer tiles. */
DEVICE bool work_of(const Sequences &sequences, int heads, int tiles, int tile_rows, bool descending,
                    int turn, Place &work) {
  int blocks = static_cast<int>(gridDim.x), block = static_cast<int>(blockIdx.x);
  int index = turn * blocks + (turn & 1 ? blocks - 1 - block : block);
  if (index >= work_items(sequences, heads, tiles)) return false;
  work = place_at(index, sequences, heads, tiles, descending);
  return work.tile * tile_rows < work.length;
}

/* Whether there are items in that turn. */
DEVICE bool more_work(const Sequences &sequences, int heads, int tiles, int turn) {
  return turn * static_cast<int>(gridDim.x) < work_items(sequences, heads, tiles);
}

/* An item of the kernels that keep queries: the rows first_query.. of a sequence, and the blocks of keys that
 * they see, own_blocks from the last to the first and then the prefix's. */
struct QueryItem {
  int begin, length, first_query, head, own_blocks, blocks;
  KeyTiles keys;
  Branches branches;

  /* The sequence's block of keys that is the i-th visited; below 0: of the prefix. */
  DEVICE int own_block(int i) const { return keys.at(blocks - 1 - i) - keys.prefix; }
  /* The first visited block that the 64 rows from `top` on see, or all blocks if there are no such rows. */
  DEVICE int first_seen(int top, int block_rows, bool full) const {
    return top >= length ? blocks : full ? 0 : own_blocks + keys.gap - 1 - top / block_rows;
  }
};

/* Where the keys of a block are: `row`.. of the map's `rows`, as far as row_end; their values are kv_heads D
 * columns further on. */
struct KeyRows {
  const TensorMap &map;
  int rows, column, row, row_end;
};

/* op: Attention or AttentionBackward */
template <int D, int block_rows, typename Op>
DEVICE KeyRows key_rows(const Op &op, const QueryItem &item, int i, const TensorMap &qkv,
                        const TensorMap &prefix) {
  int kv_head = item.head / (op.heads / op.kv_heads);
  if (i < item.own_blocks)
    return {qkv, op.sequences.tokens, (op.heads + kv_head) * D, item.begin + item.own_block(i) * block_rows,
            item.begin + item.length};
  return {prefix, op.prefix_len, kv_head * D, (i - item.own_blocks) * block_rows, op.prefix_len};
}

/* op: Attention or AttentionBackward */
template <int queries, int key_rows, bool branched, typename Op>
DEVICE bool query_item(const Op &op, int tiles, int turn, QueryItem &item) {
  Place work;
  if (!work_of(op.sequences, op.heads, tiles, queries, true, turn, work)) return false;
  int first_query = work.tile * queries;
  Branches branches = branches_of<branched>(op.sequences, work);
  KeyTiles keys = key_tiles<key_rows>(op, work, branches, first_query, queries);
  item = {work.begin, work.length, first_query, work.head, keys.count - keys.prefix,
          keys.count, keys,        branches};
  return true;
}

/* What a query sees, known to the compiler: with all masks in one kernel its registers would spill. */
struct Causal {
  static const bool full = false, branched = false;
};
struct Full {
  static const bool full = true, branched = false;
};
struct Branched {
  static const bool full = false, branched = true;
};

/* As many blocks as there are multiprocessors, or items. */
inline unsigned work_blocks(const CudaState *state, const Sequences &sequences, int heads, int tiles) {
  unsigned items = place_blocks(sequences, heads, tiles), most = static_cast<unsigned>(state->sm_count);
  return items < most ? items : most;
}

/* The map of rows of `width` bf16 in boxes. */
inline bool map_rows_of(CudaState *state, TensorMap *map, const void *base, int width, int rows) {
  return make_tensor_map(state, map, base, width, rows, static_cast<size_t>(width) * sizeof(bf16),
                         box_columns, box_rows);
}

/* dq alone, by the kernel of attention_backward_queries_hopper.cu; head_dim 64 or 128. prefix: its map, or
 * any if there is none */
void attention_backward_queries(CudaState *state, const TensorMap &qkv, const TensorMap &prefix,
                                const TensorMap &dout, const AttentionBackward &op, const float *delta);

#endif

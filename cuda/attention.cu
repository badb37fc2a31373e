/* Attention over packed ragged sequences, forward (Dao et al. 2022, Dao 2023: online softmax over
 * tiles of keys): S = q K^T / sqrt(d),  m_i = max_j S_ij,  l_i = sum_j exp(S_ij - m_i),  O_i = sum_j exp(S_ij
 * - m_i) V_j / l_i, lse_i = m_i + ln l_i,  j <= i, and j over all of the prefix, which stands before.
 * With branches (backend.h) j < shared or j >= branch_i besides; full: all j.
 *
 * Shapes: qkv [N, (Hq + 2 Hkv) d] bf16, prefix [P, 2 Hkv d] bf16, out [N, Hq d] bf16, lse [Hq, N] fp32; query
 * head h reads key-value head h / (Hq / Hkv). A block takes 128 queries of one head, or 64 where no sequence
 * is long, and goes over the prefix's keys, then the keys from the first to its diagonal in tiles: the next
 * tile's K and V are copied (cp.async) while the products of this one run on the tensor cores. P stays in
 * registers between the two products. The first key is visible to every query, so that the running maximum is
 * finite from the first tile on; a key of another branch gets a score so low that what it adds vanishes when
 * the row sees its first key. Rows beyond the sequence's end are computed on zeros and not written. Lower
 * bound: 2 Hq d sum (T^2 + 2 P T) operations (the causal half of 4 Hq d T^2), 4 d (Hq + Hkv) sum T bytes. */
#include "attention_tile.cuh"

namespace {

/* The shape of an instance: `blocks` of them are to fit on a multiprocessor by their registers. With two row
 * tiles a warp, every fragment of K and V that it reads serves 32 queries; with one, short sequences leave
 * fewer rows of their last tile empty. Fewer keys a step where two row tiles of O take 128 registers a
 * thread. */
template <int D, int row_tiles>
struct Forward {
  static const int warps = 4, threads = warps * 32, queries = warps * row_tiles * 16;
  static const int keys = D < 128 ? 64 : row_tiles == 1 ? 32 : 48;
  static const int blocks = row_tiles == 1 ? (D == 128 ? 3 : 4) : (D == 32 ? 3 : 2);
  static const int query_bytes = queries * D * 2, key_bytes = keys * D * 2,
                   stage_bytes = 2 * key_bytes; /* K, then V */
  static const int shared_bytes = query_bytes + 2 * stage_bytes;
};

/* The state of a warp's rows: a thread holds rows lane / 4 and lane / 4 + 8 of each 16, and of these 2 of
 * every 8 columns. */
template <int D, int row_tiles>
struct Rows {
  float o[row_tiles][D / 8][4];
  float max[row_tiles][2]; /* of the unscaled scores */
  float sum[row_tiles][2]; /* this thread's columns only */
};

/* Leaves each row the keys up to `last`, which is the first row's if causal: the next row sees one more. */
template <int row_tiles, int columns>
DEVICE void mask_beyond(float (&s)[row_tiles][columns][4], int last, bool causal, int first_key) {
  int lane = lane_index();
#pragma unroll
  for (int m = 0; m < row_tiles; m++)
#pragma unroll
    for (int n = 0; n < columns; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        int row = m * 16 + i / 2 * 8 + lane / 4, key = first_key + n * 8 + lane % 4 * 2 + i % 2;
        if (key > (causal ? last + row : last)) s[m][n][i] = -INFINITY;
      }
}

/* Where the branches of a thread's rows begin; 0 for rows that do not exist. */
template <int row_tiles>
DEVICE void load_branches(int (&starts)[row_tiles][2], const Branches &branches, int first_row, int length) {
#pragma unroll
  for (int m = 0; m < row_tiles; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int row = first_row + m * 16 + half * 8 + lane_index() / 4;
      starts[m][half] = row < length ? branches.of(row) : 0;
    }
}

template <int row_tiles, int columns>
DEVICE void mask_branches(float (&s)[row_tiles][columns][4], const int (&starts)[row_tiles][2], int shared,
                          int first_key) {
#pragma unroll
  for (int m = 0; m < row_tiles; m++)
#pragma unroll
    for (int n = 0; n < columns; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        int key = first_key + n * 8 + lane_index() % 4 * 2 + i % 2;
        if (key >= shared && key < starts[m][i / 2]) s[m][n][i] = other_branch;
      }
}

/* Turns scores into exp(S - m) for the new maximum m and brings o and sum down to it. */
template <int D, int row_tiles, int columns>
DEVICE void soften(Rows<D, row_tiles> &rows, float (&s)[row_tiles][columns][4], float scale_log2) {
#pragma unroll
  for (int m = 0; m < row_tiles; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float highest = rows.max[m][half];
#pragma unroll
      for (int n = 0; n < columns; n++)
        highest = fmaxf(highest, fmaxf(s[m][n][2 * half], s[m][n][2 * half + 1]));
      highest = fmaxf(highest, warp_shuffle_xor(highest, 1));
      highest = fmaxf(highest, warp_shuffle_xor(highest, 2));
      float shrink = fast_exp2((rows.max[m][half] - highest) * scale_log2), offset = highest * scale_log2;
      float sum = rows.sum[m][half] * shrink;
#pragma unroll
      for (int n = 0; n < columns; n++)
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; i++) {
          s[m][n][i] = fast_exp2(s[m][n][i] * scale_log2 - offset);
          sum += s[m][n][i];
        }
      if (warp_any(shrink != 1.0f)) { /* a maximum moves seldom once the first tiles have been seen */
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
          rows.o[m][n][2 * half] *= shrink;
          rows.o[m][n][2 * half + 1] *= shrink;
        }
      }
      rows.max[m][half] = highest;
      rows.sum[m][half] = sum;
    }
}

template <int D, int row_tiles, bool branched>
__global__ void __launch_bounds__(Forward<D, row_tiles>::threads, Forward<D, row_tiles>::blocks)
    attention_forward(Attention op, int tiles, float scale_log2) {
  typedef Forward<D, row_tiles> F;
  DYNAMIC_SHARED(shared);
  unsigned char *q_tile = shared, *stages = shared + F::query_bytes;

  Place place = place_of(op.sequences, op.heads, tiles, true);
  int first_query = place.tile * F::queries;
  if (first_query >= place.length) return;
  int d = op.head_dim, stride = (op.heads + 2 * op.kv_heads) * d;
  int kv_head = place.head / (op.heads / op.kv_heads);
  const bf16 *sequence = static_cast<const bf16 *>(op.qkv) + static_cast<ptrdiff_t>(place.begin) * stride;
  const bf16 *q = sequence + static_cast<ptrdiff_t>(first_query) * stride + place.head * d;

  Branches branches = branches_of<branched>(op.sequences, place);
  KeyTiles tiles_seen = key_tiles<F::keys>(op, place, branches, first_query, F::queries);
  int warp_row = warp_index() * row_tiles * 16, first_row = first_query + warp_row;

  load_tile<D, F::queries>(q_tile, q, stride, place.length - first_query, d);
  load_keys<D, F::keys>(stages, op, place.begin, place.length, kv_head, tiles_seen.at(0), tiles_seen.prefix);
  copy_async_commit();

  Rows<D, row_tiles> rows;
#pragma unroll
  for (int m = 0; m < row_tiles; m++) {
#pragma unroll
    for (int n = 0; n < D / 8; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) rows.o[m][n][i] = 0.0f;
    rows.max[m][0] = rows.max[m][1] = -INFINITY;
    rows.sum[m][0] = rows.sum[m][1] = 0.0f;
  }
  int starts[row_tiles][2];
  if (branched) load_branches(starts, branches, first_row, place.length);

  for (int j = 0; j < tiles_seen.count; j++) {
    copy_async_wait<0>();
    block_sync(); /* tile j is there for all, and nobody reads the stage of tile j - 1 any more */
    if (j + 1 < tiles_seen.count) {
      load_keys<D, F::keys>(stages + (j + 1) % 2 * F::stage_bytes, op, place.begin, place.length, kv_head,
                            tiles_seen.at(j + 1), tiles_seen.prefix);
      copy_async_commit();
    }
    int tile = tiles_seen.at(j);
    bool own = tile >= tiles_seen.prefix; /* keys of the sequence, not of the prefix */
    int first_key = (own ? tile - tiles_seen.prefix : tile) * F::keys;
    int last =
        own ? (op.full ? place.length - 1 : first_row) : op.prefix_len - 1; /* that the first row sees */
    /* All in the future of this warp's rows, or no rows. */
    if ((own && first_key > last + row_tiles * 16 - 1) || first_row >= place.length) continue;
    const unsigned char *k_tile = stages + j % 2 * F::stage_bytes;
    float s[row_tiles][F::keys / 8][4] = {};
    multiply_transposed<D, row_tiles, F::keys>(s, q_tile, warp_row, k_tile);
    if (first_key + F::keys - 1 > last) mask_beyond(s, last, own && !op.full, first_key);
    if (branched && own) mask_branches(s, starts, branches.shared, first_key);
    soften(rows, s, scale_log2);
    multiply_registers<D, row_tiles, F::keys>(rows.o, s, k_tile + F::key_bytes);
  }

  float inverse[row_tiles][2];
#pragma unroll
  for (int m = 0; m < row_tiles; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float sum = rows.sum[m][half];
      sum += warp_shuffle_xor(sum, 1);
      sum += warp_shuffle_xor(sum, 2);
      inverse[m][half] = 1.0f / sum;
      int row = first_row + m * 16 + half * 8 + lane_index() / 4;
      if (op.lse && lane_index() % 4 == 0 && row < place.length)
        op.lse[static_cast<ptrdiff_t>(place.head) * op.sequences.tokens + place.begin + row] =
            (rows.max[m][half] * scale_log2 + fast_log2(sum)) * ln_2;
    }
  int out_stride = op.heads * d;
  bf16 *out = static_cast<bf16 *>(op.out) + static_cast<ptrdiff_t>(place.begin) * out_stride + place.head * d;
  store_rows<D, row_tiles>(out, out_stride, first_row, place.length, d, rows.o, inverse);
}

template <int D, int row_tiles>
void forward(Backend *backend, const Attention &op) {
  typedef Forward<D, row_tiles> F;
  int tiles = ceil_div(op.sequences.max_len, static_cast<int>(F::queries));
  float scale_log2 = log2_e / sqrtf(static_cast<float>(op.head_dim));
  launch(cuda_state(backend),
         {"attention_forward", place_blocks(op.sequences, op.heads, tiles), F::threads, F::shared_bytes},
         op.sequences.branch ? attention_forward<D, row_tiles, true> : attention_forward<D, row_tiles, false>,
         op, tiles, scale_log2);
}

template <int D>
void forward(Backend *backend, const Attention &op) {
  if (op.sequences.max_len <= short_length)
    forward<D, 1>(backend, op);
  else
    forward<D, 2>(backend, op);
}

}  // namespace

void cuda_attention_portable(Backend *backend, const Attention *op) {
  if (!attention_head_dim_fits(backend, op->head_dim, "attention: head_dim is not a multiple of 8 up to 128"))
    return;
  if (op->head_dim <= 32)
    forward<32>(backend, *op);
  else if (op->head_dim <= 64)
    forward<64>(backend, *op);
  else
    forward<128>(backend, *op);
}

void cuda_attention(Backend *backend, const Attention *op) {
  if (!cuda_attention_hopper(backend, op)) cuda_attention_portable(backend, op);
}

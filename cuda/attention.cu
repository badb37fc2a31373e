/* Causal attention over packed ragged sequences, forward (Dao et al. 2022, Dao 2023: online softmax over
 * tiles of keys): S = q K^T / sqrt(d),  m_i = max_j S_ij,  l_i = sum_j exp(S_ij - m_i),  O_i = sum_j exp(S_ij
 * - m_i) V_j / l_i, lse_i = m_i + ln l_i,  j <= i
 *
 * Shapes: qkv [N, (Hq + 2 Hkv) d] bf16, out [N, Hq d] bf16, lse [Hq, N] fp32; query head h reads key-value
 * head h / (Hq / Hkv). A block takes 128 queries of one head, a warp 32 of them, and goes over the keys from
 * the first to its diagonal in tiles of 64: the next tile's K and V are copied (cp.async) while the products
 * of this one run on the tensor cores. P stays in registers between the two products. Key 0 is visible to
 * every query and comes first, so that the running maximum is finite from the first tile on; rows beyond the
 * sequence's end are computed on zeros and not written. Lower bound: 2 Hq d sum T^2 operations (the causal
 * half of 4 Hq d T^2), 4 d (Hq + Hkv) sum T bytes. */
#include "attention_tile.cuh"

namespace {

template <int D>
struct Forward {
  static const int warps = 4, row_tiles = 2, keys = 64;
  static const int threads = warps * 32, queries = warps * row_tiles * 16;
  static const int query_bytes = queries * D * 2, key_bytes = keys * D * 2,
                   stage_bytes = 2 * key_bytes; /* K, then V */
  static const int shared_bytes = query_bytes + 2 * stage_bytes;
};

/* The state of a warp's rows: a thread holds rows lane / 4 and lane / 4 + 8 of each 16, and of these 2 of
 * every 8 columns. */
template <int D>
struct Rows {
  static const int row_tiles = Forward<D>::row_tiles;
  float o[row_tiles][D / 8][4];
  float max[row_tiles][2]; /* of the unscaled scores */
  float sum[row_tiles][2]; /* this thread's columns only */
};

template <int D>
DEVICE void mask_future(float (&s)[Forward<D>::row_tiles][Forward<D>::keys / 8][4], int first_row,
                        int first_key) {
  int lane = lane_index();
#pragma unroll
  for (int m = 0; m < Forward<D>::row_tiles; m++)
#pragma unroll
    for (int n = 0; n < Forward<D>::keys / 8; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        int row = first_row + m * 16 + i / 2 * 8 + lane / 4, key = first_key + n * 8 + lane % 4 * 2 + i % 2;
        if (key > row) s[m][n][i] = -INFINITY;
      }
}

/* Turns scores into exp(S - m) for the new maximum m and brings o and sum down to it. */
template <int D>
DEVICE void soften(Rows<D> &rows, float (&s)[Forward<D>::row_tiles][Forward<D>::keys / 8][4],
                   float scale_log2) {
#pragma unroll
  for (int m = 0; m < Forward<D>::row_tiles; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float highest = rows.max[m][half];
#pragma unroll
      for (int n = 0; n < Forward<D>::keys / 8; n++)
        highest = fmaxf(highest, fmaxf(s[m][n][2 * half], s[m][n][2 * half + 1]));
      highest = fmaxf(highest, warp_shuffle_xor(highest, 1));
      highest = fmaxf(highest, warp_shuffle_xor(highest, 2));
      float shrink = fast_exp2((rows.max[m][half] - highest) * scale_log2), offset = highest * scale_log2;
      float sum = rows.sum[m][half] * shrink;
#pragma unroll
      for (int n = 0; n < Forward<D>::keys / 8; n++)
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; i++) {
          s[m][n][i] = fast_exp2(s[m][n][i] * scale_log2 - offset);
          sum += s[m][n][i];
        }
#pragma unroll
      for (int n = 0; n < D / 8; n++) {
        rows.o[m][n][2 * half] *= shrink;
        rows.o[m][n][2 * half + 1] *= shrink;
      }
      rows.max[m][half] = highest;
      rows.sum[m][half] = sum;
    }
}

template <int D>
__global__ void __launch_bounds__(Forward<D>::threads)
    attention_forward(Attention op, int tiles, float scale_log2) {
  typedef Forward<D> F;
  DYNAMIC_SHARED(shared);
  unsigned char *q_tile = shared, *stages = shared + F::query_bytes;

  Place place = place_of(op.sequences, op.heads, tiles, true);
  int first_query = place.tile * F::queries;
  if (first_query >= place.length) return;
  size_t d = static_cast<size_t>(op.head_dim), heads = static_cast<size_t>(op.heads);
  size_t kv_heads = static_cast<size_t>(op.kv_heads), stride = (heads + 2 * kv_heads) * d;
  size_t head = static_cast<size_t>(place.head), kv_head = head / (heads / kv_heads);
  const bf16 *sequence = static_cast<const bf16 *>(op.qkv) + static_cast<size_t>(place.begin) * stride;
  const bf16 *q = sequence + static_cast<size_t>(first_query) * stride + head * d;
  const bf16 *k = sequence + (heads + kv_head) * d, *v = k + kv_heads * d;

  int key_end = first_query + F::queries < place.length ? first_query + F::queries : place.length;
  int key_tiles = ceil_div(key_end, F::keys);
  int warp_row = warp_index() * F::row_tiles * 16, first_row = first_query + warp_row;

  load_tile<D, F::queries>(q_tile, q, stride, place.length - first_query, op.head_dim);
  load_tile<D, F::keys>(stages, k, stride, place.length, op.head_dim);
  load_tile<D, F::keys>(stages + F::key_bytes, v, stride, place.length, op.head_dim);
  copy_async_commit();

  Rows<D> rows;
#pragma unroll
  for (int m = 0; m < F::row_tiles; m++) {
#pragma unroll
    for (int n = 0; n < D / 8; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) rows.o[m][n][i] = 0.0f;
    rows.max[m][0] = rows.max[m][1] = -INFINITY;
    rows.sum[m][0] = rows.sum[m][1] = 0.0f;
  }

  for (int j = 0; j < key_tiles; j++) {
    copy_async_wait<0>();
    block_sync(); /* tile j is there for all, and nobody reads the stage of tile j - 1 any more */
    if (j + 1 < key_tiles) {
      unsigned char *stage = stages + (j + 1) % 2 * F::stage_bytes;
      size_t row = static_cast<size_t>(j + 1) * F::keys;
      int valid = place.length - (j + 1) * F::keys;
      load_tile<D, F::keys>(stage, k + row * stride, stride, valid, op.head_dim);
      load_tile<D, F::keys>(stage + F::key_bytes, v + row * stride, stride, valid, op.head_dim);
      copy_async_commit();
    }
    int first_key = j * F::keys;
    if (first_key > first_row + F::row_tiles * 16 - 1) continue; /* all in the future of this warp's rows */
    const unsigned char *k_tile = stages + j % 2 * F::stage_bytes;
    float s[F::row_tiles][F::keys / 8][4] = {};
    multiply_transposed<D, F::row_tiles, F::keys>(s, q_tile, warp_row, k_tile);
    if (first_key + F::keys - 1 > first_row) mask_future<D>(s, first_row, first_key);
    soften<D>(rows, s, scale_log2);
    multiply_registers<D, F::row_tiles, F::keys>(rows.o, s, k_tile + F::key_bytes);
  }

  float inverse[F::row_tiles][2];
#pragma unroll
  for (int m = 0; m < F::row_tiles; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float sum = rows.sum[m][half];
      sum += warp_shuffle_xor(sum, 1);
      sum += warp_shuffle_xor(sum, 2);
      inverse[m][half] = 1.0f / sum;
      int row = first_row + m * 16 + half * 8 + lane_index() / 4;
      if (op.lse && lane_index() % 4 == 0 && row < place.length)
        op.lse[head * static_cast<size_t>(op.sequences.tokens) + static_cast<size_t>(place.begin + row)] =
            (rows.max[m][half] * scale_log2 + fast_log2(sum)) * ln_2;
    }
  bf16 *out = static_cast<bf16 *>(op.out) + static_cast<size_t>(place.begin) * heads * d + head * d;
  store_rows<D, F::row_tiles>(out, heads * d, first_row, place.length, op.head_dim, rows.o, inverse);
}

template <int D>
void forward(Backend *backend, const Attention &op) {
  typedef Forward<D> F;
  int tiles = ceil_div(op.sequences.max_len, static_cast<int>(F::queries));
  float scale_log2 = log2_e / sqrtf(static_cast<float>(op.head_dim));
  launch(cuda_state(backend),
         {"attention_forward", place_blocks(op.sequences, op.heads, tiles), F::threads, F::shared_bytes},
         attention_forward<D>, op, tiles, scale_log2);
}

}  // namespace

void cuda_attention(Backend *backend, const Attention *op) {
  if (!attention_head_dim_fits(backend, op->head_dim, "attention: head_dim is not a multiple of 8 up to 128"))
    return;
  if (op->head_dim <= 32)
    forward<32>(backend, *op);
  else if (op->head_dim <= 64)
    forward<64>(backend, *op);
  else
    forward<128>(backend, *op);
}

/* Attention of one new token a sequence against cached keys and values, and the copy of keys and values into
 * the cache. out = sum_j exp(S_j - m) V_j / sum_j exp(S_j - m),  S_j = q K_j / sqrt(d), j over the prefix's
 * keys (shared by all), the post's (shared by its samples), then the reply's own, the new token's included
 *
 * Shapes: qkv [rows, (Hq + 2 Hkv) d], caches of rows [2 Hkv d] (keys, then values of all heads), out [rows,
 * Hq d], all bf16. A block takes one query head of one row. D / 8 lanes share a key (16 bytes each), so that
 * a warp has 32 / (D / 8) keys, twice, in flight; every group of lanes keeps an online softmax of its own,
 * merged at the end in a fixed order. The query heads of a group read the same keys in neighbouring blocks:
 * from memory once, then from the L2. Lower bound: 4 Hkv d bytes a row and key; 4 Hq d operations: memory
 * bounds it. kv_store: 8 Hkv d bytes a row. */
#include "attention_tile.cuh"

namespace {

const int warps = 4, threads = warps * 32;
const int unroll = 2; /* keys that a group of lanes loads before it computes */

/* A softmax on the way: sums over the keys so far, of exp2(S - max). S is in units of log 2. */
struct Running {
  float max, sum, o[8];
};

/* exp2(from - to), 0 for the softmax of no keys at all. */
DEVICE float shrink(float from, float to) { return from == -INFINITY ? 0.0f : fast_exp2(from - to); }

DEVICE void merge(Running &a, float max, float sum, const float (&o)[8]) {
  float highest = fmaxf(a.max, max), keep = shrink(a.max, highest), add = shrink(max, highest);
  a.max = highest;
  a.sum = a.sum * keep + sum * add;
#pragma unroll
  for (int i = 0; i < 8; i++) a.o[i] = a.o[i] * keep + o[i] * add;
}

/* The row of key j, in the prefix or in a cache. */
DEVICE const bf16 *cache_row(const AttentionDecode &op, int row, int post_begin, int post_len, int j) {
  size_t width = 2 * static_cast<size_t>(op.kv_heads) * static_cast<size_t>(op.head_dim);
  if (j < op.prefix_len) return static_cast<const bf16 *>(op.prefix) + static_cast<size_t>(j) * width;
  j -= op.prefix_len;
  if (j < post_len)
    return static_cast<const bf16 *>(op.post_cache) + static_cast<size_t>(post_begin + j) * width;
  size_t slot = static_cast<size_t>(op.slot[row]) * static_cast<size_t>(op.max_reply);
  return static_cast<const bf16 *>(op.reply_cache) + (slot + static_cast<size_t>(j - post_len)) * width;
}

template <int D>
__global__ void __launch_bounds__(threads) attention_decode(AttentionDecode op, float scale_log2) {
  const int lanes = D / 8, groups = threads / lanes; /* lanes a key; keys side by side in the block */
  SHARED(float, partial, [warps][D + 2]);
  int row = static_cast<int>(blockIdx.x) / op.heads, head = static_cast<int>(blockIdx.x) % op.heads;
  int kv_head = head / (op.heads / op.kv_heads);
  int post = op.post[row], post_begin = op.post_cu_seqlens[post];
  int post_len = op.post_cu_seqlens[post + 1] - post_begin;
  int keys = op.prefix_len + post_len + op.reply_len[row];
  int group = static_cast<int>(threadIdx.x) / lanes, column = static_cast<int>(threadIdx.x) % lanes * 8;
  bool inside = column < op.head_dim;

  size_t d = static_cast<size_t>(op.head_dim), heads = static_cast<size_t>(op.heads);
  size_t kv_heads = static_cast<size_t>(op.kv_heads), r = static_cast<size_t>(row);
  size_t k_at = static_cast<size_t>(kv_head) * d + static_cast<size_t>(column), v_at = k_at + kv_heads * d;
  float q[8] = {};
  if (inside)
    load8(static_cast<const bf16 *>(op.qkv) + r * (heads + 2 * kv_heads) * d + static_cast<size_t>(head) * d +
              column,
          q);
#pragma unroll
  for (int i = 0; i < 8; i++) q[i] *= scale_log2;

  Running running = {-INFINITY, 0.0f, {}};
  for (int first = 0; first < keys; first += groups * unroll) {
    float k[unroll][8] = {}, v[unroll][8] = {};
#pragma unroll
    for (int u = 0; u < unroll; u++) {
      int j = first + u * groups + group;
      if (j >= keys || !inside) continue;
      const bf16 *cached = cache_row(op, row, post_begin, post_len, j);
      load8(cached + k_at, k[u]);
      load8(cached + v_at, v[u]);
    }
#pragma unroll
    for (int u = 0; u < unroll; u++) {
      float score = 0.0f;
#pragma unroll
      for (int i = 0; i < 8; i++) score += q[i] * k[u][i];
#pragma unroll
      for (int mask = lanes / 2; mask > 0; mask /= 2) score += warp_shuffle_xor(score, mask);
      if (first + u * groups + group < keys) merge(running, score, 1.0f, v[u]);
    }
  }

#pragma unroll
  for (int mask = lanes; mask < 32; mask *= 2) {
    float max = warp_shuffle_xor(running.max, mask), sum = warp_shuffle_xor(running.sum, mask), o[8];
#pragma unroll
    for (int i = 0; i < 8; i++) o[i] = warp_shuffle_xor(running.o[i], mask);
    merge(running, max, sum, o);
  }
  if (lane_index() < lanes) {
    float *mine = partial[warp_index()];
#pragma unroll
    for (int i = 0; i < 8; i++) mine[column + i] = running.o[i];
    if (lane_index() == 0) {
      mine[D] = running.max;
      mine[D + 1] = running.sum;
    }
  }
  block_sync();
  int c = static_cast<int>(threadIdx.x);
  if (c >= op.head_dim) return;
  float highest = -INFINITY, sum = 0.0f, o = 0.0f;
  for (int w = 0; w < warps; w++) highest = fmaxf(highest, partial[w][D]);
  for (int w = 0; w < warps; w++) {
    float factor = shrink(partial[w][D], highest);
    sum += partial[w][D + 1] * factor;
    o += partial[w][c] * factor;
  }
  static_cast<bf16 *>(op.out)[r * heads * d + static_cast<size_t>(head) * d + static_cast<size_t>(c)] =
      to_bf16(o / sum);
}

__global__ void __launch_bounds__(threads) kv_store(KvStore op) {
  size_t d = static_cast<size_t>(op.head_dim), width = 2 * static_cast<size_t>(op.kv_heads) * d;
  size_t queries = static_cast<size_t>(op.heads) * d;
  size_t i = (static_cast<size_t>(blockIdx.x) * threads + threadIdx.x) * 8, from_row = i / width,
         column = i % width;
  if (from_row >= static_cast<size_t>(op.rows)) return;
  size_t to_row = op.row ? static_cast<size_t>(op.row[from_row]) : from_row;
  const bf16 *from = static_cast<const bf16 *>(op.qkv) + from_row * (queries + width) + queries + column;
  store16(static_cast<bf16 *>(op.cache) + to_row * width + column, load16(from));
}

template <int D>
void decode(Backend *backend, const AttentionDecode &op) {
  unsigned blocks = static_cast<unsigned>(op.rows) * static_cast<unsigned>(op.heads);
  float scale_log2 = log2_e / sqrtf(static_cast<float>(op.head_dim));
  launch(cuda_state(backend), {"attention_decode", blocks, threads, 0}, attention_decode<D>, op, scale_log2);
}

}  // namespace

void cuda_attention_decode(Backend *backend, const AttentionDecode *op) {
  if (!attention_head_dim_fits(backend, op->head_dim,
                               "attention_decode: head_dim is not a multiple of 8 up to 128"))
    return;
  if (op->head_dim <= 32)
    decode<32>(backend, *op);
  else if (op->head_dim <= 64)
    decode<64>(backend, *op);
  else
    decode<128>(backend, *op);
}

void cuda_kv_store(Backend *backend, const KvStore *op) {
  if (!attention_head_dim_fits(backend, op->head_dim, "kv_store: head_dim is not a multiple of 8 up to 128"))
    return;
  size_t chunks = static_cast<size_t>(op->rows) * 2 * static_cast<size_t>(op->kv_heads) *
                  static_cast<size_t>(op->head_dim) / 8;
  unsigned blocks = static_cast<unsigned>(ceil_div(chunks, static_cast<size_t>(threads)));
  launch(cuda_state(backend), {"kv_store", blocks, threads, 0}, kv_store, *op);
}

/* dq of attention_backward_hopper.cu where rows are longer than its tile of keys, or there is a prefix: dS =
 * P (dP - delta), dq = dS K / sqrt(d), S and dP computed again.
 *
 * An item is a head and a tile of 64 queries for each consumer warpgroup. The producer loads q and dout (two
 * buffers) and then blocks of 64 keys, K and V in one ring, from the diagonal (if full, the sequence's last
 * block) down to key 0, and those of the prefix. A consumer has S = q K^T and dP = dO V^T computed, and dS
 * goes from registers to registers into dq += dS K, which runs while the next block begins. */
#include "attention_hopper.cuh"

namespace {

template <int D>
struct Queries {
  static const int consumers = D == 64 ? 3 : 2, threads = (consumers + 1) * warpgroup;
  enum { producer_registers = D == 64 ? 32 : 24, consumer_registers = D == 64 ? 160 : 240 };
  static const int queries = consumers * 64, keys = 64, q_stages = 2, stages = D == 64 ? 4 : 3;
  static const int query_bytes = queries * D * 2, key_bytes = keys * D * 2;
  static const int barriers = 2 * (q_stages + stages);
  static const int shared_bytes = 2 * q_stages * query_bytes + 2 * stages * key_bytes + barriers * 8;
};

template <int D>
struct Shared {
  typedef Queries<D> Q;
  unsigned char *queries, *keys;
  Ring<Q::q_stages> q_ring;
  Ring<Q::stages> kv_ring;

  DEVICE unsigned char *q(int count) const { return queries + count % Q::q_stages * (2 * Q::query_bytes); }
  DEVICE unsigned char *dout(int count) const { return q(count) + Q::query_bytes; }
  DEVICE unsigned char *k(int count) const { return keys + count % Q::stages * (2 * Q::key_bytes); }
  DEVICE unsigned char *v(int count) const { return k(count) + Q::key_bytes; }
};

template <int D>
DEVICE Shared<D> lay_out(unsigned char *shared) {
  typedef Queries<D> Q;
  unsigned char *keys = shared + 2 * Q::q_stages * Q::query_bytes;
  MBarrier *barriers = reinterpret_cast<MBarrier *>(keys + 2 * Q::stages * Q::key_bytes);
  return {shared, keys, {barriers}, {barriers + 2 * Q::q_stages}};
}

/* One thread: keeps the rings full. */
template <int D, bool branched>
DEVICE void produce(const TensorMap &qkv, const TensorMap &prefix, const TensorMap &dout,
                    const AttentionBackward &op, int tiles, const Shared<D> &shared) {
  typedef Queries<D> Q;
  int tokens = op.sequences.tokens, q_count = 0, count = 0;
  QueryItem item;
  for (int turn = 0; more_work(op.sequences, op.heads, tiles, turn); turn++) {
    if (!query_item<Q::queries, Q::keys, branched>(op, tiles, turn, item)) continue;
    int end = item.begin + item.length, row = item.begin + item.first_query, column = item.head * D;
    MBarrier *full = shared.q_ring.fill(q_count, 2 * Q::query_bytes);
    load_boxes<D, Q::queries>(shared.q(q_count), qkv, tokens, column, row, end, full);
    load_boxes<D, Q::queries>(shared.dout(q_count), dout, tokens, column, row, end, full);
    q_count++;
    for (int i = 0; i < item.blocks; i++, count++) {
      KeyRows k = key_rows<D, Q::keys>(op, item, i, qkv, prefix);
      full = shared.kv_ring.fill(count, 2 * Q::key_bytes);
      load_boxes<D, Q::keys>(shared.k(count), k.map, k.rows, k.column, k.row, k.row_end, full);
      load_boxes<D, Q::keys>(shared.v(count), k.map, k.rows, k.column + op.kv_heads * D, k.row, k.row_end,
                             full);
    }
  }
}

/* From S (unscaled): P. lse is times log2 e. */
template <int columns>
DEVICE void probabilities(float (&s)[columns][4], const float (&lse)[2], float scale_log2) {
#pragma unroll
  for (int n = 0; n < columns; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) s[n][i] = fast_exp2(s[n][i] * scale_log2 - lse[i / 2]);
}

/* One item by one consumer warpgroup: the q_count-th, whose blocks are counted from first on. */
template <int D, bool branched>
DEVICE void consume(const AttentionBackward &op, const float *delta, const QueryItem &item,
                    const Shared<D> &shared, int q_count, int first, int consumer, float scale) {
  typedef Queries<D> Q;
  int top = item.first_query + consumer * 64, first_row = top + warp_index() % 4 * 16;
  int count = first, end = first + item.blocks, prefix_first = first + item.own_blocks;
  int begin = first + item.first_seen(top, Q::keys, op.full);
  shared.q_ring.wait_full(q_count);
  for (; count < begin; count++) { /* blocks that these rows do not see */
    shared.kv_ring.wait_full(count);
    shared.kv_ring.release(count);
  }
  if (count == end) {
    shared.q_ring.release(q_count);
    return;
  }
  float lse[2], deltas[2];
  ptrdiff_t at = static_cast<ptrdiff_t>(item.head) * op.sequences.tokens + item.begin;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int row = first_row + half * 8 + lane_index() / 4;
    lse[half] = row < item.length ? op.lse[at + row] * log2_e : INFINITY;
    deltas[half] = row < item.length ? delta[at + row] : 0.0f;
  }
  const unsigned char *q = shared.q(q_count) + consumer * 64 * 128,
                      *dout = shared.dout(q_count) + consumer * 64 * 128;
  float s[Q::keys / 8][4], dp[Q::keys / 8][4], dq[D / 8][4] = {};
  uint32_t ds[Q::keys / 16][4];
  wgmma_settle(dq);

  int seen = warp_index() % 4 * 16 + lane_index() / 4 + 1,
      all = item.length - (item.own_blocks - 1) * Q::keys;
  OtherBranches others = {};
  if (branched) others = other_branches(item.branches, first_row, item.length);
  shared.kv_ring.wait_full(count);
  for (int i = count; i < end; i++) {
    wgmma_fence();
    multiply_transposed_async<D, Q::keys, Q::queries, Q::keys>(s, q, shared.k(i));
    wgmma_commit();
    multiply_transposed_async<D, Q::keys, Q::queries, Q::keys>(dp, dout, shared.v(i));
    wgmma_commit();
    wgmma_wait<1>(); /* S, and dq of the block before */
    wgmma_settle(s);
    if (i > count) shared.kv_ring.release(i - 1);
    if (i == count) mask(s, op.full ? all : seen, op.full ? all : seen + 8);
    int prefix_left = op.prefix_len - (i - prefix_first) * Q::keys;
    if (i >= prefix_first && prefix_left < Q::keys) mask(s, prefix_left, prefix_left);
    if (branched) mask_branches(s, others, item.own_block(i - first) * Q::keys);
    probabilities(s, lse, scale * log2_e);
    wgmma_settle(s);
    /* Branches: the compiler would move the exponentials behind the wait for dP. */
    if (i + 1 < end) shared.kv_ring.wait_full(i + 1);
    wgmma_wait<0>();
    wgmma_settle(dp);
#pragma unroll
    for (int n = 0; n < Q::keys / 8; n++)
#pragma unroll
      for (int j = 0; j < 4; j++) dp[n][j] = s[n][j] * (dp[n][j] - deltas[j / 2]);
    pack_fragments(ds, dp);
    wgmma_fence();
    multiply_registers_async<D, Q::keys, Q::keys>(dq, ds, shared.k(i));
    wgmma_commit();
  }
  shared.q_ring.release(q_count);
  wgmma_wait<0>();
  wgmma_settle(dq);
  shared.kv_ring.release(end - 1);
  int stride = (op.heads + 2 * op.kv_heads) * D;
  bf16 *to = static_cast<bf16 *>(op.dqkv) + static_cast<ptrdiff_t>(item.begin) * stride + item.head * D;
  const float scales[2] = {scale, scale};
  store_wide<D>(to, stride, first_row, item.length, dq, scales);
}

template <int D, bool branched>
__global__ void __launch_bounds__(Queries<D>::threads, 1)
    attention_backward_queries_hopper(const __grid_constant__ TensorMap qkv,
                                      const __grid_constant__ TensorMap prefix,
                                      const __grid_constant__ TensorMap dout, AttentionBackward op,
                                      const float *delta, int tiles, float scale) {
  if constexpr (hopper_device) {
    typedef Queries<D> Q;
    DYNAMIC_SHARED(bytes);
    Shared<D> shared = lay_out<D>(bytes);
    if (threadIdx.x == 0) {
      shared.q_ring.init(1, Q::consumers * 4);
      shared.kv_ring.init(1, Q::consumers * 4);
      mbarrier_init_fence();
    }
    block_sync();
    int role = warpgroup_index(); /* 0: the producer */
    if (role == 0) {
      registers_give<Q::producer_registers>();
      if (threadIdx.x == 0) produce<D, branched>(qkv, prefix, dout, op, tiles, shared);
    } else {
      registers_take<Q::consumer_registers>();
      QueryItem item;
      int q_count = 0, count = 0;
      for (int turn = 0; more_work(op.sequences, op.heads, tiles, turn); turn++) {
        if (!query_item<Q::queries, Q::keys, branched>(op, tiles, turn, item)) continue;
        consume<D, branched>(op, delta, item, shared, q_count, count, role - 1, scale);
        q_count++;
        count += item.blocks;
      }
    }
  }
}

template <int D>
void backward_queries(CudaState *state, const TensorMap &qkv, const TensorMap &prefix, const TensorMap &dout,
                      const AttentionBackward &op, const float *delta) {
  typedef Queries<D> Q;
  int tiles = ceil_div(op.sequences.max_len, static_cast<int>(Q::queries));
  launch(state,
         {"attention_backward_queries_hopper", work_blocks(state, op.sequences, op.heads, tiles), Q::threads,
          Q::shared_bytes},
         op.sequences.branch ? attention_backward_queries_hopper<D, true>
                             : attention_backward_queries_hopper<D, false>,
         qkv, prefix, dout, op, delta, tiles, 1.0f / sqrtf(static_cast<float>(D)));
}

}  // namespace

void attention_backward_queries(CudaState *state, const TensorMap &qkv, const TensorMap &prefix,
                                const TensorMap &dout, const AttentionBackward &op, const float *delta) {
  if (op.head_dim == 64)
    backward_queries<64>(state, qkv, prefix, dout, op, delta);
  else
    backward_queries<128>(state, qkv, prefix, dout, op, delta);
}

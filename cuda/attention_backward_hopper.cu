/* Attention backward for compute capability 9.0: the formula, the shapes and the lower bound of
 * attention_backward.cu, which gives it delta and sums the prefix's own gradient; bf16, head_dim 64 or 128,
 * causal or full, with branches. No atomics: the bits never depend on the order of blocks.
 *
 * keys: an item is a key-value head and a tile of 64 keys for each consumer warpgroup (192 in all for d = 64,
 * 128 for d = 128). The producer loads K and V once and then a ring of steps of 64 queries, q and dout, for
 * each head of the group; a second producer warp puts their lse and delta beside them. A consumer computes
 * the transposed S^T = K q^T and dP^T = V dO^T, whose registers feed dV += P^T dO and dK += dS^T q; while
 * these run, the next step begins.
 *
 * Where no sequence is longer than the tile, one item has all keys of its rows, and dq is complete when a
 * step is: dS^T goes to shared memory, the consumers meet, and one of them, in turn, computes dq = dS K and
 * writes it. 5 products, each tensor read once.
 *
 * Otherwise, or where the keys of a prefix are seen too, queries, of attention_backward_queries_hopper.cu,
 * computes dq by itself: 7 products in all, the price of a fixed order without a second copy of dq. */
#include <limits.h>

#include "attention_hopper.cuh"

namespace {

template <int D>
struct Backward {
  static const int consumers = D == 64 ? 3 : 2, threads = (consumers + 1) * warpgroup;
  enum { producer_registers = D == 64 ? 32 : 40, consumer_registers = D == 64 ? 160 : 232 };
  static const int keys = consumers * 64, step = 64, stages = D == 64 ? 3 : 2;
  static const int kv_stages =
      D == 64 ? 2 : 1; /* of K and V; the next item's come while this one is computed */
  static const int key_bytes = keys * D * 2, step_bytes = step * D * 2, score_bytes = keys * step * 2;
  static const int row_bytes = 3 * step * 4; /* lse, delta and the branch's start, of a step's queries */
  static const int barriers = 2 * (kv_stages + stages);
  static const int shared_bytes = 2 * kv_stages * key_bytes + 2 * stages * step_bytes + 2 * score_bytes +
                                  stages * row_bytes + barriers * 8;
};

template <int D>
struct Shared {
  typedef Backward<D> B;
  unsigned char *keys, *steps, *scores, *rows;
  Ring<B::kv_stages> kv_ring;
  Ring<B::stages> step_ring;

  DEVICE unsigned char *k(int count) const { return keys + count % B::kv_stages * (2 * B::key_bytes); }
  DEVICE unsigned char *v(int count) const { return k(count) + B::key_bytes; }
  DEVICE unsigned char *q(int count) const { return steps + count % B::stages * (2 * B::step_bytes); }
  DEVICE unsigned char *dout(int count) const { return q(count) + B::step_bytes; }
  DEVICE unsigned char *ds(int count) const { return scores + count % 2 * B::score_bytes; }
  DEVICE float *lse(int count) const {
    return reinterpret_cast<float *>(rows + count % B::stages * B::row_bytes);
  }
  DEVICE float *delta(int count) const { return lse(count) + B::step; }
  DEVICE int *starts(int count) const { return reinterpret_cast<int *>(delta(count) + B::step); }
};

template <int D>
DEVICE Shared<D> lay_out(unsigned char *shared) {
  typedef Backward<D> B;
  unsigned char *steps = shared + B::kv_stages * 2 * B::key_bytes,
                *scores = steps + B::stages * 2 * B::step_bytes;
  unsigned char *rows = scores + 2 * B::score_bytes;
  MBarrier *barriers = reinterpret_cast<MBarrier *>(rows + B::stages * B::row_bytes);
  return {shared, steps, scores, rows, {barriers}, {barriers + 2 * B::kv_stages}};
}

/* An item's steps: the queries from its first key (if full, from the sequence's first) up to the last that
 * sees one of its keys, for each head of its group. */
struct Item {
  int begin, length, first_key, first_query, kv_head, group, steps_a_head, steps;
  Branches branches;
};

template <int D, typename Sight>
DEVICE bool item_of(const AttentionBackward &op, int tiles, int turn, Item &item) {
  typedef Backward<D> B;
  Place work;
  if (!work_of(op.sequences, op.kv_heads, tiles, B::keys, false, turn, work)) return false;
  int first_key = work.tile * B::keys, group = op.heads / op.kv_heads;
  int first_query = Sight::full ? 0 : first_key, end = work.length;
  Branches branches = branches_of<Sight::branched>(op.sequences, work);
  if (Sight::branched) end = branch_rows_end(branches, first_key, first_key + B::keys - 1, end);
  int steps_a_head = ceil_div(end - first_query, static_cast<int>(B::step));
  item = {work.begin,   work.length,          first_key, first_query, work.head, group,
          steps_a_head, steps_a_head * group, branches};
  return true;
}

/* One thread: K and V of the items, q and dout of their steps. */
template <int D, typename Sight>
DEVICE void produce(const TensorMap &qkv, const TensorMap &dout, const AttentionBackward &op, int tiles,
                    const Shared<D> &shared) {
  typedef Backward<D> B;
  int tokens = op.sequences.tokens, kv_count = 0, count = 0;
  Item item;
  for (int turn = 0; more_work(op.sequences, op.kv_heads, tiles, turn); turn++) {
    if (!item_of<D, Sight>(op, tiles, turn, item)) continue;
    int end = item.begin + item.length, column = (op.heads + item.kv_head) * D;
    MBarrier *full = shared.kv_ring.fill(kv_count, 2 * B::key_bytes);
    load_boxes<D, B::keys>(shared.k(kv_count), qkv, tokens, column, item.begin + item.first_key, end, full);
    load_boxes<D, B::keys>(shared.v(kv_count), qkv, tokens, column + op.kv_heads * D,
                           item.begin + item.first_key, end, full);
    kv_count++;
    for (int i = 0; i < item.steps; i++, count++) {
      int head = item.kv_head * item.group + i / item.steps_a_head;
      int row = item.begin + item.first_query + i % item.steps_a_head * B::step;
      full = shared.step_ring.fill(count, 2 * B::step_bytes);
      load_boxes<D, B::step>(shared.q(count), qkv, tokens, head * D, row, end, full);
      load_boxes<D, B::step>(shared.dout(count), dout, tokens, head * D, row, end, full);
    }
  }
}

/* One warp: lse (times log2 e), delta and branches of the steps. Rows beyond the end get an infinite lse, so
 * that their P is 0. */
template <int D, typename Sight>
DEVICE void produce_rows(const AttentionBackward &op, const float *delta, int tiles,
                         const Shared<D> &shared) {
  typedef Backward<D> B;
  int count = 0;
  Item item;
  for (int turn = 0; more_work(op.sequences, op.kv_heads, tiles, turn); turn++) {
    if (!item_of<D, Sight>(op, tiles, turn, item)) continue;
    for (int i = 0; i < item.steps; i++, count++) {
      int head = item.kv_head * item.group + i / item.steps_a_head;
      ptrdiff_t at = static_cast<ptrdiff_t>(head) * op.sequences.tokens + item.begin;
      shared.step_ring.wait_empty(count);
      for (int r = lane_index(); r < B::step; r += 32) {
        int row = item.first_query + i % item.steps_a_head * B::step + r;
        bool valid = row < item.length;
        shared.lse(count)[r] = valid ? op.lse[at + row] * log2_e : INFINITY;
        shared.delta(count)[r] = valid ? delta[at + row] : 0.0f;
        if (Sight::branched) shared.starts(count)[r] = item.branches.of(valid ? row : item.length - 1);
      }
      shared.step_ring.filled(count);
    }
  }
}

/* From S^T (unscaled): P^T. On the diagonal, query c sees the keys up to its own: row of this thread's upper
 * key. */
template <int columns>
DEVICE void probabilities(float (&s)[columns][4], const float *lse, bool diagonal, float scale_log2) {
  int key = warp_index() % 4 * 16 + lane_index() / 4;
#pragma unroll
  for (int n = 0; n < columns; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      int query = n * 8 + lane_index() % 4 * 2 + i % 2;
      float p = fast_exp2(s[n][i] * scale_log2 - lse[query]);
      s[n][i] = diagonal && query < key + i / 2 * 8 ? 0.0f : p;
    }
}

/* Hides the keys of S^T, a warp's from first_key on, from queries whose branches start behind them, but for
 * the first `shared` keys. */
template <int columns>
DEVICE void mask_branches(float (&s)[columns][4], const int *starts, int shared, int first_key) {
  if (first_key + 16 <= shared || starts[columns * 8 - 1] <= first_key) return; /* starts never fall */
  int upper = first_key + lane_index() / 4, lower = upper + 8;
  upper = upper < shared ? INT_MAX : upper;
  lower = lower < shared ? INT_MAX : lower;
#pragma unroll
  for (int n = 0; n < columns; n++)
#pragma unroll
    for (int i = 0; i < 4; i++)
      if (starts[n * 8 + lane_index() % 4 * 2 + i % 2] > (i < 2 ? upper : lower)) s[n][i] = -INFINITY;
}

/* From dP^T: dS^T = P^T (dP^T - delta), with P as it was rounded for dV: keeping it in fp32 too would not
 * fit. */
template <int count>
DEVICE void score_gradients(const uint32_t (&p)[count][4], float (&dp)[2 * count][4], const float *delta) {
#pragma unroll
  for (int k = 0; k < count; k++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      int n = 2 * k + i / 2;
      float low, high, *to = &dp[n][i % 2 * 2];
      unpack_bf16(p[k][i], low, high);
      to[0] = low * (to[0] - delta[n * 8 + lane_index() % 4 * 2]);
      to[1] = high * (to[1] - delta[n * 8 + lane_index() % 4 * 2 + 1]);
    }
}

/* A warpgroup's dS^T [64 keys, 64 queries] to its rows of 128 bytes, swizzled as a copy would leave it; 0
 * from key `keys` on. */
template <int steps>
DEVICE void store_scores(unsigned char *tile, const uint32_t (&ds)[steps][4], int keys) {
  int key = warp_index() % 4 * 16 + lane_index() / 4;
#pragma unroll
  for (int k = 0; k < steps; k++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      int row = key + i % 2 * 8, chunk = k * 2 + i / 2; /* as pack_fragments has them */
      *reinterpret_cast<uint32_t *>(tile + row * 128 + (chunk ^ (row & 7)) * 16 + lane_index() % 4 * 4) =
          row < keys ? ds[k][i] : 0;
    }
}

/* dq of 64 queries = dS K over the first `blocks` times 64 keys, by one warpgroup; blocks is known to the
 * compiler so that no branch falls between the products. */
template <int D, int blocks>
DEVICE void multiply_scores(float (&dq)[D / 8][4], const unsigned char *ds, const unsigned char *k) {
  uint64_t a = wgmma_descriptor(ds, 0, 1024), b = wgmma_descriptor(k, Backward<D>::keys * 128, 1024);
  wgmma_fence();
#pragma unroll
  for (int i = 0; i < blocks * 4; i++) {
    const uint64_t at = i * 16 * 128 >> 4;
    wgmma_shared<D, true, true>(dq, a + at, b + at, i > 0);
  }
  wgmma_commit();
  wgmma_wait<0>();
  wgmma_settle(dq);
}

/* One item by one consumer warpgroup. whole: the item has all keys of its rows, dq is written too. */
template <int D, bool whole, typename Sight>
DEVICE void consume(const AttentionBackward &op, const Item &item, const Shared<D> &shared, int kv_count,
                    int first, int consumer, float scale) {
  typedef Backward<D> B;
  int stride = (op.heads + 2 * op.kv_heads) * D;
  bf16 *dqkv = static_cast<bf16 *>(op.dqkv) + static_cast<ptrdiff_t>(item.begin) * stride;
  const unsigned char *k = shared.k(kv_count), *v = shared.v(kv_count);
  int keys = item.length - item.first_key - consumer * 64; /* that there are of this consumer's */
  float dk[D / 8][4] = {}, dv[D / 8][4] = {};

  shared.kv_ring.wait_full(kv_count);
  shared.step_ring.wait_full(first);
  wgmma_settle(dk);
  wgmma_settle(dv);
  for (int i = 0; i < item.steps; i++) {
    int count = first + i, step = i % item.steps_a_head;
    /* Else these keys are the future of all of the step's queries, or there are none. */
    if (Sight::full ? keys > 0 : step >= consumer) {
      float s[B::step / 8][4], dp[B::step / 8][4];
      uint32_t p[B::step / 16][4], ds[B::step / 16][4];
      wgmma_fence();
      multiply_transposed_async<D, B::step, B::keys, B::step>(s, k + consumer * 64 * 128, shared.q(count));
      wgmma_commit();
      multiply_transposed_async<D, B::step, B::keys, B::step>(dp, v + consumer * 64 * 128,
                                                              shared.dout(count));
      wgmma_commit();
      wgmma_wait<1>();
      wgmma_settle(s);
      if (Sight::branched)
        mask_branches(s, shared.starts(count), item.branches.shared,
                      item.first_key + consumer * 64 + warp_index() % 4 * 16);
      probabilities(s, shared.lse(count), !Sight::full && step == consumer, scale * log2_e);
      wgmma_settle(s);
      /* Branches: the compiler would move the exponentials behind the wait for dP. */
      if (i + 1 < item.steps) shared.step_ring.wait_full(count + 1);
      wgmma_wait<0>();
      wgmma_settle(dp);
      pack_fragments(p, s);
      score_gradients(p, dp, shared.delta(count));
      pack_fragments(ds, dp);
      if (whole) {
        store_scores(shared.ds(count) + consumer * 64 * 128, ds, Sight::full ? keys : 64);
        async_proxy_fence();
      }
      wgmma_fence();
      multiply_registers_async<D, B::step, B::step>(dv, p, shared.dout(count));
      multiply_registers_async<D, B::step, B::step>(dk, ds, shared.q(count));
      wgmma_commit();
      wgmma_wait<0>();
      wgmma_settle(dk);
      wgmma_settle(dv);
    } else if (i + 1 < item.steps) {
      shared.step_ring.wait_full(count + 1);
    }
    shared.step_ring.release(count);
    if (whole) {
      named_sync(1, B::consumers * warpgroup); /* dS is there for all */
      if (count % B::consumers == consumer) {
        float dq[D / 8][4];
        int last = Sight::full ? item.steps_a_head - 1 : step; /* block of keys that it sees */
        if (last == 0)
          multiply_scores<D, 1>(dq, shared.ds(count), k);
        else if (last == 1 || B::consumers == 2)
          multiply_scores<D, 2>(dq, shared.ds(count), k);
        else
          multiply_scores<D, 3>(dq, shared.ds(count), k);
        int head = item.kv_head * item.group + i / item.steps_a_head;
        const float scales[2] = {scale, scale};
        store_wide<D>(dqkv + head * D, stride, step * B::step + warp_index() % 4 * 16, item.length, dq,
                      scales);
      }
    }
  }
  shared.kv_ring.release(kv_count);
  int first_row = item.first_key + consumer * 64 + warp_index() % 4 * 16;
  const float one[2] = {1.0f, 1.0f}, scales[2] = {scale, scale};
  bf16 *dk_rows = dqkv + (op.heads + item.kv_head) * D;
  store_wide<D>(dk_rows, stride, first_row, item.length, dk, scales);
  store_wide<D>(dk_rows + op.kv_heads * D, stride, first_row, item.length, dv, one);
}

template <int D, bool whole, typename Sight>
__global__ void __launch_bounds__(Backward<D>::threads, 1)
    attention_backward_keys_hopper(const __grid_constant__ TensorMap qkv,
                                   const __grid_constant__ TensorMap dout, AttentionBackward op,
                                   const float *delta, int tiles, float scale) {
  if constexpr (hopper_device) {
    typedef Backward<D> B;
    DYNAMIC_SHARED(bytes);
    Shared<D> shared = lay_out<D>(bytes);
    if (threadIdx.x == 0) {
      shared.kv_ring.init(1, B::consumers * 4);
      shared.step_ring.init(2, B::consumers * 4);
      mbarrier_init_fence();
    }
    block_sync();
    int role = warpgroup_index(); /* 0: the producer */
    if (role == 0) {
      registers_give<B::producer_registers>();
      if (threadIdx.x == 0) produce<D, Sight>(qkv, dout, op, tiles, shared);
      if (warp_index() == 1) produce_rows<D, Sight>(op, delta, tiles, shared);
    } else {
      registers_take<B::consumer_registers>();
      Item item;
      int kv_count = 0, count = 0;
      for (int turn = 0; more_work(op.sequences, op.kv_heads, tiles, turn); turn++) {
        if (!item_of<D, Sight>(op, tiles, turn, item)) continue;
        consume<D, whole, Sight>(op, item, shared, kv_count, count, role - 1, scale);
        kv_count++;
        count += item.steps;
      }
    }
  }
}

template <int D, bool whole, typename Sight>
void backward_keys(CudaState *state, const TensorMap &qkv, const TensorMap &dout, const AttentionBackward &op,
                   const float *delta) {
  typedef Backward<D> B;
  int tiles = ceil_div(op.sequences.max_len, static_cast<int>(B::keys));
  launch(state,
         {"attention_backward_keys_hopper", work_blocks(state, op.sequences, op.kv_heads, tiles), B::threads,
          B::shared_bytes},
         attention_backward_keys_hopper<D, whole, Sight>, qkv, dout, op, delta, tiles,
         1.0f / sqrtf(static_cast<float>(D)));
}

template <int D, typename Sight>
bool backward(Backend *backend, const AttentionBackward &op, const float *delta) {
  CudaState *state = cuda_state(backend);
  TensorMap qkv, prefix, dout;
  if (!map_rows_of(state, &qkv, op.qkv, (op.heads + 2 * op.kv_heads) * D, op.sequences.tokens) ||
      !map_rows_of(state, &dout, op.dout, op.heads * D, op.sequences.tokens))
    return false;
  prefix = qkv;
  if (op.prefix_len > 0 && !map_rows_of(state, &prefix, op.prefix, 2 * op.kv_heads * D, op.prefix_len))
    return false;
  if (op.sequences.max_len <= Backward<D>::keys && op.prefix_len == 0) {
    backward_keys<D, true, Sight>(state, qkv, dout, op, delta);
  } else {
    backward_keys<D, false, Sight>(state, qkv, dout, op, delta);
    attention_backward_queries(state, qkv, prefix, dout, op, delta);
  }
  return true;
}

template <int D>
bool backward(Backend *backend, const AttentionBackward &op, const float *delta) {
  if (op.sequences.branch) return backward<D, Branched>(backend, op, delta);
  return op.full ? backward<D, Full>(backend, op, delta) : backward<D, Causal>(backend, op, delta);
}

}  // namespace

bool cuda_attention_backward_hopper(Backend *backend, const AttentionBackward *op, const float *delta) {
  if (!hopper_fits(backend, *op) || reinterpret_cast<uintptr_t>(op->dqkv) % 16) return false;
  return op->head_dim == 64 ? backward<64>(backend, *op, delta) : backward<128>(backend, *op, delta);
}

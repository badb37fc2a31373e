/* Attention forward for compute capability 9.0 (Dao 2023; Shah et al. 2024): the formula, the shapes and the
 * lower bound of attention.cu, bf16, head_dim 64 or 128, causal or full, with the keys of the prefix and with
 * branches.
 *
 * A block stays on its multiprocessor and goes through items: a head and a tile of 64 queries for each of its
 * consumer warpgroups. One thread of a further warpgroup, the producer, has the copy engine load Q (two
 * buffers: the next item's comes while this one is computed) and blocks of 128 keys, K and V in rings of
 * their own. A row of up to 192 (d = 64) or 128 (d = 128) tokens is one item, all that it needs is read once,
 * and the next rows' loads are in flight meanwhile: short rows run at the speed of memory.
 *
 * A consumer goes from the diagonal block (if full, the sequence's last) down to key 0 and then over the
 * prefix, so that the one masked block of a sequence is the first and every row has a finite maximum from
 * there on. With branches other blocks are masked too, but a row's own key is in that first one; blocks that
 * none of an item's rows sees are left out. It issues S of the next
 * block and then P V of this one, and computes the softmax of S while P V runs. Consumers issue in turn
 * (named barriers), so that the softmax of one falls on the products of another. P goes from registers to
 * registers. */
#include "attention_hopper.cuh"

namespace {

template <int D>
struct Forward {
  static const int consumers = D == 64 ? 3 : 2, threads = (consumers + 1) * warpgroup;
  enum { producer_registers = D == 64 ? 32 : 24, consumer_registers = D == 64 ? 160 : 240 };
  static const int queries = consumers * 64, keys = 128, stages = D == 64 ? 4 : 2, q_stages = 2;
  static const int query_bytes = queries * D * 2, key_bytes = keys * D * 2;
  static const int barriers = 2 * (q_stages + 2 * stages);
  static const int shared_bytes = q_stages * query_bytes + 2 * stages * key_bytes + barriers * 8;
};

template <int D>
struct Shared {
  typedef Forward<D> F;
  unsigned char *q, *k, *v; /* [q_stages] and [stages] tiles */
  Ring<F::q_stages> q_ring;
  Ring<F::stages> k_ring, v_ring;

  DEVICE unsigned char *q_tile(int count) const { return q + count % F::q_stages * F::query_bytes; }
  DEVICE unsigned char *k_tile(int count) const { return k + count % F::stages * F::key_bytes; }
  DEVICE unsigned char *v_tile(int count) const { return v + count % F::stages * F::key_bytes; }
};

template <int D>
DEVICE Shared<D> lay_out(unsigned char *shared) {
  typedef Forward<D> F;
  unsigned char *k = shared + F::q_stages * F::query_bytes, *v = k + F::stages * F::key_bytes;
  MBarrier *barriers = reinterpret_cast<MBarrier *>(v + F::stages * F::key_bytes);
  MBarrier *k_barriers = barriers + 2 * F::q_stages;
  return {shared, k, v, {barriers}, {k_barriers}, {k_barriers + 2 * F::stages}};
}

/* One thread: keeps the rings full. */
template <int D, bool branched>
DEVICE void produce(const TensorMap &qkv, const TensorMap &prefix, const Attention &op, int tiles,
                    const Shared<D> &shared) {
  typedef Forward<D> F;
  int tokens = op.sequences.tokens, q_count = 0, count = 0;
  QueryItem item;
  for (int turn = 0; more_work(op.sequences, op.heads, tiles, turn); turn++) {
    if (!query_item<F::queries, F::keys, branched>(op, tiles, turn, item)) continue;
    int end = item.begin + item.length;
    MBarrier *full = shared.q_ring.fill(q_count, F::query_bytes);
    load_boxes<D, F::queries>(shared.q_tile(q_count), qkv, tokens, item.head * D,
                              item.begin + item.first_query, end, full);
    q_count++;
    for (int i = 0; i < item.blocks; i++, count++) {
      KeyRows k = key_rows<D, F::keys>(op, item, i, qkv, prefix);
      full = shared.k_ring.fill(count, F::key_bytes);
      load_boxes<D, F::keys>(shared.k_tile(count), k.map, k.rows, k.column, k.row, k.row_end, full);
      full = shared.v_ring.fill(count, F::key_bytes);
      load_boxes<D, F::keys>(shared.v_tile(count), k.map, k.rows, k.column + op.kv_heads * D, k.row,
                             k.row_end, full);
    }
  }
}

/* The state of a warp's 16 rows: a thread holds rows lane / 4 and lane / 4 + 8. */
struct Softmax {
  float max[2], sum[2];
};

/* Turns scores into exp(S - m) for the new maximum m; o has to be brought down by shrink. */
template <int columns>
DEVICE void soften(Softmax &rows, float (&s)[columns][4], float (&shrink)[2], float scale_log2) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float highest = rows.max[half];
#pragma unroll
    for (int n = 0; n < columns; n++) highest = fmaxf(highest, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
    highest = fmaxf(highest, warp_shuffle_xor(highest, 1));
    highest = fmaxf(highest, warp_shuffle_xor(highest, 2));
    float offset = highest * scale_log2, sum = 0.0f;
    shrink[half] = fast_exp2((rows.max[half] - highest) * scale_log2);
#pragma unroll
    for (int n = 0; n < columns; n++)
#pragma unroll
      for (int i = 2 * half; i < 2 * half + 2; i++) {
        s[n][i] = fast_exp2(s[n][i] * scale_log2 - offset);
        sum += s[n][i];
      }
    rows.max[half] = highest;
    rows.sum[half] = rows.sum[half] * shrink[half] + sum;
  }
}

/* The turn of a consumer to issue its products; then the next one's. */
template <int D>
DEVICE void turn_begin(int consumer) {
  named_sync(1 + consumer, 2 * warpgroup);
}

template <int D>
DEVICE void turn_end(int consumer) {
  named_arrive(1 + (consumer + 1) % Forward<D>::consumers, 2 * warpgroup);
}

/* A block of keys that this consumer's rows do not see. */
template <int D>
DEVICE void pass_block(const Shared<D> &shared, int count, int consumer) {
  shared.k_ring.wait_full(count);
  turn_begin<D>(consumer);
  turn_end<D>(consumer);
  shared.k_ring.release(count);
  shared.v_ring.wait_full(count);
  shared.v_ring.release(count);
}

template <int D>
DEVICE void write_rows(const Attention &op, const QueryItem &item, int first_row, const Softmax &rows,
                       const float (&o)[D / 8][4], float scale_log2) {
  float inverse[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float sum = rows.sum[half];
    sum += warp_shuffle_xor(sum, 1);
    sum += warp_shuffle_xor(sum, 2);
    inverse[half] = 1.0f / sum;
    int row = first_row + half * 8 + lane_index() / 4;
    if (op.lse && lane_index() % 4 == 0 && row < item.length)
      op.lse[static_cast<ptrdiff_t>(item.head) * op.sequences.tokens + item.begin + row] =
          (rows.max[half] * scale_log2 + fast_log2(sum)) * ln_2;
  }
  int stride = op.heads * D;
  bf16 *out = static_cast<bf16 *>(op.out) + static_cast<ptrdiff_t>(item.begin) * stride + item.head * D;
  store_wide<D>(out, stride, first_row, item.length, o, inverse);
}

/* One item by one consumer warpgroup: the q_count-th, whose blocks of keys are counted from first on. */
template <int D, bool branched>
DEVICE void consume(const Attention &op, const QueryItem &item, const Shared<D> &shared, int q_count,
                    int first, int consumer, float scale_log2) {
  typedef Forward<D> F;
  const int columns = F::keys / 8;
  int top = item.first_query + consumer * 64, first_row = top + warp_index() % 4 * 16;
  int count = first, end = first + item.blocks, prefix_first = first + item.own_blocks;
  shared.q_ring.wait_full(q_count);
  int begin = first + item.first_seen(top, F::keys, op.full);
  for (; count < begin; count++) pass_block<D>(shared, count, consumer);
  if (count == end) {
    shared.q_ring.release(q_count);
    return;
  }
  const unsigned char *q = shared.q_tile(q_count) + consumer * 64 * 128;
  Softmax rows = {{-INFINITY, -INFINITY}, {0.0f, 0.0f}};
  float s[columns][4], o[D / 8][4] = {}, shrink[2];
  uint32_t p[columns / 2][4];

  shared.k_ring.wait_full(count);
  turn_begin<D>(consumer);
  wgmma_fence();
  multiply_transposed_async<D, F::keys, F::queries, F::keys>(s, q, shared.k_tile(count));
  wgmma_commit();
  turn_end<D>(consumer);
  wgmma_wait<0>();
  wgmma_settle(s);
  shared.k_ring.release(count);
  int seen = first_row % F::keys + lane_index() / 4 + 1, all = item.length - (item.own_blocks - 1) * F::keys;
  mask(s, op.full ? all : seen, op.full ? all : seen + 8);
  OtherBranches others = {};
  if (branched) {
    others = other_branches(item.branches, first_row, item.length);
    mask_branches(s, others, item.own_block(count - first) * F::keys);
  }
  soften(rows, s, shrink, scale_log2);
  pack_fragments(p, s);
  if (count + 1 < end) shared.k_ring.wait_full(count + 1);

  for (count++; count < end; count++) { /* S of this block and P V of the one before */
    shared.v_ring.wait_full(count - 1);
    turn_begin<D>(consumer);
    wgmma_settle(o);
    wgmma_fence();
    multiply_transposed_async<D, F::keys, F::queries, F::keys>(s, q, shared.k_tile(count));
    wgmma_commit();
    multiply_registers_async<D, F::keys, F::keys>(o, p, shared.v_tile(count - 1));
    wgmma_commit();
    turn_end<D>(consumer);
    wgmma_wait<1>();
    wgmma_settle(s);
    shared.k_ring.release(count);
    int prefix_left = op.prefix_len - (count - prefix_first) * F::keys;
    if (count >= prefix_first && prefix_left < F::keys) mask(s, prefix_left, prefix_left);
    if (branched) mask_branches(s, others, item.own_block(count - first) * F::keys);
    soften(rows, s, shrink, scale_log2);
    wgmma_settle(s);
    /* Branches: the compiler would move the softmax behind the wait for P V. */
    if (count + 1 < end) shared.k_ring.wait_full(count + 1);
    wgmma_wait<0>();
    wgmma_settle(o);
    shared.v_ring.release(count - 1);
#pragma unroll
    for (int n = 0; n < D / 8; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) o[n][i] *= shrink[i / 2];
    pack_fragments(p, s);
  }
  shared.q_ring.release(q_count);
  shared.v_ring.wait_full(end - 1);
  wgmma_settle(o);
  wgmma_fence();
  multiply_registers_async<D, F::keys, F::keys>(o, p, shared.v_tile(end - 1));
  wgmma_commit();
  wgmma_wait<0>();
  wgmma_settle(o);
  shared.v_ring.release(end - 1);
  write_rows<D>(op, item, first_row, rows, o, scale_log2);
}

template <int D, bool branched>
__global__ void __launch_bounds__(Forward<D>::threads, 1)
    attention_hopper(const __grid_constant__ TensorMap qkv, const __grid_constant__ TensorMap prefix,
                     Attention op, int tiles, float scale_log2) {
  if constexpr (hopper_device) {
    typedef Forward<D> F;
    DYNAMIC_SHARED(bytes);
    Shared<D> shared = lay_out<D>(bytes);
    if (threadIdx.x == 0) {
      shared.q_ring.init(1, F::consumers * 4);
      shared.k_ring.init(1, F::consumers * 4);
      shared.v_ring.init(1, F::consumers * 4);
      mbarrier_init_fence();
    }
    block_sync();
    int role = warpgroup_index(); /* 0: the producer */
    if (role == 0) {
      registers_give<F::producer_registers>();
      if (threadIdx.x == 0) produce<D, branched>(qkv, prefix, op, tiles, shared);
    } else {
      registers_take<F::consumer_registers>();
      int consumer = role - 1;
      if (consumer == F::consumers - 1) turn_end<D>(consumer); /* the first turn is the first one's */
      QueryItem item;
      int q_count = 0, count = 0;
      for (int turn = 0; more_work(op.sequences, op.heads, tiles, turn); turn++) {
        if (!query_item<F::queries, F::keys, branched>(op, tiles, turn, item)) continue;
        consume<D, branched>(op, item, shared, q_count, count, consumer, scale_log2);
        q_count++;
        count += item.blocks;
      }
    }
  }
}

template <int D>
bool forward(Backend *backend, const Attention &op) {
  typedef Forward<D> F;
  CudaState *state = cuda_state(backend);
  int width = (op.heads + 2 * op.kv_heads) * D;
  TensorMap qkv, prefix;
  if (!map_rows_of(state, &qkv, op.qkv, width, op.sequences.tokens)) return false;
  prefix = qkv;
  if (op.prefix_len > 0 && !map_rows_of(state, &prefix, op.prefix, 2 * op.kv_heads * D, op.prefix_len))
    return false;
  int tiles = ceil_div(op.sequences.max_len, static_cast<int>(F::queries));
  float scale_log2 = log2_e / sqrtf(static_cast<float>(D));
  launch(state,
         {"attention_hopper", work_blocks(state, op.sequences, op.heads, tiles), F::threads, F::shared_bytes},
         op.sequences.branch ? attention_hopper<D, true> : attention_hopper<D, false>, qkv, prefix, op, tiles,
         scale_log2);
  return true;
}

}  // namespace

bool cuda_attention_hopper(Backend *backend, const Attention *op) {
  if (!hopper_fits(backend, *op)) return false;
  if (op->sequences.tokens == 0) return true;
  if (reinterpret_cast<uintptr_t>(op->out) % 16) return false;
  return op->head_dim == 64 ? forward<64>(backend, *op) : forward<128>(backend, *op);
}

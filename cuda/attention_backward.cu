/* Attention over packed ragged sequences, backward (Dao 2023):
 *   P_ij = exp(S_ij - lse_i),  delta_i = sum_c dO_ic O_ic,  dP = dO V^T,  dS = P (dP - delta_i),
 *   dV_j = sum_i P_ij dO_i,  dK_j = sum_i dS_ij q_i / sqrt(d),  dq_i = sum_j dS_ij K_j / sqrt(d),
 *   dK and dV also summed over the query heads that share the key-value head, and those of the prefix, which
 * every query sees, over all sequences. Query i sees the keys that it does in attention.cu.
 *
 * Shapes: qkv, dqkv [N, (Hq + 2 Hkv) d] bf16, out, dout [N, Hq d] bf16, lse [Hq, N] fp32, workspace delta
 * [Hq, N] fp32; prefix, dprefix [P, 2 Hkv d] bf16, workspace partial [slices, P, 2 Hkv d] fp32. Three
 * launches, none with atomics, so that the bits never depend on the order of blocks; with a prefix that is
 * trained, two more:
 *   1. delta.
 *   2. dK and dV: a block keeps 128 keys (64 where no sequence is long) and goes over the queries from
 * its diagonal (if full, the first) to the end, for each head of its group. It computes the transposed S^T
 * and dP^T, whose registers feed dV and dK without passing shared memory.
 *   3. dq: a block keeps as many queries and goes over the keys as the forward pass does, the prefix's first.
 *   4. The prefix: as 2, but its keys are nobody's future, so that the tokens of the batch are one long
 * sequence. A block goes over a slice of them, and leaves its sums in fp32.
 *   5. add_slices (slices.cu).
 * 2 and 3 both compute S and dP: 7 products instead of 5, the price of a fixed order without a second copy of
 * dq. Lower bound: 5 Hq d sum (T^2 + 2 P T) operations (7 as done here), (8 d (Hq + Hkv) + 12 d Hq) sum T
 * bytes. */
#include "attention_tile.cuh"
#include "scratch.h"

namespace {

/* The block's own rows, 16 a warp (8 warps, or 4 where no sequence is long), and the rows of the other side
 * that one step takes. */
template <int D, int warps>
struct Backward {
  static const int threads = warps * 32, own = warps * 16, step = D == 128 ? 48 : 64;
  static const int key_blocks =
      (D == 32 ? 16 : 8) / warps; /* that are to fit on a multiprocessor by their registers */
  static const int query_blocks = (D == 32 ? 16 : D == 64 ? 12 : 8) / warps;
  static const int prefix_blocks = (D == 32 ? 12 : 8) / warps;
  static const int own_bytes = own * D * 2, step_bytes = step * D * 2;
  static const int stage_bytes =
      2 * step_bytes + 2 * step * 4; /* two tiles, and lse and delta of the step's queries */
  static const int shared_bytes = 2 * own_bytes + 2 * stage_bytes;
};

const int delta_threads = 256;
const int delta_lanes = 8; /* lanes a row */

__global__ void __launch_bounds__(delta_threads) attention_delta(AttentionBackward op, float *delta) {
  size_t row =
      (static_cast<size_t>(blockIdx.x) * delta_threads + threadIdx.x) / delta_lanes; /* token, head */
  size_t heads = static_cast<size_t>(op.heads), d = static_cast<size_t>(op.head_dim);
  size_t tokens = static_cast<size_t>(op.sequences.tokens);
  bool valid = row < tokens * heads;
  const bf16 *out = static_cast<const bf16 *>(op.out) + row * d,
             *dout = static_cast<const bf16 *>(op.dout) + row * d;
  float sum = 0.0f;
  for (int c = static_cast<int>(threadIdx.x % delta_lanes) * 8; valid && c < op.head_dim;
       c += delta_lanes * 8) {
    float a[8], b[8];
    load8(out + c, a);
    load8(dout + c, b);
#pragma unroll
    for (int i = 0; i < 8; i++) sum += a[i] * b[i];
  }
#pragma unroll
  for (int mask = delta_lanes / 2; mask > 0; mask /= 2) sum += warp_shuffle_xor(sum, mask);
  if (valid && threadIdx.x % delta_lanes == 0) delta[row % heads * tokens + row / heads] = sum;
}

/* What a block reads and writes. */
struct View {
  const bf16 *q, *k, *v, *dout; /* row 0 of its sequence, at its head */
  bf16 *dq, *dk, *dv;           /* likewise */
  const float *lse, *delta;     /* likewise */
  int stride, out_stride;       /* elements from row to row */
};

DEVICE View view_of(const AttentionBackward &op, const float *delta, int begin, int head) {
  int d = op.head_dim, kv = head / (op.heads / op.kv_heads);
  int stride = (op.heads + 2 * op.kv_heads) * d, out_stride = op.heads * d;
  int k_at = (op.heads + kv) * d, v_at = k_at + op.kv_heads * d;
  ptrdiff_t row = begin, row_at = static_cast<ptrdiff_t>(head) * op.sequences.tokens + begin;
  const bf16 *qkv = static_cast<const bf16 *>(op.qkv) + row * stride;
  bf16 *dqkv = static_cast<bf16 *>(op.dqkv) + row * stride;
  const bf16 *dout = static_cast<const bf16 *>(op.dout) + row * out_stride;
  return {qkv + head * d, qkv + k_at,      qkv + v_at,     dout + head * d, dqkv + head * d, dqkv + k_at,
          dqkv + v_at,    op.lse + row_at, delta + row_at, stride,          out_stride};
}

/* Starts copying a step's queries: q and dout, lse and delta (zeros beyond the end, which add nothing to dK
 * and dV). */
template <int D, int warps>
DEVICE void load_queries(unsigned char *stage, const View &view, int first, int length, int head_dim) {
  typedef Backward<D, warps> B;
  ptrdiff_t row = first;
  load_tile<D, B::step>(stage, view.q + row * view.stride, view.stride, length - first, head_dim);
  load_tile<D, B::step>(stage + B::step_bytes, view.dout + row * view.out_stride, view.out_stride,
                        length - first, head_dim);
  static_assert(2 * B::step <= B::threads, "a thread copies one number");
  int i = static_cast<int>(threadIdx.x), n = i % B::step;
  if (i < 2 * B::step) {
    bool valid = first + n < length;
    const float *from = i < B::step ? view.lse : view.delta;
    copy_async4(stage + 2 * B::step_bytes + i * 4, valid ? from + first + n : from, valid);
  }
}

/* Hides from queries of other branches the keys of S^T: their P becomes 0. Before dP^T takes its registers.
 * length: of the sequence */
template <int columns>
DEVICE void mask_branches(float (&s)[1][columns][4], const Branches &branches, int length, int first_key,
                          int first_query) {
  int lane = lane_index();
  if (first_key + 15 < branches.shared) return;
#pragma unroll
  for (int n = 0; n < columns; n++)
#pragma unroll
    for (int i = 0; i < 2; i++) {
      int query = first_query + n * 8 + lane % 4 * 2 + i;
      int start = query < length ? branches.of(query) : 0;
#pragma unroll
      for (int half = 0; half < 2; half++) {
        int key = first_key + half * 8 + lane / 4;
        if (key >= branches.shared && key < start) s[0][n][2 * half + i] = other_branch;
      }
    }
}

/* From S^T (unscaled) and dP^T of 16 keys and a step of queries: P^T in s, dS^T in dp. */
template <int columns>
DEVICE void soften_transposed(float (&s)[1][columns][4], float (&dp)[1][columns][4], const float *lse,
                              const float *delta, bool causal, int first_key, int first_query,
                              float scale_log2) {
  int lane = lane_index();
  bool masked = causal && first_query < first_key + 15;
#pragma unroll
  for (int n = 0; n < columns; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      int column = n * 8 + lane % 4 * 2 + i % 2, key = first_key + i / 2 * 8 + lane / 4;
      float p = fast_exp2(s[0][n][i] * scale_log2 - lse[column] * log2_e);
      if (masked && first_query + column < key) p = 0.0f;
      s[0][n][i] = p;
      dp[0][n][i] = p * (dp[0][n][i] - delta[column]);
    }
}

/* The queries that a block's keys go over: steps first .. end-1 of the `a_head` steps that each head of the
 * group takes from query `from` on. causal: no key is seen by an earlier query. */
struct Steps {
  int first, end, a_head, from;
  bool causal;
};

/* Sums dK (unscaled) and dV of a warp's 16 keys from first_key on, of `keys` that there are. The block's keys
 * lie in k_tile and v_tile, or are on their way; place.begin and place.length are those of the queries. */
template <bool branched, int D, int warps>
DEVICE void sum_over_queries(float (&dk)[1][D / 8][4], float (&dv)[1][D / 8][4], const unsigned char *k_tile,
                             const unsigned char *v_tile, unsigned char *stages, const AttentionBackward &op,
                             const float *delta, const Place &place, const Branches &branches,
                             const Steps &over, int first_key, int keys, float scale_log2) {
  typedef Backward<D, warps> B;
  int first_head = place.head * (op.heads / op.kv_heads), length = place.length;
  View view = view_of(op, delta, place.begin, first_head + over.first / over.a_head);
  load_queries<D, warps>(stages, view, over.from + over.first % over.a_head * B::step, length, op.head_dim);
  copy_async_commit();
  for (int j = over.first; j < over.end; j++) {
    int stage = (j - over.first) % 2;
    copy_async_wait<0>();
    block_sync(); /* step j is there for all, and nobody reads the stage of step j - 1 any more */
    if (j + 1 < over.end) {
      View next = view_of(op, delta, place.begin, first_head + (j + 1) / over.a_head);
      load_queries<D, warps>(stages + (1 - stage) * B::stage_bytes, next,
                             over.from + (j + 1) % over.a_head * B::step, length, op.head_dim);
      copy_async_commit();
    }
    int first_query = over.from + j % over.a_head * B::step;
    /* This warp's keys are the future of all of these queries, or there are none. */
    if ((over.causal && first_query + B::step - 1 < first_key) || first_key >= keys) continue;
    const unsigned char *q_tile = stages + stage * B::stage_bytes, *dout_tile = q_tile + B::step_bytes;
    const float *lse = reinterpret_cast<const float *>(q_tile + 2 * B::step_bytes);
    float s[1][B::step / 8][4] = {}, dp[1][B::step / 8][4] = {};
    multiply_transposed<D, 1, B::step>(s, k_tile, warp_index() * 16, q_tile);
    if (branched) mask_branches(s, branches, length, first_key, first_query);
    multiply_transposed<D, 1, B::step>(dp, v_tile, warp_index() * 16, dout_tile);
    soften_transposed(s, dp, lse, lse + B::step, over.causal, first_key, first_query, scale_log2);
    multiply_registers<D, 1, B::step>(dv, s, dout_tile);
    multiply_registers<D, 1, B::step>(dk, dp, q_tile);
  }
}

/* Hiding branches takes more registers than four blocks of D = 32 leave. */
template <int D, int warps, bool branched>
__global__ void __launch_bounds__(Backward<D, warps>::threads,
                                  Backward<D, warps>::key_blocks / (branched && D == 32 ? 2 : 1))
    attention_backward_keys(AttentionBackward op, const float *delta, int tiles, float scale) {
  typedef Backward<D, warps> B;
  DYNAMIC_SHARED(shared);
  unsigned char *k_tile = shared, *v_tile = shared + B::own_bytes, *stages = shared + 2 * B::own_bytes;
  Place place = place_of(op.sequences, op.kv_heads, tiles, false);
  int tile_key = place.tile * B::own, first_key = tile_key + warp_index() * 16, length = place.length;
  if (tile_key >= length) return;
  int group = op.heads / op.kv_heads;
  View view = view_of(op, delta, place.begin, place.head * group);
  ptrdiff_t own_row = tile_key;
  load_tile<D, B::own>(k_tile, view.k + own_row * view.stride, view.stride, length - tile_key, op.head_dim);
  load_tile<D, B::own>(v_tile, view.v + own_row * view.stride, view.stride, length - tile_key, op.head_dim);

  float dk[1][D / 8][4] = {}, dv[1][D / 8][4] = {};
  Branches branches = branches_of<branched>(op.sequences, place);
  int from = op.full ? 0 : tile_key;
  int end = branched ? branch_rows_end(branches, tile_key, tile_key + B::own - 1, length) : length;
  int a_head = ceil_div(end - from, static_cast<int>(B::step));
  Steps over = {0, a_head * group, a_head, from, !op.full};
  sum_over_queries<branched, D, warps>(dk, dv, k_tile, v_tile, stages, op, delta, place, branches, over,
                                       first_key, length, scale * log2_e);
  const float one[1][2] = {{1.0f, 1.0f}}, scales[1][2] = {{scale, scale}};
  store_rows<D, 1>(view.dk, view.stride, first_key, length, op.head_dim, dk, scales);
  store_rows<D, 1>(view.dv, view.stride, first_key, length, op.head_dim, dv, one);
}

/* A warp's 16 rows of accumulators, times factor, as fp32: those of the rows from first_row on that are below
 * rows. */
template <int D>
DEVICE void store_sums(float *to, int stride, int first_row, int rows, int head_dim,
                       const float (&acc)[1][D / 8][4], float factor) {
  int lane = lane_index();
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int row = first_row + half * 8 + lane / 4;
    if (row >= rows) continue;
#pragma unroll
    for (int n = 0; n < D / 8; n++)
#pragma unroll
      for (int i = 0; i < 2; i++) {
        int column = n * 8 + lane % 4 * 2 + i;
        if (column < head_dim)
          to[static_cast<ptrdiff_t>(row) * stride + column] = acc[0][n][2 * half + i] * factor;
      }
  }
}

/* Blocks are numbered by slice, then by tile of the prefix, then by head. */
template <int D, int warps>
__global__ void __launch_bounds__(Backward<D, warps>::threads, Backward<D, warps>::prefix_blocks)
    attention_backward_prefix(AttentionBackward op, const float *delta, float *partial, int slices, int tiles,
                              float scale) {
  typedef Backward<D, warps> B;
  DYNAMIC_SHARED(shared);
  unsigned char *k_tile = shared, *v_tile = shared + B::own_bytes, *stages = shared + 2 * B::own_bytes;
  int block = static_cast<int>(blockIdx.x), d = op.head_dim, stride = 2 * op.kv_heads * d;
  int slice = block / op.kv_heads / tiles;
  Place place = {0, op.sequences.tokens, block / op.kv_heads % tiles, block % op.kv_heads, 0};
  int tile_key = place.tile * B::own, first_key = tile_key + warp_index() * 16;
  load_keys<D, B::own>(k_tile, op, 0, 0, place.head, place.tile, tiles);

  float dk[1][D / 8][4] = {}, dv[1][D / 8][4] = {};
  int a_head = ceil_div(place.length, static_cast<int>(B::step)), steps = a_head * (op.heads / op.kv_heads);
  int each = steps / slices, more = steps % slices; /* the first `more` slices take one step more */
  int first = slice * each + (slice < more ? slice : more);
  Steps over = {first, first + each + (slice < more), a_head, 0, false};
  sum_over_queries<false, D, warps>(dk, dv, k_tile, v_tile, stages, op, delta, place, {}, over, first_key,
                                    op.prefix_len, scale * log2_e);
  float *to = partial + static_cast<ptrdiff_t>(slice) * op.prefix_len * stride + place.head * d;
  store_sums<D>(to, stride, first_key, op.prefix_len, d, dk, scale);
  store_sums<D>(to + op.kv_heads * d, stride, first_key, op.prefix_len, d, dv, 1.0f);
}

/* From S (unscaled) and dP of 16 queries and a step of keys: dS in dp. last: the key that the first query
 * sees last; if causal, the next query sees one more. starts: of the queries' branches */
template <bool branched, int columns>
DEVICE void soften_rows(const float (&s)[1][columns][4], float (&dp)[1][columns][4], const float (&lse)[2],
                        const float (&delta)[2], const int (&starts)[2], int shared, int last, bool causal,
                        int first_key, float scale_log2) {
  int lane = lane_index();
  bool masked = first_key + columns * 8 - 1 > last;
#pragma unroll
  for (int n = 0; n < columns; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      int key = first_key + n * 8 + lane % 4 * 2 + i % 2, row = i / 2 * 8 + lane / 4;
      float p = fast_exp2(s[0][n][i] * scale_log2 - lse[i / 2] * log2_e);
      if (masked && key > (causal ? last + row : last)) p = 0.0f;
      if (branched && key >= shared && key < starts[i / 2]) p = 0.0f;
      dp[0][n][i] = p * (dp[0][n][i] - delta[i / 2]);
    }
}

template <int D, int warps, bool branched>
__global__ void __launch_bounds__(Backward<D, warps>::threads, Backward<D, warps>::query_blocks)
    attention_backward_queries(AttentionBackward op, const float *delta, int tiles, float scale) {
  typedef Backward<D, warps> B;
  DYNAMIC_SHARED(shared);
  unsigned char *q_tile = shared, *dout_tile = shared + B::own_bytes, *stages = shared + 2 * B::own_bytes;
  Place place = place_of(op.sequences, op.heads, tiles, true);
  int tile_query = place.tile * B::own, first_query = tile_query + warp_index() * 16, length = place.length;
  if (tile_query >= length) return;
  View view = view_of(op, delta, place.begin, place.head);
  ptrdiff_t own_row = tile_query;
  load_tile<D, B::own>(q_tile, view.q + own_row * view.stride, view.stride, length - tile_query, op.head_dim);
  load_tile<D, B::own>(dout_tile, view.dout + own_row * view.out_stride, view.out_stride, length - tile_query,
                       op.head_dim);
  int kv_head = place.head / (op.heads / op.kv_heads);
  Branches branches = branches_of<branched>(op.sequences, place);
  KeyTiles steps = key_tiles<B::step>(op, place, branches, tile_query, B::own);
  load_keys<D, B::step>(stages, op, place.begin, length, kv_head, steps.at(0), steps.prefix);
  copy_async_commit();

  float row_lse[2], row_delta[2], dq[1][D / 8][4] = {};
  int starts[2] = {0, 0};
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int row = first_query + half * 8 + lane_index() / 4;
    row_lse[half] = row < length ? view.lse[row] : 0.0f;
    row_delta[half] = row < length ? view.delta[row] : 0.0f;
    if (branched && row < length) starts[half] = branches.of(row);
  }
  for (int j = 0; j < steps.count; j++) {
    copy_async_wait<0>();
    block_sync(); /* as above */
    if (j + 1 < steps.count) {
      load_keys<D, B::step>(stages + (j + 1) % 2 * B::stage_bytes, op, place.begin, length, kv_head,
                            steps.at(j + 1), steps.prefix);
      copy_async_commit();
    }
    int tile = steps.at(j);
    bool own = tile >= steps.prefix; /* keys of the sequence, not of the prefix */
    int first_key = (own ? tile - steps.prefix : tile) * B::step;
    int last = own ? (op.full ? length - 1 : first_query) : op.prefix_len - 1;
    if ((own && first_key > last + 15) || first_query >= length) continue;
    const unsigned char *k_tile = stages + j % 2 * B::stage_bytes;
    float s[1][B::step / 8][4] = {}, dp[1][B::step / 8][4] = {};
    multiply_transposed<D, 1, B::step>(s, q_tile, warp_index() * 16, k_tile);
    multiply_transposed<D, 1, B::step>(dp, dout_tile, warp_index() * 16, k_tile + B::step_bytes);
    int shared_keys = own ? branches.shared : op.prefix_len; /* those of all branches */
    soften_rows<branched>(s, dp, row_lse, row_delta, starts, shared_keys, last, own && !op.full, first_key,
                          scale * log2_e);
    multiply_registers<D, 1, B::step>(dq, dp, k_tile);
  }
  const float scales[1][2] = {{scale, scale}};
  store_rows<D, 1>(view.dq, view.stride, first_query, length, op.head_dim, dq, scales);
}

template <int D, int warps>
void backward(Backend *backend, const AttentionBackward &op, const float *delta) {
  typedef Backward<D, warps> B;
  int tiles = ceil_div(op.sequences.max_len, static_cast<int>(B::own));
  float scale = 1.0f / sqrtf(static_cast<float>(op.head_dim));
  bool branched = op.sequences.branch;
  launch(cuda_state(backend),
         {"attention_backward_keys", place_blocks(op.sequences, op.kv_heads, tiles), B::threads,
          B::shared_bytes},
         branched ? attention_backward_keys<D, warps, true> : attention_backward_keys<D, warps, false>, op,
         delta, tiles, scale);
  launch(cuda_state(backend),
         {"attention_backward_queries", place_blocks(op.sequences, op.heads, tiles), B::threads,
          B::shared_bytes},
         branched ? attention_backward_queries<D, warps, true> : attention_backward_queries<D, warps, false>,
         op, delta, tiles, scale);
}

/* The prefix's gradient as `slices` rows of partial sums. */
template <int D, int warps>
void backward_prefix(Backend *backend, const AttentionBackward &op, const float *delta, float *partial,
                     int slices) {
  typedef Backward<D, warps> B;
  int tiles = ceil_div(op.prefix_len, static_cast<int>(B::own));
  float scale = 1.0f / sqrtf(static_cast<float>(op.head_dim));
  unsigned blocks =
      static_cast<unsigned>(slices) * static_cast<unsigned>(tiles) * static_cast<unsigned>(op.kv_heads);
  launch(cuda_state(backend), {"attention_backward_prefix", blocks, B::threads, B::shared_bytes},
         attention_backward_prefix<D, warps>, op, delta, partial, slices, tiles, scale);
}

/* dqkv: whether it is wanted. slices: 0 where no prefix is trained */
template <int D>
void backward(Backend *backend, const AttentionBackward &op, const float *delta, bool dqkv, float *partial,
              int slices) {
  if (dqkv && op.sequences.max_len <= short_length)
    backward<D, 4>(backend, op, delta);
  else if (dqkv)
    backward<D, 8>(backend, op, delta);
  if (slices == 0) return;
  if (prefix_tile(op.prefix_len) == Backward<D, 4>::own)
    backward_prefix<D, 4>(backend, op, delta, partial, slices);
  else
    backward_prefix<D, 8>(backend, op, delta, partial, slices);
}

/* hopper: the kernels for compute capability 9.0 where they fit. */
void run(Backend *backend, const AttentionBackward *op, bool hopper) {
  if (!attention_head_dim_fits(backend, op->head_dim,
                               "attention_backward: head_dim is not a multiple of 8 up to 128"))
    return;
  size_t rows = static_cast<size_t>(op->sequences.tokens) * static_cast<size_t>(op->heads);
  if (rows == 0) return;
  int slices = 0, width = op->prefix_len * 2 * op->kv_heads * op->head_dim;
  if (op->dprefix)
    slices = prefix_slices(op->sequences.tokens, op->heads, op->kv_heads, op->head_dim, op->prefix_len);
  size_t sums = static_cast<size_t>(slices) * static_cast<size_t>(width);
  float *delta = static_cast<float *>(cuda_workspace(backend, (rows + sums) * sizeof(float)));
  if (!delta) return;
  unsigned blocks = static_cast<unsigned>(ceil_div(rows * delta_lanes, static_cast<size_t>(delta_threads)));
  launch(cuda_state(backend), {"attention_delta", blocks, delta_threads, 0}, attention_delta, *op, delta);
  bool dqkv = !hopper || !cuda_attention_backward_hopper(backend, op, delta); /* is still to be done */
  float *partial = delta + rows;
  if (op->head_dim <= 32)
    backward<32>(backend, *op, delta, dqkv, partial, slices);
  else if (op->head_dim <= 64)
    backward<64>(backend, *op, delta, dqkv, partial, slices);
  else
    backward<128>(backend, *op, delta, dqkv, partial, slices);
  if (slices > 0) cuda_add_slices(backend, partial, slices, op->dprefix, width, nullptr, 0);
}

}  // namespace

void cuda_attention_backward(Backend *backend, const AttentionBackward *op) { run(backend, op, true); }

void cuda_attention_backward_portable(Backend *backend, const AttentionBackward *op) {
  run(backend, op, false);
}

/* Attention of one new token a sequence against cached keys and values, and the copy of keys and values into
 * the cache. out = sum_j exp(S_j - m) V_j / sum_j exp(S_j - m),  S_j = q K_j / sqrt(d), j over the prefix's
 * keys (shared by all), the post's (shared by its samples), then the reply's own, the new token's included
 *
 * Shapes: qkv [rows, (Hq + 2 Hkv) d], caches of rows [2 Hkv d] (keys, then values of all heads), out [rows,
 * Hq d], all bf16. The queries of a key-value head are numbered row by row, the heads of its group within; a
 * block takes 8 or 16 of them, so that the samples of a post and the heads of a group read its keys once. The
 * keys that some of them see are segments: the prefix, the post of each run of queries with one post, the
 * reply of each row. A warp takes 16 keys of a segment at a time, copied (cp.async) several steps ahead into
 * a ring of its own, computes S and P V of all 16 queries on the tensor cores, and masks the queries that the
 * segment is not for. Its softmax is merged with the other warps' at the end, in their order. Where there are
 * few blocks, the keys are split among several, whose results a second launch merges. Lower bound: 4 Hkv d
 * bytes a key that is read, shared ones once; 4 Hq d operations a row and key: memory bounds it. kv_store: 8
 * Hkv d bytes a row. */
#include "attention_tile.cuh"

namespace {

const int warps = 4, threads = warps * 32;
const int chunk = 16;   /* keys a warp takes at a time */
const int queries = 16; /* most of a block */
const int splits_most = 16;

template <int D>
struct Decode {
  static const int stages = D == 128 ? 2 : 4;
  static const int tile_bytes = chunk * D * 2, stage_bytes = 2 * tile_bytes; /* K, then V */
  static const int query_bytes = queries * D * 2, ring_bytes = stages * stage_bytes;
  static const int partial = D + 2; /* floats of a query: o, max, sum */
  static const int shared_bytes = query_bytes + warps * ring_bytes;
  static_assert(warps * queries * partial * 4 <= warps * ring_bytes, "the results take the rings' place");
};

/* What a block works on: queries first .. first + count of a key-value head, and every splits-th chunk of
 * keys. */
struct Share {
  int kv_head, first, count, split, splits;
};

DEVICE Share share_of(const AttentionDecode &op, int tile, int splits) {
  int block = static_cast<int>(blockIdx.x), group = op.heads / op.kv_heads;
  int rest = block / splits, first = rest / op.kv_heads * tile, left = op.rows * group - first;
  return {rest % op.kv_heads, first, left < tile ? left : tile, block % splits, splits};
}

/* Keys that lie one after another, at the key-value head. */
struct Segment {
  const bf16 *keys;
  int count, first_chunk;
};

/* The segments of a block in the order of their chunks: the prefix, then one a lane. Lane i < 16 stands for
 * the post of query i, lane 16 + i for its row's reply; the first lane of a run of equal ones has the
 * segment, the others none. Query i sees the segments run[i] and run[16 + i], and the prefix. By one warp;
 * returns the number of chunks. */
DEVICE int list_segments(const AttentionDecode &op, const Share &share, Segment *segments, int *run) {
  int lane = lane_index(), query = lane % queries, group = op.heads / op.kv_heads;
  bool reply = lane >= queries, exists = query < share.count;
  int row = exists ? (share.first + query) / group : 0, post = exists ? op.post[row] : 0;
  int same = reply ? row : post, before = warp_shuffle_up(same, 1);
  bool first = exists && (query == 0 || same != before);
  uint32_t firsts = warp_ballot(first);
  int start = lane;
  while (exists && !(firsts >> start & 1u)) start--;
  run[lane] = exists ? 1 + start : -1;

  size_t width = 2 * static_cast<size_t>(op.kv_heads) * static_cast<size_t>(op.head_dim);
  int prefix_chunks = ceil_div(op.prefix_len, chunk), count = 0;
  const bf16 *keys = static_cast<const bf16 *>(op.reply_cache);
  if (first && reply) {
    keys += static_cast<size_t>(op.slot[row]) * static_cast<size_t>(op.max_reply) * width;
    count = op.reply_len[row];
  } else if (first) {
    int begin = op.post_cu_seqlens[post];
    keys = static_cast<const bf16 *>(op.post_cache) + static_cast<size_t>(begin) * width;
    count = op.post_cu_seqlens[post + 1] - begin;
  }
  int chunks = ceil_div(count, chunk), end = chunks; /* the end of this lane's chunks behind the prefix's */
#pragma unroll
  for (int n = 1; n < 32; n *= 2) {
    int other = warp_shuffle_up(end, n);
    if (lane >= n) end += other;
  }
  size_t head = static_cast<size_t>(share.kv_head) * static_cast<size_t>(op.head_dim);
  segments[1 + lane] = {keys + head, count, prefix_chunks + end - chunks};
  if (lane == 0) segments[0] = {static_cast<const bf16 *>(op.prefix) + head, op.prefix_len, 0};
  return prefix_chunks + warp_shuffle(end, 31);
}

/* The place of a warp in the segments: it takes chunk after chunk, `step` apart. */
struct Cursor {
  int index, segment, step;

  DEVICE void advance(const Segment *segments) {
    index += step;
    settle(segments);
  }
  DEVICE void settle(const Segment *segments) {
    while (segment < 32 && segments[segment + 1].first_chunk <= index) segment++;
  }
};

/* Starts copying the chunk at the cursor, K and V, by a warp; rows beyond the segment and columns beyond
 * head_dim are zero. */
template <int D>
DEVICE void load_chunk(unsigned char *stage, const AttentionDecode &op, const Segment &segment, int index) {
  typedef Decode<D> S;
  int first = (index - segment.first_chunk) * chunk, values = op.kv_heads * op.head_dim;
  const bf16 *from = segment.keys + static_cast<ptrdiff_t>(first) * (2 * values);
#pragma unroll
  for (int i = lane_index(); i < chunk * D / 8; i += 32) {
    int row = i / (D / 8), piece = i % (D / 8);
    bool valid = first + row < segment.count && piece * 8 < op.head_dim;
    const bf16 *source = valid ? from + static_cast<ptrdiff_t>(row) * (2 * values) + piece * 8 : segment.keys;
    unsigned char *to = stage + chunk_offset<D>(row, piece);
    copy_async16(to, source, valid);
    copy_async16(to + S::tile_bytes, valid ? source + values : source, valid);
  }
}

/* Q to shared memory by the block; zeros where there is no query. */
template <int D>
DEVICE void load_queries(unsigned char *tile, const AttentionDecode &op, const Share &share) {
  int group = op.heads / op.kv_heads;
  ptrdiff_t stride = (op.heads + 2 * op.kv_heads) * op.head_dim;
  for (int i = static_cast<int>(threadIdx.x); i < queries * D / 8; i += threads) {
    int query = i / (D / 8), piece = i % (D / 8), number = share.first + query;
    bool valid = query < share.count && piece * 8 < op.head_dim;
    const bf16 *q = static_cast<const bf16 *>(op.qkv);
    if (valid)
      q += number / group * stride + (share.kv_head * group + number % group) * op.head_dim + piece * 8;
    copy_async16(tile + chunk_offset<D>(query, piece), q, valid);
  }
}

/* A warp's softmax on the way, for queries lane / 4 and lane / 4 + 8. S is in units of log 2. */
template <int D>
struct Running {
  float o[1][D / 8][4];
  float max[2], sum[2];
};

/* exp2(from - to), 0 for the softmax of no keys at all. */
DEVICE float shrink(float from, float to) { return from == -INFINITY ? 0.0f : fast_exp2(from - to); }

/* Turns the scores of a chunk into exp2(S - max) for the new max and brings o and sum down to it. seen[half]:
 * the query sees the segment, whose first `count` keys of the chunk exist. */
template <int D>
DEVICE void soften(Running<D> &running, float (&s)[1][2][4], const bool (&seen)[2], int count,
                   float scale_log2) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float highest = running.max[half];
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
      for (int i = 2 * half; i < 2 * half + 2; i++) {
        bool visible = seen[half] && n * 8 + lane_index() % 4 * 2 + i % 2 < count;
        s[0][n][i] = visible ? s[0][n][i] * scale_log2 : -INFINITY;
        highest = fmaxf(highest, s[0][n][i]);
      }
    highest = fmaxf(highest, warp_shuffle_xor(highest, 1));
    highest = fmaxf(highest, warp_shuffle_xor(highest, 2));
    float keep = shrink(running.max[half], highest);
    running.sum[half] *= keep;
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
      for (int i = 2 * half; i < 2 * half + 2; i++) {
        s[0][n][i] = shrink(s[0][n][i], highest);
        running.sum[half] += s[0][n][i];
      }
#pragma unroll
    for (int n = 0; n < D / 8; n++) {
      running.o[0][n][2 * half] *= keep;
      running.o[0][n][2 * half + 1] *= keep;
    }
    running.max[half] = highest;
  }
}

/* A warp's chunks. */
template <int D>
DEVICE void attend(Running<D> &running, const AttentionDecode &op, const Share &share,
                   const unsigned char *q_tile, unsigned char *ring, const Segment *segments, const int *run,
                   int chunks, float scale_log2) {
  typedef Decode<D> S;
  int lane = lane_index(), runs[2][2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    runs[half][0] = run[lane / 4 + half * 8];
    runs[half][1] = run[queries + lane / 4 + half * 8];
  }
  Cursor ahead = {share.split * warps + warp_index(), 0, share.splits * warps};
  ahead.settle(segments);
  Cursor at = ahead;
  for (int n = 0; n < S::stages - 1; n++) {
    if (ahead.index < chunks)
      load_chunk<D>(ring + n * S::stage_bytes, op, segments[ahead.segment], ahead.index);
    copy_async_commit();
    ahead.advance(segments);
  }
  for (int n = 0; at.index < chunks; n++) {
    copy_async_wait<S::stages - 2>();
    warp_sync(); /* the chunk is there for all lanes, and none reads the stage of the one before any more */
    if (ahead.index < chunks)
      load_chunk<D>(ring + (n + S::stages - 1) % S::stages * S::stage_bytes, op, segments[ahead.segment],
                    ahead.index);
    copy_async_commit();
    ahead.advance(segments);
    const Segment &segment = segments[at.segment];
    int count = segment.count - (at.index - segment.first_chunk) * chunk;
    bool seen[2];
#pragma unroll
    for (int half = 0; half < 2; half++)
      seen[half] = at.segment == 0 || at.segment == runs[half][0] || at.segment == runs[half][1];
    const unsigned char *stage = ring + n % S::stages * S::stage_bytes;
    float s[1][2][4] = {};
    multiply_transposed<D, 1, chunk>(s, q_tile, 0, stage);
    soften(running, s, seen, count, scale_log2);
    multiply_registers<D, 1, chunk>(running.o, s, stage + S::tile_bytes);
    at.advance(segments);
  }
  copy_async_wait<0>();
}

/* A warp's softmax to its place [queries][D + 2] of shared memory. */
template <int D>
DEVICE void store_partial(float *partial, const Running<D> &running) {
  int lane = lane_index();
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float *to = partial + (lane / 4 + half * 8) * Decode<D>::partial, sum = running.sum[half];
    sum += warp_shuffle_xor(sum, 1);
    sum += warp_shuffle_xor(sum, 2);
#pragma unroll
    for (int n = 0; n < D / 8; n++) {
      to[n * 8 + lane % 4 * 2] = running.o[0][n][2 * half];
      to[n * 8 + lane % 4 * 2 + 1] = running.o[0][n][2 * half + 1];
    }
    if (lane % 4 == 0) {
      to[D] = running.max[half];
      to[D + 1] = sum;
    }
  }
}

/* The softmax of several parts, `apart` floats from one to the next, at column c: o, and its max and sum. */
struct Merged {
  float o, max, sum;
};

template <int D>
DEVICE Merged merge(const float *parts, int count, size_t apart, int c) {
  Merged all = {0.0f, -INFINITY, 0.0f};
  for (int i = 0; i < count; i++) all.max = fmaxf(all.max, parts[i * apart + D]);
  for (int i = 0; i < count; i++) {
    const float *part = parts + i * apart;
    float factor = shrink(part[D], all.max);
    all.o += part[c] * factor;
    all.sum += part[D + 1] * factor;
  }
  return all;
}

DEVICE bf16 *out_row(const AttentionDecode &op, int kv_head, int query) {
  int group = op.heads / op.kv_heads;
  ptrdiff_t row = query / group * op.heads + kv_head * group + query % group;
  return static_cast<bf16 *>(op.out) + row * op.head_dim;
}

/* partial: NULL without splits, else [blocks][queries][D + 2] */
template <int D>
__global__ void __launch_bounds__(threads)
    attention_decode(AttentionDecode op, int tile, int splits, float *partial, float scale_log2) {
  typedef Decode<D> S;
  DYNAMIC_SHARED(shared);
  SHARED(Segment, segments, [33]);
  SHARED(int, run, [32]);
  SHARED(int, chunks, );
  unsigned char *rings = shared + S::query_bytes;
  Share share = share_of(op, tile, splits);
  load_queries<D>(shared, op, share);
  copy_async_commit();
  if (warp_index() == 0) {
    int count = list_segments(op, share, segments, run);
    if (lane_index() == 0) chunks = count;
  }
  copy_async_wait<0>();
  block_sync();
  Running<D> running = {{}, {-INFINITY, -INFINITY}, {0.0f, 0.0f}};
  attend<D>(running, op, share, shared, rings + warp_index() * S::ring_bytes, segments, run, chunks,
            scale_log2);
  block_sync(); /* the rings are free */
  float *mine = reinterpret_cast<float *>(rings);
  const int apart = queries * S::partial;
  store_partial<D>(mine + warp_index() * apart, running);
  block_sync();
  for (int i = static_cast<int>(threadIdx.x); i < share.count * D; i += threads) {
    int query = i / D, c = i % D;
    if (c >= op.head_dim) continue;
    Merged all = merge<D>(mine + query * S::partial, warps, static_cast<size_t>(apart), c);
    if (!partial) {
      out_row(op, share.kv_head, share.first + query)[c] = to_bf16(all.o / all.sum);
      continue;
    }
    float *to =
        partial + (static_cast<size_t>(blockIdx.x) * queries + static_cast<size_t>(query)) * S::partial;
    to[c] = all.o;
    if (c == 0) {
      to[D] = all.max;
      to[D + 1] = all.sum;
    }
  }
}

/* The splits of a query, a thread a column of out. */
template <int D>
__global__ void __launch_bounds__(threads)
    merge_splits(AttentionDecode op, int tile, int splits, const float *partial) {
  int group = op.heads / op.kv_heads, numbers = op.rows * group;
  int i = static_cast<int>(blockIdx.x) * threads + static_cast<int>(threadIdx.x), c = i % D, rest = i / D;
  int kv_head = rest % op.kv_heads, query = rest / op.kv_heads;
  if (query >= numbers || c >= op.head_dim) return;
  size_t block = static_cast<size_t>(query / tile * op.kv_heads + kv_head) * static_cast<size_t>(splits);
  size_t apart = static_cast<size_t>(queries) * Decode<D>::partial;
  const float *first = partial + block * apart + static_cast<size_t>(query % tile) * Decode<D>::partial;
  Merged all = merge<D>(first, splits, apart, c);
  out_row(op, kv_head, query)[c] = to_bf16(all.o / all.sum);
}

__global__ void __launch_bounds__(threads) kv_store(KvStore op) {
  size_t d = static_cast<size_t>(op.head_dim), width = 2 * static_cast<size_t>(op.kv_heads) * d;
  size_t query_width = static_cast<size_t>(op.heads) * d;
  size_t i = (static_cast<size_t>(blockIdx.x) * threads + threadIdx.x) * 8, from_row = i / width,
         column = i % width;
  if (from_row >= static_cast<size_t>(op.rows)) return;
  size_t to_row = op.row ? static_cast<size_t>(op.row[from_row]) : from_row;
  const bf16 *from =
      static_cast<const bf16 *>(op.qkv) + from_row * (query_width + width) + query_width + column;
  store16(static_cast<bf16 *>(op.cache) + to_row * width + column, load16(from));
}

/* Tiles of 8 queries where they make work enough for every multiprocessor; else of 16, which share more keys,
 * and the keys split so that there are about four blocks for each. */
template <int D>
void decode(Backend *backend, const AttentionDecode &op) {
  typedef Decode<D> S;
  CudaState *state = cuda_state(backend);
  int numbers = op.rows * (op.heads / op.kv_heads), enough = 4 * state->sm_count, tile = 8, splits = 1;
  if (numbers == 0) return;
  if (ceil_div(numbers, tile) * op.kv_heads < enough) {
    tile = queries;
    splits = ceil_div(enough, ceil_div(numbers, tile) * op.kv_heads);
    if (splits > splits_most) splits = splits_most;
  }
  unsigned blocks = static_cast<unsigned>(ceil_div(numbers, tile) * op.kv_heads * splits);
  float scale_log2 = log2_e / sqrtf(static_cast<float>(op.head_dim)), *partial = nullptr;
  if (splits > 1) {
    partial = static_cast<float *>(
        cuda_workspace(backend, blocks * static_cast<size_t>(queries) * S::partial * sizeof(float)));
    if (!partial) return;
  }
  launch(state, {"attention_decode", blocks, threads, S::shared_bytes}, attention_decode<D>, op, tile, splits,
         partial, scale_log2);
  if (splits > 1) {
    size_t columns = static_cast<size_t>(numbers) * static_cast<size_t>(op.kv_heads) * D;
    launch(
        state,
        {"merge_splits", static_cast<unsigned>(ceil_div(columns, static_cast<size_t>(threads))), threads, 0},
        merge_splits<D>, op, tile, splits, static_cast<const float *>(partial));
  }
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

/* out[r] = token_table[tokens[r]] + position_table[positions[r]], one rounding
 * table gradient[k] += sum of dout[r] over the rows r with index k, one rounding; the same for both tables
 *
 * Shapes: tables [V, H] and [positions, H], out and dout [N, H]. Backward, without atomics:
 *   1. The rows are sorted as unique keys (index, row): 1024 a block in shared memory, then launches that
 *      merge pairs of runs, log2(N / 1024) of them. Every key finds its place in the other run by binary
 *      search: 16 N bytes and at most N log2 N probes a launch, whatever V is.
 *   2. A warp takes 32 keys in their order (a segment) and 256 columns, and adds the rows of equal index in
 *      fp32. A sum whose rows all lie in the segment goes to the table, the others leave parts in the
 *      workspace (H N / 4 bytes). Reads 2 N H bytes; reads and writes 2 H bytes for every index that occurs.
 *   3. The parts of an index that goes on over several segments are added in their order: 8 warps take a
 *      range each, then the ranges. One token in every row costs N / 256 additions in a chain, not N.
 * The order of all sums follows from the indices alone. Lower bound: 6 N H bytes forward (4 without
 * positions), 2 N H + 4 H (indices that occur) backward. */
#include "int8.cuh"
#include "span.cuh"

namespace {

const int threads = 256;
const int chunk = 1024;      /* keys that a block sorts */
const int segment = 32;      /* keys that a warp sums */
const int segment_warps = 4; /* segments a block */
const int in_flight = 8;     /* rows that a warp loads before it adds them */
const int join_warps = 8;    /* that share the parts of an index */
const int tile = 32 * 8;     /* columns of a warp */

/* A span of row `index` of a table. */
DEVICE void load_entry(const void *table, bool int8, int32_t index, int hidden, const Span &span,
                       float (&to)[8]) {
  if (int8) {
    load_int8_span(int8_row(table, index, hidden), span.column, to);
    return;
  }
  const bf16 *row =
      static_cast<const bf16 *>(table) + static_cast<size_t>(index) * static_cast<size_t>(hidden);
  load_span(row + span.column, span.count, hidden % 8 == 0, to);
}

__global__ void __launch_bounds__(threads) embedding(Embedding op) {
  Span span = span_of(op.rows, op.hidden);
  if (span.count == 0) return;
  bool aligned = op.hidden % 8 == 0, int8 = op.table_type == WEIGHT_INT8;
  size_t hidden = static_cast<size_t>(op.hidden), column = static_cast<size_t>(span.column);
  float x[8], position[8];
  load_entry(op.token_table, int8, op.tokens[span.row], op.hidden, span, x);
  if (op.position_table) {
    load_entry(op.position_table, int8, op.positions[span.row], op.hidden, span, position);
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] += position[i];
  }
  store_span(static_cast<bf16 *>(op.out) + span.row * hidden + column, span.count, aligned, x);
}

/* Sorting: key = index << 32 | row. */

DEVICE int index_of(uint64_t key) { return static_cast<int>(key >> 32); }
DEVICE int row_of(uint64_t key) { return static_cast<int>(key & 0xffffffffu); }

/* How many of keys[0 .. count-1], which rise, are less than key. */
DEVICE int rank_among(const uint64_t *keys, int count, uint64_t key) {
  int low = 0;
  while (low < count) {
    int middle = (low + count) / 2;
    if (keys[middle] < key)
      low = middle + 1;
    else
      count = middle;
  }
  return low;
}

/* Where key i goes when its run of `run` sorted keys, a power of two, is merged with its neighbour. */
DEVICE int merged_place(const uint64_t *keys, int count, int run, int i) {
  int own = i & -run, other = own ^ run;
  int others = other >= count ? 0 : count - other < run ? count - other : run;
  return (own & other) + (i - own) + rank_among(keys + other, others, keys[i]);
}

__global__ void __launch_bounds__(chunk) sort_chunks(const int32_t *index, int rows, uint64_t *keys) {
  SHARED(uint64_t, buffer, [2][chunk]);
  int thread = static_cast<int>(threadIdx.x), first = static_cast<int>(blockIdx.x) * chunk;
  int count = rows - first < chunk ? rows - first : chunk, row = first + thread, from = 0;
  if (thread < count)
    buffer[0][thread] =
        static_cast<uint64_t>(static_cast<uint32_t>(index[row])) << 32 | static_cast<uint32_t>(row);
  block_sync();
  for (int run = 1; run < count; run *= 2, from ^= 1) {
    if (thread < count)
      buffer[from ^ 1][merged_place(buffer[from], count, run, thread)] = buffer[from][thread];
    block_sync();
  }
  if (thread < count) keys[row] = buffer[from][thread];
}

__global__ void __launch_bounds__(threads) merge_runs(const uint64_t *from, int rows, int run, uint64_t *to) {
  int i = static_cast<int>(blockIdx.x) * threads + static_cast<int>(threadIdx.x);
  if (i < rows) to[merged_place(from, rows, run, i)] = from[i];
}

/* Sums. parts: [segments, 2, H] fp32: of the index that the segment begins with, if rows of it lie before the
 * segment; of the index that it ends with, if it begins here and rows of it lie behind. */

struct TableGradient {
  const uint64_t *keys; /* [rows], rising */
  int rows, hidden;
  const bf16 *dout; /* [rows, H] */
  bf16 *table;      /* [.., H], accumulated */
  float *parts;
};

DEVICE float *part_of(const TableGradient &op, int at, int which) {
  return op.parts +
         (static_cast<size_t>(at) * 2 + static_cast<size_t>(which)) * static_cast<size_t>(op.hidden);
}

DEVICE void store_part(float *part, int width, bool aligned, const float (&sum)[8]) {
  if (aligned && width == 8) {
    store_floats(part, sum);
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; i++)
    if (i < width) part[i] = sum[i];
}

DEVICE void add_to_table(const TableGradient &op, int index, int column, int width, const float (&sum)[8]) {
  bool aligned = op.hidden % 8 == 0;
  bf16 *to = op.table + static_cast<size_t>(index) * static_cast<size_t>(op.hidden) + column;
  float x[8];
  load_span(to, width, aligned, x);
#pragma unroll
  for (int i = 0; i < 8; i++) x[i] += sum[i];
  store_span(to, width, aligned, x);
}

/* Rows `from` and the next ones of the segment, whose row numbers the lanes hold; all loads leave before the
 * first is used. */
DEVICE void load_rows(const TableGradient &op, int own_row, int from, int count, int column, int width,
                      Bytes16 (&x)[in_flight]) {
  const bf16 *row[in_flight];
#pragma unroll
  for (int j = 0; j < in_flight; j++) {
    int r = warp_shuffle(own_row, from + j < count ? from + j : 0);
    row[j] = op.dout + static_cast<size_t>(r) * static_cast<size_t>(op.hidden) + column;
  }
  if (op.hidden % 8 == 0) {
#pragma unroll
    for (int j = 0; j < in_flight; j++)
      x[j] = width == 8 && from + j < count ? load16(row[j]) : Bytes16{{0, 0, 0, 0}};
  } else {
#pragma unroll
    for (int j = 0; j < in_flight; j++) {
      float elements[8];
      load_span(row[j], from + j < count ? width : 0, false, elements);
      x[j] = pack8(elements);
    }
  }
}

__global__ void __launch_bounds__(segment_warps * 32) sum_segments(TableGradient op) {
  int at = static_cast<int>(blockIdx.x) * segment_warps + warp_index(), first = at * segment,
      lane = lane_index();
  if (first >= op.rows) return;
  int count = op.rows - first < segment ? op.rows - first : segment;
  int column = static_cast<int>(blockIdx.y) * tile + lane * 8;
  int width = op.hidden - column < 0 ? 0 : op.hidden - column < 8 ? op.hidden - column : 8;
  uint64_t key = op.keys[first + (lane < count ? lane : 0)];
  int index = index_of(key), before = first > 0 ? index_of(op.keys[first - 1]) : -1;
  int behind = first + count < op.rows ? index_of(op.keys[first + count]) : -1;
  int next = warp_shuffle_down(index, 1);
  uint32_t ends = warp_ballot(lane == count - 1 || (lane < count && index != next));
  float sum[8] = {};
  for (int from = 0; from < count; from += in_flight) {
    Bytes16 rows[in_flight];
    load_rows(op, row_of(key), from, count, column, width, rows);
#pragma unroll
    for (int j = 0; j < in_flight; j++) {
      float x[8];
      unpack8(rows[j], x);
#pragma unroll
      for (int i = 0; i < 8; i++) sum[i] += x[i];
      int of = warp_shuffle(index, from + j);
      if (from + j >= count || !(ends >> (from + j) & 1u)) continue;
      if (of == before || of == behind) {
        float *part = part_of(op, at, of == before ? 0 : 1) + column;
        store_part(part, width, op.hidden % 8 == 0, sum);
      } else {
        add_to_table(op, of, column, width, sum);
      }
#pragma unroll
      for (int i = 0; i < 8; i++) sum[i] = 0.0f;
    }
  }
}

/* For the index that the segment ends with, if it begins there and goes on: its parts. */
__global__ void __launch_bounds__(join_warps * 32) join_segments(TableGradient op) {
  SHARED(float, sums, [join_warps][tile]);
  int at = static_cast<int>(blockIdx.x), first = at * segment, behind = first + segment;
  if (behind >= op.rows) return;
  int index = index_of(op.keys[behind - 1]);
  if (index_of(op.keys[behind]) != index || (first > 0 && index_of(op.keys[first - 1]) == index)) return;
  int rows_before = rank_among(op.keys, op.rows, static_cast<uint64_t>(index + 1) << 32);
  int parts = (rows_before - 1) / segment - at + 1, range = ceil_div(parts, join_warps);
  int from = warp_index() * range, end = from + range < parts ? from + range : parts;
  int column = static_cast<int>(blockIdx.y) * tile + lane_index();
  float sum[8] = {};
#pragma unroll 4
  for (int p = from; p < end; p++) {
    const float *part = part_of(op, at + p, p == 0 ? 1 : 0) + column;
#pragma unroll
    for (int i = 0; i < 8; i++)
      if (column + 32 * i < op.hidden) sum[i] += part[32 * i];
  }
#pragma unroll
  for (int i = 0; i < 8; i++) sums[warp_index()][lane_index() + 32 * i] = sum[i];
  block_sync();
  int own = static_cast<int>(threadIdx.x), out = static_cast<int>(blockIdx.y) * tile + own;
  if (out >= op.hidden) return;
  float total = 0.0f;
  for (int w = 0; w < join_warps; w++) total += sums[w][own];
  bf16 *to = op.table + static_cast<size_t>(index) * static_cast<size_t>(op.hidden) + out;
  *to = to_bf16(to_float(*to) + total);
}

unsigned blocks_of(int count, int size) { return static_cast<unsigned>(ceil_div(count, size)); }

/* table[index[r]] += dout[r]; keys: [2, rows] scratch. */
void add_rows(CudaState *state, const int32_t *index, const EmbeddingBackward &op, void *table,
              uint64_t *keys, float *parts) {
  uint64_t *sorted = keys, *other = keys + op.rows;
  launch(state, {"sort_chunks", blocks_of(op.rows, chunk), chunk, 0}, sort_chunks, index, op.rows, sorted);
  for (int run = chunk; run < op.rows; run *= 2) {
    launch(state, {"merge_runs", blocks_of(op.rows, threads), threads, 0}, merge_runs, sorted, op.rows, run,
           other);
    uint64_t *merged = other;
    other = sorted;
    sorted = merged;
  }
  TableGradient gradient = {
      sorted, op.rows, op.hidden, static_cast<const bf16 *>(op.dout), static_cast<bf16 *>(table), parts};
  unsigned segments = blocks_of(op.rows, segment), tiles = blocks_of(op.hidden, tile);
  launch(state,
         {"sum_segments", dim3(ceil_div<unsigned>(segments, segment_warps), tiles), segment_warps * 32, 0},
         sum_segments, gradient);
  launch(state, {"join_segments", dim3(segments, tiles), join_warps * 32, 0}, join_segments, gradient);
}

}  // namespace

void cuda_embedding(Backend *backend, const Embedding *op) {
  unsigned blocks = span_blocks(op->rows, op->hidden, threads);
  launch(cuda_state(backend), {"embedding", blocks, threads, 0}, embedding, *op);
}

void cuda_embedding_backward(Backend *backend, const EmbeddingBackward *op) {
  if (op->rows == 0 || op->hidden == 0 || (!op->dtoken_table && !op->dposition_table)) return;
  size_t keys_bytes = 2 * static_cast<size_t>(op->rows) * sizeof(uint64_t);
  size_t parts = static_cast<size_t>(ceil_div(op->rows, segment)) * 2 * static_cast<size_t>(op->hidden);
  char *scratch = static_cast<char *>(cuda_workspace(backend, keys_bytes + parts * sizeof(float)));
  if (!scratch) return;
  uint64_t *keys = reinterpret_cast<uint64_t *>(scratch);
  float *sums = reinterpret_cast<float *>(scratch + keys_bytes);
  CudaState *state = cuda_state(backend);
  if (op->dtoken_table) add_rows(state, op->tokens, *op, op->dtoken_table, keys, sums);
  if (op->dposition_table) add_rows(state, op->positions, *op, op->dposition_table, keys, sums);
}

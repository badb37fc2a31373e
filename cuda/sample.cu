/* e_j = exp((logit_j - largest) / temperature), w_j = floor(2^40 e_j) a 64-bit integer; cut to the top_k
 * largest e and then to the smallest set with ceil(top_p W); the token drawn is the first in id order whose
 * running sum of kept weights exceeds floor(random64 W / 2^64), W the sum of the weights kept.
 *
 * Shapes: logits [rows, V], a block a row. Sums of integers do not depend on their order, and the exponential
 * is the CPU backend's, operation by operation: the same logits give the same tokens on both. Nothing is
 * sorted: a set's last member is found by radix selection, 10 bits of the exponential (or of the id) at a
 * time, over the candidates. Those are few: the first reading leaves each thread with its largest logit, and
 * the k-th largest of these is no more than the k-th largest of all; likewise they bound the total from
 * below, and with it the share that tokens outside of the nucleus can have.
 *
 * Reads of V logits: 2 (for the largest; for the weights) and 1/16 more to draw when nothing is cut; 2 when
 * the candidates fit into shared memory, then all else happens there. If they do not (more than 4096: an
 * untrained model, or top_k over 512), the exponentials are written over the logits and read 5 more times a
 * cut. Lower bound: 4 V bytes a row; the second reading may find a row in the L2. */
#include "primitives.cuh"

namespace {

const int threads = 512, warps = threads / 32;
const int capacity = 4096; /* candidates in shared memory */
const int digit_bits = 10, digits = 1 << digit_bits;
const int batch = 4; /* 16-byte loads of a thread in flight */
const float one_weight = 0x1p40f;
const float least_weighing = 0x1p-40f; /* smaller exponentials weigh nothing */

static_assert(digits == 2 * threads, "find_digit gives every thread two bins");

/* A row's logits or, once raised, its exponentials. Rows need not be 16-byte aligned, vectors of four are:
 * vector v holds the tokens from 4 v - shift on. */
struct Row {
  float *x;
  int vocab, shift, vectors;
  float top, inverse; /* largest logit, 1 / temperature */
  bool raised;
};

/* Vectors of a row. */
struct Range {
  int first, last;
};

/* Tokens that may still be drawn, in any order; an exponential of 0: not any more. */
struct Candidates {
  float *e;
  const int32_t *id; /* NULL: candidate i is token i */
  int count;
};

enum Order { MOST_LIKELY_FIRST, LOWEST_ID_FIRST };
enum Measure { TOKENS, WEIGHT }; /* what the size of a set is measured in */

struct Selected {
  uint32_t key;
  uint64_t left;   /* what the candidates with exactly this key have to contribute */
  uint64_t amount; /* what they have together */
};

struct Scratch {
  float e[capacity];
  int32_t id[capacity];
  uint32_t low[digits], high[digits]; /* halves of a bin's amount */
  float largest[threads];
  uint64_t part[warps];
  Selected found;
  uint32_t count;
};

/* host/cpu/simd.h, bit for bit; the comments are there. */
DEVICE float portable_exp(float x) {
  const float to_int = 0x1.8p23f;
  x = x > 89.0f ? 89.0f : x;
  x = x < -104.0f ? -104.0f : x;
  float shifted = fmaf(x, 0x1.715476p0f, to_int), n = shifted - to_int;
  float r = fmaf(n, -0x1.7f7d1cp-20f, fmaf(n, -0x1.62e4p-1f, x));
  float p = 0x1.6a234ep-10f;
  p = fmaf(p, r, 0x1.123a6cp-7f);
  p = fmaf(p, r, 0x1.5558f4p-5f);
  p = fmaf(p, r, 0x1.55549p-3f);
  p = fmaf(p, r, 0x1.fffffcp-2f);
  p = fmaf(p * r, r, r) + 1.0f;
  int32_t power = static_cast<int32_t>(float_to_bits(shifted) - float_to_bits(to_int));
  int32_t half = power >> 1;
  float low = bits_to_float(static_cast<uint32_t>(half + 127) << 23);
  float high = bits_to_float(static_cast<uint32_t>(power - half + 127) << 23);
  return p * low * high;
}

DEVICE float exponential(const Row &row, float x) {
  float e = row.raised ? x : portable_exp((x - row.top) * row.inverse);
  return e > 0.0f ? e : 0.0f; /* NaN counts for nothing */
}

DEVICE uint64_t weight_of(float e) { return static_cast<uint64_t>(e * one_weight); }

DEVICE Range part_of(Range range, int part) {
  int size = ceil_div(range.last - range.first, warps), first = range.first + part * size;
  first = first < range.last ? first : range.last;
  return {first, range.last - first < size ? range.last : first + size};
}

/* Vector v, NaN where the row or the range does not reach. */
DEVICE void load_vector(const Row &row, int v, int last, float (&x)[4]) {
  int j = 4 * v - row.shift;
  if (v < last && j >= 0 && row.vocab - j >= 4) {
    load_floats(row.x + j, x);
  } else {
    for (int i = 0; i < 4; i++) x[i] = v < last && j + i >= 0 && j + i < row.vocab ? row.x[j + i] : NAN;
  }
}

/* visit(token, x) by one warp; tokens outside of the row come with NaN. */
template <typename Visit>
DEVICE void visit_range(const Row &row, Range range, Visit visit) {
  for (int v = range.first + lane_index(); v < range.last; v += 32 * batch) {
    float x[batch][4];
#pragma unroll
    for (int u = 0; u < batch; u++) load_vector(row, v + 32 * u, range.last, x[u]);
#pragma unroll
    for (int u = 0; u < batch; u++)
      for (int i = 0; i < 4; i++) visit(4 * (v + 32 * u) - row.shift + i, x[u][i]);
  }
}

DEVICE uint64_t weight_in(const Row &row, Range range) {
  uint64_t sum = 0;
  visit_range(row, range, [&](int, float x) { sum += weight_of(exponential(row, x)); });
  return sum;
}

/* The sum up to and with this lane. */
DEVICE uint64_t warp_prefix(uint64_t value) {
#pragma unroll
  for (int n = 1; n < 32; n *= 2) {
    uint64_t lower = warp_shuffle_up(value, n);
    if (lane_index() >= n) value += lower;
  }
  return value;
}

/* The digit in whose bin `want` is reached, counting from the highest, goes to s.found with its left and
 * amount. */
DEVICE void find_digit(Scratch &s, uint64_t want) {
  uint32_t bin = digits - 1 - 2 * threadIdx.x;
  uint64_t upper = static_cast<uint64_t>(s.high[bin]) << 32 | s.low[bin];
  uint64_t lower = static_cast<uint64_t>(s.high[bin - 1]) << 32 | s.low[bin - 1];
  uint64_t reached = warp_prefix(upper + lower);
  if (lane_index() == 31) s.part[warp_index()] = reached;
  block_sync();
  for (int i = 0; i < warp_index(); i++) reached += s.part[i];
  uint64_t before = reached - upper - lower;
  if (before < want && want <= reached) {
    bool first = want - before <= upper;
    s.found.key = first ? bin : bin - 1;
    s.found.left = want - before - (first ? 0 : upper);
    s.found.amount = first ? upper : lower;
  }
  block_sync();
}

/* Two 32-bit atomics and a carry; the sum of a bin does not depend on the order. */
DEVICE void add_to_bin(Scratch &s, uint32_t bin, uint64_t amount) {
  uint32_t low = static_cast<uint32_t>(amount), high = static_cast<uint32_t>(amount >> 32);
  uint32_t old = atomic_add(&s.low[bin], low);
  if (old + low < old) high++;
  if (high) atomic_add(&s.high[bin], high);
}

/* The key of the last candidate of the smallest set, taken in order, that has at least `want`, which must be
 * no more than all have. only > 0: among the candidates with that exponential. */
DEVICE Selected select(Scratch &s, const Candidates &c, const Row &row, Order order, Measure measure,
                       float only, uint64_t want) {
  uint32_t lowest = float_to_bits(least_weighing), last_id = static_cast<uint32_t>(row.vocab) - 1;
  uint32_t highest = order == LOWEST_ID_FIRST ? last_id : float_to_bits(1.0f) - lowest, prefix = 0;
  int shift = 0;
  while (highest >> shift >> digit_bits) shift += digit_bits;
  for (;; shift -= digit_bits) {
    for (int bin = static_cast<int>(threadIdx.x); bin < digits; bin += threads) s.low[bin] = s.high[bin] = 0;
    block_sync();
    for (int i = static_cast<int>(threadIdx.x); i < c.count; i += threads) {
      float e = c.e[i];
      if (!(e > 0.0f) || (only > 0.0f && e != only)) continue;
      uint32_t key = order == LOWEST_ID_FIRST ? last_id - static_cast<uint32_t>(c.id ? c.id[i] : i)
                                              : float_to_bits(e) - lowest;
      if (key >> shift >> digit_bits == prefix)
        add_to_bin(s, (key >> shift) & (digits - 1), measure == TOKENS ? 1 : weight_of(e));
    }
    block_sync();
    find_digit(s, want);
    prefix = prefix << digit_bits | s.found.key;
    want = s.found.left;
    if (shift == 0) return {prefix, want, s.found.amount};
  }
}

/* Leaves the smallest set that has at least `want`; among equals the lower ids stay. */
DEVICE void keep_smallest_set(Scratch &s, const Candidates &c, const Row &row, Measure measure,
                              uint64_t want) {
  Selected last = select(s, c, row, MOST_LIKELY_FIRST, measure, 0.0f, want);
  float e = bits_to_float(last.key + float_to_bits(least_weighing));
  uint64_t each = measure == TOKENS ? 1 : weight_of(e), ties = ceil_div(last.left, each);
  int last_id = row.vocab;
  if (ties * each < last.amount) {
    Selected tie = select(s, c, row, LOWEST_ID_FIRST, TOKENS, e, ties);
    last_id = row.vocab - 1 - static_cast<int>(tie.key);
  }
  for (int i = static_cast<int>(threadIdx.x); i < c.count; i += threads)
    if (c.e[i] < e || (c.e[i] == e && (c.id ? c.id[i] : i) > last_id)) c.e[i] = 0.0f;
  block_sync();
}

DEVICE uint64_t total_weight(const Candidates &c) {
  uint64_t sum = 0;
  for (int i = static_cast<int>(threadIdx.x); i < c.count; i += threads) sum += weight_of(c.e[i]);
  return block_sum(sum);
}

DEVICE uint64_t share(uint64_t total, float top_p) {
  uint64_t want = static_cast<uint64_t>(ceil(static_cast<double>(total) * static_cast<double>(top_p)));
  return want < 1 ? 1 : want > total ? total : want;
}

/* At most the k-th largest exponential of the row, k <= threads: the k-th largest of the threads' largest. */
DEVICE float bound_of_top_k(Scratch &s, float largest, int k) {
  s.largest[threadIdx.x] = largest;
  block_sync();
  int larger = 0;
  for (int i = 0; i < threads; i++) larger += s.largest[i] > largest;
  return -block_max(larger < k ? -largest : -1.0f);
}

/* No member of the cut set has a smaller exponential. largest: the thread's, 0 if it has none. For top_p:
 * tokens below (1 - top_p) total / V have less than 1 - top_p together, and so for less than the total. */
DEVICE float bound_of_cut(Scratch &s, const Sample &a, float largest) {
  float bound = 0.0f;
  if (a.top_k > 0) {
    if (a.top_k <= threads) bound = bound_of_top_k(s, largest, a.top_k);
  } else {
    uint64_t total = block_sum(weight_of(largest));
    double rest = static_cast<double>(total - share(total, a.top_p)) / static_cast<double>(one_weight);
    bound = static_cast<float>(rest / a.vocab * 0.999);
  }
  return bound > least_weighing ? bound : least_weighing;
}

/* The candidates into shared memory, as many as fit; s.count is more than capacity if some did not. Returns
 * the weight of what the thread has read. */
DEVICE uint64_t gather(Scratch &s, const Row &row, Range range, float least) {
  uint64_t sum = 0;
  bool full = false;
  visit_range(row, range, [&](int j, float x) {
    float e = exponential(row, x);
    sum += weight_of(e);
    if (!(e >= least) || full) return;
    uint32_t at = atomic_add(&s.count, 1);
    full = at >= capacity;
    if (full) return;
    s.e[at] = e;
    s.id[at] = j;
  });
  return sum;
}

/* Exponentials over the logits, 0 for those that are no candidates; returns the number of the others. */
DEVICE int raise_row(Row &row, float least) {
  int count = 0;
  for (int j = static_cast<int>(threadIdx.x); j < row.vocab; j += threads) {
    float e = exponential(row, row.x[j]);
    if (e < least) e = 0.0f;
    row.x[j] = e;
    count += e > 0.0f;
  }
  row.raised = true;
  return block_sum(count);
}

DEVICE void write_draw(const Sample &a, int token, uint64_t weight, uint64_t total) {
  a.token[blockIdx.x] = token;
  a.logprob[blockIdx.x] = static_cast<float>(log(static_cast<double>(weight) / static_cast<double>(total)));
}

/* From all of a row: the range that holds the token, a sixteenth at a time, until a warp can look at once.
 * sum: the weight of the thread's share of its warp's part of the row. */
DEVICE void draw_from_row(Scratch &s, const Sample &a, const Row &row, uint64_t sum, uint64_t random) {
  Range range = {0, row.vectors};
  uint64_t total = block_sum(sum), left = multiply_high(random, total);
  for (;;) {
    sum = warp_sum(sum);
    if (lane_index() == 0) s.part[warp_index()] = sum;
    block_sync();
    int part = 0;
    while (left >= s.part[part]) left -= s.part[part++];
    block_sync();
    range = part_of(range, part);
    if (range.last - range.first <= 32) break;
    sum = weight_in(row, part_of(range, warp_index()));
  }
  if (warp_index() != 0) return;
  float x[4];
  uint64_t w[4];
  load_vector(row, range.first + lane_index(), range.last, x);
  for (int i = 0; i < 4; i++) w[i] = weight_of(exponential(row, x[i]));
  uint64_t own = w[0] + w[1] + w[2] + w[3], before = warp_prefix(own) - own;
  for (int i = 0; i < 4; i++) {
    if (left >= before && left - before < w[i])
      write_draw(a, 4 * (range.first + lane_index()) - row.shift + i, w[i], total);
    before += w[i];
  }
}

/* The most likely token, the lower id on ties. largest: the thread's logit. */
DEVICE void take_largest(const Sample &a, const Row &row, Range range, float largest) {
  int found = 0; /* V - id */
  if (largest == row.top)
    visit_range(row, range, [&](int j, float x) {
      if (x == row.top && row.vocab - j > found) found = row.vocab - j;
    });
  found = block_max(found);
  if (threadIdx.x != 0) return;
  a.token[blockIdx.x] = found ? row.vocab - found : 0;
  a.logprob[blockIdx.x] = isfinite(row.top) ? 0.0f : NAN; /* a model that is broken must be seen */
}

/* top_k < V, 0 for all; inverse: 1 / temperature, 0 to take the most likely. */
__global__ void __launch_bounds__(threads) sample(Sample a, float inverse) {
  SHARED(Scratch, s, );
  float *x = a.logits + static_cast<size_t>(blockIdx.x) * static_cast<size_t>(a.vocab);
  int shift = static_cast<int>(reinterpret_cast<uintptr_t>(x) / sizeof(float) % 4);
  Row row = {x, a.vocab, shift, ceil_div(a.vocab + shift, 4), 0.0f, inverse, false};
  Range mine = part_of({0, row.vectors}, warp_index());

  float largest = -INFINITY;
  visit_range(row, mine, [&](int, float logit) { largest = logit > largest ? logit : largest; });
  row.top = block_max(largest);
  if (inverse == 0.0f || !isfinite(row.top)) {
    take_largest(a, row, mine, largest);
    return;
  }

  Random4 r = philox(*a.key, static_cast<uint32_t>(a.sample[blockIdx.x]),
                     static_cast<uint32_t>(a.position[blockIdx.x]));
  uint64_t random = static_cast<uint64_t>(r.v[0]) << 32 | r.v[1];
  if (a.top_k <= 0 && !(a.top_p < 1.0f)) {
    draw_from_row(s, a, row, weight_in(row, mine), random);
    return;
  }

  if (threadIdx.x == 0) s.count = 0;
  float least = bound_of_cut(s, a, exponential(row, largest));
  block_sync();
  uint64_t total = block_sum(gather(s, row, mine, least));
  Candidates c = {s.e, s.id, static_cast<int>(s.count)};
  int count = c.count;
  if (count > capacity) {
    count = raise_row(row, least);
    c = {row.x, nullptr, row.vocab};
  }
  if (a.top_k > 0) {
    if (a.top_k < count) keep_smallest_set(s, c, row, TOKENS, static_cast<uint64_t>(a.top_k));
    total = total_weight(c);
  }
  if (a.top_p < 1.0f) keep_smallest_set(s, c, row, WEIGHT, share(total, a.top_p));

  if (row.raised) {
    draw_from_row(s, a, row, weight_in(row, mine), random);
    return;
  }
  total = total_weight(c);
  Selected drawn = select(s, c, row, LOWEST_ID_FIRST, WEIGHT, 0.0f, multiply_high(random, total) + 1);
  if (threadIdx.x == 0) write_draw(a, a.vocab - 1 - static_cast<int>(drawn.key), drawn.amount, total);
}

}  // namespace

void cuda_sample(Backend *backend, const Sample *op) {
  if (op->rows == 0 || op->vocab == 0) return;
  Sample a = *op;
  if (a.top_k >= a.vocab) a.top_k = 0;
  float inverse = a.temperature > 0.0f ? 1.0f / a.temperature : 0.0f;
  if (!isfinite(inverse)) inverse = 0.0f; /* nothing but the largest would weigh anything */
  launch(cuda_state(backend), {"sample", static_cast<unsigned>(op->rows), threads, 0}, sample, a, inverse);
}

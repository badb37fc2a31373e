/* Rotary position embedding (Su et al. 2021), in place on the pairs (a, b) = (i, i + d/2) of the query and
 * key heads: (a, b) -> (a cos - b sin, a sin + b cos),  angle = position theta^(-2i/d), slow pairs scaled;
 * inverse: -angle
 *
 * Shapes: qkv [rows, (Hq + 2 Hkv) d]. A block takes one or more rows. First a thread a (row, pair) finds the
 * cosine and the sine: in turns and double precision until only the fraction of a turn is left, so that a
 * large position costs no digits. Then all threads turn 8 pairs at a time, 16 bytes an access. Lower bound:
 * 4 (Hq + Hkv) d bytes a row; an angle costs about 60 operations and serves Hq + Hkv pairs. */
#include "span.cuh"

namespace {

const int threads = 256;
const int enough_blocks = 512; /* below that rows are not worth sharing a block */

/* cosine, sine: [rows of the block, half] */
DEVICE void find_angles(const Rope &op, const RopeBlend &blend, int first, int count, double exponent,
                        float *cosine, float *sine) {
  int half = op.head_dim / 2;
  for (int i = static_cast<int>(threadIdx.x); i < count * half; i += threads) {
    double frequency = rope_blended(blend, exp2(exponent * (i % half)));
    double turns = (op.first_position + op.positions[first + i / half]) * frequency * 0.15915494309189535;
    float angle = static_cast<float>((turns - rint(turns)) * 6.283185307179586);
    cosine[i] = cosf(angle);
    sine[i] = op.inverse ? -sinf(angle) : sinf(angle);
  }
}

DEVICE void turn_span(bf16 *a, bf16 *b, int count, bool aligned, const float *cosine, const float *sine) {
  float x[8], y[8];
  load_span(a, count, aligned, x);
  load_span(b, count, aligned, y);
#pragma unroll
  for (int i = 0; i < 8; i++) {
    float c = i < count ? cosine[i] : 1.0f, s = i < count ? sine[i] : 0.0f, turned = x[i] * c - y[i] * s;
    y[i] = x[i] * s + y[i] * c;
    x[i] = turned;
  }
  store_span(a, count, aligned, x);
  store_span(b, count, aligned, y);
}

__global__ void __launch_bounds__(threads) rope(Rope op, RopeBlend blend, int block_rows, double exponent) {
  DYNAMIC_SHARED(bytes);
  int half = op.head_dim / 2, heads = op.heads + op.kv_heads;
  int first = static_cast<int>(blockIdx.x) * block_rows;
  int count = op.rows - first < block_rows ? op.rows - first : block_rows;
  float *cosine = reinterpret_cast<float *>(bytes), *sine = cosine + block_rows * half;
  find_angles(op, blend, first, count, exponent, cosine, sine);
  block_sync();
  size_t stride = static_cast<size_t>(heads + op.kv_heads) * static_cast<size_t>(op.head_dim);
  bool aligned = half % 8 == 0;
  int spans = (half + 7) / 8;
  for (int i = static_cast<int>(threadIdx.x); i < count * heads * spans; i += threads) {
    int pair = i % spans * 8, head = i / spans % heads, row = i / spans / heads;
    bf16 *a =
        static_cast<bf16 *>(op.qkv) + static_cast<size_t>(first + row) * stride + head * op.head_dim + pair;
    int width = half - pair < 8 ? half - pair : 8;
    turn_span(a, a + half, width, aligned, cosine + row * half + pair, sine + row * half + pair);
  }
}

}  // namespace

void cuda_rope(Backend *backend, const Rope *op) {
  int half = op->head_dim / 2;
  if (op->rows == 0 || half == 0) return;
  int wanted = ceil_div(op->rows, enough_blocks), most = half < threads ? threads / half : 1;
  int block_rows = wanted < most ? wanted : most;
  double exponent = -2.0 / op->head_dim * log2(static_cast<double>(op->theta));
  size_t shared = 2 * static_cast<size_t>(block_rows) * static_cast<size_t>(half) * sizeof(float);
  unsigned blocks = static_cast<unsigned>(ceil_div(op->rows, block_rows));
  launch(cuda_state(backend), {"rope", blocks, threads, shared}, rope, *op, rope_blend(op->scaling),
         block_rows, exponent);
}

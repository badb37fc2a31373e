/* AdamW (Loshchilov and Hutter 2019, algorithm 2, the bias corrections folded in), one launch for all:
 *   g = grad min(1, max_norm / (norm + 1e-6))
 *   m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
 *   w = w - lr weight_decay w - lr (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + epsilon)
 * w, m, v [n] fp32, grad and copy [n] bf16; copy = w rounded. Lower bound: 28 n bytes (14 read, 14 written).
 * A thread takes 4 neighbouring parameters at a time, so that both a warp's fp32 and its bf16 accesses are of
 * whole neighbouring sectors. */
#include "primitives.cuh"

namespace {

const int threads = 256, groups = 2; /* of 4 parameters, a thread */
const size_t block_size = static_cast<size_t>(threads) * groups * 4;

struct Factors {
  float beta1, beta2, rest1, rest2, rate, correction, epsilon;
  float decayed; /* what decay leaves of a parameter */
};

/* The state of four neighbouring parameters. */
struct Group {
  float w[4], m[4], v[4], g[4];
};

/* count: of the four, those that exist. whole: all do and the accesses are aligned. */
DEVICE void load_group(const AdamW &a, size_t first, int count, bool whole, Group &x) {
  const bf16 *grad = static_cast<const bf16 *>(a.grad) + first;
  if (whole) {
    load_floats(a.master + first, x.w);
    load_floats(a.m + first, x.m);
    load_floats(a.v + first, x.v);
    Bytes8 bytes = load_bytes8(grad);
    for (int i = 0; i < 2; i++) unpack_bf16(bytes.word[i], x.g[2 * i], x.g[2 * i + 1]);
    return;
  }
  for (int i = 0; i < 4; i++) {
    size_t j = first + static_cast<size_t>(i);
    bool exists = i < count;
    x.w[i] = exists ? a.master[j] : 0.0f;
    x.m[i] = exists ? a.m[j] : 0.0f;
    x.v[i] = exists ? a.v[j] : 0.0f;
    x.g[i] = exists ? to_float(grad[i]) : 0.0f;
  }
}

DEVICE void store_group(const AdamW &a, size_t first, int count, bool whole, const Group &x) {
  bf16 *copy = static_cast<bf16 *>(a.copy) + first;
  if (whole) {
    store_floats(a.master + first, x.w);
    store_floats(a.m + first, x.m);
    store_floats(a.v + first, x.v);
    store_bytes8(copy, {{pack_bf16(x.w[0], x.w[1]), pack_bf16(x.w[2], x.w[3])}});
    return;
  }
  for (int i = 0; i < 4; i++) {
    if (i >= count) return;
    size_t j = first + static_cast<size_t>(i);
    a.master[j] = x.w[i];
    a.m[j] = x.m[i];
    a.v[j] = x.v[i];
    copy[i] = to_bf16(x.w[i]);
  }
}

/* decay: how many of the four it is for. */
DEVICE void update(const Factors &f, float clip, int decay, Group &x) {
  for (int i = 0; i < 4; i++) {
    float g = x.g[i] * clip;
    x.m[i] = f.beta1 * x.m[i] + f.rest1 * g;
    x.v[i] = f.beta2 * x.v[i] + f.rest2 * g * g;
    float kept = i < decay ? f.decayed : 1.0f;
    x.w[i] = kept * x.w[i] - f.rate * x.m[i] / (sqrtf(x.v[i]) * f.correction + f.epsilon);
  }
}

/* How many of the four parameters from first on come before end. */
DEVICE int count_before(size_t end, size_t first) {
  return first >= end ? 0 : end - first < 4 ? static_cast<int>(end - first) : 4;
}

/* The norm is looked at after the loads were issued: it decides, but nothing waits for it. */
__global__ void __launch_bounds__(threads) adamw(AdamW a, Factors f, bool aligned) {
  size_t first[groups];
  int count[groups];
  Group x[groups];
#pragma unroll
  for (int u = 0; u < groups; u++) {
    first[u] = blockIdx.x * block_size + (static_cast<size_t>(u) * threads + threadIdx.x) * 4;
    count[u] = count_before(a.count, first[u]);
    load_group(a, first[u], count[u], aligned && count[u] == 4, x[u]);
  }
  float clip = 1.0f;
  if (a.norm) {
    float norm = *a.norm;
    if (!isfinite(norm)) return;
    if (a.max_norm > 0.0f) clip = fminf(1.0f, a.max_norm / (norm + 1e-6f));
  }
#pragma unroll
  for (int u = 0; u < groups; u++) {
    update(f, clip, count_before(a.decay_count, first[u]), x[u]);
    store_group(a, first[u], count[u], aligned && count[u] == 4, x[u]);
  }
}

bool is_aligned(const void *pointer, size_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

}  // namespace

void cuda_adamw(Backend *backend, const AdamW *op) {
  double beta1 = static_cast<double>(op->beta1), beta2 = static_cast<double>(op->beta2);
  double correction1 = 1 - pow(beta1, op->step), correction2 = 1 - pow(beta2, op->step);
  Factors f = {};
  f.beta1 = op->beta1;
  f.beta2 = op->beta2;
  f.rest1 = static_cast<float>(1 - beta1);
  f.rest2 = static_cast<float>(1 - beta2);
  f.rate = static_cast<float>(static_cast<double>(op->lr) / correction1);
  f.correction = static_cast<float>(1 / sqrt(correction2));
  f.epsilon = op->epsilon;
  f.decayed = 1.0f - op->lr * op->weight_decay;
  bool aligned = is_aligned(op->master, 16) && is_aligned(op->m, 16) && is_aligned(op->v, 16) &&
                 is_aligned(op->grad, 8) && is_aligned(op->copy, 8);
  unsigned blocks = static_cast<unsigned>(ceil_div(op->count, block_size));
  launch(cuda_state(backend), {"adamw", blocks, threads, 0}, adamw, *op, f, aligned);
}

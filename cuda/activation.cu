/* GELU, tanh form (Hendrycks and Gimpel 2016; GPT-2): y = x/2 (1 + tanh u), u = sqrt(2/pi) (x + 0.044715 x^3)
 * SwiGLU (Shazeer 2020): y = silu(gate) up, silu(g) = g / (1 + exp(-g)), x = [gate | up] of each row
 *
 * Shapes: x [rows, F] or [rows, 2F], y [rows, F]. A thread takes 8 neighbouring elements of a row (16 bytes),
 * the last ones of an odd width one by one. Lower bound, bytes an element of y: GELU 4 forward, 6 backward;
 * SwiGLU 6 forward, 10 backward. About 10 operations an element: memory bounds it. */
#include "span.cuh"

namespace {

const int block_threads = 256;

DEVICE float tanh_of(float u) { return 1.0f - 2.0f / (1.0f + fast_exp(2.0f * u)); }

struct Gelu {
  DEVICE static float value(float x) {
    float u = 0.79788456080286536f * (x + 0.044715f * x * x * x);
    return 0.5f * x * (1.0f + tanh_of(u));
  }
  DEVICE static float slope(float x) {
    float u = 0.79788456080286536f * (x + 0.044715f * x * x * x);
    float t = tanh_of(u), du = 0.79788456080286536f * (1.0f + 3.0f * 0.044715f * x * x);
    return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * du;
  }
};

__global__ void __launch_bounds__(block_threads) gelu_forward(Activation op) {
  Span span = span_of(op.rows, op.width);
  if (span.count == 0) return;
  bool aligned = op.width % 8 == 0;
  size_t at = span.row * static_cast<size_t>(op.width) + static_cast<size_t>(span.column);
  float x[8];
  load_span(static_cast<const bf16 *>(op.x) + at, span.count, aligned, x);
#pragma unroll
  for (int i = 0; i < 8; i++) x[i] = Gelu::value(x[i]);
  store_span(static_cast<bf16 *>(op.y) + at, span.count, aligned, x);
}

__global__ void __launch_bounds__(block_threads) gelu_backward(ActivationBackward op) {
  Span span = span_of(op.rows, op.width);
  if (span.count == 0) return;
  bool aligned = op.width % 8 == 0;
  size_t at = span.row * static_cast<size_t>(op.width) + static_cast<size_t>(span.column);
  float x[8], dy[8];
  load_span(static_cast<const bf16 *>(op.x) + at, span.count, aligned, x);
  load_span(static_cast<const bf16 *>(op.dy) + at, span.count, aligned, dy);
#pragma unroll
  for (int i = 0; i < 8; i++) dy[i] *= Gelu::slope(x[i]);
  store_span(static_cast<bf16 *>(op.dx) + at, span.count, aligned, dy);
}

__global__ void __launch_bounds__(block_threads) swiglu_forward(Activation op) {
  Span span = span_of(op.rows, op.width);
  if (span.count == 0) return;
  bool aligned = op.width % 8 == 0;
  size_t width = static_cast<size_t>(op.width), column = static_cast<size_t>(span.column);
  const bf16 *x = static_cast<const bf16 *>(op.x) + span.row * 2 * width + column;
  float gate[8], up[8];
  load_span(x, span.count, aligned, gate);
  load_span(x + width, span.count, aligned, up);
#pragma unroll
  for (int i = 0; i < 8; i++) up[i] *= gate[i] / (1.0f + fast_exp(-gate[i]));
  store_span(static_cast<bf16 *>(op.y) + span.row * width + column, span.count, aligned, up);
}

__global__ void __launch_bounds__(block_threads) swiglu_backward(ActivationBackward op) {
  Span span = span_of(op.rows, op.width);
  if (span.count == 0) return;
  bool aligned = op.width % 8 == 0;
  size_t width = static_cast<size_t>(op.width), column = static_cast<size_t>(span.column);
  size_t at = span.row * 2 * width + column;
  const bf16 *x = static_cast<const bf16 *>(op.x) + at;
  float gate[8], up[8], dy[8];
  load_span(x, span.count, aligned, gate);
  load_span(x + width, span.count, aligned, up);
  load_span(static_cast<const bf16 *>(op.dy) + span.row * width + column, span.count, aligned, dy);
#pragma unroll
  for (int i = 0; i < 8; i++) {
    float sigmoid = 1.0f / (1.0f + fast_exp(-gate[i])), silu = gate[i] * sigmoid;
    float dgate = dy[i] * up[i] * sigmoid * (1.0f + gate[i] * (1.0f - sigmoid));
    up[i] = dy[i] * silu;
    gate[i] = dgate;
  }
  bf16 *dx = static_cast<bf16 *>(op.dx) + at;
  store_span(dx, span.count, aligned, gate);
  store_span(dx + width, span.count, aligned, up);
}

}  // namespace

void cuda_activation(Backend *backend, const Activation *op) {
  unsigned blocks = span_blocks(op->rows, op->width, block_threads);
  if (op->kind == ACTIVATION_GELU)
    launch(cuda_state(backend), {"gelu_forward", blocks, block_threads, 0}, gelu_forward, *op);
  else
    launch(cuda_state(backend), {"swiglu_forward", blocks, block_threads, 0}, swiglu_forward, *op);
}

void cuda_activation_backward(Backend *backend, const ActivationBackward *op) {
  unsigned blocks = span_blocks(op->rows, op->width, block_threads);
  if (op->kind == ACTIVATION_GELU)
    launch(cuda_state(backend), {"gelu_backward", blocks, block_threads, 0}, gelu_backward, *op);
  else
    launch(cuda_state(backend), {"swiglu_backward", blocks, block_threads, 0}, swiglu_backward, *op);
}

/* w = scale q, rounded to bf16: a matrix of int8 blocks as the products take it.
 *
 * Shapes: int8 [rows, columns] in blocks of 32 with an fp16 scale (GGUF's Q8_0), out [rows, columns] bf16. A
 * thread takes 8 neighbouring values of a row, a quarter of a block. Lower bound, bytes a value: 34/32 read,
 * 2 written; the product reads those 2 again, so that weights in int8 cost 5.1 bytes a value where bf16 ones
 * cost 2, and half the memory. */
#include "int8.cuh"
#include "span.cuh"

namespace {

const int threads = 256;

__global__ void __launch_bounds__(threads) dequantize(const void *from, int rows, int columns, bf16 *to) {
  Span span = span_of(rows, columns);
  if (span.count == 0) return;
  float x[8];
  load_int8_span(int8_row(from, static_cast<int64_t>(span.row), columns), span.column, x);
  store_span(to + span.row * static_cast<size_t>(columns) + static_cast<size_t>(span.column), span.count,
             columns % 8 == 0, x);
}

}  // namespace

size_t cuda_native_bytes(WeightType type, int rows, int columns) {
  return type == WEIGHT_INT8 ? static_cast<size_t>(rows) * static_cast<size_t>(columns) * sizeof(bf16) : 0;
}

const void *cuda_native_weight(Backend *backend, const void *weight, WeightType type, int rows, int columns,
                               void *scratch) {
  if (type != WEIGHT_INT8) return weight;
  launch(cuda_state(backend), {"dequantize", span_blocks(rows, columns, threads), threads, 0}, dequantize,
         weight, rows, columns, static_cast<bf16 *>(scratch));
  return scratch;
}

bool cuda_find_weight(Backend *backend, const void *weight, WeightType type, int rows, int columns,
                      const void **found) {
  size_t bytes = cuda_native_bytes(type, rows, columns);
  void *scratch = bytes ? cuda_workspace(backend, bytes) : nullptr;
  if (bytes && !scratch) return false;
  *found = cuda_native_weight(backend, weight, type, rows, columns, scratch);
  return true;
}

/* to[i] = from[i] as another type, by way of fp32: to nearest, ties to even; integers are cut off.
 * Shapes: [count]. Lower bound: bytes of both. Used when models are loaded and saved. */
#include "primitives.cuh"

namespace {

const int threads = 256;

DEVICE float element(const void *from, DType type, size_t i) {
  if (type == F32) return static_cast<const float *>(from)[i];
  if (type == BF16) return to_float(static_cast<const bf16 *>(from)[i]);
  if (type == I32) return static_cast<float>(static_cast<const int32_t *>(from)[i]);
  return static_cast<float>(static_cast<const uint8_t *>(from)[i]);
}

__global__ void __launch_bounds__(threads)
    convert(void *to, DType to_type, const void *from, DType from_type, size_t count) {
  size_t i = static_cast<size_t>(blockIdx.x) * threads + threadIdx.x;
  if (i >= count) return;
  float x = element(from, from_type, i);
  if (to_type == F32)
    static_cast<float *>(to)[i] = x;
  else if (to_type == BF16)
    static_cast<bf16 *>(to)[i] = to_bf16(x);
  else if (to_type == I32)
    static_cast<int32_t *>(to)[i] = static_cast<int32_t>(x);
  else
    static_cast<uint8_t *>(to)[i] = static_cast<uint8_t>(x);
}

}  // namespace

void cuda_convert(Backend *backend, void *to, DType to_type, const void *from, DType from_type,
                  size_t count) {
  unsigned blocks = static_cast<unsigned>(ceil_div(count, static_cast<size_t>(threads)));
  launch(cuda_state(backend), {"convert", blocks, threads, 0}, convert, to, to_type, from, from_type, count);
}

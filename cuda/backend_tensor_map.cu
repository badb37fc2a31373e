/* The device meaning of make_tensor_map: the driver's own encoder, asked for by name, so that no program
 * needs the driver's library to start. */
#include <cuda.h>
#include <cuda_runtime.h>

#include "primitives.cuh"

namespace {

typedef decltype(&cuTensorMapEncodeTiled) Encode;

/* NULL with a driver that has no tensor maps. */
Encode find_encode() {
  void *function = nullptr;
  cudaDriverEntryPointQueryResult found;
  if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault,
                                       &found) != cudaSuccess ||
      found != cudaDriverEntryPointSuccess)
    return nullptr;
  return reinterpret_cast<Encode>(function);
}

}  // namespace

bool make_tensor_map(CudaState *, TensorMap *map, const void *base, int columns, int rows, size_t row_bytes,
                     int box_columns, int box_rows) {
  static const Encode encode = find_encode();
  static_assert(sizeof(TensorMap) == sizeof(CUtensorMap), "the driver's map is passed to kernels as ours");
  if (!encode) return false;
  cuuint64_t sizes[] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)},
             strides[] = {row_bytes};
  cuuint32_t box[] = {static_cast<cuuint32_t>(box_columns), static_cast<cuuint32_t>(box_rows)},
             steps[] = {1, 1};
  return encode(reinterpret_cast<CUtensorMap *>(map), CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2,
                const_cast<void *>(base), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

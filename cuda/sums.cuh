/* Sums over a block, several at once, and the end of a sum over a grid that need not be cooperative. */
#ifndef POPALM_SUMS_CUH
#define POPALM_SUMS_CUH

#include "primitives.cuh"

/* Every x[i] becomes its sum over the threads of the block, in all of them and in a fixed order: a butterfly
 * in each warp, then one over the warps. May be called again at once. */
template <int count>
DEVICE void block_sums(float (&x)[count]) {
  SHARED(float, of_warp, [count][32]);
#pragma unroll
  for (int i = 0; i < count; i++) {
    x[i] = warp_sum(x[i]);
    if (lane_index() == 0) of_warp[i][warp_index()] = x[i];
  }
  block_sync();
  int warps = static_cast<int>(blockDim.x >> 5);
#pragma unroll
  for (int i = 0; i < count; i++) x[i] = warp_sum(lane_index() < warps ? of_warp[i][lane_index()] : 0.0f);
  block_sync();
}

/* True in the one block that comes here last: it sees what all blocks wrote before. counter is
 * CudaState.grid_counter; its lower 31 bits are zero at rest, and again when the last block has passed. */
DEVICE bool last_block(uint32_t *counter) {
  SHARED(int, last, );
  block_sync();
  if (threadIdx.x == 0) {
    uint32_t blocks = gridDim.x * gridDim.y * gridDim.z;
    memory_fence();
    last = (atomic_add(counter, 1) & 0x7fffffffu) == blocks - 1;
    if (last) atomic_add(counter, 0u - blocks);
    memory_fence();
  }
  block_sync();
  return last != 0;
}

#endif

/* clang-format off */
/* The only header that a kernel file includes: every instruction that plain CUDA C++ has no word for, under one name with
 * two meanings.
 *
 *   device meaning   nvcc: intrinsics and PTX (primitives_device.cuh)
 *   host meaning     a C++ compiler: tests/kernels/emulator.h, which runs the same kernel source on the CPU, checks how
 *                    the threads meet, and needs neither a GPU nor the toolkit
 *
 * Rules for kernel files, which tests/kernels/check_sources.sh enforces: no asm, no <<<, no raw __shared__, no __syncthreads
 * or shuffles but through these words; no float atomics. Static shared memory starts undefined in every block. Blocks have
 * a multiple of 32 threads. Warp words are called by all 32 lanes, at one place in the source.
 *
 * launch(state, {"name", grid, block, shared_bytes}, kernel<64>, arguments...)
 * launch_cooperative(...)                       for grid_barrier; cooperative_blocks: how many blocks fit
 * threadIdx blockIdx blockDim gridDim           as in CUDA; lane_index(), warp_index()
 * SHARED(float, partial, [8][32]);              a named static shared array; SHARED(int, flag, ); a variable
 * DYNAMIC_SHARED(bytes);                        unsigned char *bytes: the launch's shared_bytes, 1024-byte aligned
 * block_sync()                                  barrier of the whole block
 * named_sync(id, threads) named_arrive(...)     barriers 1..15 among `threads` threads: wait, or arrive without waiting
 * warp_sync()
 * warp_shuffle(v, lane)                         warp_shuffle_xor/_up/_down(v, n)
 * warp_ballot(p) warp_any(p)
 * warp_sum(v) warp_max(v)                       all lanes get the result
 * block_sum(v) block_max(v)                     all threads get the result; fixed order
 * copy_async16(shared, global, valid)           cp.async of 16 bytes, zeros if not valid; copy_async4 of 4 bytes
 * copy_async_commit() copy_async_wait<n>()      close a group; wait until at most n of this thread's are in flight
 * load_matrix_x4(r, row) load_matrix_x4_trans   ldmatrix: lane i gives the address of row i % 8 of matrix i / 8
 * mma_bf16(c, a, b0, b1)                        c[4] += a[4] b[2], m16n8k16, bf16 in, fp32 accumulators
 *
 * Compute capability 9.0a only (elsewhere hopper_device is false and they trap):
 * mbarrier_init(b, arrivals)                    of an MBarrier in shared memory; then mbarrier_init_fence() and a barrier
 * mbarrier_arrive(b)                            mbarrier_arrive_expect(b, bytes): arrive, and so many bytes are to come
 * mbarrier_wait(b, parity)                      until the phase of this parity is complete; the first phase has 0
 * tensor_load(shared, map, column, row, b)      the map's box from there on, 128-byte swizzle, zeros outside; tells b
 * make_tensor_map(state, &map, base, columns, rows, row_bytes, box_columns, box_rows)   on the host; map goes to the
 *                                               kernel by value: const __grid_constant__ TensorMap
 * async_proxy_fence()                           what this thread wrote to shared memory, for wgmma and copies to see
 * wgmma_descriptor(shared, leading, stride)     of a matrix in 128-byte swizzled rows, see below
 * wgmma_shared<n, a_mn, b_mn>(acc, a, b, add)   acc[n / 8][4] (+)= A B, 64 x n x 16, by descriptors; by a warpgroup
 * wgmma_registers<n, b_mn>(acc, a, b, add)      A in registers, as a[4] of mma_bf16
 * wgmma_fence() wgmma_commit() wgmma_wait<n>()  before the first product after registers were touched; close a group;
 *                                               until at most n groups are in flight
 * wgmma_settle(registers)                       the compiler moves nothing that touches them over this place: after a wait
 *                                               that they come from, before a wait that their computation is to overlap
 * registers_give<n>() registers_take<n>()       setmaxnreg: of the whole warpgroup
 *
 * to_float(bf16) to_bf16(float)                 pack_bf16(low, high), unpack_bf16(pair, low, high); pack8, unpack8
 * load8(p, float[8]) store8(p, float[8])        8 bf16 at a 16-byte aligned address
 * load_floats(p, float[n]) store_floats         fp32 at a 16-byte aligned address
 * load_bytes8(p) store_bytes8(p, bytes)         8 bytes at an 8-byte aligned address; load16, store16: 16
 * multiply_high(a, b)                           the upper 64 bits of a product of two uint64_t
 * fast_exp2 fast_exp fast_log2                  approximate, a few ulp
 * atomic_add(p, n)                              on unsigned integers only
 * memory_fence()                                makes writes visible device-wide
 * load_volatile(p)                              reads past the L1, for waiting loops
 * grid_barrier(counter)                         all blocks of a cooperative launch; counter: CudaState.grid_counter
 */
/* clang-format on */
#ifndef POPALM_PRIMITIVES_CUH
#define POPALM_PRIMITIVES_CUH

#include <stddef.h>
#include <stdint.h>

#include "base/philox.h"
#include "cuda_backend.h"

/* The storage type of the CUDA backend: the upper half of an fp32. */
struct bf16 {
  uint16_t bits;
};

struct alignas(8) Bytes8 {
  uint32_t word[2];
};

struct alignas(16) Bytes16 {
  uint32_t word[4];
};

#ifdef __CUDACC__

#include "primitives_device.cuh"

#else

#include "emulator.h"

#endif

/* What tensor_load takes: boxes of box_rows x box_columns (64: 128 bytes) bf16 of the array base [rows, columns], whose
 * rows are row_bytes apart. False where the driver or the alignment (16 bytes) does not allow it. */
bool make_tensor_map(CudaState *state, TensorMap *map, const void *base, int columns, int rows, size_t row_bytes,
                     int box_columns, int box_rows);

/* From here on: made of the words above, the same in both meanings. */

#define DEVICE __device__ __forceinline__

DEVICE int lane_index() { return static_cast<int>(threadIdx.x & 31u); }
DEVICE int warp_index() { return static_cast<int>(threadIdx.x >> 5); }

template <typename T>
__host__ __device__ __forceinline__ T ceil_div(T a, T b) {
  return (a + b - 1) / b;
}

/* A matrix for wgmma in rows of 128 bytes, 1024-byte aligned but for steps along K, swizzled as tensor_load leaves
 * them. K-major (a row holds 64 elements along K): stride is the distance of 8 rows, leading is not used.
 * MN-major (a row holds 64 elements along M or N): leading is the distance of 64 of them, stride of 8 rows along
 * K. */
DEVICE uint64_t wgmma_descriptor(const void *shared, int leading, int stride) {
  return static_cast<uint64_t>((shared_address(shared) & 0x3ffffu) >> 4) |
         static_cast<uint64_t>(leading >> 4) << 16 | static_cast<uint64_t>(stride >> 4) << 32 | 1ull << 62;
}

DEVICE float to_float(bf16 x) { return bits_to_float(static_cast<uint32_t>(x.bits) << 16); }

DEVICE void unpack_bf16(uint32_t pair, float &low, float &high) {
  low = bits_to_float(pair << 16);
  high = bits_to_float(pair & 0xffff0000u);
}

/* 8 bf16 of a Bytes16. */
DEVICE void unpack8(const Bytes16 &from, float (&to)[8]) {
#pragma unroll
  for (int i = 0; i < 4; i++) unpack_bf16(from.word[i], to[2 * i], to[2 * i + 1]);
}

DEVICE Bytes16 pack8(const float (&from)[8]) {
  Bytes16 to;
#pragma unroll
  for (int i = 0; i < 4; i++) to.word[i] = pack_bf16(from[2 * i], from[2 * i + 1]);
  return to;
}

DEVICE void load8(const bf16 *from, float (&to)[8]) { unpack8(load16(from), to); }
DEVICE void store8(bf16 *to, const float (&from)[8]) { store16(to, pack8(from)); }

/* fp32 at a 16-byte aligned address, a multiple of 4 of them. */
template <int count>
DEVICE void load_floats(const float *from, float (&to)[count]) {
  static_assert(count % 4 == 0, "16 bytes at a time");
#pragma unroll
  for (int first = 0; first < count; first += 4) {
    Bytes16 bytes = load16(from + first);
#pragma unroll
    for (int i = 0; i < 4; i++) to[first + i] = bits_to_float(bytes.word[i]);
  }
}

template <int count>
DEVICE void store_floats(float *to, const float (&from)[count]) {
  static_assert(count % 4 == 0, "16 bytes at a time");
#pragma unroll
  for (int first = 0; first < count; first += 4)
    store16(to + first, Bytes16{{float_to_bits(from[first]), float_to_bits(from[first + 1]),
                                 float_to_bits(from[first + 2]), float_to_bits(from[first + 3])}});
}

DEVICE float fast_exp(float x) { return fast_exp2(x * 1.44269504088896341f); }

struct Sum {
  template <typename T>
  DEVICE T operator()(T a, T b) const {
    return a + b;
  }
};

struct Max {
  template <typename T>
  DEVICE T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};

/* A butterfly: every lane ends with the same bits. */
template <typename Combine, typename T>
DEVICE T warp_reduce(T value, Combine combine, Site site = SITE_HERE) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) value = combine(value, warp_shuffle_xor(value, mask, site));
  return value;
}

template <typename T>
DEVICE T warp_sum(T value, Site site = SITE_HERE) {
  return warp_reduce(value, Sum(), site);
}

template <typename T>
DEVICE T warp_max(T value, Site site = SITE_HERE) {
  return warp_reduce(value, Max(), site);
}

/* Warps first, then the warps' results in the order of the warps. May be called again at once. */
template <typename Combine, typename T>
DEVICE T block_reduce(T value, Combine combine, Site site = SITE_HERE) {
  SHARED(T, partial, [32]);
  value = warp_reduce(value, combine, site);
  if (lane_index() == 0) partial[warp_index()] = value;
  block_sync(site);
  int warps = static_cast<int>(blockDim.x >> 5);
  T total = partial[0];
  for (int i = 1; i < warps; i++) total = combine(total, partial[i]);
  block_sync(site);
  return total;
}

template <typename T>
DEVICE T block_sum(T value, Site site = SITE_HERE) {
  return block_reduce(value, Sum(), site);
}

template <typename T>
DEVICE T block_max(T value, Site site = SITE_HERE) {
  return block_reduce(value, Max(), site);
}

#endif

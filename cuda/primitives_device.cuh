/* The device meaning of primitives.cuh: intrinsics and PTX for compute capability 8.0 and later. */
#ifndef POPALM_PRIMITIVES_DEVICE_CUH
#define POPALM_PRIMITIVES_DEVICE_CUH

/* Call sites matter to the emulator only. */
struct Site {};
#define SITE_HERE \
  Site {}

#define SHARED(type, name, dimensions) __shared__ alignas(16) type name dimensions

#define DYNAMIC_SHARED(name)                                        \
  extern __shared__ __align__(1024) unsigned char dynamic_shared_[]; \
  unsigned char *name = dynamic_shared_

struct Launch {
  const char *name;
  dim3 grid, block;
  size_t shared_bytes;
};

template <typename... Parameters, typename... Arguments>
static void launch_with(CudaState *state, const Launch &shape, bool cooperative,
                        void (*kernel)(Parameters...), Arguments... arguments) {
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return;
  cudaError_t error = cudaSuccess;
  if (shape.shared_bytes > 48 * 1024)
    error = cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel),
                                 cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(shape.shared_bytes));
  if (error == cudaSuccess) {
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeCooperative;
    attribute.val.cooperative = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = shape.grid;
    config.blockDim = shape.block;
    config.dynamicSmemBytes = shape.shared_bytes;
    config.stream = state->stream;
    config.attrs = &attribute;
    config.numAttrs = cooperative ? 1 : 0;
    error = cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
  }
  if (error != cudaSuccess) cuda_note(state, error, shape.name);
}

/* An empty grid is legal and launches nothing; errors are kept in the state. */
template <typename... Parameters, typename... Arguments>
static void launch(CudaState *state, const Launch &shape, void (*kernel)(Parameters...),
                   Arguments... arguments) {
  launch_with(state, shape, false, kernel, arguments...);
}

/* All blocks run at once: the grid must fit on the device, see cooperative_blocks. */
template <typename... Parameters, typename... Arguments>
static void launch_cooperative(CudaState *state, const Launch &shape, void (*kernel)(Parameters...),
                               Arguments... arguments) {
  launch_with(state, shape, true, kernel, arguments...);
}

/* The most blocks that a cooperative launch of this kernel may have. */
template <typename... Parameters>
static int cooperative_blocks(CudaState *state, void (*kernel)(Parameters...), int threads,
                              size_t shared_bytes) {
  int per_sm = 0;
  cudaError_t error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_sm, kernel, threads, shared_bytes);
  if (error != cudaSuccess) cuda_note(state, error, "cooperative_blocks");
  return per_sm * state->sm_count;
}

#define DEVICE_ONLY static __device__ __forceinline__

/* Barriers */

DEVICE_ONLY void block_sync(Site = SITE_HERE) { __syncthreads(); }
DEVICE_ONLY void warp_sync(Site = SITE_HERE) { __syncwarp(); }

DEVICE_ONLY void named_sync(int id, int threads, Site = SITE_HERE) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

DEVICE_ONLY void named_arrive(int id, int threads, Site = SITE_HERE) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/* Warps */

template <typename T>
DEVICE_ONLY T warp_shuffle(T value, int lane, Site = SITE_HERE) {
  return __shfl_sync(0xffffffffu, value, lane);
}

template <typename T>
DEVICE_ONLY T warp_shuffle_xor(T value, int mask, Site = SITE_HERE) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}

template <typename T>
DEVICE_ONLY T warp_shuffle_up(T value, int count, Site = SITE_HERE) {
  return __shfl_up_sync(0xffffffffu, value, count);
}

template <typename T>
DEVICE_ONLY T warp_shuffle_down(T value, int count, Site = SITE_HERE) {
  return __shfl_down_sync(0xffffffffu, value, count);
}

DEVICE_ONLY uint32_t warp_ballot(bool predicate, Site = SITE_HERE) {
  return __ballot_sync(0xffffffffu, predicate);
}
DEVICE_ONLY bool warp_any(bool predicate, Site = SITE_HERE) { return __any_sync(0xffffffffu, predicate); }

/* Asynchronous copies */

DEVICE_ONLY uint32_t shared_address(const void *pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

DEVICE_ONLY void copy_async16(void *shared, const void *global, bool valid = true, Site = SITE_HERE) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(valid ? 16 : 0)
               : "memory");
}

DEVICE_ONLY void copy_async4(void *shared, const void *global, bool valid = true, Site = SITE_HERE) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(valid ? 4 : 0)
               : "memory");
}

DEVICE_ONLY void copy_async_commit(Site = SITE_HERE) { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int in_flight>
DEVICE_ONLY void copy_async_wait(Site = SITE_HERE) {
  asm volatile("cp.async.wait_group %0;" ::"n"(in_flight) : "memory");
}

/* Tensor cores */

DEVICE_ONLY void load_matrix_x4(uint32_t (&r)[4], const void *row, Site = SITE_HERE) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

DEVICE_ONLY void load_matrix_x4_trans(uint32_t (&r)[4], const void *row, Site = SITE_HERE) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

DEVICE_ONLY void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Site = SITE_HERE) {
  asm(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* Numbers */

DEVICE_ONLY float bits_to_float(uint32_t bits) { return __uint_as_float(bits); }
DEVICE_ONLY uint32_t float_to_bits(float value) { return __float_as_uint(value); }

DEVICE_ONLY uint32_t pack_bf16(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

DEVICE_ONLY bf16 to_bf16(float value) {
  bf16 out;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out.bits) : "f"(value));
  return out;
}

DEVICE_ONLY float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

DEVICE_ONLY float fast_log2(float x) {
  float y;
  asm("lg2.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/* The upper 64 bits of the product. */
DEVICE_ONLY uint64_t multiply_high(uint64_t a, uint64_t b) { return __umul64hi(a, b); }

/* Memory */

DEVICE_ONLY Bytes8 load_bytes8(const void *from, Site = SITE_HERE) {
  uint2 x = *static_cast<const uint2 *>(from);
  return {{x.x, x.y}};
}

DEVICE_ONLY void store_bytes8(void *to, const Bytes8 &bytes, Site = SITE_HERE) {
  *static_cast<uint2 *>(to) = make_uint2(bytes.word[0], bytes.word[1]);
}

DEVICE_ONLY Bytes16 load16(const void *from, Site = SITE_HERE) {
  uint4 x = *static_cast<const uint4 *>(from);
  return {{x.x, x.y, x.z, x.w}};
}

DEVICE_ONLY void store16(void *to, const Bytes16 &bytes, Site = SITE_HERE) {
  *static_cast<uint4 *>(to) = make_uint4(bytes.word[0], bytes.word[1], bytes.word[2], bytes.word[3]);
}

DEVICE_ONLY void memory_fence() { __threadfence(); }

template <typename T>
DEVICE_ONLY T load_volatile(const T *from, Site = SITE_HERE) {
  return *static_cast<const volatile T *>(from);
}

DEVICE_ONLY uint32_t atomic_add(uint32_t *to, uint32_t value) { return atomicAdd(to, value); }

/* The counter's top bit flips when the last block arrives; the words below it return to where they were, so
 * that the counter need never be cleared. */
DEVICE_ONLY void grid_barrier(uint32_t *counter, Site = SITE_HERE) {
  __syncthreads();
  if (threadIdx.x == 0) {
    uint32_t blocks = gridDim.x * gridDim.y * gridDim.z;
    bool first = blockIdx.x == 0 && blockIdx.y == 0 && blockIdx.z == 0;
    __threadfence();
    uint32_t old = atomicAdd(counter, first ? 0x80000000u - (blocks - 1) : 1u);
    while (((old ^ load_volatile(counter)) & 0x80000000u) == 0) {
    }
    __threadfence();
  }
  __syncthreads();
}

#include "primitives_hopper.cuh"

#endif

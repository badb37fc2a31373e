/* The device meaning of the words for compute capability 9.0a: mbarriers, tensor copies, products of a
 * warpgroup. Compiled for another target they trap; hopper_device tells a kernel that it need not be compiled there. */
#ifndef POPALM_PRIMITIVES_HOPPER_CUH
#define POPALM_PRIMITIVES_HOPPER_CUH

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
static constexpr bool hopper_device = true;
#define HOPPER_ASM(...) asm volatile(__VA_ARGS__)
#else
static constexpr bool hopper_device = false;
#define HOPPER_ASM(...) __trap()
#endif

/* The driver's CUtensorMap, see make_tensor_map. */
struct alignas(64) TensorMap {
  uint64_t words[16];
};

struct alignas(8) MBarrier {
  uint64_t word;
};

/* Barriers of threads and bytes */

DEVICE_ONLY void mbarrier_init(MBarrier *barrier, int arrivals, Site = SITE_HERE) {
  HOPPER_ASM("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals)
             : "memory");
}

DEVICE_ONLY void mbarrier_init_fence(Site = SITE_HERE) {
  HOPPER_ASM("fence.mbarrier_init.release.cluster;" ::: "memory");
}

DEVICE_ONLY void mbarrier_arrive(MBarrier *barrier, Site = SITE_HERE) {
  HOPPER_ASM("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

DEVICE_ONLY void mbarrier_arrive_expect(MBarrier *barrier, int bytes, Site = SITE_HERE) {
  HOPPER_ASM("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
             "r"(bytes)
             : "memory");
}

DEVICE_ONLY void mbarrier_wait(MBarrier *barrier, int parity, Site = SITE_HERE) {
  uint32_t done = 0;
  do {
    HOPPER_ASM(
        "{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
        : "=r"(done)
        : "r"(shared_address(barrier)), "r"(parity)
        : "memory");
  } while (!done);
}

/* Tensor copies */

DEVICE_ONLY void tensor_load(void *shared, const TensorMap &map, int column, int row, MBarrier *barrier,
                             Site = SITE_HERE) {
  HOPPER_ASM(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], "
      "[%4];" ::"r"(shared_address(shared)),
      "l"(&map), "r"(column), "r"(row), "r"(shared_address(barrier))
      : "memory");
}

DEVICE_ONLY void async_proxy_fence(Site = SITE_HERE) {
  HOPPER_ASM("fence.proxy.async.shared::cta;" ::: "memory");
}

/* Products of a warpgroup */

DEVICE_ONLY void wgmma_fence(Site = SITE_HERE) { HOPPER_ASM("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE_ONLY void wgmma_commit(Site = SITE_HERE) {
  HOPPER_ASM("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int in_flight>
DEVICE_ONLY void wgmma_wait(Site = SITE_HERE) {
  HOPPER_ASM("wgmma.wait_group.sync.aligned %0;" ::"n"(in_flight) : "memory");
}

/* Keeps the compiler from moving what touches the registers over this place. */
template <int columns>
DEVICE_ONLY void wgmma_settle(float (&acc)[columns][4], Site = SITE_HERE) {
#pragma unroll
  for (int j = 0; j < columns; j++)
#pragma unroll
    for (int i = 0; i < 4; i++) asm volatile("" : "+f"(acc[j][i])::"memory");
}

template <int count>
DEVICE_ONLY void wgmma_settle(uint32_t (&a)[count][4], Site = SITE_HERE) {
#pragma unroll
  for (int j = 0; j < count; j++)
#pragma unroll
    for (int i = 0; i < 4; i++) asm volatile("" : "+r"(a[j][i])::"memory");
}

#define ACC_4(a, j) "+f"(a[j][0]), "+f"(a[j][1]), "+f"(a[j][2]), "+f"(a[j][3])
#define ACC_16(a, j) ACC_4(a, j), ACC_4(a, j + 1), ACC_4(a, j + 2), ACC_4(a, j + 3)
#define ACC_64(a) ACC_16(a, 0), ACC_16(a, 4)
#define ACC_128(a) ACC_64(a), ACC_16(a, 8), ACC_16(a, 12)
#define NAMES_64                                                                                            \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "    \
  "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define NAMES_128                                                                                           \
  NAMES_64                                                                                                  \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, "  \
  "%52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

/* acc (+)= A B, A and B from shared memory, 64 x n x 16. */
template <int n, bool a_mn_major, bool b_mn_major>
DEVICE_ONLY void wgmma_shared(float (&acc)[n / 8][4], uint64_t a, uint64_t b, bool accumulate,
                              Site = SITE_HERE) {
  static_assert(n == 64 || n == 128, "the widths that the kernels use");
  if constexpr (n == 64)
    HOPPER_ASM(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
        "{" NAMES_64 "}, %32, %33, p, 1, 1, %35, %36;\n}"
        : ACC_64(acc)
        : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)), "n"(a_mn_major), "n"(b_mn_major)
        : "memory");
  else
    HOPPER_ASM(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\nwgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
        "{" NAMES_128 "}, %64, %65, p, 1, 1, %67, %68;\n}"
        : ACC_128(acc)
        : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)), "n"(a_mn_major), "n"(b_mn_major)
        : "memory");
}

/* acc (+)= A B, A from registers. */
template <int n, bool b_mn_major>
DEVICE_ONLY void wgmma_registers(float (&acc)[n / 8][4], const uint32_t (&a)[4], uint64_t b, bool accumulate,
                                 Site = SITE_HERE) {
  static_assert(n == 64 || n == 128, "the widths that the kernels use");
  if constexpr (n == 64)
    HOPPER_ASM(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
        "{" NAMES_64 "}, {%32, %33, %34, %35}, %36, p, 1, 1, %38;\n}"
        : ACC_64(acc)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)),
          "n"(b_mn_major)
        : "memory");
  else
    HOPPER_ASM(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\nwgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
        "{" NAMES_128 "}, {%64, %65, %66, %67}, %68, p, 1, 1, %70;\n}"
        : ACC_128(acc)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)),
          "n"(b_mn_major)
        : "memory");
}

/* Registers */

template <int count>
DEVICE_ONLY void registers_give(Site = SITE_HERE) {
  HOPPER_ASM("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(count));
}

template <int count>
DEVICE_ONLY void registers_take(Site = SITE_HERE) {
  HOPPER_ASM("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(count));
}

#endif

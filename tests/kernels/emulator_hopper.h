/* The host meaning of the words for compute capability 9.0a (cuda/primitives_hopper.cuh).
 *
 * mbarriers count arrivals and bytes; tensor copies land early, late or in between, as the schedule says, and
 * until then their destination is NaN. A product of a warpgroup is computed when it is issued or when it is
 * waited for; until then its accumulators are NaN. Descriptors, swizzles and boxes are read as the PTX manual
 * has them. The products read shared memory as the asynchronous proxy sees it: what a thread has written by
 * itself it sees after async_proxy_fence only. */
#ifndef POPALM_EMULATOR_HOPPER_H
#define POPALM_EMULATOR_HOPPER_H

static constexpr bool hopper_device = true;

#define __grid_constant__

struct alignas(8) MBarrier {
  uint64_t word;
};

/* A two-dimensional array of bf16 and the box that one copy takes of it, 128-byte swizzle. */
struct alignas(64) TensorMap {
  const void *base;
  int columns, rows;
  size_t row_bytes;
  int box_columns, box_rows;
};

/* Where a shared address stands in the block's window, for descriptors. */
uint32_t shared_address(const void *pointer, Site site = SITE_HERE);

void mbarrier_init(MBarrier *barrier, int arrivals, Site site = SITE_HERE);
void mbarrier_init_fence(Site site = SITE_HERE);
void mbarrier_arrive(MBarrier *barrier, Site site = SITE_HERE);
void mbarrier_arrive_expect(MBarrier *barrier, int bytes, Site site = SITE_HERE);
void mbarrier_wait(MBarrier *barrier, int parity, Site site = SITE_HERE);

void tensor_load(void *shared, const TensorMap &map, int column, int row, MBarrier *barrier,
                 Site site = SITE_HERE);
void async_proxy_fence(Site site = SITE_HERE);

/* One product, as a lane issues it. */
struct WgmmaArgument {
  float *acc;        /* [n / 8][4] */
  const uint32_t *a; /* [4], NULL: a_descriptor */
  uint64_t a_descriptor, b_descriptor;
  int n;
  bool a_mn_major, b_mn_major, accumulate;
};

void emulator_wgmma(const WgmmaArgument &argument, Site site);
void wgmma_fence(Site site = SITE_HERE);
void wgmma_commit(Site site = SITE_HERE);
void emulator_wgmma_wait(int in_flight, Site site);
void emulator_wgmma_settle(const void *registers, size_t bytes, Site site);
void emulator_registers(int count, bool take, Site site);

template <int in_flight>
static inline void wgmma_wait(Site site = SITE_HERE) {
  emulator_wgmma_wait(in_flight, site);
}

template <typename Registers>
static inline void wgmma_settle(Registers &registers, Site site = SITE_HERE) {
  emulator_wgmma_settle(&registers, sizeof registers, site);
}

template <int n, bool a_mn_major, bool b_mn_major>
static inline void wgmma_shared(float (&acc)[n / 8][4], uint64_t a, uint64_t b, bool accumulate,
                                Site site = SITE_HERE) {
  emulator_wgmma({&acc[0][0], nullptr, a, b, n, a_mn_major, b_mn_major, accumulate}, site);
}

template <int n, bool b_mn_major>
static inline void wgmma_registers(float (&acc)[n / 8][4], const uint32_t (&a)[4], uint64_t b,
                                   bool accumulate, Site site = SITE_HERE) {
  emulator_wgmma({&acc[0][0], a, 0, b, n, false, b_mn_major, accumulate}, site);
}

template <int count>
static inline void registers_give(Site site = SITE_HERE) {
  emulator_registers(count, false, site);
}

template <int count>
static inline void registers_take(Site site = SITE_HERE) {
  emulator_registers(count, true, site);
}

#endif

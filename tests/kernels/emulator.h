/* The host meaning of cuda/primitives.cuh: kernel sources run on the CPU, unchanged, in tests.
 *
 * The threads of a block are fibers; blocks run one after another, those of a cooperative launch together. A
 * seeded schedule decides which thread goes on, so that a missing barrier gives a wrong result under some
 * schedule. Every word checks its use: the lanes of a warp word must meet at one place in the source,
 * barriers must not diverge, a deadlock tells who waits where, asynchronous copies land only when they are
 * waited for, memory that nobody wrote is NaN; under the thread sanitizer (races.h) races are reported even
 * where every schedule hides them. It cannot check: the PTX strings, the memory model beyond this, speed. */
#ifndef POPALM_EMULATOR_H
#define POPALM_EMULATOR_H

#include <math.h>
#include <stdarg.h>
#include <string.h>

#include <functional>

#include "cuda_backend.h"
#include "test_device.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

/* Where a word is called: a default argument that is SITE_HERE stands for the place of the call. */
struct Site {
  const char *file;
  int line;
  static constexpr Site here(const char *file_ = __builtin_FILE(), int line_ = __builtin_LINE()) {
    return {file_, line_};
  }
};
#define SITE_HERE Site::here()

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

struct Launch {
  const char *name;
  dim3 grid, block;
  size_t shared_bytes;
};

/* Below the words */

struct EmulatorPosition {
  uint3 block_index;
  dim3 block_size, grid;
};

struct EmulatorThread {
  uint3 thread_index;
  const EmulatorPosition *position;
};

extern EmulatorThread *emulator_thread; /* the one that runs */

#define threadIdx (emulator_thread->thread_index)
#define blockIdx (emulator_thread->position->block_index)
#define blockDim (emulator_thread->position->block_size)
#define gridDim (emulator_thread->position->grid)

/* Does the work now, or when the recording that is being made is replayed. */
void emulator_submit(std::function<void()> work);
void emulator_run(const Launch &launch, bool cooperative, const std::function<void()> &body);
[[noreturn]] void emulator_error(Site site, const char *format, ...) __attribute__((format(printf, 2, 3)));
void *emulator_shared(const char *name, size_t bytes, Site site);
unsigned char *emulator_dynamic_shared();
/* Whether bytes at pointer lie in one shared array of the running block. */
bool emulator_is_shared(const void *pointer, size_t bytes);
/* The lanes of a warp meet; the last one computes for all: arguments[i] is lane i's. */
void emulator_collective(const char *word, Site site, void *argument, void (*compute)(void *const *arguments),
                         bool orders_memory = false);
void emulator_barrier(const char *word, int id, int threads, bool wait, Site site);
void emulator_grid_barrier(uint32_t *counter, Site site);
void emulator_yield(Site site);
void emulator_copy(void *shared, const void *global, int bytes, bool valid, Site site);
void emulator_copy_commit();
void emulator_copy_wait(int in_flight);
void emulator_atomic(const void *place);
void emulator_fence();

#define SHARED(type, name, dimensions) \
  typedef type name##_type dimensions; \
  name##_type &name = *static_cast<name##_type *>(emulator_shared(#name, sizeof(name##_type), SITE_HERE))

#define DYNAMIC_SHARED(name) unsigned char *name = emulator_dynamic_shared()

template <typename... Parameters, typename... Arguments>
static inline void launch(CudaState *, const Launch &shape, void (*kernel)(Parameters...),
                          Arguments... arguments) {
  emulator_run(shape, false, [=] { kernel(static_cast<Parameters>(arguments)...); });
}

template <typename... Parameters, typename... Arguments>
static inline void launch_cooperative(CudaState *, const Launch &shape, void (*kernel)(Parameters...),
                                      Arguments... arguments) {
  emulator_run(shape, true, [=] { kernel(static_cast<Parameters>(arguments)...); });
}

template <typename... Parameters>
static inline int cooperative_blocks(CudaState *state, void (*)(Parameters...), int, size_t) {
  return state->sm_count;
}

/* Barriers */

static inline void block_sync(Site site = SITE_HERE) { emulator_barrier("block_sync", 0, 0, true, site); }
static inline void named_sync(int id, int threads, Site site = SITE_HERE) {
  emulator_barrier("named_sync", id, threads, true, site);
}
static inline void named_arrive(int id, int threads, Site site = SITE_HERE) {
  emulator_barrier("named_arrive", id, threads, false, site);
}
static inline void warp_sync(Site site = SITE_HERE) {
  emulator_collective(
      "warp_sync", site, nullptr, [](void *const *) {}, true);
}
static inline void grid_barrier(uint32_t *counter, Site site = SITE_HERE) {
  emulator_grid_barrier(counter, site);
}

/* Warps */

template <typename T>
struct ShuffleArgument {
  T value, result;
  int from; /* a lane; outside 0..31: one's own */
};

template <typename T>
static inline T emulator_shuffle(const char *word, T value, int from, Site site) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
  ShuffleArgument<T> argument = {value, value, from};
  emulator_collective(word, site, &argument, [](void *const *arguments) {
    for (int i = 0; i < 32; i++) {
      ShuffleArgument<T> *lane = static_cast<ShuffleArgument<T> *>(arguments[i]);
      if (lane->from >= 0 && lane->from < 32)
        lane->result = static_cast<ShuffleArgument<T> *>(arguments[lane->from])->value;
    }
  });
  return argument.result;
}

template <typename T>
static inline T warp_shuffle(T value, int lane, Site site = SITE_HERE) {
  return emulator_shuffle("warp_shuffle", value, lane & 31, site);
}
template <typename T>
static inline T warp_shuffle_xor(T value, int mask, Site site = SITE_HERE) {
  return emulator_shuffle("warp_shuffle_xor", value,
                          static_cast<int>((threadIdx.x & 31u) ^ static_cast<unsigned>(mask)), site);
}
template <typename T>
static inline T warp_shuffle_up(T value, int count, Site site = SITE_HERE) {
  return emulator_shuffle("warp_shuffle_up", value, static_cast<int>(threadIdx.x & 31u) - count, site);
}
template <typename T>
static inline T warp_shuffle_down(T value, int count, Site site = SITE_HERE) {
  return emulator_shuffle("warp_shuffle_down", value, static_cast<int>(threadIdx.x & 31u) + count, site);
}

struct BallotArgument {
  bool predicate;
  uint32_t result;
};

static inline uint32_t warp_ballot(bool predicate, Site site = SITE_HERE) {
  BallotArgument argument = {predicate, 0};
  emulator_collective("warp_ballot", site, &argument, [](void *const *arguments) {
    uint32_t ballot = 0;
    for (int i = 0; i < 32; i++)
      if (static_cast<BallotArgument *>(arguments[i])->predicate) ballot |= 1u << i;
    for (int i = 0; i < 32; i++) static_cast<BallotArgument *>(arguments[i])->result = ballot;
  });
  return argument.result;
}
static inline bool warp_any(bool predicate, Site site = SITE_HERE) {
  return warp_ballot(predicate, site) != 0;
}

/* Asynchronous copies */

static inline void copy_async16(void *shared, const void *global, bool valid = true, Site site = SITE_HERE) {
  emulator_copy(shared, global, 16, valid, site);
}
static inline void copy_async4(void *shared, const void *global, bool valid = true, Site site = SITE_HERE) {
  emulator_copy(shared, global, 4, valid, site);
}
static inline void copy_async_commit(Site = SITE_HERE) { emulator_copy_commit(); }
template <int in_flight>
static inline void copy_async_wait(Site = SITE_HERE) {
  emulator_copy_wait(in_flight);
}

/* Tensor cores */

void load_matrix_x4(uint32_t (&r)[4], const void *row, Site site = SITE_HERE);
void load_matrix_x4_trans(uint32_t (&r)[4], const void *row, Site site = SITE_HERE);
void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Site site = SITE_HERE);

/* Numbers */

static inline float bits_to_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}
static inline uint32_t float_to_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return bits;
}

/* To nearest, ties to even; NaN stays NaN. */
static inline bf16 to_bf16(float value) {
  uint32_t bits = float_to_bits(value);
  if (value != value) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}
static inline uint32_t pack_bf16(float low, float high) {
  return to_bf16(low).bits | static_cast<uint32_t>(to_bf16(high).bits) << 16;
}

static inline float fast_exp2(float x) { return exp2f(x); }
static inline float fast_log2(float x) { return log2f(x); }
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }

static inline uint64_t multiply_high(uint64_t a, uint64_t b) {
  __extension__ typedef unsigned __int128 Wide;
  return static_cast<uint64_t>(static_cast<Wide>(a) * b >> 64);
}

/* Memory */

static inline void emulator_check_aligned(const void *pointer, size_t bytes, Site site) {
  if (reinterpret_cast<uintptr_t>(pointer) % bytes)
    emulator_error(site, "%p is not %zu-byte aligned", pointer, bytes);
}

static inline Bytes8 load_bytes8(const void *from, Site site = SITE_HERE) {
  emulator_check_aligned(from, 8, site);
  Bytes8 bytes;
  memcpy(&bytes, from, 8);
  return bytes;
}
static inline void store_bytes8(void *to, const Bytes8 &bytes, Site site = SITE_HERE) {
  emulator_check_aligned(to, 8, site);
  memcpy(to, &bytes, 8);
}
static inline Bytes16 load16(const void *from, Site site = SITE_HERE) {
  emulator_check_aligned(from, 16, site);
  Bytes16 bytes;
  memcpy(&bytes, from, 16);
  return bytes;
}
static inline void store16(void *to, const Bytes16 &bytes, Site site = SITE_HERE) {
  emulator_check_aligned(to, 16, site);
  memcpy(to, &bytes, 16);
}

static inline void memory_fence() { emulator_fence(); }
template <typename T>
static inline T load_volatile(const T *from, Site site = SITE_HERE) {
  emulator_yield(site); /* a waiting loop must let others go on */
  T value;
  __atomic_load(from, &value, __ATOMIC_RELAXED);
  emulator_atomic(from);
  return value;
}
static inline uint32_t atomic_add(uint32_t *to, uint32_t value) {
  emulator_atomic(to);
  return __atomic_fetch_add(to, value, __ATOMIC_RELAXED);
}

#include "emulator_hopper.h"

#endif

/* An emulated block and its threads, for the emulator's own files. */
#ifndef POPALM_EMULATOR_BLOCK_H
#define POPALM_EMULATOR_BLOCK_H

#include <map>
#include <vector>

#include "fiber.h"
#include "primitives.cuh"
#include "races.h"

namespace emulator {

struct Copy {
  void *to;
  const void *from;
  int bytes, group;
  bool valid;
};

struct Block;

struct Thread : EmulatorThread {
  Fiber fiber;
  Block *block = nullptr;
  int number = 0; /* in its block */
  int rank = 0;   /* in the schedule */
  bool done = false;
  const char *waits = nullptr;        /* the word that it waits in */
  Site site = {"", 0};                /* and where */
  int group = 0;                      /* copy groups committed */
  std::vector<Copy> copies;           /* issued, not landed */
  bool fenced = false;                /* has called memory_fence */
  std::vector<const void *> observed; /* atomics seen since then */
};

/* What one product of a warp adds to: the accumulators of its lanes, NaN while products are in flight. */
struct Accumulators {
  float *lanes[32];
  int columns;              /* of the product; a lane has half as many numbers */
  std::vector<float> value; /* [16, columns], of the products computed so far */
};

struct WarpProduct {
  WgmmaArgument argument; /* lane 0's */
  uint32_t a[32][4];
  const uint32_t *a_from[32]; /* the registers, NULL: shared memory */
  size_t accumulators;
  int group;
  bool computed;
};

struct Warp {
  int arrived = 0, exited = 0;
  const char *word = nullptr;
  Site site = {"", 0};
  void *arguments[32] = {};
  Meeting meeting;
  bool fenced = false; /* wgmma_fence since the last wait */
  int group = 0;       /* groups of products committed */
  std::vector<Accumulators> accumulators;
  std::vector<WarpProduct> products;         /* issued, not waited for */
  std::vector<const unsigned char *> read; /* 16 bytes each, by the products that were computed last */
  size_t issued = 0;                     /* products, ever */
};

/* The descriptors of one product, which the four warps of a warpgroup must agree on. */
struct IssuedProduct {
  uint64_t a, b;
  int n;
};

struct MBarrierState {
  int arrivals = 0, pending = 0, bytes = 0;
  unsigned phase = 0;
  bool fenced = false;    /* the copy engine knows of it */
  uint64_t places[4] = {}; /* where phases are released and acquired, [phase % 4] */
  std::vector<Thread *> waiting;
};

struct TensorCopy {
  unsigned char *to;
  TensorMap map;
  int column, row;
  MBarrier *barrier;
};

struct Barrier {
  int arrived = 0, threads = 0;
  Site site = {"", 0};
  std::vector<Thread *> waiting;
  Meeting meeting;
};

struct SharedArray {
  const char *name;
  Site site;
  size_t bytes;
  unsigned char *memory;
};

struct Block {
  EmulatorPosition position;
  std::vector<int> registers;           /* of a thread, by warp; setmaxnreg moves them */
  std::vector<Thread *> want_registers; /* that wait for others to give some */
  std::map<const MBarrier *, MBarrierState> mbarriers;
  std::vector<TensorCopy> tensor_copies;               /* issued, not landed */
  std::vector<unsigned char> async_view;               /* dynamic shared memory as the asynchronous proxy sees it */
  std::map<size_t, std::vector<IssuedProduct>> issued; /* by warpgroup */
  std::vector<Thread *> threads;
  std::vector<Warp> warps;
  Barrier barriers[16];
  std::vector<SharedArray> arrays; /* [0] is the dynamic one */
  int exited = 0;
  uint64_t begun = 0;     /* where its threads meet the program before they start */
  uint64_t ended[2] = {}; /* and when they return; [run % 2] */
  unsigned run = 0;       /* of the blocks that have used this slot */
};

const uint32_t shared_window = 1024; /* the shared address of the first byte of dynamic shared memory */

/* For the words of the other files. */
void sleep_in(const char *word, Site site); /* until another thread wakes it */
void wake(Thread *thread);
uint32_t schedule_random();
ScheduleKind schedule_kind();
/* Lets one tensor copy of the block land; false if none is in flight. */
bool land_copy(Block *block);
/* A thread returns: nothing that it issued may be in flight. */
void check_finished(Thread *thread);
void hopper_prepare(Block *block);

/* The thread that runs. */
static inline Thread *self() { return static_cast<Thread *>(emulator_thread); }

}  // namespace emulator

#endif

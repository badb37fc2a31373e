/* An emulated block and its threads, for the emulator's own files. */
#ifndef POPALM_EMULATOR_BLOCK_H
#define POPALM_EMULATOR_BLOCK_H

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

struct Warp {
  int arrived = 0, exited = 0;
  const char *word = nullptr;
  Site site = {"", 0};
  void *arguments[32] = {};
  Meeting meeting;
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
  std::vector<Thread *> threads;
  std::vector<Warp> warps;
  Barrier barriers[16];
  std::vector<SharedArray> arrays; /* [0] is the dynamic one */
  int exited = 0;
  uint64_t begun = 0;     /* where its threads meet the program before they start */
  uint64_t ended[2] = {}; /* and when they return; [run % 2] */
  unsigned run = 0;       /* of the blocks that have used this slot */
};

/* The thread that runs. */
static inline Thread *self() { return static_cast<Thread *>(emulator_thread); }

}  // namespace emulator

#endif

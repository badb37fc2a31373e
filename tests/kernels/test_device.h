/* The device of the kernels' tests: the emulator (emulator.cpp, emulator_device.cpp) or a GPU (../gpu/device.cpp),
 * under the same names. */
#ifndef POPALM_TEST_DEVICE_H
#define POPALM_TEST_DEVICE_H

#include <stddef.h>
#include <stdint.h>

#include "cuda_backend.h"

enum ScheduleKind {
  SCHEDULE_IN_ORDER, /* the lowest thread that can go on: low threads run far ahead */
  SCHEDULE_REVERSE,  /* the highest one */
  SCHEDULE_ROUND,    /* in turn */
  SCHEDULE_RANDOM,   /* any */
  SCHEDULE_PRIORITY /* fixed random priorities: some threads run far ahead of others; blocks in a random order
                     */
};

struct Schedule {
  ScheduleKind kind;
  uint64_t seed;
};

/* Of the launches that follow. */
void emulator_schedule(Schedule schedule);

/* The i-th of the schedules that every kernel test goes through. The thread sanitizer sees with one what the
 * others only make likely. */
#ifdef EMULATOR_RACES
static const int schedules = 1;
#else
static const int schedules = 7;
#endif
Schedule schedule_number(int i);
/* Of n tries that differ in their numbers only, those that are made: the thread sanitizer is slow and needs no
 * more than one of a kind. */
static inline int tries(int n) { return schedules > 1 ? n : (n + 7) / 8; }

/* Device memory, readable by the host, that starts as 0xFF: a NaN in fp32 and bf16. Overruns are caught by the
 * address sanitizer (GPU: compute-sanitizer), and without it when the memory is freed. */
void *device_alloc(size_t bytes);
void device_free(void *memory);
/* Before the host reads or writes such memory: what was launched is done. Ends the program on an error of the
 * device. */
void device_wait();

/* A backend whose state serves the launchers. One of its own for the whole program. */
Backend *emulator_backend();

/* Errors abort the test. Between begin and end they are kept instead: end returns the message of the first,
 * or "". */
void emulator_expect_begin();
const char *emulator_expect_end();

#endif

/* What the thread sanitizer is told about emulated threads. They are fibers of its own, and only what orders
 * memory on a GPU orders their accesses for it: barriers, warp_sync, fences around atomics, the start and the
 * end of a launch. So it reports a race between two threads, or two blocks, even where the schedule hides it.
 * The emulator is compiled without instrumentation. In other builds nothing here does anything. */
#ifndef POPALM_RACES_H
#define POPALM_RACES_H

#include <stddef.h>
#include <stdint.h>

#ifdef EMULATOR_RACES

#include <sanitizer/tsan_interface.h>

extern "C" {
void __tsan_func_entry(void *caller);
void __tsan_func_exit(void);
void __tsan_read_range(void *memory, size_t bytes);
void __tsan_write_range(void *memory, size_t bytes);
void __tsan_ignore_thread_begin(void);
void __tsan_ignore_thread_end(void);
}

/* What the running thread has done so far comes before what others do after races_acquire of the same place.
 */
static inline void races_release(const void *place) { __tsan_release(const_cast<void *>(place)); }
static inline void races_acquire(const void *place) { __tsan_acquire(const_cast<void *>(place)); }

/* In its scope an uninstrumented function stands in the reports' stacks with the place of its call. */
struct RacesFrame {
  explicit RacesFrame(void *caller) { __tsan_func_entry(caller); }
  ~RacesFrame() { __tsan_func_exit(); }
};
static inline void races_read(const void *memory, size_t bytes) {
  __tsan_read_range(const_cast<void *>(memory), bytes);
}
static inline void races_write(void *memory, size_t bytes) { __tsan_write_range(memory, bytes); }

/* Accesses in its scope are the emulator's own business; memory allocated in it belongs to no thread. */
struct RacesIgnored {
  RacesIgnored() { __tsan_ignore_thread_begin(); }
  ~RacesIgnored() { __tsan_ignore_thread_end(); }
};

#else

static inline void races_release(const void *) {}
static inline void races_acquire(const void *) {}
struct RacesFrame {
  explicit RacesFrame(void *) {}
  ~RacesFrame() {}
};
static inline void races_read(const void *, size_t) {}
static inline void races_write(void *, size_t) {}
struct RacesIgnored {
  RacesIgnored() {}
  ~RacesIgnored() {}
};

#endif

/* Where threads meet again and again. Those that arrive release, those that go on acquire what arrived in
 * their round: a round has a place of its own, since others may already arrive in the next when a thread goes
 * on. */
class Meeting {
 public:
  const void *arrive() {
    const void *place = &places_[round_ % 4];
    races_release(place);
    return place;
  }
  void complete() { round_++; }

 private:
  uint64_t places_[4] = {};
  unsigned round_ = 0;
};

#endif

/* The host meaning of asynchronous copies, and what fences and atomics order. */
#include "emulator_block.h"

using namespace emulator;

void emulator_copy(void *shared, const void *global, int bytes, bool valid, Site site) {
  size_t size = static_cast<size_t>(bytes);
  if (!emulator_is_shared(shared, size))
    emulator_error(site, "copy_async to %p, which is not in shared memory", shared);
  emulator_check_aligned(shared, size, site);
  if (valid) emulator_check_aligned(global, size, site);
  RacesFrame frame(__builtin_return_address(0));
  if (valid) races_read(global, size);
  races_write(shared, size);
  RacesIgnored own;
  memset(shared, 0xFF, size);
  self()->copies.push_back({shared, global, bytes, self()->group, valid});
}

void emulator_copy_commit() { self()->group++; }

void emulator_copy_wait(int in_flight) {
  Thread *thread = self();
  RacesFrame frame(__builtin_return_address(0));
  size_t kept_copies = 0;
  for (const Copy &copy : thread->copies) {
    size_t bytes = static_cast<size_t>(copy.bytes);
    if (copy.group >= thread->group - in_flight)
      thread->copies[kept_copies++] = copy;
    else if (copy.valid)
      memcpy(copy.to, copy.from, bytes); /* for the thread sanitizer too, a copy of this thread */
    else
      memset(copy.to, 0, bytes);
  }
  thread->copies.resize(kept_copies);
}

/* An atomic or volatile access orders nothing by itself. Fences do: what precedes a fence of one thread
 * precedes what follows a fence of another that has meanwhile seen an atomic which the first wrote after its
 * own. */
void emulator_atomic(const void *place) {
  Thread *thread = self();
  if (thread->fenced) races_release(place);
  RacesIgnored own;
  thread->observed.push_back(place);
}

void emulator_fence() {
  Thread *thread = self();
  for (const void *place : thread->observed) races_acquire(place);
  thread->observed.clear();
  thread->fenced = true;
}

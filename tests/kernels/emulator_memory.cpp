/* Device memory and the backend of the emulator. */
#include "emulator_memory.h"

#include <stdio.h>
#include <stdlib.h>

#include <map>

#include "primitives.cuh"

static const int guard_bytes = 64;

unsigned char *poisoned(size_t bytes) {
  void *memory = nullptr;
  if (posix_memalign(&memory, 256, bytes + guard_bytes + (bytes == 0))) abort();
  memset(memory, 0xFF, bytes + guard_bytes);
#if defined(__SANITIZE_ADDRESS__)
  void *exact = nullptr; /* so that the sanitizer knows the end */
  free(memory);
  if (posix_memalign(&exact, 256, bytes ? bytes : 1)) abort();
  memset(exact, 0xFF, bytes);
  memory = exact;
#endif
  return static_cast<unsigned char *>(memory);
}

bool guard_intact(const unsigned char *memory, size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  (void)memory, (void)bytes;
#else
  for (int i = 0; i < guard_bytes; i++)
    if (memory[bytes + static_cast<size_t>(i)] != 0xFF) return false;
#endif
  return true;
}

static std::map<void *, size_t> allocations;

void *device_alloc(size_t bytes) {
  void *memory = poisoned(bytes);
  allocations[memory] = bytes;
  return memory;
}

void device_free(void *memory) {
  if (!memory) return;
  auto found = allocations.find(memory);
  if (found == allocations.end()) {
    fprintf(stderr, "emulator: device_free of %p, which is not allocated\n", memory);
    abort();
  }
  if (!guard_intact(static_cast<unsigned char *>(memory), found->second)) {
    fprintf(stderr, "emulator: written past the end of a device allocation of %zu bytes\n", found->second);
    abort();
  }
  allocations.erase(found);
  free(memory);
}

void *cuda_workspace(Backend *backend, size_t bytes) {
  CudaState *state = cuda_state(backend);
  device_free(state->workspace);
  state->workspace = device_alloc(bytes);
  return state->workspace;
}

void cuda_note(CudaState *, int error, const char *what) {
  fprintf(stderr, "emulator: %s: error %d\n", what, error);
  abort();
}

Backend *emulator_backend() {
  static uint32_t counter;
  static CudaState state;
  static Backend backend;
  state.sm_count = 3;
  state.sm_version = 90;
  state.grid_counter = &counter;
  backend.name = "emulator";
  backend.storage = BF16;
  backend.state = &state;
  return &backend;
}

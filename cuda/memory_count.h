/* What a device's allocations take together, and the most that they took. */
#ifndef POPALM_CUDA_MEMORY_COUNT_H
#define POPALM_CUDA_MEMORY_COUNT_H

#include <stddef.h>

#include <unordered_map>

struct MemoryCount {
  std::unordered_map<const void *, size_t> sizes;
  size_t used = 0, peak = 0;

  void add(const void *memory, size_t bytes) {
    sizes[memory] = bytes;
    used += bytes;
    if (used > peak) peak = used;
  }
  void remove(const void *memory) {
    auto found = sizes.find(memory);
    if (found == sizes.end()) return;
    used -= found->second;
    sizes.erase(found);
  }
  size_t most(bool reset) {
    size_t before = peak;
    if (reset) peak = used;
    return before;
  }
};

#endif

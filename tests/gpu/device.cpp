/* The device of the kernels' tests is a GPU: tests/kernels/test_<subject>.cpp, unchanged, linked with the
 * CUDA backend in place of the emulator. Memory is managed, so that the tests read and write it as the
 * emulator's; what stands behind an allocation is looked at when it is freed (not with POPALM_TEST_EXACT set:
 * compute-sanitizer then sees the first byte beyond). The schedule of threads is the GPU's own, so each of
 * the schedules is one more run, whose results have to be the same bits. */
#include <cuda_runtime.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <map>

#include "test_device.h"

namespace {

[[noreturn]] void stop(const char *what, const char *why) {
  fprintf(stderr, "%s: %s\n", what, why);
  abort();
}

void check(cudaError_t error, const char *what) {
  if (error != cudaSuccess) stop(what, cudaGetErrorString(error));
}

size_t guard_bytes() {
  static const size_t bytes = getenv("POPALM_TEST_EXACT") ? 0 : 256;
  return bytes;
}

std::map<void *, size_t> allocations;

}  // namespace

Backend *emulator_backend() {
  static Backend *backend;
  const char *name = getenv("POPALM_TEST_DEVICE");
  if (!backend && backend_open(name ? name : "cuda", &backend) != OK) stop("no GPU", error_message());
  return backend;
}

void device_wait() {
  Backend *backend = emulator_backend();
  if (backend->synchronize(backend) != OK) stop("the device failed", error_message());
}

void *device_alloc(size_t bytes) {
  device_wait(); /* opens the device first */
  void *memory = nullptr;
  size_t all = bytes + guard_bytes();
  check(cudaMallocManaged(&memory, all ? all : 1), "device_alloc");
  memset(memory, 0xFF, all);
  allocations[memory] = bytes;
  return memory;
}

void device_free(void *memory) {
  if (!memory) return;
  device_wait();
  auto found = allocations.find(memory);
  if (found == allocations.end()) stop("device_free", "memory that was not allocated");
  const unsigned char *guard = static_cast<unsigned char *>(memory) + found->second;
  for (size_t i = 0; i < guard_bytes(); i++)
    if (guard[i] != 0xFF) stop("device_free", "written past the end of an allocation");
  allocations.erase(found);
  check(cudaFree(memory), "device_free");
}

void emulator_schedule(Schedule) {}

Schedule schedule_number(int i) { return {SCHEDULE_IN_ORDER, static_cast<uint64_t>(i)}; }

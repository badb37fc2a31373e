/* The CPU backend, for tests that compare an operation with its CPU twin. */
#ifndef POPALM_REFERENCE_H
#define POPALM_REFERENCE_H

#include "kernel_test.h"

extern "C" {
#include "cpu/cpu.h"
}

/* One for the whole program. */
static inline Backend *reference_backend() {
  static Backend *backend;
  if (!backend) assert_int_equal(cpu_backend_open(0, &backend), OK);
  return backend;
}

template <typename T>
static inline std::vector<float> floats_of(const T *values, size_t count) {
  std::vector<float> out(count);
  for (size_t i = 0; i < count; i++) out[i] = static_cast<float>(number(values[i]));
  return out;
}

#endif

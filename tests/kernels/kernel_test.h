/* What the host-run tests of the kernels share: device arrays, random input from a printed seed, comparison.
 */
#ifndef POPALM_KERNEL_TEST_H
#define POPALM_KERNEL_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <vector>

#include "primitives.cuh"
/* last: it has a macro fail() */
extern "C" {
#include <cmocka.h>
}

/* Exact size on the "device", 0xFF until written. Read through get() or [] after the launch: they wait for it. */
template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t count)
      : count_(count), data_(static_cast<T *>(device_alloc(count * sizeof(T)))) {}
  explicit DeviceArray(const std::vector<T> &values) : DeviceArray(values.size()) {
    if (count_) memcpy(static_cast<void *>(data_), values.data(), count_ * sizeof(T));
  }
  ~DeviceArray() { device_free(data_); }
  DeviceArray(const DeviceArray &) = delete;
  DeviceArray &operator=(const DeviceArray &) = delete;
  void poison() {
    device_wait();
    memset(static_cast<void *>(data_), 0xFF, count_ * sizeof(T));
  }
  size_t count() const { return count_; }
  T *get() const {
    device_wait();
    return data_;
  }
  T &operator[](size_t i) const {
    device_wait();
    return data_[i];
  }

 private:
  size_t count_;
  T *data_;
};

/* A seed of its own for every run, printed; POPALM_TEST_SEED=n runs one again. */
static inline uint64_t test_seed() {
  static uint64_t seed;
  if (!seed) {
    const char *given = getenv("POPALM_TEST_SEED");
    seed = given ? strtoull(given, nullptr, 10) : static_cast<uint64_t>(time(nullptr));
    printf("seed %llu (POPALM_TEST_SEED)\n", static_cast<unsigned long long>(seed));
  }
  return seed;
}

/* A stream of random numbers for one case of one test. */
class TestRandom {
 public:
  explicit TestRandom(uint32_t test_case) : key_{test_seed(), RANDOM_TEST, test_case} {}
  double uniform() { return random_double(key_, next_++, 0); }
  int below(int n) { return static_cast<int>(uniform() * n); }
  /* Near enough to a standard normal: the sum of 12 uniform numbers less 6. */
  float normal() {
    double sum = -6;
    for (int i = 0; i < 12; i++) sum += uniform();
    return static_cast<float>(sum);
  }
  std::vector<bf16> normals(size_t count, float scale = 1) {
    std::vector<bf16> out(count);
    for (bf16 &x : out) x = to_bf16(scale * normal());
    return out;
  }
  std::vector<float> normals_f32(size_t count, float scale = 1) {
    std::vector<float> out(count);
    for (float &x : out) x = scale * normal();
    return out;
  }

 private:
  RandomKey key_;
  uint32_t next_ = 0;
};

static inline double number(float x) { return static_cast<double>(x); }
static inline double number(bf16 x) { return static_cast<double>(to_float(x)); }

/* Fails at the first element that is further from want than absolute + relative |want|, or NaN. */
template <typename T>
static inline void expect_close(const char *what, const T *got, const std::vector<double> &want,
                                double relative, double absolute) {
  for (size_t i = 0; i < want.size(); i++) {
    double x = number(got[i]), error = fabs(x - want[i]);
    if (error <= absolute + relative * fabs(want[i])) continue;
    fail_msg("%s[%zu] is %.7g, should be %.7g", what, i, x, want[i]);
  }
}

/* Whether two arrays hold the same bits. */
template <typename T>
static inline void expect_same_bits(const char *what, const T *got, const std::vector<T> &want) {
  for (size_t i = 0; i < want.size(); i++)
    if (memcmp(&got[i], &want[i], sizeof(T))) fail_msg("%s[%zu] differs between two schedules", what, i);
}

/* Runs body once a schedule. */
#define FOR_EACH_SCHEDULE                                     \
  for (int schedule_ = 0; schedule_ < schedules; schedule_++) \
    if (emulator_schedule(schedule_number(schedule_)); true)

#endif

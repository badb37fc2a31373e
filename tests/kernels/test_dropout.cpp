/* cuda/dropout.cu on the emulator: the same mask as the CPU's, one rounding. */
#include "reference.h"

static size_t size(int x) { return static_cast<size_t>(x); }

static const int shapes[][2] = {{0, 8}, {1, 1}, {3, 7}, {5, 16}, {7, 12}, {13, 29}, {64, 40}, {31, 200}};
static const float rates[] = {0, 0.1f, 0.5f, 0.99f};

static void dropped_as_on_the_cpu(bool accumulate) {
  uint32_t test_case = accumulate ? 100 : 0;
  for (const int *shape : shapes)
    for (float rate : rates) {
      int rows = shape[0], cols = shape[1];
      TestRandom random(test_case++);
      DeviceArray<bf16> x(random.normals(size(rows) * size(cols)));
      std::vector<bf16> before = random.normals(x.count());
      DeviceArray<bf16> y(before);
      DeviceArray<int32_t> id(size(rows));
      for (size_t i = 0; i < size(rows); i++) id[i] = random.below(1 << 30);
      std::vector<float> xf = floats_of(x.get(), x.count()), yf = floats_of(before.data(), x.count());
      std::vector<int32_t> ids(id.get(), id.get() + id.count());
      Dropout op = {xf.data(), yf.data(), ids.data(), {7, RANDOM_TEST, test_case}, 4242, rate,
                    rows,      cols,      accumulate};
      cpu_dropout(reference_backend(), &op);
      std::vector<double> want(yf.begin(), yf.end());
      op.x = x.get();
      op.y = y.get();
      op.id = id.get();
      FOR_EACH_SCHEDULE {
        if (accumulate)
          for (size_t i = 0; i < before.size(); i++) y[i] = before[i];
        else
          y.poison();
        cuda_dropout(emulator_backend(), &op);
        expect_close("y", y.get(), want, 0.004, 1e-6); /* half a unit of bf16 */
      }
    }
}

static void masks_are_the_cpus(void **) { dropped_as_on_the_cpu(false); }
static void accumulating_adds_to_what_is_there(void **) { dropped_as_on_the_cpu(true); }

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(masks_are_the_cpus),
      cmocka_unit_test(accumulating_adds_to_what_is_there),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}

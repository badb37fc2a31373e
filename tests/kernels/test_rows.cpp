/* cuda/rows.cu on the emulator: both operations are exact, or one rounding. */
#include "kernel_test.h"

static size_t size(int x) { return static_cast<size_t>(x); }

/* rows, rows of the other matrix, cols */
static const int shapes[][3] = {{0, 3, 8},    {1, 1, 1},    {3, 5, 7},  {4, 4, 16},
                                {13, 29, 72}, {70, 75, 33}, {2, 90, 64}};

static void gather_of(bool addend) {
  uint32_t test_case = addend ? 100 : 0;
  for (const int *shape : shapes) {
    int rows = shape[0], others = shape[1], cols = shape[2];
    TestRandom random(test_case++);
    DeviceArray<bf16> src(random.normals(size(others) * size(cols))), added(random.normals(src.count()));
    DeviceArray<bf16> dst(size(rows) * size(cols));
    DeviceArray<int32_t> index(size(rows));
    for (size_t i = 0; i < size(rows); i++) index[i] = i == 0 ? others - 1 : random.below(others);
    std::vector<bf16> want(dst.count());
    for (size_t i = 0; i < want.size(); i++) {
      size_t from = size(index[i / size(cols)]) * size(cols) + i % size(cols);
      want[i] = addend ? to_bf16(to_float(src[from]) + to_float(added[from])) : src[from];
    }
    FOR_EACH_SCHEDULE {
      dst.poison();
      GatherRows op = {src.get(), addend ? added.get() : nullptr, index.get(), dst.get(), rows, cols};
      cuda_gather_rows(emulator_backend(), &op);
      expect_same_bits("dst", dst.get(), want);
    }
  }
}

static void gather_copies_rows_by_index(void **) { gather_of(false); }
static void gather_adds_the_addend_of_the_same_row(void **) { gather_of(true); }

static void scatter_zeroes_all_other_rows(void **) {
  uint32_t test_case = 200;
  for (const int *shape : shapes) {
    int rows = shape[0], dst_rows = shape[1], cols = shape[2];
    TestRandom random(test_case++);
    DeviceArray<bf16> src(random.normals(size(rows) * size(cols))), dst(size(dst_rows) * size(cols));
    DeviceArray<int32_t> index(size(rows));
    std::vector<int32_t> order(size(dst_rows)); /* distinct: a shuffle's first rows */
    for (int i = 0; i < dst_rows; i++) {
      int j = random.below(i + 1);
      order[size(i)] = order[size(j)];
      order[size(j)] = i;
    }
    std::vector<bf16> want(dst.count(), bf16{0});
    for (size_t i = 0; i < size(rows); i++) {
      index[i] = order[i];
      for (size_t c = 0; c < size(cols); c++) want[size(index[i]) * size(cols) + c] = src[i * size(cols) + c];
    }
    FOR_EACH_SCHEDULE {
      dst.poison();
      ScatterRows op = {src.get(), index.get(), dst.get(), rows, dst_rows, cols};
      cuda_scatter_rows(emulator_backend(), &op);
      expect_same_bits("dst", dst.get(), want);
    }
  }
}

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(gather_copies_rows_by_index),
      cmocka_unit_test(gather_adds_the_addend_of_the_same_row),
      cmocka_unit_test(scatter_zeroes_all_other_rows),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}

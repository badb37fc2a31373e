/* cuda/scalar_head.cu on the emulator against double precision and the CPU backend. */
#include "reference.h"

static size_t size(int x) { return static_cast<size_t>(x); }

struct HeadCase {
  /* mapped: the rows stand scattered in a larger matrix, in falling order. */
  HeadCase(int rows_, int hidden_size_, bool mapped_, uint32_t test_case)
      : rows(rows_),
        hidden_size(hidden_size_),
        mapped(mapped_),
        stored(mapped_ ? 2 * size(rows_) + 3 : size(rows_)),
        random(test_case),
        hidden(random.normals(stored * size(hidden_size_))),
        weight(random.normals(size(hidden_size_), 0.5f)),
        bias(random.normals(1)),
        dout(random.normals_f32(size(rows_))),
        row(size(rows_)) {
    for (size_t i = 0; i < row.count(); i++) row[i] = mapped ? static_cast<int>(stored - 2 - 2 * i) : -1;
  }
  size_t at(size_t i) const { return (mapped ? size(row[i]) : i) * size(hidden_size); }
  const int32_t *rows_or_null() const { return mapped ? row.get() : nullptr; }

  int rows, hidden_size;
  bool mapped;
  size_t stored;
  TestRandom random;
  DeviceArray<bf16> hidden, weight, bias;
  DeviceArray<float> dout;
  DeviceArray<int32_t> row;
};

static void check_forward(int rows, int hidden_size, bool mapped, uint32_t test_case) {
  HeadCase c(rows, hidden_size, mapped, test_case);
  std::vector<double> want(size(rows));
  for (size_t i = 0; i < want.size(); i++) {
    want[i] = number(c.bias[0]);
    for (size_t k = 0; k < size(hidden_size); k++)
      want[i] += number(c.hidden[c.at(i) + k]) * number(c.weight[k]);
  }
  DeviceArray<float> out(size(rows));
  std::vector<float> first;
  FOR_EACH_SCHEDULE {
    out.poison();
    ScalarHead op = {c.hidden.get(), c.rows_or_null(), c.weight.get(), c.bias.get(), out.get(),
                     rows,           hidden_size};
    cuda_scalar_head(emulator_backend(), &op);
    expect_close("out", out.get(), want, 1e-5, 1e-5 * sqrt(hidden_size));
    if (first.empty()) first.assign(out.get(), out.get() + out.count());
    expect_same_bits("out", out.get(), first);
  }
  std::vector<float> hidden = floats_of(c.hidden.get(), c.hidden.count()),
                     weight = floats_of(c.weight.get(), c.weight.count()), twin(size(rows));
  float bias = static_cast<float>(number(c.bias[0]));
  ScalarHead op = {hidden.data(), c.rows_or_null(), weight.data(), &bias, twin.data(), rows, hidden_size};
  cpu_scalar_head(reference_backend(), &op);
  expect_close("out against the CPU", out.get(), std::vector<double>(twin.begin(), twin.end()), 1e-5,
               1e-5 * sqrt(hidden_size));
}

/* Gradients start as numbers, except the rows of dhidden that are overwritten. */
static void check_backward(int rows, int hidden_size, bool mapped, bool accumulate, uint32_t test_case,
                           int runs) {
  HeadCase c(rows, hidden_size, mapped, test_case);
  size_t H = size(hidden_size);
  std::vector<bf16> dhidden_start = c.random.normals(c.hidden.count()), dweight_start = c.random.normals(H),
                    dbias_start = c.random.normals(1);
  if (!accumulate)
    for (bf16 &x : dhidden_start) x.bits = 0xFFFF;
  std::vector<double> dweight_want(H), dbias_want(1, number(dbias_start[0]));
  for (size_t k = 0; k < H; k++) dweight_want[k] = number(dweight_start[k]);
  std::vector<float> dhidden_want = floats_of(dhidden_start.data(), dhidden_start.size());
  std::vector<bool> named(dhidden_start.size());
  for (size_t i = 0; i < size(rows); i++) {
    dbias_want[0] += number(c.dout[i]);
    for (size_t k = 0; k < H; k++) {
      float &d = dhidden_want[c.at(i) + k];
      d = c.dout[i] * to_float(c.weight[k]) + (accumulate ? d : 0);
      named[c.at(i) + k] = true;
      dweight_want[k] += number(c.dout[i]) * number(c.hidden[c.at(i) + k]);
    }
  }
  std::vector<bf16> first;
  for (int run = 0; run < runs; run++) {
    emulator_schedule(schedule_number(run));
    DeviceArray<bf16> dhidden(dhidden_start), dweight(dweight_start), dbias(dbias_start);
    ScalarHeadBackward op = {c.hidden.get(), c.rows_or_null(), c.weight.get(), c.dout.get(), dhidden.get(),
                             accumulate,     dweight.get(),    dbias.get(),    rows,         hidden_size};
    cuda_scalar_head_backward(emulator_backend(), &op);
    for (size_t i = 0; i < named.size(); i++) {
      if (!named[i]) assert_int_equal(dhidden[i].bits, dhidden_start[i].bits);
      if (named[i] && !(fabs(number(dhidden[i]) - number(dhidden_want[i])) <=
                        4e-3 * fabs(number(dhidden_want[i])) + 1e-6))
        fail_msg("dhidden[%zu] is %g, should be %g", i, number(dhidden[i]), number(dhidden_want[i]));
    }
    expect_close("dweight", dweight.get(), dweight_want, 4e-3, 1e-4); /* half an ulp of bf16 */
    expect_close("dbias", dbias.get(), dbias_want, 4e-3, 1e-4);
    std::vector<bf16> all(dhidden.get(), dhidden.get() + dhidden.count());
    all.insert(all.end(), dweight.get(), dweight.get() + H);
    all.push_back(dbias[0]);
    if (first.empty()) first = all;
    expect_same_bits("gradient", all.data(), first);
  }
}

static const int widths[] = {1, 7, 8, 12, 250, 256, 260, 517, 1024};

static void value_of_rows_of_any_width(void **) {
  uint32_t test_case = 0;
  for (int width : widths) {
    check_forward(13, width, false, test_case++);
    check_forward(9, width, true, test_case++);
  }
  check_forward(1, 8, true, 90);
  check_forward(1, 8192, false, 91);
}

static void gradient_of_rows_of_any_width(void **) {
  uint32_t test_case = 100;
  for (int width : widths)
    for (int kind = 0; kind < 4; kind++)
      check_backward(kind % 2 ? 41 : 5, width, kind >= 2, kind % 2, test_case++, schedules);
}

/* 32 rows a slice up to 128 slices, then longer ones. */
static void slices_of_rows_are_added_once(void **) {
  const int rows[] = {1, 15, 16, 17, 31, 32, 33, 64, 65, 1000, 4096, 4097, 9001};
  uint32_t test_case = 200;
  for (int n : rows) check_backward(n, n > 1000 ? 3 : 19, n % 2, false, test_case++, 3);
}

static void parts_that_nobody_wants_are_not_computed(void **) {
  HeadCase c(37, 40, false, 300);
  DeviceArray<bf16> dhidden(c.hidden.count()), dweight(std::vector<bf16>(40, bf16{0})),
      dbias(std::vector<bf16>(1, bf16{0})), weight_only(std::vector<bf16>(40, bf16{0})),
      bias_only(std::vector<bf16>(1, bf16{0})), hidden_only(c.hidden.count());
  FOR_EACH_SCHEDULE {
    dhidden.poison(), hidden_only.poison();
    for (DeviceArray<bf16> *x : {&dweight, &dbias, &weight_only, &bias_only})
      for (size_t i = 0; i < x->count(); i++) (*x)[i].bits = 0;
    ScalarHeadBackward op = {c.hidden.get(), nullptr,       c.weight.get(), c.dout.get(), dhidden.get(),
                             false,          dweight.get(), dbias.get(),    37,           40};
    cuda_scalar_head_backward(emulator_backend(), &op);
    ScalarHeadBackward weight = op, bias = op, hidden = op;
    weight.dhidden = nullptr, weight.dbias = nullptr, weight.dweight = weight_only.get();
    bias.dhidden = nullptr, bias.dweight = nullptr, bias.dbias = bias_only.get();
    hidden.dweight = nullptr, hidden.dbias = nullptr, hidden.dhidden = hidden_only.get();
    cuda_scalar_head_backward(emulator_backend(), &weight);
    cuda_scalar_head_backward(emulator_backend(), &bias);
    cuda_scalar_head_backward(emulator_backend(), &hidden);
    assert_memory_equal(weight_only.get(), dweight.get(), 40 * sizeof(bf16));
    assert_memory_equal(bias_only.get(), dbias.get(), sizeof(bf16));
    assert_memory_equal(hidden_only.get(), dhidden.get(), dhidden.count() * sizeof(bf16));
  }
}

static void no_rows_do_nothing(void **) {
  DeviceArray<bf16> dweight(3), dbias(1);
  ScalarHead op = {};
  op.hidden_size = 3;
  cuda_scalar_head(emulator_backend(), &op);
  ScalarHeadBackward backward = {};
  backward.hidden_size = 3;
  backward.dweight = dweight.get(), backward.dbias = dbias.get();
  cuda_scalar_head_backward(emulator_backend(), &backward);
  for (size_t k = 0; k < 3; k++) assert_int_equal(dweight[k].bits, 0xFFFF);
  assert_int_equal(dbias[0].bits, 0xFFFF);
}

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(value_of_rows_of_any_width),
      cmocka_unit_test(gradient_of_rows_of_any_width),
      cmocka_unit_test(slices_of_rows_are_added_once),
      cmocka_unit_test(parts_that_nobody_wants_are_not_computed),
      cmocka_unit_test(no_rows_do_nothing),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}

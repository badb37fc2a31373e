/* cuda/linear.cu and cuda/product.cu on the emulator against double precision. */
#include "kernel_test.h"

static size_t size(int x) { return static_cast<size_t>(x); }

/* The formula of struct Product, in double. */
static std::vector<double> product_of(const Product &p) {
  const bf16 *a = static_cast<const bf16 *>(p.a), *b = static_cast<const bf16 *>(p.b);
  std::vector<double> out(size(p.m) * size(p.n));
  for (size_t i = 0; i < size(p.m); i++)
    for (size_t j = 0; j < size(p.n); j++) {
      double sum = p.bias ? number(static_cast<const bf16 *>(p.bias)[j]) : 0, product = 0;
      size_t at = i * size(p.ldd) + j;
      if (p.accumulate)
        sum += p.out == F32 ? number(static_cast<float *>(p.d)[at]) : number(static_cast<bf16 *>(p.d)[at]);
      for (size_t l = 0; l < size(p.k); l++)
        product += number(a[p.a_transposed ? l * size(p.lda) + i : i * size(p.lda) + l]) *
                   number(b[p.b_transposed ? j * size(p.ldb) + l : l * size(p.ldb) + j]);
      out[i * size(p.n) + j] = sum + (p.scale != 0 ? number(p.scale) : 1) * product;
    }
  return out;
}

/* One product with rows `gap` elements longer than needed, whose gaps must stay as they are. */
template <typename T>
static void check_product(void (*function)(Backend *, const Product *), int m, int n, int k, int flags,
                          int gap, uint32_t test_case) {
  TestRandom random(test_case);
  Product p = {};
  p.m = m, p.n = n, p.k = k;
  p.scale = test_case % 3 ? 0.0f : 0.25f;
  p.a_transposed = flags & 1, p.b_transposed = flags & 2, p.accumulate = flags & 4;
  p.lda = (p.a_transposed ? m : k) + gap, p.ldb = (p.b_transposed ? k : n) + gap, p.ldd = n + gap;
  p.out = sizeof(T) == 4 ? F32 : BF16;
  DeviceArray<bf16> a(random.normals(size(p.lda) * size(p.a_transposed ? k : m)));
  DeviceArray<bf16> b(random.normals(size(p.ldb) * size(p.b_transposed ? n : k))),
      bias(random.normals(size(n)));
  p.a = a.get(), p.b = b.get(), p.bias = flags & 8 ? bias.get() : nullptr;
  size_t cells = size(m) * size(p.ldd);
  std::vector<float> start = random.normals_f32(cells);
  std::vector<T> before(cells);
  for (size_t i = 0; i < cells; i++)
    if constexpr (sizeof(T) == 4)
      before[i] = start[i];
    else
      before[i] = to_bf16(start[i]);
  DeviceArray<T> d(before);
  p.d = d.get();
  std::vector<double> want = product_of(p);
  FOR_EACH_SCHEDULE {
    for (size_t i = 0; i < cells; i++) d[i] = before[i];
    function(emulator_backend(), &p);
    for (size_t i = 0; i < size(m); i++) {
      std::vector<double> row(want.begin() + static_cast<long>(i * size(n)),
                              want.begin() + static_cast<long>((i + 1) * size(n)));
      expect_close("d", d.get() + i * size(p.ldd), row, sizeof(T) == 4 ? 1e-5 : 5e-3, 1e-4);
      for (size_t j = size(n); j < size(p.ldd); j++)
        assert_memory_equal(&d[i * size(p.ldd) + j], &before[i * size(p.ldd) + j], sizeof(T));
    }
  }
}

static void every_layout(void (*function)(Backend *, const Product *)) {
  for (int flags = 0; flags < 16; flags++) {
    check_product<float>(function, 5, 70, 19, flags, 3, static_cast<uint32_t>(flags));
    check_product<bf16>(function, 66, 9, 33, flags, 0, static_cast<uint32_t>(20 + flags));
  }
}

static void product_kernel_takes_every_layout(void **) { every_layout(cuda_product_plain); }
static void product_of_the_host_takes_every_layout(void **) { every_layout(cuda_product); }
static void product_of_nothing_is_bias_alone(void **) {
  check_product<float>(cuda_product_plain, 3, 4, 0, 8, 0, 40);
  check_product<bf16>(cuda_product_plain, 3, 4, 0, 12, 0, 41);
}

static void linear_adds_bias_and_accumulates(void **) {
  for (int accumulate = 0; accumulate < 2; accumulate++) {
    int rows = 7, in = 24, out = 13;
    TestRandom random(static_cast<uint32_t>(50 + accumulate));
    DeviceArray<bf16> x(random.normals(size(rows * in))), w(random.normals(size(out * in)));
    DeviceArray<bf16> bias(random.normals(size(out))), y(random.normals(size(rows * out)));
    std::vector<double> want(size(rows * out));
    for (int r = 0; r < rows; r++)
      for (int o = 0; o < out; o++) {
        double sum = number(bias[size(o)]) + (accumulate ? number(y[size(r * out + o)]) : 0);
        for (int i = 0; i < in; i++) sum += number(x[size(r * in + i)]) * number(w[size(o * in + i)]);
        want[size(r * out + o)] = sum;
      }
    Linear op = {x.get(), w.get(), bias.get(), y.get(), rows, in, out, accumulate == 1, 0, 0, WEIGHT_NATIVE};
    cuda_linear(emulator_backend(), &op);
    expect_close("y", y.get(), want, 5e-3, 1e-3);
  }
}

static void check_backward(int rows, int in, int out, bool accumulate, uint32_t test_case) {
  TestRandom random(test_case);
  DeviceArray<bf16> x(random.normals(size(rows) * size(in))), w(random.normals(size(out) * size(in)));
  DeviceArray<bf16> dy(random.normals(size(rows) * size(out), 0.1f));
  std::vector<bf16> dx_start = random.normals(x.count()), dw_start = random.normals(w.count()),
                    db_start = random.normals(size(out));
  std::vector<double> dx_want(x.count()), dw_want(w.count()), db_want(size(out));
  for (size_t i = 0; i < dx_want.size(); i++) dx_want[i] = accumulate ? number(dx_start[i]) : 0;
  for (size_t i = 0; i < dw_want.size(); i++) dw_want[i] = number(dw_start[i]);
  for (size_t i = 0; i < db_want.size(); i++) db_want[i] = number(db_start[i]);
  for (size_t r = 0; r < size(rows); r++)
    for (size_t o = 0; o < size(out); o++) {
      double d = number(dy[r * size(out) + o]);
      db_want[o] += d;
      for (size_t i = 0; i < size(in); i++) {
        dx_want[r * size(in) + i] += d * number(w[o * size(in) + i]);
        dw_want[o * size(in) + i] += d * number(x[r * size(in) + i]);
      }
    }
  FOR_EACH_SCHEDULE {
    DeviceArray<bf16> dx(dx_start), dw(dw_start), db(db_start);
    LinearBackward op = {x.get(), w.get(), dy.get(),   dx.get(), dw.get(), db.get(),     rows,
                         in,      out,     accumulate, 0,        0,        WEIGHT_NATIVE};
    cuda_linear_backward(emulator_backend(), &op);
    expect_close("dx", dx.get(), dx_want, 5e-3, 2e-3);
    expect_close("dweight", dw.get(), dw_want, 5e-3, 2e-3);
    expect_close("dbias", db.get(), db_want, 5e-3, 2e-3);
  }
}

static void backward_accumulates_parameter_gradients(void **) {
  check_backward(9, 8, 16, false, 60);
  check_backward(9, 5, 7, true, 61);
}

/* 256 rows a slice, 256 columns a block. */
static void bias_gradient_sums_all_slices_and_blocks(void **) {
  check_backward(600, 1, 264, false, 62);
  check_backward(257, 1, 259, false, 63);
}

static void outputs_may_be_left_out(void **) {
  TestRandom random(70);
  DeviceArray<bf16> x(random.normals(12)), dy(random.normals(8)), db(random.normals(2));
  LinearBackward nothing = {x.get(), nullptr, dy.get(), nullptr, nullptr, nullptr,      4,
                            3,       2,       false,    0,       0,       WEIGHT_NATIVE};
  cuda_linear_backward(emulator_backend(), &nothing);
  std::vector<bf16> before(db.get(), db.get() + 2);
  LinearBackward no_rows = {x.get(), nullptr, dy.get(), nullptr, nullptr, db.get(),     0,
                            3,       2,       false,    0,       0,       WEIGHT_NATIVE};
  cuda_linear_backward(emulator_backend(), &no_rows);
  expect_same_bits("dbias", db.get(), before);
}

/* A slice of wider rows, as an adapter of the query heads alone has. */
static void strided_and_scaled_products_are_those_of_dense_rows(void **) {
  const int rows = 9, in = 7, out = 5, stride = 12;
  TestRandom random(80);
  DeviceArray<bf16> x(random.normals(size(rows * in))), w(random.normals(size(out * in)));
  DeviceArray<bf16> dense(size(rows * out)), wide(random.normals(size(rows * stride)));
  std::vector<bf16> before(wide.get(), wide.get() + wide.count());
  Linear forward = {x.get(), w.get(), nullptr, dense.get(), rows, in, out, false, 0, 0, WEIGHT_NATIVE};
  cuda_linear(emulator_backend(), &forward);
  forward.y = wide.get() + 3, forward.y_stride = stride, forward.scale = 0.5f;
  cuda_linear(emulator_backend(), &forward);
  for (int r = 0; r < rows; r++)
    for (int c = 0; c < stride; c++) {
      size_t at = size(r * stride + c);
      bool inside = c >= 3 && c < 3 + out;
      double want = inside ? number(dense[size(r * out + c - 3)]) / 2 : number(before[at]);
      assert_true(number(wide[at]) == want);
    }
  DeviceArray<bf16> dy(random.normals(size(rows * out))), dx(size(rows * in)), dx_wide(size(rows * in));
  std::vector<bf16> none(size(out * in), bf16{0}), none_bias(size(out), bf16{0});
  DeviceArray<bf16> dw(none), dw_wide(none), db(none_bias), db_wide(none_bias);
  LinearBackward backward = {x.get(), w.get(), dy.get(), dx.get(), dw.get(), db.get(),     rows,
                             in,      out,     false,    0,        0,        WEIGHT_NATIVE};
  cuda_linear_backward(emulator_backend(), &backward);
  for (int r = 0; r < rows; r++)
    for (int c = 0; c < out; c++) wide[size(r * stride + c + 3)] = dy[size(r * out + c)];
  backward.dy = wide.get() + 3, backward.dy_stride = stride, backward.scale = 0.5f;
  backward.dx = dx_wide.get(), backward.dweight = dw_wide.get(), backward.dbias = db_wide.get();
  cuda_linear_backward(emulator_backend(), &backward);
  for (size_t i = 0; i < dx.count(); i++) assert_true(number(dx_wide[i]) == number(dx[i]) / 2);
  for (size_t i = 0; i < dw.count(); i++) assert_true(number(dw_wide[i]) == number(dw[i]) / 2);
  for (size_t i = 0; i < db.count(); i++) assert_true(number(db_wide[i]) == number(db[i]));
}

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(product_kernel_takes_every_layout),
      cmocka_unit_test(product_of_the_host_takes_every_layout),
      cmocka_unit_test(product_of_nothing_is_bias_alone),
      cmocka_unit_test(linear_adds_bias_and_accumulates),
      cmocka_unit_test(backward_accumulates_parameter_gradients),
      cmocka_unit_test(bias_gradient_sums_all_slices_and_blocks),
      cmocka_unit_test(outputs_may_be_left_out),
      cmocka_unit_test(strided_and_scaled_products_are_those_of_dense_rows),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}

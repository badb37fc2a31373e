/* cuda/activation.cu on the emulator against double precision. */
#include "kernel_test.h"

static double gelu(double x) { return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))); }
static double gelu_slope(double x) {
  double u = sqrt(2 / M_PI) * (x + 0.044715 * x * x * x), t = tanh(u);
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * sqrt(2 / M_PI) * (1 + 3 * 0.044715 * x * x);
}
static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

static const int shapes[][2] = {{0, 8}, {1, 1}, {1, 8}, {3, 7}, {5, 64}, {7, 131}, {64, 40}};

static void forward_of(ActivationKind kind) {
  int test_case = 0;
  for (const int *shape : shapes) {
    int rows = shape[0], width = shape[1];
    size_t count = static_cast<size_t>(rows) * static_cast<size_t>(width),
           parts = kind == ACTIVATION_GELU ? 1 : 2;
    DeviceArray<bf16> x(TestRandom(static_cast<uint32_t>(test_case++)).normals(count * parts, 2)), y(count);
    std::vector<double> want(count);
    for (size_t i = 0; i < count; i++) {
      size_t row = i / static_cast<size_t>(width), at = i + row * (parts - 1) * static_cast<size_t>(width);
      double a = number(x[at]);
      want[i] =
          kind == ACTIVATION_GELU ? gelu(a) : a * sigmoid(a) * number(x[at + static_cast<size_t>(width)]);
    }
    FOR_EACH_SCHEDULE {
      y.poison();
      Activation op = {kind, x.get(), y.get(), rows, width};
      cuda_activation(emulator_backend(), &op);
      expect_close("y", y.get(), want, 5e-3, 1e-5);
    }
  }
}

static void backward_of(ActivationKind kind) {
  int test_case = 100;
  for (const int *shape : shapes) {
    int rows = shape[0], width = shape[1];
    size_t w = static_cast<size_t>(width), count = static_cast<size_t>(rows) * w,
           parts = kind == ACTIVATION_GELU ? 1 : 2;
    TestRandom random(static_cast<uint32_t>(test_case++));
    DeviceArray<bf16> x(random.normals(count * parts, 2)), dy(random.normals(count)), dx(count * parts);
    std::vector<double> want(count * parts);
    for (size_t i = 0; i < count; i++) {
      size_t at = i + i / w * (parts - 1) * w;
      double a = number(x[at]), d = number(dy[i]);
      if (kind == ACTIVATION_GELU) {
        want[at] = d * gelu_slope(a);
      } else {
        want[at] = d * number(x[at + w]) * sigmoid(a) * (1 + a * (1 - sigmoid(a)));
        want[at + w] = d * a * sigmoid(a);
      }
    }
    FOR_EACH_SCHEDULE {
      dx.poison();
      ActivationBackward op = {kind, x.get(), dy.get(), dx.get(), rows, width};
      cuda_activation_backward(emulator_backend(), &op);
      expect_close("dx", dx.get(), want, 5e-3, 1e-5);
    }
  }
}

static void gelu_is_the_tanh_form(void **) { forward_of(ACTIVATION_GELU); }
static void swiglu_gates_the_upper_half(void **) { forward_of(ACTIVATION_SWIGLU); }
static void gelu_backward_is_its_slope(void **) { backward_of(ACTIVATION_GELU); }
static void swiglu_backward_fills_gate_and_up(void **) { backward_of(ACTIVATION_SWIGLU); }

static void gelu_backward_may_overwrite_dy(void **) {
  TestRandom random(200);
  DeviceArray<bf16> x(random.normals(77)), dy(random.normals(77)), dx(77);
  ActivationBackward op = {ACTIVATION_GELU, x.get(), dy.get(), dx.get(), 7, 11};
  cuda_activation_backward(emulator_backend(), &op);
  op.dx = dy.get();
  cuda_activation_backward(emulator_backend(), &op);
  assert_memory_equal(dx.get(), dy.get(), 77 * sizeof(bf16));
}

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(gelu_is_the_tanh_form),          cmocka_unit_test(swiglu_gates_the_upper_half),
      cmocka_unit_test(gelu_backward_is_its_slope),     cmocka_unit_test(swiglu_backward_fills_gate_and_up),
      cmocka_unit_test(gelu_backward_may_overwrite_dy),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}

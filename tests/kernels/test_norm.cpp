/* cuda/norm.cu and cuda/norm_backward.cu on the emulator against double precision. */
#include "kernel_test.h"

static size_t size(int x) { return static_cast<size_t>(x); }

/* A width of every kernel: 8, 16, 32 lanes with 1 to 4 spans, a block, and the wide one (odd or over 8192).
 * Rows: none, one, several blocks of the narrow kernels, a block not full. */
struct Shape {
  int rows, hidden;
};
static const Shape shapes[] = {{0, 64},   {1, 1},    {3, 7},    {5, 8},    {37, 64},  {9, 72},
                               {19, 128}, {5, 136},  {6, 256},  {5, 264},  {4, 512},  {5, 520},
                               {3, 768},  {6, 1000}, {5, 1024}, {6, 1032}, {2, 2056}, {1, 8192},
                               {1, 8200}, {13, 131}, {2, 1001}, {300, 16}};

struct NormCase {
  NormCase(Shape shape, NormKind kind_, uint32_t test_case, float offset = 0)
      : rows(shape.rows),
        hidden(shape.hidden),
        kind(kind_),
        random(test_case),
        x(random.normals(cells(), 2)),
        residual(random.normals(cells())),
        gain(random.normals(size(hidden))),
        bias(random.normals(size(hidden))),
        n(cells()),
        mean(size(rows)),
        rstd(size(rows)) {
    for (size_t i = 0; i < cells(); i++) x[i] = to_bf16(to_float(x[i]) + offset);
  }
  size_t cells() const { return size(rows) * size(hidden); }

  /* Statistics and normalised values of source, in double. */
  template <typename Source>
  void normalise(const Source &source) {
    for (size_t r = 0; r < size(rows); r++) {
      double total = 0, squares = 0, H = hidden;
      for (size_t i = 0; i < size(hidden); i++) total += number(source[r * size(hidden) + i]);
      mean[r] = kind == NORM_LAYER ? total / H : 0;
      for (size_t i = 0; i < size(hidden); i++) {
        double d = number(source[r * size(hidden) + i]) - mean[r];
        squares += d * d;
      }
      rstd[r] = 1 / sqrt(squares / H + number(epsilon));
      for (size_t i = 0; i < size(hidden); i++)
        n[r * size(hidden) + i] = (number(source[r * size(hidden) + i]) - mean[r]) * rstd[r];
    }
  }

  int rows, hidden;
  NormKind kind;
  float epsilon = 1e-3f;
  TestRandom random;
  DeviceArray<bf16> x, residual, gain, bias;
  std::vector<double> n, mean, rstd;
};

/* Wide rows are slow on the emulator. */
static int runs_of(const NormCase &c) { return c.hidden < 700 ? schedules : c.hidden < 2000 ? tries(3) : 1; }

static void check_forward(NormCase &c, bool residual, bool bias, bool statistics) {
  std::vector<bf16> sum_want(c.cells());
  for (size_t i = 0; i < c.cells(); i++)
    sum_want[i] = residual ? to_bf16(to_float(c.x[i]) + to_float(c.residual[i])) : c.x[i];
  c.normalise(sum_want);
  std::vector<double> want(c.cells());
  for (size_t i = 0; i < c.cells(); i++) {
    size_t column = i % size(c.hidden);
    want[i] = c.n[i] * number(c.gain[column]) + (bias ? number(c.bias[column]) : 0);
  }
  DeviceArray<bf16> sum(c.cells()), y(c.cells());
  DeviceArray<float> mean(size(c.rows)), rstd(size(c.rows));
  std::vector<bf16> first;
  for (int run = 0; run < runs_of(c); run++) {
    emulator_schedule(schedule_number(run));
    sum.poison(), y.poison(), mean.poison(), rstd.poison();
    Norm op = {c.kind,
               c.x.get(),
               residual ? c.residual.get() : nullptr,
               residual ? sum.get() : nullptr,
               y.get(),
               statistics && c.kind == NORM_LAYER ? mean.get() : nullptr,
               statistics ? rstd.get() : nullptr,
               c.gain.get(),
               bias ? c.bias.get() : nullptr,
               c.rows,
               c.hidden,
               c.epsilon};
    cuda_norm(emulator_backend(), &op);
    if (residual) expect_same_bits("sum", sum.get(), sum_want);
    expect_close("y", y.get(), want, 4e-3, 2e-5);
    if (op.mean) expect_close("mean", mean.get(), c.mean, 1e-5, 1e-6);
    if (op.rstd) expect_close("rstd", rstd.get(), c.rstd, 1e-5, 0);
    if (run == 0) first.assign(y.get(), y.get() + c.cells());
    expect_same_bits("y", y.get(), first);
  }
}

static void every_shape_forward(NormKind kind, uint32_t test_case) {
  int i = 0;
  for (const Shape &shape : shapes) {
    NormCase c(shape, kind, test_case + static_cast<uint32_t>(i));
    check_forward(c, i % 2 == 0, kind == NORM_LAYER && i % 3 != 0, i % 5 != 0);
    i++;
  }
}

static void layer_norm_of_every_width(void **) { every_shape_forward(NORM_LAYER, 0); }
static void rms_norm_of_every_width(void **) { every_shape_forward(NORM_RMS, 100); }

/* Far from zero the variance must come from deviations: 1000^2 has no digits left for a variance of 4. */
static void variance_survives_a_large_mean(void **) {
  for (int hidden : {64, 768, 1032, 77}) {
    NormCase c({3, hidden}, NORM_LAYER, 200 + static_cast<uint32_t>(hidden), 1000);
    for (size_t i = 0; i < c.cells(); i++)
      c.x[i] = to_bf16(1000 + 4.0f * static_cast<float>(c.random.below(3)));
    check_forward(c, false, true, true);
  }
}

static void sum_may_alias_x_or_be_a_copy(void **) {
  for (int hidden : {40, 33, 1032}) {
    NormCase c({5, hidden}, NORM_RMS, 210 + static_cast<uint32_t>(hidden));
    DeviceArray<bf16> copy(c.cells()), y(c.cells()), y_alias(c.cells());
    Norm op = {};
    op.kind = NORM_RMS, op.x = c.x.get(), op.sum = copy.get(), op.y = y.get(), op.gain = c.gain.get();
    op.rows = 5, op.hidden = hidden, op.epsilon = c.epsilon;
    cuda_norm(emulator_backend(), &op);
    assert_memory_equal(copy.get(), c.x.get(), c.cells() * sizeof(bf16));
    op.residual = c.residual.get();
    cuda_norm(emulator_backend(), &op);
    op.sum = c.x.get(), op.y = y_alias.get();
    cuda_norm(emulator_backend(), &op);
    assert_memory_equal(copy.get(), c.x.get(), c.cells() * sizeof(bf16));
    assert_memory_equal(y.get(), y_alias.get(), c.cells() * sizeof(bf16));
  }
}

enum { WITH_RESIDUAL = 1, WITH_DX = 2, WITH_DGAIN = 4, WITH_DBIAS = 8, ALIAS = 16 };

static void check_backward(NormCase &c, int flags, int runs) {
  c.normalise(c.x);
  size_t H = size(c.hidden);
  DeviceArray<bf16> dy(c.random.normals(c.cells()));
  std::vector<bf16> gain_start = c.random.normals(H), bias_start = c.random.normals(H);
  DeviceArray<float> mean(size(c.rows)), rstd(size(c.rows));
  std::vector<double> dx_want(c.cells()), dgain_want(H), dbias_want(H);
  for (size_t i = 0; i < H; i++) dgain_want[i] = number(gain_start[i]), dbias_want[i] = number(bias_start[i]);
  for (size_t r = 0; r < size(c.rows); r++) {
    mean[r] = static_cast<float>(c.mean[r]), rstd[r] = static_cast<float>(c.rstd[r]);
    double first = 0, second = 0;
    for (size_t i = 0; i < H; i++) {
      double d = number(dy[r * H + i]), dn = d * number(c.gain[i]), n = c.n[r * H + i];
      first += dn / c.hidden, second += dn * n / c.hidden;
      dgain_want[i] += d * n, dbias_want[i] += d;
    }
    if (c.kind == NORM_RMS) first = 0;
    for (size_t i = 0; i < H; i++) {
      size_t at = r * H + i;
      dx_want[at] = c.rstd[r] * (number(dy[at]) * number(c.gain[i]) - first - c.n[at] * second);
      if (flags & WITH_RESIDUAL) dx_want[at] += number(c.residual[at]);
    }
  }
  std::vector<bf16> first_dx, first_gain;
  for (int run = 0; run < runs; run++) {
    emulator_schedule(schedule_number(run));
    DeviceArray<bf16> dx(c.cells()), dgain(gain_start), dbias(bias_start);
    if (flags & ALIAS)
      for (size_t i = 0; i < c.cells(); i++) dx[i] = c.residual[i];
    NormBackward op = {c.kind,
                       c.x.get(),
                       dy.get(),
                       !(flags & WITH_RESIDUAL) ? nullptr
                       : flags & ALIAS          ? dx.get()
                                                : c.residual.get(),
                       c.kind == NORM_LAYER ? mean.get() : nullptr,
                       rstd.get(),
                       c.gain.get(),
                       flags & WITH_DX ? dx.get() : nullptr,
                       flags & WITH_DGAIN ? dgain.get() : nullptr,
                       flags & WITH_DBIAS ? dbias.get() : nullptr,
                       c.rows,
                       c.hidden};
    cuda_norm_backward(emulator_backend(), &op);
    if (op.dx) expect_close("dx", dx.get(), dx_want, 4e-3, 2e-5);
    if (op.dgain) expect_close("dgain", dgain.get(), dgain_want, 4e-3, 2e-4);
    if (op.dbias) expect_close("dbias", dbias.get(), dbias_want, 4e-3, 2e-4);
    if (!op.dgain) expect_same_bits("dgain", dgain.get(), gain_start);
    if (!op.dbias) expect_same_bits("dbias", dbias.get(), bias_start);
    if (run == 0) {
      first_dx.assign(dx.get(), dx.get() + c.cells());
      first_gain.assign(dgain.get(), dgain.get() + H);
    }
    expect_same_bits("dx", dx.get(), first_dx);
    expect_same_bits("dgain", dgain.get(), first_gain);
  }
}

static void every_shape_backward(NormKind kind, uint32_t test_case) {
  int i = 0;
  for (const Shape &shape : shapes) {
    NormCase c(shape, kind, test_case + static_cast<uint32_t>(i));
    int biased = kind == NORM_LAYER ? WITH_DBIAS : 0;
    check_backward(c, WITH_DX | WITH_DGAIN | biased | (i++ % 2 ? WITH_RESIDUAL : 0), runs_of(c));
  }
}

static void layer_norm_backward_of_every_width(void **) { every_shape_backward(NORM_LAYER, 300); }
static void rms_norm_backward_of_every_width(void **) { every_shape_backward(NORM_RMS, 400); }

static void dresidual_may_alias_dx(void **) {
  for (int hidden : {24, 25, 1032}) {
    NormCase c({5, hidden}, NORM_LAYER, 500 + static_cast<uint32_t>(hidden));
    check_backward(c, WITH_RESIDUAL | WITH_DX | WITH_DGAIN | ALIAS, schedules);
  }
}

static void outputs_of_the_backward_pass_may_be_left_out(void **) {
  for (int hidden : {24, 25, 1032})
    for (int flags = 0; flags < 16; flags++) {
      NormCase c({3, hidden}, NORM_LAYER, 600 + static_cast<uint32_t>(hidden));
      check_backward(c, flags, 1);
    }
}

/* More rows than 528 slices of 4 hold: longer slices, the last one short. */
static void parameter_gradients_sum_all_slices(void **) {
  NormCase c({2203, 1}, NORM_RMS, 700);
  check_backward(c, WITH_DGAIN | WITH_DBIAS, tries(2));
}

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(layer_norm_of_every_width),
      cmocka_unit_test(rms_norm_of_every_width),
      cmocka_unit_test(variance_survives_a_large_mean),
      cmocka_unit_test(sum_may_alias_x_or_be_a_copy),
      cmocka_unit_test(layer_norm_backward_of_every_width),
      cmocka_unit_test(rms_norm_backward_of_every_width),
      cmocka_unit_test(dresidual_may_alias_dx),
      cmocka_unit_test(outputs_of_the_backward_pass_may_be_left_out),
      cmocka_unit_test(parameter_gradients_sum_all_slices),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}

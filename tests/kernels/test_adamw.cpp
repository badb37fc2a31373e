/* cuda/adamw.cu and cuda/grad_norm.cu on the emulator against the CPU backend. */
#include <float.h>

#include "kernel_test.h"

extern "C" {
#include "cpu/cpu.h"
}

static Backend *cpu() {
  static Backend *backend;
  if (!backend && cpu_backend_open(0, &backend)) fail_msg("no CPU backend");
  return backend;
}

static std::vector<float> widened(const std::vector<bf16> &x) {
  std::vector<float> out;
  for (bf16 element : x) out.push_back(to_float(element));
  return out;
}

/* The array from skew on; nothing of the rest may change. */
template <typename T>
static std::vector<T> skewed(const std::vector<T> &x, size_t skew) {
  std::vector<T> out(skew);
  out.insert(out.end(), x.begin(), x.end());
  return out;
}

struct Parameters {
  std::vector<float> master, m, v;
  std::vector<bf16> grad;
};

static Parameters random_parameters(TestRandom &random, size_t count) {
  Parameters p = {random.normals_f32(count), random.normals_f32(count, 0.1f), random.normals_f32(count, 0.1f),
                  random.normals(count)};
  for (float &x : p.v) x = fabsf(x);
  return p;
}

/* The settings; the arrays come later. */
static AdamW settings(size_t count, size_t decay_count, int step) {
  AdamW op = {};
  op.count = count, op.decay_count = decay_count, op.step = step;
  op.lr = 1e-2f, op.beta1 = 0.9f, op.beta2 = 0.995f, op.epsilon = 1e-4f, op.weight_decay = 0.3f;
  return op;
}

static Parameters after_on_cpu(Parameters p, AdamW op, const float *norm) {
  std::vector<float> grad = widened(p.grad), copy(p.master.size());
  op.master = p.master.data(), op.m = p.m.data(), op.v = p.v.data();
  op.grad = grad.data(), op.copy = copy.data(), op.norm = norm;
  cpu_adamw(cpu(), &op);
  return p;
}

static std::vector<double> doubles(const std::vector<float> &x) {
  return std::vector<double>(x.begin(), x.end());
}

/* One update on the device, all arrays skew elements off their allocations. norm: NULL for none. */
static void check(const Parameters &p, AdamW op, const float *norm, size_t skew) {
  Parameters want = after_on_cpu(p, op, norm);
  std::vector<float> first;
  bool changes = !norm || isfinite(*norm);
  FOR_EACH_SCHEDULE {
    DeviceArray<float> master(skewed(p.master, skew)), m(skewed(p.m, skew)), v(skewed(p.v, skew)),
        device_norm(1);
    DeviceArray<bf16> grad(skewed(p.grad, skew)), copy(op.count + skew);
    if (norm) device_norm[0] = *norm;
    op.master = master.get() + skew, op.m = m.get() + skew, op.v = v.get() + skew;
    op.grad = grad.get() + skew, op.copy = copy.get() + skew, op.norm = norm ? device_norm.get() : nullptr;
    cuda_adamw(emulator_backend(), &op);
    expect_close("master", master.get() + skew, doubles(want.master), 1e-6, 1e-5 * number(op.lr));
    expect_close("m", m.get() + skew, doubles(want.m), 1e-6, 1e-7);
    expect_close("v", v.get() + skew, doubles(want.v), 1e-6, 1e-9);
    for (size_t i = 0; i < op.count; i++)
      assert_int_equal(copy[skew + i].bits, changes ? to_bf16(master[skew + i]).bits : 0xffff);
    for (size_t i = 0; i < skew; i++) assert_true(master[i] == 0 && copy[i].bits == 0xffff);
    if (first.empty()) first.assign(master.get() + skew, master.get() + skew + op.count);
    expect_same_bits("master", master.get() + skew, first);
  }
}

static void parameters_are_those_of_the_cpu_backend(void **) {
  const size_t counts[] = {0, 1, 3, 4, 5, 1021, 1024, 1025, 2047, 2048, 2049, 5003};
  TestRandom random(1);
  for (size_t count : counts)
    for (int step : {1, 3, 1000}) {
      size_t decayed = static_cast<size_t>(random.below(static_cast<int>(count) + 1));
      check(random_parameters(random, count), settings(count, decayed, step), nullptr, 0);
    }
}

static void decay_ends_at_any_parameter(void **) {
  TestRandom random(2);
  Parameters p = random_parameters(random, 1037);
  for (size_t decayed : {0u, 1u, 2u, 3u, 4u, 5u, 7u, 1023u, 1024u, 1025u, 1026u, 1035u, 1036u, 1037u})
    check(p, settings(1037, decayed, 2), nullptr, 0);
}

static void arrays_need_not_be_aligned(void **) {
  TestRandom random(3);
  for (size_t skew : {1u, 2u, 3u, 4u, 6u})
    check(random_parameters(random, 1030), settings(1030, 517, 2), nullptr, skew);
}

/* Each array alone off its boundary takes the unaligned way, too. */
static void one_unaligned_array_is_enough(void **) {
  const size_t count = 37;
  TestRandom random(4);
  Parameters p = random_parameters(random, count), want = after_on_cpu(p, settings(count, 5, 1), nullptr);
  emulator_schedule(schedule_number(0));
  for (size_t odd = 0; odd < 5; odd++) {
    size_t at[5] = {};
    at[odd] = 1;
    DeviceArray<float> master(skewed(p.master, at[0])), m(skewed(p.m, at[1])), v(skewed(p.v, at[2]));
    DeviceArray<bf16> grad(skewed(p.grad, at[3])), copy(count + at[4]);
    AdamW op = settings(count, 5, 1);
    op.master = master.get() + at[0], op.m = m.get() + at[1], op.v = v.get() + at[2];
    op.grad = grad.get() + at[3], op.copy = copy.get() + at[4];
    cuda_adamw(emulator_backend(), &op);
    expect_close("master", master.get() + at[0], doubles(want.master), 1e-6, 1e-7);
  }
}

static void gradients_are_scaled_down_to_the_largest_norm_but_never_up(void **) {
  TestRandom random(5);
  Parameters p = random_parameters(random, 1500);
  AdamW op = settings(1500, 700, 4);
  for (float norm : {18.5f, 0.25f, 2e-5f, 0.0f, 1e30f})
    for (float most : {0.0f, 1.0f, 1e-5f}) {
      op.max_norm = most;
      check(p, op, &norm, 0);
    }
}

static void a_gradient_that_is_not_finite_changes_nothing(void **) {
  TestRandom random(6);
  Parameters p = random_parameters(random, 1027);
  AdamW op = settings(1027, 700, 4);
  for (float norm : {NAN, INFINITY}) {
    for (float most : {0.0f, 1.0f}) {
      op.max_norm = most;
      check(p, op, &norm, 0);
    }
    Parameters same = after_on_cpu(p, op, &norm);
    expect_same_bits("master", same.master.data(), p.master); /* and the reference says so */
  }
}

static float norm_on_cpu(const std::vector<bf16> &grad, const std::vector<float> &others = {}) {
  std::vector<float> wide = widened(grad);
  float norm = -1;
  GradNorm op = {wide.data(), wide.size(), &norm, others.data(), static_cast<int>(others.size())};
  cpu_grad_norm(cpu(), &op);
  return norm;
}

static void check_norm(const std::vector<bf16> &grad, size_t skew, const std::vector<float> &others = {}) {
  float want = norm_on_cpu(grad, others);
  DeviceArray<bf16> device(skewed(grad, skew));
  DeviceArray<float> device_others(others);
  DeviceArray<float> norm(1);
  std::vector<float> first;
  FOR_EACH_SCHEDULE {
    norm.poison();
    GradNorm op = {device.get() + skew, grad.size(), norm.get(), device_others.get(),
                   static_cast<int>(others.size())};
    cuda_grad_norm(emulator_backend(), &op);
    if (isfinite(want))
      expect_close("norm", norm.get(), {number(want)}, 1e-6, 0);
    else
      assert_true(isnan(want) ? isnan(norm[0]) : norm[0] == want);
    if (first.empty()) first.assign(1, norm[0]);
    expect_same_bits("norm", norm.get(), first);
  }
}

static void norm_of_any_number_of_gradients(void **) {
  const size_t counts[] = {0, 1, 7, 8, 9, 2047, 2049, 16383, 16384, 16385, 50021};
  TestRandom random(7);
  for (size_t count : counts) check_norm(random.normals(count), count % 9);
}

/* As many ranks as one, some, and more than the second kernel has threads; with gradients of its own or none. */
static void norm_takes_the_norms_of_other_ranks_in(void **) {
  TestRandom random(9);
  for (size_t count : {0, 1, 16385})
    for (size_t others : {1, 8, 255, 256, 257, 600}) check_norm(random.normals(count), 0, random.normals_f32(others));
  check_norm({}, 0, {3.0f, NAN, 4.0f});
  check_norm({}, 0, {3.0f, 1e30f, 4.0f});
}

/* More blocks than the second kernel has threads; every block's sum is another. */
static void norm_adds_every_block(void **) {
  const size_t block = 16384, blocks = 261;
  std::vector<bf16> grad(block * blocks, bf16{0});
  for (size_t i = 0; i < blocks; i++) grad[i * block + i * 61] = to_bf16(static_cast<float>(1 + i % 200));
  emulator_schedule(schedule_number(4));
  DeviceArray<bf16> device(grad);
  DeviceArray<float> norm(1);
  GradNorm op = {device.get(), grad.size(), norm.get(), nullptr, 0};
  cuda_grad_norm(emulator_backend(), &op);
  expect_close("norm", norm.get(), {number(norm_on_cpu(grad))}, 1e-7, 0);
}

/* Squares that fp32 does not hold, alone and beside others. */
static void norm_does_not_overflow_before_its_value_does(void **) {
  TestRandom random(8);
  for (float scale : {1e30f, 1e19f, 1e18f, 1e-20f, 1e-25f, 1e-30f, 0.0f})
    check_norm(random.normals(3001, scale), 0);
  std::vector<bf16> mixed = random.normals(3001, 1e-30f);
  check_norm(mixed, 0);
  mixed[1234] = to_bf16(1e25f);
  check_norm(mixed, 0);
  check_norm(std::vector<bf16>(100, to_bf16(FLT_MAX / 2)), 0); /* 5 FLT_MAX: infinite in the end */
}

static void norm_of_gradients_that_are_not_finite_is_not(void **) {
  TestRandom random(9);
  for (size_t at : {0u, 2999u, 3000u})
    for (float bad : {NAN, INFINITY, -INFINITY}) {
      std::vector<bf16> grad = random.normals(3001);
      grad[at] = to_bf16(bad);
      check_norm(grad, 0);
    }
}

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(parameters_are_those_of_the_cpu_backend),
      cmocka_unit_test(decay_ends_at_any_parameter),
      cmocka_unit_test(arrays_need_not_be_aligned),
      cmocka_unit_test(one_unaligned_array_is_enough),
      cmocka_unit_test(gradients_are_scaled_down_to_the_largest_norm_but_never_up),
      cmocka_unit_test(a_gradient_that_is_not_finite_changes_nothing),
      cmocka_unit_test(norm_of_any_number_of_gradients),
      cmocka_unit_test(norm_takes_the_norms_of_other_ranks_in),
      cmocka_unit_test(norm_adds_every_block),
      cmocka_unit_test(norm_does_not_overflow_before_its_value_does),
      cmocka_unit_test(norm_of_gradients_that_are_not_finite_is_not),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}

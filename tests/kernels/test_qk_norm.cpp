/* cuda/qk_norm.cu on the emulator against double precision. */
#include "kernel_test.h"

struct Shape {
  int rows, heads, kv_heads, dim;
};

static const Shape shapes[] = {{0, 2, 1, 16},  {1, 1, 1, 8},   {1, 1, 1, 1},    {3, 4, 2, 64},
                               {5, 3, 3, 128}, {2, 2, 1, 256}, {37, 5, 1, 24},  {3, 2, 2, 13},
                               {4, 7, 1, 72},  {2, 3, 1, 131}, {131, 2, 1, 16}, {32800, 1, 1, 2}};
static const float epsilon = 1e-3f; /* large, so that leaving it out shows */

static size_t size(int n) { return static_cast<size_t>(n); }

/* What both directions need of one case. */
struct Case {
  Shape s;
  size_t dim, normed, width, count; /* of qkv rows and of all qkv */
  std::vector<bf16> qkv;
  DeviceArray<bf16> q_gain, k_gain;
  std::vector<double> rstd; /* of each head vector, exact */

  Case(const Shape &shape, TestRandom &random)
      : s(shape),
        dim(size(s.dim)),
        normed(size(s.heads + s.kv_heads)),
        width((normed + size(s.kv_heads)) * dim),
        count(size(s.rows) * width),
        qkv(random.normals(count, 0.5f)),
        q_gain(random.normals(dim)),
        k_gain(random.normals(dim)),
        rstd(size(s.rows) * normed) {
    for (size_t h = 0; h < rstd.size(); h++) {
      double square = 0;
      for (size_t i = 0; i < dim; i++) square += pow(number(qkv[at(h) + i]), 2) / s.dim;
      rstd[h] = 1 / sqrt(square + number(epsilon));
    }
  }
  size_t at(size_t head) const { return head / normed * width + head % normed * dim; }
  double gain(size_t head, size_t i) const {
    return number(head % normed < size(s.heads) ? q_gain[i] : k_gain[i]);
  }
};

static void each_head_has_its_own_norm_and_values_stay(void **) {
  uint32_t test_case = 0;
  for (const Shape &shape : shapes) {
    TestRandom random(test_case++);
    Case c(shape, random);
    std::vector<double> want(c.count);
    for (size_t i = 0; i < c.count; i++) want[i] = number(c.qkv[i]);
    for (size_t h = 0; h < c.rstd.size(); h++)
      for (size_t i = 0; i < c.dim; i++) want[c.at(h) + i] *= c.rstd[h] * c.gain(h, i);
    std::vector<bf16> first;
    FOR_EACH_SCHEDULE {
      DeviceArray<bf16> qkv(c.qkv), kept(c.rstd.size() * c.dim);
      DeviceArray<float> rstd(c.rstd.size());
      QkNorm op = {qkv.get(),  kept.get(),  rstd.get(),     c.q_gain.get(), c.k_gain.get(),
                   shape.rows, shape.heads, shape.kv_heads, shape.dim,      epsilon};
      cuda_qk_norm(emulator_backend(), &op);
      expect_close("y", qkv.get(), want, 5e-3, 1e-6);
      expect_close("rstd", rstd.get(), c.rstd, 1e-5, 0);
      for (size_t h = 0; h < c.rstd.size(); h++)
        assert_memory_equal(kept.get() + h * c.dim, &c.qkv[c.at(h)], c.dim * sizeof(bf16));
      std::vector<bf16> now(qkv.get(), qkv.get() + c.count);
      if (first.empty()) first = now;
      expect_same_bits("y", qkv.get(), first);
      DeviceArray<bf16> twin(c.qkv); /* nothing is kept where no backward pass follows */
      op.qkv = twin.get();
      op.kept = nullptr;
      op.rstd = nullptr;
      cuda_qk_norm(emulator_backend(), &op);
      expect_same_bits("y without backward", twin.get(), first);
    }
  }
}

/* The gradients by the formula in double, from the same bf16 inputs. */
struct Gradient {
  std::vector<double> dqkv, dq, dk, size_q,
      size_k; /* size: sums of magnitudes, what rounding is relative to */
};

static Gradient gradient_of(const Case &c, const std::vector<bf16> &dy) {
  Gradient g = {std::vector<double>(c.count), std::vector<double>(c.dim), std::vector<double>(c.dim),
                std::vector<double>(c.dim), std::vector<double>(c.dim)};
  for (size_t i = 0; i < c.count; i++) g.dqkv[i] = number(dy[i]);
  for (size_t h = 0; h < c.rstd.size(); h++) {
    double mean = 0;
    for (size_t i = 0; i < c.dim; i++)
      mean += number(dy[c.at(h) + i]) * c.gain(h, i) * number(c.qkv[c.at(h) + i]) * c.rstd[h] / c.s.dim;
    for (size_t i = 0; i < c.dim; i++) {
      double n = number(c.qkv[c.at(h) + i]) * c.rstd[h], d = number(dy[c.at(h) + i]);
      bool query = h % c.normed < size(c.s.heads);
      (query ? g.dq : g.dk)[i] += d * n;
      (query ? g.size_q : g.size_k)[i] += fabs(d * n);
      g.dqkv[c.at(h) + i] = c.rstd[h] * (d * c.gain(h, i) - n * mean);
    }
  }
  return g;
}

static void expect_gain(const char *what, const DeviceArray<bf16> &got, const std::vector<double> &sum,
                        const std::vector<double> &size_of, double before) {
  for (size_t i = 0; i < sum.size(); i++) {
    double want = before + sum[i], error = fabs(number(got[i]) - want);
    if (!(error <= 5e-3 * fabs(want) + 1e-4 * size_of[i] + 1e-6))
      fail_msg("%s[%zu] is %.7g, should be %.7g", what, i, number(got[i]), want);
  }
}

static void backward_is_the_gradient_and_gains_are_added_to(void **) {
  uint32_t test_case = 50;
  for (const Shape &shape : shapes) {
    TestRandom random(test_case++);
    Case c(shape, random);
    std::vector<bf16> dy = random.normals(c.count), first, kept_values(c.rstd.size() * c.dim);
    Gradient want = gradient_of(c, dy);
    std::vector<float> rstd_values(c.rstd.begin(), c.rstd.end());
    for (size_t h = 0; h < c.rstd.size(); h++)
      for (size_t i = 0; i < c.dim; i++) kept_values[h * c.dim + i] = c.qkv[c.at(h) + i];
    DeviceArray<bf16> kept(kept_values);
    DeviceArray<float> rstd(rstd_values);
    FOR_EACH_SCHEDULE {
      DeviceArray<bf16> dqkv(dy), dq(std::vector<bf16>(c.dim, to_bf16(2.0f))),
          dk(std::vector<bf16>(c.dim, to_bf16(-3.0f)));
      QkNormBackward op = {dqkv.get(), kept.get(), rstd.get(),  c.q_gain.get(), c.k_gain.get(), dq.get(),
                           dk.get(),   shape.rows, shape.heads, shape.kv_heads, shape.dim};
      cuda_qk_norm_backward(emulator_backend(), &op);
      expect_close("dqkv", dqkv.get(), want.dqkv, 5e-3, 2e-5);
      expect_gain("dq_gain", dq, want.dq, want.size_q, 2);
      expect_gain("dk_gain", dk, want.dk, want.size_k, -3);
      std::vector<bf16> now(dqkv.get(), dqkv.get() + c.count);
      now.insert(now.end(), dq.get(), dq.get() + c.dim);
      now.insert(now.end(), dk.get(), dk.get() + c.dim);
      if (first.empty()) first = now;
      expect_same_bits("gradients", now.data(), first);
      DeviceArray<bf16> frozen(dy);
      op.dqkv = frozen.get();
      op.dq_gain = op.dk_gain = nullptr;
      cuda_qk_norm_backward(emulator_backend(), &op);
      expect_same_bits("dqkv with frozen gains", frozen.get(),
                       std::vector<bf16>(now.begin(), now.begin() + static_cast<long>(c.count)));
    }
  }
}

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(each_head_has_its_own_norm_and_values_stay),
      cmocka_unit_test(backward_is_the_gradient_and_gains_are_added_to),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}

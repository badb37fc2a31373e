/* cuda/ppo_advantage.cu on the emulator against double precision and the CPU backend. */
#include <algorithm>

#include "reference.h"

static size_t size(int x) { return static_cast<size_t>(x); }

struct Settings {
  KlKind kl_kind;
  float kl_coef, gamma, lambda;
  bool whiten;
};

static const Settings usual = {KL_K1, 0.1f, 1.0f, 0.95f, false};

static Settings whitened(Settings s) {
  s.whiten = true;
  return s;
}

struct Replies {
  Replies(const std::vector<int> &lengths_, const Settings &settings_, uint32_t test_case,
          float distance = 0.5f)
      : lengths(lengths_),
        settings(settings_),
        random(test_case),
        starts(starts_of(lengths_)),
        cu_seqlens(starts),
        logprob(random.normals_f32(tokens(), 2)),
        ref_logprob(near(logprob, distance)),
        value(random.normals_f32(tokens())),
        score(random.normals_f32(lengths_.size(), 3)) {}

  static std::vector<int> starts_of(const std::vector<int> &lengths) {
    std::vector<int> starts(1, 0);
    for (int length : lengths) starts.push_back(starts.back() + length);
    return starts;
  }
  std::vector<float> near(const DeviceArray<float> &x, float distance) {
    std::vector<float> out(x.count());
    for (size_t i = 0; i < out.size(); i++) out[i] = x[i] + distance * random.normal();
    return out;
  }
  size_t tokens() const { return size(starts.back()); }

  PpoAdvantage op() const {
    PpoAdvantage op = {};
    op.replies = {cu_seqlens.get(), static_cast<int>(lengths.size()),
                  starts.back(),    lengths.empty() ? 0 : *std::max_element(lengths.begin(), lengths.end()),
                  nullptr,          nullptr};
    op.logprob = logprob.get(), op.ref_logprob = ref_logprob.get(), op.value = value.get();
    op.score = score.get();
    op.kl_kind = settings.kl_kind, op.kl_coef = settings.kl_coef;
    op.gamma = settings.gamma, op.lambda = settings.lambda, op.whiten = settings.whiten;
    return op;
  }

  std::vector<int> lengths;
  Settings settings;
  TestRandom random;
  std::vector<int> starts;
  DeviceArray<int32_t> cu_seqlens;
  DeviceArray<float> logprob, ref_logprob, value, score;
};

struct Expected {
  explicit Expected(const Replies &r) : advantage(r.tokens()), returns(r.tokens()), stats(ADVANTAGE_STATS) {
    double kl_sum = 0, tokens = static_cast<double>(r.tokens());
    for (size_t i = 0; i < r.lengths.size(); i++) kl_sum += walk(r, i);
    for (size_t t = 0; t < r.tokens(); t++) {
      stats[ADVANTAGE_MEAN] += advantage[t] / tokens;
      stats[ADVANTAGE_RETURN] += returns[t] / tokens;
    }
    for (double a : advantage)
      if (tokens > 1) stats[ADVANTAGE_VARIANCE] += pow(a - stats[ADVANTAGE_MEAN], 2) / (tokens - 1);
    if (!r.lengths.empty()) stats[ADVANTAGE_KL] = kl_sum / static_cast<double>(r.lengths.size());
    if (r.settings.whiten)
      for (double &a : advantage) a = (a - stats[ADVANTAGE_MEAN]) / sqrt(stats[ADVANTAGE_VARIANCE] + 1e-8);
  }

  static double kl_of(KlKind kind, double x) {
    if (kind == KL_K1) return x;
    return kind == KL_K2 ? x * x / 2 : expm1(-fmax(x, -40)) + fmax(x, -40);
  }

  double walk(const Replies &r, size_t i) {
    double kl_sum = 0, next = 0, next_value = 0, gamma = number(r.settings.gamma);
    for (size_t t = size(r.starts[i + 1]); t-- > size(r.starts[i]);) {
      double v = number(r.value[t]);
      double kl = kl_of(r.settings.kl_kind, number(r.logprob[t]) - number(r.ref_logprob[t]));
      double reward = -number(r.settings.kl_coef) * kl;
      if (t + 1 == size(r.starts[i + 1])) reward += number(r.score[i]);
      advantage[t] = reward + gamma * next_value - v + gamma * number(r.settings.lambda) * next;
      returns[t] = advantage[t] + v;
      next = advantage[t], next_value = v;
      kl_sum += kl;
    }
    return kl_sum;
  }
  std::vector<double> advantage, returns, stats;
};

struct Result {
  explicit Result(const Replies &r) : advantage(r.tokens()), returns(r.tokens()), stats(ADVANTAGE_STATS) {}
  /* max_len: -1 for the true one; it decides how many warps share a reply */
  void run(const Replies &r, int max_len = -1) {
    advantage.poison(), returns.poison(), stats.poison();
    PpoAdvantage op = r.op();
    if (max_len >= 0) op.replies.max_len = max_len;
    op.advantage = advantage.get(), op.returns = returns.get(), op.stats = stats.get();
    cuda_ppo_advantage(emulator_backend(), &op);
  }
  DeviceArray<float> advantage, returns, stats;
};

static void check(const std::vector<int> &lengths, const Settings &settings, uint32_t test_case, int runs,
                  float distance = 0.5f) {
  Replies r(lengths, settings, test_case, distance);
  Expected want(r);
  Result got(r);
  double spread = 1; /* of A, which grows with 1 / (1 - gamma lambda) */
  for (double x : want.returns) spread = fmax(spread, fabs(x));
  std::vector<float> first;
  for (int i = 0; i < runs; i++) {
    emulator_schedule(schedule_number(i));
    got.run(r);
    expect_close("advantage", got.advantage.get(), want.advantage, 1e-5, 3e-6 * spread);
    expect_close("returns", got.returns.get(), want.returns, 1e-5, 3e-6 * spread);
    expect_close("stats", got.stats.get(), want.stats, 2e-5, 3e-6 * spread);
    std::vector<float> all(got.advantage.get(), got.advantage.get() + r.tokens());
    all.insert(all.end(), got.returns.get(), got.returns.get() + r.tokens());
    all.insert(all.end(), got.stats.get(), got.stats.get() + ADVANTAGE_STATS);
    if (first.empty()) first = all;
    expect_same_bits("result", all.data(), first);
  }
}

static void replies_of_any_length(void **) {
  const int lengths[] = {1, 2, 31, 32, 33, 63, 64, 65, 95, 96, 97, 127, 128, 129, 255, 256, 257, 1000, 1024};
  uint32_t test_case = 0;
  for (int n : lengths) check({n}, n % 2 ? usual : whitened(usual), test_case++, 3);
}

/* More than 1024 tokens: a block takes 2048 a step. */
static void long_replies(void **) {
  const int lengths[] = {1025, 1920, 1921, 2047, 2048, 2049, 2177, 5000};
  uint32_t test_case = 100;
  for (int n : lengths) check({n}, n % 2 ? usual : whitened(usual), test_case++, tries(2));
  check({5000, 0, 1, 2048, 33, 4097, 2049, 6, 129}, whitened(usual), 150, schedules);
}

/* More replies than the warps of a grid, 48 in the emulator; empty ones at both ends and between. */
static void ragged_batches_with_empty_replies(void **) {
  std::vector<int> lengths = {0, 1, 0, 0, 32, 33};
  TestRandom random(200);
  for (int i = 0; i < 160; i++) lengths.push_back(random.below(10) ? random.below(70) : 0);
  lengths.push_back(300), lengths.push_back(0);
  check(lengths, whitened(usual), 201, schedules);
  check(lengths, usual, 202, schedules);
  lengths.push_back(1100);
  check(lengths, whitened(usual), 203, 3);
}

static void every_kl_estimator_and_discount(void **) {
  const std::vector<int> lengths = {7, 200, 0, 40, 1, 64};
  uint32_t test_case = 300;
  for (KlKind kind : {KL_K1, KL_K2, KL_K3})
    for (float gamma : {1.0f, 0.99f, 0.5f, 0.0f})
      for (float lambda : {1.0f, 0.9f, 0.0f})
        check(lengths, {kind, 0.3f, gamma, lambda, lambda > 0.5f}, test_case++, tries(2));
}

/* Near 0 the terms of k3 cancel; far below its exponential is held at exp(40). */
static void k3_is_accurate_near_zero_and_finite_far_off(void **) {
  for (float distance : {1e-5f, 1e-3f, 0.1f, 3.0f, 15.0f}) {
    Replies r({64, 200, 5}, {KL_K3, 1, 0, 0, false}, 340, distance);
    DeviceArray<float> zero(std::vector<float>(r.tokens(), 0.0f)), none(std::vector<float>(3, 0.0f));
    memcpy(r.value.get(), zero.get(), r.tokens() * sizeof(float));
    memcpy(r.score.get(), none.get(), 3 * sizeof(float));
    r.ref_logprob[3] = r.logprob[3]; /* exactly 0 */
    if (distance > 1) r.ref_logprob[0] = r.logprob[0] + 100;
    Expected want(r); /* A_t = -kl_t */
    Result got(r);
    FOR_EACH_SCHEDULE {
      got.run(r);
      expect_close("-k3", got.advantage.get(), want.advantage, 5e-6, 0);
      assert_true(got.advantage[3] == 0);
      if (distance > 1) assert_true(got.advantage[0] < -2e17f && got.advantage[0] > -3e17f);
    }
  }
}

/* Before whitening, a reply's numbers have the same bits alone, in a batch, and whether a warp or a block
 * takes it. */
static void a_reply_does_not_depend_on_the_batch_around_it(void **) {
  Settings settings = {KL_K3, 0.2f, 0.99f, 0.95f, false};
  Replies batch({33, 0, 1000, 1, 128, 31, 129, 32, 1030, 127, 300}, settings, 400);
  Result whole(batch), by_warps(batch);
  emulator_schedule(schedule_number(4));
  whole.run(batch);
  by_warps.run(batch, 1);
  assert_memory_equal(by_warps.advantage.get(), whole.advantage.get(), batch.tokens() * sizeof(float));
  assert_memory_equal(by_warps.returns.get(), whole.returns.get(), batch.tokens() * sizeof(float));
  for (size_t i = 0; i < batch.lengths.size(); i++) {
    Replies alone({batch.lengths[i]}, settings, 401);
    size_t from = size(batch.starts[i]), bytes = alone.tokens() * sizeof(float);
    if (!bytes) continue;
    memcpy(alone.logprob.get(), &batch.logprob[from], bytes);
    memcpy(alone.ref_logprob.get(), &batch.ref_logprob[from], bytes);
    memcpy(alone.value.get(), &batch.value[from], bytes);
    alone.score[0] = batch.score[i];
    Result got(alone);
    got.run(alone);
    assert_memory_equal(got.advantage.get(), &whole.advantage[from], bytes);
    assert_memory_equal(got.returns.get(), &whole.returns[from], bytes);
  }
}

/* Far from 0 the difference of squares would lose everything. */
static void variance_survives_a_large_mean(void **) {
  Replies r({50, 3, 200, 31}, {KL_K1, 0, 0, 0, true}, 500);
  for (size_t t = 0; t < r.tokens(); t++) r.value[t] += 3000;
  for (size_t i = 0; i < 4; i++) r.score[i] = 0;
  Expected want(r);
  Result got(r);
  FOR_EACH_SCHEDULE {
    got.run(r);
    expect_close("stats", got.stats.get(), want.stats, 1e-4, 1e-5);
    expect_close("advantage", got.advantage.get(), want.advantage, 1e-3, 2e-3); /* A has an ulp of 2e-4 */
  }
}

static void whitening_of_one_token_and_of_equal_ones(void **) {
  check({1}, whitened(usual), 510, schedules);
  Replies r({3, 40}, {KL_K1, 0, 0, 0, true}, 511);
  for (size_t t = 0; t < r.tokens(); t++) r.value[t] = -0.5f;
  r.score[0] = r.score[1] = 0;
  Result got(r);
  FOR_EACH_SCHEDULE {
    got.run(r); /* A = 1/2 everywhere: variance 0 */
    for (size_t t = 0; t < r.tokens(); t++) assert_true(got.advantage[t] == 0);
    assert_true(got.stats[ADVANTAGE_MEAN] == 0.5f && got.stats[ADVANTAGE_VARIANCE] == 0);
  }
}

static void no_tokens_have_statistics_of_zero(void **) {
  check({}, whitened(usual), 520, schedules);
  check({0}, whitened(usual), 521, schedules);
  check({0, 0, 0, 0, 0}, usual, 522, schedules);
}

static void statistics_may_be_left_out(void **) {
  Replies r({5, 64}, whitened(usual), 530);
  Expected want(r);
  Result got(r);
  PpoAdvantage op = r.op();
  op.advantage = got.advantage.get(), op.returns = got.returns.get();
  cuda_ppo_advantage(emulator_backend(), &op);
  expect_close("advantage", got.advantage.get(), want.advantage, 1e-5, 1e-5);
}

static void agrees_with_the_cpu(void **) {
  for (bool whiten : {false, true}) {
    Replies r({40, 0, 7, 150, 32, 1, 1500}, {KL_K3, 0.2f, 0.99f, 0.97f, whiten}, 540);
    Result got(r);
    got.run(r);
    std::vector<float> advantage(r.tokens()), returns(r.tokens()), stats(ADVANTAGE_STATS);
    PpoAdvantage twin = r.op();
    twin.advantage = advantage.data(), twin.returns = returns.data(), twin.stats = stats.data();
    cpu_ppo_advantage(reference_backend(), &twin);
    auto doubles = [](const std::vector<float> &x) { return std::vector<double>(x.begin(), x.end()); };
    expect_close("advantage", got.advantage.get(), doubles(advantage), 2e-5, 1e-4);
    expect_close("returns", got.returns.get(), doubles(returns), 2e-5, 1e-4);
    expect_close("stats", got.stats.get(), doubles(stats), 2e-5, 1e-5);
  }
}

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(replies_of_any_length),
      cmocka_unit_test(long_replies),
      cmocka_unit_test(ragged_batches_with_empty_replies),
      cmocka_unit_test(every_kl_estimator_and_discount),
      cmocka_unit_test(k3_is_accurate_near_zero_and_finite_far_off),
      cmocka_unit_test(a_reply_does_not_depend_on_the_batch_around_it),
      cmocka_unit_test(variance_survives_a_large_mean),
      cmocka_unit_test(whitening_of_one_token_and_of_equal_ones),
      cmocka_unit_test(no_tokens_have_statistics_of_zero),
      cmocka_unit_test(statistics_may_be_left_out),
      cmocka_unit_test(agrees_with_the_cpu),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}

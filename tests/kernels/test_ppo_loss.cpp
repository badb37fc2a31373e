/* cuda/ppo_loss.cu on the emulator against double precision and the CPU backend. */
#include "reference.h"

static size_t size(int x) { return static_cast<size_t>(x); }

struct Settings {
  float clip_low, clip_high, dual_clip, value_clip, value_coef, scale;
};

static const Settings usual = {0.2f, 0.28f, 3.0f, 0.2f, 0.5f, 0.01f};

struct Tokens {
  /* distance: of the two policies' logprobs, and of the two values */
  Tokens(int tokens_, const Settings &settings_, float distance, uint32_t test_case)
      : tokens(tokens_),
        settings(settings_),
        random(test_case),
        old_logprob(random.normals_f32(size(tokens_), 2)),
        logprob(near(old_logprob, distance)),
        advantage(random.normals_f32(size(tokens_))),
        old_value(random.normals_f32(size(tokens_))),
        value(near(old_value, distance)),
        returns(random.normals_f32(size(tokens_))) {
    for (size_t t = 0; t < size(tokens_); t++) leave_ties(t);
  }

  std::vector<float> near(const DeviceArray<float> &x, float distance) {
    std::vector<float> out(x.count());
    for (size_t i = 0; i < out.size(); i++) out[i] = x[i] + distance * random.normal();
    return out;
  }
  /* So near a bound fp32 and double may differ in which branch they take. */
  void leave_ties(size_t t) {
    const Settings &s = settings;
    double ratio = exp(number(logprob[t]) - number(old_logprob[t]));
    for (double bound : {1 - number(s.clip_low), 1 + number(s.clip_high), number(s.dual_clip)})
      if (fabs(ratio - bound) <= 1e-5 * bound) logprob[t] = old_logprob[t];
    double clip = number(s.value_clip), change = number(value[t]) - number(old_value[t]);
    double error = number(value[t]) - number(returns[t]), cut = error - change + copysign(clip, change);
    if (fabs(fabs(change) - clip) < 1e-5 || fabs(fabs(cut) - fabs(error)) < 1e-5) value[t] = old_value[t];
  }
  PpoLoss op() const {
    const Settings &s = settings;
    PpoLoss op = {};
    op.logprob = logprob.get(), op.old_logprob = old_logprob.get(), op.advantage = advantage.get();
    op.value = value.get(), op.old_value = old_value.get(), op.returns = returns.get();
    op.clip_low = s.clip_low, op.clip_high = s.clip_high, op.dual_clip = s.dual_clip;
    op.value_clip = s.value_clip, op.value_coef = s.value_coef, op.scale = s.scale;
    op.tokens = tokens;
    return op;
  }

  int tokens;
  Settings settings;
  TestRandom random;
  DeviceArray<float> old_logprob, logprob, advantage, old_value, value, returns;
};

static double clamped(double x, double low, double high) { return fmin(fmax(x, low), high); }

struct Expected {
  explicit Expected(const Tokens &c) : dlogprob(size(c.tokens)), dvalue(size(c.tokens)), stats(PPO_STATS) {
    for (size_t t = 0; t < size(c.tokens); t++) policy(c, t), value(c, t);
  }

  void policy(const Tokens &c, size_t t) {
    const Settings &s = c.settings;
    double a = number(c.advantage[t]), x = clamped(number(c.logprob[t]) - number(c.old_logprob[t]), -40, 40);
    double ratio = exp(x), low = 1 - number(s.clip_low), high = 1 + number(s.clip_high);
    /* The clipped branch is the larger one where the ratio has left the interval on the side that A wants. */
    bool clipped = a > 0 ? ratio > high : a < 0 && ratio < low;
    double loss = -a * (clipped ? clamped(ratio, low, high) : ratio), slope = clipped ? 0 : -a * ratio;
    if (s.dual_clip > 0 && a < 0 && loss > -a * number(s.dual_clip))
      loss = -a * number(s.dual_clip), slope = 0;
    dlogprob[t] = number(s.scale) * slope;
    stats[PPO_POLICY_LOSS] += loss;
    stats[PPO_CLIPPED] += clipped;
    stats[PPO_APPROX_KL] += expm1(x) - x;
    stats[PPO_RATIO] += ratio;
    size_of_loss += fabs(loss);
  }

  void value(const Tokens &c, size_t t) {
    double v = number(c.value[t]), old = number(c.old_value[t]), returns = number(c.returns[t]);
    double clip = number(c.settings.value_clip), change = v - old;
    double error = v - returns, cut = old + clamped(change, -clip, clip) - returns;
    bool clipped = fabs(change) > clip && cut * cut > error * error;
    dvalue[t] = clipped ? 0 : number(c.settings.scale) * number(c.settings.value_coef) * error;
    stats[PPO_VALUE_LOSS] += pow(clipped ? cut : error, 2) / 2;
    stats[PPO_VALUE_CLIPPED] += clipped;
  }
  std::vector<double> dlogprob, dvalue, stats;
  double size_of_loss = 0; /* the terms of the policy loss have both signs */
};

struct Result {
  explicit Result(const Tokens &c) : dlogprob(size(c.tokens)), dvalue(size(c.tokens)), stats(PPO_STATS) {}
  void run(const Tokens &c) {
    dlogprob.poison(), dvalue.poison(), stats.poison();
    PpoLoss op = c.op();
    op.dlogprob = dlogprob.get(), op.dvalue = dvalue.get(), op.stats = stats.get();
    cuda_ppo_loss(emulator_backend(), &op);
  }
  DeviceArray<float> dlogprob, dvalue, stats;
};

static void expect_stats(const float *got, const std::vector<double> &want, double size_of_loss) {
  std::vector<double> kl(1, want[PPO_APPROX_KL]), ratio(1, want[PPO_RATIO]), value(1, want[PPO_VALUE_LOSS]);
  expect_close("policy loss", got, {want[PPO_POLICY_LOSS]}, 0, 1e-5 * size_of_loss + 1e-6);
  expect_close("value loss", got + PPO_VALUE_LOSS, value, 1e-5, 1e-6);
  assert_true(number(got[PPO_CLIPPED]) == want[PPO_CLIPPED]);
  assert_true(number(got[PPO_VALUE_CLIPPED]) == want[PPO_VALUE_CLIPPED]);
  expect_close("approximate kl", got + PPO_APPROX_KL, kl, 1e-5, 1e-30);
  expect_close("ratio", got + PPO_RATIO, ratio, 1e-5, 0);
}

static void check(int tokens, const Settings &settings, float distance, uint32_t test_case, int runs) {
  Tokens c(tokens, settings, distance, test_case);
  Expected want(c);
  Result got(c);
  std::vector<float> first;
  for (int i = 0; i < runs; i++) {
    emulator_schedule(schedule_number(i));
    got.run(c);
    expect_close("dlogprob", got.dlogprob.get(), want.dlogprob, 1e-5, 0);
    expect_close("dvalue", got.dvalue.get(), want.dvalue, 1e-5, 1e-8);
    expect_stats(got.stats.get(), want.stats, want.size_of_loss);
    if (first.empty()) first.assign(got.stats.get(), got.stats.get() + PPO_STATS);
    expect_same_bits("stats", got.stats.get(), first);
  }
}

/* 256 tokens a block, 512 blocks at most. */
static void any_number_of_tokens(void **) {
  const int tokens[] = {1, 2, 31, 33, 255, 256, 257, 1000, 5003, 131072, 140001};
  uint32_t test_case = 0;
  for (int n : tokens) check(n, usual, 0.4f, test_case++, n > 100000 ? tries(2) : schedules);
}

static void every_clip_alone(void **) {
  const Settings all[] = {{0.2f, 0.2f, 0, 1e6f, 1, 1}, {1, 1e6f, 2, 1e6f, 0.5f, 1},
                          {1, 1e6f, 0, 0.1f, 1, 0.3f}, {0.1f, 0.5f, 0, 0, 0.7f, 1},
                          {0, 0, 0, 0.2f, 0, 1},       {0.1f, 0.3f, 1.5f, 0.3f, 1, 1}};
  uint32_t test_case = 20;
  for (const Settings &settings : all) check(700, settings, 0.7f, test_case++, schedules);
}

/* V_old + (V - V_old) is not V in fp32, but nothing is cut. */
static void small_changes_are_not_clipped(void **) {
  Tokens c(3000, usual, 1e-3f, 30);
  c.settings.value_clip = 20;
  for (size_t t = 0; t < 3000; t++) c.value[t] = 0.01f * c.random.normal(), c.returns[t] *= 1e-3f;
  Result got(c);
  FOR_EACH_SCHEDULE {
    got.run(c);
    assert_true(got.stats[PPO_CLIPPED] == 0 && got.stats[PPO_VALUE_CLIPPED] == 0);
    for (size_t t = 0; t < 3000; t++) assert_true(got.dvalue[t] != 0);
  }
  check(3000, usual, 1e-3f, 31, 3); /* k3 is accurate although its terms cancel */
  check(100, usual, 0, 32, 3);
}

static void far_policies_stay_finite(void **) {
  Tokens c(300, usual, 40, 40);
  c.logprob[0] = c.old_logprob[0] + 500, c.logprob[1] = c.old_logprob[1] - 500;
  c.advantage[0] = -2, c.advantage[1] = 2;
  c.settings.dual_clip = 0;
  Expected want(c);
  Result got(c);
  FOR_EACH_SCHEDULE {
    got.run(c);
    expect_close("dlogprob", got.dlogprob.get(), want.dlogprob, 1e-5, 0);
    expect_stats(got.stats.get(), want.stats, want.size_of_loss);
    for (size_t i = 0; i < PPO_STATS; i++) assert_true(isfinite(got.stats[i]));
  }
}

static void a_nan_reaches_the_statistics(void **) {
  for (int which = 0; which < 3; which++) {
    Tokens c(600, usual, 0.1f, 50);
    (which == 0 ? c.logprob : which == 1 ? c.advantage : c.value)[399] = NAN;
    Result got(c);
    got.run(c);
    assert_true(isnan(got.stats[which < 2 ? PPO_POLICY_LOSS : PPO_VALUE_LOSS]));
  }
}

static void no_tokens_have_statistics_of_zero(void **) {
  Tokens c(0, usual, 0, 60);
  Result got(c);
  FOR_EACH_SCHEDULE {
    got.run(c);
    for (size_t i = 0; i < PPO_STATS; i++) assert_true(got.stats[i] == 0);
  }
}

/* The loss leaves the counter of the grid barrier as the advantage needs it. */
static void the_counter_returns_to_rest(void **) {
  Tokens c(2000, usual, 0.1f, 70);
  Result got(c);
  DeviceArray<int32_t> starts(std::vector<int32_t>{0, 700, 2000});
  DeviceArray<float> score(std::vector<float>{1, 2}), advantage(2000), returns(2000);
  PpoAdvantage op = {};
  op.replies = {starts.get(), 2, 2000, 1300, nullptr, nullptr};
  op.logprob = c.logprob.get(), op.ref_logprob = c.old_logprob.get(), op.value = c.value.get();
  op.score = score.get(), op.gamma = op.lambda = 1, op.whiten = true;
  op.advantage = advantage.get(), op.returns = returns.get();
  for (int i = 0; i < 3; i++) {
    got.run(c);
    float policy = got.stats[PPO_POLICY_LOSS];
    cuda_ppo_advantage(emulator_backend(), &op);
    got.run(c);
    assert_true(got.stats[PPO_POLICY_LOSS] == policy);
  }
}

static void agrees_with_the_cpu(void **) {
  Tokens c(9001, usual, 0.3f, 80);
  Result got(c);
  got.run(c);
  std::vector<float> dlogprob(9001), dvalue(9001), stats(PPO_STATS);
  PpoLoss twin = c.op();
  twin.dlogprob = dlogprob.data(), twin.dvalue = dvalue.data(), twin.stats = stats.data();
  cpu_ppo_loss(reference_backend(), &twin);
  auto doubles = [](const std::vector<float> &x) { return std::vector<double>(x.begin(), x.end()); };
  expect_close("dlogprob", got.dlogprob.get(), doubles(dlogprob), 1e-5, 0);
  expect_close("dvalue", got.dvalue.get(), doubles(dvalue), 1e-5, 1e-8);
  expect_stats(got.stats.get(), doubles(stats), Expected(c).size_of_loss);
}

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(any_number_of_tokens),          cmocka_unit_test(every_clip_alone),
      cmocka_unit_test(small_changes_are_not_clipped), cmocka_unit_test(far_policies_stay_finite),
      cmocka_unit_test(a_nan_reaches_the_statistics),  cmocka_unit_test(no_tokens_have_statistics_of_zero),
      cmocka_unit_test(the_counter_returns_to_rest),   cmocka_unit_test(agrees_with_the_cpu),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}

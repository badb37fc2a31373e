/* cuda/reward_head.cu on the emulator against double precision and the CPU backend. */
#include "reference.h"

static size_t size(int x) { return static_cast<size_t>(x); }

struct RewardCase {
  /* mapped: the last-token rows stand scattered in a larger matrix, in falling order. */
  RewardCase(int pairs_, int hidden_size_, bool mapped_, bool with_margin, float smoothing_, float spread,
             uint32_t test_case)
      : pairs(pairs_),
        hidden_size(hidden_size_),
        mapped(mapped_),
        smoothing(smoothing_),
        stored(mapped_ ? 6 * size(pairs_) + 5 : 2 * size(pairs_)),
        random(test_case),
        hidden(random.normals(stored * size(hidden_size_))),
        weight(random.normals(size(hidden_size_), spread / static_cast<float>(sqrt(hidden_size_)))),
        bias(random.normals(1)),
        dweight_start(random.normals(size(hidden_size_), 0.1f)),
        row(2 * size(pairs_)),
        margin(with_margin ? random.normals_f32(size(pairs_)) : std::vector<float>()) {
    for (size_t i = 0; i < row.count(); i++) row[i] = mapped ? static_cast<int>(stored - 2 - 3 * i) : -1;
  }
  size_t at(size_t i) const { return (mapped ? size(row[i]) : i) * size(hidden_size); }

  RewardHead op() const {
    RewardHead op = {};
    op.hidden = hidden.get(), op.weight = weight.get(), op.bias = bias.get();
    op.row = mapped ? row.get() : nullptr;
    op.margin = margin.count() ? margin.get() : nullptr;
    op.smoothing = smoothing, op.scale = 0.37f;
    op.pairs = pairs, op.hidden_size = hidden_size;
    return op;
  }

  int pairs, hidden_size;
  bool mapped;
  float smoothing;
  size_t stored;
  TestRandom random;
  DeviceArray<bf16> hidden, weight, bias;
  std::vector<bf16> dweight_start;
  DeviceArray<int32_t> row;
  DeviceArray<float> margin;
};

struct Expected {
  explicit Expected(const RewardCase &c) : dhidden(c.hidden.count(), NAN), dweight(size(c.hidden_size)) {
    size_t H = size(c.hidden_size);
    for (size_t k = 0; k < H; k++) dweight[k] = number(c.dweight_start[k]);
    for (size_t i = 0; i < 2 * size(c.pairs); i++) {
      reward.push_back(number(c.bias[0]));
      for (size_t k = 0; k < H; k++) reward[i] += number(c.hidden[c.at(i) + k]) * number(c.weight[k]);
    }
    for (size_t i = 0; i < size(c.pairs); i++) {
      double d = reward[2 * i] - reward[2 * i + 1] - (c.margin.count() ? number(c.margin[i]) : 0);
      double s = number(c.smoothing), win = 1 / (1 + exp(-d)), lose = 1 / (1 + exp(d));
      loss.push_back(-(1 - s) * log(win) - s * log(lose));
      double g = number(c.op().scale) * (s * win - (1 - s) * lose);
      for (size_t k = 0; k < H; k++) {
        dhidden[c.at(2 * i) + k] = g * number(c.weight[k]);
        dhidden[c.at(2 * i + 1) + k] = -g * number(c.weight[k]);
        dweight[k] += g * (number(c.hidden[c.at(2 * i) + k]) - number(c.hidden[c.at(2 * i + 1) + k]));
      }
    }
  }
  std::vector<double> reward, loss, dhidden, dweight; /* dhidden is NaN where it is not to be written */
};

static void expect_rows(const bf16 *got, const std::vector<double> &want) {
  for (size_t i = 0; i < want.size(); i++) {
    double x = number(got[i]);
    if (isnan(want[i]) ? got[i].bits == 0xFFFF : fabs(x - want[i]) <= 1e-6 + 4e-3 * fabs(want[i])) continue;
    fail_msg("dhidden[%zu] is %.7g, should be %.7g", i, x, want[i]);
  }
}

static void check(int pairs, int hidden_size, bool mapped, bool with_margin, float smoothing,
                  uint32_t test_case, int runs) {
  RewardCase c(pairs, hidden_size, mapped, with_margin, smoothing, 1.5f, test_case);
  Expected want(c);
  DeviceArray<float> reward(want.reward.size()), loss(want.loss.size());
  DeviceArray<bf16> dhidden(c.hidden.count()), dbias(std::vector<bf16>(1, bf16{0x3f81}));
  std::vector<bf16> first;
  for (int run = 0; run < runs; run++) {
    emulator_schedule(schedule_number(run));
    reward.poison(), loss.poison(), dhidden.poison();
    DeviceArray<bf16> dweight(c.dweight_start);
    RewardHead op = c.op();
    op.reward = reward.get(), op.loss = loss.get();
    op.dhidden = dhidden.get(), op.dweight = dweight.get(), op.dbias = dbias.get();
    cuda_reward_head(emulator_backend(), &op);
    expect_close("reward", reward.get(), want.reward, 1e-5, 2e-5);
    expect_close("loss", loss.get(), want.loss, 1e-5, 2e-5);
    expect_rows(dhidden.get(), want.dhidden);
    expect_close("dweight", dweight.get(), want.dweight, 4e-3, 1e-5);
    assert_int_equal(dbias[0].bits, 0x3f81); /* moves both rewards alike */
    std::vector<bf16> all(dhidden.get(), dhidden.get() + dhidden.count());
    all.insert(all.end(), dweight.get(), dweight.get() + dweight.count());
    if (first.empty()) first = all;
    expect_same_bits("gradient", all.data(), first);
  }
}

static void rewards_losses_and_gradients_of_any_width(void **) {
  const int widths[] = {1, 7, 8, 12, 63, 64, 72, 250, 1000};
  uint32_t test_case = 0;
  for (int width : widths)
    for (int kind = 0; kind < 2; kind++)
      check(kind ? 5 : 2, width, kind, !kind, kind ? 0.0f : 0.1f, test_case++, schedules);
  check(2, 4100, true, true, 0.2f, test_case, 3); /* more than one step of a block's threads */
}

/* Pairs are walked by blocks (3 in the emulator) and by 32 groups of threads. */
static void any_number_of_pairs(void **) {
  const int pairs[] = {1, 3, 4, 31, 32, 33, 97};
  uint32_t test_case = 100;
  for (int n : pairs) check(n, 24, n % 2, n % 3 == 0, 0.05f, test_case++, n > 64 ? 3 : schedules);
}

static void without_a_gradient_only_rewards_and_losses_are_written(void **) {
  RewardCase c(7, 48, true, true, 0.1f, 1, 200);
  Expected want(c);
  DeviceArray<float> reward(14), loss(7);
  DeviceArray<bf16> dweight(48), dbias(1);
  FOR_EACH_SCHEDULE {
    reward.poison(), loss.poison();
    RewardHead op = c.op();
    op.reward = reward.get(), op.loss = loss.get();
    op.dweight = dweight.get(), op.dbias = dbias.get();
    cuda_reward_head(emulator_backend(), &op);
    expect_close("reward", reward.get(), want.reward, 1e-5, 2e-5);
    expect_close("loss", loss.get(), want.loss, 1e-5, 2e-5);
    for (size_t k = 0; k < 48; k++) assert_int_equal(dweight[k].bits, 0xFFFF);
    assert_int_equal(dbias[0].bits, 0xFFFF);
  }
}

static void a_frozen_head_still_passes_the_gradient_on(void **) {
  RewardCase c(5, 16, false, false, 0, 1, 210);
  Expected want(c);
  DeviceArray<float> reward(10), loss(5);
  DeviceArray<bf16> dhidden(c.hidden.count());
  FOR_EACH_SCHEDULE {
    dhidden.poison();
    RewardHead op = c.op();
    op.reward = reward.get(), op.loss = loss.get(), op.dhidden = dhidden.get();
    cuda_reward_head(emulator_backend(), &op);
    expect_rows(dhidden.get(), want.dhidden);
  }
}

/* Weights so large that exp(D) overflows both ways. */
static void certain_pairs_stay_finite(void **) {
  RewardCase c(40, 32, false, false, 0.1f, 300, 220);
  std::vector<double> loss_want(40);
  DeviceArray<float> reward(80), loss(40);
  DeviceArray<bf16> dhidden(c.hidden.count()), dweight(c.dweight_start);
  double most = 0;
  FOR_EACH_SCHEDULE {
    RewardHead op = c.op();
    op.reward = reward.get(), op.loss = loss.get(), op.dhidden = dhidden.get(), op.dweight = dweight.get();
    cuda_reward_head(emulator_backend(), &op);
    for (size_t i = 0; i < 40; i++) {
      double d = number(reward[2 * i]) - number(reward[2 * i + 1]);
      double softplus = fmax(-d, 0) + log1p(exp(-fabs(d)));
      loss_want[i] = softplus + number(c.smoothing) * d;
      most = fmax(most, fabs(d));
      assert_true(isfinite(loss[i]));
    }
    assert_true(most > 200);
    expect_close("loss", loss.get(), loss_want, 1e-5, 1e-3);
    for (size_t k = 0; k < 32; k++) assert_true(isfinite(to_float(dweight[k])));
  }
}

static void agrees_with_the_cpu(void **) {
  RewardCase c(19, 136, true, true, 0.1f, 1, 230);
  size_t H = 136;
  DeviceArray<float> reward(38), loss(19);
  DeviceArray<bf16> dhidden(c.hidden.count()), dweight(c.dweight_start), dbias(std::vector<bf16>(1, bf16{0}));
  RewardHead op = c.op();
  op.reward = reward.get(), op.loss = loss.get();
  op.dhidden = dhidden.get(), op.dweight = dweight.get(), op.dbias = dbias.get();
  emulator_schedule(schedule_number(3));
  cuda_reward_head(emulator_backend(), &op);
  std::vector<float> hidden = floats_of(c.hidden.get(), c.hidden.count()),
                     weight = floats_of(c.weight.get(), H), bias = floats_of(c.bias.get(), 1),
                     dweight_cpu = floats_of(c.dweight_start.data(), H), dhidden_cpu(hidden.size(), NAN),
                     dbias_cpu(1), reward_cpu(38), loss_cpu(19);
  RewardHead twin = op;
  twin.hidden = hidden.data(), twin.weight = weight.data(), twin.bias = bias.data();
  twin.reward = reward_cpu.data(), twin.loss = loss_cpu.data();
  twin.dhidden = dhidden_cpu.data(), twin.dweight = dweight_cpu.data(), twin.dbias = dbias_cpu.data();
  cpu_reward_head(reference_backend(), &twin);
  auto doubles = [](const std::vector<float> &x) { return std::vector<double>(x.begin(), x.end()); };
  expect_close("reward", reward.get(), doubles(reward_cpu), 1e-5, 1e-5);
  expect_close("loss", loss.get(), doubles(loss_cpu), 1e-5, 1e-5);
  expect_rows(dhidden.get(), doubles(dhidden_cpu));
  expect_close("dweight", dweight.get(), doubles(dweight_cpu), 4e-3, 1e-5);
  expect_close("dbias", dbias.get(), doubles(dbias_cpu), 0, 0);
}

static void no_pairs_do_nothing(void **) {
  DeviceArray<bf16> dhidden(8), dweight(8);
  RewardHead op = {};
  op.hidden_size = 8, op.dhidden = dhidden.get(), op.dweight = dweight.get();
  cuda_reward_head(emulator_backend(), &op);
  for (size_t k = 0; k < 8; k++) assert_int_equal(dweight[k].bits, 0xFFFF);
}

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(rewards_losses_and_gradients_of_any_width),
      cmocka_unit_test(any_number_of_pairs),
      cmocka_unit_test(without_a_gradient_only_rewards_and_losses_are_written),
      cmocka_unit_test(a_frozen_head_still_passes_the_gradient_on),
      cmocka_unit_test(certain_pairs_stay_finite),
      cmocka_unit_test(agrees_with_the_cpu),
      cmocka_unit_test(no_pairs_do_nothing),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}

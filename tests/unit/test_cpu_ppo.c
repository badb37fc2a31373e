/* PPO's advantage and loss on the CPU against naive loops and numerical gradients. */
#include "gradcheck.h"

typedef struct Advantage {
  PpoAdvantage op;
  double *logprob, *ref, *value, *score;
  Backend *backend;
} Advantage;

static Advantage make_advantage(Check *c, int count, int longest, double scale) {
  Advantage a = {.backend = c->backend};
  int32_t *cu = NEW(&c->arena, int32_t, count + 1);
  for (int i = 0; i < count; i++) cu[i + 1] = cu[i] + (check_size(c, 0, 3) ? check_size(c, 0, longest) : 1);
  size_t n = (size_t)cu[count];
  a.logprob = check_doubles(c, n, scale), a.ref = check_doubles(c, n, scale);
  a.value = check_doubles(c, n, 1), a.score = check_doubles(c, (size_t)count, 3);
  a.op = (PpoAdvantage){.replies = {.cu_seqlens = cu, .count = count, .tokens = (int)n, .max_len = longest},
                        .logprob = check_floats(c, a.logprob, n),
                        .ref_logprob = check_floats(c, a.ref, n),
                        .value = check_floats(c, a.value, n),
                        .score = check_floats(c, a.score, (size_t)count),
                        .kl_kind = (KlKind)check_size(c, 0, 2),
                        .kl_coef = (float)check_uniform(c),
                        .gamma = (float)(0.9 + 0.1 * check_uniform(c)),
                        .lambda = (float)check_uniform(c),
                        .advantage = check_output(c, n),
                        .returns = check_output(c, n),
                        .stats = check_output(c, ADVANTAGE_STATS)};
  return a;
}

static void run_advantage(void *context) {
  Advantage *a = context;
  a->backend->ppo_advantage(a->backend, &a->op);
}

static double kl_of(KlKind kind, double x) {
  return kind == KL_K1 ? x : kind == KL_K2 ? 0.5 * x * x : exp(-x) - 1 + x;
}

/* A_t as the sum over the rest of the reply, written out */
static double naive_advantage(const Advantage *a, int reply, int t) {
  const PpoAdvantage *o = &a->op;
  int end = o->replies.cu_seqlens[reply + 1];
  double sum = 0;
  for (int s = t; s < end; s++) {
    double reward =
        -o->kl_coef * kl_of(o->kl_kind, a->logprob[s] - a->ref[s]) + (s == end - 1 ? a->score[reply] : 0);
    double delta = reward + (s + 1 < end ? o->gamma * a->value[s + 1] : 0) - a->value[s];
    sum += pow((double)o->gamma * o->lambda, s - t) * delta;
  }
  return sum;
}

static void advantages_equal_the_written_out_sums(void **state) {
  (void)state;
  Check c;
  check_begin(&c, "ppo_advantage");
  for (int round = 0; round < 30; round++) {
    Advantage a = make_advantage(&c, check_size(&c, 0, 12), 33, 1.5);
    run_advantage(&a);
    size_t n = (size_t)a.op.replies.tokens;
    double *want = NEW(&c.arena, double, n), *returns = NEW(&c.arena, double, n),
           stats[ADVANTAGE_STATS] = {0};
    for (int i = 0; i < a.op.replies.count; i++)
      for (int t = a.op.replies.cu_seqlens[i]; t < a.op.replies.cu_seqlens[i + 1]; t++) {
        want[t] = naive_advantage(&a, i, t);
        returns[t] = want[t] + a.value[t];
        stats[ADVANTAGE_MEAN] += want[t] / (double)n;
        stats[ADVANTAGE_RETURN] += returns[t] / (double)n;
        stats[ADVANTAGE_KL] += kl_of(a.op.kl_kind, a.logprob[t] - a.ref[t]) / a.op.replies.count;
      }
    for (size_t t = 0; t < n && n > 1; t++)
      stats[ADVANTAGE_VARIANCE] += pow(want[t] - stats[ADVANTAGE_MEAN], 2) / (double)(n - 1);
    check_close(&c, "advantage", a.op.advantage, want, n, 1e-5);
    check_close(&c, "returns", a.op.returns, returns, n, 1e-5);
    check_close(&c, "stats", a.op.stats, stats, ADVANTAGE_STATS, 1e-5);
    a.op.whiten = true;
    run_advantage(&a);
    for (size_t t = 0; t < n; t++)
      want[t] = (want[t] - stats[ADVANTAGE_MEAN]) / sqrt(stats[ADVANTAGE_VARIANCE] + 1e-8);
    check_close(&c, "whitened", a.op.advantage, want, n, 1e-4);
    check_close(&c, "returns are not whitened", a.op.returns, returns, n, 1e-5);
  }
  check_end(&c);
}

static void whitening_gives_mean_zero_and_sample_variance_one(void **state) {
  (void)state;
  Check c;
  check_begin(&c, "whitening");
  Advantage a = make_advantage(&c, 400, 60, 1);
  a.op.whiten = true;
  run_advantage(&a);
  double mean = 0, variance = 0;
  int n = a.op.replies.tokens;
  for (int t = 0; t < n; t++) mean += (double)a.op.advantage[t] / n;
  for (int t = 0; t < n; t++) variance += pow(a.op.advantage[t] - mean, 2) / (n - 1);
  assert_true(fabs(mean) < 1e-6 && fabs(variance - 1) < 1e-5);
  check_threads(&c, "advantage", run_advantage, &a, NULL, a.op.advantage, (size_t)n);
  check_threads(&c, "stats", run_advantage, &a, NULL, a.op.stats, ADVANTAGE_STATS);
  check_end(&c);
}

static void one_token_is_whitened_to_zero(void **state) {
  (void)state;
  Check c;
  check_begin(&c, "whitening one");
  Advantage a = make_advantage(&c, 0, 5, 1);
  run_advantage(&a);
  for (int i = 0; i < ADVANTAGE_STATS; i++) assert_true(a.op.stats[i] == 0);
  int32_t cu[] = {0, 1};
  float logprob = -1, ref = -1.5f, value = 0.25f, score = 2, advantage, returns;
  a.op.replies = (Sequences){.cu_seqlens = cu, .count = 1, .tokens = 1, .max_len = 1};
  a.op.logprob = &logprob, a.op.ref_logprob = &ref, a.op.value = &value, a.op.score = &score;
  a.op.advantage = &advantage, a.op.returns = &returns, a.op.whiten = true;
  run_advantage(&a);
  assert_true(advantage == 0);
  check_end(&c);
}

typedef struct Loss {
  PpoLoss op;
  double *logprob, *old, *advantage, *value, *old_value, *returns;
  Backend *backend;
} Loss;

static Loss make_loss(Check *c, int tokens, double scale) {
  Loss k = {.backend = c->backend};
  size_t n = (size_t)tokens;
  k.logprob = check_doubles(c, n, scale), k.old = check_doubles(c, n, scale);
  k.advantage = check_doubles(c, n, 2), k.value = check_doubles(c, n, 1);
  k.old_value = check_doubles(c, n, 1), k.returns = check_doubles(c, n, 1);
  k.op = (PpoLoss){.logprob = check_floats(c, k.logprob, n),
                   .old_logprob = check_floats(c, k.old, n),
                   .advantage = check_floats(c, k.advantage, n),
                   .value = check_floats(c, k.value, n),
                   .old_value = check_floats(c, k.old_value, n),
                   .returns = check_floats(c, k.returns, n),
                   .clip_low = 0.2f,
                   .clip_high = 0.3f,
                   .dual_clip = check_size(c, 0, 1) ? 1.5f : 0,
                   .value_clip = 0.2f,
                   .value_coef = 0.4f,
                   .scale = 0.7f,
                   .dlogprob = check_output(c, n),
                   .dvalue = check_output(c, n),
                   .stats = check_output(c, PPO_STATS),
                   .tokens = tokens};
  return k;
}

static void run_loss(void *context) {
  Loss *k = context;
  k->backend->ppo_loss(k->backend, &k->op);
}

static double between(double x, double low, double high) { return fmin(fmax(x, low), high); }

static void reference_stats(const Loss *k, double *stats) {
  for (int i = 0; i < PPO_STATS; i++) stats[i] = 0;
  for (int t = 0; t < k->op.tokens; t++) {
    double a = k->advantage[t], x = k->logprob[t] - k->old[t], ratio = exp(x);
    double plain = -a * ratio, clipped = -a * between(ratio, 1 - k->op.clip_low, 1 + k->op.clip_high);
    double policy = fmax(plain, clipped);
    if (k->op.dual_clip > 0 && a < 0) policy = fmin(policy, -a * k->op.dual_clip);
    double limited =
        k->old_value[t] + between(k->value[t] - k->old_value[t], -k->op.value_clip, k->op.value_clip);
    double v1 = pow(k->value[t] - k->returns[t], 2), v2 = pow(limited - k->returns[t], 2);
    stats[PPO_POLICY_LOSS] += policy;
    stats[PPO_VALUE_LOSS] += 0.5 * fmax(v1, v2);
    stats[PPO_CLIPPED] += clipped > plain;
    stats[PPO_VALUE_CLIPPED] += v2 > v1;
    stats[PPO_APPROX_KL] += ratio - 1 - x;
    stats[PPO_RATIO] += ratio;
  }
}

static double reference_loss(void *context) {
  Loss *k = context;
  double stats[PPO_STATS];
  reference_stats(k, stats);
  return k->op.scale * (stats[PPO_POLICY_LOSS] + k->op.value_coef * stats[PPO_VALUE_LOSS]);
}

static void losses_match_the_formula_and_its_gradients(void **state) {
  (void)state;
  Check c;
  check_begin(&c, "ppo_loss");
  for (int round = 0; round < 30; round++) {
    Loss k = make_loss(&c, check_size(&c, 0, 60), round % 2 ? 0.3 : 1);
    run_loss(&k);
    double stats[PPO_STATS];
    reference_stats(&k, stats);
    for (int i = 0; i < PPO_STATS; i++) check_close(&c, "stats", k.op.stats + i, stats + i, 1, 1e-5);
    check_gradient(&c, "dlogprob", reference_loss, &k, k.logprob, k.op.dlogprob, (size_t)k.op.tokens, 1e-4);
    check_gradient(&c, "dvalue", reference_loss, &k, k.value, k.op.dvalue, (size_t)k.op.tokens, 1e-4);
  }
  check_end(&c);
}

/* One token in each branch, by hand: ratio, advantage -> gradient by logprob */
static void each_clip_branch_passes_or_stops_the_gradient(void **state) {
  (void)state;
  static const struct {
    float x, advantage, dlogprob;
  } rows[] = {
      {0, 1, -1},
      {0.5f, 1, 0},
      {0.5f, -1, 1.6487213f},
      {-0.5f, 1, -0.60653067f},
      {-0.5f, -1, 0},
      {0.1f, -1, 1.1051709f},
      {2, -1, 0},
      {2, 1, 0},
      {0, 0, 0},
  };
  Check c;
  check_begin(&c, "ppo_loss branches");
  Loss k = make_loss(&c, 1, 1);
  float logprob, old = 0, advantage;
  k.op.logprob = &logprob, k.op.old_logprob = &old, k.op.advantage = &advantage;
  k.op.scale = 1, k.op.dual_clip = 3;
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    logprob = rows[i].x, advantage = rows[i].advantage;
    run_loss(&k);
    assert_true(fabs(k.op.dlogprob[0] - rows[i].dlogprob) < 1e-6);
  }
  logprob = 2, advantage = -1, k.op.dual_clip = 0; /* exp(2) > 3: without the dual clip it passes */
  run_loss(&k);
  assert_true(fabs(k.op.dlogprob[0] - 7.3890561) < 1e-5);
  check_end(&c);
}

static void distant_policies_give_no_nan(void **state) {
  (void)state;
  Check c;
  check_begin(&c, "ppo_loss large");
  Loss k = make_loss(&c, 64, 1e4);
  Advantage a = make_advantage(&c, 20, 20, 1e4);
  run_loss(&k);
  for (int t = 0; t < 64; t++) assert_true(isfinite(k.op.dlogprob[t]) && isfinite(k.op.dvalue[t]));
  for (int i = 0; i < PPO_STATS; i++) assert_true(isfinite(k.op.stats[i]));
  a.op.whiten = true;
  for (int kind = KL_K1; kind <= KL_K3; kind++) {
    a.op.kl_kind = (KlKind)kind;
    run_advantage(&a);
    for (int t = 0; t < a.op.replies.tokens; t++)
      assert_true(isfinite(a.op.advantage[t]) && isfinite(a.op.returns[t]));
  }
  check_end(&c);
}

static void threads_change_no_bit(void **state) {
  (void)state;
  Check c;
  check_begin(&c, "ppo_loss threads");
  Loss k = make_loss(&c, 20011, 0.4);
  check_threads(&c, "stats", run_loss, &k, NULL, k.op.stats, PPO_STATS);
  check_threads(&c, "dlogprob", run_loss, &k, NULL, k.op.dlogprob, 20011);
  check_end(&c);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(advantages_equal_the_written_out_sums),
      cmocka_unit_test(whitening_gives_mean_zero_and_sample_variance_one),
      cmocka_unit_test(one_token_is_whitened_to_zero),
      cmocka_unit_test(losses_match_the_formula_and_its_gradients),
      cmocka_unit_test(each_clip_branch_passes_or_stops_the_gradient),
      cmocka_unit_test(distant_policies_give_no_nan),
      cmocka_unit_test(threads_change_no_bit),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

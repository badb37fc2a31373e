/* Rewards, generalised advantage estimation, whitening. Each reply is walked backwards by one thread;
 * the sums over all tokens are taken in blocks of a fixed size, in order. */
#include <math.h>

#include "cpu/cpu.h"

enum { BLOCK = 4096 };

typedef struct Sums {
  double advantage, kl, returns, deviation; /* deviation: of squares from the mean */
} Sums;

static double kl_of(KlKind kind, double x) {
  switch (kind) {
    case KL_K2:
      return x * x / 2;
    case KL_K3:
      x = x < -PPO_LOG_RATIO_MOST ? -PPO_LOG_RATIO_MOST : x; /* a NaN stays one */
      return expm1(-x) + x;
    default:
      return x;
  }
}

static void walk_reply(const PpoAdvantage *a, int reply) {
  int first = a->replies.cu_seqlens[reply], last = a->replies.cu_seqlens[reply + 1] - 1;
  double advantage = 0, next_value = 0, gamma = a->gamma, decay = (double)a->gamma * a->lambda;
  for (int t = last; t >= first; t--) {
    double reward = -a->kl_coef * kl_of(a->kl_kind, (double)a->logprob[t] - a->ref_logprob[t]);
    if (t == last) reward += a->score[reply];
    advantage = reward + gamma * next_value - a->value[t] + decay * advantage;
    next_value = a->value[t];
    a->advantage[t] = (float)advantage;
    a->returns[t] = (float)(advantage + next_value);
  }
}

static Sums sum_block(const PpoAdvantage *a, int from, int to) {
  Sums s = {0};
  for (int t = from; t < to; t++) {
    s.advantage += a->advantage[t];
    s.returns += a->returns[t];
    s.kl += kl_of(a->kl_kind, (double)a->logprob[t] - a->ref_logprob[t]);
  }
  return s;
}

static double deviation_block(const float *advantage, int from, int to, double mean) {
  double sum = 0;
  for (int t = from; t < to; t++) sum += (advantage[t] - mean) * (advantage[t] - mean);
  return sum;
}

void cpu_ppo_advantage(Backend *backend, const PpoAdvantage *a) {
  int tokens = a->replies.tokens, blocks = (tokens + BLOCK - 1) / BLOCK;
  Sums *sums = cpu_workspace(backend, (size_t)(blocks + 1) * sizeof *sums), all = {0};
#pragma omp parallel for if (tokens >= PARALLEL_FROM)
  for (int i = 0; i < a->replies.count; i++) walk_reply(a, i);
#pragma omp parallel for if (tokens >= PARALLEL_FROM)
  for (int i = 0; i < blocks; i++)
    sums[i] = sum_block(a, i * BLOCK, i + 1 < blocks ? (i + 1) * BLOCK : tokens);
  for (int i = 0; i < blocks; i++) {
    all.advantage += sums[i].advantage;
    all.returns += sums[i].returns;
    all.kl += sums[i].kl;
  }
  double mean = tokens ? all.advantage / tokens : 0;
#pragma omp parallel for if (tokens >= PARALLEL_FROM)
  for (int i = 0; i < blocks; i++)
    sums[i].deviation =
        deviation_block(a->advantage, i * BLOCK, i + 1 < blocks ? (i + 1) * BLOCK : tokens, mean);
  for (int i = 0; i < blocks; i++) all.deviation += sums[i].deviation;
  double variance = tokens > 1 ? all.deviation / (tokens - 1) : 0, inverse = 1 / sqrt(variance + 1e-8);
  if (a->whiten)
#pragma omp parallel for if (tokens >= PARALLEL_FROM)
    for (int t = 0; t < tokens; t++) a->advantage[t] = (float)((a->advantage[t] - mean) * inverse);
  if (!a->stats) return;
  a->stats[ADVANTAGE_MEAN] = (float)mean;
  a->stats[ADVANTAGE_VARIANCE] = (float)variance;
  a->stats[ADVANTAGE_KL] = a->replies.count ? (float)(all.kl / a->replies.count) : 0;
  a->stats[ADVANTAGE_RETURN] = tokens ? (float)(all.returns / tokens) : 0;
}

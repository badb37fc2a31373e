/* The clipped policy and value losses with their gradients, token by token; the sums in blocks of a
 * fixed size, in order. */
#include <math.h>
#include <string.h>

#include "cpu/cpu.h"

enum { BLOCK = 4096 };

static double clamp(double x, double low, double high) { return x < low ? low : x > high ? high : x; }

/* One token: gradients into a, its share of the statistics into stats. */
static void token_loss(const PpoLoss *a, int t, double stats[PPO_STATS]) {
  double advantage = a->advantage[t];
  double x = clamp((double)a->logprob[t] - a->old_logprob[t], -PPO_LOG_RATIO_MOST, PPO_LOG_RATIO_MOST);
  double ratio = exp(x);
  double plain = -advantage * ratio, clipped = -advantage * clamp(ratio, 1 - a->clip_low, 1 + a->clip_high);
  double policy = fmax(plain, clipped),
         dpolicy = plain >= clipped ? plain : 0; /* d ratio / d logprob = ratio */
  if (a->dual_clip > 0 && advantage < 0 && policy > -advantage * a->dual_clip) {
    policy = -advantage * a->dual_clip;
    dpolicy = 0;
  }
  double value = a->value[t], old = a->old_value[t], returns = a->returns[t];
  double error = value - returns;
  double clipped_error = old + clamp(value - old, -a->value_clip, a->value_clip) - returns;
  bool value_clipped = clipped_error * clipped_error > error * error;
  a->dlogprob[t] = (float)(a->scale * dpolicy);
  a->dvalue[t] = value_clipped ? 0 : (float)(a->scale * a->value_coef * error);
  stats[PPO_POLICY_LOSS] += policy;
  stats[PPO_VALUE_LOSS] += (value_clipped ? clipped_error * clipped_error : error * error) / 2;
  stats[PPO_CLIPPED] += clipped > plain;
  stats[PPO_VALUE_CLIPPED] += value_clipped;
  stats[PPO_APPROX_KL] += expm1(x) - x;
  stats[PPO_RATIO] += ratio;
}

void cpu_ppo_loss(Backend *backend, const PpoLoss *a) {
  int blocks = (a->tokens + BLOCK - 1) / BLOCK;
  double(*sums)[PPO_STATS] = cpu_workspace(backend, (size_t)(blocks + 1) * sizeof *sums);
  memset(sums, 0, (size_t)(blocks + 1) * sizeof *sums);
#pragma omp parallel for if (blocks > 1)
  for (int i = 0; i < blocks; i++)
    for (int t = i * BLOCK; t < a->tokens && t < (i + 1) * BLOCK; t++) token_loss(a, t, sums[i]);
  for (int k = 0; k < PPO_STATS; k++) {
    double sum = 0;
    for (int i = 0; i < blocks; i++) sum += sums[i][k];
    if (a->stats) a->stats[k] = (float)sum;
  }
}

/* The clipped policy and value losses of PPO with their gradients, and the sums of the step's statistics:
 *   x = clamp(logprob - old_logprob, +-40),  ratio = exp(x)
 *   policy = max(-A ratio, -A clamp(ratio, 1 - clip_low, 1 + clip_high)), dual_clip c > 0 and A < 0:
 * min(policy, -A c) dlogprob = scale * (-A ratio where that is the branch taken, else 0) value = 1/2 max(e^2,
 * e_clip^2),  e = V - returns,  e_clip = V_old + clamp(V - V_old, +-value_clip) - returns dvalue = scale
 * value_coef * (e where e^2 is the larger, else 0)
 *
 * Shapes: all [tokens], stats [PPO_STATS]. One thread a token; every block leaves its sums, and the block
 * that is done last adds them in the order of the blocks, whose number follows from the number of tokens: one
 * launch, nobody waits, the same bits on every GPU. Lower bound: 32 bytes a token, 24 read and 8 written. */
#include "log_ratio.cuh"
#include "sums.cuh"

namespace {

const int threads = 256;
const int most_blocks = 512;

/* The token's gradients; its share of the statistics is added to stats. */
DEVICE void policy_loss(const PpoLoss &op, size_t t, float (&stats)[PPO_STATS]) {
  const float most = PPO_LOG_RATIO_MOST;
  float advantage = op.advantage[t], x = clamp(op.logprob[t] - op.old_logprob[t], -most, most);
  float ratio = expf(x);
  float plain = -advantage * ratio;
  float clipped = -advantage * clamp(ratio, 1.0f - op.clip_low, 1.0f + op.clip_high);
  float policy = plain >= clipped ? plain : clipped;
  float dpolicy = plain >= clipped ? plain : 0.0f; /* d ratio / d logprob = ratio */
  float ceiling = -advantage * op.dual_clip;
  if (op.dual_clip > 0.0f && advantage < 0.0f && policy > ceiling) {
    policy = ceiling;
    dpolicy = 0.0f;
  }
  op.dlogprob[t] = op.scale * dpolicy;
  stats[PPO_POLICY_LOSS] += policy;
  stats[PPO_CLIPPED] += clipped > plain ? 1.0f : 0.0f;
  stats[PPO_APPROX_KL] += exp_remainder(x);
  stats[PPO_RATIO] += ratio;
}

DEVICE void value_loss(const PpoLoss &op, size_t t, float (&stats)[PPO_STATS]) {
  float value = op.value[t], old = op.old_value[t], returns = op.returns[t];
  float change = value - old, allowed = clamp(change, -op.value_clip, op.value_clip);
  float error = value - returns;
  /* Where nothing is cut, old + change would differ from value by a rounding and look clipped. */
  float clipped_error = allowed == change ? error : old + allowed - returns;
  bool clipped = clipped_error * clipped_error > error * error;
  float worse = clipped ? clipped_error : error;
  op.dvalue[t] = clipped ? 0.0f : op.scale * op.value_coef * error;
  stats[PPO_VALUE_LOSS] += 0.5f * worse * worse;
  stats[PPO_VALUE_CLIPPED] += clipped ? 1.0f : 0.0f;
}

/* partial [blocks][PPO_STATS] */
__global__ void __launch_bounds__(threads) ppo_loss(PpoLoss op, float *partial, uint32_t *counter) {
  float stats[PPO_STATS] = {};
  size_t tokens = static_cast<size_t>(op.tokens), step = static_cast<size_t>(gridDim.x) * threads;
  for (size_t t = static_cast<size_t>(blockIdx.x) * threads + threadIdx.x; t < tokens; t += step) {
    policy_loss(op, t, stats);
    value_loss(op, t, stats);
  }
  block_sums(stats);
#pragma unroll
  for (int i = 0; i < PPO_STATS; i++)
    if (threadIdx.x == 0) partial[blockIdx.x * PPO_STATS + i] = stats[i];
  if (!last_block(counter)) return;
#pragma unroll
  for (int i = 0; i < PPO_STATS; i++) {
    stats[i] = 0.0f;
    for (unsigned b = threadIdx.x; b < gridDim.x; b += threads) stats[i] += partial[b * PPO_STATS + i];
  }
  block_sums(stats);
#pragma unroll
  for (int i = 0; i < PPO_STATS; i++)
    if (threadIdx.x == 0 && op.stats) op.stats[i] = stats[i];
}

}  // namespace

void cuda_ppo_loss(Backend *backend, const PpoLoss *op) {
  CudaState *state = cuda_state(backend);
  int blocks = ceil_div<int>(op->tokens, threads);
  if (blocks > most_blocks) blocks = most_blocks;
  if (blocks == 0) blocks = 1; /* the statistics of no tokens are written too */
  float *partial =
      static_cast<float *>(cuda_workspace(backend, static_cast<size_t>(blocks) * PPO_STATS * sizeof(float)));
  if (!partial) return;
  launch(state, {"ppo_loss", static_cast<unsigned>(blocks), threads, 0}, ppo_loss, *op, partial,
         state->grid_counter);
}

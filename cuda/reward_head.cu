/* The reward model's head, its Bradley-Terry loss and their backward, one launch:
 *   r = hidden[row] . weight + bias,  D = r(2i) - r(2i+1) - margin[i],  s = smoothing
 *   loss_i = -(1 - s) log sigmoid(D) - s log sigmoid(-D) = softplus(-D) + s D
 *   g_i = scale dloss_i/dD = scale (s - sigmoid(-D))
 *   dhidden[row(2i)] = g_i weight,  dhidden[row(2i+1)] = -g_i weight
 *   dweight += sum_i g_i (hidden[row(2i)] - hidden[row(2i+1)])
 * The bias moves both rewards of a pair alike, so D does not depend on it and dbias += 0: it is not touched.
 *
 * Shapes: hidden [.., H], of which 2 pairs rows are read; weight [H]. First a block a pair: both rows in one
 * pass, g to scratch, both gradient rows. Then, behind a grid barrier, a block 64 columns of dweight over all
 * pairs. That reads the rows again, from the L2: 4 H bytes a pair, where sums kept by each block of its pairs
 * would be written and read as fp32, 8 H a block, and up to some hundred pairs every pair has a block of its
 * own. It also makes the order of the sum that of the pairs, whatever the grid: the same bits on every GPU.
 * Lower bound: 8 H bytes a pair of memory (4 H without backward) and 4 H more from the L2. 512 pairs at H =
 * 1024 are 4 MB, a microsecond: at usual sizes the launch and the barrier are what is left to see. */
#include "span.cuh"
#include "sums.cuh"

namespace {

const int threads = 256;
const int block_columns = 64, row_threads = block_columns / 8; /* of dweight; 8 columns a thread */
const int lanes = threads / row_threads;                       /* pairs at once */

DEVICE size_t offset_of(const RewardHead &op, int i) {
  return static_cast<size_t>(op.row ? op.row[i] : i) * static_cast<size_t>(op.hidden_size);
}

DEVICE int count_at(const RewardHead &op, int column) {
  return op.hidden_size - column < 8 ? op.hidden_size - column : 8;
}

struct Judgement {
  float loss, slope; /* slope: dloss/dD */
};

/* softplus(-D) = max(-D, 0) + log(1 + e), sigmoid(-|D|) = e / (1 + e), with e = exp(-|D|) at most 1 */
DEVICE Judgement judge(float difference, float smoothing) {
  float e = expf(-fabsf(difference));
  float softplus = (difference < 0.0f ? -difference : 0.0f) + log1pf(e);
  float loser = (difference < 0.0f ? 1.0f : e) / (1.0f + e); /* sigmoid(-D) */
  return {softplus + smoothing * difference, smoothing - loser};
}

/* By the whole block. */
DEVICE void judge_pair(const RewardHead &op, int pair, float *gradient) {
  bool aligned = op.hidden_size % 8 == 0;
  size_t better = offset_of(op, 2 * pair), other = offset_of(op, 2 * pair + 1);
  const bf16 *hidden = static_cast<const bf16 *>(op.hidden), *weight = static_cast<const bf16 *>(op.weight);
  bf16 *dhidden = static_cast<bf16 *>(op.dhidden);
  int first = static_cast<int>(threadIdx.x) * 8;
  float reward[2] = {};
#pragma unroll 2
  for (int c = first; c < op.hidden_size; c += threads * 8) {
    float x[8], y[8], w[8];
    load_span(hidden + better + c, count_at(op, c), aligned, x);
    load_span(hidden + other + c, count_at(op, c), aligned, y);
    load_span(weight + c, count_at(op, c), aligned, w);
#pragma unroll
    for (int k = 0; k < 8; k++) {
      reward[0] = fmaf(x[k], w[k], reward[0]);
      reward[1] = fmaf(y[k], w[k], reward[1]);
    }
  }
  block_sums(reward);
  float bias = to_float(static_cast<const bf16 *>(op.bias)[0]);
  float margin = op.margin ? op.margin[pair] : 0.0f;
  Judgement judged = judge(reward[0] - reward[1] - margin, op.smoothing);
  float g = op.scale * judged.slope;
  if (threadIdx.x == 0) {
    op.reward[2 * pair] = reward[0] + bias;
    op.reward[2 * pair + 1] = reward[1] + bias;
    op.loss[pair] = judged.loss;
    if (dhidden) gradient[pair] = g;
  }
  if (!dhidden) return;
  for (int c = first; c < op.hidden_size; c += threads * 8) {
    float w[8], dx[8], dy[8];
    load_span(weight + c, count_at(op, c), aligned, w);
#pragma unroll
    for (int k = 0; k < 8; k++) {
      dx[k] = g * w[k];
      dy[k] = -dx[k];
    }
    store_span(dhidden + better + c, count_at(op, c), aligned, dx);
    store_span(dhidden + other + c, count_at(op, c), aligned, dy);
  }
}

/* By the whole block: 64 columns from `from`. Thread group l takes the pairs l, l + 32, .. in their order;
 * then the groups are added in theirs. */
DEVICE void add_weight_gradient(const RewardHead &op, int from, const float *gradient) {
  SHARED(float, sums, [lanes][block_columns]);
  bool aligned = op.hidden_size % 8 == 0;
  int thread = static_cast<int>(threadIdx.x), group = thread / row_threads, own = thread % row_threads * 8;
  int count = count_at(op, from + own); /* not positive right of the last column */
  const bf16 *hidden = static_cast<const bf16 *>(op.hidden) + from + own;
  float sum[8] = {};
#pragma unroll 2
  for (int pair = group; pair < op.pairs; pair += lanes) {
    float g = gradient[pair], x[8], y[8];
    load_span(hidden + offset_of(op, 2 * pair), count, aligned, x);
    load_span(hidden + offset_of(op, 2 * pair + 1), count, aligned, y);
#pragma unroll
    for (int k = 0; k < 8; k++) sum[k] = fmaf(g, x[k] - y[k], sum[k]);
  }
#pragma unroll
  for (int k = 0; k < 8; k++) sums[group][own + k] = sum[k];
  block_sync();
  if (thread < block_columns && from + thread < op.hidden_size) {
    float total = 0.0f;
    for (int i = 0; i < lanes; i++) total += sums[i][thread];
    bf16 *out = static_cast<bf16 *>(op.dweight) + from + thread;
    *out = to_bf16(to_float(*out) + total);
  }
  block_sync(); /* sums may be written again */
}

/* gradient [pairs]: g, scratch */
__global__ void __launch_bounds__(threads) reward_head(RewardHead op, float *gradient, uint32_t *counter) {
  int block = static_cast<int>(blockIdx.x), blocks = static_cast<int>(gridDim.x);
  for (int pair = block; pair < op.pairs; pair += blocks) judge_pair(op, pair, gradient);
  if (!op.dhidden || !op.dweight) return;
  grid_barrier(counter);
  for (int from = block * block_columns; from < op.hidden_size; from += blocks * block_columns)
    add_weight_gradient(op, from, gradient);
}

}  // namespace

void cuda_reward_head(Backend *backend, const RewardHead *op) {
  if (op->pairs == 0) return;
  CudaState *state = cuda_state(backend);
  float *gradient =
      static_cast<float *>(cuda_workspace(backend, static_cast<size_t>(op->pairs) * sizeof(float)));
  if (!gradient) return;
  int blocks = ceil_div<int>(op->hidden_size, block_columns);
  int most = cooperative_blocks(state, reward_head, threads, 0);
  if (blocks < op->pairs) blocks = op->pairs;
  if (blocks > most) blocks = most;
  launch_cooperative(state, {"reward_head", static_cast<unsigned>(blocks), threads, 0}, reward_head, *op,
                     gradient, state->grid_counter);
}

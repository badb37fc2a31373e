/* Per-token reward, generalised advantage estimation (Schulman et al. 2016) and whitening, one launch:
 *   r_t = -kl_coef kl_t, + score at a reply's last token;  delta_t = r_t + gamma V_{t+1} - V_t
 *   A_t = delta_t + a A_{t+1}, a = gamma lambda;  returns_t = A_t + V_t
 *   whiten: A <- (A - mean) / sqrt(var + 1e-8) over all tokens, var = M2 / (tokens - 1)
 *
 * A_t is a suffix scan with (a1, b1) (a2, b2) = (a1 a2, b1 + a1 b2). The decay is the same everywhere, so
 * only b moves between lanes, times a^n, and a reply's end needs no flag: what lies past it is 0.
 *
 * Shapes: replies packed, [tokens], of any lengths. A warp takes spans of 4 stripes of 32 tokens: one token a
 * lane and stripe, so loads are coalesced wherever a reply begins, and the four scans overlap. Spans are
 * counted from the reply's first token and chained from its end by A of the token right of the span. Replies
 * of at most 1024 tokens: a warp a reply, from span to span. With longer ones in the batch: a block a reply,
 * 16 spans a step, whose warps learn each other's sums through shared memory; a reply of 100k tokens is 49
 * steps. Both do the same operations in the same order on a token: an advantage before whitening has the same
 * bits whatever the batch around its reply and whichever way is taken.
 *
 * Mean and variance: count, mean and M2 of each block, then a grid barrier, then every block merges those of
 * all blocks alike (Chan, Golub and LeVeque 1983): no cancellation, no second launch. Replies belong to fixed
 * warps, so the bits do not depend on the schedule; on a GPU with another number of multiprocessors the
 * last bits of mean and variance may differ.
 *
 * Lower bound: 20 bytes a token, 12 read and 8 written, + 4 a reply. Whitening reads and writes A once more,
 * 8 bytes that stay in the L2 up to some million tokens. To keep A in registers instead would save that only
 * where one span a warp is all there is, a few hundred cycles there. */
#include "log_ratio.cuh"
#include "sums.cuh"

namespace {

const int threads = 512, warps = threads / 32;
const int stripes = 4, span = 32 * stripes; /* tokens */
const int long_reply = 1024;

/* Of any set of tokens: m2 is the sum of (A - mean)^2; kl and returns are sums. */
struct Moments {
  float count, mean, m2, kl, returns;
};

DEVICE void add_token(Moments &m, float advantage, float returns) {
  float distance = advantage - m.mean;
  m.count += 1.0f;
  m.mean += distance / m.count;
  m.m2 = fmaf(distance, advantage - m.mean, m.m2);
  m.returns += returns;
}

/* The moments of all threads' sets together, in all threads. */
DEVICE Moments merge_moments(const Moments &own) {
  float sums[4] = {own.count, own.count * own.mean, own.kl, own.returns};
  block_sums(sums);
  float mean = sums[0] > 0.0f ? sums[1] / sums[0] : 0.0f, distance = own.mean - mean;
  float m2[1] = {own.m2 + own.count * distance * distance};
  block_sums(m2);
  return {sums[0], mean, m2[0], sums[2], sums[3]};
}

/* Powers of a: square[i] = a^(2^i) and edge = a^(32 - lane), from a lane to the stripe right of its own. */
struct Decay {
  float square[8], edge;
};
const int by_stripe = 5, by_span = 7; /* square[..] = a^32, a^128 */

DEVICE Decay decay_of(float a) {
  Decay decay;
  decay.square[0] = a;
#pragma unroll
  for (int i = 1; i < 8; i++) decay.square[i] = decay.square[i - 1] * decay.square[i - 1];
  decay.edge = 1.0f;
#pragma unroll
  for (int i = 0; i < 6; i++)
    if ((32 - lane_index()) >> i & 1) decay.edge *= decay.square[i];
  return decay;
}

/* sum over l >= lane of a^(l - lane) b_l */
DEVICE float suffix_scan(float b, const Decay &decay) {
#pragma unroll
  for (int i = 0; i < 5; i++) {
    float right = warp_shuffle_down(b, 1 << i);
    if (lane_index() + (1 << i) < 32) b = fmaf(decay.square[i], right, b);
  }
  return b;
}

DEVICE float kl_of(KlKind kind, float x) {
  const float most = PPO_LOG_RATIO_MOST;
  if (kind == KL_K1) return x;
  if (kind == KL_K2) return 0.5f * x * x;
  return exp_remainder(x < -most ? most : -x);
}

/* The tokens of a span in one lane, a stripe apart. */
struct Span {
  float value[stripes];
  float scan[stripes]; /* delta, then its suffix scan in the stripe */
  float head[stripes]; /* the scan at the stripe's first token, in all lanes */
  float total;         /* the span's share of A at its first token */
};

/* left: tokens of the reply from `first` on. Adds to kl. */
DEVICE void read_span(const PpoAdvantage &op, float score, int first, int left, Span &s, float &kl) {
#pragma unroll
  for (int j = 0; j < stripes; j++) {
    int k = 32 * j + lane_index(), t = first + k;
    s.value[j] = s.scan[j] = 0.0f;
    if (k >= left) continue;
    s.value[j] = op.value[t];
    float next = k + 1 < left ? op.value[t + 1] : 0.0f;
    float kl_t = kl_of(op.kl_kind, op.logprob[t] - op.ref_logprob[t]);
    float reward = fmaf(-op.kl_coef, kl_t, k + 1 == left ? score : 0.0f);
    s.scan[j] = fmaf(op.gamma, next, reward) - s.value[j];
    kl += kl_t;
  }
}

DEVICE void scan_span(Span &s, int left, const Decay &decay) {
#pragma unroll
  for (int j = 0; j < stripes; j++) {
    s.head[j] = 0.0f;
    if (32 * j >= left) continue; /* the whole warp */
    s.scan[j] = suffix_scan(s.scan[j], decay);
    s.head[j] = warp_shuffle(s.scan[j], 0);
  }
  s.total = 0.0f;
#pragma unroll
  for (int j = stripes - 1; j >= 0; j--) s.total = fmaf(decay.square[by_stripe], s.total, s.head[j]);
}

/* right: A of the token right of the span. */
DEVICE void write_span(const PpoAdvantage &op, int first, int left, const Span &s, float right,
                       const Decay &decay, Moments &moments) {
#pragma unroll
  for (int j = stripes - 1; j >= 0; j--) {
    int k = 32 * j + lane_index(), t = first + k;
    float advantage = fmaf(decay.edge, right, s.scan[j]);
    right = fmaf(decay.square[by_stripe], right, s.head[j]);
    if (k >= left) continue;
    float returns = advantage + s.value[j];
    op.advantage[t] = advantage;
    op.returns[t] = returns;
    add_token(moments, advantage, returns);
  }
}

/* By `team` warps, of which this is number `member`: 1, or all of the block. A step is `team` spans, the
 * rightmost first, whose shares total[turn] carries; turn alternates over the replies too, so that one
 * barrier a step is enough. */
template <int team>
DEVICE void advantages_of(const PpoAdvantage &op, int reply, int member, const Decay &decay, int &turn,
                          Moments &moments) {
  SHARED(float, total, [2][warps]);
  int begin = op.replies.cu_seqlens[reply], end = op.replies.cu_seqlens[reply + 1];
  float score = op.score[reply], right = 0.0f; /* A of the token right of the step */
  for (int last = ceil_div(end - begin, span) - 1; last >= 0; last -= team) {
    int own = last - member, first = begin + own * span;
    int left = own < 0 ? 0 : end - first;
    Span s;
    read_span(op, score, first, left, s, moments.kl);
    scan_span(s, left, decay);
    float right_of_own = right;
    if (team == 1) {
      right = fmaf(decay.square[by_span], right, s.total);
    } else {
      if (lane_index() == 0) total[turn][member] = s.total;
      block_sync();
      for (int i = 0; i < team; i++) {
        if (i == member) right_of_own = right;
        right = fmaf(decay.square[by_span], right, total[turn][i]);
      }
      turn ^= 1;
    }
    write_span(op, first, left, s, right_of_own, decay, moments);
  }
}

/* partial [blocks], at most `threads` of them */
template <int team>
__global__ void __launch_bounds__(threads, 2)
    ppo_advantage(PpoAdvantage op, Moments *partial, uint32_t *counter) {
  const int teams = warps / team; /* of a block */
  int tokens = op.replies.tokens, blocks = static_cast<int>(gridDim.x);
  int thread = static_cast<int>(threadIdx.x), block = static_cast<int>(blockIdx.x);
  Decay decay = decay_of(op.gamma * op.lambda);
  Moments own = {};
  int turn = 0;
  for (int i = block * teams + warp_index() / team; i < op.replies.count; i += blocks * teams)
    advantages_of<team>(op, i, warp_index() % team, decay, turn, own);
  own = merge_moments(own);
  if (thread == 0) partial[block] = own;
  grid_barrier(counter);
  Moments all = merge_moments(thread < blocks ? partial[thread] : Moments{});
  float variance = tokens > 1 ? all.m2 / static_cast<float>(tokens - 1) : 0.0f;
  if (op.whiten) {
    float inverse = 1.0f / sqrtf(variance + 1e-8f);
    size_t t = static_cast<size_t>(block) * threads + static_cast<size_t>(thread);
    for (; t < static_cast<size_t>(tokens); t += static_cast<size_t>(blocks) * threads)
      op.advantage[t] = (op.advantage[t] - all.mean) * inverse;
  }
  if (block > 0 || thread > 0 || !op.stats) return;
  op.stats[ADVANTAGE_MEAN] = all.mean;
  op.stats[ADVANTAGE_VARIANCE] = variance;
  op.stats[ADVANTAGE_KL] = op.replies.count ? all.kl / static_cast<float>(op.replies.count) : 0.0f;
  op.stats[ADVANTAGE_RETURN] = tokens ? all.returns / static_cast<float>(tokens) : 0.0f;
}

template <int team>
void launch_team(Backend *backend, const PpoAdvantage &op) {
  CudaState *state = cuda_state(backend);
  int blocks = ceil_div<int>(op.replies.count, warps / team);
  int most = cooperative_blocks(state, ppo_advantage<team>, threads, 0);
  if (most > threads) most = threads;
  if (blocks > most) blocks = most;
  if (blocks < 1) blocks = 1; /* the statistics of no tokens are written too */
  Moments *partial =
      static_cast<Moments *>(cuda_workspace(backend, static_cast<size_t>(blocks) * sizeof(Moments)));
  if (!partial) return;
  launch_cooperative(state, {"ppo_advantage", static_cast<unsigned>(blocks), threads, 0}, ppo_advantage<team>,
                     op, partial, state->grid_counter);
}

}  // namespace

void cuda_ppo_advantage(Backend *backend, const PpoAdvantage *op) {
  if (op->replies.max_len > long_reply)
    launch_team<warps>(backend, *op);
  else
    launch_team<1>(backend, *op);
}

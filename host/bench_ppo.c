/* Benchmarks of the heads, of PPO's advantages and losses, and of the optimizer. In the formulas w is the
 * width of a stored element and H the hidden size. */
#include <string.h>

#include "bench_kernels.h"

/* The value head on every token of the replies: hidden is read once, w rows H. */
static void make_scalar_head(BenchInputs *in, const BenchShape *shape, BenchCall *call) {
  int rows = loss_rows(shape), H = shape->hidden;
  call->op = BENCH_OP(in, ScalarHead, .hidden = bench_numbers(in, (size_t)rows * H, ACTIVATION), .row = NULL,
                      .weight = bench_numbers(in, (size_t)H, WEIGHT), .bias = bench_numbers(in, 1, WEIGHT),
                      .out = bench_output(in, (size_t)rows * sizeof(float)), .rows = rows, .hidden_size = H);
  call->bytes = width_of(in) * ((double)rows * H + H + 1) + 4.0 * rows;
  call->size = arena_print(in->arena, "%d x %d", rows, H);
}

/* hidden is read, dhidden written, 2 w rows H. */
static void make_scalar_head_backward(BenchInputs *in, const BenchShape *shape, BenchCall *call) {
  int rows = loss_rows(shape), H = shape->hidden;
  size_t count = (size_t)rows * H;
  call->op =
      BENCH_OP(in, ScalarHeadBackward, .hidden = bench_numbers(in, count, ACTIVATION), .row = NULL,
               .weight = bench_numbers(in, (size_t)H, WEIGHT), .dout = bench_floats(in, (size_t)rows, WEIGHT),
               .dhidden = bench_output(in, count * dtype_bytes(in->backend->storage)), .accumulate = false,
               .dweight = bench_numbers(in, (size_t)H, WEIGHT), .dbias = bench_numbers(in, 1, WEIGHT),
               .rows = rows, .hidden_size = H);
  call->bytes = width_of(in) * (2.0 * rows * H + 3.0 * H + 2) + 4.0 * rows;
  call->size = arena_print(in->arena, "%d x %d", rows, H);
}

/* The named rows of hidden are read, their gradients written: 4 w pairs H, in one launch. */
static void make_reward_head(BenchInputs *in, const BenchShape *shape, BenchCall *call) {
  int pairs = (shape->sequences + 1) / 2, H = shape->hidden, step = shape->longest;
  size_t all = (size_t)2 * pairs * step * H;
  call->op = BENCH_OP(in, RewardHead, .hidden = bench_numbers(in, all, ACTIVATION),
                      .row = bench_steps(in, 2 * pairs, step - 1, step),
                      .weight = bench_numbers(in, (size_t)H, WEIGHT), .bias = bench_numbers(in, 1, WEIGHT),
                      .margin = NULL, .smoothing = 0, .scale = 1 / (float)pairs,
                      .reward = bench_output(in, (size_t)pairs * 2 * sizeof(float)),
                      .loss = bench_output(in, (size_t)pairs * sizeof(float)),
                      .dhidden = bench_output(in, all * dtype_bytes(in->backend->storage)),
                      .dweight = bench_numbers(in, (size_t)H, WEIGHT), .dbias = bench_numbers(in, 1, WEIGHT),
                      .pairs = pairs, .hidden_size = H);
  call->bytes = width_of(in) * (4.0 * pairs * H + 3.0 * H + 3) + 20.0 * pairs;
  call->size = arena_print(in->arena, "%d pairs x %d", pairs, H);
}

/* Replies of a PPO batch: half to full length, or, of long shapes, its sequences. */
static Sequences replies_of(BenchInputs *in, const BenchShape *shape) {
  if (shape->set == SET_LONG)
    return bench_sequences(in, shape->sequences, shape->shortest, shape->longest, NULL);
  return bench_sequences(in, shape->replies, (shape->reply + 1) / 2, shape->reply, NULL);
}

/* Three numbers a token are read and two written, a score and an offset a reply. */
static void make_ppo_advantage(BenchInputs *in, const BenchShape *shape, BenchCall *call) {
  Sequences replies = replies_of(in, shape);
  size_t N = (size_t)replies.tokens;
  call->op = BENCH_OP(
      in, PpoAdvantage, .replies = replies, .logprob = bench_floats(in, N, ACTIVATION),
      .ref_logprob = bench_floats(in, N, ACTIVATION), .value = bench_floats(in, N, ACTIVATION),
      .score = bench_floats(in, (size_t)replies.count, ACTIVATION), .kl_kind = KL_K1, .kl_coef = 0.05f,
      .gamma = 1, .lambda = 0.95f, .whiten = true, .advantage = bench_output(in, N * sizeof(float)),
      .returns = bench_output(in, N * sizeof(float)),
      .stats = bench_output(in, ADVANTAGE_STATS * sizeof(float)));
  call->bytes = 20.0 * (double)N + 8.0 * replies.count;
  call->size = arena_print(in->arena, "%d replies, %d tokens", replies.count, replies.tokens);
}

/* Six numbers a token are read and two written. */
static void make_ppo_loss(BenchInputs *in, const BenchShape *shape, BenchCall *call) {
  Sequences replies = replies_of(in, shape);
  size_t N = (size_t)replies.tokens;
  call->op =
      BENCH_OP(in, PpoLoss, .logprob = bench_floats(in, N, WEIGHT),
               .old_logprob = bench_floats(in, N, WEIGHT), .advantage = bench_floats(in, N, ACTIVATION),
               .value = bench_floats(in, N, ACTIVATION), .old_value = bench_floats(in, N, ACTIVATION),
               .returns = bench_floats(in, N, ACTIVATION), .clip_low = 0.2f, .clip_high = 0.2f,
               .value_clip = 0.2f, .value_coef = 0.1f, .scale = 1 / (float)(N ? N : 1),
               .dlogprob = bench_output(in, N * sizeof(float)), .dvalue = bench_output(in, N * sizeof(float)),
               .stats = bench_output(in, PPO_STATS * sizeof(float)), .tokens = replies.tokens);
  call->bytes = 32.0 * (double)N;
  call->size = arena_print(in->arena, "%d tokens", replies.tokens);
}

/* Each gradient is read once. */
static void make_grad_norm(BenchInputs *in, const BenchShape *shape, BenchCall *call) {
  size_t count = (size_t)shape->parameters;
  call->op = BENCH_OP(in, GradNorm, .grad = bench_numbers(in, count, WEIGHT), .count = count,
                      .norm = bench_output(in, sizeof(float)));
  call->bytes = width_of(in) * (double)count;
  call->size = arena_print(in->arena, "%.4g M parameters", (double)count / 1e6);
}

/* Three fp32 states are read and written, the gradient is read, the copy written where there is one: 28 bytes
 * a parameter, with bf16 and a copy as with fp32 without. */
static void make_adamw(BenchInputs *in, const BenchShape *shape, BenchCall *call) {
  size_t count = (size_t)shape->parameters, width = dtype_bytes(in->backend->storage);
  bool copied = in->backend->storage != F32;
  float *master = bench_floats(in, count, WEIGHT);
  call->op = BENCH_OP(in, AdamW, .master = master, .m = bench_output(in, count * sizeof(float)),
                      .v = bench_output(in, count * sizeof(float)), .grad = bench_numbers(in, count, WEIGHT),
                      .copy = copied ? bench_output(in, count * width) : master, .count = count,
                      .decay_count = count - count / 100, .lr = 1e-4f, .beta1 = 0.9f, .beta2 = 0.95f,
                      .epsilon = 1e-8f, .weight_decay = 0.01f, .step = 10,
                      .norm = bench_output(in, sizeof(float)), .max_norm = 1);
  call->bytes = (24.0 + (double)width + (copied ? (double)width : 0)) * (double)count;
  call->size = arena_print(in->arena, "%.4g M parameters", (double)count / 1e6);
}

BENCH_RUN(scalar_head)
BENCH_RUN(scalar_head_backward)
BENCH_RUN(reward_head)
BENCH_RUN(ppo_advantage)
BENCH_RUN(ppo_loss)
BENCH_RUN(grad_norm)
BENCH_RUN(adamw)

enum { SETS = SET_RLHF | SET_LARGE | SET_TINY };

static const BenchKernel rows[] = {
    {"scalar_head", SETS, "the value head", make_scalar_head, run_scalar_head, NULL, NULL},
    {"scalar_head_backward", SETS, "its gradients", make_scalar_head_backward, run_scalar_head_backward, NULL,
     NULL},
    {"reward_head", SETS, "reward head, pairwise loss and their gradients", make_reward_head, run_reward_head,
     NULL, NULL},
    {"ppo_advantage", SET_RLHF | SET_LONG | SET_TINY, "KL rewards, GAE, whitening", make_ppo_advantage,
     run_ppo_advantage, NULL, NULL},
    {"ppo_loss", SET_RLHF | SET_TINY, "clipped losses and their gradients", make_ppo_loss, run_ppo_loss, NULL,
     NULL},
    {"grad_norm", SETS, "norm of all gradients", make_grad_norm, run_grad_norm, NULL, NULL},
    {"adamw", SETS, "one optimizer step over all parameters", make_adamw, run_adamw, NULL, NULL},
};

const BenchKernels bench_ppo_kernels = BENCH_ROWS(rows);

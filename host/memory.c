#include "memory.h"

#include <limits.h>
#include <string.h>

#include "base/comm.h"
#include "batch.h"
#include "models/model.h"
#include "ppo.h"
#include "reward_model.h"
#include "rollout.h"
#include "share.h"
#include "trainer.h"

/* A stage in the making. */
typedef struct Sum {
  const MemoryQuestion *question;
  DType storage;
  int prompt, sequence, reply; /* tokens of the longest of each */
  int rated, rated_prompt;     /* of the longest sequence that the reward model reads, and its post's part */
  MemoryNeed need;
} Sum;

static Sum begin(const MemoryQuestion *question) {
  const DataSettings *data = &question->experiment->data;
  Sum sum = {.question = question,
             .storage = backend_storage(question->kind),
             .prompt = question->prompt_start + data->max_post_tokens + 1,
             .reply = data->max_reply_tokens};
  sum.sequence = sum.prompt + sum.reply + 1;
  sum.rated_prompt = question->reward_start + reward_post_tokens(question->experiment) + 1;
  sum.rated = sum.rated_prompt + reward_reply_tokens(question->experiment) + 1;
  return sum;
}

/* A model of the stage; shares: its base is another model's, which is counted. */
static void add_model(Sum *sum, const DecoderConfig *config, ModelParts parts, bool trained, bool shares) {
  Arena arena = {0};
  Model model;
  model_declare(&arena, &model, config, parts);
  size_t frozen = parameters_frozen_bytes(&model.parameters, sum->storage);
  sum->need.parameters += parameters_bytes(&model.parameters, sum->storage, trained) - frozen;
  if (!shares) sum->need.base += frozen;
  /* A GPU's weights and moments are copied to the host to be saved. */
  if (trained && strcmp(sum->question->kind, "cpu") != 0)
    sum->need.data += 3 * (parameters_bytes(&model.parameters, F32, false) -
                           parameters_frozen_bytes(&model.parameters, F32));
  arena_free(&arena);
}

static void add_pass(Sum *sum, const DecoderConfig *config, int tokens, int rows, ActivationsUse use) {
  bool trains = use != ACTIVATIONS_INFERENCE;
  sum->need.activations += activations_bytes(config, sum->storage, tokens, use) +
                           model_rows_bytes(config, sum->storage, rows, trains);
}

static void add_batch(Sum *sum, int tokens, int sequences) {
  sum->need.activations += batch_bytes(tokens, sequences);
  sum->need.data += batch_bytes(tokens, sequences); /* the host's copy */
}

/* A batch that is dealt to the ranks, and this one's part of it: own tokens. */
static void add_shared_batch(Sum *sum, int tokens, int own, int sequences) {
  add_batch(sum, tokens, sequences);
  if (comm.size > 1) add_batch(sum, own, sequences);
}

static void add_reward_buffers(Sum *sum, const DecoderConfig *config, int tokens) {
  sum->need.activations += reward_model_bytes(config, sum->storage, tokens);
}

/* The largest operation of all passes counts. */
static void add_scratch(Sum *sum, const DecoderConfig *c, int tokens, int rows, int sampled, bool trains) {
  int longest = BRANCHED_LENGTHS * (sum->sequence > sum->rated ? sum->sequence : sum->rated);
  PassShape shape = {.tokens = tokens,
                     .rows = rows,
                     .sampled_rows = sampled,
                     .hidden = c->hidden,
                     .mlp = c->mlp,
                     .mlp_out = c->activation == ACTIVATION_SWIGLU ? 2 * c->mlp : c->mlp,
                     .attention = c->heads * c->head_dim,
                     .qkv = (c->heads + 2 * c->kv_heads) * c->head_dim,
                     .vocab = c->vocab,
                     .head_dim = c->head_dim,
                     .kv_heads = c->kv_heads,
                     .max_len = longest < tokens ? longest : tokens,
                     .prefix_len = c->prefix_tokens,
                     .trains = trains,
                     .trains_matrices = trains && !decoder_adapted(c),
                     .weights = decoder_adapted(c) ? c->base : WEIGHT_NATIVE};
  size_t bytes = backend_scratch(sum->question->kind, &shape);
  if (bytes > sum->need.scratch) sum->need.scratch = bytes;
}

/* Measured: a tokenizer takes its caches and tables of Unicode, and about 12 times its file (on one of 49152
 * tokens) for its own tables and what reading the file leaves behind. A file's index is 8 bytes a line and an
 * example's 8 bytes, of which texts of 64 make an eighth. */
enum { TOKENIZER_TABLES = 4 << 20, TOKENIZER_FACTOR = 12, INDEX_SHARE = 8 };

static MemoryNeed finish(Sum *sum) {
  MemoryNeed *need = &sum->need;
  const MemoryQuestion *question = sum->question;
  need->scratch += backend_fixed(question->kind);
  need->device = need->base + need->parameters + need->activations + need->sampler + need->scratch;
  need->data += question->files + question->files / INDEX_SHARE + TOKENIZER_TABLES +
                TOKENIZER_FACTOR * question->tokenizer;
  return *need;
}

/* Whether the reward model's frozen base is the policy's. */
static bool base_shared(const MemoryQuestion *question) { return !question->experiment->reward.from; }

MemoryNeed memory_sft(const MemoryQuestion *question) {
  Sum sum = begin(question);
  const DecoderConfig *config = question->model;
  int tokens = question->experiment->sft.tokens_per_batch;
  int own = share_most(tokens, sum.sequence, comm.size);
  add_model(&sum, config, (ModelParts){0}, true, false);
  add_pass(&sum, config, own, own, training_activations(question->experiment));
  add_shared_batch(&sum, tokens, own, tokens);
  sum.need.activations += 2 * (size_t)own * sizeof(float); /* logprobs */
  add_scratch(&sum, config, own, own, 0, true);
  return finish(&sum);
}

MemoryNeed memory_reward(const MemoryQuestion *question) {
  Sum sum = begin(question);
  const DecoderConfig *config = question->reward;
  const RewardSettings *settings = &question->experiment->reward;
  int pair = reward_pair_tokens(settings->input, sum.rated_prompt, sum.rated);
  int pairs = settings->pairs_per_batch, tokens = pairs * pair, own = share_most(tokens, pair, comm.size);
  add_model(&sum, config, (ModelParts){.reward_head = true}, true, false);
  add_pass(&sum, config, own, 2 * pairs, training_activations(question->experiment));
  add_shared_batch(&sum, tokens, own, 2 * pairs);
  sum.need.activations += 4 * (size_t)pairs * sizeof(float); /* rewards, losses, margins */
  add_reward_buffers(&sum, config, own);
  add_scratch(&sum, config, own, 0, 0, true);
  return finish(&sum);
}

MemoryNeed memory_ppo(const MemoryQuestion *question) {
  Sum sum = begin(question);
  const DecoderConfig *config = question->model;
  const DecoderConfig *reward = question->reward;
  const PpoSettings *ppo = &question->experiment->ppo;
  ActivationsUse use = training_activations(question->experiment);
  PpoPass pass = ppo_pass(ppo, sum.sequence, sum.reply);
  int samples = ppo->posts_per_step * ppo->samples_per_post;
  bool shared = ppo->critic == CRITIC_SHARED;
  add_model(&sum, config, (ModelParts){.value_head = shared}, true, false);
  add_model(&sum, config, (ModelParts){0}, false, true); /* the reference */
  add_model(&sum, reward, (ModelParts){.reward_head = true}, false, base_shared(question));
  if (!shared) add_model(&sum, reward, (ModelParts){.value_head = true}, true, base_shared(question));
  add_pass(&sum, config, pass.tokens, pass.rows, use);
  add_pass(&sum, config, pass.tokens, pass.rows, ACTIVATIONS_INFERENCE);
  if (!shared) add_pass(&sum, reward, pass.tokens, pass.rows, use);
  add_batch(&sum, pass.tokens, ppo->minibatch);
  sum.need.activations += ppo_values_bytes(ppo, sum.reply);
  add_reward_buffers(&sum, reward, reward_model_tokens(samples, sum.rated));
  sum.need.sampler =
      rollout_bytes(config, sum.storage, sum.prompt, sum.reply, ppo->posts_per_step, ppo->samples_per_post);
  add_scratch(&sum, config, pass.tokens, pass.rows, samples, true);
  if (!shared) add_scratch(&sum, reward, pass.tokens, 0, 0, true);
  return finish(&sum);
}

MemoryNeed memory_evaluate(const MemoryQuestion *question) {
  Sum sum = begin(question);
  const EvaluateSettings *evaluate = &question->experiment->evaluate;
  const DecoderConfig *reward = question->reward;
  int posts = rollout_evaluated_at_once(evaluate->posts > 0 ? evaluate->posts : INT_MAX), samples = 0;
  for (int i = 0; i < evaluate->top_count; i++)
    if (evaluate->tops[i] > samples) samples = evaluate->tops[i];
  add_model(&sum, question->model, (ModelParts){0}, false, false);
  add_model(&sum, reward, (ModelParts){.reward_head = true}, false, base_shared(question));
  add_reward_buffers(&sum, reward, reward_model_tokens(posts * samples, sum.rated));
  sum.need.sampler = rollout_bytes(question->model, sum.storage, sum.prompt, sum.reply, posts, samples);
  int own = comm_part_most(posts);
  add_scratch(&sum, question->model, own * sum.prompt, 0, own * samples, false);
  return finish(&sum);
}

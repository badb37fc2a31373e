#include "experiment_keys.h"

#include <string.h>

#include "models/config.h"

#define AT(member) offsetof(Experiment, member)
#define SECTION(path_, help_) \
  { .path = path_, .type = KEY_SECTION, .fallback = "{}", .help = help_, .offset = NO_OFFSET }
#define NUMBER(path_, member, least_, most_, fallback_, help_)                                     \
  {                                                                                                \
    .path = path_, .type = KEY_NUMBER, .fallback = fallback_, .help = help_, .offset = AT(member), \
    .least = least_, .most = most_                                                                 \
  }
#define POSITIVE(path_, member, most_, fallback_, help_)                                           \
  {                                                                                                \
    .path = path_, .type = KEY_NUMBER, .fallback = fallback_, .help = help_, .offset = AT(member), \
    .least = 0, .most = most_, .above = true                                                       \
  }
#define INT(path_, member, least_, most_, fallback_, help_)                                     \
  {                                                                                             \
    .path = path_, .type = KEY_INT, .fallback = fallback_, .help = help_, .offset = AT(member), \
    .least = least_, .most = most_                                                              \
  }
#define ENUM(path_, member, names_, fallback_, help_)                                            \
  {                                                                                              \
    .path = path_, .type = KEY_ENUM, .fallback = fallback_, .help = help_, .offset = AT(member), \
    .names = names_                                                                              \
  }
#define PRESET(path_, fallback_, help_)                                                                      \
  {                                                                                                          \
    .path = path_, .type = KEY_ENUM, .names = experiment_preset_names, .fallback = fallback_, .help = help_, \
    .nullable = true, .place = PLACE_PRESET, .offset = NO_OFFSET                                             \
  }
#define BOOL(path_, member, fallback_, help_) \
  { .path = path_, .type = KEY_BOOL, .fallback = fallback_, .help = help_, .offset = AT(member) }
#define FILE_(path_, member, help_)                                                           \
  {                                                                                           \
    .path = path_, .type = KEY_FILE, .fallback = "null", .help = help_, .offset = AT(member), \
    .nullable = true                                                                          \
  }

#define OPTIMIZER(section, member, lr_, schedule_, warmup_, decay_)                                    \
  POSITIVE(section ".lr", member.lr, 1, lr_, "Highest learning rate of AdamW."),                       \
      ENUM(section ".schedule", member.schedule, schedule_names, schedule_,                            \
           "How the learning rate falls after the warm-up; cosine and linear end at 0."),              \
      NUMBER(section ".warmup", member.warmup, 0, 1, warmup_,                                          \
             "Share of the steps in which the rate rises from 0."),                                    \
      NUMBER(section ".beta1", member.beta1, 0, 0.9999, "0.9", "AdamW's decay of the mean gradient."), \
      NUMBER(section ".beta2", member.beta2, 0, 0.99999, "0.999",                                      \
             "AdamW's decay of the mean squared gradient."),                                           \
      POSITIVE(section ".epsilon", member.epsilon, 1, "1e-8", "AdamW's epsilon."),                     \
      NUMBER(section ".weight_decay", member.weight_decay, 0, 10, decay_,                              \
             "AdamW's decoupled weight decay, of matrices only."),                                     \
      NUMBER(section ".grad_clip", member.grad_clip, 0, 1e6, "1.0",                                    \
             "Largest norm of all gradients together; 0: no limit.")

#define SAMPLING(section, member)                                                      \
  SECTION(section, "The distribution that replies are drawn from."),                   \
      NUMBER(section ".temperature", member.temperature, 0, 100, "0.95",               \
             "Divides the logits; 0 takes the most likely token."),                    \
      POSITIVE(section ".top_p", member.top_p, 1, "0.7",                               \
               "Draw from the smallest set of tokens with this probability; 1: all."), \
      INT(section ".top_k", member.top_k, 0, 1000000, "0", "Draw from so many most likely tokens; 0: all.")

static const char *const schedule_names[] = {"constant", "cosine", "linear", NULL};
static const char *const init_names[] = {"sft", "random", NULL};
static const char *const orient_names[] = {"likes", "as_listed", NULL};
static const char *const input_names[] = {"post_reply", "reply_post", NULL};
static const char *const critic_names[] = {"shared", "reward", NULL};
static const char *const control_names[] = {"adaptive", "fixed", NULL};
static const char *const estimator_names[] = {"k1", "k2", "k3", NULL};
static const char *const metric_names[] = {"none", "rouge_1", "rouge_2", "rouge_l", "bleu_4", NULL};
static const char *const scope_names[] = {"none", "batch", "post", NULL};
static const char *const pace_names[] = {"none", "reward_prob", "quantile", NULL};
static const char *const prob_names[] = {"product", "geometric", NULL};
static const char *const q_names[] = {"linear", "root", "exponential", "step", "competence", NULL};
static const char *const difficulty_names[] = {"reward_prob", "reward",   "logprob",
                                               "length",      "like_gap", NULL};
static const char *const order_names[] = {"easy", "hard", "random", NULL};
static const char *const segmentation_names[] = {"characters", "words", NULL};
static const char *const split_names[] = {"dev", "train", NULL};

const ExperimentKey experiment_keys[] = {
    {.path = "$schema",
     .type = KEY_TEXT,
     .fallback = "null",
     .nullable = true,
     .place = PLACE_FILE,
     .offset = NO_OFFSET,
     .help = "The schema that an editor completes keys from; not read."},
    {.path = "extends",
     .type = KEY_FILE,
     .fallback = "null",
     .nullable = true,
     .place = PLACE_FILE,
     .offset = NO_OFFSET,
     .help = "Another experiment file, whose keys (but not its name) hold where this one says nothing."},
    {.path = "name",
     .type = KEY_TEXT,
     .fallback = NULL,
     .place = PLACE_FILE,
     .offset = AT(name),
     .help = "The folder under runs/; without it the file's name."},
    PRESET("preset", "\"paper\"",
           "Defaults of the other keys: as the paper has it, or the released code; null: \"paper\"."),
    {.path = "seed",
     .type = KEY_SEED,
     .fallback = "2023",
     .most = 0x1p53,
     .offset = AT(seed),
     .help = "Every random number of the training comes from it."},
    {.path = "device",
     .type = KEY_TEXT,
     .fallback = "\"auto\"",
     .place = PLACE_FILE,
     .offset = AT(device),
     .help = "\"auto\" (the first GPU, else the CPU), \"cpu\", \"cuda\" or \"cuda:n\"."},

    SECTION("data", "Posts, their replies and likes: three files, or the synthetic world."),
    FILE_("data.train", data.train,
          "Posts to train on, JSON lines {\"weibo\", \"resp\", \"like\"}, the most liked reply first."),
    FILE_("data.dev", data.dev, "Posts to measure on, in the same form."),
    FILE_("data.pairs", data.pairs,
          "Reply pairs with their likes, JSON lines {\"weibo\", \"text_j\", \"text_k\", \"text_j_like\", "
          "\"text_k_like\"}."),
    {.path = "data.synth",
     .type = KEY_SECTION,
     .fallback = "null",
     .nullable = true,
     .offset = AT(data.synth),
     .help = "Make the files from a small grammar with known popularity and known label noise; {} takes the "
             "defaults."},
    {.path = "data.synth.seed",
     .type = KEY_SEED,
     .fallback = "1",
     .most = 0x1p53,
     .offset = AT(data.world.seed),
     .help = "Of the world alone, so that all seeds of an ablation share it."},
    INT("data.synth.train_posts", data.world.train_posts, 1, 150000, "2000", "Posts in the training file."),
    INT("data.synth.dev_posts", data.world.dev_posts, 1, 50000, "200", "Posts in the dev file."),
    INT("data.synth.replies_per_post", data.world.replies_per_post, 2, 64, "6",
        "Replies kept of each post: the most liked of twice as many."),
    NUMBER("data.synth.exposure_noise", data.world.exposure_noise, 0, 10, "0.35",
           "Sigma of the log exposure of a post's replies; 0: none."),
    NUMBER("data.synth.early_bird", data.world.early_bird, 0, 10, "0.7",
           "Extra log-likes of the first replies, falling with their rank of arrival."),
    NUMBER("data.synth.author_noise", data.world.author_noise, 0, 10, "0.25",
           "Sigma of the author's log-followers."),
    NUMBER("data.synth.flip", data.world.flip, 0, 1, "0.02",
           "Probability that a reply's likes are replaced by another's."),
    {.path = "data.instruction",
     .type = KEY_TEXT,
     .fallback = "\"\"",
     .offset = AT(data.instruction),
     .help = "Stands before every post."},
    INT("data.max_post_tokens", data.max_post_tokens, 1, 1 << 20, "128", "Longer posts are cut."),
    INT("data.max_reply_tokens", data.max_reply_tokens, 1, 1 << 20, "32",
        "Longer replies are cut, and generation stops."),

    SECTION("tokenizer", "Trained on the training file, or an existing one."),
    FILE_(
        "tokenizer.path", tokenizer.path,
        "An existing tokenizer: a tokenizer.json, a vocab.json with its merges.txt, a vocab.txt, or a folder "
        "with one of them; null: train one."),
    SECTION("tokenizer.train", "Byte-level BPE."),
    INT("tokenizer.train.vocab_size", tokenizer.vocab_size, 259, 1 << 20, "8192",
        "Tokens at most, with 3 special ones and 256 bytes."),
    INT("tokenizer.train.min_frequency", tokenizer.min_frequency, 1, 1000000, "2",
        "Pairs seen less often are not merged."),

    SECTION("model", "The decoder that all stages train."),
    {.path = "model.preset",
     .type = KEY_MODEL,
     .fallback = "\"gpt2-tiny\"",
     .offset = AT(model_preset),
     .help = "A model description under models/presets, or the path of one."},
    FILE_("model.from", model_from,
          "A model's folder (popalm import makes one) to start from instead of an untrained preset; its "
          "tokenizer is taken unless \"tokenizer.path\" names one."),

    SECTION("adapter",
            "Adapters on model.from, of low rank (LoRA), prefixes or both: all stages train them instead of all "
            "weights."),
    INT("adapter.rank", adapter.rank, 0, 4096, "0", "Rank of an adapter; 0: none."),
    POSITIVE("adapter.alpha", adapter.alpha, 1e6, "16", "An adapter's output is scaled by alpha / rank."),
    NUMBER("adapter.dropout", adapter.dropout, 0, LORA_DROPOUT_MOST, "0",
           "Share of an adapter's input that is set to 0 in SFT and reward training; PPO has none."),
    {.path = "adapter.targets",
     .type = KEY_TEXT,
     .fallback = "\"q,v\"",
     .offset = AT(adapter.targets),
     .help = "What gets one, with commas: q, k, v, or qkv as a whole; proj, gate, up, down."},
    INT("adapter.prefix_tokens", adapter.prefix_tokens, 0, PREFIX_TOKENS_MOST, "0",
        "Trained keys and values of so many tokens before every sequence, in every layer (P-tuning v2); 0: none."),
    ENUM("adapter.base", adapter.base, base_names, "\"native\"",
         "What the frozen matrices under an adapter stand in: native (fp32 on the CPU, bf16 on a GPU), bf16, or "
         "int8 in blocks of 32 with a scale each."),

    SECTION("sft", "Supervised fine-tuning: the likelihood of the replies."),
    POSITIVE("sft.epochs", sft.epochs, 10000, "3",
             "Passes over the training replies; fractions are allowed."),
    INT("sft.tokens_per_batch", sft.tokens_per_batch, 1, 1 << 24, "8192",
        "Tokens of one step, posts and replies together."),
    INT("sft.replies_per_post", sft.replies_per_post, 0, 1000000, "0",
        "Train on so many most liked replies of each post; 0: all."),
    OPTIMIZER("sft", sft.optimizer, "3e-4", "\"cosine\"", "0.05", "0.01"),

    SECTION("reward", "The reward model: which of two replies has more likes."),
    ENUM("reward.init", reward.init, init_names, "\"sft\"",
         "What its trunk starts from where the next two say nothing: the SFT model, or random weights."),
    FILE_("reward.from", reward.from,
          "A model's folder (popalm import makes one) to start from instead; it reads texts with its own "
          "tokenizer."),
    BOOL("reward.adapter", reward.adapter, "false",
         "Of reward.from, train an adapter as \"adapter\" describes it instead of all weights."),
    {.path = "reward.preset",
     .type = KEY_MODEL,
     .fallback = "null",
     .nullable = true,
     .offset = AT(reward.preset),
     .help = "An untrained model of this description instead, with the policy's tokenizer."},
    INT("reward.max_post_tokens", reward.max_post_tokens, 0, 1 << 20, "0",
        "Longer posts are cut for the reward model; 0: at data.max_post_tokens."),
    INT("reward.max_reply_tokens", reward.max_reply_tokens, 0, 1 << 20, "0",
        "Longer replies are cut for the reward model; 0: at data.max_reply_tokens."),
    ENUM("reward.orient", reward.orient, orient_names, "\"likes\"",
         "The better reply of a pair: the one with more likes, or text_j as the released code has it."),
    ENUM("reward.input", reward.input, input_names, "\"post_reply\"",
         "Order of the texts: as the paper's figure, or as the released code."),
    POSITIVE("reward.epochs", reward.epochs, 10000, "2", "Passes over the pairs; fractions are allowed."),
    INT("reward.pairs_per_batch", reward.pairs_per_batch, 1, 1 << 20, "64", "Pairs of one step."),
    NUMBER("reward.holdout", reward.holdout, 0, 0.9, "0.1",
           "Share of the posts whose pairs are only measured on."),
    NUMBER("reward.min_like_ratio", reward.min_like_ratio, 1, 1e9, "1",
           "Pairs whose likes are closer are left out of training; 1: none."),
    NUMBER("reward.margin", reward.margin, 0, 100, "0", "Margin of the loss: this times ln(like ratio)."),
    NUMBER("reward.smoothing", reward.smoothing, 0, 0.499, "0",
           "Label smoothing: the probability that a label is wrong."),
    OPTIMIZER("reward", reward.optimizer, "2e-5", "\"linear\"", "0", "0.001"),

    SECTION("ppo", "Curriculum-learning PPO against the reward model."),
    INT("ppo.posts_per_step", ppo.posts_per_step, 1, 1 << 20, "16", "Posts drawn in a step (the paper's b)."),
    INT("ppo.samples_per_post", ppo.samples_per_post, 1, 4096, "3",
        "Replies sampled for each post (the paper's m)."),
    INT("ppo.steps", ppo.steps, 1, 100000000, "200", "Steps of sampling and updating."),
    INT("ppo.epochs", ppo.epochs, 1, 1000, "1", "Passes over the kept samples of a step."),
    INT("ppo.minibatch", ppo.minibatch, 1, 1 << 20, "8",
        "Samples of one optimizer update; a step that keeps fewer is skipped."),
    NUMBER("ppo.gamma", ppo.gamma, 0, 1, "1.0", "Discount of later rewards."),
    NUMBER("ppo.lambda", ppo.lambda, 0, 1, "0.95", "Of generalised advantage estimation."),
    POSITIVE("ppo.clip", ppo.clip, 10, "0.2", "The probability ratio is clipped at 1 - clip and 1 + clip."),
    NUMBER("ppo.clip_high", ppo.clip_high, 0, 10, "0", "Another upper clip; 0: the same."),
    NUMBER("ppo.dual_clip", ppo.dual_clip, 0, 100, "0",
           "Limit of the ratio where the advantage is negative; 0: none."),
    POSITIVE("ppo.value_clip", ppo.value_clip, 1e9, "0.2",
             "The value moves at most this far from the old one."),
    NUMBER("ppo.value_coef", ppo.value_coef, 0, 1000, "0.1", "Weight of the value loss."),
    NUMBER("ppo.entropy_coef", ppo.entropy_coef, 0, 1000, "0", "Weight of the entropy bonus."),
    ENUM("ppo.critic", ppo.critic, critic_names, "\"shared\"",
         "A value head on the policy's trunk, or a network of its own started from the reward model."),
    BOOL("ppo.whiten", ppo.whiten, "true", "Scale the advantages to mean 0 and variance 1."),
    NUMBER("ppo.missing_eos_penalty", ppo.missing_eos_penalty, 0, 1e6, "0",
           "Taken from the reward of a reply that never ends."),
    INT("ppo.sample_every", ppo.sample_every, 1, 1000000, "10", "Steps between rows of samples.jsonl."),
    SECTION("ppo.kl", "Cost of moving away from the SFT model."),
    ENUM("ppo.kl.kind", ppo.kl_control, control_names, "\"adaptive\"",
         "Move the coefficient towards the target, or leave it."),
    ENUM("ppo.kl.estimator", ppo.kl_kind, estimator_names, "\"k1\"",
         "Of a token's divergence, x = logprob - reference: x, x^2/2, or exp(-x) - 1 + x."),
    NUMBER("ppo.kl.coef", ppo.kl_coef, 0, 1000, "0.1", "Coefficient at the first step (beta)."),
    POSITIVE("ppo.kl.target", ppo.kl_target, 1e6, "6",
             "Divergence of a reply that adaptive control aims at, in nats."),
    POSITIVE("ppo.kl.horizon", ppo.kl_horizon, 1e12, "10000", "Samples over which adaptive control reacts."),
    SAMPLING("ppo.sampling", ppo.sampling),
    {.path = "ppo.curriculum",
     .type = KEY_SECTION,
     .fallback = "{}",
     .nullable = true,
     .offset = NO_OFFSET,
     .help = "Which samples are learned from and when; null: plain PPO."},
    PRESET("ppo.curriculum.preset", "null", "The same for the curriculum alone; null: as \"preset\" says."),
    {.path = "ppo.curriculum.enhance",
     .type = KEY_SECTION,
     .fallback = "{}",
     .nullable = true,
     .offset = NO_OFFSET,
     .help = "Reward enhancement: add the best overlap with the post's golden replies; null: none."},
    ENUM("ppo.curriculum.enhance.metric", ppo.curriculum.enhance, metric_names, "\"rouge_l\"",
         "The overlap that is added to the reward."),
    NUMBER("ppo.curriculum.enhance.weight", ppo.curriculum.enhance_weight, -1000, 1000, "1.0", "Its weight."),
    {.path = "ppo.curriculum.rank",
     .type = KEY_SECTION,
     .fallback = "{}",
     .nullable = true,
     .offset = NO_OFFSET,
     .help = "Reward ranking: keep the samples with the highest rewards; null: all."},
    {.path = "ppo.curriculum.rank.scope",
     .type = KEY_ENUM,
     .fallback = "\"batch\"",
     .names = scope_names,
     .offset = AT(ppo.curriculum.rank),
     .help = "The highest of the whole batch, or of each post."},
    POSITIVE("ppo.curriculum.rank.keep", ppo.curriculum.rank_keep, 1, "0.3333333333333333",
             "Share of the batch, or of each post's samples, that is kept (rounded down)."),
    {.path = "ppo.curriculum.pace",
     .type = KEY_SECTION,
     .fallback = "{}",
     .nullable = true,
     .offset = NO_OFFSET,
     .help = "Self-paced sampling: easy samples first; null: all at once."},
    ENUM("ppo.curriculum.pace.kind", ppo.curriculum.pace, pace_names, "\"reward_prob\"",
         "Keep a sample if reward times probability exceeds a falling limit, or keep a growing share."),
    NUMBER("ppo.curriculum.pace.start", ppo.curriculum.pace_start, 0, 1e9, "0.01",
           "reward_prob: the limit at the first step."),
    POSITIVE("ppo.curriculum.pace.decay", ppo.curriculum.pace_decay, 1, "0.95",
             "reward_prob: its factor a step."),
    ENUM("ppo.curriculum.pace.prob", ppo.curriculum.pace_prob, prob_names, "\"product\"",
         "Probability of a reply: product over its tokens, or the mean a token, which does not depend on "
         "length."),
    {.path = "ppo.curriculum.pace.absolute",
     .type = KEY_BOOL,
     .fallback = "false",
     .offset = AT(ppo.curriculum.pace_absolute),
     .help = "Compare |reward times probability|, so that very bad samples pass too."},
    ENUM("ppo.curriculum.pace.q", ppo.curriculum.pace_q, q_names, "\"linear\"",
         "quantile: how the kept share grows with the steps."),
    POSITIVE("ppo.curriculum.pace.q_start", ppo.curriculum.pace_q_start, 1, "0.3",
             "quantile: the share at the first step."),
    POSITIVE("ppo.curriculum.pace.q_end_at", ppo.curriculum.pace_q_end_at, 1, "0.5",
             "quantile: all are kept from this fraction of the steps."),
    ENUM("ppo.curriculum.pace.difficulty", ppo.curriculum.pace_difficulty, difficulty_names,
         "\"reward_prob\"", "quantile: what makes a sample easy."),
    ENUM("ppo.curriculum.pace.order", ppo.curriculum.pace_order, order_names, "\"easy\"",
         "Easy first, hard first, or as many samples at random, the control for \"fewer samples\"."),
    OPTIMIZER("ppo", ppo.optimizer, "1.41e-5", "\"constant\"", "0", "0"),

    SECTION("evaluate", "What the SFT and the PPO model are measured on."),
    {.path = "evaluate.split",
     .type = KEY_TEXT,
     .fallback = "\"dev\"",
     .names = split_names,
     .offset = AT(evaluate.split),
     .help = "The posts to measure on: dev or train."},
    INT("evaluate.posts", evaluate.posts, 0, 1 << 30, "0", "At most so many posts; 0: all."),
    {.path = "evaluate.replies",
     .type = KEY_TOPS,
     .fallback = "[1, 3, 5]",
     .least = 1,
     .most = 1000,
     .offset = AT(evaluate.tops),
     .help = "Measure the best of so many replies a post."},
    ENUM("evaluate.segmentation", evaluate.segmentation, segmentation_names, "\"characters\"",
         "What texts are compared by."),
    FILE_("evaluate.dictionary", evaluate.dictionary,
          "Word list for segmentation \"words\": one \"word frequency\" a line."),
    SAMPLING("evaluate.sampling", evaluate.sampling),

    SECTION("memory", "What saves memory and changes no result."),
    BOOL("memory.recompute", recompute, "false",
         "Keep only each layer's input in training and compute the rest again in the backward pass."),

    SECTION("gates", "What must hold before a run goes on; one that does not is stopped, with the reason."),
    NUMBER("gates.perplexity", gates.perplexity, 0, 1e9, "0",
           "SFT: the held-out perplexity at most; 0: any."),
    NUMBER("gates.reward_accuracy", gates.reward_accuracy, 0, 1, "0",
           "Reward model: the share of held-out pairs ordered as their likes, at least; 0: any."),
    NUMBER("gates.ended", gates.ended, 0, 1, "0",
           "Evaluation of the SFT model: the share of its replies that end, at least; 0: any."),

    SECTION("checkpoint", "How often a running stage saves what it needs to resume."),
    INT("checkpoint.every_steps", checkpoint.every_steps, 0, 100000000, "0",
        "Steps between two; 0: by time alone."),
    NUMBER("checkpoint.every_seconds", checkpoint.every_seconds, 0, 1e9, "300",
           "Seconds between two; 0: by steps alone."),

    {.path = "ablate",
     .type = KEY_SECTION,
     .fallback = "null",
     .nullable = true,
     .place = PLACE_FILE,
     .offset = NO_OFFSET,
     .help = "Run several variants with several seeds and compare them."},
    {.path = "ablate.arms",
     .type = KEY_ARMS,
     .fallback = "{}",
     .place = PLACE_FILE,
     .offset = NO_OFFSET,
     .help = "{arm: {dotted path: value}}: each variant and what it changes; {} changes nothing."},
    {.path = "ablate.grid",
     .type = KEY_GRID,
     .fallback = "null",
     .nullable = true,
     .place = PLACE_FILE,
     .offset = NO_OFFSET,
     .help = "{dotted path: [value, ...]}: one more arm for each combination, named as in "
             "\"kind=none,keep=0.5\"."},
    {.path = "ablate.seeds",
     .type = KEY_SEEDS,
     .fallback = NULL,
     .place = PLACE_FILE,
     .most = 0x1p53,
     .offset = NO_OFFSET,
     .help = "Every arm runs once with each of these; without it once, with the experiment's seed."},
    {.path = "ablate.baseline",
     .type = KEY_TEXT,
     .fallback = NULL,
     .place = PLACE_FILE,
     .offset = NO_OFFSET,
     .help = "The arm that the others are compared with; without it the first."},
    {.path = "ablate.baselines",
     .type = KEY_WORDS,
     .fallback = "{}",
     .place = PLACE_FILE,
     .offset = NO_OFFSET,
     .help =
         "{arm: baseline}: arms with a baseline of their own, for example the one with the same label noise; "
         "such a baseline is not compared itself."},
    {.path = "ablate.metric",
     .type = KEY_TEXT,
     .fallback = "\"evaluate.reward\"",
     .place = PLACE_FILE,
     .offset = NO_OFFSET,
     .help = "The metric that the comparison is about: \"evaluate.\" and a name of results.json."},
};
const int experiment_key_count = sizeof experiment_keys / sizeof *experiment_keys;

int experiment_key_find(const char *path) {
  for (int i = 0; i < experiment_key_count; i++)
    if (strcmp(experiment_keys[i].path, path) == 0) return i;
  return -1;
}

bool experiment_key_names_file(const char *path) {
  int index = experiment_key_find(path);
  return index >= 0 && (experiment_keys[index].type == KEY_FILE || experiment_keys[index].type == KEY_MODEL);
}

static void add_names(const char *const *names, Text *out) {
  for (int i = 0; names[i]; i++)
    text_print(out, "%s\"%s\"", i == 0 ? "" : names[i + 1] ? ", " : " or ", names[i]);
}

static void add_range(const ExperimentKey *key, Text *out) {
  const char *kind = key->type == KEY_NUMBER ? "a number" : "a whole number";
  if (key->above)
    text_print(out, "%s above %.15g, at most %.15g", kind, key->least, key->most);
  else
    text_print(out, "%s from %.15g to %.16g", kind, key->least, key->most);
}

void experiment_key_expects(const ExperimentKey *key, Text *out) {
  static const char *const plain[] = {[KEY_SECTION] = "an object",
                                      [KEY_BOOL] = "true or false",
                                      [KEY_TEXT] = "a text",
                                      [KEY_FILE] = "the path of a file",
                                      [KEY_MODEL] = "a preset's name or the path of a file",
                                      [KEY_TOPS] = "a rising list of 1 to 8 whole numbers from 1 to 1000",
                                      [KEY_SEEDS] = "a list of different whole numbers from 0",
                                      [KEY_ARMS] = "an object of objects",
                                      [KEY_GRID] = "an object of lists",
                                      [KEY_WORDS] = "an object of texts"};
  if (key->names)
    add_names(key->names, out);
  else if (key->type == KEY_INT || key->type == KEY_NUMBER || key->type == KEY_SEED)
    add_range(key, out);
  else
    text_print(out, "%s", plain[key->type]);
  if (key->nullable) text_print(out, " or null");
}

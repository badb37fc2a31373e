/* How the values of an experiment fit together. Each check is a row: it says what is wrong at the key that is
 * the likeliest to be changed. */
#include <ctype.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "experiment_layers.h"
#include "models/config.h"
#include "tokenizer.h"

bool experiment_name_ok(const char *name) {
  size_t length = strlen(name);
  if (length == 0 || length > 100 || name[0] == '.' || strcmp(name, "stages") == 0) return false;
  for (const char *c = name; *c; c++)
    if (!isascii(*c) || (!isalnum(*c) && !strchr("._-", *c))) return false;
  return true;
}

static Status check_device(const Layers *layers, const Experiment *e) {
  const char *d = e->device;
  bool good = strcmp(d, "auto") == 0 || strcmp(d, "cpu") == 0 || strcmp(d, "cuda") == 0;
  if (strncmp(d, "cuda:", 5) == 0 && d[5] && strlen(d) <= 8)
    good = strspn(d + 5, "0123456789") == strlen(d + 5);
  if (good) return OK;
  return refuse_setting(layers, "device",
                        "\"device\" is \"%s\"; it must be \"auto\", \"cpu\", \"cuda\" or \"cuda:n\"", d);
}

static Status check_data(const Layers *layers, const Experiment *e) {
  const struct {
    const char *key, *path;
  } files[] = {{"data.train", e->data.train}, {"data.dev", e->data.dev}, {"data.pairs", e->data.pairs}};
  bool any = e->data.train || e->data.dev || e->data.pairs;
  if (!any && !e->data.synth)
    return refuse_setting(
        layers, "data",
        "there is no data; set \"data.train\", \"data.dev\" and \"data.pairs\", or \"data.synth\": {} "
        "for the synthetic world");
  for (int i = 0; i < 3; i++) {
    if (e->data.synth && files[i].path)
      return refuse_setting(layers, files[i].key,
                            "\"%s\" and \"data.synth\" exclude each other; set one of them to null",
                            files[i].key);
    if (!e->data.synth && !files[i].path)
      return refuse_setting(layers, "data",
                            "\"%s\" is missing; add it (popalm data converts files and makes pairs)",
                            files[i].key);
  }
  return OK;
}

static Status check_files(const Layers *layers, const Experiment *e) {
  const struct {
    const char *key, *path;
  } files[] = {
      {"data.train", e->data.train},
      {"data.dev", e->data.dev},
      {"data.pairs", e->data.pairs},
      {"model.from", e->model_from ? path_join(layers->arena, e->model_from, "model.safetensors") : NULL},
      {"tokenizer.path", e->tokenizer.path},
      {"reward.from", e->reward.from ? path_join(layers->arena, e->reward.from, "model.safetensors") : NULL},
      {"reward.from", e->reward.from ? path_join(layers->arena, e->reward.from, "tokenizer.json") : NULL},
      {"reward.preset", e->reward.preset && strchr(e->reward.preset, '/') ? e->reward.preset : NULL},
      {"evaluate.dictionary", e->evaluate.dictionary},
      {"model.preset", strchr(e->model_preset, '/') ? e->model_preset : NULL}};
  for (size_t i = 0; i < sizeof files / sizeof *files; i++)
    if (files[i].path && access(files[i].path, R_OK) != 0)
      return refuse_setting(layers, files[i].key, "\"%s\": the file %s cannot be read; correct the path",
                            files[i].key, files[i].path);
  return OK;
}

static Status check_preset(const Layers *layers, const char *key, const char *preset) {
  const char *path, *const *names = NULL;
  if (!preset || decoder_preset_path(layers->arena, preset, &path) == OK) return OK;
  int count = decoder_preset_names(layers->arena, &names);
  Text list = {.arena = layers->arena};
  for (int i = 0; i < count; i++) text_print(&list, "%s\"%s\"", i ? ", " : "", names[i]);
  const char *near = nearest_name(preset, names, count);
  if (near) return refuse_setting(layers, key, "\"%s\" is \"%s\"; did you mean \"%s\"?", key, preset, near);
  return refuse_setting(layers, key, "\"%s\" is \"%s\"; use one of %s, or the path of a .json file", key,
                        preset, list.data ? list.data : "none");
}

static Status check_model(const Layers *layers, const Experiment *e) {
  TRY(check_preset(layers, "model.preset", e->model_preset));
  return check_preset(layers, "reward.preset", e->reward.preset);
}

static Status check_reward(const Layers *layers, const Experiment *e) {
  const char *other = e->reward.preset                       ? "reward.preset"
                      : e->reward.init == REWARD_INIT_RANDOM ? "reward.init"
                                                             : NULL;
  if (e->reward.adapter && (!e->reward.from || !(e->adapter.rank || e->adapter.prefix_tokens)))
    return refuse_setting(
        layers, "reward.adapter",
        "\"reward.adapter\" is for a model that \"reward.from\" names, with \"adapter.rank\" or "
        "\"adapter.prefix_tokens\" above 0; set both, or this to false");
  if (!e->reward.from || !other) return OK;
  return refuse_setting(
      layers, other,
      "\"reward.from\" starts from a trained model, \"%s\" from an untrained one; remove one of "
      "the two",
      other);
}

/* The critic reads the policy's tokens, so a reward model with another tokenizer cannot become one. */
static Status check_critic(const Layers *layers, const Experiment *e) {
  if (e->ppo.critic != CRITIC_REWARD || !e->reward.from) return OK;
  Tokenizer *own, *policys = NULL;
  TRY(tokenizer_load(layers->arena, path_join(layers->arena, e->reward.from, "tokenizer.json"), &own));
  if (e->tokenizer.path) TRY(tokenizer_load(layers->arena, e->tokenizer.path, &policys));
  if (policys && tokenizer_same(own, policys)) return OK;
  return refuse_setting(layers, "ppo.critic",
                        "\"ppo.critic\" is \"reward\", but the reward model of \"reward.from\" has another "
                        "tokenizer than the policy, so it cannot read the policy's tokens; use \"shared\"");
}

double rank_share(double count, double keep) { return floor(keep * count + 1e-9); }

double ranked_samples(const PpoSettings *p) {
  double samples = (double)p->posts_per_step * p->samples_per_post, keep = p->curriculum.rank_keep;
  if (p->curriculum.rank == RANK_BATCH) return fmax(1, rank_share(samples, keep));
  if (p->curriculum.rank == RANK_POST)
    return p->posts_per_step * fmax(1, rank_share(p->samples_per_post, keep));
  return samples;
}

/* Without a curriculum every step has the same samples, so a remainder would be a short minibatch, whose
 * samples weigh more than others, in every step. Ranking and pace make no such promise; popalm check says
 * what they leave. */
static Status check_division(const Layers *layers, const PpoSettings *p, double samples) {
  int count = (int)samples, below = p->minibatch, above = p->minibatch;
  bool chosen = p->curriculum.rank != RANK_NONE || p->curriculum.pace != PACE_NONE;
  if (chosen || count % p->minibatch == 0) return OK;
  while (count % below) below--;
  while (count % above) above++;
  return refuse_setting(
      layers, "ppo.minibatch",
      "\"ppo.minibatch\" %d does not divide the %d x %d = %d samples of a step; use %d or %d", p->minibatch,
      p->posts_per_step, p->samples_per_post, count, below, above);
}

/* The first of the keys that the experiment says something about, else the first: where a message points. */
static const char *said_among(const Layers *layers, const char *const *keys, size_t count) {
  for (size_t i = 0; i < count; i++)
    if (layers->settings[experiment_key_find(keys[i])].value) return keys[i];
  return keys[0];
}

static Status check_batches(const Layers *layers, const Experiment *e) {
  static const char *const sizes[] = {"ppo.curriculum.rank.keep", "ppo.minibatch", "ppo.samples_per_post",
                                      "ppo.posts_per_step"};
  const PpoSettings *p = &e->ppo;
  double samples = (double)p->posts_per_step * p->samples_per_post, kept = ranked_samples(p);
  if (p->minibatch > samples)
    return refuse_setting(
        layers, "ppo.minibatch",
        "\"ppo.minibatch\" is %d, but a step has %d x %d = %.0f samples; make it at most that", p->minibatch,
        p->posts_per_step, p->samples_per_post, samples);
  if (kept >= p->minibatch) return check_division(layers, p, samples);
  return refuse_setting(layers, said_among(layers, sizes, sizeof sizes / sizeof *sizes),
                        "ranking keeps %.0f of %.0f samples, fewer than \"ppo.minibatch\" (%d), so every "
                        "step would be skipped; "
                        "raise \"keep\" or lower the minibatch",
                        kept, samples, p->minibatch);
}

static Status check_sampling(const Layers *layers, const Experiment *e) {
  if (e->ppo.sampling.temperature == 0)
    return refuse_setting(layers, "ppo.sampling.temperature",
                          "\"ppo.sampling.temperature\" is 0, so a post's samples would all be the "
                          "same; use a number above 0");
  int most = e->evaluate.tops[e->evaluate.top_count - 1];
  if (e->evaluate.sampling.temperature == 0 && most > 1)
    return refuse_setting(layers, "evaluate.sampling.temperature",
                          "\"evaluate.sampling.temperature\" is 0, so the %d replies of \"evaluate.replies\" "
                          "would be the same; "
                          "use a number above 0, or \"replies\": [1]",
                          most);
  return OK;
}

static Status check_words(const Layers *layers, const Experiment *e) {
  if (e->evaluate.segmentation != SEGMENT_WORDS || e->evaluate.dictionary) return OK;
  return refuse_setting(layers, "evaluate.segmentation",
                        "\"evaluate.segmentation\" is \"words\", but there is no \"evaluate.dictionary\"; "
                        "give the path of a word list");
}

static Status check_clips(const Layers *layers, const Experiment *e) {
  double high = e->ppo.clip_high > 0 ? e->ppo.clip_high : e->ppo.clip;
  if (e->ppo.clip >= 1)
    return refuse_setting(layers, "ppo.clip",
                          "\"ppo.clip\" is %g, so a ratio of 0 would not be clipped; use a number below 1",
                          e->ppo.clip);
  if (e->ppo.dual_clip > 0 && e->ppo.dual_clip <= 1 + high)
    return refuse_setting(layers, "ppo.dual_clip",
                          "\"ppo.dual_clip\" is %g; it must be 0 (none) or above 1 + the upper clip, %g",
                          e->ppo.dual_clip, 1 + high);
  return OK;
}

static Status check_tokens(const Layers *layers, const Experiment *e) {
  int longest = e->data.max_post_tokens + e->data.max_reply_tokens;
  if (e->sft.tokens_per_batch >= longest) return OK;
  return refuse_setting(
      layers, "sft.tokens_per_batch",
      "\"sft.tokens_per_batch\" is %d, but one post with its reply can have %d tokens; make it at least that",
      e->sft.tokens_per_batch, longest);
}

static Status check_gates(const Layers *layers, const Experiment *e) {
  if (e->gates.reward_accuracy > 0 && e->reward.holdout == 0)
    return refuse_setting(layers, "gates.reward_accuracy",
                          "\"gates.reward_accuracy\" is about held-out pairs, but \"reward.holdout\" is 0; "
                          "hold some out");
  if (e->gates.perplexity > 0 && e->gates.perplexity < 1)
    return refuse_setting(
        layers, "gates.perplexity",
        "\"gates.perplexity\" is %g, but no perplexity is below 1; use a number above 1, or 0 "
        "for no gate",
        e->gates.perplexity);
  return OK;
}

Status experiment_check(const Layers *layers, const Experiment *experiment) {
  static Status (*const checks[])(const Layers *, const Experiment *) = {
      check_device,  check_data,     check_files, check_model, check_reward, check_critic,
      check_batches, check_sampling, check_words, check_clips, check_tokens, check_gates};
  for (size_t i = 0; i < sizeof checks / sizeof *checks; i++) TRY(checks[i](layers, experiment));
  return OK;
}

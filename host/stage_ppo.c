/* CL-PPO: sample replies, reward them, choose by the curriculum, learn by PPO. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/comm.h"
#include "curriculum.h"
#include "dataset.h"
#include "ppo.h"
#include "progress.h"
#include "reward_model.h"
#include "rollout.h"
#include "stage.h"
#include "trainer.h"

typedef struct PpoStage {
  const StageContext *context;
  const PpoSettings *settings;
  Dataset train;
  PromptCodec codec;
  RewardModel reward;
  Rollout rollout;
  Ppo ppo;
  Metrics *metrics;
  FILE *samples; /* samples.jsonl; NULL at all ranks but the first */
  TrainingState state;
  int64_t step;
  int64_t skipped; /* steps with fewer samples than a minibatch */
  Arena scratch;   /* of one step */
} PpoStage;

/* One sample of a step with everything that is known of it. */
typedef struct StepSample {
  int post;
  Reply reply;
  const char *text;
  double model_reward, enhancement,
      reward; /* of the reward model, weight * metric, their sum less penalties */
} StepSample;

typedef struct StepData {
  int posts, count; /* b, b * m */
  Post *post;       /* [posts] */
  const int32_t **prompt;
  int *prompt_length;
  StepSample *sample; /* [count], samples of a post together */
} StepData;

static Status open_stage(PpoStage *stage) {
  const StageContext *context = stage->context;
  Arena *arena = context->arena;
  SamplingSettings unused;
  TRY(dataset_open(arena, context->train, DATASET_POSTS, &stage->train));
  TRY(prompt_load(arena, context->input[STAGE_SFT], &stage->codec, &unused));
  TRY(ppo_open(arena, &stage->ppo, context->experiment, context->backend, context->input[STAGE_SFT],
               context->input[STAGE_REWARD], sequence_max(&stage->codec), stage->codec.max_reply_tokens));
  if (stage->settings->critic == CRITIC_REWARD)
    TRY(prompt_check(&stage->codec, &stage->ppo.critic.model.decoder.config,
                     reward_model_name(context->experiment)));
  TRY(reward_model_load(arena, &stage->reward, context->backend, context->input[STAGE_REWARD],
                        &stage->ppo.policy.model));
  TRY(reward_model_reserve(&stage->reward,
                           stage->settings->posts_per_step * stage->settings->samples_per_post));
  return rollout_allocate(arena, &stage->rollout, &stage->ppo.policy.model, &stage->codec,
                          stage->settings->posts_per_step, stage->settings->samples_per_post);
}

static Status resume(PpoStage *stage) {
  const StageContext *context = stage->context;
  Model *models[2];
  int count = ppo_models(&stage->ppo, models);
  cJSON *meta;
  TRY(state_open(context->arena, &stage->state, &context->experiment->checkpoint, context->folder, models,
                 count, &meta));
  if (meta) {
    stage->step = stage->state.saved_step;
    stage->ppo.kl_coef = cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(meta, "kl_coef"));
    stage->ppo.updates = (int64_t)cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(meta, "updates"));
    stage->skipped = (int64_t)cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(meta, "skipped"));
    cJSON_Delete(meta);
  }
  if (comm_is_first()) {
    const char *path = path_join(context->arena, context->folder, "samples.jsonl");
    TRY(rows_cut(path, stage->step));
    stage->samples = fopen(path, "a");
    if (!stage->samples) return fail(FAILED, "%s: cannot be written; check the folder and its rights", path);
  }
  return metrics_open(context->arena, context->folder, stage->step, &stage->metrics);
}

/* All 17 digits: cJSON's own printing may lose the last bit, and a resumed run would differ. */
static void add_exactly(cJSON *object, const char *name, double value) {
  char digits[32];
  snprintf(digits, sizeof digits, "%.17g", value);
  cJSON_AddRawToObject(object, name, digits);
}

static Status save(PpoStage *stage) {
  Model *models[2];
  int count = ppo_models(&stage->ppo, models);
  cJSON *meta = cJSON_CreateObject();
  add_exactly(meta, "kl_coef", stage->ppo.kl_coef);
  cJSON_AddNumberToObject(meta, "updates", (double)stage->ppo.updates);
  cJSON_AddNumberToObject(meta, "skipped", (double)stage->skipped);
  if (stage->samples) fflush(stage->samples);
  return state_save(&stage->state, stage->step, models, count, stage->metrics, meta);
}

/* ---- one step ---- */

static Status choose_posts(PpoStage *stage, StepData *data) {
  Arena *scratch = &stage->scratch;
  data->posts = stage->settings->posts_per_step;
  data->count = data->posts * stage->settings->samples_per_post;
  data->post = NEW(scratch, Post, data->posts);
  data->prompt = NEW(scratch, const int32_t *, data->posts);
  data->prompt_length = NEW(scratch, int, data->posts);
  data->sample = NEW(scratch, StepSample, data->count);
  uint64_t posts = (uint64_t)stage->train.count;
  for (int p = 0; p < data->posts; p++) {
    uint64_t at = (uint64_t)stage->step * (uint64_t)data->posts + (uint64_t)p;
    RandomKey key = {stage->context->experiment->seed, RANDOM_ROLLOUT, UINT32_MAX - (uint32_t)(at / posts)};
    TRY(dataset_post(&stage->train, (int64_t)random_permutation(key, posts, at % posts), scratch,
                     &data->post[p]));
    int32_t *prompt = NEW(scratch, int32_t, prompt_max(&stage->codec));
    data->prompt_length[p] = prompt_encode(&stage->codec, data->post[p].text, prompt);
    data->prompt[p] = prompt;
  }
  return OK;
}

static Status sample_replies(PpoStage *stage, StepData *data) {
  Reply *replies = NEW(&stage->scratch, Reply, data->count);
  RolloutRequest request = {.prompts = data->prompt,
                            .prompt_lengths = data->prompt_length,
                            .posts = data->posts,
                            .samples = stage->settings->samples_per_post,
                            .sampling = stage->settings->sampling,
                            .key = {stage->context->experiment->seed, RANDOM_ROLLOUT, (uint32_t)stage->step}};
  TRY(rollout_run(&stage->rollout, &request, &stage->scratch, replies));
  for (int i = 0; i < data->count; i++) {
    StepSample *sample = &data->sample[i];
    sample->post = i / request.samples;
    sample->reply = replies[i];
    sample->text =
        tokenizer_decode_text(stage->codec.tokenizer, &stage->scratch, replies[i].tokens, replies[i].length);
  }
  return OK;
}

/* The best of the metric over the golden replies. */
static double enhancement(PpoStage *stage, const StepSample *sample, const Tokens *golden, int count) {
  const CurriculumSettings *curriculum = &stage->settings->curriculum;
  Arena *scratch = &stage->scratch;
  Tokens tokens = text_tokens(scratch, sample->text, strlen(sample->text), SEGMENT_CHARACTERS, NULL);
  double best = 0;
  for (int i = 0; i < count; i++) {
    double value = 0;
    switch (curriculum->enhance) {
      case ENHANCE_NONE:
        return 0;
      case ENHANCE_ROUGE_1:
        value = rouge_n(tokens, golden[i], 1, scratch).f;
        break;
      case ENHANCE_ROUGE_2:
        value = rouge_n(tokens, golden[i], 2, scratch).f;
        break;
      case ENHANCE_ROUGE_L:
        value = rouge_l(tokens, golden[i], scratch).f;
        break;
      case ENHANCE_BLEU_4:
        return curriculum->enhance_weight * bleu_4(tokens, golden, count, scratch);
    }
    best = fmax(best, value);
  }
  return curriculum->enhance_weight * best;
}

/* Every rank compares a part of the replies with the golden ones. */
static void enhance_replies(PpoStage *stage, StepData *data) {
  int *first = NEW(&stage->scratch, int, comm.size + 1);
  double *value = NEW(&stage->scratch, double, data->count);
  Tokens *golden = NULL;
  comm_parts(data->count, first);
  for (int i = first[comm.rank]; i < first[comm.rank + 1]; i++) {
    const StepSample *sample = &data->sample[i];
    const Post *post = &data->post[sample->post];
    if (!golden || sample->post != sample[-1].post) {
      golden = NEW(&stage->scratch, Tokens, post->replies);
      for (int g = 0; g < post->replies; g++)
        golden[g] =
            text_tokens(&stage->scratch, post->reply[g], strlen(post->reply[g]), SEGMENT_CHARACTERS, NULL);
    }
    value[i] = enhancement(stage, sample, golden, post->replies);
  }
  comm_all_gather(value, sizeof *value, first);
  for (int i = 0; i < data->count; i++) data->sample[i].enhancement = value[i];
}

static Status reward_replies(PpoStage *stage, StepData *data) {
  Scored *scored = NEW(&stage->scratch, Scored, data->count);
  for (int i = 0; i < data->count; i++)
    scored[i] = (Scored){.post = data->post[data->sample[i].post].text, .reply = data->sample[i].text};
  TRY(reward_model_score(&stage->reward, scored, data->count));
  enhance_replies(stage, data);
  for (int i = 0; i < data->count; i++) {
    StepSample *sample = &data->sample[i];
    sample->model_reward = scored[i].reward;
    sample->reward = sample->model_reward + sample->enhancement;
    if (!sample->reply.ended) sample->reward -= stage->settings->missing_eos_penalty;
  }
  return OK;
}

static double like_gap(const Post *post) {
  if (!post->like || post->replies < 2) return 0;
  return log((post->like[0] + 1) / (post->like[post->replies / 2] + 1));
}

static CurriculumStep choose_samples(PpoStage *stage, StepData *data, CurriculumSample *chosen) {
  for (int i = 0; i < data->count; i++) {
    const StepSample *sample = &data->sample[i];
    double logprob = 0;
    for (int t = 0; t < sample->reply.length; t++) logprob += (double)sample->reply.logprob[t];
    chosen[i] = (CurriculumSample){.post = sample->post,
                                   .reward = sample->reward,
                                   .logprob = logprob,
                                   .length = sample->reply.length,
                                   .like_gap = like_gap(&data->post[sample->post])};
  }
  RandomKey key = {stage->context->experiment->seed, RANDOM_CURRICULUM, (uint32_t)stage->step};
  CurriculumStep selected =
      curriculum_select(&stage->settings->curriculum, stage->step, stage->settings->steps, key, chosen,
                        data->count, &stage->scratch);
  /* One decision for all ranks, also where another machine's exp() differs in the last bit. */
  comm_broadcast(chosen, sizeof *chosen * (size_t)data->count);
  comm_broadcast(&selected, sizeof selected);
  return selected;
}

static Status learn(PpoStage *stage, const StepData *data, const CurriculumSample *chosen, PpoStep *out) {
  PpoSample *samples = NEW(&stage->scratch, PpoSample, data->count);
  int count = 0;
  for (int i = 0; i < data->count; i++) {
    const StepSample *sample = &data->sample[i];
    if (chosen[i].fate != KEPT) continue;
    samples[count++] = (PpoSample){.prompt = data->prompt[sample->post],
                                   .reply = sample->reply.tokens,
                                   .prompt_length = data->prompt_length[sample->post],
                                   .reply_length = sample->reply.length,
                                   .score = sample->reward};
  }
  double lr = learning_rate(&stage->settings->optimizer, stage->step, stage->settings->steps);
  RandomKey key = {stage->context->experiment->seed, RANDOM_SHUFFLE, (uint32_t)stage->step};
  TRY(ppo_update(&stage->ppo, samples, count, lr, key, out));
  if (isfinite(out->policy_loss) && isfinite(out->value_loss)) return OK;
  return fail(FAILED, "ppo: the loss is not a finite number at step %lld; lower ppo.lr or raise ppo.kl.coef",
              (long long)stage->step);
}

/* ---- what is logged ---- */

typedef struct Named {
  const char *name;
  double value;
} Named;

static void log_rewards(PpoStage *stage, const StepData *data, const CurriculumStep *selected) {
  double reward = 0, model = 0, enhance = 0, squares = 0, length = 0, ended = 0, n = data->count;
  for (int i = 0; i < data->count; i++) {
    const StepSample *sample = &data->sample[i];
    reward += sample->reward / n;
    model += sample->model_reward / n;
    enhance += sample->enhancement / n;
    squares += sample->reward * sample->reward / n;
    length += sample->reply.length / n;
    ended += sample->reply.ended / n;
  }
  const Named rows[] = {{"reward", reward},
                        {"reward_model", model},
                        {"enhancement", enhance},
                        {"reward_std", sqrt(fmax(0, squares - reward * reward))},
                        {"reply_length", length},
                        {"ended", ended},
                        {"kept_rank", selected->kept_rank / n},
                        {"kept_pace", selected->kept_pace / n},
                        {"lambda", selected->threshold}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
    metrics_add(stage->metrics, rows[i].name, rows[i].value);
}

static void log_update(PpoStage *stage, const PpoStep *update) {
  const Named rows[] = {{"policy_loss", update->policy_loss},
                        {"value_loss", update->value_loss},
                        {"clip_fraction", update->clip_fraction},
                        {"value_clip_fraction", update->value_clip_fraction},
                        {"approx_kl", update->approx_kl},
                        {"entropy", update->entropy},
                        {"kl", update->kl},
                        {"kl_k3", update->kl_k3},
                        {"kl_coef", stage->ppo.kl_coef},
                        {"advantage_std", update->advantage_std},
                        {"explained_variance", update->explained_variance},
                        {"mean_return", update->mean_return},
                        {"grad_norm", update->grad_norm},
                        {"updates", update->updates}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
    metrics_add(stage->metrics, rows[i].name, rows[i].value);
}

static Status write_samples(PpoStage *stage, const StepData *data, const CurriculumSample *chosen) {
  if (!stage->samples) return OK;
  for (int i = 0; i < data->count; i++) {
    const StepSample *sample = &data->sample[i];
    const CurriculumSettings *curriculum = &stage->settings->curriculum;
    cJSON *row = cJSON_CreateObject();
    cJSON_AddNumberToObject(row, "step", (double)stage->step + 1);
    cJSON_AddStringToObject(row, "post", data->post[sample->post].text);
    cJSON_AddStringToObject(row, "reply", sample->text);
    cJSON_AddNumberToObject(row, "reward", sample->reward);
    cJSON_AddNumberToObject(row, "reward_model", sample->model_reward);
    cJSON_AddNumberToObject(row, "enhancement", sample->enhancement);
    cJSON_AddNumberToObject(row, "prob", sample_probability(curriculum, chosen[i].logprob, chosen[i].length));
    cJSON_AddStringToObject(row, "fate", sample_fate_name(chosen[i].fate));
    char *text = cJSON_PrintUnformatted(row);
    fprintf(stage->samples, "%s\n", text);
    cJSON_free(text);
    cJSON_Delete(row);
  }
  if (fflush(stage->samples) != 0)
    return fail(FAILED, "%s/samples.jsonl: cannot be written; free space", stage->context->folder);
  return OK;
}

/* ---- warnings: said once each ---- */

typedef struct Watch {
  double ended, kl, reward_std, skipped; /* running sums over WATCH_STEPS steps */
  int steps;
  bool said_ended, said_negative, said_large, said_flat, said_skipped;
} Watch;

enum { WATCH_STEPS = 20 };

static void say_once(bool *said, bool condition, const char *message) {
  if (!condition || *said) return;
  *said = true;
  progress_say("warning: ppo: %s", message);
}

static void watch(Watch *w, const StepData *data, bool skipped, double kl, double kl_target) {
  double mean = 0, squares = 0;
  for (int i = 0; i < data->count; i++) {
    mean += data->sample[i].reward / data->count;
    squares += data->sample[i].reward * data->sample[i].reward / data->count;
    w->ended += data->sample[i].reply.ended / (double)data->count;
  }
  w->reward_std += sqrt(fmax(0, squares - mean * mean));
  w->kl += skipped ? 0 : kl;
  w->skipped += skipped;
  if (++w->steps < WATCH_STEPS) return;
  double learned = WATCH_STEPS - w->skipped;
  say_once(
      &w->said_ended, w->ended / WATCH_STEPS < 0.5,
      "most replies never end; train SFT longer, raise data.max_reply_tokens or set ppo.missing_eos_penalty");
  say_once(&w->said_flat, w->reward_std / WATCH_STEPS < 1e-3,
           "the rewards have no variance; there is nothing to learn from");
  say_once(&w->said_negative, learned > 0 && w->kl / learned < -0.5,
           "the KL estimate is negative: the samples come from a sharper distribution (top_p, temperature) "
           "than the "
           "policy; see kl_k3");
  say_once(&w->said_large, learned > 0 && w->kl / learned > 5 * kl_target,
           "the KL is over 5 times its target; raise ppo.kl.coef or lower ppo.lr");
  say_once(&w->said_skipped, w->skipped / WATCH_STEPS > 0.9,
           "nearly all steps are skipped, since the curriculum keeps fewer samples than ppo.minibatch; lower "
           "ppo.minibatch or ppo.curriculum.pace.start");
  w->ended = w->kl = w->reward_std = w->skipped = 0;
  w->steps = 0;
}

/* ---- the stage ---- */

static Status ppo_stage_step(PpoStage *stage, Watch *w, double *reward) {
  StepData data = {0};
  TRY(choose_posts(stage, &data));
  TRY(sample_replies(stage, &data));
  TRY(reward_replies(stage, &data));
  CurriculumSample *chosen = NEW(&stage->scratch, CurriculumSample, data.count);
  CurriculumStep selected = choose_samples(stage, &data, chosen);
  bool skipped = selected.kept_pace < stage->settings->minibatch;
  PpoStep update = {0};
  if (skipped) stage->skipped++;
  if (!skipped) TRY(learn(stage, &data, chosen, &update));
  watch(w, &data, skipped, update.kl, stage->settings->kl_target);
  int64_t step = stage->step + 1;
  bool show = stage->settings->sample_every > 0 && (step % stage->settings->sample_every == 0 || step == 1);
  if (show) TRY(write_samples(stage, &data, chosen));
  metrics_begin(stage->metrics, step);
  log_rewards(stage, &data, &selected);
  if (!skipped) log_update(stage, &update);
  metrics_add(stage->metrics, "skipped", (double)stage->skipped);
  stage->step++;
  *reward = 0;
  for (int i = 0; i < data.count; i++) *reward += data.sample[i].model_reward / data.count;
  return metrics_end(stage->metrics);
}

static Status train_ppo(PpoStage *stage) {
  Progress progress;
  Watch w = {0};
  int64_t steps = stage->settings->steps;
  progress_begin(&progress, stage->context->label, steps, stage->step);
  while (stage->step < steps) {
    double reward;
    ArenaMark mark = arena_mark(&stage->scratch);
    Status status = ppo_stage_step(stage, &w, &reward);
    arena_reset(&stage->scratch, mark);
    TRY(status);
    progress_step(&progress, stage->step, 0, "reward", reward);
    if (stage->step < steps && state_due(&stage->state, stage->step)) TRY(save(stage));
  }
  Arena note = {0};
  const char *said = stage->skipped ? arena_print(&note, "%lld of %lld steps skipped",
                                                  (long long)stage->skipped, (long long)steps)
                                    : NULL;
  progress_end(&progress, said);
  arena_free(&note);
  return metrics_close(stage->metrics);
}

static Status run_ppo(PpoStage *stage) {
  TRY(open_stage(stage));
  TRY(resume(stage));
  TRY(train_ppo(stage));
  TRY(model_save(&stage->ppo.policy.model, stage->context->folder));
  TRY(prompt_save(&stage->codec, &stage->context->experiment->evaluate.sampling, stage->context->folder));
  state_remove(&stage->state);
  return OK;
}

Status stage_ppo(const StageContext *context) {
  PpoStage stage = {.context = context, .settings = &context->experiment->ppo};
  Status status = run_ppo(&stage);
  if (stage.samples) fclose(stage.samples);
  rollout_free(&stage.rollout);
  ppo_close(&stage.ppo);
  reward_model_free(&stage.reward);
  dataset_close(&stage.train);
  arena_free(&stage.scratch);
  return status;
}

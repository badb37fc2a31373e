/* Evaluation: n sampled replies a post against all its golden replies. For k of them (Top-k) the pair of
 * reply and golden reply with the best ROUGE-1 F fixes every metric of the post; then the mean over posts. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/comm.h"
#include "dataset.h"
#include "progress.h"
#include "reward_model.h"
#include "rollout.h"
#include "stage.h"

typedef struct Evaluation {
  const StageContext *context;
  const EvaluateSettings *settings;
  Dataset data;
  PromptCodec codec;
  Model policy;
  Rollout rollout;
  RewardModel reward;
  World *world; /* NULL without the synthetic world */
  Dictionary *dictionary;
  int posts, samples; /* samples of each post: the largest top */
  Tokens *reply;      /* [posts * samples] the replies, segmented */
  double *popularity; /* [posts * samples] true popularity; NULL without the synthetic world */
  const char **text;  /* [posts * samples] */
  double *rewards;    /* [posts * samples] */
  int ended;
  double tokens;
  cJSON *result; /* evaluate.json */
} Evaluation;

static Status open_evaluation(Evaluation *e, const char *policy_folder) {
  const StageContext *context = e->context;
  Arena *arena = context->arena;
  SamplingSettings unused;
  bool dev = strcmp(e->settings->split, "dev") == 0;
  TRY(dataset_open(arena, dev ? context->dev : context->train, DATASET_POSTS, &e->data));
  TRY(prompt_load(arena, policy_folder, &e->codec, &unused));
  TRY(model_load(arena, &e->policy, context->backend, policy_folder, (ModelParts){0}, false, 0));
  TRY(reward_model_load(arena, &e->reward, context->backend, context->input[STAGE_REWARD], &e->policy));
  if (context->input[STAGE_WORLD])
    TRY(world_load(arena, path_join(arena, context->input[STAGE_WORLD], "world.json"), &e->world));
  if (e->settings->segmentation == SEGMENT_WORDS)
    TRY(dictionary_load(arena, e->settings->dictionary, &e->dictionary));
  for (int i = 0; i < e->settings->top_count; i++)
    if (e->settings->tops[i] > e->samples) e->samples = e->settings->tops[i];
  int64_t posts = e->data.count;
  if (e->settings->posts > 0 && posts > e->settings->posts) posts = e->settings->posts;
  e->posts = (int)posts;
  e->text = NEW(arena, const char *, e->posts * e->samples);
  e->rewards = NEW(arena, double, e->posts * e->samples);
  e->reply = NEW(arena, Tokens, e->posts * e->samples);
  if (e->world) e->popularity = NEW(arena, double, e->posts * e->samples);
  int together = rollout_evaluated_at_once(e->posts);
  TRY(reward_model_reserve(&e->reward, together * e->samples));
  return rollout_allocate(arena, &e->rollout, &e->policy, &e->codec, together, e->samples);
}

static Tokens segment(const Evaluation *e, Arena *arena, const char *text) {
  return text_tokens(arena, text, strlen(text), e->settings->segmentation, e->dictionary);
}

/* Replies to posts first .. first+count-1. */
static Status generate_some(Evaluation *e, int first, int count, Arena *scratch) {
  const StageContext *context = e->context;
  const int32_t **prompts = NEW(scratch, const int32_t *, count);
  int *lengths = NEW(scratch, int, count);
  Scored *scored = NEW(scratch, Scored, count * e->samples);
  Reply *replies = NEW(scratch, Reply, count * e->samples);
  for (int p = 0; p < count; p++) {
    Post post;
    TRY(dataset_post(&e->data, first + p, scratch, &post));
    int32_t *prompt = NEW(scratch, int32_t, prompt_max(&e->codec));
    lengths[p] = prompt_encode(&e->codec, post.text, prompt);
    prompts[p] = prompt;
    for (int s = 0; s < e->samples; s++) scored[p * e->samples + s].post = post.text;
  }
  RolloutRequest request = {.prompts = prompts,
                            .prompt_lengths = lengths,
                            .posts = count,
                            .samples = e->samples,
                            .sampling = e->settings->sampling,
                            .key = {context->experiment->seed, RANDOM_EVALUATE, 0},
                            .first_sample = first * e->samples};
  TRY(rollout_run(&e->rollout, &request, scratch, replies));
  for (int i = 0; i < count * e->samples; i++) {
    const Reply *reply = &replies[i];
    const char *text =
        tokenizer_decode_text(e->codec.tokenizer, context->arena, reply->tokens, reply->length);
    int at = first * e->samples + i;
    e->text[at] = scored[i].reply = text;
    e->reply[at] = segment(e, context->arena, text);
    if (e->world) e->popularity[at] = world_popularity(e->world, scored[i].post, text);
    e->ended += reply->ended;
    e->tokens += reply->length;
  }
  TRY(reward_model_score(&e->reward, scored, count * e->samples));
  for (int i = 0; i < count * e->samples; i++) e->rewards[first * e->samples + i] = scored[i].reward;
  return OK;
}

static Status generate_all(Evaluation *e) {
  Progress progress;
  progress_begin(&progress, e->context->label, e->posts, 0);
  Status status = OK;
  Arena scratch = {0};
  int at_once = rollout_evaluated_at_once(e->posts);
  for (int first = 0; first < e->posts && status == OK; first += at_once) {
    ArenaMark mark = arena_mark(&scratch);
    int count = e->posts - first < at_once ? e->posts - first : at_once;
    double before = e->tokens;
    status = generate_some(e, first, count, &scratch);
    progress_step(&progress, first + count, e->tokens - before, NULL, 0);
    arena_reset(&scratch, mark);
    if (status == OK && comm_any(interrupted))
      status = fail(INTERRUPTED, "interrupted; the same command starts this evaluation again");
  }
  arena_free(&scratch);
  if (status == OK) progress_end(&progress, NULL);
  return status;
}

/* ---- metrics ---- */

typedef enum OverlapMetric { ROUGE_1, ROUGE_2, ROUGE_L, BLEU_4, OVERLAPS } OverlapMetric;
static const char *const overlap_names[OVERLAPS] = {"rouge_1", "rouge_2", "rouge_l", "bleu_4"};

/* The post's metrics for each top. */
typedef struct PostOverlaps {
  double of[MAX_TOPS][OVERLAPS];
} PostOverlaps;

static Status measure_post(Evaluation *e, int p, PostOverlaps *out, Arena *scratch) {
  Post post;
  TRY(dataset_post(&e->data, p, scratch, &post));
  Tokens *golden = NEW(scratch, Tokens, post.replies);
  const Tokens *reply = &e->reply[p * e->samples];
  for (int g = 0; g < post.replies; g++) golden[g] = segment(e, scratch, post.reply[g]);
  double *best = NEW(scratch, double, e->samples); /* ROUGE-1 F of each reply's best golden reply */
  int *best_golden = NEW(scratch, int, e->samples);
  for (int s = 0; s < e->samples; s++) {
    best[s] = -1;
    for (int g = 0; g < post.replies; g++) {
      double f = rouge_n(reply[s], golden[g], 1, scratch).f;
      if (f <= best[s]) continue;
      best[s] = f;
      best_golden[s] = g;
    }
  }
  for (int k = 0; k < e->settings->top_count; k++) {
    int chosen = 0;
    for (int s = 1; s < e->settings->tops[k]; s++)
      if (best[s] > best[chosen]) chosen = s;
    Tokens reference = golden[best_golden[chosen]];
    out->of[k][ROUGE_1] = best[chosen];
    out->of[k][ROUGE_2] = rouge_n(reply[chosen], reference, 2, scratch).f;
    out->of[k][ROUGE_L] = rouge_l(reply[chosen], reference, scratch).f;
    out->of[k][BLEU_4] = bleu_4(reply[chosen], &reference, 1, scratch);
  }
  return OK;
}

/* Every rank measures a part of the posts; all add up the same values in the order of the posts. */
static Status measure_overlap(Evaluation *e) {
  double sums[MAX_TOPS][OVERLAPS] = {0};
  Arena scratch = {0};
  Status status = OK;
  int *part = NEW(&scratch, int, comm.size + 1);
  PostOverlaps *post = NEW(&scratch, PostOverlaps, e->posts);
  comm_parts(e->posts, part);
  for (int p = part[comm.rank]; p < part[comm.rank + 1] && status == OK; p++) {
    ArenaMark mark = arena_mark(&scratch);
    status = measure_post(e, p, &post[p], &scratch);
    arena_reset(&scratch, mark);
  }
  if (status == OK) comm_all_gather(post, sizeof *post, part);
  for (int p = 0; p < e->posts && status == OK; p++)
    for (int k = 0; k < e->settings->top_count; k++)
      for (int m = 0; m < OVERLAPS; m++) sums[k][m] += post[p].of[k][m];
  arena_free(&scratch);
  for (int m = 0; m < OVERLAPS; m++)
    for (int k = 0; k < e->settings->top_count; k++) {
      char name[32];
      snprintf(name, sizeof name, "%s@%d", overlap_names[m], e->settings->tops[k]);
      cJSON_AddNumberToObject(e->result, name, sums[k][m] / e->posts);
    }
  return status;
}

static void measure_distinct(Evaluation *e) {
  Arena scratch = {0};
  Tokens *all = NEW(&scratch, Tokens, e->posts * e->samples);
  for (int n = 1; n <= 2; n++)
    for (int k = 0; k < e->settings->top_count; k++) {
      int count = 0;
      for (int p = 0; p < e->posts; p++)
        for (int s = 0; s < e->settings->tops[k]; s++) all[count++] = e->reply[p * e->samples + s];
      char name[32];
      snprintf(name, sizeof name, "distinct_%d@%d", n, e->settings->tops[k]);
      cJSON_AddNumberToObject(e->result, name, distinct_n(all, count, n, &scratch));
    }
  arena_free(&scratch);
}

static void measure_popularity(Evaluation *e) {
  if (!e->world) return;
  double sum = 0;
  for (int i = 0; i < e->posts * e->samples; i++) sum += e->popularity[i];
  cJSON_AddNumberToObject(e->result, "oracle_popularity", sum / (e->posts * e->samples));
}

/* Share of replies whose reward beats the SFT model's reply of the same post and rank; ties count half. */
static Status measure_win_rate(Evaluation *e) {
  if (!e->context->input[STAGE_EVALUATE_SFT]) return OK;
  Arena scratch = {0};
  Json json = {0};
  Status status =
      json_read(&scratch, path_join(&scratch, e->context->input[STAGE_EVALUATE_SFT], "rewards.json"), &json);
  double wins = 0;
  int count = e->posts * e->samples;
  if (status == OK && cJSON_GetArraySize(json.root) != count)
    status = fail(FAILED, "%s: has not %d rewards; remove its folder and run again", json.path, count);
  const cJSON *item = status == OK ? json.root->child : NULL;
  for (int i = 0; item; item = item->next, i++)
    wins += e->rewards[i] > item->valuedouble ? 1 : e->rewards[i] == item->valuedouble ? 0.5 : 0;
  if (status == OK) cJSON_AddNumberToObject(e->result, "win_rate", wins / count);
  json_free(&json);
  arena_free(&scratch);
  return status;
}

/* ---- output ---- */

static cJSON *replies_row(Evaluation *e, const Post *post, int p) {
  cJSON *row = cJSON_CreateObject(), *replies = cJSON_CreateArray();
  cJSON_AddStringToObject(row, "post", post->text);
  cJSON_AddItemToObject(row, "golden", cJSON_CreateStringArray(post->reply, post->replies));
  for (int s = 0; s < e->samples; s++) {
    int i = p * e->samples + s;
    cJSON *reply = cJSON_CreateObject();
    cJSON_AddStringToObject(reply, "text", e->text[i]);
    cJSON_AddNumberToObject(reply, "reward", e->rewards[i]);
    if (e->world) cJSON_AddNumberToObject(reply, "oracle_popularity", e->popularity[i]);
    cJSON_AddItemToArray(replies, reply);
  }
  cJSON_AddItemToObject(row, "replies", replies);
  return row;
}

static Status write_replies(Evaluation *e) {
  Arena scratch = {0};
  Text out = {.arena = &scratch};
  Status status = OK;
  for (int p = 0; p < e->posts && status == OK; p++) {
    Post post = {0};
    status = dataset_post(&e->data, p, &scratch, &post);
    if (status != OK) break;
    cJSON *row = replies_row(e, &post, p);
    char *text = cJSON_PrintUnformatted(row);
    text_print(&out, "%s\n", text);
    cJSON_free(text);
    cJSON_Delete(row);
  }
  if (status == OK)
    status = file_write(path_join(&scratch, e->context->folder, "replies.jsonl"), out.data, out.length);
  arena_free(&scratch);
  return status;
}

static Status write_json(const Evaluation *e, const char *name, const cJSON *value) {
  return json_write(path_join(e->context->arena, e->context->folder, name), value);
}

static Status write_rewards(Evaluation *e) {
  cJSON *array = cJSON_CreateDoubleArray(e->rewards, e->posts * e->samples);
  Status status = write_json(e, "rewards.json", array);
  cJSON_Delete(array);
  return status;
}

static Status evaluate(Evaluation *e, const char *policy_folder) {
  TRY(open_evaluation(e, policy_folder));
  TRY(generate_all(e));
  TRY(measure_overlap(e));
  measure_distinct(e);
  double reward = 0, count = e->posts * e->samples;
  for (int i = 0; i < e->posts * e->samples; i++) reward += e->rewards[i] / count;
  cJSON_AddNumberToObject(e->result, "reward", reward);
  cJSON_AddNumberToObject(e->result, "reply_length", e->tokens / count);
  cJSON_AddNumberToObject(e->result, "ended", e->ended / count);
  measure_popularity(e);
  TRY(measure_win_rate(e));
  if (!comm_is_first()) return OK;
  TRY(write_replies(e));
  TRY(write_rewards(e));
  return write_json(e, "evaluate.json", e->result);
}

static Status run_evaluation(const StageContext *context, StageId policy) {
  Evaluation e = {
      .context = context, .settings = &context->experiment->evaluate, .result = cJSON_CreateObject()};
  Status status = evaluate(&e, context->input[policy]);
  rollout_free(&e.rollout);
  model_free(&e.policy);
  reward_model_free(&e.reward);
  dataset_close(&e.data);
  cJSON_Delete(e.result);
  return status;
}

Status stage_evaluate_sft(const StageContext *context) { return run_evaluation(context, STAGE_SFT); }
Status stage_evaluate_ppo(const StageContext *context) { return run_evaluation(context, STAGE_PPO); }

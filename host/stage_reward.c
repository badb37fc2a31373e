/* The reward model: -log sigmoid(r(p, y+) - r(p, y-) - margin) over pairs of replies, trunk from the SFT
 * model or another with its own tokenizer; then the shift and scale that give golden replies mean 0 and
 * variance 1, and the held-out accuracy. */
#include <math.h>
#include <string.h>

#include "base/comm.h"
#include "base/hash.h"
#include "dataset.h"
#include "progress.h"
#include "reward_model.h"
#include "share.h"
#include "stage.h"
#include "trainer.h"

enum { GOLDEN_POSTS = 256 }; /* whose replies give shift and scale */

/* Held-out accuracy by (more likes + 1) / (fewer likes + 1). */
static const struct LikeRatio {
  const char *name;
  double below;
} like_ratios[] = {{"<2", 2}, {"2-10", 10}, {"10-100", 100}, {">100", INFINITY}};
enum { LIKE_RATIOS = sizeof like_ratios / sizeof *like_ratios };

typedef struct PairTask {
  const StageContext *context;
  Dataset pairs, train;
  RewardModel reward; /* its model is the one trained; activations etc. are those of scoring */
  Activations activations;
  ModelRows rows;
  Batch batch;      /* the whole one, the same at all ranks */
  BatchShare share; /* this rank's pairs */
  float *device_reward, *device_loss, *device_margin;
  int64_t *order, *held_out; /* lines of the pairs file: for training, never trained on */
  int64_t train_count, held_count;
  Metrics *metrics;
  TrainingState state;
  int64_t steps, step;
} PairTask;

static double like_ratio(const Pair *pair) {
  return (fmax(pair->like_j, pair->like_k) + 1) / (fmin(pair->like_j, pair->like_k) + 1);
}

static bool is_held_out(const Pair *pair, double share) {
  return (double)(hash64(pair->post, strlen(pair->post)) >> 11) * 0x1p-53 < share;
}

static Status split_pairs(PairTask *task) {
  const RewardSettings *settings = &task->context->experiment->reward;
  Arena *arena = task->context->arena, scratch = {0};
  TRY(dataset_open(arena, task->context->pairs, DATASET_PAIRS, &task->pairs));
  task->order = NEW(arena, int64_t, task->pairs.count);
  task->held_out = NEW(arena, int64_t, task->pairs.count);
  Status status = OK;
  for (int64_t i = 0; i < task->pairs.count && status == OK; i++) {
    ArenaMark mark = arena_mark(&scratch);
    Pair pair = {0};
    status = dataset_pair(&task->pairs, i, &scratch, &pair);
    bool tie = status == OK && pair.like_j == pair.like_k;
    if (status == OK && is_held_out(&pair, settings->holdout)) {
      if (!tie) task->held_out[task->held_count++] = i;
    } else if (status == OK && like_ratio(&pair) >= settings->min_like_ratio &&
               !(tie && settings->orient == ORIENT_LIKES)) {
      task->order[task->train_count++] = i;
    }
    arena_reset(&scratch, mark);
  }
  arena_free(&scratch);
  TRY(status);
  if (task->train_count == 0)
    return fail(INVALID, "%s: no pair is left for training; lower reward.min_like_ratio or reward.holdout",
                task->context->pairs);
  if (task->held_count == 0)
    progress_say(
        "warning: %s: no pair is held out, so the reward model's accuracy is unknown; raise reward.holdout",
        task->context->pairs);
  return OK;
}

/* With the tokenizer of the model that it starts from: its own, or the policy's. */
static Status open_codec(PairTask *task) {
  const StageContext *context = task->context;
  const Experiment *experiment = context->experiment;
  const char *folder = experiment->reward.from ? experiment->reward.from : context->input[STAGE_SFT];
  Tokenizer *tokenizer;
  TRY(tokenizer_load(context->arena, path_join(context->arena, folder, "tokenizer.json"), &tokenizer));
  task->reward.codec = prompt_codec(context->arena, tokenizer, experiment->data.instruction,
                                    reward_post_tokens(experiment), reward_reply_tokens(experiment));
  task->reward.input = experiment->reward.input;
  return OK;
}

/* An untrained model takes its vocabulary from the tokenizer; one that is started from may have more rows. */
static Status reward_config(const PairTask *task, DecoderConfig *config) {
  const Experiment *experiment = task->context->experiment;
  int tokens = tokenizer_vocab_size(task->reward.codec.tokenizer);
  TRY(experiment_reward_model(task->context->arena, experiment, config));
  if (!config->vocab) config->vocab = tokens;
  if (config->vocab < tokens)
    return fail(INVALID,
                "reward model %s has a vocabulary of %d, its tokenizer one of %d; import the model again",
                reward_model_name(experiment), config->vocab, tokens);
  return prompt_check(&task->reward.codec, config, reward_model_name(experiment));
}

static Status start_model(PairTask *task) {
  const StageContext *context = task->context;
  const RewardSettings *settings = &context->experiment->reward;
  bool sft = !settings->from && !settings->preset && settings->init == REWARD_INIT_SFT;
  const char *trained = sft ? context->input[STAGE_SFT] : settings->from;
  DecoderConfig config;
  TRY(open_codec(task));
  TRY(reward_config(task, &config));
  return training_model(context->arena, &task->reward.model, context->backend, &config, "reward.from",
                        trained, settings->adapter, (ModelParts){.reward_head = true},
                        context->experiment->seed);
}

static Status open_model(PairTask *task) {
  const StageContext *context = task->context;
  const Experiment *experiment = context->experiment;
  Backend *backend = context->backend;
  Model *model = &task->reward.model;
  TRY(start_model(task));
  const PromptCodec *codec = &task->reward.codec;
  int pairs = experiment->reward.pairs_per_batch;
  int pair = reward_pair_tokens(experiment->reward.input, prompt_max(codec), sequence_max(codec));
  int max_tokens = pairs * pair;
  TRY(batch_allocate(context->arena, &task->batch, backend, max_tokens, 2 * pairs));
  TRY(share_allocate(context->arena, &task->share, &task->batch, 2, pair));
  max_tokens = task->share.mine->max_tokens;
  TRY(activations_allocate(&task->activations, context->arena, &model->decoder.config, backend, max_tokens,
                           training_activations(experiment)));
  TRY(model_rows_allocate(&task->rows, model, 2 * pairs, true));
  size_t bytes = sizeof(float) * (size_t)pairs;
  TRY(backend->alloc(backend, 2 * bytes, "rewards", (void **)&task->device_reward));
  TRY(backend->alloc(backend, bytes, "losses", (void **)&task->device_loss));
  TRY(backend->alloc(backend, bytes, "margins", (void **)&task->device_margin));
  TRY(reward_model_buffers(context->arena, &task->reward, backend, max_tokens));
  task->reward.scale = 1;
  double batches = ceil((double)task->train_count / pairs);
  task->steps = (int64_t)ceil(experiment->reward.epochs * batches);
  return OK;
}

/* The pairs of step `step`, preferred reply first; the last batch of an epoch may be smaller. */
static Status fill_batch(PairTask *task, float *margin) {
  const Experiment *experiment = task->context->experiment;
  const RewardSettings *settings = &experiment->reward;
  int64_t batches = (task->train_count + settings->pairs_per_batch - 1) / settings->pairs_per_batch;
  int64_t first = task->step % batches * settings->pairs_per_batch;
  RandomKey key = {experiment->seed, RANDOM_SHUFFLE, (uint32_t)(task->step / batches)};
  Arena scratch = {0};
  int32_t *tokens = NEW(&scratch, int32_t, sequence_max(&task->reward.codec));
  Status status = OK;
  batch_clear(&task->batch);
  for (int i = 0; i < settings->pairs_per_batch && first + i < task->train_count && status == OK; i++) {
    Pair pair = {0};
    uint64_t at = random_permutation(key, (uint64_t)task->train_count, (uint64_t)(first + i));
    status = dataset_pair(&task->pairs, task->order[at], &scratch, &pair);
    if (status != OK) break;
    bool k_first = settings->orient == ORIENT_LIKES && pair.like_k > pair.like_j;
    const char *reply[] = {k_first ? pair.reply_k : pair.reply_j, k_first ? pair.reply_j : pair.reply_k};
    for (int j = 0; j < 2; j++) {
      int shared,
          length = reward_encode(&task->reward.codec, settings->input, pair.post, reply[j], tokens, &shared);
      batch_branch_scored(&task->batch, tokens, length, j == 0 ? 0 : shared);
    }
    margin[i] = (float)(settings->margin * log(like_ratio(&pair)));
  }
  arena_free(&scratch);
  return status;
}

/* Loss and accuracy over the whole batch. */
static Status read_batch(PairTask *task, double *loss, double *accuracy) {
  Backend *backend = task->context->backend;
  int pairs = task->share.groups, all = task->batch.texts / 2;
  Arena scratch = {0};
  float *host = NEW(&scratch, float, 3 * pairs);
  Status status = backend->download(backend, host, task->device_reward, sizeof(float) * 2 * (size_t)pairs);
  if (status == OK)
    status = backend->download(backend, host + 2 * pairs, task->device_loss, sizeof(float) * (size_t)pairs);
  double sums[2] = {0};
  for (int i = 0; i < pairs; i++) {
    sums[0] += (double)host[2 * pairs + i] / all;
    sums[1] += (host[2 * i] > host[2 * i + 1]) / (double)all;
  }
  arena_free(&scratch);
  TRY(status);
  comm_sum(sums, 2);
  *loss = sums[0];
  *accuracy = sums[1];
  return OK;
}

/* margin: of the whole batch's pairs; overwritten */
static Status train_batch(PairTask *task, float *margin, double lr, double *loss, double *accuracy) {
  const RewardSettings *settings = &task->context->experiment->reward;
  Backend *backend = task->context->backend;
  Model *model = &task->reward.model;
  Parameters *parameters = &model->parameters;
  share_deal(&task->share);
  Batch *batch = task->share.mine;
  int pairs = task->share.groups;
  for (int i = 0; i < pairs; i++) margin[i] = margin[task->share.group[i]];
  batch_upload(batch);
  backend->upload(backend, task->device_margin, margin, sizeof(float) * (size_t)pairs);
  RandomKey key = {task->context->experiment->seed, RANDOM_DROPOUT_REWARD, (uint32_t)task->step};
  DecoderDropout dropout = batch_dropout(batch, key);
  DecoderInput input = batch_input(batch);
  input.dropout = &dropout;
  decoder_forward(&model->decoder, &task->activations, &input);
  model_rows_forward(model, &task->activations, &task->rows, batch->device.rows, 2 * pairs);
  backend->reward_head(backend, &(RewardHead){.hidden = task->rows.normed,
                                              .weight = parameters_weight(parameters, model->reward_weight),
                                              .bias = parameters_weight(parameters, model->reward_bias),
                                              .margin = task->device_margin,
                                              .smoothing = (float)settings->smoothing,
                                              .scale = 1.0f / (float)(task->batch.texts / 2),
                                              .reward = task->device_reward,
                                              .loss = task->device_loss,
                                              .dhidden = task->rows.dnormed,
                                              .dweight = parameters_grad(parameters, model->reward_weight),
                                              .dbias = parameters_grad(parameters, model->reward_bias),
                                              .pairs = pairs,
                                              .hidden_size = model->decoder.config.hidden});
  model_rows_backward(model, &task->activations, &task->rows, batch->device.rows, 2 * pairs, &input);
  optimizer_step(model, &settings->optimizer, lr, task->step);
  return read_batch(task, loss, accuracy);
}

static Status reward_step(PairTask *task, double *loss) {
  const RewardSettings *settings = &task->context->experiment->reward;
  Backend *backend = task->context->backend;
  Arena scratch = {0};
  float *margin = NEW(&scratch, float, settings->pairs_per_batch);
  double lr = learning_rate(&settings->optimizer, task->step, task->steps), accuracy;
  Status status = fill_batch(task, margin);
  if (status == OK) status = train_batch(task, margin, lr, loss, &accuracy);
  arena_free(&scratch);
  TRY(status);
  if (!isfinite(*loss))
    return fail(FAILED,
                "reward: the loss is not a finite number at step %lld; lower reward.lr or reward.grad_clip",
                (long long)task->step);
  float norm;
  TRY(backend->download(backend, &norm, task->reward.model.parameters.norm, sizeof norm));
  metrics_begin(task->metrics, ++task->step);
  metrics_add(task->metrics, "loss", *loss);
  metrics_add(task->metrics, "accuracy", accuracy);
  metrics_add(task->metrics, "lr", lr);
  metrics_add(task->metrics, "grad_norm", (double)norm);
  return metrics_end(task->metrics);
}

static Status train(PairTask *task) {
  Model *models[] = {&task->reward.model};
  cJSON *meta;
  TRY(state_open(task->context->arena, &task->state, &task->context->experiment->checkpoint,
                 task->context->folder, models, 1, &meta));
  cJSON_Delete(meta);
  task->step = task->state.saved_step;
  TRY(metrics_open(task->context->arena, task->context->folder, task->step, &task->metrics));
  Progress progress;
  progress_begin(&progress, task->context->label, task->steps, task->step);
  while (task->step < task->steps) {
    double loss;
    TRY(reward_step(task, &loss));
    progress_step(&progress, task->step, task->batch.tokens, "loss", loss);
    if (task->step < task->steps && state_due(&task->state, task->step))
      TRY(state_save(&task->state, task->step, models, 1, task->metrics, cJSON_CreateObject()));
  }
  progress_end(&progress, NULL);
  return metrics_close(task->metrics);
}

/* ---- what is measured afterwards ---- */

typedef struct Accuracy {
  int64_t right[LIKE_RATIOS], count[LIKE_RATIOS];
  int64_t oracle_right,
      oracle_count;    /* of pairs whose true popularity differs: the model orders them truly */
  int64_t label_right; /* ... the likes order them truly: the labels' own accuracy */
} Accuracy;

static Status held_out_accuracy(PairTask *task, const World *world, Accuracy *accuracy) {
  Arena scratch = {0};
  Status status = OK;
  int64_t count = task->held_count;
  Scored *texts = NEW(&scratch, Scored, 2 * count);
  Pair *pairs = NEW(&scratch, Pair, count);
  for (int64_t i = 0; i < count && status == OK; i++) {
    status = dataset_pair(&task->pairs, task->held_out[i], &scratch, &pairs[i]);
    texts[2 * i] = (Scored){.post = pairs[i].post, .reply = pairs[i].reply_j};
    texts[2 * i + 1] = (Scored){.post = pairs[i].post, .reply = pairs[i].reply_k};
  }
  if (status == OK) status = reward_model_score(&task->reward, texts, (int)(2 * count));
  for (int64_t i = 0; i < count && status == OK; i++) {
    bool says_j = texts[2 * i].reward > texts[2 * i + 1].reward, likes_j = pairs[i].like_j > pairs[i].like_k;
    int bucket = 0;
    while (like_ratio(&pairs[i]) >= like_ratios[bucket].below) bucket++;
    accuracy->count[bucket]++;
    accuracy->right[bucket] += says_j == likes_j;
    if (!world) continue;
    double true_j = world_popularity(world, pairs[i].post, pairs[i].reply_j);
    double true_k = world_popularity(world, pairs[i].post, pairs[i].reply_k);
    if (true_j == true_k) continue;
    accuracy->oracle_count++;
    accuracy->oracle_right += says_j == (true_j > true_k);
    accuracy->label_right += likes_j == (true_j > true_k);
  }
  arena_free(&scratch);
  return status;
}

/* All replies of GOLDEN_POSTS training posts. */
static Status golden_replies(PairTask *task, Arena *scratch, Scored **texts, int *count) {
  const Experiment *experiment = task->context->experiment;
  TRY(dataset_open(task->context->arena, task->context->train, DATASET_POSTS, &task->train));
  uint64_t all = (uint64_t)task->train.count;
  int posts = all < GOLDEN_POSTS ? (int)all : GOLDEN_POSTS;
  RandomKey key = {experiment->seed, RANDOM_SHUFFLE, UINT32_MAX};
  Post *post = NEW(scratch, Post, posts);
  *count = 0;
  for (int i = 0; i < posts; i++) {
    TRY(dataset_post(&task->train, (int64_t)random_permutation(key, all, (uint64_t)i), scratch, &post[i]));
    *count += post[i].replies;
  }
  Scored *next = *texts = NEW(scratch, Scored, *count);
  for (int i = 0; i < posts; i++)
    for (int r = 0; r < post[i].replies; r++)
      *next++ = (Scored){.post = post[i].text, .reply = post[i].reply[r]};
  return OK;
}

/* Mean and deviation of their raw rewards. */
static Status golden_rewards(PairTask *task, double *mean, double *deviation) {
  Arena scratch = {0};
  Scored *texts = NULL;
  int count = 0;
  Status status = golden_replies(task, &scratch, &texts, &count);
  if (status == OK) status = reward_model_score(&task->reward, texts, count);
  double sum = 0, squares = 0;
  for (int i = 0; i < count && status == OK; i++) {
    sum += texts[i].reward;
    squares += texts[i].reward * texts[i].reward;
  }
  arena_free(&scratch);
  TRY(status);
  *mean = sum / count;
  *deviation = sqrt(fmax(0, squares / count - *mean * *mean));
  return OK;
}

static cJSON *accuracy_json(const Accuracy *accuracy, bool world, double *all) {
  cJSON *object = cJSON_CreateObject(), *by_ratio = cJSON_CreateObject();
  int64_t right = 0, count = 0;
  for (int i = 0; i < LIKE_RATIOS; i++) {
    right += accuracy->right[i];
    count += accuracy->count[i];
    if (accuracy->count[i])
      cJSON_AddNumberToObject(by_ratio, like_ratios[i].name,
                              (double)accuracy->right[i] / (double)accuracy->count[i]);
  }
  *all = count ? (double)right / (double)count : NAN;
  cJSON_AddItemToObject(object, "pair_accuracy", count ? cJSON_CreateNumber(*all) : cJSON_CreateNull());
  cJSON_AddItemToObject(object, "by_like_ratio", by_ratio);
  cJSON_AddNumberToObject(object, "held_out_pairs", (double)count);
  if (world && accuracy->oracle_count) {
    double pairs = (double)accuracy->oracle_count;
    cJSON_AddNumberToObject(object, "oracle_accuracy", (double)accuracy->oracle_right / pairs);
    cJSON_AddNumberToObject(object, "label_oracle_accuracy", (double)accuracy->label_right / pairs);
  }
  return object;
}

static Status write_results(PairTask *task) {
  const StageContext *context = task->context;
  Arena *arena = context->arena;
  World *world = NULL;
  if (context->input[STAGE_WORLD])
    TRY(world_load(arena, path_join(arena, context->input[STAGE_WORLD], "world.json"), &world));
  Accuracy accuracy = {0};
  double mean, deviation, all;
  TRY(held_out_accuracy(task, world, &accuracy));
  TRY(golden_rewards(task, &mean, &deviation));
  cJSON *object = accuracy_json(&accuracy, world != NULL, &all);
  cJSON_AddNumberToObject(object, "train_pairs", (double)task->train_count);
  cJSON_AddNumberToObject(object, "shift", mean);
  cJSON_AddNumberToObject(object, "scale", deviation > 0 ? 1 / deviation : 1);
  cJSON_AddBoolToObject(object, "reply_first", task->reward.input == INPUT_REPLY_POST);
  if (all < 0.55)
    progress_say(
        "warning: the reward model orders %.1f%% of the held-out pairs as the likes do, near chance; "
        "PPO would follow noise",
        100 * all);
  if (deviation <= 0)
    progress_say(
        "warning: the reward model gives all golden replies the same reward; PPO has nothing to follow");
  Status status = OK;
  if (comm_is_first()) status = json_write(path_join(arena, context->folder, "reward.json"), object);
  cJSON_Delete(object);
  return status;
}

static Status run(PairTask *task) {
  TRY(split_pairs(task));
  TRY(open_model(task));
  TRY(train(task));
  TRY(write_results(task));
  TRY(model_save(&task->reward.model, task->context->folder));
  TRY(prompt_save(&task->reward.codec, &task->context->experiment->evaluate.sampling, task->context->folder));
  state_remove(&task->state);
  return OK;
}

Status stage_reward(const StageContext *context) {
  PairTask task = {.context = context};
  Backend *backend = context->backend;
  Status status = run(&task);
  activations_free(&task.activations, backend);
  model_rows_free(&task.rows, backend);
  batch_free(&task.batch);
  share_free(&task.share);
  float *memory[] = {task.device_reward, task.device_loss, task.device_margin};
  for (int i = 0; i < 3; i++)
    if (memory[i]) backend->free(backend, memory[i]);
  reward_model_free(&task.reward);
  dataset_close(&task.pairs);
  dataset_close(&task.train);
  return status;
}

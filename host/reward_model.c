#include "reward_model.h"

#include <string.h>

#include "base/comm.h"

enum { MOST_TOKENS = 8192 }; /* of one forward pass */

int reward_model_tokens(int texts, int sequence) {
  int64_t all = (int64_t)texts * sequence;
  if (all > MOST_TOKENS) all = MOST_TOKENS;
  return all > sequence ? (int)all : sequence;
}

int reward_pair_tokens(RewardInput input, int prompt, int sequence) {
  bool shared = input == INPUT_POST_REPLY && comm.size == 1;
  return 2 * sequence - (shared ? prompt : 0);
}

static int sequences_of(int max_tokens) { return max_tokens / 4 + 1; }

size_t reward_model_bytes(const DecoderConfig *config, DType storage, int max_tokens) {
  int sequences = sequences_of(max_tokens);
  return activations_bytes(config, storage, max_tokens, ACTIVATIONS_INFERENCE) +
         model_rows_bytes(config, storage, sequences, false) + batch_bytes(max_tokens, sequences) +
         sizeof(float) * (size_t)sequences;
}

Status reward_model_buffers(Arena *arena, RewardModel *reward, Backend *backend, int max_tokens) {
  const DecoderConfig *config = &reward->model.decoder.config;
  if (max_tokens < sequence_max(&reward->codec)) max_tokens = sequence_max(&reward->codec);
  int max_sequences = sequences_of(max_tokens);
  TRY(activations_allocate(&reward->activations, arena, config, backend, max_tokens, ACTIVATIONS_INFERENCE));
  TRY(model_rows_allocate(&reward->rows, &reward->model, max_sequences, false));
  TRY(batch_allocate(arena, &reward->batch, backend, max_tokens, max_sequences));
  return backend->alloc(backend, sizeof(float) * (size_t)max_sequences, "rewards",
                        (void **)&reward->device_reward);
}

static Status read_settings(RewardModel *reward, const Json *json) {
  TRY(json_get_number(json, json->root, "shift", &reward->shift));
  TRY(json_get_number(json, json->root, "scale", &reward->scale));
  bool reply_first;
  TRY(json_get_bool(json, json->root, "reply_first", &reply_first));
  reward->input = reply_first ? INPUT_REPLY_POST : INPUT_POST_REPLY;
  return OK;
}

Status reward_model_load(Arena *arena, RewardModel *reward, Backend *backend, const char *folder,
                         const Model *frozen_from) {
  *reward = (RewardModel){.arena = arena};
  SamplingSettings unused;
  TRY(prompt_load(arena, folder, &reward->codec, &unused));
  Json json;
  TRY(json_read(arena, path_join(arena, folder, "reward.json"), &json));
  Status status = read_settings(reward, &json);
  json_free(&json);
  TRY(status);
  ModelParts parts = {.reward_head = true, .frozen_from = frozen_from};
  return model_load(arena, &reward->model, backend, folder, parts, false, 0);
}

Status reward_model_reserve(RewardModel *reward, int texts) {
  int tokens = reward_model_tokens(texts, sequence_max(&reward->codec));
  return reward_model_buffers(reward->arena, reward, reward->model.parameters.backend, tokens);
}

void reward_model_free(RewardModel *reward) {
  Backend *backend = reward->model.parameters.backend;
  if (!backend) return;
  activations_free(&reward->activations, backend);
  model_rows_free(&reward->rows, backend);
  batch_free(&reward->batch);
  if (reward->device_reward) backend->free(backend, reward->device_reward);
  model_free(&reward->model);
}

/* Scores the sequences in the batch into texts[0..]. */
static Status score_batch(RewardModel *reward, Scored *texts, Arena *scratch) {
  Model *model = &reward->model;
  Backend *backend = model->parameters.backend;
  int count = reward->batch.texts;
  batch_upload(&reward->batch);
  DecoderInput input = batch_input(&reward->batch);
  decoder_forward(&model->decoder, &reward->activations, &input);
  model_rows_forward(model, &reward->activations, &reward->rows, reward->batch.device.rows, count);
  backend->scalar_head(backend,
                       &(ScalarHead){.hidden = reward->rows.normed,
                                     .weight = parameters_weight(&model->parameters, model->reward_weight),
                                     .bias = parameters_weight(&model->parameters, model->reward_bias),
                                     .out = reward->device_reward,
                                     .rows = count,
                                     .hidden_size = model->decoder.config.hidden});
  float *raw = NEW(scratch, float, count);
  TRY(backend->download(backend, raw, reward->device_reward, sizeof *raw * (size_t)count));
  for (int i = 0; i < count; i++) texts[i].reward = ((double)raw[i] - reward->shift) * reward->scale;
  return OK;
}

static Status score_all(RewardModel *reward, Scored *texts, int count, Arena *scratch) {
  int32_t *tokens = NEW(scratch, int32_t, sequence_max(&reward->codec));
  int first = 0, shared;
  batch_clear(&reward->batch);
  for (int i = 0; i < count; i++) {
    int length = reward_encode(&reward->codec, reward->input, texts[i].post, texts[i].reply, tokens, &shared);
    if (!batch_fits(&reward->batch, length)) {
      TRY(score_batch(reward, texts + first, scratch));
      batch_clear(&reward->batch);
      first = i;
    }
    bool same_post = i > first && strcmp(texts[i].post, texts[i - 1].post) == 0;
    batch_branch_scored(&reward->batch, tokens, length, same_post ? shared : 0);
  }
  return first < count ? score_batch(reward, texts + first, scratch) : OK;
}

/* Every rank scores a part of the texts; then all have all rewards. */
static Status score_parts(RewardModel *reward, Scored *texts, int count, Arena *scratch) {
  int *first = NEW(scratch, int, comm.size + 1);
  double *all = NEW(scratch, double, count);
  comm_parts(count, first);
  int begin = first[comm.rank], end = first[comm.rank + 1];
  TRY(score_all(reward, texts + begin, end - begin, scratch));
  for (int i = begin; i < end; i++) all[i] = texts[i].reward;
  comm_all_gather(all, sizeof *all, first);
  for (int i = 0; i < count; i++) texts[i].reward = all[i];
  return OK;
}

Status reward_model_score(RewardModel *reward, Scored *texts, int count) {
  if (reward->batch.max_tokens == 0) TRY(reward_model_reserve(reward, count));
  Arena scratch = {0};
  Status status =
      comm.size > 1 ? score_parts(reward, texts, count, &scratch) : score_all(reward, texts, count, &scratch);
  arena_free(&scratch);
  return status;
}

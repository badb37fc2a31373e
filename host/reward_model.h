/* A trained reward model as a function of texts: text is the boundary, so it may have a tokenizer of its own.
 * Rewards are shifted and scaled so that golden replies have mean 0 and variance 1. */
#ifndef POPALM_REWARD_MODEL_H
#define POPALM_REWARD_MODEL_H

#include "batch.h"
#include "models/model.h"
#include "prompt.h"

typedef struct RewardModel {
  Arena *arena; /* that lives as long */
  Model model;
  PromptCodec codec;
  RewardInput input;
  Activations activations; /* without training */
  ModelRows rows;
  Batch batch;
  float *device_reward; /* [max_sequences] */
  double shift, scale;  /* reward = (raw - shift) * scale */
} RewardModel;

/* One text to score. */
typedef struct Scored {
  const char *post, *reply;
  double reward; /* result */
} Scored;

/* From a reward stage's folder (model.safetensors, prompt.json, tokenizer.json, reward.json). frozen_from: as in
 * ModelParts. */
Status reward_model_load(Arena *arena, RewardModel *reward, Backend *backend, const char *folder,
                         const Model *frozen_from) CHECKED;
void reward_model_free(RewardModel *reward);
/* Makes the buffers for scoring so many texts at once (in several passes where they are many). Without it the
 * first call of reward_model_score does. */
Status reward_model_reserve(RewardModel *reward, int texts) CHECKED;
/* With several ranks all call it with the same texts, and each computes a part of them. */
Status reward_model_score(RewardModel *reward, Scored *texts, int count) CHECKED;

/* Tokens of one forward pass over so many texts, of which none is longer than sequence. */
int reward_model_tokens(int texts, int sequence);

/* Tokens that a pair takes at most in a training batch; a post before its replies counts once, unless the batch is
 * dealt to ranks. prompt, sequence: the longest ones. */
int reward_pair_tokens(RewardInput input, int prompt, int sequence);

/* Device bytes of the buffers for passes of max_tokens. */
size_t reward_model_bytes(const DecoderConfig *config, DType storage, int max_tokens);
/* The pieces, for the stage that trains it: `model` is the trained one; buffers are made for max_tokens. */
Status reward_model_buffers(Arena *arena, RewardModel *reward, Backend *backend, int max_tokens) CHECKED;

#endif

/* PPO on sampled replies: old logprobs and values, advantages, minibatches of clipped policy and value
 * losses, adaptive KL (Schulman et al. 2017; Ziegler et al. 2019; released settings of PopALM). */
#ifndef POPALM_PPO_H
#define POPALM_PPO_H

#include "batch.h"
#include "experiment.h"
#include "models/model.h"

/* One sample to learn from. Samples of a post lie together and have the same prompt, by its address. */
typedef struct PpoSample {
  const int32_t *prompt, *reply;
  int prompt_length, reply_length;
  double score; /* reward at the last token */
} PpoSample;

/* A model with what one forward and backward pass over a minibatch needs. */
typedef struct Learner {
  Model model;
  Activations activations;
  ModelRows rows;
} Learner;

/* Per reply token, packed in the order of the samples; device memory, [max_tokens] each. */
typedef struct PpoTensors {
  float *logprob, *entropy, *ref_logprob, *value; /* before the update */
  float *advantage, *returns;
  float *score;        /* [max_samples] */
  int32_t *cu_seqlens; /* [max_samples+1] */
  float *stats;        /* [ADVANTAGE_STATS], then [updates of the step, PPO_STATS] */
  /* a minibatch's: */
  float *mb_old_logprob, *mb_advantage, *mb_old_value, *mb_returns;
  float *mb_logprob, *mb_value, *mb_dlogprob, *mb_dvalue, *mb_dentropy;
} PpoTensors;

typedef struct Ppo {
  const PpoSettings *settings;
  Backend *backend;
  Learner policy;
  Learner reference; /* frozen, no gradients */
  Learner critic;    /* only with critic: reward */
  Batch batch;       /* this rank's part of a minibatch */
  PpoTensors device;
  void *memory; /* of device */
  int max_samples, max_reply;
  double kl_coef;
  int64_t updates; /* optimizer steps so far */
} Ppo;

/* Means over the step's tokens or samples. */
typedef struct PpoStep {
  double policy_loss, value_loss, clip_fraction, value_clip_fraction, approx_kl, ratio, entropy;
  double kl,
      kl_k3; /* mean over replies of the sum over tokens: k1 and k3 estimates of KL(policy || reference) */
  double advantage_std, explained_variance, mean_return, grad_norm;
  int tokens, updates;
} PpoStep;

/* What one pass over a minibatch takes at most on a rank: tokens, and rows that have a loss. */
typedef struct PpoPass {
  int tokens, rows;
} PpoPass;
PpoPass ppo_pass(const PpoSettings *settings, int max_sequence, int max_reply);
/* Device bytes of the values per token. */
size_t ppo_values_bytes(const PpoSettings *settings, int max_reply);
/* Loads policy and reference from sft_folder, the critic from reward_folder. max_sequence: tokens of the
 * longest prompt and reply. */
Status ppo_open(Arena *arena, Ppo *ppo, const Experiment *experiment, Backend *backend,
                const char *sft_folder, const char *reward_folder, int max_sequence, int max_reply) CHECKED;
void ppo_close(Ppo *ppo);
/* The trained models, for the state file; returns how many. */
int ppo_models(Ppo *ppo, Model *models[2]);
/* Learns from count samples (at least one); key shuffles the minibatches. With several ranks all call it with
 * the same samples: each passes a part of every minibatch through the models; advantages, which are cheap and
 * whitened over all tokens, are computed by each. */
Status ppo_update(Ppo *ppo, const PpoSample *samples, int count, double lr, RandomKey key,
                  PpoStep *out) CHECKED;

#endif

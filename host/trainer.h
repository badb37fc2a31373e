/* What the training stages share: the learning rate, one optimizer step, and the state that an interrupted
 * stage resumes from. */
#ifndef POPALM_TRAINER_H
#define POPALM_TRAINER_H

#include "experiment.h"
#include "metrics.h"
#include "models/model.h"

/* The model that the SFT stage trains: the preset or model.from, with the adapter's shape. vocab is 0 where
 * the tokenizer decides. */
Status experiment_model(Arena *arena, const Experiment *experiment, DecoderConfig *out) CHECKED;
/* Gives a model that is not one yet the experiment's adapter. */
Status experiment_adapt(const Experiment *experiment, DecoderConfig *config) CHECKED;
/* The model that the reward stage trains, likewise. */
Status experiment_reward_model(Arena *arena, const Experiment *experiment, DecoderConfig *out) CHECKED;
/* The folder or preset that they start from, for messages. */
const char *policy_model_name(const Experiment *experiment);
const char *reward_model_name(const Experiment *experiment);
/* Makes the model of config that a stage trains: an adapter on the one in folder `from`, which key names; that
 * model itself; or, where from is NULL, an untrained one. */
Status training_model(Arena *arena, Model *model, Backend *backend, const DecoderConfig *config,
                      const char *key, const char *from, bool adapter, ModelParts parts,
                      uint64_t seed) CHECKED;
/* Tokens of the longest post and the longest reply that the reward model reads. */
int reward_post_tokens(const Experiment *experiment);
int reward_reply_tokens(const Experiment *experiment);
/* How the activations of a training stage are held. */
ActivationsUse training_activations(const Experiment *experiment);

/* Learning rate of step (from 0) of steps: linear warm-up over warmup * steps, then the schedule (cosine and
 * linear end at 0). */
double learning_rate(const OptimizerSettings *settings, int64_t step, int64_t steps);

/* Clips, updates and clears the gradients; update counts from 0. The gradient norm stays in parameters->norm.
 */
void optimizer_step(Model *model, const OptimizerSettings *settings, double lr, int64_t update);

/* The state file of a running stage, folder/state.safetensors. */
typedef struct TrainingState {
  const char *path;
  const CheckpointSettings *settings;
  int64_t saved_step;
  double saved_at; /* seconds_now() */
  bool stopping;   /* a rank was asked to stop: what all agreed upon in state_due */
} TrainingState;

/* Looks for a state. With one: loads parameters and optimizer of `models` (their tensors are told apart by a
 * prefix each) and gives its meta object (owned by the arena's lifetime: call cJSON_Delete). Without: *meta
 * is NULL. */
Status state_open(Arena *arena, TrainingState *state, const CheckpointSettings *settings, const char *folder,
                  Model *const *models, int count, cJSON **meta) CHECKED;
/* True when it is time to save, or when a process was asked to stop; the same on all ranks, which must all ask. */
bool state_due(TrainingState *state, int64_t step);
/* Saves after metrics were synced; takes ownership of meta. Returns INTERRUPTED after saving if asked to
 * stop. All ranks call it; the file does not depend on their number. */
Status state_save(TrainingState *state, int64_t step, Model *const *models, int count, Metrics *metrics,
                  cJSON *meta) CHECKED;
/* After the stage's results are written. */
void state_remove(const TrainingState *state);

#endif

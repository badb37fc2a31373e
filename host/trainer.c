#include "trainer.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/comm.h"

static bool adapts(const AdapterSettings *adapter) { return adapter->rank || adapter->prefix_tokens; }

static Status set_adapter(const AdapterSettings *adapter, DecoderConfig *config) {
  config->prefix_tokens = adapter->prefix_tokens;
  config->base = adapter->base;
  if (adapter->rank == 0) return OK;
  config->lora =
      (LoraConfig){.rank = adapter->rank, .alpha = (float)adapter->alpha, .dropout = (float)adapter->dropout};
  return lora_targets_parse(adapter->targets, config, &config->lora);
}

Status experiment_adapt(const Experiment *experiment, DecoderConfig *config) {
  return adapts(&experiment->adapter) ? set_adapter(&experiment->adapter, config) : OK;
}

/* The shape of an adapter of the model in folder `from`, which key names, in its description. */
static Status add_adapter(const AdapterSettings *adapter, const char *key, const char *from,
                          DecoderConfig *config) {
  const char *setting = adapter->rank ? "rank" : "prefix_tokens";
  if (!from)
    return fail(INVALID,
                "adapter.%s is %d, but there is no \"%s\" to adapt; name a model's folder, or "
                "set adapter.%s to 0",
                setting, adapter->rank ? adapter->rank : adapter->prefix_tokens, key, setting);
  if (decoder_adapted(config))
    return fail(
        INVALID, "%s %s is an adapter itself; %s", key, from,
        config->prefix_tokens ? "name the model that it adapts" : "popalm export merges it into its base");
  return set_adapter(adapter, config);
}

Status experiment_model(Arena *arena, const Experiment *experiment, DecoderConfig *out) {
  const char *from = experiment->model_from;
  TRY(model_start(arena, experiment->model_preset, from, out));
  return adapts(&experiment->adapter) ? add_adapter(&experiment->adapter, "model.from", from, out) : OK;
}

Status experiment_reward_model(Arena *arena, const Experiment *experiment, DecoderConfig *out) {
  const RewardSettings *reward = &experiment->reward;
  if (reward->from || reward->preset) TRY(model_start(arena, reward->preset, reward->from, out));
  if (reward->adapter) return add_adapter(&experiment->adapter, "reward.from", reward->from, out);
  if (reward->from || reward->preset) return OK;
  if (reward->init == REWARD_INIT_SFT) return experiment_model(arena, experiment, out);
  return model_start(arena, experiment->model_preset, experiment->model_from, out);
}

const char *policy_model_name(const Experiment *experiment) {
  return experiment->model_from ? experiment->model_from : experiment->model_preset;
}

const char *reward_model_name(const Experiment *experiment) {
  const RewardSettings *reward = &experiment->reward;
  const char *own = reward->from ? reward->from : reward->preset;
  return own ? own : policy_model_name(experiment);
}

Status training_model(Arena *arena, Model *model, Backend *backend, const DecoderConfig *config,
                      const char *key, const char *from, bool adapter, ModelParts parts, uint64_t seed) {
  char base[PATH_MAX]; /* an adapter's file names it */
  if (from && !adapter) return model_load(arena, model, backend, from, parts, true, seed);
  if (adapter && !realpath(from, base)) return fail(INVALID, "%s %s: %s", key, from, strerror(errno));
  return model_create(arena, model, backend, config, adapter ? base : NULL, parts, true, seed);
}

int reward_post_tokens(const Experiment *experiment) {
  int own = experiment->reward.max_post_tokens;
  return own ? own : experiment->data.max_post_tokens;
}

int reward_reply_tokens(const Experiment *experiment) {
  int own = experiment->reward.max_reply_tokens;
  return own ? own : experiment->data.max_reply_tokens;
}

ActivationsUse training_activations(const Experiment *experiment) {
  return experiment->recompute ? ACTIVATIONS_RECOMPUTED : ACTIVATIONS_KEPT;
}

double learning_rate(const OptimizerSettings *settings, int64_t step, int64_t steps) {
  double warmup = floor(settings->warmup * (double)steps);
  if ((double)step < warmup) return settings->lr * ((double)step + 1) / warmup;
  double progress = ((double)step - warmup) / fmax(1, (double)steps - warmup);
  switch (settings->schedule) {
    case LR_CONSTANT:
      return settings->lr;
    case LR_LINEAR:
      return settings->lr * (1 - progress);
    case LR_COSINE:
      return settings->lr * 0.5 * (1 + cos(M_PI * progress));
  }
  return settings->lr;
}

void optimizer_step(Model *model, const OptimizerSettings *settings, double lr, int64_t update) {
  Parameters *p = &model->parameters;
  Backend *backend = p->backend;
  parameters_reduce(p);
  parameters_norm(p);
  ParameterSlices own = parameters_own(p);
  backend->adamw(backend, &(AdamW){.master = p->master,
                                   .m = p->m,
                                   .v = p->v,
                                   .grad = own.grads,
                                   .copy = own.copy,
                                   .count = own.total,
                                   .decay_count = own.decay_total,
                                   .lr = (float)lr,
                                   .beta1 = (float)settings->beta1,
                                   .beta2 = (float)settings->beta2,
                                   .epsilon = (float)settings->epsilon,
                                   .weight_decay = (float)settings->weight_decay,
                                   .step = (int)update + 1,
                                   .norm = p->norm,
                                   .max_norm = (float)settings->grad_clip});
  parameters_gather(p);
  parameters_zero_grads(p);
}

/* ---- state ---- */

/* A view of a checkpoint with the tensors of model `index` only, without their prefix "m<index>/". */
static Checkpoint model_view(Arena *arena, const Checkpoint *checkpoint, int index) {
  char prefix[16];
  int length = snprintf(prefix, sizeof prefix, "m%d/", index);
  Checkpoint view = *checkpoint;
  view.tensors = NEW(arena, HostTensor, checkpoint->count);
  view.count = 0;
  for (int i = 0; i < checkpoint->count; i++) {
    HostTensor tensor = checkpoint->tensors[i];
    if (strncmp(tensor.name, prefix, (size_t)length) != 0) continue;
    tensor.name += length;
    view.tensors[view.count++] = tensor;
  }
  return view;
}

static Status load_models(Arena *arena, const Checkpoint *checkpoint, Model *const *models, int count) {
  for (int i = 0; i < count; i++) {
    Checkpoint view = model_view(arena, checkpoint, i);
    TRY(parameters_load(&models[i]->parameters, &view, false, NULL));
    TRY(parameters_load_optimizer(&models[i]->parameters, &view));
  }
  return OK;
}

static Status read_state(Arena *arena, TrainingState *state, const CheckpointSettings *settings,
                         const char *folder, Model *const *models, int count, cJSON **meta) {
  *state = (TrainingState){
      .path = path_join(arena, folder, "state.safetensors"), .settings = settings, .saved_at = seconds_now()};
  *meta = NULL;
  Checkpoint checkpoint;
  bool found;
  TRY(checkpoint_open_newest(arena, state->path, &checkpoint, &found));
  if (!found) return OK;
  Status status = load_models(arena, &checkpoint, models, count);
  if (status == OK) *meta = cJSON_Duplicate(checkpoint.meta, true);
  checkpoint_close(&checkpoint);
  if (status != OK) return status;
  const cJSON *step = cJSON_GetObjectItemCaseSensitive(*meta, "step");
  state->saved_step = cJSON_IsNumber(step) ? (int64_t)step->valuedouble : 0;
  return OK;
}

/* Ranks that see different files would compute different things. */
static Status check_same_state(const TrainingState *state) {
  int64_t step = state->saved_step, most = comm_most(step), least = -comm_most(-step);
  if (most == least) return OK;
  return fail(FAILED, "%s: the ranks do not see the same file; use an output folder that all machines share",
              state->path);
}

Status state_open(Arena *arena, TrainingState *state, const CheckpointSettings *settings, const char *folder,
                  Model *const *models, int count, cJSON **meta) {
  TRY(read_state(arena, state, settings, folder, models, count, meta));
  return check_same_state(state);
}

static bool is_time(const TrainingState *state, int64_t step) {
  if (state->settings->every_steps > 0 && step - state->saved_step >= state->settings->every_steps)
    return true;
  return state->settings->every_seconds > 0 &&
         seconds_now() - state->saved_at >= state->settings->every_seconds;
}

bool state_due(TrainingState *state, int64_t step) {
  enum { GO_ON, SAVE, STOP };
  int64_t most = comm_most(interrupted ? STOP : is_time(state, step) ? SAVE : GO_ON);
  state->stopping = most == STOP;
  return most != GO_ON;
}

static Status gather_tensors(Arena *arena, Model *const *models, int count, HostTensor **out,
                             int *out_count) {
  HostTensor *all = NULL;
  int total = 0;
  for (int i = 0; i < count; i++) {
    HostTensor *tensors;
    int added;
    TRY(parameters_download(&models[i]->parameters, arena, true, &tensors, &added));
    HostTensor *grown = NEW(arena, HostTensor, total + added);
    if (total) memcpy(grown, all, sizeof *all * (size_t)total);
    for (int j = 0; j < added; j++) {
      grown[total + j] = tensors[j];
      grown[total + j].name = arena_print(arena, "m%d/%s", i, tensors[j].name);
    }
    all = grown;
    total += added;
  }
  *out = all;
  *out_count = total;
  return OK;
}

Status state_save(TrainingState *state, int64_t step, Model *const *models, int count, Metrics *metrics,
                  cJSON *meta) {
  Arena arena = {0};
  HostTensor *tensors;
  int tensor_count;
  cJSON_AddNumberToObject(meta, "step", (double)step);
  Status status = metrics_sync(metrics);
  if (status == OK) status = gather_tensors(&arena, models, count, &tensors, &tensor_count);
  if (status == OK && comm_is_first())
    status = checkpoint_write(state->path, tensors, tensor_count, meta, true);
  cJSON_Delete(meta);
  arena_free(&arena);
  TRY(status);
  state->saved_step = step;
  state->saved_at = seconds_now();
  bool stopping = comm.size > 1 ? state->stopping : interrupted;
  return stopping ? fail(INTERRUPTED,
                         "interrupted at step %lld, after saving; the same command goes on from there",
                         (long long)step)
                  : OK;
}

void state_remove(const TrainingState *state) {
  char previous[4096];
  if (!comm_is_first()) return;
  snprintf(previous, sizeof previous, "%s.previous", state->path);
  unlink(state->path);
  unlink(previous);
}

#include "trainer.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

Status experiment_adapt(const Experiment *experiment, DecoderConfig *out) {
  const AdapterSettings *adapter = &experiment->adapter;
  if (adapter->rank == 0) return OK;
  out->lora =
      (LoraConfig){.rank = adapter->rank, .alpha = (float)adapter->alpha, .dropout = (float)adapter->dropout};
  out->base = adapter->base;
  return lora_targets_parse(adapter->targets, out, &out->lora);
}

Status experiment_model(Arena *arena, const Experiment *experiment, DecoderConfig *out) {
  const AdapterSettings *adapter = &experiment->adapter;
  TRY(model_start(arena, experiment->model_preset, experiment->model_from, out));
  if (adapter->rank == 0) return OK;
  if (!experiment->model_from)
    return fail(INVALID,
                "adapter.rank is %d, but there is no \"model.from\" to adapt; name a model's folder, or "
                "set adapter.rank to 0",
                adapter->rank);
  if (out->lora.rank)
    return fail(INVALID, "model.from %s is an adapter itself; popalm export merges it into its base",
                experiment->model_from);
  return experiment_adapt(experiment, out);
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
  backend->grad_norm(backend, &(GradNorm){.grad = p->grads, .count = p->total, .norm = p->norm});
  backend->adamw(backend, &(AdamW){.master = p->master,
                                   .m = p->m,
                                   .v = p->v,
                                   .grad = p->grads,
                                   .copy = p->weights,
                                   .count = p->total,
                                   .decay_count = p->decay_total,
                                   .lr = (float)lr,
                                   .beta1 = (float)settings->beta1,
                                   .beta2 = (float)settings->beta2,
                                   .epsilon = (float)settings->epsilon,
                                   .weight_decay = (float)settings->weight_decay,
                                   .step = (int)update + 1,
                                   .norm = p->norm,
                                   .max_norm = (float)settings->grad_clip});
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

Status state_open(Arena *arena, TrainingState *state, const CheckpointSettings *settings, const char *folder,
                  Model *const *models, int count, cJSON **meta) {
  *state = (TrainingState){path_join(arena, folder, "state.safetensors"), settings, 0, seconds_now()};
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

bool state_due(const TrainingState *state, int64_t step) {
  if (interrupted) return true;
  if (state->settings->every_steps > 0 && step - state->saved_step >= state->settings->every_steps)
    return true;
  return state->settings->every_seconds > 0 &&
         seconds_now() - state->saved_at >= state->settings->every_seconds;
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
  if (status == OK) status = checkpoint_write(state->path, tensors, tensor_count, meta, true);
  cJSON_Delete(meta);
  arena_free(&arena);
  TRY(status);
  state->saved_step = step;
  state->saved_at = seconds_now();
  return interrupted ? fail(INTERRUPTED,
                            "interrupted at step %lld, after saving; the same command goes on from there",
                            (long long)step)
                     : OK;
}

void state_remove(const TrainingState *state) {
  char previous[4096];
  snprintf(previous, sizeof previous, "%s.previous", state->path);
  unlink(state->path);
  unlink(previous);
}

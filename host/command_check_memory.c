#include "command_check_memory.h"

#include <stdio.h>
#include <string.h>

#include "base/comm.h"
#include "command_experiment.h"
#include "models/model.h"
#include "stage_memory.h"
#include "trainer.h"

static const double MIB = 1024 * 1024;

static void print_model(Arena *arena, const char *role, const char *name, DecoderConfig config,
                        const Experiment *e) {
  if (!config.vocab) config.vocab = e->tokenizer.vocab_size;
  Model model;
  model_declare(arena, &model, &config, (ModelParts){0});
  printf("%smodel %s: %zu parameters with a vocabulary of %d\n", role, name,
         parameters_elements(&model.parameters), config.vocab);
}

static void print_heading(const char *kind, bool measured) {
  if (comm.size > 1) printf("memory of each of %d ranks\n", comm.size);
  printf("memory, MiB: of the %s, of the program on the host%s%s\n", strcmp(kind, "cpu") == 0 ? "CPU" : "GPU",
         strcmp(kind, "cpu") == 0 ? " with that" : "", measured ? "; measured when it ran" : "");
  printf("%-12s %9s %10s %11s %8s %8s  %9s %9s", "stage", "base", "parameters", "activations", "sampler",
         "scratch", "device", "program");
  printf(measured ? "  %9s %9s\n" : "\n", "device", "program");
}

static void print_row(StageId id, const StageMemory *m) {
  const MemoryNeed *need = &m->need;
  printf("%-12s %9.1f %10.1f %11.1f %8.1f %8.1f  %9.1f %9.1f", plan_stage_name(id), (double)need->base / MIB,
         (double)need->parameters / MIB, (double)need->activations / MIB, (double)need->sampler / MIB,
         (double)need->scratch / MIB, (double)need->device / MIB, (double)m->process / MIB);
  if (m->measured) printf("  %9.1f %9.1f", (double)m->device_peak / MIB, (double)m->process_peak / MIB);
  printf("\n");
}

/* ---- of a plan ---- */

static Status read_measured(Arena *arena, const PlanStage *stage, StageMemory *memory) {
  Json json;
  if (!stage->finished) return OK;
  TRY(json_read(arena, path_join(arena, stage->folder, "stage.json"), &json));
  stage_memory_read(json.root, memory);
  json_free(&json);
  return OK;
}

/* The instance of a stage that takes most; *found is false without one. */
static Status largest(Arena *arena, const Plan *plan, StageId id, StageMemory *out, bool *found) {
  *found = false;
  for (int i = 0; i < plan->count; i++) {
    if (plan->stages[i].id != id) continue;
    StageContext context = plan_stage_context(arena, plan, &plan->stages[i]);
    StageMemory memory;
    TRY(stage_memory(arena, &plan->table[id], &context, plan->backend, NULL, &memory));
    if (*found && memory.need.device <= out->need.device) continue;
    TRY(read_measured(arena, &plan->stages[i], &memory));
    *out = memory;
    *found = true;
  }
  return OK;
}

Status check_memory(Arena *arena, const Plan *plan) {
  const Experiment *e = &plan->file->runs[0].experiment;
  StageMemory memory[STAGE_COUNT];
  bool found[STAGE_COUNT], measured = false;
  DecoderConfig config;
  TRY(experiment_model(arena, e, &config));
  for (StageId id = STAGE_SFT; id < STAGE_COUNT; id++) {
    TRY(largest(arena, plan, id, &memory[id], &found[id]));
    measured = measured || (found[id] && memory[id].measured);
  }
  print_model(arena, "\n", policy_model_name(e), config, e);
  if (e->reward.from || e->reward.preset) {
    TRY(experiment_reward_model(arena, e, &config));
    print_model(arena, "reward ", reward_model_name(e), config, e);
  }
  print_heading(plan->backend, measured);
  for (StageId id = STAGE_SFT; id < STAGE_COUNT; id++)
    if (found[id]) print_row(id, &memory[id]);
  return OK;
}

/* ---- of a description ---- */

static Status print_described(Arena *arena, const Arguments *arguments, const Experiment *e) {
  if (!comm_is_first()) return OK;
  const char *preset = option_text(arguments, "--memory-of", NULL), *kind;
  DecoderConfig config;
  TRY(decoder_config_read(arena, preset, &config));
  TRY(experiment_adapt(e, &config));
  if (option_given(arguments, "--memory-on"))
    kind = option_text(arguments, "--memory-on", NULL);
  else
    TRY(backend_kind(e->device, &kind));
  if (strcmp(kind, "cpu") != 0 && strcmp(kind, "cuda") != 0)
    return fail(INVALID, "--memory-on %s: not a kind of device; use cpu or cuda", kind);
  print_model(arena, "\n", preset, config, e);
  print_heading(kind, false);
  for (StageId id = STAGE_SFT; id < STAGE_COUNT; id++) {
    StageContext context = {
        .experiment = e, .arena = arena, .train = e->data.train, .dev = e->data.dev, .pairs = e->data.pairs};
    StageMemory memory;
    TRY(stage_memory(arena, &stages[id], &context, kind, &config, &memory));
    print_row(id, &memory);
  }
  return OK;
}

Status check_memory_of(Arena *arena, const Arguments *arguments) {
  ExperimentFile file;
  TRY(experiment_open(arena, arguments, &file));
  Status status = print_described(arena, arguments, &file.runs[0].experiment);
  experiment_free(&file);
  return status;
}

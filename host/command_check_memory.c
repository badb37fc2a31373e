#include "command_check_memory.h"

#include <stdio.h>
#include <string.h>

#include "models/model.h"
#include "stage_memory.h"
#include "trainer.h"

static const double MIB = 1024 * 1024;

typedef struct MemoryTable {
  const Plan *plan;
  const char *kind;               /* of device */
  const DecoderConfig *described; /* or NULL */
} MemoryTable;

static Status read_question(Arena *arena, const Arguments *arguments, MemoryTable *table,
                            DecoderConfig *described) {
  const char *preset = option_text(arguments, "--memory-model", NULL);
  table->kind = option_text(arguments, "--memory-device", table->plan->backend);
  if (strcmp(table->kind, "cpu") != 0 && strcmp(table->kind, "cuda") != 0)
    return fail(INVALID, "--memory-device %s: not a kind of device; use cpu or cuda", table->kind);
  if (!preset) return OK;
  TRY(decoder_config_read(arena, preset, described));
  table->described = described;
  return OK;
}

static Status print_model(Arena *arena, const MemoryTable *table) {
  const Experiment *e = &table->plan->file->runs[0].experiment;
  DecoderConfig config;
  if (table->described)
    config = *table->described;
  else
    TRY(experiment_model(arena, e, &config));
  if (!config.vocab) config.vocab = e->tokenizer.vocab_size;
  Model model;
  model_declare(arena, &model, &config, (ModelParts){0});
  const char *name = e->model_from ? e->model_from : e->model_preset;
  printf("\nmodel %s: %zu parameters with a vocabulary of %d\n", table->described ? "as described" : name,
         parameters_elements(&model.parameters), config.vocab);
  return OK;
}

/* The instance of a stage that takes most, in a copy of its memory; NULL without one. */
static Status largest(Arena *arena, const MemoryTable *table, StageId id, StageMemory *out,
                      const PlanStage **stage) {
  *stage = NULL;
  for (int i = 0; i < table->plan->count; i++) {
    const PlanStage *each = &table->plan->stages[i];
    if (each->id != id) continue;
    StageContext context = plan_stage_context(arena, table->plan, each);
    DecoderConfig adapted;
    StageMemory memory;
    if (table->described) {
      adapted = *table->described;
      TRY(experiment_adapt(context.experiment, &adapted));
    }
    TRY(stage_memory(arena, &table->plan->table[id], &context, table->kind,
                     table->described ? &adapted : NULL, &memory));
    if (*stage && memory.need.device <= out->need.device) continue;
    *out = memory;
    *stage = each;
  }
  return OK;
}

static Status read_measured(Arena *arena, const PlanStage *stage, StageMemory *memory) {
  Json json;
  if (!stage->finished) return OK;
  TRY(json_read(arena, path_join(arena, stage->folder, "stage.json"), &json));
  stage_memory_read(json.root, memory);
  json_free(&json);
  return OK;
}

/* On the CPU the process has the device's memory in it. */
static void print_row(const MemoryTable *table, StageId id, const StageMemory *m) {
  const MemoryNeed *need = &m->need;
  printf("%-12s %9.1f %10.1f %11.1f %8.1f %8.1f  %9.1f %9.1f", plan_stage_name(id), (double)need->base / MIB,
         (double)need->parameters / MIB, (double)need->activations / MIB, (double)need->sampler / MIB,
         (double)need->scratch / MIB, (double)need->device / MIB, (double)m->process / MIB);
  if (m->measured && !table->described && strcmp(table->kind, table->plan->backend) == 0)
    printf("  %9.1f %9.1f", (double)m->device_peak / MIB, (double)m->process_peak / MIB);
  printf("\n");
}

Status check_memory(Arena *arena, const Arguments *arguments, const Plan *plan) {
  MemoryTable table = {.plan = plan};
  DecoderConfig described;
  TRY(read_question(arena, arguments, &table, &described));
  TRY(print_model(arena, &table));
  printf(
      "memory, MiB: what each stage takes on a %s, and the whole program on the host; then what it "
      "took\n%-12s "
      "%9s %10s %11s %8s %8s  %9s %9s  %9s %9s\n",
      strcmp(table.kind, "cpu") == 0 ? "CPU" : "GPU", "stage", "base", "parameters", "activations", "sampler",
      "scratch", "device", "process", "device", "process");
  for (StageId id = STAGE_SFT; id < STAGE_COUNT; id++) {
    StageMemory memory;
    const PlanStage *stage;
    TRY(largest(arena, &table, id, &memory, &stage));
    if (!stage) continue;
    TRY(read_measured(arena, stage, &memory));
    print_row(&table, id, &memory);
  }
  return OK;
}

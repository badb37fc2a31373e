#include "command_experiment.h"

#include <string.h>

static Status read_overrides(Arena *arena, const Arguments *arguments, Override **out, int *count) {
  *out = NEW(arena, Override, arguments->given_count);
  *count = 0;
  for (int i = 0; i < arguments->given_count; i++) {
    const GivenOption *given = &arguments->given[i];
    if (strcmp(given->option->name, "--device") == 0) (*out)[(*count)++] = (Override){"device", given->value};
    if (strcmp(given->option->name, "--set") != 0) continue;
    const char *equals = strchr(given->value, '=');
    if (!equals || equals == given->value)
      return fail(INVALID, "--set %s: the '=' is missing; write --set ppo.steps=50", given->value);
    const char *path = arena_strndup(arena, given->value, (size_t)(equals - given->value));
    (*out)[(*count)++] = (Override){path, equals + 1};
  }
  return OK;
}

Status experiment_open(Arena *arena, const Arguments *arguments, ExperimentFile *out) {
  Override *overrides;
  int count;
  TRY(read_overrides(arena, arguments, &overrides, &count));
  return experiment_read(arena, arguments->positional[0], overrides, count, out);
}

static Status make_plan(Arena *arena, const Arguments *arguments, ExperimentFile *file, Plan *plan) {
  StageId until = STAGE_EVALUATE_PPO;
  const char *last = option_text(arguments, "--until", NULL);
  if (last) TRY(plan_find_stage(last, &until));
  TRY(experiment_open(arena, arguments, file));
  Status status = plan_make(arena, file, stages, option_text(arguments, "--out", "runs"), until, plan);
  if (status != OK) experiment_free(file);
  return status;
}

Status experiment_planned(Arena *arena, const Arguments *arguments, Status (*use)(Arena *arena, Plan *plan)) {
  ExperimentFile file;
  Plan plan;
  TRY(make_plan(arena, arguments, &file, &plan));
  Status status = use(arena, &plan);
  experiment_free(&file);
  return status;
}

/* popalm run: computes what is not there yet, and says what came out. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "command_experiment.h"
#include "commands.h"
#include "report.h"

/* What the table after a run shows, if the evaluation has it. */
static const char *const shown[] = {"reward", "oracle_popularity", "win_rate", "rouge_l@1", "distinct_2"};
enum { SHOWN = sizeof shown / sizeof *shown };

static double number_at(const cJSON *run, const char *model, const char *metric) {
  const cJSON *evaluate = cJSON_GetObjectItemCaseSensitive(run, "evaluate");
  const cJSON *value =
      cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(evaluate, model), metric);
  return cJSON_IsNumber(value) ? value->valuedouble : NAN;
}

/* Mean over the seeds of an arm; runs are arm by arm. */
static double arm_mean(const cJSON *runs, int arm, int seeds, const char *model, const char *metric) {
  double sum = 0;
  for (int i = 0; i < seeds; i++) sum += number_at(cJSON_GetArrayItem(runs, arm * seeds + i), model, metric);
  return sum / seeds;
}

static void print_cell(double sft, double ppo) {
  char cell[40];
  if (isnan(ppo))
    snprintf(cell, sizeof cell, "-");
  else if (isnan(sft))
    snprintf(cell, sizeof cell, "%.4g", ppo);
  else
    snprintf(cell, sizeof cell, "%.4g -> %.4g", sft, ppo);
  printf("  %-18s", cell);
}

static void print_summary(const ExperimentFile *file, const cJSON *runs) {
  printf("\n%-16s %5s", "sft -> ppo", "seeds");
  for (int i = 0; i < SHOWN; i++)
    if (!isnan(number_at(runs->child, "ppo", shown[i]))) printf("  %-18s", shown[i]);
  printf("\n");
  for (int arm = 0; arm < file->arm_count; arm++) {
    printf("%-16s %5d", file->runs[arm * file->seed_count].arm, file->seed_count);
    for (int i = 0; i < SHOWN; i++)
      if (!isnan(number_at(runs->child, "ppo", shown[i])))
        print_cell(arm_mean(runs, arm, file->seed_count, "sft", shown[i]),
                   arm_mean(runs, arm, file->seed_count, "ppo", shown[i]));
    printf("\n");
  }
}

static Status finish(Arena *arena, const Plan *plan) {
  const char *folder = plan_run_folder(arena, plan);
  TRY(report_write(arena, folder));
  if (plan->until != STAGE_EVALUATE_PPO) {
    printf("stopped after %s, as asked; the same command without --until goes on\n",
           plan_stage_name(plan->until));
    return OK;
  }
  Json json;
  TRY(json_read(arena, path_join(arena, folder, "results.json"), &json));
  print_summary(plan->file, cJSON_GetObjectItemCaseSensitive(json.root, "runs"));
  json_free(&json);
  printf("\nresults: %s/results.json\nreport:  %s/report.html\n", folder, folder);
  return OK;
}

static Status run_plan(Arena *arena, Plan *plan) {
  TRY(plan_run(arena, plan));
  return finish(arena, plan);
}

Status command_run(Arena *arena, int argc, char **argv) {
  static const CommandLine line = {
      "popalm run EXPERIMENT [options]",
      "Runs an experiment or its whole ablation. Finished stages are reused, an interrupted one resumes.",
      experiment_options,
      EXPERIMENT_OPTIONS,
      1,
      1};
  return experiment_command(arena, &line, argc, argv, run_plan);
}

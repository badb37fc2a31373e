/* popalm run: computes what is not there yet, and says what came out. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/comm.h"
#include "command_experiment.h"
#include "commands.h"
#include "report.h"

/* What the table after a run shows, if the evaluation has it. */
static const char *const shown[] = {"reward", "oracle_popularity", "win_rate", "rouge_l@1", "distinct_2"};
enum { SHOWN = sizeof shown / sizeof *shown };

static const double SIGNIFICANT = 0.05;
enum { NAME_LEAST = 10, NAME_MOST = 40 };

static double number_at(const cJSON *run, const char *model, const char *metric) {
  const cJSON *evaluate = cJSON_GetObjectItemCaseSensitive(run, "evaluate");
  const cJSON *value =
      cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(evaluate, model), metric);
  return cJSON_IsNumber(value) ? value->valuedouble : NAN;
}

/* Mean over the seeds of an arm that have the metric; runs are arm by arm. */
static double arm_mean(const cJSON *runs, int arm, int seeds, const char *model, const char *metric) {
  double sum = 0;
  int count = 0;
  for (int i = 0; i < seeds; i++) {
    double value = number_at(cJSON_GetArrayItem(runs, arm * seeds + i), model, metric);
    if (isnan(value)) continue;
    sum += value;
    count++;
  }
  return count ? sum / count : NAN;
}

static bool any_has(const cJSON *runs, const char *metric) {
  for (const cJSON *run = runs->child; run; run = run->next)
    if (!isnan(number_at(run, "ppo", metric))) return true;
  return false;
}

/* Of the column of arms. */
static int name_width(const ExperimentFile *file) {
  int width = NAME_LEAST;
  for (int run = 0; run < file->run_count; run++) {
    int length = (int)strlen(file->runs[run].arm);
    if (length > width) width = length < NAME_MOST ? length : NAME_MOST;
  }
  return width;
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
  int width = name_width(file);
  printf("\n%-*s %5s", width, "sft -> ppo", "seeds");
  for (int i = 0; i < SHOWN; i++)
    if (any_has(runs, shown[i])) printf("  %-18s", shown[i]);
  printf("\n");
  for (int arm = 0; arm < file->arm_count; arm++) {
    printf("%-*s %5d", width, file->runs[arm * file->seed_count].arm, file->seed_count);
    for (int i = 0; i < SHOWN; i++)
      if (any_has(runs, shown[i]))
        print_cell(arm_mean(runs, arm, file->seed_count, "sft", shown[i]),
                   arm_mean(runs, arm, file->seed_count, "ppo", shown[i]));
    printf("\n");
  }
}

/* ---- the comparison ---- */

static double value_of(const cJSON *row, const char *key) {
  const cJSON *value = cJSON_GetObjectItemCaseSensitive(row, key);
  return cJSON_IsNumber(value) ? value->valuedouble : NAN;
}

/* "+0.131 [0.102, 0.160]" */
static void print_interval(const cJSON *row, const char *key, const char *ends_key, bool sign) {
  char cell[64];
  const cJSON *ends = cJSON_GetObjectItemCaseSensitive(row, ends_key), *low = cJSON_GetArrayItem(ends, 0),
              *high = cJSON_GetArrayItem(ends, 1);
  double value = value_of(row, key);
  if (isnan(value))
    snprintf(cell, sizeof cell, "-");
  else if (cJSON_IsNumber(low) && cJSON_IsNumber(high))
    snprintf(cell, sizeof cell, sign ? "%+.4f [%.4f, %.4f]" : "%.4f [%.4f, %.4f]", value, low->valuedouble,
             high->valuedouble);
  else
    snprintf(cell, sizeof cell, sign ? "%+.4f" : "%.4f", value);
  printf("  %-26s", cell);
}

static void print_number(double value, const char *format, int width) {
  char cell[32] = "-";
  if (!isnan(value)) snprintf(cell, sizeof cell, format, value);
  printf("  %*s", width, cell);
}

static const char *verdict(const cJSON *row) {
  double p = value_of(row, "p_holm"), difference = value_of(row, "difference");
  if (isnan(p)) return "no test";
  if (p >= SIGNIFICANT) return "not significant";
  return difference > 0 ? "higher" : "lower";
}

static void print_comparison(const ExperimentFile *file, const cJSON *results) {
  const cJSON *rows = cJSON_GetObjectItemCaseSensitive(results, "comparison"),
              *warning = cJSON_GetObjectItemCaseSensitive(results, "warning");
  int width = name_width(file);
  if (file->arm_count < 2 || !rows || !rows->child) return;
  const cJSON *own = cJSON_GetObjectItemCaseSensitive(
      cJSON_GetObjectItemCaseSensitive(file->resolved, "ablate"), "baselines");
  printf("\n%s against the baseline (%s%s), paired by seed\n", file->metric, file->baseline,
         own ? ", or the arm's own" : "");
  printf("%-*s  %-26s  %-26s  %6s  %5s  %6s  %6s\n", width, "arm", "mean [95%]", "difference [95%]", "effect",
         "wins", "p", "p holm");
  for (const cJSON *row = rows->child; row; row = row->next) {
    const cJSON *arm = cJSON_GetObjectItemCaseSensitive(row, "arm"),
                *metric = cJSON_GetObjectItemCaseSensitive(row, "metric");
    if (strcmp(metric->valuestring, file->metric) != 0) continue;
    printf("%-*s", width, arm->valuestring);
    print_interval(row, "mean", "ci95", false);
    if (!cJSON_GetObjectItemCaseSensitive(row, "baseline")) {
      printf("  a baseline\n");
      continue;
    }
    print_interval(row, "difference", "difference_ci95", true);
    print_number(value_of(row, "effect_size"), "%.2f", 6);
    printf("  %2.0f/%-2.0f", value_of(row, "wins"), value_of(row, "pairs"));
    print_number(value_of(row, "p_value"), "%.4f", 6);
    print_number(value_of(row, "p_holm"), "%.4f", 6);
    printf("  %s\n", verdict(row));
  }
  if (cJSON_IsString(warning)) printf("warning: %s\n", warning->valuestring);
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
  print_comparison(plan->file, json.root);
  json_free(&json);
  printf("\nresults: %s/results.json\nreport:  %s/report.html\n", folder, folder);
  const PlanStop *stop = plan_all_stopped(plan);
  return stop ? fail(FAILED, "%s: every run was stopped by a gate; the first: %s", plan->file->name,
                     stop->reason)
              : OK;
}

static Status run_plan(Arena *arena, Plan *plan) {
  TRY(plan_run(arena, plan));
  return comm_is_first() ? finish(arena, plan) : OK;
}

Status command_run(Arena *arena, int argc, char **argv) {
  static const Option options[] = {EXPERIMENT_OPTION_ROWS};
  static const CommandLine line = {
      "popalm run EXPERIMENT [options]",
      "Runs an experiment or its whole ablation. Finished stages are reused, an interrupted one resumes.",
      options,
      sizeof options / sizeof *options,
      1,
      1};
  Arguments arguments;
  TRY(comm_start());
  TRY(command_line_parse(arena, &line, argc, argv, &arguments));
  return arguments.help ? OK : experiment_planned(arena, &arguments, run_plan);
}

/* What a plan leaves for people: runs/<name> with links to the stages, experiment.json, results.json,
 * timing.json. */
#include <errno.h>
#include <ftw.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "plan.h"
#include "statistics.h"
#include "version.h"

const char *plan_run_folder(Arena *arena, const Plan *plan) {
  return path_join(arena, plan->out, plan->file->name);
}

static const char *arm_folder(Arena *arena, const Plan *plan, const ExperimentRun *run) {
  return arena_print(arena, "%s/arms/%s/seed-%llu", plan_run_folder(arena, plan), run->arm,
                     (unsigned long long)run->experiment.seed);
}

/* ---- links ---- */

static int remove_link(const char *path, const struct stat *info, int type, struct FTW *walk) {
  (void)info;
  (void)walk;
  if (type == FTW_SL || type == FTW_SLN) unlink(path);
  if (type == FTW_DP) rmdir(path); /* stays if something else lies in it */
  return 0;
}

static Status make_link(Arena *arena, const char *folder, const char *name, const char *target) {
  const char *path = path_join(arena, folder, name);
  unlink(path);
  if (symlink(target, path) != 0)
    return fail(FAILED, "%s: cannot be made: %s; check the folder and its rights", path, strerror(errno));
  return OK;
}

static Status link_run(Arena *arena, const Plan *plan, int run) {
  const char *folder = arm_folder(arena, plan, &plan->file->runs[run]);
  TRY(make_folders(folder));
  for (StageId id = 0; id < STAGE_COUNT; id++) {
    int at = plan->of_run[run][id];
    if (at < 0) continue;
    const char *name = strrchr(plan->stages[at].folder, '/') + 1;
    TRY(make_link(arena, folder, plan_stage_name(id), arena_print(arena, "../../../../stages/%s", name)));
  }
  if (plan->of_run[run][STAGE_PPO] < 0) return OK;
  TRY(make_link(arena, folder, "metrics.jsonl", "ppo/metrics.jsonl"));
  return make_link(arena, folder, "samples.jsonl", "ppo/samples.jsonl");
}

static Status write_json(Arena *arena, const char *folder, const char *name, cJSON *owned) {
  Status status = json_write(path_join(arena, folder, name), owned);
  cJSON_Delete(owned);
  return status;
}

static Status write_experiment(Arena *arena, const Plan *plan, const char *device) {
  cJSON *object = cJSON_Duplicate(plan->file->resolved, true);
  cJSON *by = cJSON_AddObjectToObject(object, "made_by");
  cJSON_AddStringToObject(by, "version", popalm_version);
  cJSON_AddStringToObject(by, "commit", popalm_commit);
  cJSON_AddStringToObject(by, "build", popalm_build);
  cJSON_AddStringToObject(by, "device", device);
  return write_json(arena, plan_run_folder(arena, plan), "experiment.json", object);
}

Status plan_write_links(Arena *arena, const Plan *plan) {
  const char *folder = plan_run_folder(arena, plan);
  TRY(make_folders(folder));
  nftw(path_join(arena, folder, "arms"), remove_link, 16, FTW_PHYS | FTW_DEPTH); /* arms that are no more */
  for (int run = 0; run < plan->file->run_count; run++) TRY(link_run(arena, plan, run));
  return write_experiment(arena, plan, plan->backend);
}

/* ---- results ---- */

/* A file of a stage's folder as a tree that the caller owns. */
static Status read_of_stage(Arena *arena, const PlanStage *stage, const char *name, cJSON **out) {
  Json json;
  TRY(json_read(arena, path_join(arena, stage->folder, name), &json));
  *out = json.root;
  return OK;
}

static void copy_member(cJSON *to, const cJSON *from, const char *name) {
  const cJSON *member = cJSON_GetObjectItemCaseSensitive(from, name);
  if (member) cJSON_AddItemToObject(to, name, cJSON_Duplicate(member, true));
}

static Status add_run(Arena *arena, const Plan *plan, int run, cJSON *results, cJSON *timing) {
  const ExperimentRun *of = &plan->file->runs[run];
  const int *at = plan->of_run[run];
  cJSON *entry = cJSON_CreateObject(), *timed = cJSON_CreateObject(), *read;
  cJSON_AddItemToArray(results, entry);
  cJSON_AddItemToArray(timing, timed);
  for (int i = 0; i < 2; i++) {
    cJSON_AddStringToObject(i ? timed : entry, "arm", of->arm);
    cJSON_AddNumberToObject(i ? timed : entry, "seed", (double)of->experiment.seed);
  }
  cJSON *reward = cJSON_AddObjectToObject(entry, "reward"),
        *evaluate = cJSON_AddObjectToObject(entry, "evaluate");
  TRY(read_of_stage(arena, &plan->stages[at[STAGE_REWARD]], "reward.json", &read));
  copy_member(reward, read, "pair_accuracy");
  copy_member(reward, read, "by_like_ratio");
  cJSON_Delete(read);
  TRY(read_of_stage(arena, &plan->stages[at[STAGE_EVALUATE_SFT]], "evaluate.json", &read));
  cJSON_AddItemToObject(evaluate, "sft", read);
  TRY(read_of_stage(arena, &plan->stages[at[STAGE_EVALUATE_PPO]], "evaluate.json", &read));
  cJSON_AddItemToObject(evaluate, "ppo", read);
  cJSON *seconds = cJSON_AddObjectToObject(timed, "seconds");
  for (StageId id = 0; id < STAGE_COUNT; id++) {
    if (at[id] < 0) continue;
    TRY(read_of_stage(arena, &plan->stages[at[id]], "stage.json", &read));
    const cJSON *took = cJSON_GetObjectItemCaseSensitive(read, "seconds");
    if (cJSON_IsNumber(took)) cJSON_AddNumberToObject(seconds, plan_stage_name(id), took->valuedouble);
    cJSON_Delete(read);
  }
  return OK;
}

/* ---- comparison ---- */

/* The metric of the PPO model in run, NaN when it is not there. */
static double metric_of(const cJSON *runs, int run, const char *metric) {
  const cJSON *evaluate = cJSON_GetObjectItemCaseSensitive(cJSON_GetArrayItem(runs, run), "evaluate");
  const cJSON *value =
      cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(evaluate, "ppo"), metric);
  return cJSON_IsNumber(value) ? value->valuedouble : NAN;
}

static void add_interval(cJSON *row, const char *name, const char *ends_name, Interval interval) {
  cJSON_AddNumberToObject(row, name, interval.mean);
  cJSON *ends = cJSON_AddArrayToObject(row, ends_name);
  cJSON_AddItemToArray(ends, cJSON_CreateNumber(interval.low));
  cJSON_AddItemToArray(ends, cJSON_CreateNumber(interval.high));
}

/* One row an arm: runs are arm by arm, seeds within, so run = arm * seeds + seed. */
static void compare_metric(Arena *arena, const Plan *plan, const cJSON *runs, const char *metric,
                           cJSON *comparison) {
  int arms = plan->file->arm_count, seeds = plan->file->seed_count, base = 0;
  while (strcmp(plan->file->runs[base * seeds].arm, plan->file->baseline) != 0) base++;
  double *value = NEW(arena, double, seeds), *difference = NEW(arena, double, seeds),
         *p = NEW(arena, double, arms * 2);
  Interval *mean = NEW(arena, Interval, arms), *gain = NEW(arena, Interval, arms);
  for (int arm = 0; arm < arms; arm++) {
    for (int i = 0; i < seeds; i++) {
      value[i] = metric_of(runs, arm * seeds + i, metric);
      difference[i] = value[i] - metric_of(runs, base * seeds + i, metric);
    }
    mean[arm] = interval_95(value, seeds);
    gain[arm] = interval_95(difference, seeds);
    p[arm] = arm == base || seeds < 2 || isnan(gain[arm].mean) ? NAN : sign_flip_p(difference, seeds);
    p[arms + arm] = p[arm];
  }
  holm(p + arms, arms);
  for (int arm = 0; arm < arms; arm++) {
    cJSON *row = cJSON_CreateObject();
    cJSON_AddItemToArray(comparison, row);
    cJSON_AddStringToObject(row, "arm", plan->file->runs[arm * seeds].arm);
    cJSON_AddStringToObject(row, "metric", metric);
    add_interval(row, "mean", "ci95", mean[arm]);
    if (arm == base) continue;
    cJSON_AddStringToObject(row, "baseline", plan->file->baseline);
    add_interval(row, "difference", "difference_ci95", gain[arm]);
    cJSON_AddNumberToObject(row, "p_value", p[arm]);
    cJSON_AddNumberToObject(row, "p_holm", p[arms + arm]);
  }
}

/* The metric that the experiment names comes first; then every number that the evaluation wrote. */
static Status compare(Arena *arena, const Plan *plan, const cJSON *runs, cJSON *comparison) {
  const cJSON *first = cJSON_GetObjectItemCaseSensitive(cJSON_GetArrayItem(runs, 0), "evaluate");
  const cJSON *metrics = cJSON_GetObjectItemCaseSensitive(first, "ppo");
  if (!plan->file->baseline) return OK;
  if (!cJSON_GetObjectItemCaseSensitive(metrics, plan->file->metric)) {
    const char **names = NEW(arena, const char *, cJSON_GetArraySize(metrics) + 1);
    int count = 0;
    for (const cJSON *item = metrics->child; item; item = item->next) names[count++] = item->string;
    const char *near = nearest_name(plan->file->metric, names, count);
    return fail(
        INVALID,
        "%s: \"ablate.metric\" is \"evaluate.%s\", which no evaluation has; did you mean \"evaluate.%s\"?",
        plan->file->path, plan->file->metric, near ? near : "reward");
  }
  compare_metric(arena, plan, runs, plan->file->metric, comparison);
  for (const cJSON *item = metrics->child; item; item = item->next)
    if (cJSON_IsNumber(item) && strcmp(item->string, plan->file->metric) != 0)
      compare_metric(arena, plan, runs, item->string, comparison);
  return OK;
}

static cJSON *named_list(const char *name, const char *list, cJSON **array) {
  cJSON *object = cJSON_CreateObject();
  cJSON_AddStringToObject(object, "name", name);
  *array = cJSON_AddArrayToObject(object, list);
  return object;
}

static Status fill_results(Arena *arena, const Plan *plan, cJSON *results, cJSON *runs, cJSON *timed) {
  for (int run = 0; run < plan->file->run_count; run++) TRY(add_run(arena, plan, run, runs, timed));
  return compare(arena, plan, runs, cJSON_AddArrayToObject(results, "comparison"));
}

Status plan_write_results(Arena *arena, const Plan *plan) {
  const char *folder = plan_run_folder(arena, plan);
  cJSON *runs, *timed, *marker;
  cJSON *results = named_list(plan->file->name, "runs", &runs),
        *timing = named_list(plan->file->name, "runs", &timed);
  Status status = fill_results(arena, plan, results, runs, timed);
  if (status != OK) {
    cJSON_Delete(results);
    cJSON_Delete(timing);
    return status;
  }
  TRY(write_json(arena, folder, "timing.json", timing));
  TRY(write_json(arena, folder, "results.json", results));
  TRY(read_of_stage(arena, &plan->stages[plan->of_run[0][STAGE_SFT]], "stage.json", &marker));
  const cJSON *device = cJSON_GetObjectItemCaseSensitive(marker, "device");
  status = write_experiment(arena, plan, cJSON_IsString(device) ? device->valuestring : plan->backend);
  cJSON_Delete(marker);
  return status;
}

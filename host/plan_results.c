/* What a plan leaves for people: runs/<name> with links to the stages, experiment.json, results.json,
 * timing.json. */
#include <errno.h>
#include <ftw.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "plan.h"
#include "plan_lock.h"
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

static Status write_links(Arena *arena, const Plan *plan, const char *folder) {
  nftw(path_join(arena, folder, "arms"), remove_link, 16, FTW_PHYS | FTW_DEPTH); /* arms that are no more */
  for (int run = 0; run < plan->file->run_count; run++) TRY(link_run(arena, plan, run));
  return write_experiment(arena, plan, plan->backend);
}

/* Locked, since another process may have been given the same command. */
Status plan_write_links(Arena *arena, const Plan *plan) {
  const char *folder = plan_run_folder(arena, plan);
  FolderLock lock;
  TRY(folder_lock(folder, NULL, &lock));
  Status status = write_links(arena, plan, folder);
  folder_unlock(&lock);
  return status;
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

/* A file of a finished stage of the run as a tree that the caller owns; NULL when a gate came before the
 * stage. What a run without the gate has left of PPO does not count. */
static Status read_of_run(Arena *arena, const Plan *plan, int run, StageId id, const char *name,
                          cJSON **out) {
  const PlanStage *stage = &plan->stages[plan->of_run[run][id]];
  bool stopped = plan->stops[run].gate && id >= STAGE_PPO;
  *out = NULL;
  return stage->finished && !stopped ? read_of_stage(arena, stage, name, out) : OK;
}

static void add_stop(cJSON *entry, const PlanStop *stop) {
  if (!stop->gate) return;
  cJSON *object = cJSON_AddObjectToObject(entry, "stopped");
  cJSON_AddStringToObject(object, "gate", stop->gate);
  cJSON_AddNumberToObject(object, "value", stop->value);
  cJSON_AddNumberToObject(object, "limit", stop->limit);
  cJSON_AddStringToObject(object, "reason", stop->reason);
}

static Status add_numbers(Arena *arena, const Plan *plan, int run, cJSON *entry) {
  cJSON *reward = cJSON_AddObjectToObject(entry, "reward"),
        *evaluate = cJSON_AddObjectToObject(entry, "evaluate"), *read;
  TRY(read_of_run(arena, plan, run, STAGE_REWARD, "reward.json", &read));
  copy_member(reward, read, "pair_accuracy");
  copy_member(reward, read, "by_like_ratio");
  cJSON_Delete(read);
  TRY(read_of_run(arena, plan, run, STAGE_EVALUATE_SFT, "evaluate.json", &read));
  if (read) cJSON_AddItemToObject(evaluate, "sft", read);
  TRY(read_of_run(arena, plan, run, STAGE_EVALUATE_PPO, "evaluate.json", &read));
  if (read) cJSON_AddItemToObject(evaluate, "ppo", read);
  return OK;
}

static Status add_seconds(Arena *arena, const Plan *plan, int run, cJSON *timed) {
  cJSON *seconds = cJSON_AddObjectToObject(timed, "seconds"), *read;
  for (StageId id = 0; id < STAGE_COUNT; id++) {
    if (plan->of_run[run][id] < 0) continue;
    TRY(read_of_run(arena, plan, run, id, "stage.json", &read));
    const cJSON *took = cJSON_GetObjectItemCaseSensitive(read, "seconds");
    if (cJSON_IsNumber(took)) cJSON_AddNumberToObject(seconds, plan_stage_name(id), took->valuedouble);
    cJSON_Delete(read);
  }
  return OK;
}

static Status add_run(Arena *arena, const Plan *plan, int run, cJSON *results, cJSON *timing) {
  const ExperimentRun *of = &plan->file->runs[run];
  cJSON *entry = cJSON_CreateObject(), *timed = cJSON_CreateObject();
  cJSON_AddItemToArray(results, entry);
  cJSON_AddItemToArray(timing, timed);
  for (int i = 0; i < 2; i++) {
    cJSON_AddStringToObject(i ? timed : entry, "arm", of->arm);
    cJSON_AddNumberToObject(i ? timed : entry, "seed", (double)of->experiment.seed);
  }
  add_stop(entry, &plan->stops[run]);
  TRY(add_numbers(arena, plan, run, entry));
  return add_seconds(arena, plan, run, timed);
}

static cJSON *named_list(const char *name, const char *list, cJSON **array) {
  cJSON *object = cJSON_CreateObject();
  cJSON_AddStringToObject(object, "name", name);
  *array = cJSON_AddArrayToObject(object, list);
  return object;
}

static Status fill_results(Arena *arena, const Plan *plan, cJSON *results, cJSON *runs, cJSON *timed) {
  for (int run = 0; run < plan->file->run_count; run++) TRY(add_run(arena, plan, run, runs, timed));
  return plan_compare(arena, plan, runs, results);
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

/* Runs the stages of a plan: one folder each, locked while it is computed, finished when stage.json is there.
 */
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/comm.h"
#include "plan.h"
#include "plan_lock.h"
#include "progress.h"
#include "stage_memory.h"
#include "version.h"

/* stage.json of a finished stage must be about this key: a damaged or foreign one is refused by name. */
static Status check_finished(Arena *arena, const PlanStage *stage) {
  Json json = {0};
  const char *key = NULL;
  Status status = json_read(arena, path_join(arena, stage->folder, "stage.json"), &json);
  if (status == OK) status = json_get_string(&json, json.root, "key", &key);
  if (status == OK && strcmp(key, stage->key) != 0)
    status = fail(FAILED, "%s: its key is %s, not %s; remove the folder %s and run again", json.path, key,
                  stage->key, stage->folder);
  json_free(&json);
  return status;
}

static void add_sections(cJSON *object, const Plan *plan, const PlanStage *stage) {
  const Stage *row = &plan->table[stage->id];
  const cJSON *resolved = plan->file->runs[stage->first_run].experiment.resolved;
  cJSON *sections = cJSON_AddObjectToObject(object, "sections");
  for (int i = 0; i < (int)(sizeof row->sections / sizeof *row->sections) && row->sections[i]; i++) {
    const cJSON *at = plan_section(resolved, row->sections[i]);
    cJSON_AddItemToObject(sections, row->sections[i], at ? cJSON_Duplicate(at, true) : cJSON_CreateNull());
  }
}

/* The marker of a finished stage, written last. */
static Status write_marker(Arena *arena, const Plan *plan, const PlanStage *stage, const Backend *backend,
                           double seconds, const StageMemory *memory) {
  cJSON *object = cJSON_CreateObject();
  cJSON_AddStringToObject(object, "stage", plan_stage_name(stage->id));
  cJSON_AddNumberToObject(object, "format", STAGE_FORMAT);
  cJSON_AddStringToObject(object, "key", stage->key);
  add_sections(object, plan, stage);
  cJSON *inputs = cJSON_AddObjectToObject(object, "inputs");
  for (int i = 0; i < STAGE_COUNT; i++)
    if (stage->input[i] >= 0)
      cJSON_AddStringToObject(inputs, plan_stage_name((StageId)i), plan->stages[stage->input[i]].key);
  cJSON_AddNumberToObject(object, "seconds", seconds);
  if (backend) stage_memory_add(object, memory);
  cJSON_AddStringToObject(object, "commit", popalm_commit);
  cJSON_AddStringToObject(object, "build", popalm_build);
  if (backend) cJSON_AddStringToObject(object, "device", backend->device);
  Status status = json_write(path_join(arena, stage->folder, "stage.json"), object);
  cJSON_Delete(object);
  return status;
}

StageContext plan_stage_context(Arena *arena, const Plan *plan, const PlanStage *stage) {
  const Experiment *experiment = &plan->file->runs[stage->first_run].experiment;
  StageContext context = {.experiment = experiment,
                          .arena = arena,
                          .folder = stage->folder,
                          .train = experiment->data.train,
                          .dev = experiment->data.dev,
                          .pairs = experiment->data.pairs,
                          .label = stage->label};
  for (int i = 0; i < STAGE_COUNT; i++)
    if (stage->input[i] >= 0) context.input[i] = plan->stages[stage->input[i]].folder;
  if (context.input[STAGE_WORLD]) {
    context.train = path_join(arena, context.input[STAGE_WORLD], "train.json");
    context.dev = path_join(arena, context.input[STAGE_WORLD], "dev.json");
    context.pairs = path_join(arena, context.input[STAGE_WORLD], "pairs.json");
  }
  return context;
}

static Status call_stage(Plan *plan, PlanStage *stage, Backend *backend) {
  Arena arena = {0};
  StageContext context = plan_stage_context(&arena, plan, stage);
  if (plan->table[stage->id].needs_backend) context.backend = backend;
  double started = seconds_now();
  StageMemory memory;
  Status status = OK;
  if (context.backend)
    status = stage_memory(&arena, &plan->table[stage->id], &context, plan->backend, NULL, &memory);
  stage_memory_start(context.backend);
  if (status == OK) status = plan->table[stage->id].run(&context);
  if (context.backend) stage_memory_measure(context.backend, &memory);
  if (status == OK && comm_is_first())
    status = write_marker(&arena, plan, stage, context.backend, seconds_now() - started, &memory);
  arena_free(&arena);
  return status;
}

/* Files <name>.tmp.<process> that a process was writing when it was killed, and, where the folder's lock is
 * held, <name>.tmp. Under their final names there is nothing torn. */
static void remove_leftovers(Arena *arena, const char *folder, bool locked) {
  DIR *list = opendir(folder);
  for (struct dirent *entry; list && (entry = readdir(list));) {
    const char *mark = strstr(entry->d_name, ".tmp");
    if (!mark) continue;
    long process = mark[4] == '.' ? strtol(mark + 5, NULL, 10) : 0;
    bool dead = process > 0 && kill((pid_t)process, 0) != 0 && errno == ESRCH;
    if (locked || dead) unlink(path_join(arena, folder, entry->d_name));
  }
  if (list) closedir(list);
}

/* With the folder locked: what another process has finished meanwhile is taken, what it has begun is gone on
 * with: *compute. */
static Status look_locked(Arena *arena, PlanStage *stage, bool waited, bool *compute) {
  if (file_exists(path_join(arena, stage->folder, "stage.json"))) {
    if (waited) progress_say("%s: computed by the other process", stage->label);
    return check_finished(arena, stage);
  }
  if (waited) progress_say("%s: the other process ended without finishing it; taken over", stage->label);
  stage->started = plan_stage_started(arena, stage);
  if (interrupted)
    return fail(INTERRUPTED, "interrupted before %s; the same command goes on from there", stage->label);
  remove_leftovers(arena, stage->folder, true);
  if (stage->started) progress_say("%s: resumes (%s)", stage->label, stage->folder);
  *compute = true;
  return OK;
}

/* This rank's device: of "cuda", a GPU of its own on this machine. */
static Status open_device(const char *device, Backend **backend) {
  const char *kind, *why;
  char own[32];
  TRY(backend_kind(device, &kind));
  if (comm.local_size > 1 && strcmp(kind, "cpu") != 0) {
    int count =
        backend_devices(kind, &why); /* 1: a launcher that shows each rank its own (Slurm), or NCCL refuses */
    if (strchr(device, ':') || (count > 1 && comm.local_size > count))
      return fail(
          INVALID,
          "device \"%s\": %d ranks run on this machine, which has %d such devices, and each needs its "
          "own; write \"%s\" and start one rank a device",
          device, comm.local_size, count, kind);
    snprintf(own, sizeof own, "%s:%d", kind, count > 1 ? comm.local_rank : 0);
    device = own;
  }
  TRY(backend_open(device, backend));
  if (!comm.transport) return OK;
  int64_t storage = (*backend)->storage, most = comm_most(storage), least = -comm_most(-storage);
  if (most != least)
    return fail(INVALID,
                "device \"%s\": the ranks found different kinds of devices; use --device cpu or cuda",
                device);
  if ((*backend)->join) return (*backend)->join(*backend);
  return fail(INVALID, "device \"%s\" cannot be used by several ranks", device);
}

/* Every rank computes a stage that needs a device, the first rank alone any other. */
static Status compute_stage(Plan *plan, PlanStage *stage, Backend **backend) {
  bool all = plan->table[stage->id].needs_backend;
  if (!all && !comm_is_first()) return OK;
  if (all && !*backend) TRY(open_device(plan->file->runs[stage->first_run].experiment.device, backend));
  return call_stage(plan, stage, *backend);
}

/* What rank 0 found, to all. An error is said by rank 0, and its end is the others'. */
static Status agree(Status status, bool *compute) {
  int32_t word[] = {(int32_t)status, *compute};
  comm_broadcast(word, sizeof word);
  *compute = word[1];
  if (word[0] == INTERRUPTED && status == OK) return fail(INTERRUPTED, "interrupted");
  return status;
}

/* Rank 0 holds the lock. Afterwards the stage's files are there for all. */
static Status run_stage(Arena *arena, Plan *plan, PlanStage *stage, Backend **backend) {
  FolderLock lock = {.fd = -1};
  bool compute = false;
  Status status = OK;
  if (comm_is_first()) {
    status = folder_lock(stage->folder, stage->label, &lock);
    if (status == OK) status = look_locked(arena, stage, lock.waited, &compute);
  }
  if (status == OK || status == INTERRUPTED) status = agree(status, &compute);
  if (status == OK && compute) status = compute_stage(plan, stage, backend);
  bool again = false;
  if (status == OK || status == INTERRUPTED) status = agree(status, &again);
  folder_unlock(&lock);
  stage->finished = status == OK;
  return status;
}

/* Whether a run that no gate has stopped needs the stage. */
static bool needed(const Plan *plan, int stage) {
  for (int run = 0; run < plan->file->run_count; run++)
    if (plan->of_run[run][plan->stages[stage].id] == stage && !plan->stops[run].gate) return true;
  return false;
}

static void say_stops(const Plan *plan) {
  for (int run = 0; run < plan->file->run_count; run++)
    if (plan->stops[run].gate)
      progress_say("%s seed %llu: stopped by a gate: %s", plan->file->runs[run].arm,
                   (unsigned long long)plan->file->runs[run].experiment.seed, plan->stops[run].reason);
}

static Status run_all(Arena *arena, Plan *plan, Backend **backend) {
  for (int i = 0; i < plan->count; i++) {
    if (!needed(plan, i)) continue;
    TRY(run_stage(arena, plan, &plan->stages[i], backend));
    TRY(plan_check_gates(arena, plan, i));
  }
  return OK;
}

Status plan_run(Arena *arena, Plan *plan) {
  Backend *backend = NULL;
  int cached = 0;
  for (int i = 0; i < plan->count; i++) cached += plan->stages[i].finished;
  if (cached) progress_say("%d of %d stages are cached in %s/stages", cached, plan->count, plan->out);
  Status status = OK;
  if (comm_is_first()) {
    remove_leftovers(arena, plan_run_folder(arena, plan), false);
    status = plan_write_links(arena, plan);
  }
  if (status == OK) status = run_all(arena, plan, &backend);
  if (backend) backend->close(backend);
  TRY(status);
  say_stops(plan);
  return plan->until == STAGE_EVALUATE_PPO && comm_is_first() ? plan_write_results(arena, plan) : OK;
}

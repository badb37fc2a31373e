/* An experiment file as a list of stage instances. An instance is named by a key: a hash of everything that
 * its result depends on. Runs (arms x seeds) whose stage has the same key share the instance, and a finished
 * one is never computed again. */
#ifndef POPALM_PLAN_H
#define POPALM_PLAN_H

#include "experiment.h"
#include "stage.h"

enum { STAGE_FORMAT = 1 }; /* part of every key: raise it when a stage's files change their meaning */

typedef struct PlanStage {
  StageId id;
  char key[33];           /* XXH3-128, hexadecimal */
  const char *folder;     /* <out>/stages/<name>-<first 16 of key> */
  const char *label;      /* "ppo cl-ppo seed 2" */
  int input[STAGE_COUNT]; /* index into Plan.stages, -1: none */
  int first_run, users;   /* the first run that needs it, and how many do */
  bool finished;          /* its folder holds a stage.json */
  bool started;           /* its folder is there, unfinished: an interrupted run */
} PlanStage;

/* Why a run does not go on; gate NULL: it does. */
typedef struct PlanStop {
  const char *gate; /* "reward_accuracy" */
  double value, limit;
  const char *reason; /* a sentence */
} PlanStop;

typedef struct Plan {
  const Stage *table; /* [STAGE_COUNT] */
  const ExperimentFile *file;
  const char *out;     /* "runs" */
  const char *backend; /* "cpu" or "cuda" */
  StageId until;       /* the last stage that is wanted */
  PlanStage *stages;   /* in the order in which they run */
  int count;
  int (*of_run)[STAGE_COUNT]; /* [run_count] index into stages, -1: not part of this run */
  PlanStop *stops;            /* [run_count] filled while the plan runs */
} Plan;

/* The name of a stage for people and links: the table's, but evaluate-sft and evaluate-ppo. */
const char *plan_stage_name(StageId id);
/* The stage of that name ("evaluate": the last one). */
Status plan_find_stage(const char *name, StageId *out) CHECKED;

/* What the stage is called with, but for the backend. */
StageContext plan_stage_context(Arena *arena, const Plan *plan, const PlanStage *stage);
/* Whether the stage's folder holds a state to resume from. */
bool plan_stage_started(Arena *arena, const PlanStage *stage);

/* The part of a resolved experiment at a dotted path; NULL if it has none. */
const cJSON *plan_section(const cJSON *resolved, const char *path);

/* Computes keys (reads all data files once) and looks which stages are finished. table: stages of stage.c. */
Status plan_make(Arena *arena, const ExperimentFile *file, const Stage *table, const char *out, StageId until,
                 Plan *plan) CHECKED;
/* Runs what is not finished, in order; then links and, when everything is there, results. A stage that
 * another process computes is waited for; one that only runs stopped by a gate need is left out. INTERRUPTED
 * after the running stage has saved. */
Status plan_run(Arena *arena, Plan *plan) CHECKED;

/* Stops the runs that use this finished stage and whose gate after it does not hold (plan_gates.c). */
Status plan_check_gates(Arena *arena, Plan *plan, int stage) CHECKED;
/* The first run's stop when all runs are stopped, else NULL. */
const PlanStop *plan_all_stopped(const Plan *plan);

/* runs/<name>, and its links, experiment.json, results.json and timing.json (plan_results.c). */
const char *plan_run_folder(Arena *arena, const Plan *plan);
Status plan_write_links(Arena *arena, const Plan *plan) CHECKED;
Status plan_write_results(Arena *arena, const Plan *plan) CHECKED;
/* Adds "comparison", and "warning" where there are too few seeds, to results, whose "runs" are given
 * (plan_compare.c). */
Status plan_compare(Arena *arena, const Plan *plan, const cJSON *runs, cJSON *results) CHECKED;

#endif

/* popalm check: the plan of an experiment, without running it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/comm.h"
#include "command_check_memory.h"
#include "command_experiment.h"
#include "commands.h"
#include "statistics.h"

enum { COLUMN_LEAST = 12, COLUMN_MOST = 48 };

static int widen(int width, const char *text) {
  int length = (int)strlen(text);
  return length <= width ? width : length < COLUMN_MOST ? length : COLUMN_MOST;
}

static int arms_width(const ExperimentFile *file) {
  int width = COLUMN_LEAST;
  for (int run = 0; run < file->run_count; run++) width = widen(width, file->runs[run].arm);
  return width;
}

static void print_stages(const Plan *plan) {
  int width = COLUMN_LEAST;
  for (int i = 0; i < plan->count; i++) width = widen(width, plan->stages[i].label);
  printf("\n%-*s %-16s  %-10s %s\n", width, "stage", "key", "state", "used by");
  for (int i = 0; i < plan->count; i++) {
    const PlanStage *stage = &plan->stages[i];
    const char *state = stage->finished ? "cached" : stage->started ? "resumes" : "to do";
    printf("%-*s %.16s  %-10s %d of %d runs\n", width, stage->label, stage->key, state, stage->users,
           plan->file->run_count);
  }
}

/* What each arm has in common with the baseline: the stages whose instance is the same. */
static void print_arms(const Plan *plan) {
  const ExperimentFile *file = plan->file;
  int base = 0, width = arms_width(file);
  if (!file->baseline) return;
  while (strcmp(file->runs[base].arm, file->baseline) != 0) base += file->seed_count;
  printf("\n%-*s shares with %s\n", width, "arm", file->baseline);
  for (int arm = 0; arm < file->run_count; arm += file->seed_count) {
    printf("%-*s", width, file->runs[arm].arm);
    bool any = false, all = true;
    for (StageId id = 0; id < STAGE_COUNT && arm != base; id++) {
      bool shared = plan->of_run[arm][id] >= 0 && plan->of_run[arm][id] == plan->of_run[base][id];
      all = all && (shared || plan->of_run[arm][id] < 0);
      if (shared) printf("%s%s", any ? ", " : " ", plan_stage_name(id));
      any = any || shared;
    }
    printf("%s\n", arm == base ? " (the baseline)" : !any ? " nothing" : all ? ": the same experiment" : "");
  }
}

/* ---- the batches of PPO ---- */

/* What one step of an arm learns from; with a pace, at most so much. */
typedef struct Schedule {
  const PpoSettings *ppo;
  int samples, kept, full, rest; /* of a step; full minibatches, and the samples of the last, short one */
  int updates;                   /* of a step */
  bool at_most;
} Schedule;

static Schedule schedule_of(const PpoSettings *ppo) {
  Schedule s = {
      .ppo = ppo, .samples = ppo->posts_per_step * ppo->samples_per_post, .kept = (int)ranked_samples(ppo)};
  s.full = s.kept / ppo->minibatch;
  s.rest = s.kept % ppo->minibatch;
  s.updates = ppo->epochs * (s.full + (s.rest > 0));
  s.at_most = ppo->curriculum.pace != PACE_NONE;
  return s;
}

static void print_schedule(Arena *arena, const Schedule *s, const char *arm, int width) {
  const PpoSettings *p = s->ppo;
  const char *sign = s->at_most ? "<= " : "";
  char *rest = s->rest ? arena_print(arena, " + %d", s->rest) : "",
       *epochs = p->epochs > 1 ? arena_print(arena, ", %d times", p->epochs) : "";
  printf("%-*s  %-18s  %-8s  %-18s  %-8s  %6d  %s%lld\n", width, arm,
         arena_print(arena, "%d x %d = %d", p->posts_per_step, p->samples_per_post, s->samples),
         arena_print(arena, "%s%d", sign, s->kept),
         arena_print(arena, "%d x %d%s%s", s->full, p->minibatch, rest, epochs),
         arena_print(arena, "%s%d", sign, s->updates), p->steps, sign, (long long)s->updates * p->steps);
}

/* The shortest "keep" with which ranking leaves `kept` of `samples`. */
static const char *keep_for(Arena *arena, int kept, int samples) {
  const char *text = "1";
  for (int digits = 2; digits <= 17; digits++) {
    text = arena_print(arena, "%.*g", digits, (double)kept / samples);
    if ((int)rank_share(samples, strtod(text, NULL)) == kept) break;
  }
  return text;
}

/* Samples of a short minibatch weigh more than others. Where that is so in every step, how to avoid it. */
static void print_remedy(Arena *arena, const Schedule *s, const char *arm) {
  int minibatch = s->ppo->minibatch, more = s->kept - s->rest + minibatch, divisor = minibatch;
  if (s->rest == 0 || s->at_most) return;
  while (s->kept % divisor) divisor--;
  printf("  note: %s: the last minibatch has %d of %d samples, so they weigh more", arm, s->rest, minibatch);
  if (s->ppo->curriculum.rank == RANK_BATCH && more <= s->samples)
    printf("; \"keep\": %s keeps %d = %d x %d", keep_for(arena, more, s->samples), more, more / minibatch,
           minibatch);
  printf("; a minibatch of %d divides %d\n", divisor, s->kept);
}

static void print_batches(Arena *arena, const ExperimentFile *file) {
  int width = arms_width(file);
  printf("\n%-*s  %-18s  %-8s  %-18s  %-8s  %6s  %s\n", width, "ppo: arm", "posts x samples", "kept",
         "minibatches", "updates", "steps", "updates in all");
  for (int run = 0; run < file->run_count; run += file->seed_count) {
    Schedule schedule = schedule_of(&file->runs[run].experiment.ppo);
    print_schedule(arena, &schedule, file->runs[run].arm, width);
  }
  for (int run = 0; run < file->run_count; run += file->seed_count) {
    Schedule schedule = schedule_of(&file->runs[run].experiment.ppo);
    print_remedy(arena, &schedule, file->runs[run].arm);
  }
}

static void print_power(const ExperimentFile *file) {
  int comparisons = 0;
  for (int arm = 0; file->baseline && arm < file->arm_count; arm++) comparisons += file->base_of[arm] != arm;
  if (comparisons < 1) return;
  double p = smallest_p(file->seed_count, comparisons);
  printf("\ntests: %d seed%s and %d comparison%s give a p of %.2g at best, after Holm's correction",
         file->seed_count, file->seed_count == 1 ? "" : "s", comparisons, comparisons == 1 ? "" : "s", p);
  if (p >= 0.05) printf("; %d seeds are needed for one below 0.05", pairs_needed(comparisons));
  printf("\n");
}

static Status print_plan(Arena *arena, Plan *plan) {
  const ExperimentFile *file = plan->file;
  if (!comm_is_first()) return OK;
  printf("%s: %s, %d %s x %d %s, on %s\n", file->path, file->name, file->arm_count,
         file->arm_count == 1 ? "arm" : "arms", file->seed_count, file->seed_count == 1 ? "seed" : "seeds",
         plan->backend);
  print_stages(plan);
  print_arms(plan);
  TRY(check_memory(arena, plan));
  print_batches(arena, file);
  print_power(file);
  return OK;
}

Status command_check(Arena *arena, int argc, char **argv) {
  static const Option options[] = {EXPERIMENT_OPTION_ROWS, CHECK_MEMORY_OPTIONS};
  static const CommandLine line = {
      "popalm check EXPERIMENT [options]",
      "Validates an experiment and prints its plan: stages and which are "
      "cached, what arms share,\nmemory, the batches of PPO, and what so many seeds can tell.",
      options,
      sizeof options / sizeof *options,
      1,
      1};
  Arguments arguments;
  TRY(command_line_parse(arena, &line, argc, argv, &arguments));
  if (arguments.help) return OK;
  TRY(comm_start());
  return option_given(&arguments, "--memory-of") ? check_memory_of(arena, &arguments)
                                                 : experiment_planned(arena, &arguments, print_plan);
}

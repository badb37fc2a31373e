/* popalm check: the plan of an experiment, without running it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/comm.h"
#include "command_experiment.h"
#include "commands.h"
#include "models/model.h"
#include "share.h"
#include "statistics.h"
#include "trainer.h"

static const double MIB = 1024 * 1024;
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

static void print_memory(const char *what, double parameters, double activations) {
  printf("  %-10s %9.1f MiB of parameters, gradients and optimizer, %9.1f MiB of activations\n", what,
         parameters / MIB, activations / MIB);
}

typedef struct ModelSize {
  DecoderConfig config;
  size_t parameters;
  double fixed, trained,
      shared; /* bytes: to compute with, to train; of the base, which stands in memory once */
} ModelSize;

static void measure(Arena *arena, DType storage, ModelSize *size) {
  Parameters parameters = {0};
  Decoder decoder = {0};
  decoder_declare(&decoder, arena, &size->config, &parameters);
  size->parameters = parameters_elements(&parameters);
  size->fixed = (double)parameters_bytes(&parameters, storage, false);
  size->trained = (double)parameters_bytes(&parameters, storage, true);
  size->shared = (double)parameters_frozen_bytes(&parameters, storage);
}

/* The larger parts of each training stage, for a vocabulary of the size that is asked for. */
/* Of a batch of so many tokens, a rank's part. */
static double activations_of(const ModelSize *size, DType storage, int tokens, int longest,
                             ActivationsUse use) {
  return (double)activations_bytes(&size->config, storage, share_most(tokens, longest, comm.size), use);
}

static Status print_model(Arena *arena, const Plan *plan, const Experiment *e) {
  ModelSize policy, reward;
  const char *name = e->model_from ? e->model_from : e->model_preset;
  DType storage = strcmp(plan->backend, "cpu") == 0 ? F32 : BF16;
  ActivationsUse use = training_activations(e);
  bool critic = e->ppo.critic == CRITIC_REWARD;
  int longest = e->data.max_post_tokens + e->data.max_reply_tokens + 2;
  int rated = reward_post_tokens(e) + reward_reply_tokens(e) + 2;
  TRY(experiment_model(arena, e, &policy.config));
  TRY(experiment_reward_model(arena, e, &reward.config));
  if (!policy.config.vocab) policy.config.vocab = e->tokenizer.vocab_size;
  if (!reward.config.vocab) reward.config.vocab = policy.config.vocab;
  measure(arena, storage, &policy);
  measure(arena, storage, &reward);
  printf("\nmodel %s: %zu parameters with a vocabulary of %d\n", name, policy.parameters,
         policy.config.vocab);
  if (e->reward.from || e->reward.preset)
    printf("reward model %s: %zu parameters with a vocabulary of %d\n", reward_model_name(e),
           reward.parameters, reward.config.vocab);
  printf("memory (%s)", plan->backend);
  printf(comm.size > 1 ? " of each of %d ranks\n" : "\n", comm.size);
  print_memory("sft", policy.trained,
               activations_of(&policy, storage, e->sft.tokens_per_batch, longest, use));
  print_memory("reward", reward.trained,
               activations_of(&reward, storage, 2 * e->reward.pairs_per_batch * rated, 2 * rated, use));
  double scorers = reward.fixed + (critic ? reward.trained : 0);
  if (decoder_adapted(&reward.config) && !e->reward.from)
    scorers -= (critic ? 2 : 1) * reward.shared; /* its base is the policy's */
  print_memory("ppo", policy.trained + policy.fixed - policy.shared + scorers,
               activations_of(&policy, storage, e->ppo.minibatch * longest, longest, use) +
                   (critic ? activations_of(&reward, storage, e->ppo.minibatch * longest, longest, use) : 0));
  return OK;
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
  TRY(print_model(arena, plan, &file->runs[0].experiment));
  print_batches(arena, file);
  print_power(file);
  return OK;
}

Status command_check(Arena *arena, int argc, char **argv) {
  static const CommandLine line = {
      "popalm check EXPERIMENT [options]",
      "Validates an experiment and prints its plan: stages and which are "
      "cached, what arms share,\nmemory, the batches of PPO, and what so many seeds can tell.",
      experiment_options,
      EXPERIMENT_OPTIONS,
      1,
      1};
  TRY(comm_start());
  return experiment_command(arena, &line, argc, argv, print_plan);
}

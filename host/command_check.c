/* popalm check: the plan of an experiment, without running it. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "command_experiment.h"
#include "commands.h"
#include "models/model.h"
#include "trainer.h"

static const double MIB = 1024 * 1024;

static void print_stages(const Plan *plan) {
  printf("\n%-28s %-16s  %-10s %s\n", "stage", "key", "state", "used by");
  for (int i = 0; i < plan->count; i++) {
    const PlanStage *stage = &plan->stages[i];
    const char *state = stage->finished ? "cached" : stage->started ? "resumes" : "to do";
    printf("%-28s %.16s  %-10s %d of %d runs\n", stage->label, stage->key, state, stage->users,
           plan->file->run_count);
  }
}

/* What each arm has in common with the baseline: the stages whose instance is the same. */
static void print_arms(const Plan *plan) {
  const ExperimentFile *file = plan->file;
  int base = 0;
  if (!file->baseline) return;
  while (strcmp(file->runs[base].arm, file->baseline) != 0) base += file->seed_count;
  printf("\n%-28s shares with %s\n", "arm", file->baseline);
  for (int arm = 0; arm < file->run_count; arm += file->seed_count) {
    printf("%-28s", file->runs[arm].arm);
    bool any = false;
    for (StageId id = 0; id < STAGE_COUNT && arm != base; id++) {
      bool shared = plan->of_run[arm][id] >= 0 && plan->of_run[arm][id] == plan->of_run[base][id];
      if (shared) printf("%s%s", any ? ", " : " ", plan_stage_name(id));
      any = any || shared;
    }
    printf("%s\n", arm == base ? " (the baseline)" : any ? "" : " nothing");
  }
}

static void print_memory(const char *what, double parameters, double activations) {
  printf("  %-10s %9.1f MiB of parameters, gradients and optimizer, %9.1f MiB of activations\n", what,
         parameters / MIB, activations / MIB);
}

/* The larger parts of each training stage, for a vocabulary of the size that is asked for. */
static Status print_model(Arena *arena, const Plan *plan, const Experiment *e) {
  DecoderConfig config;
  TRY(model_start(arena, e->model_preset, e->model_from, &config));
  if (!config.vocab) config.vocab = e->tokenizer.vocab_size;
  Parameters parameters = {0};
  Decoder decoder = {0};
  decoder_declare(&decoder, arena, &config, &parameters);
  DType storage = strcmp(plan->backend, "cpu") == 0 ? F32 : BF16;
  double fixed = (double)parameters_bytes(&parameters, storage, false);
  double trained = (double)parameters_bytes(&parameters, storage, true);
  int longest = e->data.max_post_tokens + e->data.max_reply_tokens + 2;
  printf("\nmodel %s: %zu parameters with a vocabulary of %d\n",
         e->model_from ? e->model_from : e->model_preset, parameters_elements(&parameters), config.vocab);
  printf("memory (%s)\n", plan->backend);
  print_memory("sft", trained,
               (double)activations_bytes(&config, storage, e->sft.tokens_per_batch, training_activations(e)));
  print_memory("reward", trained,
               (double)activations_bytes(&config, storage, 2 * e->reward.pairs_per_batch * longest,
                                         training_activations(e)));
  double networks = trained + 2 * fixed + (e->ppo.critic == CRITIC_REWARD ? trained : 0);
  print_memory(
      "ppo", networks,
      (double)activations_bytes(&config, storage, e->ppo.minibatch * longest, training_activations(e)));
  return OK;
}

static void print_ppo(const Experiment *e) {
  const PpoSettings *p = &e->ppo;
  int samples = p->posts_per_step * p->samples_per_post, kept = (int)ranked_samples(p);
  printf(
      "\nppo: %d steps; in each %d posts x %d samples = %d, ranking keeps %d, so at most %d updates of %d\n",
      p->steps, p->posts_per_step, p->samples_per_post, samples, kept, p->epochs * (kept / p->minibatch),
      p->minibatch);
  if (kept % p->minibatch)
    printf("  note: %d of the kept samples fill no minibatch of their own\n", kept % p->minibatch);
}

static Status print_plan(Arena *arena, Plan *plan) {
  const ExperimentFile *file = plan->file;
  printf("%s: %s, %d %s x %d %s, on %s\n", file->path, file->name, file->arm_count,
         file->arm_count == 1 ? "arm" : "arms", file->seed_count, file->seed_count == 1 ? "seed" : "seeds",
         plan->backend);
  print_stages(plan);
  print_arms(plan);
  TRY(print_model(arena, plan, &file->runs[0].experiment));
  print_ppo(&file->runs[0].experiment);
  return OK;
}

Status command_check(Arena *arena, int argc, char **argv) {
  static const CommandLine line = {"popalm check EXPERIMENT [options]",
                                   "Validates an experiment and prints its plan: stages and which are "
                                   "cached, what arms share, memory, steps.",
                                   experiment_options,
                                   EXPERIMENT_OPTIONS,
                                   1,
                                   1};
  return experiment_command(arena, &line, argc, argv, print_plan);
}

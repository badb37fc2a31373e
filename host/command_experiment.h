/* What popalm run and popalm check have in common: the experiment, its overrides and its plan. */
#ifndef POPALM_COMMAND_EXPERIMENT_H
#define POPALM_COMMAND_EXPERIMENT_H

#include "options.h"
#include "plan.h"

#define EXPERIMENT_OPTION_ROWS                                                        \
  {"--set", "path=value", "override a key: --set ppo.steps=50; may be repeated"},     \
      {"--device", "auto|cpu|cuda[:n]", "where to compute"},                          \
      {"--out", "DIR", "where results and stages are kept; default: runs"}, {         \
    "--until", "STAGE", "stop after world, tokenizer, sft, reward, evaluate-sft, ppo" \
  }

/* The experiment that the first argument names, with the overrides among the options. */
Status experiment_open(Arena *arena, const Arguments *arguments, ExperimentFile *out) CHECKED;
/* The rest of a command whose arguments are read: makes the plan of the experiment and gives it to use. */
Status experiment_planned(Arena *arena, const Arguments *arguments,
                          Status (*use)(Arena *arena, Plan *plan)) CHECKED;

#endif

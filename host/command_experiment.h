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

/* A whole command: reads its arguments and the experiment that they name, makes the plan, and gives it to
 * use. */
Status experiment_command(Arena *arena, const CommandLine *line, int argc, char **argv,
                          Status (*use)(Arena *arena, const Arguments *arguments, Plan *plan)) CHECKED;

#endif

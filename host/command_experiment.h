/* What popalm run and popalm check have in common: the experiment, its overrides and its plan. */
#ifndef POPALM_COMMAND_EXPERIMENT_H
#define POPALM_COMMAND_EXPERIMENT_H

#include "options.h"
#include "plan.h"

enum { EXPERIMENT_OPTIONS = 4 };
extern const Option experiment_options[EXPERIMENT_OPTIONS];

/* A whole command: reads its arguments and the experiment that they name, makes the plan, and gives it to
 * use. */
Status experiment_command(Arena *arena, const CommandLine *line, int argc, char **argv,
                          Status (*use)(Arena *arena, Plan *plan)) CHECKED;

#endif

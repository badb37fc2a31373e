/* What popalm run and popalm check have in common: the experiment, its overrides and its plan. */
#ifndef POPALM_COMMAND_EXPERIMENT_H
#define POPALM_COMMAND_EXPERIMENT_H

#include "options.h"
#include "plan.h"

enum { EXPERIMENT_OPTIONS = 4 };
extern const Option experiment_options[EXPERIMENT_OPTIONS];

/* Reads the experiment named by the first argument and makes its plan. file needs experiment_free if OK. */
Status experiment_plan(Arena *arena, const Arguments *arguments, ExperimentFile *file, Plan *plan) CHECKED;

#endif

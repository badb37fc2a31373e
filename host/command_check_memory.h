/* The part of popalm check that states the memory of the stages. */
#ifndef POPALM_COMMAND_CHECK_MEMORY_H
#define POPALM_COMMAND_CHECK_MEMORY_H

#include "options.h"
#include "plan.h"

#define CHECK_MEMORY_OPTIONS                                                                            \
  {"--memory-of", "PRESET", "state the memory only, of this model description instead of the model"}, { \
    "--memory-on", "cpu|cuda", "with --memory-of: on this kind of device, which need not be here"       \
  }

/* The stages of a plan, and what they took where they are finished. */
Status check_memory(Arena *arena, const Plan *plan) CHECKED;
/* A model that is only described (--memory-of), in the experiment's place. */
Status check_memory_of(Arena *arena, const Arguments *arguments) CHECKED;

#endif

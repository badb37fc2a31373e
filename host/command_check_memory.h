/* The part of popalm check that states the memory of the stages. */
#ifndef POPALM_COMMAND_CHECK_MEMORY_H
#define POPALM_COMMAND_CHECK_MEMORY_H

#include "options.h"
#include "plan.h"

#define CHECK_MEMORY_OPTIONS                                                                          \
  {"--memory-model", "PRESET", "state the memory of this model description (llama-7b, a .json file) " \
                               "instead"},                                                            \
      {"--memory-device", "cpu|cuda", "state the memory on this kind of device instead"}

Status check_memory(Arena *arena, const Arguments *arguments, const Plan *plan) CHECKED;

#endif

/* What stands in a model's folder beside its weights. */
#ifndef POPALM_MODEL_FILES_H
#define POPALM_MODEL_FILES_H

#include "base/arena.h"
#include "base/status.h"

/* Copies the tokenizer's files and the generation settings, those of them that there are. */
Status model_files_copy(Arena *arena, const char *from, const char *to) CHECKED;

#endif

/* What lies under the output folder: runs, stages, and which run references which stage. */
#ifndef POPALM_PLAN_FOLDERS_H
#define POPALM_PLAN_FOLDERS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/status.h"

typedef struct FolderSize {
  double bytes;    /* of all files in it */
  int64_t changed; /* Unix time at which the newest of them was written */
} FolderSize;

typedef struct RunFolder {
  const char *name; /* under the output folder */
  FolderSize size;
  int arms, seeds; /* seeds: folders of all arms */
  bool finished;   /* it has results.json */
} RunFolder;

typedef struct StageFolder {
  const char *name, *path; /* "sft-0123456789abcdef" */
  FolderSize size;
  bool finished; /* it has stage.json */
  bool running;  /* a process holds its lock */
  bool *used_by; /* [run_count] a link of the run, or the input of a stage that the run uses */
  int users;     /* runs */
} StageFolder;

typedef struct OutFolder {
  const char *path;
  RunFolder *runs; /* by name */
  int run_count;
  StageFolder *stages; /* by name */
  int stage_count;
} OutFolder;

/* A folder that is not there has neither runs nor stages. */
Status out_folder_read(Arena *arena, const char *path, OutFolder *out) CHECKED;
/* Removes a stage's folder unless a process computes it: *removed says so. */
Status stage_folder_remove(const StageFolder *stage, bool *removed) CHECKED;

#endif

/* Checkpoints: one safetensors file (8-byte header length, JSON header, tensors), with our own metadata and
 * a checksum over everything in the header's __metadata__. Written to a temporary name, fsynced, renamed. */
#ifndef POPALM_CHECKPOINT_H
#define POPALM_CHECKPOINT_H

#include <cjson/cJSON.h>
#include <stddef.h>
#include <stdint.h>

#include "backend.h"
#include "base/arena.h"
#include "base/status.h"
#include "base/text.h"

typedef struct HostTensor {
  const char *name; /* "layers.0.attention.qkv.weight" */
  DType type;
  int rank;
  int64_t shape[4];
  const void *data; /* host memory */
} HostTensor;

typedef struct Checkpoint {
  const char *path;
  FileMap map;
  HostTensor *tensors; /* data points into the map */
  int count;
  cJSON *meta; /* what was given to checkpoint_write; freed by checkpoint_close */
} Checkpoint;

/* meta is any JSON object (steps, counters, settings). The file that stood at path before is kept as
 * path.previous when keep_previous. */
Status checkpoint_write(const char *path, const HostTensor *tensors, int count, const cJSON *meta,
                        bool keep_previous) CHECKED;
/* Checks sizes, offsets and the checksum before anything is used; a damaged file is refused by name. */
Status checkpoint_open(Arena *arena, const char *path, Checkpoint *out) CHECKED;
/* The newest whole one of path and path.previous; *found is false (and OK) when there is neither. Says on
 * stderr when it had to fall back. */
Status checkpoint_open_newest(Arena *arena, const char *path, Checkpoint *out, bool *found) CHECKED;
void checkpoint_close(Checkpoint *checkpoint);
/* NULL when there is no such tensor. */
const HostTensor *checkpoint_tensor(const Checkpoint *checkpoint, const char *name);

#endif

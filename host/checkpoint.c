#include "checkpoint.h"

#include <stdio.h>
#include <string.h>

#include "safetensors.h"

static const SafeType safe_types[] = {[F32] = SAFE_F32, [BF16] = SAFE_BF16, [I32] = SAFE_I32, [U8] = SAFE_U8};
enum { TYPE_COUNT = sizeof safe_types / sizeof *safe_types, MAX_RANK = 4 };

Status checkpoint_write(const char *path, const HostTensor *tensors, int count, const cJSON *meta,
                        bool keep_previous) {
  char *text = cJSON_PrintUnformatted(meta);
  if (!text) return fail(FAILED, "%s: its metadata cannot be printed; free memory", path);
  Arena arena = {0};
  SafeTensor *safe = NEW(&arena, SafeTensor, count + 1);
  for (int i = 0; i < count; i++) {
    safe[i] = (SafeTensor){.name = tensors[i].name,
                           .type = safe_types[tensors[i].type],
                           .rank = tensors[i].rank,
                           .data = tensors[i].data};
    memcpy(safe[i].shape, tensors[i].shape, sizeof tensors[i].shape);
  }
  SafeMeta own = {"popalm", text};
  Status status = safetensors_write(path, safe, count, &own, 1, keep_previous);
  cJSON_free(text);
  arena_free(&arena);
  return status;
}

static Status take_tensor(const SafeFile *file, const SafeTensor *safe, HostTensor *out) {
  int type = 0;
  while (type < TYPE_COUNT && safe_types[type] != safe->type) type++;
  if (type == TYPE_COUNT || safe->rank > MAX_RANK || (uintptr_t)safe->data % safe_type_bytes(safe->type) != 0)
    return fail(INVALID,
                "%s: offset %zu: tensor \"%s\" of type %s and rank %d is none that a checkpoint holds; "
                "import the file instead",
                file->path, (size_t)((const char *)safe->data - file->map.data), safe->name,
                safe_type_name(safe->type), safe->rank);
  *out = (HostTensor){.name = safe->name, .type = (DType)type, .rank = safe->rank, .data = safe->data};
  memcpy(out->shape, safe->shape, sizeof out->shape);
  return OK;
}

static Status take_file(Arena *arena, const SafeFile *file, Checkpoint *out) {
  TRY(safetensors_verify(file));
  out->tensors = NEW(arena, HostTensor, file->count + 1);
  out->count = file->count;
  for (int i = 0; i < file->count; i++) TRY(take_tensor(file, &file->tensors[i], &out->tensors[i]));
  const char *own = safetensors_meta(file, "popalm");
  out->meta = own ? cJSON_Parse(own) : NULL;
  if (!out->meta)
    return fail(INVALID, "%s: offset 8: the header has no \"popalm\" metadata; import the file instead",
                file->path);
  return OK;
}

Status checkpoint_open(Arena *arena, const char *path, Checkpoint *out) {
  *out = (Checkpoint){0};
  SafeFile file;
  TRY(safetensors_open(arena, path, &file));
  Status status = take_file(arena, &file, out);
  if (status == OK) {
    out->path = file.path;
    out->map = file.map;
  } else {
    safetensors_close(&file);
    *out = (Checkpoint){0};
  }
  return status;
}

Status checkpoint_open_newest(Arena *arena, const char *path, Checkpoint *out, bool *found) {
  const char *candidates[] = {path, arena_print(arena, "%s.previous", path)};
  *found = false;
  *out = (Checkpoint){0};
  Status status = OK;
  const char *refused = NULL;
  for (int i = 0; i < 2; i++) {
    if (!file_exists(candidates[i])) continue;
    status = checkpoint_open(arena, candidates[i], out);
    if (status == OK) {
      if (refused) fprintf(stderr, "%s\nThe one before it is used: %s\n", refused, candidates[i]);
      *found = true;
      return OK;
    }
    if (!refused) refused = arena_strdup(arena, error_message());
  }
  return refused ? fail(status, "%s", refused) : OK;
}

void checkpoint_close(Checkpoint *checkpoint) {
  if (checkpoint->path) file_unmap(&checkpoint->map);
  cJSON_Delete(checkpoint->meta);
  *checkpoint = (Checkpoint){0};
}

const HostTensor *checkpoint_tensor(const Checkpoint *checkpoint, const char *name) {
  for (int i = 0; i < checkpoint->count; i++)
    if (strcmp(checkpoint->tensors[i].name, name) == 0) return &checkpoint->tensors[i];
  return NULL;
}

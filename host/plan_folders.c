#include "plan_folders.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/json.h"
#include "base/text.h"
#include "plan_lock.h"

enum { KEY_DIGITS = 16 }; /* of the key, at the end of a stage folder's name */

static bool is_folder(const char *path) {
  struct stat info;
  return lstat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

/* Links are not followed: a run's size is without its stages. */
static void add_size(Arena *arena, const char *path, FolderSize *size) {
  struct stat info;
  if (lstat(path, &info) != 0) return;
  if (S_ISREG(info.st_mode)) size->bytes += (double)info.st_size;
  if (S_ISREG(info.st_mode) && info.st_mtime > size->changed) size->changed = info.st_mtime;
  if (!S_ISDIR(info.st_mode)) return;
  if (!size->changed) size->changed = info.st_mtime;
  const char **names;
  int count = folder_names(arena, path, &names);
  for (int i = 0; i < count; i++) add_size(arena, path_join(arena, path, names[i]), size);
}

/* ---- references ---- */

static StageFolder *stage_named(const OutFolder *out, const char *name) {
  for (int i = 0; i < out->stage_count; i++)
    if (strcmp(out->stages[i].name, name) == 0) return &out->stages[i];
  return NULL;
}

static StageFolder *stage_with_key(const OutFolder *out, const char *key) {
  for (int i = 0; i < out->stage_count; i++) {
    const char *dash = strrchr(out->stages[i].name, '-');
    if (dash && strncmp(dash + 1, key, KEY_DIGITS) == 0) return &out->stages[i];
  }
  return NULL;
}

/* The stage, and what it was computed from, which its marker lists. */
static void mark_used(Arena *arena, const OutFolder *out, StageFolder *stage, int run) {
  if (!stage || stage->used_by[run]) return;
  stage->used_by[run] = true;
  stage->users++;
  Json marker;
  if (!stage->finished || json_read(arena, path_join(arena, stage->path, "stage.json"), &marker) != OK)
    return;
  const cJSON *input;
  cJSON_ArrayForEach(input, cJSON_GetObjectItemCaseSensitive(marker.root, "inputs")) {
    if (cJSON_IsString(input)) mark_used(arena, out, stage_with_key(out, input->valuestring), run);
  }
  json_free(&marker);
}

/* arms/<arm>/seed-<n>/<stage> -> ../../../../stages/<name>-<key> */
static void follow_links(Arena *arena, OutFolder *out, int run) {
  const char *arms_folder = path_join(arena, path_join(arena, out->path, out->runs[run].name), "arms");
  const char **arms, **seeds, **links;
  int arm_count = folder_names(arena, arms_folder, &arms);
  out->runs[run].arms = arm_count;
  for (int a = 0; a < arm_count; a++) {
    const char *arm = path_join(arena, arms_folder, arms[a]);
    int seed_count = folder_names(arena, arm, &seeds);
    out->runs[run].seeds += seed_count;
    for (int s = 0; s < seed_count; s++) {
      const char *seed = path_join(arena, arm, seeds[s]);
      int link_count = folder_names(arena, seed, &links);
      for (int i = 0; i < link_count; i++) {
        char target[4096];
        ssize_t length = readlink(path_join(arena, seed, links[i]), target, sizeof target - 1);
        if (length <= 0) continue;
        target[length] = 0;
        const char *slash = strrchr(target, '/');
        mark_used(arena, out, stage_named(out, slash ? slash + 1 : target), run);
      }
    }
  }
}

/* ---- reading ---- */

static void read_stages(Arena *arena, OutFolder *out) {
  const char *folder = path_join(arena, out->path, "stages"), **names;
  int count = folder_names(arena, folder, &names);
  out->stages = NEW(arena, StageFolder, count);
  for (int i = 0; i < count; i++) {
    StageFolder stage = {.name = names[i], .path = path_join(arena, folder, names[i])};
    if (!is_folder(stage.path)) continue;
    FolderLock lock;
    stage.finished = file_exists(path_join(arena, stage.path, "stage.json"));
    stage.running = !folder_try_lock(stage.path, &lock);
    folder_unlock(&lock);
    stage.used_by = NEW(arena, bool, out->run_count + 1);
    add_size(arena, stage.path, &stage.size);
    out->stages[out->stage_count++] = stage;
  }
}

Status out_folder_read(Arena *arena, const char *path, OutFolder *out) {
  const char **names;
  int count = folder_names(arena, path, &names);
  *out = (OutFolder){.path = path, .runs = NEW(arena, RunFolder, count)};
  for (int i = 0; i < count; i++) {
    const char *folder = path_join(arena, path, names[i]);
    bool run = strcmp(names[i], "stages") != 0 && is_folder(folder) &&
               (file_exists(path_join(arena, folder, "experiment.json")) ||
                is_folder(path_join(arena, folder, "arms")));
    if (!run) continue;
    RunFolder *added = &out->runs[out->run_count++];
    *added = (RunFolder){.name = names[i], .finished = file_exists(path_join(arena, folder, "results.json"))};
    add_size(arena, folder, &added->size);
  }
  read_stages(arena, out);
  for (int i = 0; i < out->run_count; i++) follow_links(arena, out, i);
  return OK;
}

/* ---- removing ---- */

static Status remove_tree(Arena *arena, const char *path) {
  const char **names;
  int count = is_folder(path) ? folder_names(arena, path, &names) : 0;
  for (int i = 0; i < count; i++) TRY(remove_tree(arena, path_join(arena, path, names[i])));
  if (remove(path) == 0 || errno == ENOENT) return OK;
  return fail(FAILED, "%s: cannot be removed: %s; check its rights", path, strerror(errno));
}

Status stage_folder_remove(const StageFolder *stage, bool *removed) {
  Arena arena = {0};
  FolderLock lock;
  Status status = OK;
  *removed = folder_try_lock(stage->path, &lock);
  if (*removed) { /* the marker first, so that what a failure leaves behind does not count as finished */
    status = remove_tree(&arena, path_join(&arena, stage->path, "stage.json"));
    if (status == OK) status = remove_tree(&arena, stage->path);
  }
  folder_unlock(&lock);
  arena_free(&arena);
  return status;
}

/* JSON-lines files of posts with replies, or of reply pairs with likes, as PopALM released them. A file
 * is mapped and only the offsets of its lines are kept, so a million posts cost 8 MB, not a million
 * posts of memory. */
#ifndef POPALM_DATASET_H
#define POPALM_DATASET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/status.h"
#include "base/text.h"

typedef enum DatasetKind {
  DATASET_POSTS, /* {"weibo": text, "resp": [text...], optional "like": [number...]}; most liked first */
  DATASET_PAIRS  /* {"weibo", "text_j", "text_k", "text_j_like", "text_k_like"} */
} DatasetKind;

typedef struct Dataset {
  const char *path;
  DatasetKind kind;
  FileMap map;
  uint64_t *line; /* [count] offset of each non-empty line */
  int64_t count;
} Dataset;

typedef struct Post {
  const char *text;
  int replies;
  const char **reply; /* [replies] */
  const double *like; /* [replies], or NULL when the file has none */
} Post;

typedef struct Pair {
  const char *post, *reply_j, *reply_k;
  double like_j, like_k;
} Pair;

/* The kind of a file, by the keys of its first line; INVALID when it is neither. */
Status dataset_detect(const char *path, DatasetKind *out) CHECKED;

/* Maps the file and checks every line once: strict JSON, valid UTF-8, the right keys and types, at least
 * one reply. Errors name file:line:column. An empty file is an error. */
Status dataset_open(Arena *arena, const char *path, DatasetKind kind, Dataset *out) CHECKED;
void dataset_close(Dataset *dataset);

/* Line i, in scratch memory of the caller. Cannot fail after dataset_open unless the file was changed
 * under us. Safe to call from many threads with an arena each. */
Status dataset_post(const Dataset *dataset, int64_t i, Arena *scratch, Post *out) CHECKED;
Status dataset_pair(const Dataset *dataset, int64_t i, Arena *scratch, Pair *out) CHECKED;

#endif

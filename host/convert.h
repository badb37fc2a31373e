/* Posts with replies from tables and JSON of other shapes, as lines that dataset.h reads. */
#ifndef POPALM_CONVERT_H
#define POPALM_CONVERT_H

#include <stdint.h>

#include "base/arena.h"
#include "base/status.h"
#include "base/text.h"

/* Column names of a CSV or TSV file, or keys of JSON objects; a dotted key goes through objects and lists:
 * "answers.content" is the content of every answer. NULL: the first common name that the file has. */
typedef struct ConvertKeys {
  const char *post, *reply, *like;
} ConvertKeys;

typedef struct Converted {
  int64_t posts, replies;
  int64_t skipped; /* empty replies, and posts without any */
} Converted;

/* Reads CSV (RFC 4180) or TSV with a header line, JSON lines, or one JSON list. Consecutive rows of the same
 * post are joined; replies are ordered by likes where there are any, most liked first. */
Status convert_file(const char *path, const ConvertKeys *keys, Text *out, Converted *result) CHECKED;

#endif

/* Strict JSON files read by cJSON, with the line and column of every value, which cJSON does not keep. */
#ifndef POPALM_BASE_JSON_H
#define POPALM_BASE_JSON_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/status.h"

typedef struct Json {
  const char *path; /* for messages */
  const char *text; /* the file's text, NUL-terminated */
  size_t length;
  int first_line; /* where the text begins in its file: 1, or the number of a JSON-lines row */
  cJSON *root;    /* freed by json_free */
} Json;

/* Reads a file: strict JSON, valid UTF-8, no duplicate keys, no text after the value. */
Status json_read(Arena *arena, const char *path, Json *out) CHECKED;
/* The same for a text; path is what messages call it. */
Status json_parse(Arena *arena, const char *path, const char *text, size_t length, Json *out) CHECKED;
/* The same for row first_line (from 1) of a JSON-lines file. */
Status json_parse_line(Arena *arena, const char *path, int first_line, const char *text, size_t length,
                       Json *out) CHECKED;
void json_free(Json *json);
/* Writes value to path, indented, as file_write does. */
Status json_write(const char *path, const cJSON *value) CHECKED;

/* The 1-based line and column at which a value of this tree (at_key: its key, if it has one) stands. Columns
 * count code points. */
void json_position_of(const Json *json, const cJSON *value, bool at_key, int *line, int *column);
/* The 1-based line and column at which the value (at_key: its key) at a dotted path ("ppo.kl.coef",
 * "ablate.seeds[2]") stands; 1:1 if there is none. */
void json_position(const Json *json, const char *dotted, bool at_key, int *line, int *column);

/* Required members for files of our own (presets, stage.json): an error names file and key. */
Status json_get_string(const Json *json, const cJSON *object, const char *key, const char **out) CHECKED;
Status json_get_number(const Json *json, const cJSON *object, const char *key, double *out) CHECKED;
Status json_get_int(const Json *json, const cJSON *object, const char *key, int64_t *out) CHECKED;
Status json_get_bool(const Json *json, const cJSON *object, const char *key, bool *out) CHECKED;

#endif

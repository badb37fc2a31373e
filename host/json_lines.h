/* Rows of JSON objects, one a line, as they arrive: what `popalm generate` and `popalm score` read. A row
 * goes out as it came, with members added behind its own, so that keys and numbers that mean nothing here are
 * kept to the byte. */
#ifndef POPALM_JSON_LINES_H
#define POPALM_JSON_LINES_H

#include <stdio.h>

#include "base/json.h"

typedef struct JsonLines {
  const char *path; /* for messages */
  FILE *file;
  int number;              /* of the last line read, from 1 */
  char *text;              /* it, with its end */
  size_t length, capacity; /* of the text without its end; of its memory */
} JsonLines;

/* path "-": standard input. */
Status json_lines_open(JsonLines *lines, const char *path) CHECKED;
void json_lines_close(JsonLines *lines);
/* The next line without its end, in `arena`; NULL: no more. */
const char *json_lines_text(JsonLines *lines, Arena *arena);
/* The next row that is not empty, an object; *end: there is none. The row's tree is freed by json_free. */
Status json_lines_row(JsonLines *lines, Arena *arena, Json *out, bool *end) CHECKED;

/* The post of a row, under "post" or, as data files have it, "weibo"; it must not be empty. */
Status json_row_post(const Json *row, const char **out) CHECKED;
/* The text under a key. */
Status json_row_text(const Json *row, const char *key, const char **out) CHECKED;
/* The row must not have this key, which is added to it. */
Status json_row_lacks(const Json *row, const char *key) CHECKED;
/* A row that has a member, the members of `added` behind its own, and the end of the line. */
void json_row_print(FILE *out, const Json *row, const cJSON *added);

#endif

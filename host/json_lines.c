#include "json_lines.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

Status json_lines_open(JsonLines *lines, const char *path) {
  bool standard = strcmp(path, "-") == 0;
  *lines = (JsonLines){.path = standard ? "standard input" : path};
  lines->file = standard ? stdin : fopen(path, "r");
  return lines->file ? OK : fail(INVALID, "%s: %s", path, strerror(errno));
}

void json_lines_close(JsonLines *lines) {
  free(lines->text);
  if (lines->file && lines->file != stdin) fclose(lines->file);
  lines->text = NULL;
  lines->file = NULL;
}

const char *json_lines_text(JsonLines *lines, Arena *arena) {
  ssize_t length = getline(&lines->text, &lines->capacity, lines->file);
  if (length < 0) return NULL;
  lines->number++;
  while (length > 0 && (lines->text[length - 1] == '\n' || lines->text[length - 1] == '\r')) length--;
  lines->length = (size_t)length;
  return arena_strndup(arena, lines->text, lines->length);
}

Status json_lines_row(JsonLines *lines, Arena *arena, Json *out, bool *end) {
  const char *text;
  do text = json_lines_text(lines, arena);
  while (text && !text[strspn(text, " \t")]);
  *end = !text;
  if (*end) return ferror(lines->file) ? fail(FAILED, "%s: cannot be read", lines->path) : OK;
  TRY(json_parse_line(arena, lines->path, lines->number, text, lines->length, out));
  if (cJSON_IsObject(out->root)) return OK;
  json_free(out);
  return fail(INVALID, "%s:%d:1: a row is an object; write one {...} a line", lines->path, lines->number);
}

static Status refuse(const Json *row, const cJSON *value, bool at_key, const char *key, const char *what) {
  int line, column;
  json_position_of(row, value, at_key, &line, &column);
  return fail(INVALID, "%s:%d:%d: \"%s\" %s", row->path, line, column, key, what);
}

Status json_row_text(const Json *row, const char *key, const char **out) {
  const cJSON *value = cJSON_GetObjectItemCaseSensitive(row->root, key);
  if (!value) return refuse(row, row->root, false, key, "is missing; add it");
  if (!cJSON_IsString(value)) return refuse(row, value, false, key, "must be a text");
  *out = value->valuestring;
  return OK;
}

Status json_row_post(const Json *row, const char **out) {
  const cJSON *post = cJSON_GetObjectItemCaseSensitive(row->root, "post"),
              *weibo = cJSON_GetObjectItemCaseSensitive(row->root, "weibo"), *value = post ? post : weibo;
  const char *key = value && value == weibo ? "weibo" : "post";
  TRY(json_row_text(row, key, out));
  return **out ? OK : refuse(row, value, false, key, "is empty; give a text");
}

Status json_row_lacks(const Json *row, const char *key) {
  const cJSON *value = cJSON_GetObjectItemCaseSensitive(row->root, key);
  return value ? refuse(row, value, true, key, "is there already; rename or remove it") : OK;
}

void json_row_print(FILE *out, const Json *row, const cJSON *added) {
  size_t length = row->length;
  while (row->text[--length] != '}') continue;
  fwrite(row->text, 1, length, out);
  for (const cJSON *member = added->child; member; member = member->next) {
    char *value = cJSON_PrintUnformatted(member);
    fprintf(out, ",\"%s\":%s", member->string, value);
    cJSON_free(value);
  }
  fputs("}\n", out);
}

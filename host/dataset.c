#include "dataset.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <string.h>

/* One line while it is checked or read. column counts characters from 1. */
typedef struct Line {
  const Dataset *dataset;
  const char *text;
  size_t length;
  int64_t number; /* from 1, empty lines counted; 0: not known */
} Line;

typedef enum FieldType { FIELD_TEXT, FIELD_TEXTS, FIELD_LIKE, FIELD_LIKES } FieldType;

typedef struct Field {
  const char *key;
  FieldType type;
  bool optional;
} Field;

enum { MAX_FIELDS = 5 };

typedef struct Shape {
  const char *name, *example;
  Field field[MAX_FIELDS];
  int count;
} Shape;

static const char *const type_names[] = {
    [FIELD_TEXT] = "a string",
    [FIELD_TEXTS] = "a list of at least one string",
    [FIELD_LIKE] = "a number from 0 on",
    [FIELD_LIKES] = "a list of numbers from 0 on, as many as \"resp\" has",
};

static const Shape shapes[] = {
    [DATASET_POSTS] = {"posts",
                       "{\"weibo\": text, \"resp\": [text, ...]}",
                       {{"weibo", FIELD_TEXT, false},
                        {"resp", FIELD_TEXTS, false},
                        {"like", FIELD_LIKES, true}},
                       3},
    [DATASET_PAIRS] =
        {"pairs",
         "{\"weibo\": text, \"text_j\": text, \"text_k\": text, \"text_j_like\": n, \"text_k_like\": n}",
         {{"weibo", FIELD_TEXT, false},
          {"text_j", FIELD_TEXT, false},
          {"text_k", FIELD_TEXT, false},
          {"text_j_like", FIELD_LIKE, false},
          {"text_k_like", FIELD_LIKE, false}},
         5},
};

/* ---- positions and messages ---- */

static int64_t column_of(const Line *line, size_t offset) {
  return (int64_t)utf8_length(line->text, offset) + 1;
}

/* The offset of a key of the outermost object, or 0. The line is known to be JSON. */
static size_t key_offset(const Line *line, const char *key) {
  size_t key_length = strlen(key);
  int depth = 0;
  for (size_t i = 0; i < line->length; i++) {
    char c = line->text[i];
    depth += (c == '{' || c == '[') - (c == '}' || c == ']');
    if (c != '"') continue;
    size_t start = i++;
    while (i < line->length && line->text[i] != '"') i += line->text[i] == '\\' ? 2 : 1;
    size_t after = i + 1;
    while (after < line->length && strchr(" \t\r", line->text[after])) after++;
    if (depth == 1 && after < line->length && line->text[after] == ':' && i - start - 1 == key_length &&
        memcmp(line->text + start + 1, key, key_length) == 0)
      return start;
  }
  return 0;
}

static Status bad_line(const Line *line, size_t offset, const char *what) {
  return fail(INVALID, "%s:%lld:%lld: %s", line->dataset->path, (long long)line->number,
              (long long)column_of(line, offset < line->length ? offset : line->length), what);
}

/* ---- one line ---- */

/* What cJSON would let pass: bytes that are not UTF-8, control characters, and \u0000, which ends a C string.
 */
static Status check_characters(const Line *line) {
  size_t invalid = utf8_invalid_at(line->text, line->length);
  if (invalid < line->length)
    return fail(INVALID,
                "%s:%lld:%lld: byte %zu of the line (0x%02X) is not valid UTF-8; convert the file to UTF-8",
                line->dataset->path, (long long)line->number, (long long)column_of(line, invalid),
                invalid + 1, (unsigned)(unsigned char)line->text[invalid]);
  for (size_t i = 0; i < line->length; i++) {
    unsigned char c = (unsigned char)line->text[i];
    if (c < 0x20 && c != '\t' && c != '\r')
      return bad_line(line, i, "a control character inside the line; escape it as \\u00XX");
    if (c != '\\') continue;
    if (line->length - i >= 6 && memcmp(line->text + i, "\\u0000", 6) == 0)
      return bad_line(line, i, "\\u0000 cannot stand in a text; remove it");
    i++; /* the escaped character */
  }
  return OK;
}

static Status parse_line(const Line *line, cJSON **out) {
  TRY(check_characters(line));
  const char *end = line->text;
  cJSON *root = cJSON_ParseWithLengthOpts(line->text, line->length, &end, false);
  size_t offset = root || end >= line->text ? (size_t)(end - line->text) : 0;
  while (root && offset < line->length && strchr(" \t\r", line->text[offset])) offset++;
  if (cJSON_IsObject(root) && offset == line->length) {
    *out = root;
    return OK;
  }
  Status status;
  if (line->length && line->text[0] == '[')
    status = bad_line(
        line, 0, "this is a JSON list, not one object a line; make lines of it with: popalm data convert");
  else if (!root)
    status = bad_line(line, offset, "not valid JSON here; write one JSON object a line");
  else
    status =
        bad_line(line, cJSON_IsObject(root) ? offset : 0, "a line must be one JSON object and nothing else");
  cJSON_Delete(root);
  return status;
}

static bool is_like(const cJSON *item) {
  return cJSON_IsNumber(item) && isfinite(item->valuedouble) && item->valuedouble >= 0;
}

static bool has_type(const cJSON *root, const cJSON *item, FieldType type) {
  const cJSON *element;
  switch (type) {
    case FIELD_TEXT:
      return cJSON_IsString(item);
    case FIELD_LIKE:
      return is_like(item);
    case FIELD_TEXTS:
      cJSON_ArrayForEach(element, item) if (!cJSON_IsString(element)) return false;
      return cJSON_IsArray(item) && item->child;
    case FIELD_LIKES:
      cJSON_ArrayForEach(element, item) if (!is_like(element)) return false;
      return cJSON_IsArray(item) &&
             cJSON_GetArraySize(item) == cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(root, "resp"));
  }
  return false;
}

/* The key present that is nearest to the missing one, in parentheses; "" if none is near. */
static const char *nearest_present(Arena *arena, const cJSON *root, const char *key) {
  const char **names = NEW(arena, const char *, cJSON_GetArraySize(root) + 1);
  int count = 0;
  const cJSON *item;
  cJSON_ArrayForEach(item, root) names[count++] = item->string;
  const char *nearest = nearest_name(key, names, count);
  return nearest ? arena_print(arena, " (the nearest here is \"%s\")", nearest) : "";
}

static bool fits_shape(const cJSON *root, const Shape *shape) {
  for (int i = 0; i < shape->count; i++)
    if (!shape->field[i].optional && !cJSON_GetObjectItemCaseSensitive(root, shape->field[i].key))
      return false;
  return true;
}

static bool stands_twice(const cJSON *root, const char *key) {
  const cJSON *item;
  int times = 0;
  cJSON_ArrayForEach(item, root) times += strcmp(item->string, key) == 0;
  return times > 1;
}

static Status check_fields(const Line *line, const cJSON *root) {
  const Shape *shape = &shapes[line->dataset->kind], *other = &shapes[line->dataset->kind == DATASET_POSTS];
  Arena arena = {0};
  Status status = OK;
  for (int i = 0; i < shape->count && status == OK; i++) {
    const Field *field = &shape->field[i];
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(root, field->key);
    if (!item && !field->optional) {
      const char *remedy =
          fits_shape(root, other)
              ? arena_print(&arena, "; this is a file of %s, give one of %s", other->name, shape->name)
              : arena_print(&arena, "%s; each line must be %s", nearest_present(&arena, root, field->key),
                            shape->example);
      status = bad_line(line, 0, arena_print(&arena, "key \"%s\" is missing%s", field->key, remedy));
    } else if (stands_twice(root, field->key)) {
      status = bad_line(line, key_offset(line, field->key),
                        arena_print(&arena, "key \"%s\" stands twice; keep one of them", field->key));
    } else if (item && cJSON_IsArray(item) && !item->child && field->type == FIELD_TEXTS) {
      status =
          bad_line(line, key_offset(line, field->key),
                   arena_print(&arena, "\"%s\" is empty; a post needs at least one reply, remove the line",
                               field->key));
    } else if (item && !has_type(root, item, field->type)) {
      status = bad_line(
          line, key_offset(line, field->key),
          arena_print(&arena, "\"%s\" must be %s; correct the line", field->key, type_names[field->type]));
    }
  }
  arena_free(&arena);
  return status;
}

static void read_post(const cJSON *root, Arena *scratch, Post *out) {
  const cJSON *replies = cJSON_GetObjectItemCaseSensitive(root, "resp"), *item;
  const cJSON *likes = cJSON_GetObjectItemCaseSensitive(root, "like");
  int count = cJSON_GetArraySize(replies), i = 0;
  const char **reply = NEW(scratch, const char *, count);
  cJSON_ArrayForEach(item, replies) reply[i++] = arena_strdup(scratch, item->valuestring);
  double *like = likes ? NEW(scratch, double, count) : NULL;
  i = 0;
  cJSON_ArrayForEach(item, likes) like[i++] = item->valuedouble;
  *out = (Post){arena_strdup(scratch, cJSON_GetObjectItemCaseSensitive(root, "weibo")->valuestring), count,
                reply, like};
}

static void read_pair(const cJSON *root, Arena *scratch, Pair *out) {
  const char *text[3];
  for (int i = 0; i < 3; i++)
    text[i] = arena_strdup(
        scratch, cJSON_GetObjectItemCaseSensitive(root, shapes[DATASET_PAIRS].field[i].key)->valuestring);
  *out = (Pair){text[0], text[1], text[2], cJSON_GetObjectItemCaseSensitive(root, "text_j_like")->valuedouble,
                cJSON_GetObjectItemCaseSensitive(root, "text_k_like")->valuedouble};
}

/* ---- the file ---- */

static size_t first_line(const FileMap *map) {
  return map->length >= 3 && memcmp(map->data, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0; /* a byte order mark */
}

/* The line that starts at offset, without its end; *next: the start of the one behind it. */
static Line line_at(const Dataset *dataset, size_t offset, int64_t number, size_t *next) {
  const char *text = dataset->map.data + offset;
  size_t left = dataset->map.length - offset;
  const char *newline = memchr(text, '\n', left);
  size_t length = newline ? (size_t)(newline - text) : left;
  *next = offset + length + (newline ? 1 : 0);
  while (length && strchr(" \t\r", text[length - 1]) && text[length - 1]) length--;
  return (Line){dataset, text, length, number};
}

static Status check_line(const Line *line) {
  cJSON *root;
  TRY(parse_line(line, &root));
  Status status = check_fields(line, root);
  cJSON_Delete(root);
  return status;
}

static Status index_lines(Arena *arena, Dataset *dataset) {
  int64_t lines = 1;
  for (size_t i = 0; i < dataset->map.length; i++) lines += dataset->map.data[i] == '\n';
  dataset->line = NEW(arena, uint64_t, lines);
  int64_t number = 0;
  for (size_t at = first_line(&dataset->map), next; at < dataset->map.length; at = next) {
    Line line = line_at(dataset, at, ++number, &next);
    if (line.length == 0) continue;
    TRY(check_line(&line));
    dataset->line[dataset->count++] = at;
  }
  if (dataset->count == 0)
    return fail(INVALID, "%s: the file is empty; each line must be %s", dataset->path,
                shapes[dataset->kind].example);
  return OK;
}

Status dataset_open(Arena *arena, const char *path, DatasetKind kind, Dataset *out) {
  *out = (Dataset){.path = arena_strdup(arena, path), .kind = kind};
  TRY(file_map(path, &out->map));
  Status status = index_lines(arena, out);
  if (status != OK) dataset_close(out);
  return status;
}

void dataset_close(Dataset *dataset) {
  file_unmap(&dataset->map);
  dataset->count = 0;
}

Status dataset_detect(const char *path, DatasetKind *out) {
  Dataset dataset = {.path = path};
  TRY(file_map(path, &dataset.map));
  Line line = {.dataset = &dataset};
  int64_t number = 0;
  for (size_t at = first_line(&dataset.map), next; at < dataset.map.length && line.length == 0; at = next)
    line = line_at(&dataset, at, ++number, &next);
  cJSON *root = NULL;
  Status status = line.length ? parse_line(&line, &root)
                              : fail(INVALID, "%s: the file is empty; give a file of posts or pairs", path);
  if (status == OK) {
    bool posts = fits_shape(root, &shapes[DATASET_POSTS]), pairs = fits_shape(root, &shapes[DATASET_PAIRS]);
    bool nearer_pairs = cJSON_GetObjectItemCaseSensitive(root, "text_j") != NULL;
    *out = pairs || (!posts && nearer_pairs) ? DATASET_PAIRS : DATASET_POSTS;
    if (!posts && !pairs) {
      dataset.kind = *out;
      status = check_fields(&line, root);
    }
  }
  cJSON_Delete(root);
  file_unmap(&dataset.map);
  return status;
}

/* The file was checked when it was opened; it is checked again because it can change under a long run. */
static Status reread(const Dataset *dataset, int64_t i, cJSON **root) {
  if (i < 0 || i >= dataset->count)
    return fail(FAILED, "%s: example %lld of %lld does not exist; this is a defect of the program",
                dataset->path, (long long)i, (long long)dataset->count);
  size_t next;
  Line line = line_at(dataset, dataset->line[i], 0, &next);
  Status status = parse_line(&line, root);
  if (status == OK) {
    status = check_fields(&line, *root);
    if (status != OK) cJSON_Delete(*root);
  }
  return status == OK ? OK
                      : fail(FAILED, "%s: example %lld changed while the file was in use; run again",
                             dataset->path, (long long)i + 1);
}

Status dataset_post(const Dataset *dataset, int64_t i, Arena *scratch, Post *out) {
  cJSON *root;
  TRY(reread(dataset, i, &root));
  read_post(root, scratch, out);
  cJSON_Delete(root);
  return OK;
}

Status dataset_pair(const Dataset *dataset, int64_t i, Arena *scratch, Pair *out) {
  cJSON *root;
  TRY(reread(dataset, i, &root));
  read_pair(root, scratch, out);
  cJSON_Delete(root);
  return OK;
}

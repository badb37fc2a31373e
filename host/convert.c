#include "convert.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "pairs.h"

/* Names that are tried in this order when none is given. */
static const char *const post_names[] = {"weibo",    "post", "title", "question.title",
                                         "question", "text", NULL};
static const char *const reply_names[] = {"resp",
                                          "reply",
                                          "replies",
                                          "comment",
                                          "comments",
                                          "comments.text",
                                          "comments.content",
                                          "answer",
                                          "answers.content",
                                          "answers",
                                          "content",
                                          "body",
                                          NULL};
static const char *const like_names[] = {"like",
                                         "likes",
                                         "like_count",
                                         "likes_count",
                                         "comments.likes",
                                         "comments.like_count",
                                         "answers.voteup_count",
                                         "voteup_count",
                                         "votes",
                                         "ups",
                                         "score",
                                         NULL};

typedef struct Reply {
  const char *text;
  double like;
  int order;
} Reply;

/* The post that is being collected. */
typedef struct Converter {
  const char *path;
  ConvertKeys keys;
  Arena arena; /* of the post */
  const char *post;
  Reply *reply;
  int replies, room;
  bool has_likes;
  Text *out;
  Converted *result;
} Converter;

static int compare_replies(const void *a, const void *b) {
  const Reply *x = a, *y = b;
  if (x->like != y->like) return x->like > y->like ? -1 : 1;
  return x->order - y->order;
}

static void write_post(Converter *c) {
  if (c->post && c->replies == 0) c->result->skipped++;
  if (c->post && c->replies > 0) {
    if (c->has_likes) qsort(c->reply, (size_t)c->replies, sizeof *c->reply, compare_replies);
    text_add(c->out, "{\"weibo\": ", 10);
    text_add_json(c->out, c->post);
    text_add(c->out, ", \"resp\": [", 11);
    for (int i = 0; i < c->replies; i++) {
      if (i) text_add(c->out, ", ", 2);
      text_add_json(c->out, c->reply[i].text);
    }
    text_add(c->out, "]", 1);
    for (int i = 0; c->has_likes && i < c->replies; i++)
      text_print(c->out, "%s%.15g", i ? ", " : ", \"like\": [", c->reply[i].like);
    text_print(c->out, c->has_likes ? "]}\n" : "}\n");
    c->result->posts++;
    c->result->replies += c->replies;
  }
  arena_free(&c->arena);
  c->post = NULL;
  c->reply = NULL;
  c->replies = c->room = 0;
  c->has_likes = false;
}

static void begin_post(Converter *c, const char *post) {
  if (c->post && strcmp(c->post, post) == 0) return;
  write_post(c);
  c->post = arena_strdup(&c->arena, post);
}

/* like NULL: the file has none. */
static Status add_reply(Converter *c, const char *text, const double *like, int64_t line) {
  if (text[strspn(text, " \t\r\n")] == 0) {
    c->result->skipped++;
    return OK;
  }
  if (c->replies > 0 && c->has_likes != (like != NULL))
    return fail(INVALID, "%s:%lld: some replies of this post have likes and some have none; complete them",
                c->path, (long long)line);
  if (c->replies == c->room) {
    int room = c->room ? 2 * c->room : 16;
    Reply *reply = NEW(&c->arena, Reply, room);
    if (c->replies) memcpy(reply, c->reply, (size_t)c->replies * sizeof *reply);
    c->reply = reply;
    c->room = room;
  }
  c->has_likes = like != NULL;
  c->reply[c->replies] = (Reply){arena_strdup(&c->arena, text), like ? *like : 0, c->replies};
  c->replies++;
  return OK;
}

/* A count as sites print it: 12, 1,234, 1.2万, 3k. */
static bool read_count(const char *text, double *out) {
  char digits[64];
  size_t length = 0;
  for (; *text && length + 1 < sizeof digits; text++)
    if (*text != ',' && *text != ' ') digits[length++] = *text;
  digits[length] = 0;
  char *end;
  *out = strtod(digits, &end);
  if (strcmp(end, "万") == 0)
    *out *= 1e4;
  else if (strcmp(end, "k") == 0 || strcmp(end, "K") == 0)
    *out *= 1e3;
  else if (*end)
    return false;
  return length > 0 && end != digits && isfinite(*out) && *out >= 0;
}

static Status bad_like(const Converter *c, int64_t line, const char *text) {
  return fail(
      INVALID,
      "%s:%lld: \"%.40s\" under \"%s\" is not a number from 0 on; correct it or name another --like-key",
      c->path, (long long)line, text, c->keys.like);
}

/* ---- tables ---- */

typedef struct Table {
  const char *text;
  size_t length, at;
  char separator;
  int64_t line; /* where the record begins, and after it the next one */
  char **field;
  int fields;
} Table;

static Status read_field(const Converter *c, Table *t, Text *out, bool *last) {
  int64_t opened = t->line;
  bool quoted = t->at < t->length && t->text[t->at] == '"';
  if (quoted) t->at++;
  for (;; t->at++) {
    if (t->at >= t->length) {
      if (quoted)
        return fail(INVALID, "%s:%lld: a quoted field is never closed; add the closing quote", c->path,
                    (long long)opened);
      *last = true;
      return OK;
    }
    char ch = t->text[t->at];
    t->line += ch == '\n';
    if (quoted) {
      if (ch == '"' && t->at + 1 < t->length && t->text[t->at + 1] == '"')
        t->at++;
      else if (ch == '"') {
        quoted = false;
        continue;
      }
    } else if (ch == t->separator || ch == '\n') {
      t->at++;
      *last = ch == '\n';
      return OK;
    } else if (ch == '\r' && t->at + 1 < t->length && t->text[t->at + 1] == '\n') {
      continue;
    }
    if (ch == 0)
      return fail(INVALID, "%s:%lld: a zero byte; this is not a text table", c->path, (long long)t->line);
    text_add(out, &t->text[t->at], 1);
  }
}

/* The next record's fields in arena; fields 0 at the end of the file. */
static Status read_record(const Converter *c, Table *t, Arena *arena) {
  int room = 16;
  t->field = NEW(arena, char *, room);
  t->fields = 0;
  if (t->at >= t->length) return OK;
  for (bool last = false; !last;) {
    Text field = {.arena = arena};
    text_add(&field, "", 0);
    TRY(read_field(c, t, &field, &last));
    if (t->fields == room) {
      char **larger = NEW(arena, char *, 2 * room);
      memcpy(larger, t->field, (size_t)room * sizeof *larger);
      t->field = larger;
      room *= 2;
    }
    t->field[t->fields++] = field.data;
  }
  return OK;
}

/* The column called name, or the first of the common names; -1: none. */
static int find_column(const Table *header, const char **name, const char *const *common, const char *taken) {
  for (int i = 0; *name ? i < 1 : common[i] != NULL; i++) {
    const char *wanted = *name ? *name : common[i];
    for (int f = 0; f < header->fields; f++) {
      if (strcmp(header->field[f], wanted) != 0 || (taken && strcmp(wanted, taken) == 0)) continue;
      *name = wanted;
      return f;
    }
  }
  return -1;
}

static Status no_key(const Converter *c, const char *option, const char *name, const char *const *present,
                     int count) {
  const char *near = name ? nearest_name(name, present, count) : NULL;
  if (near) return fail(INVALID, "%s:1: nothing is called \"%s\"; did you mean \"%s\"?", c->path, name, near);
  if (name)
    return fail(INVALID, "%s:1: nothing is called \"%s\"; give another name with %s", c->path, name, option);
  return fail(INVALID,
              "%s:1: none of the usual names is there (the first here is \"%.60s\"); name one with %s",
              c->path, count ? present[0] : "", option);
}

static Status convert_rows(Converter *c, Table *t, const int column[3], int fields) {
  Arena row = {0};
  ArenaMark empty = arena_mark(&row);
  Status status = OK;
  while (status == OK) {
    int64_t line = t->line;
    arena_reset(&row, empty);
    status = read_record(c, t, &row);
    if (status != OK || t->fields == 0) break;
    if (t->fields == 1 && t->field[0][0] == 0) continue; /* an empty line */
    double like = 0;
    if (t->fields != fields)
      status = fail(INVALID,
                    "%s:%lld: %d fields where the header has %d; quote fields that have separators inside",
                    c->path, (long long)line, t->fields, fields);
    else if (column[2] >= 0 && !read_count(t->field[column[2]], &like))
      status = bad_like(c, line, t->field[column[2]]);
    if (status != OK) break;
    begin_post(c, t->field[column[0]]);
    status = add_reply(c, t->field[column[1]], column[2] >= 0 ? &like : NULL, line);
  }
  arena_free(&row);
  return status;
}

static Status convert_table(Converter *c, const char *text, size_t length) {
  const char *line_end = memchr(text, '\n', length);
  size_t header_length = line_end ? (size_t)(line_end - text) : length;
  bool tabs = memchr(text, '\t', header_length) && !memchr(text, ',', header_length);
  Table t = {.text = text, .length = length, .separator = tabs ? '\t' : ',', .line = 1};
  Arena arena = {0};
  Status status = read_record(c, &t, &arena);
  if (status == OK) {
    const char *const *present = (const char *const *)t.field;
    const char *asked = c->keys.like;
    int column[3] = {find_column(&t, &c->keys.post, post_names, NULL), -1, -1};
    column[1] = find_column(&t, &c->keys.reply, reply_names, c->keys.post);
    column[2] = find_column(&t, &c->keys.like, like_names, NULL);
    if (column[0] < 0)
      status = no_key(c, "--post-key", c->keys.post, present, t.fields);
    else if (column[1] < 0)
      status = no_key(c, "--reply-key", c->keys.reply, present, t.fields);
    else if (asked && column[2] < 0)
      status = no_key(c, "--like-key", asked, present, t.fields);
    else
      status = convert_rows(c, &t, column, t.fields);
  }
  arena_free(&arena);
  return status;
}

/* ---- JSON ---- */

/* Values at a dotted path, through lists; out NULL only counts them. */
static void collect(const cJSON *node, const char *path, const cJSON **out, int *count) {
  if (cJSON_IsArray(node)) {
    const cJSON *item;
    cJSON_ArrayForEach(item, node) collect(item, path, out, count);
    return;
  }
  if (*path == 0) {
    if (!node || cJSON_IsNull(node)) return;
    if (out) out[*count] = node;
    ++*count;
    return;
  }
  size_t length = strcspn(path, ".");
  size_t name_length = length > 2 && memcmp(path + length - 2, "[]", 2) == 0 ? length - 2 : length;
  const cJSON *child;
  cJSON_ArrayForEach(child, node) {
    if (child->string && strlen(child->string) == name_length && memcmp(child->string, path, name_length) == 0) {
      collect(child, path + length + (path[length] == '.'), out, count);
      return;
    }
  }
}

static const cJSON **values_at(Arena *arena, const cJSON *object, const char *path, int *count) {
  *count = 0;
  if (!path) return NULL;
  collect(object, path, NULL, count);
  const cJSON **values = NEW(arena, const cJSON *, *count + 1);
  *count = 0;
  collect(object, path, values, count);
  return values;
}

/* Sets *name to the first common one that leads to strings (numbers: also numbers) in the object. */
static void choose_key(Arena *arena, const cJSON *object, const char **name, const char *const *common, const char *taken,
                       bool numbers) {
  for (int i = 0; !*name && common[i]; i++) {
    int count = 0;
    const cJSON **values = values_at(arena, object, common[i], &count);
    bool fits = count > 0 && (!taken || strcmp(taken, common[i]) != 0);
    for (int v = 0; v < count && fits; v++) fits = cJSON_IsString(values[v]) || (numbers && cJSON_IsNumber(values[v]));
    if (fits) *name = common[i];
  }
}

static Status choose_keys(Converter *c, const cJSON *object, Arena *arena) {
  const char **present = NEW(arena, const char *, cJSON_GetArraySize(object) + 1);
  int count = 0;
  const cJSON *item;
  cJSON_ArrayForEach(item, object) present[count++] = item->string;
  choose_key(arena, object, &c->keys.post, post_names, NULL, false);
  if (!c->keys.post) return no_key(c, "--post-key", NULL, present, count);
  choose_key(arena, object, &c->keys.reply, reply_names, c->keys.post, false);
  if (!c->keys.reply) return no_key(c, "--reply-key", NULL, present, count);
  choose_key(arena, object, &c->keys.like, like_names, NULL, true);
  return OK;
}

static Status convert_object(Converter *c, const cJSON *object, int64_t line, Arena *arena) {
  if (!cJSON_IsObject(object))
    return fail(INVALID, "%s:%lld: not a JSON object; each post must be one", c->path, (long long)line);
  if (!c->keys.post || !c->keys.reply) TRY(choose_keys(c, object, arena));
  int posts, texts, likes;
  const cJSON **post = values_at(arena, object, c->keys.post, &posts);
  const cJSON **text = values_at(arena, object, c->keys.reply, &texts);
  const cJSON **like = values_at(arena, object, c->keys.like, &likes);
  if (posts != 1 || !cJSON_IsString(post[0]))
    return fail(INVALID, "%s:%lld: \"%s\" is not there or not one string; name the post with --post-key", c->path,
                (long long)line, c->keys.post);
  if (c->keys.like && likes != texts)
    return fail(INVALID, "%s:%lld: %d replies under \"%s\" but %d likes under \"%s\"; complete them or name another --like-key",
                c->path, (long long)line, texts, c->keys.reply, likes, c->keys.like);
  begin_post(c, post[0]->valuestring);
  for (int i = 0; i < texts; i++) {
    double number = 0;
    if (!cJSON_IsString(text[i]))
      return fail(INVALID, "%s:%lld: a reply under \"%s\" is not a string; name the reply's text with --reply-key", c->path,
                  (long long)line, c->keys.reply);
    if (likes && cJSON_IsNumber(like[i])) number = like[i]->valuedouble;
    else if (likes && !(cJSON_IsString(like[i]) && read_count(like[i]->valuestring, &number)))
      return bad_like(c, line, "a value");
    if (!isfinite(number) || number < 0) return bad_like(c, line, "a negative or infinite number");
    TRY(add_reply(c, text[i]->valuestring, likes ? &number : NULL, line));
  }
  return OK;
}

static Status parse_json(const Converter *c, const char *text, size_t length, int64_t line, cJSON **out) {
  const char *end = text;
  *out = cJSON_ParseWithLengthOpts(text, length, &end, false);
  while (*out && end < text + length && (*end == ' ' || *end == '\t' || *end == '\r' || *end == '\n')) end++;
  if (*out && end == text + length) return OK;
  cJSON_Delete(*out);
  size_t column = 1;
  for (const char *p = text; p < end && p < text + length; p++) {
    line += *p == '\n';
    column = *p == '\n' ? 1 : column + ((*p & 0xC0) != 0x80);
  }
  return fail(INVALID, "%s:%lld:%zu: not valid JSON here; write one object a line or one list of objects",
              c->path, (long long)line, column);
}

static Status convert_lines(Converter *c, const char *text, size_t length) {
  Arena scratch = {0};
  ArenaMark empty = arena_mark(&scratch);
  Status status = OK;
  int64_t line = 0;
  for (size_t at = 0; at < length && status == OK;) {
    const char *end = memchr(text + at, '\n', length - at);
    size_t line_length = end ? (size_t)(end - text) - at : length - at;
    const char *start = text + at;
    at += line_length + 1;
    line++;
    while (line_length && (start[line_length - 1] == '\r' || start[line_length - 1] == ' ')) line_length--;
    if (line_length == 0) continue;
    cJSON *object;
    status = parse_json(c, start, line_length, line, &object);
    if (status != OK) break;
    status = convert_object(c, object, line, &scratch);
    cJSON_Delete(object);
    arena_reset(&scratch, empty);
  }
  arena_free(&scratch);
  return status;
}

static Status convert_list(Converter *c, const char *text, size_t length) {
  cJSON *list;
  TRY(parse_json(c, text, length, 1, &list));
  Arena scratch = {0};
  ArenaMark empty = arena_mark(&scratch);
  Status status = OK;
  const cJSON *item;
  int64_t number = 0; /* of the element: one list often is one line */
  cJSON_ArrayForEach(item, list) {
    status = convert_object(c, item, ++number, &scratch);
    if (status != OK) break;
    arena_reset(&scratch, empty);
  }
  arena_free(&scratch);
  cJSON_Delete(list);
  return status;
}

Status convert_file(const char *path, const ConvertKeys *keys, Text *out, Converted *result) {
  FileMap map;
  TRY(file_map(path, &map));
  *result = (Converted){0};
  Converter converter = {.path = path, .keys = *keys, .out = out, .result = result};
  size_t skip = map.length >= 3 && memcmp(map.data, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0;
  const char *text = map.data + skip;
  size_t length = map.length - skip, invalid = utf8_invalid_at(text, length), first = 0;
  while (first < length &&
         (text[first] == ' ' || text[first] == '\n' || text[first] == '\r' || text[first] == '\t'))
    first++;
  Status status;
  if (invalid < length)
    status =
        fail(INVALID, "%s: byte %zu is not valid UTF-8; convert the file to UTF-8", path, skip + invalid + 1);
  else if (first == length)
    status = fail(INVALID, "%s: the file is empty; give one with posts and replies", path);
  else if (text[first] == '{')
    status = convert_lines(&converter, text, length);
  else if (text[first] == '[')
    status = convert_list(&converter, text, length);
  else
    status = convert_table(&converter, text, length);
  if (status == OK) write_post(&converter);
  arena_free(&converter.arena);
  file_unmap(&map);
  if (status == OK && result->posts == 0)
    status = fail(INVALID, "%s: no post with a reply in it; check --post-key and --reply-key", path);
  return status;
}

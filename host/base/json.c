#include "base/json.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/text.h"

enum { MAX_DEPTH = 200, INLINE_KEYS = 32 };

typedef struct Key {
  const char *text;  /* decoded */
  size_t length, at; /* at: of the opening quote */
  uint64_t hash;
} Key;

/* cJSON accepts much that is not JSON (control characters, leading zeros, text after the value, the same
 * key twice) and keeps no positions, so this pass decides what is accepted and cJSON only builds the tree. */
typedef struct Scan {
  const Json *json;
  size_t at;
  Arena *arena;
  Key *keys; /* of the objects that are open, a stack */
  int key_count, key_capacity;
  Key inline_keys[INLINE_KEYS];
} Scan;

static void line_and_column(const Json *json, size_t at, int *line, int *column) {
  *line = json->first_line ? json->first_line : 1;
  size_t start = 0;
  for (size_t i = 0; i < at && i < json->length; i++)
    if (json->text[i] == '\n') {
      ++*line;
      start = i + 1;
    }
  *column = (int)utf8_length(json->text + start, at - start) + 1;
}

__attribute__((format(printf, 3, 4))) static Status refuse(const Scan *scan, size_t at, const char *format,
                                                           ...) {
  char what[512];
  va_list args;
  va_start(args, format);
  vsnprintf(what, sizeof what, format, args);
  va_end(args);
  int line, column;
  line_and_column(scan->json, at, &line, &column);
  return fail(INVALID, "%s:%d:%d: %s", scan->json->path, line, column, what);
}

static int peek(const Scan *scan) {
  return scan->at < scan->json->length ? (unsigned char)scan->json->text[scan->at] : -1;
}

static bool is_space(int c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }
static bool is_digit(int c) { return c >= '0' && c <= '9'; }

static void skip_space(Scan *scan) {
  while (is_space(peek(scan))) scan->at++;
}

/* What stands at the scan's place, for messages. */
static const char *found_here(const Scan *scan, char out[32]) {
  int c = peek(scan);
  if (c < 0) return "the end of the file";
  if (c < 0x20 || c == 0x7F) {
    snprintf(out, 32, "control character 0x%02X", (unsigned)c);
  } else {
    size_t end = scan->at;
    utf8_next(scan->json->text, scan->json->length, &end);
    snprintf(out, 32, "'%.*s'", (int)(end - scan->at), scan->json->text + scan->at);
  }
  return out;
}

static int hex4(const char *text) {
  int code = 0;
  for (int i = 0; i < 4; i++) {
    int c = text[i] | 0x20;
    int digit = is_digit(text[i]) ? text[i] - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (digit < 0) return -1;
    code = code * 16 + digit;
  }
  return code;
}

/* \uXXXX at the scan's place (its backslash), a surrogate pair as one code point. */
static Status scan_unicode(Scan *scan) {
  const char *text = scan->json->text + scan->at;
  size_t left = scan->json->length - scan->at;
  int code = left >= 6 ? hex4(text + 2) : -1;
  if (code < 0) return refuse(scan, scan->at, "\\u needs four hexadecimal digits; write for example \\u00e9");
  if (code == 0) return refuse(scan, scan->at, "\\u0000 cannot be part of a text; remove it");
  bool high = code >= 0xD800 && code < 0xDC00, low = code >= 0xDC00 && code < 0xE000;
  int second = high && left >= 12 && text[6] == '\\' && text[7] == 'u' ? hex4(text + 8) : -1;
  if (low || (high && (second < 0xDC00 || second > 0xDFFF)))
    return refuse(scan, scan->at, "half of a surrogate pair; write the character itself in UTF-8");
  scan->at += high ? 12 : 6;
  return OK;
}

/* A string; *escaped tells whether it holds a backslash. */
static Status scan_string(Scan *scan, bool *escaped) {
  size_t start = scan->at++;
  *escaped = false;
  for (;;) {
    int c = peek(scan);
    if (c == '"') {
      scan->at++;
      return OK;
    }
    if (c < 0) return refuse(scan, start, "this string never ends; add the closing quote");
    if (c < 0x20)
      return refuse(scan, scan->at, "control character 0x%02X in a string%s; write it as \\n, \\t or \\u%04x",
                    (unsigned)c, c == '\n' ? " (is the closing quote missing?)" : "", (unsigned)c);
    if (c != '\\') {
      scan->at++;
      continue;
    }
    *escaped = true;
    int next = scan->at + 1 < scan->json->length ? scan->json->text[scan->at + 1] : 0;
    if (next == 'u') {
      TRY(scan_unicode(scan));
    } else if (next && strchr("\"\\/bfnrt", next)) {
      scan->at += 2;
    } else {
      return refuse(scan, scan->at, "unknown escape in a string; write \\\\ for a backslash");
    }
  }
}

static Status scan_number(Scan *scan) {
  size_t start = scan->at;
  if (peek(scan) == '-') scan->at++;
  if (!is_digit(peek(scan)))
    return refuse(scan, start, "not a number (NaN and Infinity are not JSON); write digits");
  bool zero = peek(scan) == '0';
  scan->at++;
  if (zero && is_digit(peek(scan)))
    return refuse(scan, start, "a number cannot begin with 0; remove the zeros");
  while (is_digit(peek(scan))) scan->at++;
  if (peek(scan) == '.') {
    scan->at++;
    if (!is_digit(peek(scan)))
      return refuse(scan, start, "no digit after the decimal point; write for example 1.0");
    while (is_digit(peek(scan))) scan->at++;
  }
  if (peek(scan) == 'e' || peek(scan) == 'E') {
    scan->at++;
    if (peek(scan) == '+' || peek(scan) == '-') scan->at++;
    if (!is_digit(peek(scan))) return refuse(scan, start, "no digit in the exponent; write for example 1e-5");
    while (is_digit(peek(scan))) scan->at++;
  }
  if (scan->at - start > 60) return refuse(scan, start, "this number has too many digits; round it");
  if (!isfinite(strtod(scan->json->text + start, NULL)))
    return refuse(scan, start, "this number is too large; the largest is about 1.8e308");
  return OK;
}

static Status scan_word(Scan *scan) {
  static const char *const words[] = {"true", "false", "null"};
  const char *text = scan->json->text + scan->at;
  size_t left = scan->json->length - scan->at, length = 0;
  while (length < left && length < 32 && (text[length] | 0x20) >= 'a' && (text[length] | 0x20) <= 'z')
    length++;
  char word[40], found[32];
  snprintf(word, sizeof word, "%.*s", (int)length, text);
  for (int i = 0; i < 3; i++)
    if (strcmp(word, words[i]) == 0) {
      scan->at += length;
      return OK;
    }
  if (length == 0) {
    if (peek(scan) == '/' || peek(scan) == '#')
      return refuse(scan, scan->at, "JSON has no comments; remove it");
    if (peek(scan) == '\'')
      return refuse(scan, scan->at, "text stands in double quotes in JSON; replace the '");
    return refuse(scan, scan->at,
                  "a value is expected, not %s; write a number, \"text\", true, false, null, { or [",
                  found_here(scan, found));
  }
  const char *near = nearest_name(word, words, 3);
  if (near) return refuse(scan, scan->at, "'%s' is not JSON; did you mean %s?", word, near);
  return refuse(scan, scan->at, "'%s' is not JSON; put text in double quotes", word);
}

/* The bytes between the quotes of the valid string at `at`, escapes decoded. */
static const char *decoded_key(Scan *scan, size_t at, size_t end, bool escaped, size_t *length) {
  const char *text = scan->json->text;
  *length = end - at - 2;
  if (!escaped) return text + at + 1;
  char *out = arena_alloc(scan->arena, *length + 1);
  size_t n = 0;
  for (size_t i = at + 1; i < end - 1;) {
    if (text[i] != '\\') {
      out[n++] = text[i++];
    } else if (text[i + 1] != 'u') {
      static const char from[] = "bfnrt", to[] = "\b\f\n\r\t";
      const char *special = strchr(from, text[i + 1]);
      out[n++] = special ? to[special - from] : text[i + 1];
      i += 2;
    } else {
      uint32_t code = (uint32_t)hex4(text + i + 2);
      i += 6;
      if (code >= 0xD800 && code < 0xDC00) {
        code = 0x10000 + ((code - 0xD800) << 10) + ((uint32_t)hex4(text + i + 2) - 0xDC00);
        i += 6;
      }
      n += (size_t)utf8_put(code, out + n);
    }
  }
  *length = n;
  return out;
}

static void push_key(Scan *scan, size_t at, bool escaped) {
  if (scan->key_count == scan->key_capacity) {
    Key *grown = NEW(scan->arena, Key, scan->key_capacity * 2);
    memcpy(grown, scan->keys, sizeof(Key) * (size_t)scan->key_count);
    scan->keys = grown;
    scan->key_capacity *= 2;
  }
  Key *key = &scan->keys[scan->key_count++];
  key->at = at;
  key->text = decoded_key(scan, at, scan->at, escaped, &key->length);
  key->hash = hash64(key->text, key->length);
}

static int compare_keys(const void *left, const void *right) {
  const Key *a = left, *b = right;
  if (a->hash != b->hash) return a->hash < b->hash ? -1 : 1;
  return a->at < b->at ? -1 : a->at > b->at;
}

static Status check_duplicates(Scan *scan, int base) {
  int count = scan->key_count - base;
  Key *keys = scan->keys + base;
  if (count > 1) qsort(keys, (size_t)count, sizeof(Key), compare_keys);
  for (int i = 1; i < count; i++)
    if (keys[i].hash == keys[i - 1].hash && keys[i].length == keys[i - 1].length &&
        memcmp(keys[i].text, keys[i - 1].text, keys[i].length) == 0)
      return refuse(scan, keys[i].at,
                    "the key \"%.*s\" stands here for the second time; remove one of the two",
                    (int)(keys[i].length > 100 ? 100 : keys[i].length), keys[i].text);
  scan->key_count = base;
  return OK;
}

static Status scan_value(Scan *scan, int depth);

/* The comma or the closing bracket after an element; *more tells which. */
static Status scan_separator(Scan *scan, char close, const char *what, bool *more) {
  char found[32];
  skip_space(scan);
  int c = peek(scan);
  if (c != ',' && c != close)
    return refuse(scan, scan->at, "',' or '%c' is expected after %s, not %s; is a comma missing?", close,
                  what, found_here(scan, found));
  size_t comma = scan->at++;
  *more = c == ',';
  if (!*more) return OK;
  skip_space(scan);
  if (peek(scan) == close) return refuse(scan, comma, "a comma before '%c'; remove it", close);
  return OK;
}

static Status scan_object(Scan *scan, int depth) {
  int base = scan->key_count;
  char found[32];
  scan->at++;
  skip_space(scan);
  bool more = peek(scan) != '}';
  if (!more) scan->at++;
  while (more) {
    skip_space(scan);
    if (peek(scan) == '/' || peek(scan) == '#')
      return refuse(scan, scan->at, "JSON has no comments; remove it");
    if (peek(scan) != '"')
      return refuse(scan, scan->at, "a key in double quotes is expected, not %s; write \"key\": value",
                    found_here(scan, found));
    size_t at = scan->at;
    bool escaped;
    TRY(scan_string(scan, &escaped));
    push_key(scan, at, escaped);
    skip_space(scan);
    if (peek(scan) != ':')
      return refuse(scan, scan->at, "':' is expected after a key, not %s; write \"key\": value",
                    found_here(scan, found));
    scan->at++;
    TRY(scan_value(scan, depth + 1));
    TRY(scan_separator(scan, '}', "a member", &more));
  }
  return check_duplicates(scan, base);
}

static Status scan_array(Scan *scan, int depth) {
  scan->at++;
  skip_space(scan);
  bool more = peek(scan) != ']';
  if (!more) scan->at++;
  while (more) {
    TRY(scan_value(scan, depth + 1));
    TRY(scan_separator(scan, ']', "an element", &more));
  }
  return OK;
}

static Status scan_value(Scan *scan, int depth) {
  bool escaped;
  skip_space(scan);
  int c = peek(scan);
  if (depth > MAX_DEPTH) return refuse(scan, scan->at, "nested more than %d deep; flatten it", MAX_DEPTH);
  if (c == '{') return scan_object(scan, depth);
  if (c == '[') return scan_array(scan, depth);
  if (c == '"') return scan_string(scan, &escaped);
  if (c == '-' || is_digit(c)) return scan_number(scan);
  return scan_word(scan);
}

static Status scan_text(Scan *scan) {
  const Json *json = scan->json;
  size_t invalid = utf8_invalid_at(json->text, json->length);
  if (invalid < json->length)
    return refuse(scan, invalid, "byte 0x%02X is not valid UTF-8; save the file as UTF-8",
                  (unsigned)(unsigned char)json->text[invalid]);
  if (json->length >= 3 && memcmp(json->text, "\xEF\xBB\xBF", 3) == 0)
    return refuse(scan, 0, "the file begins with a byte order mark; save it as UTF-8 without one");
  skip_space(scan);
  if (peek(scan) < 0) return refuse(scan, scan->at, "there is no JSON here; write a value");
  TRY(scan_value(scan, 0));
  skip_space(scan);
  if (peek(scan) >= 0) return refuse(scan, scan->at, "text after the end of the value; remove it");
  return OK;
}

Status json_parse_line(Arena *arena, const char *path, int first_line, const char *text, size_t length,
                       Json *out) {
  *out = (Json){.path = arena_strdup(arena, path),
                .text = arena_strndup(arena, text, length),
                .length = length,
                .first_line = first_line};
  Scan scan = {.json = out, .arena = arena, .key_capacity = INLINE_KEYS};
  scan.keys = scan.inline_keys;
  TRY(scan_text(&scan));
  out->root = cJSON_ParseWithLength(out->text, length);
  if (!out->root) return fail(FAILED, "%s: no memory for its JSON; free some", path);
  return OK;
}

Status json_parse(Arena *arena, const char *path, const char *text, size_t length, Json *out) {
  return json_parse_line(arena, path, 1, text, length, out);
}

Status json_read(Arena *arena, const char *path, Json *out) {
  FileMap map;
  TRY(file_map(path, &map));
  Status status = json_parse(arena, path, map.data, map.length, out);
  file_unmap(&map);
  return status;
}

Status json_write(const char *path, const cJSON *value) {
  char *text = cJSON_Print(value);
  if (!text) return fail(FAILED, "%s: no memory is left for its text; free some and run again", path);
  size_t length = strlen(text);
  text[length] = '\n'; /* in place of the NUL, so that the file ends in a whole line */
  Status status = file_write(path, text, length + 1);
  cJSON_free(text);
  return status;
}

void json_free(Json *json) {
  cJSON_Delete(json->root);
  json->root = NULL;
}

/* The offset of the value number `index` in document order (the root is 0). The text is known to be valid. */
static size_t value_offset(const Json *json, int index, bool at_key) {
  size_t at = 0, key = 0;
  bool after_key = false;
  for (int seen = 0; at < json->length;) {
    char c = json->text[at];
    if (is_space(c) || strchr(",:}]", c)) {
      at++;
      continue;
    }
    size_t start = at++;
    if (c == '"') {
      for (; json->text[at] != '"'; at++)
        if (json->text[at] == '\\') at++;
      at++;
      size_t next = at;
      while (next < json->length && is_space(json->text[next])) next++;
      if (next < json->length && json->text[next] == ':') {
        key = start;
        after_key = true;
        continue;
      }
    } else if (c != '{' && c != '[') {
      while (at < json->length && !is_space(json->text[at]) && !strchr(",}]", json->text[at])) at++;
    }
    if (seen++ == index) return at_key && after_key ? key : start;
    after_key = false;
  }
  return 0;
}

/* Counts the values before target in document order. */
static bool count_until(const cJSON *value, const cJSON *target, int *count) {
  if (value == target) return true;
  ++*count;
  for (const cJSON *child = value->child; child; child = child->next)
    if (count_until(child, target, count)) return true;
  return false;
}

void json_position_of(const Json *json, const cJSON *value, bool at_key, int *line, int *column) {
  int index = 0;
  size_t at = 0;
  if (json->root && count_until(json->root, value, &index)) at = value_offset(json, index, at_key);
  line_and_column(json, at, line, column);
}

/* Keys may hold dots themselves, so every key that begins the path is tried. */
static const cJSON *find_value(const cJSON *value, const char *path) {
  if (*path == 0) return value;
  if (*path == '[' && cJSON_IsArray(value)) {
    char *end;
    long index = strtol(path + 1, &end, 10);
    const cJSON *child = index >= 0 && *end == ']' ? cJSON_GetArrayItem(value, (int)index) : NULL;
    return child ? find_value(child, end + 1) : NULL;
  }
  if (*path == '.') path++;
  if (!cJSON_IsObject(value)) return NULL;
  for (const cJSON *child = value->child; child; child = child->next) {
    size_t length = strlen(child->string);
    if (strncmp(child->string, path, length) != 0 || !strchr(".[", path[length])) continue;
    const cJSON *found = find_value(child, path + length);
    if (found) return found;
  }
  return NULL;
}

void json_position(const Json *json, const char *dotted, bool at_key, int *line, int *column) {
  const cJSON *value = json->root ? find_value(json->root, dotted) : NULL;
  if (value)
    json_position_of(json, value, at_key, line, column);
  else
    line_and_column(json, 0, line, column);
}

/* The member, or an error at the object (missing) or at the member (another type). */
static Status member(const Json *json, const cJSON *object, const char *key, const char *type,
                     cJSON_bool (*is)(const cJSON *), const cJSON **out) {
  int line, column;
  *out = cJSON_GetObjectItemCaseSensitive(object, key);
  if (*out && is(*out)) return OK;
  json_position_of(json, *out ? *out : object, false, &line, &column);
  if (*out)
    return fail(INVALID, "%s:%d:%d: \"%s\" must be %s; correct it", json->path, line, column, key, type);
  return fail(INVALID, "%s:%d:%d: \"%s\" is missing; add it (%s)", json->path, line, column, key, type);
}

Status json_get_string(const Json *json, const cJSON *object, const char *key, const char **out) {
  const cJSON *value;
  TRY(member(json, object, key, "a text", cJSON_IsString, &value));
  *out = value->valuestring;
  return OK;
}

Status json_get_number(const Json *json, const cJSON *object, const char *key, double *out) {
  const cJSON *value;
  TRY(member(json, object, key, "a number", cJSON_IsNumber, &value));
  *out = value->valuedouble;
  return OK;
}

static cJSON_bool is_integer(const cJSON *value) {
  return cJSON_IsNumber(value) && fabs(value->valuedouble) <= 0x1p53 &&
         value->valuedouble == floor(value->valuedouble);
}

Status json_get_int(const Json *json, const cJSON *object, const char *key, int64_t *out) {
  const cJSON *value;
  TRY(member(json, object, key, "a whole number", is_integer, &value));
  *out = (int64_t)value->valuedouble;
  return OK;
}

Status json_get_bool(const Json *json, const cJSON *object, const char *key, bool *out) {
  const cJSON *value;
  TRY(member(json, object, key, "true or false", cJSON_IsBool, &value));
  *out = cJSON_IsTrue(value);
  return OK;
}

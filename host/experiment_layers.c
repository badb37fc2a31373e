#include "experiment_layers.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_EXTENDS = 16 };

Status refuse_value(const Source *source, const cJSON *value, bool at_key, const char *format, ...) {
  char what[1024];
  va_list args;
  va_start(args, format);
  vsnprintf(what, sizeof what, format, args);
  va_end(args);
  if (source->override) return fail(INVALID, "%s: %s", source->override, what);
  int line, column;
  json_position_of(&source->json, value, at_key, &line, &column);
  return fail(INVALID, "%s:%d:%d: %s", source->json.path, line, column, what);
}

Status refuse_setting(const Layers *layers, const char *path, const char *format, ...) {
  char what[1024], around[256];
  va_list args;
  va_start(args, format);
  vsnprintf(what, sizeof what, format, args);
  va_end(args);
  snprintf(around, sizeof around, "%s", path);
  for (;;) { /* the key, or the section around it that somebody wrote */
    int key = experiment_key_find(around);
    const Setting *setting = key >= 0 ? &layers->settings[key] : NULL;
    if (setting && setting->value) return refuse_value(setting->source, setting->value, false, "%s", what);
    char *dot = strrchr(around, '.');
    if (!dot) return refuse_value(layers->main, layers->main->json.root, false, "%s", what);
    *dot = 0;
  }
}

/* The value as JSON, shortened for a message. */
static const char *shown(Arena *arena, const cJSON *value) {
  enum { LONGEST = 60 };
  char *text = cJSON_PrintUnformatted(value);
  if (!text) return "?";
  char *copy = arena_print(arena, strlen(text) > LONGEST ? "%.*s..." : "%.*s", LONGEST, text);
  free(text);
  return copy;
}

/* ---- unknown keys ---- */

/* The last names of the keys right under the section ("" is the file). */
static int names_under(Arena *arena, const char *section, const char **names) {
  size_t length = strlen(section);
  int count = 0;
  for (int i = 0; i < experiment_key_count; i++) {
    const char *path = experiment_keys[i].path;
    if (length && (strncmp(path, section, length) != 0 || path[length] != '.')) continue;
    const char *name = length ? path + length + 1 : path;
    if (!strchr(name, '.')) names[count++] = arena_strdup(arena, name);
  }
  return count;
}

/* How many of the last names of two dotted paths are the same. */
static int same_last_names(const char *a, const char *b) {
  const char *x = a + strlen(a), *y = b + strlen(b);
  int same = 0;
  while (x > a && y > b && x[-1] == y[-1]) {
    x--, y--;
    same += *x == '.';
  }
  bool whole = (x == a || x[-1] == '.') && (y == b || y[-1] == '.') && *x != '.';
  return same + whole;
}

/* The known key elsewhere that shares the most last names: "lambda" -> "ppo.lambda". */
static const char *same_name_elsewhere(const char *path) {
  const char *best = NULL;
  for (int i = 0, most = 0; i < experiment_key_count; i++) {
    int same = same_last_names(path, experiment_keys[i].path);
    if (same <= most) continue;
    most = same;
    best = experiment_keys[i].path;
  }
  return best;
}

/* The length of the longest beginning of path that is a known key; 0 for none. */
static size_t known_length(Arena *arena, const char *path) {
  size_t known = 0;
  for (const char *dot = strchr(path, '.'); dot; dot = strchr(dot + 1, '.'))
    if (experiment_key_find(arena_strndup(arena, path, (size_t)(dot - path))) >= 0)
      known = (size_t)(dot - path);
  return known;
}

static Status unknown_key(const Layers *layers, const Source *source, const char *path, const cJSON *value) {
  Arena *arena = layers->arena;
  size_t known = known_length(arena, path);
  const char *section = arena_strndup(arena, path, known), *rest = path + known + (known > 0);
  const char *name = arena_strndup(arena, rest, strcspn(rest, "."));
  const char **names = NEW(arena, const char *, experiment_key_count);
  int count = names_under(arena, section, names);
  if (count == 0)
    return refuse_value(source, value, true,
                        "unknown key \"%s\": \"%s\" has no keys of its own; give it a value", path, section);
  const char *near = nearest_name(name, names, count);
  if (near)
    return refuse_value(source, value, true, "unknown key \"%s\"; did you mean \"%s%s%s%s\"?", path, section,
                        known ? "." : "", near, rest + strlen(name));
  if (same_name_elsewhere(path))
    return refuse_value(source, value, true, "unknown key \"%s\"; did you mean \"%s\"?", path,
                        same_name_elsewhere(path));
  Text list = {.arena = arena};
  for (int i = 0; i < count; i++) text_print(&list, "%s%s", i ? ", " : "", names[i]);
  return refuse_value(source, value, true, "unknown key \"%s\"; use one of: %s", path, list.data);
}

/* ---- one value ---- */

static bool whole(const cJSON *value, const ExperimentKey *key) {
  double v = value->valuedouble;
  return cJSON_IsNumber(value) && v == floor(v) && v >= key->least && v <= key->most;
}

static bool in_range(const cJSON *value, const ExperimentKey *key) {
  double v = value->valuedouble;
  return cJSON_IsNumber(value) && v >= key->least && v <= key->most && !(key->above && v == key->least);
}

static bool among(const cJSON *value, const char *const *names) {
  if (!cJSON_IsString(value)) return false;
  for (int i = 0; names[i]; i++)
    if (strcmp(names[i], value->valuestring) == 0) return true;
  return false;
}

/* Whole numbers in range, rising (or, for seeds, different). */
static bool is_list(const cJSON *value, const ExperimentKey *key) {
  int count = cJSON_GetArraySize(value);
  bool rising = key->type == KEY_TOPS;
  if (!cJSON_IsArray(value) || count == 0 || (rising && count > MAX_TOPS)) return false;
  for (const cJSON *item = value->child; item; item = item->next) {
    if (!whole(item, key)) return false;
    for (const cJSON *before = value->child; before != item; before = before->next)
      if (rising ? before->valuedouble >= item->valuedouble : before->valuedouble == item->valuedouble)
        return false;
  }
  return true;
}

static bool acceptable(const cJSON *value, const ExperimentKey *key) {
  if (cJSON_IsNull(value)) return key->nullable;
  if (key->names) return among(value, key->names);
  switch (key->type) {
    case KEY_SECTION:
    case KEY_ARMS:
    case KEY_GRID:
    case KEY_WORDS:
      return cJSON_IsObject(value);
    case KEY_BOOL:
      return cJSON_IsBool(value);
    case KEY_INT:
    case KEY_SEED:
      return whole(value, key);
    case KEY_NUMBER:
      return in_range(value, key);
    case KEY_TOPS:
    case KEY_SEEDS:
      return is_list(value, key);
    case KEY_FILE:
    case KEY_MODEL:
      return cJSON_IsString(value) && value->valuestring[0];
    case KEY_TEXT:
    case KEY_ENUM:
      return cJSON_IsString(value);
  }
  return false;
}

static Status unacceptable(const Layers *layers, const Source *source, const ExperimentKey *key,
                           const cJSON *value) {
  Text expects = {.arena = layers->arena};
  experiment_key_expects(key, &expects);
  int count = 0;
  while (key->names && key->names[count]) count++;
  const char *near =
      count && cJSON_IsString(value) ? nearest_name(value->valuestring, key->names, count) : NULL;
  if (near)
    return refuse_value(source, value, false, "\"%s\" is %s; did you mean \"%s\"? It must be %s", key->path,
                        shown(layers->arena, value), near, expects.data);
  return refuse_value(source, value, false, "\"%s\" is %s; it must be %s", key->path,
                      shown(layers->arena, value), expects.data);
}

/* ---- layers ---- */

static bool is_under(const char *path, const char *section) {
  size_t length = strlen(section);
  return strncmp(path, section, length) == 0 && path[length] == '.';
}

static bool section_off(const Layers *layers, int key) {
  const Setting *setting = &layers->settings[key];
  if (setting->value) return cJSON_IsNull(setting->value);
  return strcmp(experiment_keys[key].fallback, "null") == 0;
}

bool layers_on(const Layers *layers, int key) {
  for (int i = 0; i <= key; i++) {
    if (experiment_keys[i].type != KEY_SECTION || !section_off(layers, i)) continue;
    if (i == key || is_under(experiment_keys[key].path, experiment_keys[i].path)) return false;
  }
  return true;
}

static void forget_under(Layers *layers, const char *section) {
  for (int i = 0; i < experiment_key_count; i++)
    if (is_under(experiment_keys[i].path, section)) layers->settings[i] = (Setting){0};
}

static Status apply_section(Layers *layers, const Source *source, int key, const cJSON *value) {
  const char *path = experiment_keys[key].path;
  Setting *setting = &layers->settings[key];
  if (cJSON_IsNull(value))
    forget_under(layers, path); /* so an object in place of null starts from the defaults */
  *setting = (Setting){source, value};
  for (const cJSON *child = value->child; child; child = child->next)
    TRY(layers_apply(layers, source, arena_print(layers->arena, "%s.%s", path, child->string), child));
  return OK;
}

/* Giving a key under a section that is null brings that section back, with only what is given: its other
 * parts that can be null stay null. */
static void revive_sections(Layers *layers, const Source *source, const char *path) {
  static const cJSON off = {.type = cJSON_NULL}, on = {.type = cJSON_Object};
  for (int i = 0; i < experiment_key_count; i++) {
    const ExperimentKey *section = &experiment_keys[i];
    if (section->type != KEY_SECTION || !is_under(path, section->path) || !section_off(layers, i)) continue;
    bool said_null = layers->settings[i].value != NULL;
    layers->settings[i] = (Setting){source, &on};
    for (int j = 0; said_null && j < experiment_key_count; j++)
      if (is_under(experiment_keys[j].path, section->path) && experiment_keys[j].nullable &&
          experiment_keys[j].type == KEY_SECTION)
        layers->settings[j] = (Setting){source, &off};
  }
}

Status layers_apply(Layers *layers, const Source *source, const char *path, const cJSON *value) {
  int key = experiment_key_find(path);
  if (key < 0) return unknown_key(layers, source, path, value);
  if (!acceptable(value, &experiment_keys[key]))
    return unacceptable(layers, source, &experiment_keys[key], value);
  if (experiment_keys[key].type == KEY_SECTION) {
    if (!cJSON_IsNull(value)) revive_sections(layers, source, path);
    return apply_section(layers, source, key, value);
  }
  revive_sections(layers, source, path);
  layers->settings[key] = (Setting){source, value};
  return OK;
}

static Source *add_source(Layers *layers, const char *folder) {
  Source *source = NEW(layers->arena, Source, 1);
  source->folder = folder;
  source->next = *layers->sources;
  *layers->sources = source;
  return source;
}

static Status apply_file(Layers *layers, const char *path, const char **chain, int depth) {
  Source *source = add_source(layers, path_folder(layers->arena, path));
  TRY(json_read(layers->arena, path, &source->json));
  const cJSON *root = source->json.root;
  if (!cJSON_IsObject(root))
    return refuse_value(source, root, false, "an experiment is an object; write { ... }");
  const cJSON *extends = cJSON_GetObjectItemCaseSensitive(root, "extends");
  char *real = realpath(path, NULL);
  chain[depth] = arena_strdup(layers->arena, real ? real : path);
  free(real);
  for (int i = 0; i < depth; i++)
    if (strcmp(chain[i], chain[depth]) == 0)
      return refuse_value(source, extends, false, "\"extends\" leads back to this file; break the circle");
  if (cJSON_IsString(extends)) {
    const char *base = path_join(layers->arena, source->folder, extends->valuestring);
    if (depth + 1 >= MAX_EXTENDS)
      return refuse_value(source, extends, false, "more than %d files extend each other; merge some",
                          MAX_EXTENDS);
    if (!file_exists(base))
      return refuse_value(source, extends, false, "\"extends\": there is no file %s; correct the path", base);
    TRY(apply_file(layers, base, chain, depth + 1));
    layers->settings[experiment_key_find("name")] = (Setting){0}; /* a name is a file's own */
  }
  layers->main = source;
  for (const cJSON *child = root->child; child; child = child->next)
    TRY(layers_apply(layers, source, child->string, child));
  return OK;
}

Status layers_apply_file(Layers *layers, const char *path) {
  const char *chain[MAX_EXTENDS];
  return apply_file(layers, path, chain, 0);
}

/* The value of --set: JSON, or where that fails (or a text is wanted) the bare string. */
static Status override_value(Layers *layers, Source *source, const char *path, const char *text) {
  int key = experiment_key_find(path);
  bool wants_text =
      key >= 0 && (experiment_keys[key].names || experiment_keys[key].type == KEY_TEXT ||
                   experiment_keys[key].type == KEY_FILE || experiment_keys[key].type == KEY_MODEL);
  Status status = json_parse(layers->arena, source->override, text, strlen(text), &source->json);
  if (status != OK && text[0] && strchr("{[\"", text[0])) return status;
  bool scalar = status == OK && (cJSON_IsNumber(source->json.root) || cJSON_IsBool(source->json.root));
  if (status == OK && !(wants_text && scalar)) return OK;
  json_free(&source->json);
  if (utf8_invalid_at(text, strlen(text)) < strlen(text))
    return fail(INVALID, "%s: not valid UTF-8; correct it", source->override);
  source->json = (Json){.path = source->override, .text = text, .length = strlen(text), .first_line = 1};
  source->json.root = cJSON_CreateString(text);
  return OK;
}

Status layers_apply_override(Layers *layers, const Override *override) {
  Source *source = add_source(layers, "");
  source->override = arena_print(layers->arena, "--set %s=%s", override->path, override->value);
  TRY(override_value(layers, source, override->path, override->value));
  if (strcmp(override->path, "extends") == 0)
    return refuse_value(source, NULL, false, "\"extends\" belongs in the file; write it there");
  return layers_apply(layers, source, override->path, source->json.root);
}

Layers layers_copy(const Layers *layers) {
  Layers copy = *layers;
  copy.settings = NEW(layers->arena, Setting, experiment_key_count);
  memcpy(copy.settings, layers->settings, sizeof(Setting) * (size_t)experiment_key_count);
  return copy;
}

void layers_free(Layers *layers) {
  for (Source *source = *layers->sources; source; source = source->next) json_free(&source->json);
}

/* The table of keys as a JSON schema, for editors, and as a Markdown page, for people. */
#include <stdlib.h>
#include <string.h>

#include "experiment_keys.h"

static cJSON *schema_object(cJSON *parent, const char *name) {
  cJSON *object = name ? cJSON_AddObjectToObject(parent, name) : cJSON_CreateObject();
  cJSON_AddStringToObject(object, "type", "object");
  cJSON_AddBoolToObject(object, "additionalProperties", false);
  cJSON_AddObjectToObject(object, "properties");
  return object;
}

static void add_type(cJSON *schema, const char *type, bool nullable) {
  cJSON_DeleteItemFromObjectCaseSensitive(schema, "type");
  if (!nullable) {
    cJSON_AddStringToObject(schema, "type", type);
    return;
  }
  cJSON *both = cJSON_AddArrayToObject(schema, "type");
  cJSON_AddItemToArray(both, cJSON_CreateString(type));
  cJSON_AddItemToArray(both, cJSON_CreateString("null"));
}

static void add_numbers(cJSON *schema, const ExperimentKey *key) {
  cJSON_AddNumberToObject(schema, key->above ? "exclusiveMinimum" : "minimum", key->least);
  cJSON_AddNumberToObject(schema, "maximum", key->most);
}

static void add_list(cJSON *schema, const ExperimentKey *key) {
  cJSON_AddNumberToObject(schema, "minItems", 1);
  if (key->type == KEY_TOPS) cJSON_AddNumberToObject(schema, "maxItems", MAX_TOPS);
  cJSON_AddBoolToObject(schema, "uniqueItems", true);
  cJSON *items = cJSON_AddObjectToObject(schema, "items");
  cJSON_AddStringToObject(items, "type", "integer");
  add_numbers(items, key);
}

/* An object whose members, under names of the user's choice, are all of a type. */
static void add_members(cJSON *schema, const char *type) {
  cJSON *member = cJSON_AddObjectToObject(schema, "additionalProperties");
  cJSON_AddStringToObject(member, "type", type);
}

static void fill(cJSON *schema, const ExperimentKey *key) {
  static const char *const types[] = {
      [KEY_SECTION] = "object", [KEY_BOOL] = "boolean", [KEY_INT] = "integer", [KEY_SEED] = "integer",
      [KEY_NUMBER] = "number",  [KEY_TEXT] = "string",  [KEY_FILE] = "string", [KEY_MODEL] = "string",
      [KEY_ENUM] = "string",    [KEY_TOPS] = "array",   [KEY_SEEDS] = "array", [KEY_ARMS] = "object",
      [KEY_GRID] = "object",    [KEY_WORDS] = "object"};
  add_type(schema, types[key->type], key->nullable);
  cJSON_AddStringToObject(schema, "description", key->help);
  if (key->fallback) cJSON_AddItemToObject(schema, "default", cJSON_Parse(key->fallback));
  if (key->type == KEY_INT || key->type == KEY_SEED || key->type == KEY_NUMBER) add_numbers(schema, key);
  if (key->type == KEY_TOPS || key->type == KEY_SEEDS) add_list(schema, key);
  if (key->type == KEY_ARMS) add_members(schema, "object");
  if (key->type == KEY_GRID) add_members(schema, "array");
  if (key->type == KEY_WORDS) add_members(schema, "string");
  cJSON *names = key->names ? cJSON_AddArrayToObject(schema, "enum") : NULL;
  for (int i = 0; names && key->names[i]; i++) cJSON_AddItemToArray(names, cJSON_CreateString(key->names[i]));
  if (names && key->nullable) cJSON_AddItemToArray(names, cJSON_CreateNull());
}

cJSON *experiment_schema(void) {
  cJSON *root = cJSON_CreateObject();
  cJSON_AddStringToObject(root, "$schema", "http://json-schema.org/draft-07/schema#");
  cJSON_AddStringToObject(root, "title", "PopALM experiment");
  cJSON_AddStringToObject(root, "type", "object");
  cJSON_AddBoolToObject(root, "additionalProperties", false);
  cJSON_AddObjectToObject(root, "properties");
  for (int i = 0; i < experiment_key_count; i++) {
    const ExperimentKey *key = &experiment_keys[i];
    cJSON *at = root;
    const char *name = key->path;
    for (const char *dot = strchr(name, '.'); dot; name = dot + 1, dot = strchr(name, '.')) {
      char section[64] = {0};
      memcpy(section, name, (size_t)(dot - name));
      at = cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(at, "properties"), section);
    }
    cJSON *properties = cJSON_GetObjectItemCaseSensitive(at, "properties");
    fill(key->type == KEY_SECTION ? schema_object(properties, name)
                                  : cJSON_AddObjectToObject(properties, name),
         key);
  }
  return root;
}

/* Text for a cell of a table: '|' would end it. */
static void add_cell(Text *out, const char *text) {
  for (; *text; text++) text_print(out, *text == '|' ? "\\|" : "%c", *text);
}

static void add_row(Text *out, const ExperimentKey *key) {
  Text expects = {.arena = out->arena};
  experiment_key_expects(key, &expects);
  text_print(out, "| `%s` | ", key->path);
  if (key->fallback) text_print(out, "`%s`", key->fallback);
  for (int i = 0; experiment_preset_names[i]; i++) {
    const char *preset = experiment_preset_names[i], *value = experiment_preset_value(preset, key->path);
    if (value) text_print(out, " (%s: `%s`)", preset, value);
  }
  text_print(out, " | ");
  add_cell(out, expects.data);
  text_print(out, " | ");
  add_cell(out, key->help);
  text_print(out, " |\n");
}

void experiment_reference(Text *out) {
  static const char heading[] = "\n| key | default | must be | meaning |\n|---|---|---|---|\n";
  text_print(
      out,
      "# Keys of an experiment file\n\n"
      "Made by `popalm schema --reference` from the table that also reads the files; do not edit.\n\n"
      "An experiment is strict JSON. Every key may be left out. `popalm run FILE --set path=value` overrides "
      "one, with the\ndotted path as below; the value is JSON, or a bare word. `extends` names a file whose "
      "keys hold where this one says\nnothing: objects are merged, everything else is replaced, "
      "`ablate.arms` as "
      "a whole. Relative paths start at the folder\nof the file that says them, and those of `--set` at the "
      "current folder.\n\n"
      "A section that can be `null` is switched off by it. An object in its place starts from the defaults; "
      "a "
      "single key under\nit, as in `\"ppo.curriculum.rank.keep\": 0.5` in an arm, brings back only what it "
      "names.\n\n"
      "`preset` names a set of defaults; what a file says holds over them. Both presets are made of one "
      "table, in which\n`(released: ...)` below are the rows of the released code. Not in it, because they "
      "need a model or a word list that\nthe program does not bring along: the 6-billion-parameter model "
      "with "
      "its adapters and their learning rates, and\nevaluation by words (`evaluate.segmentation`).\n\n"
      "## The file\n%s",
      heading);
  for (int i = 0; i < experiment_key_count; i++) {
    const ExperimentKey *key = &experiment_keys[i];
    bool top = !strchr(key->path, '.');
    if (key->type == KEY_SECTION && top)
      text_print(out, "\n## `%s`\n\n%s\n%s", key->path, key->help, heading);
    if (key->type != KEY_SECTION || !top) add_row(out, key);
  }
}

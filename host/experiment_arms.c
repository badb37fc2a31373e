/* The arms of "ablate": named ones, and a grid, whose cells are all combinations of its paths' values. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "experiment_layers.h"

enum { MAX_CELLS = 256, MAX_PATHS = 16, LONGEST_NAME = 100 };

/* As a name that can be a folder, with what the grid's names need. */
static bool arm_name_ok(const char *name) {
  size_t length = strlen(name);
  if (length == 0 || length > LONGEST_NAME || name[0] == '.') return false;
  for (const char *c = name; *c; c++)
    if (!isascii(*c) || (!isalnum(*c) && !strchr("._-=,+", *c))) return false;
  return true;
}

static Status named_arm(const Layers *layers, const Source *source, const cJSON *said, Arm *out) {
  if (!arm_name_ok(said->string))
    return refuse_value(source, said, true,
                        "\"%s\" cannot name an arm; use letters, digits, '.', '_' and '-'", said->string);
  if (!cJSON_IsObject(said))
    return refuse_value(source, said, false,
                        "an arm is an object of dotted paths and values; write {\"ppo.steps\": 100}");
  *out = (Arm){.name = arena_strdup(layers->arena, said->string),
               .source = source,
               .changes = NEW(layers->arena, ArmChange, cJSON_GetArraySize(said))};
  for (const cJSON *change = said->child; change; change = change->next)
    out->changes[out->count++] = (ArmChange){arena_strdup(layers->arena, change->string), change, change};
  return OK;
}

/* ---- the grid ---- */

typedef struct Grid {
  const Source *source;
  const cJSON *at[MAX_PATHS]; /* the list of each path */
  const char *label[MAX_PATHS];
  int size[MAX_PATHS];
  int paths, cells;
} Grid;

/* The last part of a dotted path, with as many before it as tell it from the other paths. */
static const char *short_label(const Grid *grid, int path) {
  const char *full = grid->at[path]->string, *label = full + strlen(full);
  for (bool unique = false; !unique && label > full;) {
    for (label--; label > full && label[-1] != '.';) label--;
    unique = true;
    size_t length = strlen(label);
    for (int i = 0; i < grid->paths; i++) {
      size_t other = strlen(grid->at[i]->string);
      if (i != path && other >= length && strcmp(grid->at[i]->string + other - length, label) == 0)
        unique = false;
    }
  }
  return label;
}

static Status check_list(const Source *source, const cJSON *list) {
  if (!cJSON_IsArray(list) || !list->child)
    return refuse_value(source, list, false, "\"%s\" of the grid needs a list of values; write [0.5, 1]",
                        list->string);
  for (const cJSON *item = list->child; item; item = item->next)
    for (const cJSON *before = list->child; before != item; before = before->next)
      if (cJSON_Compare(before, item, true))
        return refuse_value(source, item, false, "the grid lists this value of \"%s\" twice; remove one",
                            list->string);
  return OK;
}

static Status read_grid(const Layers *layers, const Setting *said, Grid *grid) {
  *grid = (Grid){.source = said->source, .cells = 1};
  for (const cJSON *list = said->value->child; list; list = list->next) {
    TRY(check_list(said->source, list));
    if (grid->paths == MAX_PATHS)
      return refuse_value(said->source, list, true, "the grid has more than %d paths; name arms instead",
                          MAX_PATHS);
    grid->at[grid->paths] = list;
    grid->size[grid->paths] = cJSON_GetArraySize(list);
    grid->cells *= grid->size[grid->paths++];
    if (grid->cells > MAX_CELLS)
      return refuse_value(said->source, list, true,
                          "the grid has more than %d cells with this path; remove some values", MAX_CELLS);
  }
  for (int i = 0; i < grid->paths; i++) grid->label[i] = arena_strdup(layers->arena, short_label(grid, i));
  if (grid->paths == 0) grid->cells = 0;
  return OK;
}

/* Numbers and words as they stand; an object or a list by its place among the values. */
static void add_value(Text *name, const cJSON *value, int place) {
  if (cJSON_IsNumber(value))
    text_print(name, "%.10g", value->valuedouble);
  else if (cJSON_IsString(value))
    for (const char *c = value->valuestring; *c; c++)
      text_print(name, "%c", isascii(*c) && (isalnum(*c) || strchr("._-", *c)) ? *c : '-');
  else if (cJSON_IsBool(value) || cJSON_IsNull(value))
    text_print(name, cJSON_IsNull(value) ? "null" : cJSON_IsTrue(value) ? "true" : "false");
  else
    text_print(name, "value%d", place + 1);
}

static Status make_cell(const Layers *layers, const Grid *grid, int cell, Arm *out) {
  Text name = {.arena = layers->arena};
  *out = (Arm){.source = grid->source, .changes = NEW(layers->arena, ArmChange, grid->paths)};
  int below = grid->cells;
  for (int i = 0; i < grid->paths; i++) {
    below /= grid->size[i];
    int place = cell / below % grid->size[i];
    const cJSON *value = cJSON_GetArrayItem(grid->at[i], place);
    text_print(&name, "%s%s=", i ? "," : "", grid->label[i]);
    add_value(&name, value, place);
    out->changes[out->count++] =
        (ArmChange){arena_strdup(layers->arena, grid->at[i]->string), value, grid->at[i]};
  }
  out->name = name.data;
  if (arm_name_ok(out->name)) return OK;
  return refuse_value(grid->source, grid->at[0], true,
                      "the grid's cell \"%.40s...\" has too long a name; name arms instead", out->name);
}

static Status different_names(const Grid *grid, const Arm *arms, int count) {
  for (int i = 0; i < count; i++)
    for (int k = 0; k < i; k++)
      if (strcmp(arms[i].name, arms[k].name) == 0)
        return refuse_value(grid->source, arms[i].count ? arms[i].changes[0].at : NULL, true,
                            "two arms would be called \"%s\"; name them under \"arms\" instead",
                            arms[i].name);
  return OK;
}

Status experiment_arms(const Layers *layers, Arm **out, int *count) {
  const Setting *arms = &layers->settings[experiment_key_find("ablate.arms")],
                *grid_said = &layers->settings[experiment_key_find("ablate.grid")];
  Grid grid = {0};
  *count = 0;
  if (grid_said->value && cJSON_IsObject(grid_said->value)) TRY(read_grid(layers, grid_said, &grid));
  int named = arms->value ? cJSON_GetArraySize(arms->value) : 0;
  *out = NEW(layers->arena, Arm, named + grid.cells);
  for (const cJSON *arm = named ? arms->value->child : NULL; arm; arm = arm->next)
    TRY(named_arm(layers, arms->source, arm, &(*out)[(*count)++]));
  for (int cell = 0; cell < grid.cells; cell++) TRY(make_cell(layers, &grid, cell, &(*out)[(*count)++]));
  return grid.cells ? different_names(&grid, *out, *count) : OK;
}

/* ---- baselines ---- */

/* The index of the arm of that name; -1 for none. */
static int arm_named(const Arm *arms, int count, const char *name) {
  for (int i = 0; i < count; i++)
    if (strcmp(arms[i].name, name) == 0) return i;
  return -1;
}

static Status no_arm(const Layers *layers, const Arm *arms, int count, const cJSON *at, bool at_key,
                     const char *name) {
  const char **names = NEW(layers->arena, const char *, count);
  for (int i = 0; i < count; i++) names[i] = arms[i].name;
  const char *near = nearest_name(name, names, count);
  return refuse_value(layers->settings[experiment_key_find("ablate.baselines")].source, at, at_key,
                      "\"%s\" is no arm; did you mean \"%s\"?", name, near ? near : names[0]);
}

Status experiment_baselines(const Layers *layers, const Arm *arms, ExperimentFile *out) {
  const Setting *said = &layers->settings[experiment_key_find("ablate.baselines")];
  const cJSON *rows = said->value ? said->value->child : NULL;
  int count = out->arm_count, common = arm_named(arms, count, out->baseline);
  out->base_of = NEW(layers->arena, int, count);
  for (int i = 0; i < count; i++) out->base_of[i] = common;
  for (const cJSON *row = rows; row; row = row->next) {
    int arm = arm_named(arms, count, row->string);
    if (arm < 0) return no_arm(layers, arms, count, row, true, row->string);
    if (!cJSON_IsString(row))
      return refuse_value(said->source, row, false,
                          "the baseline of \"%s\" is the name of an arm; write a text", row->string);
    out->base_of[arm] = arm_named(arms, count, row->valuestring);
    if (out->base_of[arm] < 0) return no_arm(layers, arms, count, row, false, row->valuestring);
  }
  for (const cJSON *row = rows; row; row = row->next) { /* a baseline is not compared itself */
    int base = arm_named(arms, count, row->valuestring);
    out->base_of[base] = base;
  }
  out->base_of[common] = common;
  return OK;
}

/* ---- the metric ---- */

/* The names under which an evaluation writes its numbers (stage_evaluate.c); those of best-of-k with their k.
 */
static int metric_names(const Layers *layers, const Experiment *e, const char **names) {
  static const char *const of_tops[] = {"rouge_1", "rouge_2",    "rouge_l",
                                        "bleu_4",  "distinct_1", "distinct_2"};
  static const char *const plain[] = {"reward", "reply_length", "ended", "win_rate", "oracle_popularity"};
  int count = 0, plain_count = (int)(sizeof plain / sizeof *plain) - !e->data.synth;
  for (int i = 0; i < plain_count; i++) names[count++] = plain[i];
  for (size_t i = 0; i < sizeof of_tops / sizeof *of_tops; i++)
    for (int k = 0; k < e->evaluate.top_count; k++)
      names[count++] = arena_print(layers->arena, "%s@%d", of_tops[i], e->evaluate.tops[k]);
  return count;
}

Status experiment_check_metric(const Layers *layers, const Experiment *experiment, const char *metric) {
  const char *names[6 * MAX_TOPS + 5];
  int count = metric_names(layers, experiment, names);
  for (int i = 0; i < count; i++)
    if (strcmp(names[i], metric) == 0) return OK;
  const char *near = nearest_name(metric, names, count);
  return refuse_setting(layers, "ablate.metric",
                        "\"ablate.metric\" is \"evaluate.%s\", which no evaluation here has; did you mean "
                        "\"evaluate.%s\"?",
                        metric, near ? near : "reward");
}

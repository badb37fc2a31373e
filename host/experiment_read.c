/* Layers to experiments: defaults, the C structure, the resolved JSON, and one experiment an arm and seed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "experiment_layers.h"

_Static_assert(offsetof(EvaluateSettings, top_count) ==
                   offsetof(EvaluateSettings, tops) + sizeof(int) * MAX_TOPS,
               "KEY_TOPS writes the count right behind the list");

/* ---- one experiment ---- */

/* The default of a key under the preset that holds for it. */
static const char *default_of(const Layers *layers, const ExperimentKey *key) {
  static const char *const preset_keys[] = {"ppo.curriculum.preset", "preset"};
  const char *preset = NULL;
  for (int i = strncmp(key->path, "ppo.curriculum.", 15) != 0; i < 2 && !preset; i++) {
    const cJSON *said = layers->settings[experiment_key_find(preset_keys[i])].value;
    if (cJSON_IsString(said)) preset = said->valuestring;
  }
  const char *value = preset ? experiment_preset_value(preset, key->path) : NULL;
  return value ? value : key->fallback;
}

/* A new tree, to be freed by the caller: what was said, else the default. */
static cJSON *value_of(const Layers *layers, int index) {
  const ExperimentKey *key = &experiment_keys[index];
  const Setting *setting = &layers->settings[index];
  if (!setting->value) return cJSON_Parse(default_of(layers, key));
  bool names_file = key->type == KEY_FILE || key->type == KEY_MODEL;
  if (!names_file || cJSON_IsNull(setting->value)) return cJSON_Duplicate(setting->value, true);
  const char *name = setting->value->valuestring;
  size_t length = strlen(name);
  bool preset = key->type == KEY_MODEL && !strchr(name, '/') &&
                !(length > 5 && strcmp(name + length - 5, ".json") == 0);
  return cJSON_CreateString(preset ? name : path_join(layers->arena, setting->source->folder, name));
}

static void store(Arena *arena, const ExperimentKey *key, const cJSON *value, Experiment *experiment) {
  void *at = (char *)experiment + key->offset;
  int index = 0;
  switch (key->type) {
    case KEY_BOOL:
      *(bool *)at = cJSON_IsTrue(value);
      break;
    case KEY_INT:
      *(int *)at = (int)value->valuedouble;
      break;
    case KEY_SEED:
      *(uint64_t *)at = (uint64_t)value->valuedouble;
      break;
    case KEY_NUMBER:
      *(double *)at = value->valuedouble;
      break;
    case KEY_TEXT:
    case KEY_FILE:
    case KEY_MODEL:
      *(const char **)at = cJSON_IsNull(value) ? NULL : arena_strdup(arena, value->valuestring);
      break;
    case KEY_ENUM:
      while (strcmp(key->names[index], value->valuestring) != 0) index++;
      memcpy(at, &index, sizeof index);
      break;
    case KEY_TOPS:
      for (const cJSON *item = value->child; item; item = item->next)
        ((int *)at)[index++] = (int)item->valuedouble;
      ((int *)at)[MAX_TOPS] = index;
      break;
    case KEY_SECTION:
      *(bool *)at = !cJSON_IsNull(value);
      break;
    case KEY_SEEDS:
    case KEY_ARMS:
    case KEY_GRID:
    case KEY_WORDS:
      break;
  }
}

/* Puts value at a dotted path of object, making the objects on the way. Takes ownership of value. */
static void put(cJSON *object, const char *path, cJSON *value) {
  char name[128];
  const char *dot = strchr(path, '.');
  if (!dot) {
    cJSON_AddItemToObject(object, path, value);
    return;
  }
  snprintf(name, sizeof name, "%.*s", (int)(dot - path), path);
  cJSON *child = cJSON_GetObjectItemCaseSensitive(object, name);
  if (!child) child = cJSON_AddObjectToObject(object, name);
  put(child, dot + 1, value);
}

/* The parts of the curriculum that can be off, and the key that says "none". One way of saying it gives one
 * key of the stage, so "none" becomes null. */
static const char *const switches[][2] = {{"ppo.curriculum.enhance", "ppo.curriculum.enhance.metric"},
                                          {"ppo.curriculum.rank", "ppo.curriculum.rank.scope"},
                                          {"ppo.curriculum.pace", "ppo.curriculum.pace.kind"}};

static void normalise_switches(Layers *layers) {
  static const cJSON off = {.type = cJSON_NULL};
  int parts_off = 0, parts = sizeof switches / sizeof *switches;
  for (int i = 0; i < parts; i++) {
    int section = experiment_key_find(switches[i][0]);
    const cJSON *kind = layers->settings[experiment_key_find(switches[i][1])].value;
    if (kind && strcmp(kind->valuestring, "none") == 0)
      layers->settings[section] = (Setting){layers->main, &off};
    parts_off += !layers_on(layers, section);
  }
  if (parts_off == parts)
    layers->settings[experiment_key_find("ppo.curriculum")] = (Setting){layers->main, &off};
}

static cJSON *resolve(const Layers *layers, Experiment *experiment) {
  cJSON *resolved = cJSON_CreateObject();
  for (int i = 0; i < experiment_key_count; i++) {
    const ExperimentKey *key = &experiment_keys[i];
    bool section = key->type == KEY_SECTION, on = layers_on(layers, i);
    bool of_experiment = key->place == PLACE_EXPERIMENT || key->offset != NO_OFFSET;
    if (!of_experiment || (!on && !section)) continue;
    cJSON *value = section ? on ? cJSON_CreateObject() : cJSON_CreateNull() : value_of(layers, i);
    if (key->offset != NO_OFFSET) store(layers->arena, key, value, experiment);
    char *dot = strrchr(key->path, '.');
    int around =
        dot ? experiment_key_find(arena_strndup(layers->arena, key->path, (size_t)(dot - key->path))) : -1;
    if (around < 0 || layers_on(layers, around))
      put(resolved, key->path, value);
    else
      cJSON_Delete(value);
  }
  return resolved;
}

/* A model that is started from brings its tokenizer along. */
static void take_tokenizer_of_model(Arena *arena, Experiment *experiment) {
  if (!experiment->model_from || experiment->tokenizer.path) return;
  experiment->tokenizer.path = path_join(arena, experiment->model_from, "tokenizer.json");
  cJSON *tokenizer = cJSON_GetObjectItemCaseSensitive(experiment->resolved, "tokenizer");
  cJSON_ReplaceItemInObjectCaseSensitive(tokenizer, "path", cJSON_CreateString(experiment->tokenizer.path));
}

/* Turns the layers into one experiment and checks how its values fit together. */
static Status finish(Layers *layers, Experiment *out) {
  normalise_switches(layers);
  *out = (Experiment){0};
  out->resolved = resolve(layers, out);
  take_tokenizer_of_model(layers->arena, out);
  return experiment_check(layers, out);
}

/* ---- arms and seeds ---- */

static const Setting *setting_of(const Layers *layers, const char *path) {
  return &layers->settings[experiment_key_find(path)];
}

static Status apply_arm(Layers *layers, const Arm *arm) {
  for (int i = 0; i < arm->count; i++) {
    const ArmChange *change = &arm->changes[i];
    int key = experiment_key_find(change->path);
    if (key >= 0 && experiment_keys[key].place == PLACE_FILE)
      return refuse_value(arm->source, change->at, true,
                          "\"%s\" cannot differ between arms; move it out of \"ablate\"", change->path);
    TRY(layers_apply(layers, arm->source, change->path, change->value));
  }
  return OK;
}

static Status check_ablate(const Layers *layers, const Arm *arms, int count, ExperimentFile *out) {
  const Setting *baseline = setting_of(layers, "ablate.baseline"),
                *metric = setting_of(layers, "ablate.metric");
  int i = 0;
  if (count == 0)
    return refuse_setting(layers, "ablate.arms",
                          "\"ablate\" needs arms; write \"arms\": {\"name\": {\"ppo.steps\": 100}}");
  const char **names = NEW(layers->arena, const char *, count);
  for (i = 0; i < count; i++) names[i] = arms[i].name;
  const char *chosen = baseline->value ? baseline->value->valuestring : names[0];
  for (i = 0; i < count && strcmp(names[i], chosen) != 0;) i++;
  const char *near = nearest_name(chosen, names, count);
  if (i == count)
    return refuse_setting(layers, "ablate.baseline",
                          "\"ablate.baseline\" is \"%s\", which is no arm; did you mean \"%s\"?", chosen,
                          near ? near : names[0]);
  const char *measured = metric->value ? metric->value->valuestring : "evaluate.reward";
  if (strncmp(measured, "evaluate.", 9) != 0 || !measured[9])
    return refuse_setting(
        layers, "ablate.metric",
        "\"ablate.metric\" is \"%s\"; write \"evaluate.\" and a metric, as in \"evaluate.rouge_l@3\"",
        measured);
  out->baseline = arena_strdup(layers->arena, chosen);
  out->metric = arena_strdup(layers->arena, measured + 9);
  out->arm_count = count;
  return experiment_baselines(layers, arms, out);
}

/* One run an arm and seed. Without "ablate", arm and seeds are NULL: one run. */
static Status add_runs(const Layers *layers, const Arm *arm, const Setting *seeds, ExperimentFile *out) {
  Layers of_arm = layers_copy(layers);
  if (arm) TRY(apply_arm(&of_arm, arm));
  const cJSON *seed = seeds && seeds->value ? seeds->value->child : NULL;
  for (int i = 0; i < out->seed_count; i++) {
    Layers of_run = layers_copy(&of_arm);
    if (seed) of_run.settings[experiment_key_find("seed")] = (Setting){seeds->source, seed};
    ExperimentRun *run = &out->runs[out->run_count++];
    run->arm = arm ? arm->name : "main";
    TRY(finish(&of_run, &run->experiment));
    if (arm) TRY(experiment_check_metric(layers, &run->experiment, out->metric));
    if (seed) seed = seed->next;
  }
  return OK;
}

/* Every run holds its experiment in memory. */
static Status check_run_count(const Layers *layers, const ExperimentFile *file) {
  enum { MOST_RUNS = 4096 };
  int64_t runs = (int64_t)file->arm_count * file->seed_count;
  if (runs <= MOST_RUNS) return OK;
  return refuse_setting(layers, "ablate.seeds",
                        "%d arms with %d seeds each are %lld runs, more than %d; split the experiment",
                        file->arm_count, file->seed_count, (long long)runs, MOST_RUNS);
}

static Status expand(const Layers *layers, const Arm *arms, int count, ExperimentFile *out) {
  bool ablate = layers_on(layers, experiment_key_find("ablate"));
  const Setting *seeds = setting_of(layers, "ablate.seeds");
  out->arm_count = 1;
  if (ablate) TRY(check_ablate(layers, arms, count, out));
  out->seed_count = ablate && seeds->value ? cJSON_GetArraySize(seeds->value) : 1;
  TRY(check_run_count(layers, out));
  out->runs = NEW(layers->arena, ExperimentRun, out->arm_count * out->seed_count);
  if (!ablate) return add_runs(layers, NULL, NULL, out);
  for (int i = 0; i < count; i++) TRY(add_runs(layers, &arms[i], seeds, out));
  return OK;
}

/* ---- the file ---- */

/* The file's name where "name" says nothing; becomes a setting like any other. */
static Status take_name(Layers *layers, ExperimentFile *out) {
  Setting *said = &layers->settings[experiment_key_find("name")];
  const char *slash = strrchr(out->path, '/'), *base = slash ? slash + 1 : out->path;
  size_t length = strlen(base);
  if (length > 5 && strcmp(base + length - 5, ".json") == 0) length -= 5;
  out->name = said->value ? arena_strdup(layers->arena, said->value->valuestring)
                          : arena_strndup(layers->arena, base, length);
  if (!experiment_name_ok(out->name))
    return refuse_setting(
        layers, "name", "\"%s\" cannot name an experiment; set \"name\" to letters, digits, '.', '_' and '-'",
        out->name);
  cJSON *value = NEW(layers->arena, cJSON, 1);
  *value = (cJSON){.type = cJSON_String, .valuestring = arena_strdup(layers->arena, out->name)};
  if (!said->value) *said = (Setting){layers->main, value};
  return OK;
}

/* The experiment as written with every default, and what "ablate" said, the grid's cells as arms. */
static cJSON *resolve_file(const Layers *layers, const Arm *arms, const ExperimentFile *file) {
  Layers copy = layers_copy(layers);
  Experiment ignored = {0};
  normalise_switches(&copy);
  cJSON *resolved = resolve(&copy, &ignored);
  if (!file->baseline) return resolved;
  cJSON *ablate = cJSON_AddObjectToObject(resolved, "ablate");
  cJSON *listed = cJSON_AddObjectToObject(ablate, "arms");
  for (int i = 0; i < file->arm_count; i++) {
    cJSON *arm = cJSON_AddObjectToObject(listed, arms[i].name);
    for (int c = 0; c < arms[i].count; c++)
      cJSON_AddItemToObject(arm, arms[i].changes[c].path, cJSON_Duplicate(arms[i].changes[c].value, true));
  }
  const cJSON *seeds = setting_of(layers, "ablate.seeds")->value;
  if (seeds) cJSON_AddItemToObject(ablate, "seeds", cJSON_Duplicate(seeds, true));
  cJSON_AddStringToObject(ablate, "baseline", file->baseline);
  const cJSON *baselines = setting_of(layers, "ablate.baselines")->value;
  if (baselines) cJSON_AddItemToObject(ablate, "baselines", cJSON_Duplicate(baselines, true));
  cJSON_AddItemToObject(ablate, "metric", value_of(layers, experiment_key_find("ablate.metric")));
  return resolved;
}

static Status read_layers(Layers *layers, const Override *overrides, int override_count,
                          ExperimentFile *out) {
  TRY(layers_apply_file(layers, out->path));
  for (int i = 0; i < override_count; i++) TRY(layers_apply_override(layers, &overrides[i]));
  TRY(take_name(layers, out));
  Arm *arms = NULL;
  int count = 0;
  if (layers_on(layers, experiment_key_find("ablate"))) TRY(experiment_arms(layers, &arms, &count));
  TRY(expand(layers, arms, count, out));
  out->resolved = resolve_file(layers, arms, out);
  return OK;
}

Status experiment_read(Arena *arena, const char *path, const Override *overrides, int override_count,
                       ExperimentFile *out) {
  Source *sources = NULL;
  Layers layers = {
      .arena = arena, .sources = &sources, .settings = NEW(arena, Setting, experiment_key_count)};
  *out = (ExperimentFile){.path = arena_strdup(arena, path)};
  Status status = read_layers(&layers, overrides, override_count, out);
  layers_free(&layers);
  if (status != OK) experiment_free(out);
  return status;
}

void experiment_free(ExperimentFile *file) {
  for (int i = 0; i < file->run_count; i++) cJSON_Delete(file->runs[i].experiment.resolved);
  cJSON_Delete(file->resolved);
  file->resolved = NULL;
  file->run_count = 0;
}

#include "report_data.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

enum { MAX_COLUMNS = 64, MAX_ROWS_READ = 20000 };

static const char *const stage_names[REPORT_STAGES] = {"sft", "reward", "ppo"};

double json_number(const cJSON *object, const char *key) {
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
  return cJSON_IsNumber(item) ? item->valuedouble : NAN;
}

const double *metric_column(const MetricTable *table, const char *name) {
  for (int i = 0; i < table->columns; i++)
    if (strcmp(table->names[i], name) == 0) return table->values[i];
  return NULL;
}

static const cJSON *own(Arena *arena, ReportData *data, Json document) {
  if (data->document_count == data->document_capacity) {
    data->document_capacity = data->document_capacity ? data->document_capacity * 2 : 64;
    Json *more = NEW(arena, Json, data->document_capacity);
    if (data->document_count) memcpy(more, data->documents, sizeof(Json) * (size_t)data->document_count);
    data->documents = more;
  }
  data->documents[data->document_count++] = document;
  return document.root;
}

/* *out is NULL when there is no such file. */
static Status read_json(Arena *arena, ReportData *data, const char *path, const cJSON **out) {
  *out = NULL;
  if (!file_exists(path)) return OK;
  Json document;
  TRY(json_read(arena, path, &document));
  *out = own(arena, data, document);
  return OK;
}

static int column_of(Arena *arena, MetricTable *table, const char *name, int rows) {
  for (int i = 0; i < table->columns; i++)
    if (strcmp(table->names[i], name) == 0) return i;
  if (table->columns == MAX_COLUMNS) return -1;
  double *values = NEW(arena, double, rows);
  for (int i = 0; i < rows; i++) values[i] = NAN;
  table->names[table->columns] = arena_strdup(arena, name);
  table->values[table->columns] = values;
  return table->columns++;
}

static void read_metric_row(Arena *arena, MetricTable *table, const cJSON *row, int rows) {
  double step = json_number(row, "step");
  if (isnan(step)) return;
  int at = table->rows++;
  table->steps[at] = step;
  const cJSON *item;
  cJSON_ArrayForEach(item, row) {
    if (!cJSON_IsNumber(item) || strcmp(item->string, "step") == 0) continue;
    int column = column_of(arena, table, item->string, rows);
    if (column >= 0) table->values[column][at] = item->valuedouble;
  }
}

static Status read_metrics(Arena *arena, const char *path, MetricTable *table) {
  *table = (MetricTable){0};
  if (!file_exists(path)) return OK;
  FileMap map;
  TRY(file_map(path, &map));
  int rows = 1;
  for (size_t i = 0; i < map.length; i++) rows += map.data[i] == '\n';
  table->steps = NEW(arena, double, rows);
  table->names = NEW(arena, const char *, MAX_COLUMNS);
  table->values = NEW(arena, double *, MAX_COLUMNS);
  for (size_t at = 0; at < map.length;) {
    const char *end = memchr(map.data + at, '\n', map.length - at);
    if (!end) break; /* a row in the making */
    cJSON *row = cJSON_ParseWithLength(map.data + at, (size_t)(end - map.data) - at);
    if (row) read_metric_row(arena, table, row, rows);
    cJSON_Delete(row);
    at = (size_t)(end - map.data) + 1;
  }
  file_unmap(&map);
  return OK;
}

Status report_rows(Arena *arena, ReportData *data, const ReportRun *run, const char *stage, const char *file,
                   const cJSON **out) {
  cJSON *rows = cJSON_CreateArray();
  *out = own(arena, data, (Json){.root = rows});
  const char *path = path_join(arena, path_join(arena, run->folder, stage), file);
  if (!file_exists(path)) return OK;
  FileMap map;
  TRY(file_map(path, &map));
  int count = 0;
  for (size_t at = 0; at < map.length && count < MAX_ROWS_READ;) {
    const char *end = memchr(map.data + at, '\n', map.length - at);
    if (!end) break;
    cJSON *row = cJSON_ParseWithLength(map.data + at, (size_t)(end - map.data) - at);
    if (cJSON_IsObject(row)) {
      cJSON_AddItemToArray(rows, row);
      count++;
    } else {
      cJSON_Delete(row);
    }
    at = (size_t)(end - map.data) + 1;
  }
  file_unmap(&map);
  return OK;
}

/* The object of an array of {"arm", "seed", ...} that is about this run, or NULL. */
static const cJSON *entry_of(const cJSON *array, const ReportRun *run) {
  const cJSON *entry;
  cJSON_ArrayForEach(entry, array) {
    const cJSON *arm = cJSON_GetObjectItemCaseSensitive(entry, "arm");
    if (cJSON_IsString(arm) && strcmp(arm->valuestring, run->arm) == 0 &&
        json_number(entry, "seed") == (double)run->seed)
      return entry;
  }
  return NULL;
}

static Status read_run(Arena *arena, ReportData *data, ReportRun *run) {
  for (int i = 0; i < REPORT_STAGES; i++) {
    const char *folder = path_join(arena, run->folder, stage_names[i]);
    char *resolved = realpath(folder, NULL);
    if (!resolved) continue;
    run->stage_path[i] = arena_strdup(arena, resolved);
    free(resolved);
    TRY(read_metrics(arena, path_join(arena, folder, "metrics.jsonl"), &run->metrics[i]));
  }
  TRY(read_json(arena, data, path_join(arena, run->folder, "evaluate-sft/evaluate.json"),
                &run->evaluate_sft));
  TRY(read_json(arena, data, path_join(arena, run->folder, "evaluate-ppo/evaluate.json"),
                &run->evaluate_ppo));
  TRY(read_json(arena, data, path_join(arena, run->folder, "reward/reward.json"), &run->reward));
  const cJSON *result = entry_of(cJSON_GetObjectItemCaseSensitive(data->results, "runs"), run);
  const cJSON *evaluate = cJSON_GetObjectItemCaseSensitive(result, "evaluate");
  if (!run->evaluate_sft) run->evaluate_sft = cJSON_GetObjectItemCaseSensitive(evaluate, "sft");
  if (!run->evaluate_ppo) run->evaluate_ppo = cJSON_GetObjectItemCaseSensitive(evaluate, "ppo");
  run->stopped = cJSON_GetObjectItemCaseSensitive(result, "stopped");
  if (run->stopped) run->evaluate_ppo = NULL; /* what was there before the gate does not count */
  if (!run->reward) run->reward = cJSON_GetObjectItemCaseSensitive(result, "reward");
  const cJSON *timed = entry_of(cJSON_GetObjectItemCaseSensitive(data->timing, "runs"), run);
  run->seconds = cJSON_GetObjectItemCaseSensitive(timed ? timed : result, "seconds");
  return OK;
}

/* Where the experiment lists the arm; arms that it does not list come last. */
static int listed_at(const ReportData *data, const char *arm) {
  const cJSON *ablate = cJSON_GetObjectItemCaseSensitive(data->experiment, "ablate");
  const cJSON *item;
  int at = 0;
  cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(ablate, "arms")) {
    if (item->string && strcmp(item->string, arm) == 0) break;
    at++;
  }
  return at;
}

static int by_seed(const void *a, const void *b) {
  const ReportRun *x = a, *y = b;
  return (x->seed > y->seed) - (x->seed < y->seed);
}

static Status read_arm(Arena *arena, ReportData *data, const char *arms_folder, int index) {
  const char *folder = path_join(arena, arms_folder, data->arms[index]), **names;
  int count = folder_names(arena, folder, &names), first = data->run_count;
  ReportRun *runs = NEW(arena, ReportRun, data->run_count + count);
  if (data->run_count) memcpy(runs, data->runs, sizeof(ReportRun) * (size_t)data->run_count);
  data->runs = runs;
  for (int i = 0; i < count; i++) {
    if (strncmp(names[i], "seed-", 5) != 0) continue;
    ReportRun *run = &runs[data->run_count++];
    *run = (ReportRun){.arm = data->arms[index],
                       .folder = path_join(arena, folder, names[i]),
                       .seed = strtoll(names[i] + 5, NULL, 10),
                       .arm_index = index};
    TRY(read_run(arena, data, run));
  }
  qsort(runs + first, (size_t)(data->run_count - first), sizeof *runs, by_seed);
  return OK;
}

static Status read_all(Arena *arena, ReportData *data) {
  const char *experiment = path_join(arena, data->folder, "experiment.json");
  if (!file_exists(experiment))
    return fail(INVALID, "%s: there is none; give the folder of a run, for example runs/quickstart",
                experiment);
  TRY(read_json(arena, data, experiment, &data->experiment));
  TRY(read_json(arena, data, path_join(arena, data->folder, "results.json"), &data->results));
  TRY(read_json(arena, data, path_join(arena, data->folder, "timing.json"), &data->timing));
  const cJSON *name = cJSON_GetObjectItemCaseSensitive(data->experiment, "name");
  data->name = cJSON_IsString(name) ? name->valuestring : "experiment";

  const char *arms_folder = path_join(arena, data->folder, "arms");
  data->arm_count = folder_names(arena, arms_folder, &data->arms);
  for (int i = 1; i < data->arm_count; i++) /* a stable sort of a few */
    for (int k = i; k > 0 && listed_at(data, data->arms[k - 1]) > listed_at(data, data->arms[k]); k--) {
      const char *swapped = data->arms[k];
      data->arms[k] = data->arms[k - 1];
      data->arms[k - 1] = swapped;
    }
  for (int i = 0; i < data->arm_count; i++) TRY(read_arm(arena, data, arms_folder, i));
  return OK;
}

Status report_data_read(Arena *arena, const char *folder, ReportData *out) {
  *out = (ReportData){.folder = arena_strdup(arena, folder)};
  Status status = read_all(arena, out);
  if (status != OK) report_data_free(out);
  return status;
}

void report_data_free(ReportData *data) {
  for (int i = 0; i < data->document_count; i++) json_free(&data->documents[i]);
  data->document_count = 0;
}

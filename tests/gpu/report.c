/* gpu_report compare REFERENCE.json OTHER.json      status 1 where two results.json are too far apart
 * gpu_report write NOTES BENCH.json OUT             OUT.md and OUT.json of a run of check.sh
 *
 * NOTES is what check.sh wrote down, tab-separated: "fact NAME VALUE" and "step NAME VERDICT SECONDS DETAIL".
 */
#include "report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

enum { FIELDS = 5 };

typedef struct Note {
  const char *field[FIELDS]; /* "" where there is none */
} Note;

typedef struct Notes {
  Note *note;
  int count;
} Notes;

static Status read_notes(Arena *arena, const char *path, Notes *out) {
  FileMap map;
  TRY(file_map(path, &map));
  char *text = arena_strndup(arena, map.data, map.length), *line;
  file_unmap(&map);
  int lines = 0;
  for (const char *c = text; *c; c++) lines += *c == '\n';
  *out = (Notes){.note = NEW(arena, Note, lines + 1)};
  while ((line = strsep(&text, "\n"))) {
    if (!*line) continue;
    Note *note = &out->note[out->count++];
    for (int i = 0; i < FIELDS; i++) {
      const char *field = strsep(&line, "\t");
      note->field[i] = field ? field : "";
    }
  }
  return OK;
}

static bool is(const Note *note, const char *kind) { return strcmp(note->field[0], kind) == 0; }

static double number(const cJSON *row, const char *key) {
  return cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(row, key));
}

static const char *string(const cJSON *row, const char *key) {
  const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, key));
  return text ? text : "";
}

/* ---- Markdown ---- */

static void print_row(Text *text, const cJSON *row) {
  text_print(text, "| %s | %s | %s | %s |", string(row, "kernel"), string(row, "set"), string(row, "shape"),
             string(row, "size"));
  if (*string(row, "skipped")) {
    text_print(text, " not measured: %s | | | | |\n", string(row, "skipped"));
    return;
  }
  double median = number(row, "median_s");
  bool matrix = strcmp(string(row, "bound"), "operations") == 0;
  text_print(text, " %.2f | %.1f | %.2f %s | %.1f |", median * 1e6,
             50 * (number(row, "quartile_high_s") - number(row, "quartile_low_s")) / median,
             number(row, "per_second") / 1e12, matrix ? "TFLOP/s" : "TB/s", number(row, "percent"));
  const cJSON *baseline;
  cJSON_ArrayForEach(baseline, cJSON_GetObjectItemCaseSensitive(row, "baselines")) {
    if (cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(baseline, "failed")))
      text_print(text, " failed %s", string(baseline, "name"));
    else
      text_print(text, " x%.2f %s", number(baseline, "ratio"), string(baseline, "name"));
  }
  text_print(text, " |\n");
}

static void print_bench(Text *text, const cJSON *bench) {
  const cJSON *ceilings = cJSON_GetObjectItemCaseSensitive(bench, "ceilings"), *row;
  text_print(text,
             "\n## Kernels\n\nCeilings of the same run: copy %.3f TB/s (read and written), matrix product "
             "%.1f TFLOP/s.\n",
             number(ceilings, "copy_bytes_per_second") / 1e12,
             number(ceilings, "matrix_operations_per_second") / 1e12);
  text_print(text,
             "\n| kernel | set | shape | size | median us | +- %% | rate | %% of the limit | baselines |\n");
  text_print(text, "|---|---|---|---|---|---|---|---|---|\n");
  cJSON_ArrayForEach(row, cJSON_GetObjectItemCaseSensitive(bench, "rows")) print_row(text, row);
}

static void print_notes(Text *text, const Notes *notes) {
  text_print(text, "# A check on a GPU\n\n| | |\n|---|---|\n");
  for (int i = 0; i < notes->count; i++)
    if (is(&notes->note[i], "fact"))
      text_print(text, "| %s | %s |\n", notes->note[i].field[1], notes->note[i].field[2]);
  text_print(text, "\n## Steps\n\n| step | verdict | seconds | |\n|---|---|---|---|\n");
  for (int i = 0; i < notes->count; i++) {
    const Note *note = &notes->note[i];
    if (is(note, "step"))
      text_print(text, "| %s | %s | %s | %s |\n", note->field[1], note->field[2], note->field[3],
                 note->field[4]);
  }
}

/* ---- JSON ---- */

static cJSON *notes_json(const Notes *notes) {
  cJSON *root = cJSON_CreateObject(), *steps = cJSON_CreateArray();
  for (int i = 0; i < notes->count; i++) {
    const Note *note = &notes->note[i];
    if (is(note, "fact")) cJSON_AddStringToObject(root, note->field[1], note->field[2]);
    if (!is(note, "step")) continue;
    cJSON *step = cJSON_CreateObject();
    cJSON_AddStringToObject(step, "step", note->field[1]);
    cJSON_AddStringToObject(step, "verdict", note->field[2]);
    cJSON_AddNumberToObject(step, "seconds", atof(note->field[3]));
    cJSON_AddStringToObject(step, "detail", note->field[4]);
    cJSON_AddItemToArray(steps, step);
  }
  cJSON_AddItemToObject(root, "steps", steps);
  return root;
}

/* Without a file of numbers, the report has none. */
static Status write_report(Arena *arena, const char *notes_path, const char *bench_path, const char *out) {
  Notes notes;
  Json bench = {0};
  TRY(read_notes(arena, notes_path, &notes));
  if (file_exists(bench_path)) TRY(json_read(arena, bench_path, &bench));
  Text text = {.arena = arena};
  cJSON *root = notes_json(&notes);
  print_notes(&text, &notes);
  if (bench.root) {
    print_bench(&text, bench.root);
    cJSON_AddItemToObject(root, "bench", cJSON_Duplicate(bench.root, true));
    json_free(&bench);
  }
  Status status = json_write(arena_print(arena, "%s.json", out), root);
  if (status == OK) status = file_write(arena_print(arena, "%s.md", out), text.data, text.length);
  cJSON_Delete(root);
  return status;
}

int main(int argc, char **argv) {
  Arena arena = {0};
  bool same = true;
  Status status = INVALID;
  if (argc == 4 && strcmp(argv[1], "compare") == 0)
    status = report_compare(&arena, argv[2], argv[3], &same);
  else if (argc == 5 && strcmp(argv[1], "write") == 0)
    status = write_report(&arena, argv[2], argv[3], argv[4]);
  else
    fprintf(stderr, "usage: gpu_report compare REFERENCE.json OTHER.json | write NOTES BENCH.json OUT\n");
  if (status != OK && *error_message()) fprintf(stderr, "%s\n", error_message());
  arena_free(&arena);
  return status != OK ? (int)status : same ? 0 : 1;
}

/* An experiment file, a file that it may extend (base.json), and overrides, path=value: parts of the input
 * between lines "----". Reading ends in a message or in an experiment whose resolved form, read as a file,
 * resolves to itself. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "experiment.h"
#include "fuzz.h"

enum { MOST_OVERRIDES = 8, MOST_RUNS = 200 };

static char folder[] = "/tmp/fuzz_experiment.XXXXXX";

static const char *in_folder(Arena *arena, const char *name) { return path_join(arena, folder, name); }

static void remove_folder(void) {
  Arena arena = {0};
  static const char *const names[] = {"e.json", "base.json", "again.json"};
  for (int i = 0; i < 3; i++) unlink(in_folder(&arena, names[i]));
  rmdir(folder);
  arena_free(&arena);
}

static void make_folder(void) {
  static bool made;
  if (made) return;
  if (!mkdtemp(folder)) abort();
  atexit(remove_folder);
  made = true;
}

static void put_file(const char *path, const char *bytes, size_t length) {
  FILE *file = fopen(path, "wb");
  if (!file || fwrite(bytes, 1, length, file) != length || fclose(file) != 0) abort();
}

/* The next part of the input; NULL behind the last. */
static const char *next_part(const char **at, const char *end, size_t *length) {
  static const char line[] = "\n----\n";
  const char *part = *at;
  if (!part) return NULL;
  const char *stop = memmem(part, (size_t)(end - part), line, sizeof line - 1);
  *length = (size_t)((stop ? stop : end) - part);
  *at = stop ? stop + sizeof line - 1 : NULL;
  return part;
}

static int read_overrides(Arena *arena, const char **at, const char *end, Override *out) {
  int count = 0;
  size_t length;
  for (const char *part; count < MOST_OVERRIDES && (part = next_part(at, end, &length));) {
    char *path = arena_strndup(arena, part, length), *equals = strchr(path, '=');
    if (!equals || equals == path) continue; /* the command line refuses it */
    *equals = 0;
    out[count++] = (Override){path, equals + 1};
  }
  return count;
}

/* What was resolved, written to a file and read, is the same again. */
static void read_again(Arena *arena, const cJSON *resolved) {
  ExperimentFile again;
  char *text = cJSON_Print(resolved);
  put_file(in_folder(arena, "again.json"), text, strlen(text));
  bool same = experiment_read(arena, in_folder(arena, "again.json"), NULL, 0, &again) == OK &&
              cJSON_Compare(resolved, again.resolved, true);
  if (!same) {
    fprintf(stderr, "%s\nresolves to something else (%s)\n", text, error_message());
    abort();
  }
  cJSON_free(text);
  experiment_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const char *at = (const char *)data, *end = at + size;
  Arena arena = {0};
  Override overrides[MOST_OVERRIDES];
  ExperimentFile file;
  make_folder();
  size_t length = 0;
  const char *part = next_part(&at, end, &length), *path = in_folder(&arena, "e.json");
  put_file(path, part, length);
  part = next_part(&at, end, &length);
  put_file(in_folder(&arena, "base.json"), part ? part : "{}", part ? length : 2);
  int count = read_overrides(&arena, &at, end, overrides);
  if (experiment_read(&arena, path, overrides, count, &file) == OK) {
    if (file.run_count <= MOST_RUNS) read_again(&arena, file.resolved);
    for (int run = 0; run < file.run_count && run < 3; run++)
      read_again(&arena, file.runs[run].experiment.resolved);
    experiment_free(&file);
  } else if (!error_message()[0] || strchr(error_message(), '\n')) {
    abort(); /* a message is one line */
  }
  arena_free(&arena);
  return 0;
}

/* popalm runs and popalm clean: what lies under the output folder, and how to be rid of what no run uses. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/text.h"
#include "commands.h"
#include "options.h"
#include "plan_folders.h"

enum { SHOWN_USERS = 3 };

static const char *print_size(Arena *arena, double bytes) {
  static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  int unit = 0;
  for (; bytes >= 1024 && unit < 4; unit++) bytes /= 1024;
  return arena_print(arena, unit ? "%.1f %s" : "%.0f %s", bytes, units[unit]);
}

static const char *print_age(Arena *arena, int64_t changed) {
  static const struct {
    double seconds;
    const char *unit;
  } units[] = {{86400, "d"}, {3600, "h"}, {60, "min"}, {1, "s"}};
  double age = (double)time(NULL) - (double)changed;
  int unit = 0;
  while (unit < 3 && age < 2 * units[unit].seconds) unit++;
  return arena_print(arena, "%.0f %s", age > 0 ? age / units[unit].seconds : 0, units[unit].unit);
}

static const char *print_users(Arena *arena, const OutFolder *out, const StageFolder *stage) {
  Text text = {.arena = arena};
  int shown = 0;
  for (int run = 0; run < out->run_count && shown < SHOWN_USERS; run++)
    if (stage->used_by[run]) text_print(&text, "%s%s", shown++ ? ", " : "", out->runs[run].name);
  if (stage->users > shown) text_print(&text, " and %d more", stage->users - shown);
  return stage->users ? text.data : "no run";
}

static const char *state_of(const StageFolder *stage) {
  return stage->running ? "running" : stage->finished ? "finished" : "unfinished";
}

static void print_stage(Arena *arena, const OutFolder *out, const StageFolder *stage) {
  printf("%-28s  %-10s  %10s  %7s  %s\n", stage->name, state_of(stage), print_size(arena, stage->size.bytes),
         print_age(arena, stage->size.changed), print_users(arena, out, stage));
}

static bool unreferenced(const StageFolder *stage) { return stage->users == 0 && !stage->running; }

static void print_runs(Arena *arena, const OutFolder *out) {
  printf("%-28s  %-10s  %10s  %7s  %s\n", "run", "state", "size", "age", "arms, seeds");
  for (int i = 0; i < out->run_count; i++) {
    const RunFolder *run = &out->runs[i];
    printf("%-28s  %-10s  %10s  %7s  %d, %d\n", run->name, run->finished ? "finished" : "unfinished",
           print_size(arena, run->size.bytes), print_age(arena, run->size.changed), run->arms, run->seeds);
  }
}

static void print_out(Arena *arena, const OutFolder *out) {
  double all = 0, unused = 0;
  int unused_count = 0;
  print_runs(arena, out);
  printf("\n%-28s  %-10s  %10s  %7s  %s\n", "stage", "state", "size", "age", "used by");
  for (int i = 0; i < out->stage_count; i++) {
    const StageFolder *stage = &out->stages[i];
    print_stage(arena, out, stage);
    all += stage->size.bytes;
    if (!unreferenced(stage)) continue;
    unused += stage->size.bytes;
    unused_count++;
  }
  printf("\nruns: %d, stages: %d, %s", out->run_count, out->stage_count, print_size(arena, all));
  if (unused_count)
    printf("; used by no run: %d stages, %s; popalm clean removes them", unused_count,
           print_size(arena, unused));
  printf("\n");
}

static const Option options[] = {{"--out", "DIR", "where results and stages are kept; default: runs"},
                                 {"--yes", NULL, "remove without asking"}};

Status command_runs(Arena *arena, int argc, char **argv) {
  static const CommandLine line = {
      "popalm runs [options]",
      "Lists runs and stages: size, age (since the last change), and which runs use a stage.",
      options,
      1,
      0,
      0};
  Arguments arguments;
  OutFolder out;
  TRY(command_line_parse(arena, &line, argc, argv, &arguments));
  if (arguments.help) return OK;
  TRY(out_folder_read(arena, option_text(&arguments, "--out", "runs"), &out));
  print_out(arena, &out);
  return OK;
}

/* ---- clean ---- */

static int list_unreferenced(Arena *arena, const OutFolder *out, double *bytes) {
  int count = 0;
  *bytes = 0;
  for (int i = 0; i < out->stage_count; i++) {
    if (!unreferenced(&out->stages[i])) continue;
    print_stage(arena, out, &out->stages[i]);
    *bytes += out->stages[i].size.bytes;
    count++;
  }
  return count;
}

static bool confirmed(int count, const char *size) {
  char answer[16];
  printf("Remove these %d stages and free %s? [y/N] ", count, size);
  fflush(stdout);
  bool yes = fgets(answer, sizeof answer, stdin) && (answer[0] == 'y' || answer[0] == 'Y');
  if (!yes) printf("\nnothing was removed\n");
  return yes;
}

static bool was_listed(const OutFolder *before, const StageFolder *stage) {
  for (int i = 0; i < before->stage_count; i++)
    if (strcmp(before->stages[i].name, stage->name) == 0) return unreferenced(&before->stages[i]);
  return false;
}

/* Reads the folder again: a run may have begun to use a stage while the question stood. */
static Status remove_unreferenced(Arena *arena, const OutFolder *before) {
  OutFolder now;
  double bytes = 0;
  int count = 0;
  TRY(out_folder_read(arena, before->path, &now));
  for (int i = 0; i < now.stage_count; i++) {
    bool removed = false;
    const StageFolder *stage = &now.stages[i];
    if (!unreferenced(stage) || !was_listed(before, stage)) continue;
    TRY(stage_folder_remove(stage, &removed));
    if (!removed) printf("%s: kept, since a process has begun to compute it\n", stage->name);
    if (!removed) continue;
    bytes += stage->size.bytes;
    count++;
  }
  printf("removed %d stages, %s\n", count, print_size(arena, bytes));
  return OK;
}

Status command_clean(Arena *arena, int argc, char **argv) {
  static const CommandLine line = {
      "popalm clean [options]",
      "Removes the stages that no run uses, after asking. To be rid of a run, remove its folder first.\n"
      "A stage that a process computes is never removed.",
      options,
      2,
      0,
      0};
  Arguments arguments;
  OutFolder out;
  double bytes;
  TRY(command_line_parse(arena, &line, argc, argv, &arguments));
  if (arguments.help) return OK;
  TRY(out_folder_read(arena, option_text(&arguments, "--out", "runs"), &out));
  int count = list_unreferenced(arena, &out, &bytes);
  if (count == 0) {
    printf("every stage is used by a run; there is nothing to remove\n");
    return OK;
  }
  if (!option_given(&arguments, "--yes") && !confirmed(count, print_size(arena, bytes))) return OK;
  return remove_unreferenced(arena, &out);
}

/* The commands. Each is one file command_<name>.c and one row of the table in main.c. argv[0] is the
 * command's own name, so that a command reads its arguments as a main function does. */
#ifndef POPALM_COMMANDS_H
#define POPALM_COMMANDS_H

#include "base/arena.h"
#include "base/status.h"

Status command_data(Arena *arena, int argc, char **argv) CHECKED;
Status command_devices(Arena *arena, int argc, char **argv) CHECKED;
Status command_run(Arena *arena, int argc, char **argv) CHECKED;
Status command_check(Arena *arena, int argc, char **argv) CHECKED;
Status command_schema(Arena *arena, int argc, char **argv) CHECKED;
Status command_generate(Arena *arena, int argc, char **argv) CHECKED;
Status command_score(Arena *arena, int argc, char **argv) CHECKED;
Status command_runs(Arena *arena, int argc, char **argv) CHECKED;
Status command_clean(Arena *arena, int argc, char **argv) CHECKED;
Status command_import(Arena *arena, int argc, char **argv) CHECKED;
Status command_export(Arena *arena, int argc, char **argv) CHECKED;
Status command_report(Arena *arena, int argc, char **argv) CHECKED;
Status command_bench(Arena *arena, int argc, char **argv) CHECKED;
Status command_version(Arena *arena, int argc, char **argv) CHECKED;

#endif

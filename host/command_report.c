/* popalm report: rebuilds report.html from a run directory. */
#include <stdio.h>

#include "base/text.h"
#include "commands.h"
#include "options.h"
#include "report.h"

static const CommandLine line = {
    .usage = "popalm report DIR",
    .summary =
        "Rebuilds DIR/report.html from the files of a run, finished or not, for example\n"
        "popalm report runs/quickstart",
    .min_positional = 1,
    .max_positional = 1};

Status command_report(Arena *arena, int argc, char **argv) {
  Arguments arguments;
  TRY(command_line_parse(arena, &line, argc, argv, &arguments));
  if (arguments.help) return OK;
  TRY(report_write(arena, arguments.positional[0]));
  printf("%s\n", path_join(arena, arguments.positional[0], "report.html"));
  return OK;
}

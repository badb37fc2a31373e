/* popalm version, popalm --version */
#include <stdio.h>

#include "commands.h"
#include "options.h"
#include "version.h"

Status command_version(Arena *arena, int argc, char **argv) {
  static const CommandLine line = {.usage = "popalm version",
                                   .summary = "Prints the version, the git commit and how it was built."};
  Arguments arguments;
  TRY(command_line_parse(arena, &line, argc, argv, &arguments));
  if (arguments.help) return OK;
  printf("popalm %s (commit %s; %s)\n", popalm_version, popalm_commit, popalm_build);
  return OK;
}

/* popalm schema: what an experiment file may say, for editors or for people. */
#include <stdio.h>

#include "commands.h"
#include "experiment.h"
#include "options.h"

Status command_schema(Arena *arena, int argc, char **argv) {
  static const Option options[] = {{"--reference", NULL, "print the reference page (Markdown) instead"}};
  static const CommandLine line = {
      "popalm schema [--reference]",
      "Prints the JSON schema of experiment files, which editors complete keys from.",
      options,
      1,
      0,
      0};
  Arguments arguments;
  TRY(command_line_parse(arena, &line, argc, argv, &arguments));
  if (arguments.help) return OK;
  if (option_given(&arguments, "--reference")) {
    Text page = {.arena = arena};
    experiment_reference(&page);
    fputs(page.data, stdout);
    return OK;
  }
  cJSON *schema = experiment_schema();
  char *text = cJSON_Print(schema);
  puts(text);
  cJSON_free(text);
  cJSON_Delete(schema);
  return OK;
}

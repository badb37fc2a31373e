/* The command line of one command: a table of options, from which --help is printed too.
 *
 *   static const Option options[] = {{"--device", "auto|cpu|cuda[:n]", "where to compute"}, ...};
 *   static const CommandLine line = {"popalm run EXPERIMENT [options]", "Runs an experiment.", options, 4, 1,
 * 1}; Arguments arguments; TRY(command_line_parse(arena, &line, argc, argv, &arguments)); if (arguments.help)
 * return OK;
 */
#ifndef POPALM_OPTIONS_H
#define POPALM_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/status.h"

typedef struct Option {
  const char *name;  /* "--set", "-n" */
  const char *value; /* what --help calls its value: "path=value"; NULL: a flag */
  const char *help;
} Option;

typedef struct CommandLine {
  const char *usage, *summary; /* summary: sentences, lines broken as they shall be printed */
  const Option *options;
  int option_count;
  int min_positional, max_positional; /* arguments that are no options; max -1: any number */
} CommandLine;

typedef struct GivenOption {
  const Option *option;
  const char *value; /* NULL for a flag */
} GivenOption;

typedef struct Arguments {
  const CommandLine *line;
  const char **positional; /* [positional_count] */
  int positional_count;
  GivenOption *given; /* [given_count], in order */
  int given_count;
  bool help; /* --help was asked for and has been printed to stdout */
} Arguments;

/* argv[0] is the command's name. "--name value" and "--name=value" are the same; "--" ends the options. "-"
 * is an ordinary argument. Errors are INVALID and name the nearest option. */
Status command_line_parse(Arena *arena, const CommandLine *line, int argc, char **argv,
                          Arguments *out) CHECKED;

bool option_given(const Arguments *arguments, const char *name);
/* The last value given, or otherwise. */
const char *option_text(const Arguments *arguments, const char *name, const char *otherwise);
/* The same as a whole number between least and most. */
Status option_int(const Arguments *arguments, const char *name, int64_t least, int64_t most,
                  int64_t otherwise, int64_t *out) CHECKED;
/* The same as a number. */
Status option_number(const Arguments *arguments, const char *name, double least, double most,
                     double otherwise, double *out) CHECKED;

#endif

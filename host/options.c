#include "options.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

enum { HELP_COLUMN = 30 };

static const Option help_option = {"--help", NULL, "print this and leave"};

static void print_option(const Option *option) {
  char left[128];
  snprintf(left, sizeof left, "  %s%s%s", option->name, option->value ? " " : "",
           option->value ? option->value : "");
  if (strlen(left) + 2 > HELP_COLUMN)
    printf("%s\n%*s%s\n", left, HELP_COLUMN, "", option->help);
  else
    printf("%-*s%s\n", HELP_COLUMN, left, option->help);
}

static void print_help(const CommandLine *line) {
  printf("usage: %s\n\n%s\n\noptions:\n", line->usage, line->summary);
  for (int i = 0; i < line->option_count; i++) print_option(&line->options[i]);
  print_option(&help_option);
}

static Status unknown_option(Arena *arena, const CommandLine *line, const char *command, const char *name) {
  const char **names = NEW(arena, const char *, line->option_count + 1);
  for (int i = 0; i < line->option_count; i++) names[i] = line->options[i].name;
  names[line->option_count] = help_option.name;
  const char *near = nearest_name(name, names, line->option_count + 1);
  if (near) return fail(INVALID, "popalm %s: unknown option %s; did you mean %s?", command, name, near);
  return fail(INVALID, "popalm %s: unknown option %s; see popalm %s --help", command, name, command);
}

/* The option called like the first `length` bytes of name. */
static const Option *find_option(const CommandLine *line, const char *name, size_t length) {
  for (int i = 0; i < line->option_count; i++)
    if (strlen(line->options[i].name) == length && memcmp(line->options[i].name, name, length) == 0)
      return &line->options[i];
  return NULL;
}

/* Takes the option at argv[*at], and its value from behind '=' or from the next argument. */
static Status take_option(Arena *arena, int argc, char **argv, int *at, Arguments *out) {
  const char *text = argv[*at], *equals = strchr(text, '=');
  size_t length = equals ? (size_t)(equals - text) : strlen(text);
  const Option *option = find_option(out->line, text, length);
  if (!option) return unknown_option(arena, out->line, argv[0], arena_strndup(arena, text, length));
  if (!option->value && equals)
    return fail(INVALID, "popalm %s: %s takes no value; leave out \"%s\"", argv[0], option->name, equals);
  const char *value = equals ? equals + 1 : NULL;
  if (option->value && !equals) {
    if (*at + 1 >= argc)
      return fail(INVALID, "popalm %s: %s needs a value; write %s %s", argv[0], option->name, option->name,
                  option->value);
    value = argv[++*at];
  }
  out->given[out->given_count++] = (GivenOption){option, value};
  return OK;
}

Status command_line_parse(Arena *arena, const CommandLine *line, int argc, char **argv, Arguments *out) {
  *out = (Arguments){.line = line,
                     .positional = NEW(arena, const char *, argc + 1),
                     .given = NEW(arena, GivenOption, argc + 1)};
  bool options_ended = false;
  for (int i = 1; i < argc; i++) {
    const char *text = argv[i];
    if (options_ended || text[0] != '-' || text[1] == 0) {
      out->positional[out->positional_count++] = text;
    } else if (strcmp(text, "--") == 0) {
      options_ended = true;
    } else if (strcmp(text, "--help") == 0 || strcmp(text, "-h") == 0) {
      print_help(line);
      out->help = true;
      return OK;
    } else {
      TRY(take_option(arena, argc, argv, &i, out));
    }
  }
  if (out->positional_count < line->min_positional)
    return fail(INVALID, "popalm %s: an argument is missing; usage: %s", argv[0], line->usage);
  if (line->max_positional >= 0 && out->positional_count > line->max_positional)
    return fail(INVALID, "popalm %s: unexpected argument '%s'; usage: %s", argv[0],
                out->positional[line->max_positional], line->usage);
  return OK;
}

bool option_given(const Arguments *arguments, const char *name) {
  for (int i = 0; i < arguments->given_count; i++)
    if (strcmp(arguments->given[i].option->name, name) == 0) return true;
  return false;
}

const char *option_text(const Arguments *arguments, const char *name, const char *otherwise) {
  for (int i = arguments->given_count - 1; i >= 0; i--)
    if (strcmp(arguments->given[i].option->name, name) == 0) return arguments->given[i].value;
  return otherwise;
}

Status option_int(const Arguments *arguments, const char *name, int64_t least, int64_t most,
                  int64_t otherwise, int64_t *out) {
  *out = otherwise;
  const char *text = option_text(arguments, name, NULL);
  if (!text) return OK;
  char *end;
  errno = 0;
  long long value = strtoll(text, &end, 10);
  if (end == text || *end || errno || value < least || value > most)
    return fail(INVALID, "%s %s: not a whole number between %lld and %lld; correct it", name, text,
                (long long)least, (long long)most);
  *out = value;
  return OK;
}

Status option_number(const Arguments *arguments, const char *name, double least, double most,
                     double otherwise, double *out) {
  *out = otherwise;
  const char *text = option_text(arguments, name, NULL);
  if (!text) return OK;
  char *end;
  errno = 0;
  double value = strtod(text, &end);
  if (end == text || *end || errno || !(value >= least && value <= most))
    return fail(INVALID, "%s %s: not a number between %g and %g; correct it", name, text, least, most);
  *out = value;
  return OK;
}

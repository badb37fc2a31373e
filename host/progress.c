#include "progress.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/comm.h"
#include "base/text.h"

static const double LIVE_SECONDS = 0.1, PLAIN_SECONDS = 5;
enum { SHORTEST_BAR = 8, LONGEST_BAR = 24, LINE = 512 };

static int line_open; /* a live line without its end stands on the terminal */

static int terminal_width(void) {
  struct winsize size;
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

static bool terminal_is_live(void) {
  const char *term = getenv("TERM");
  return isatty(STDERR_FILENO) && term && strcmp(term, "dumb") != 0;
}

static bool locale_is_utf8(void) {
  static const char *const names[] = {"LC_ALL", "LC_CTYPE", "LANG"}; /* the first one that is set counts */
  for (int i = 0; i < 3; i++) {
    const char *value = getenv(names[i]);
    if (value && *value) return strcasestr(value, "utf-8") || strcasestr(value, "utf8");
  }
  return false;
}

static void add(char line[LINE], const char *format, ...) __attribute__((format(printf, 2, 3)));
static void add(char line[LINE], const char *format, ...) {
  size_t length = strlen(line);
  va_list args;
  va_start(args, format);
  vsnprintf(line + length, LINE - length, format, args);
  va_end(args);
}

/* 950, 41.2k, 3.1M */
static void add_count(char line[LINE], double count, const char *unit) {
  static const struct {
    double size;
    const char *suffix;
  } rows[] = {{1e9, "G"}, {1e6, "M"}, {1e3, "k"}};
  for (int i = 0; i < 3; i++)
    if (count >= rows[i].size) {
      add(line, "%.1f%s %s", count / rows[i].size, rows[i].suffix, unit);
      return;
    }
  add(line, "%.0f %s", count, unit);
}

/* 12.3 s, 4:05, 1:02:03 */
static void add_time(char line[LINE], double seconds) {
  long whole = lround(seconds);
  if (seconds < 60)
    add(line, seconds < 10 ? "%.1f s" : "%.0f s", seconds);
  else if (whole < 3600)
    add(line, "%ld:%02ld", whole / 60, whole % 60);
  else
    add(line, "%ld:%02ld:%02ld", whole / 3600, whole / 60 % 60, whole % 60);
}

static void add_bar(char line[LINE], int columns, double share) {
  bool utf8 = locale_is_utf8();
  int full = (int)(share * columns);
  add(line, " ");
  for (int i = 0; i < columns; i++) add(line, "%s", i < full ? (utf8 ? "━" : "=") : (utf8 ? "┄" : "."));
}

/* Everything but the bar, of what is known. */
static void add_facts(const Progress *progress, char line[LINE], double now, const char *name, double value) {
  double elapsed = now - progress->started;
  int64_t done = progress->step - progress->first_step;
  if (progress->steps > 0)
    add(line, "  %lld/%lld", (long long)progress->step, (long long)progress->steps);
  else
    add(line, "  step %lld", (long long)progress->step);
  if (name) add(line, "  %s %.4g", name, value);
  if (progress->tokens > 0 && elapsed > 0) {
    add(line, "  ");
    add_count(line, progress->tokens / elapsed, "tokens/s");
  }
  if (progress->steps > progress->step && done > 0) {
    add(line, "  ");
    add_time(line, elapsed / (double)done * (double)(progress->steps - progress->step));
    add(line, " left");
  }
}

/* The columns that the line takes, and with *cut_at the bytes that fit into `limit` columns. East Asian
 * characters are two columns wide; nothing else that a label holds is. */
static int width(const char line[LINE], int limit, size_t *cut_at) {
  size_t length = strlen(line);
  int columns = 0;
  *cut_at = 0;
  for (size_t at = 0; at < length;) {
    columns += utf8_next(line, length, &at) >= 0x2E80 ? 2 : 1;
    if (columns <= limit) *cut_at = at;
  }
  return columns;
}

static void clear_line(void) {
  if (line_open) fputs("\r\033[K", stderr);
  line_open = 0;
}

static void show(Progress *progress, double now, const char *name, double value) {
  progress->shown = now;
  char facts[LINE] = "", line[LINE] = "";
  add_facts(progress, facts, now, name, value);
  add(line, "%s", progress->label);
  if (!progress->live) {
    fprintf(stderr, "%s%s\n", line, facts);
    return;
  }
  int columns = terminal_width() - 1;
  size_t cut_at;
  int bar = columns - 1 - width(line, columns, &cut_at) - width(facts, columns, &cut_at);
  if (bar > LONGEST_BAR) bar = LONGEST_BAR;
  if (bar >= SHORTEST_BAR && progress->steps > 0)
    add_bar(line, bar, fmin(1, (double)progress->step / (double)progress->steps));
  add(line, "%s", facts);
  width(line, columns, &cut_at);
  line[cut_at] = 0;
  fprintf(stderr, "\r%s\033[K", line);
  fflush(stderr);
  line_open = 1;
}

void progress_begin(Progress *progress, const char *label, int64_t steps, int64_t first_step) {
  *progress = (Progress){.label = label, .steps = steps, .step = first_step, .first_step = first_step};
  progress->started = progress->shown = seconds_now();
  progress->waited = comm.waited;
  progress->moved = comm.moved;
  progress->live = comm_is_first() && terminal_is_live();
  if (progress->live) show(progress, progress->started, NULL, 0);
}

void progress_step(Progress *progress, int64_t step, double tokens, const char *name, double value) {
  progress->step = step;
  progress->tokens += tokens;
  double now = seconds_now();
  if (!comm_is_first()) return;
  if (now - progress->shown >= (progress->live ? LIVE_SECONDS : PLAIN_SECONDS))
    show(progress, now, name, value);
}

/* How much the first rank waited for the others, and what it sent them. */
static void add_ranks(const Progress *progress, char line[LINE], double elapsed) {
  double waited = comm.waited - progress->waited, moved = comm.moved - progress->moved;
  int64_t done = progress->step - progress->first_step;
  add(line, "  %d ranks, %.0f%% waiting", comm.size, elapsed > 0 ? 100 * waited / elapsed : 0);
  if (moved > 0 && done > 0) add(line, ", %.2f MB sent a step", moved / 1e6 / (double)done);
}

void progress_end(Progress *progress, const char *note) {
  if (!comm_is_first()) return;
  double elapsed = seconds_now() - progress->started;
  int64_t done = progress->step - progress->first_step;
  char line[LINE] = "";
  add(line, "%s", progress->label);
  if (done > 0) add(line, "  %lld step%s", (long long)done, done == 1 ? "" : "s");
  add(line, "  ");
  add_time(line, elapsed);
  if (progress->tokens > 0 && elapsed > 0) {
    add(line, "  ");
    add_count(line, progress->tokens / elapsed, "tokens/s");
  }
  if (comm.size > 1) add_ranks(progress, line, elapsed);
  if (note) add(line, "  %s", note);
  clear_line();
  fprintf(stderr, "%s\n", line);
}

void progress_say(const char *format, ...) {
  if (!comm_is_first()) return;
  clear_line();
  va_list args;
  va_start(args, format);
  vfprintf(stderr, format, args);
  va_end(args);
  fputc('\n', stderr);
}

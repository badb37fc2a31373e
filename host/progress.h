/* One live line a stage on a terminal (bar, step, loss or reward, tokens/s, time left), plain lines every few
 * seconds elsewhere. Goes to stderr; of several ranks only the first speaks. */
#ifndef POPALM_PROGRESS_H
#define POPALM_PROGRESS_H

#include <stdint.h>

typedef struct Progress {
  const char *label; /* "sft", "ppo cl-ppo seed 2" */
  int64_t steps, step, first_step;
  double started, shown, tokens;
  double waited, moved; /* as in Comm, at the start */
  int live; /* stderr is a terminal */
} Progress;

/* steps 0: unknown. first_step: where a resumed stage goes on. */
void progress_begin(Progress *progress, const char *label, int64_t steps, int64_t first_step);
/* tokens is added to the count that tokens/s is taken of; name NULL: no value. */
void progress_step(Progress *progress, int64_t step, double tokens, const char *name, double value);
/* The stage's last line: seconds, tokens/s, and note (NULL: none). */
void progress_end(Progress *progress, const char *note);
/* A line of its own (a warning, a stage taken from the cache) that does not break the live line. */
void progress_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif

/* What a stage measures, step by step: metrics.jsonl (one object a line) and, beside it, a TensorBoard event
 * file. A resumed stage first cuts both back to the checkpoint's step. */
#ifndef POPALM_METRICS_H
#define POPALM_METRICS_H

#include <stdint.h>

#include "base/arena.h"
#include "base/status.h"

typedef struct Metrics Metrics;

/* Opens folder/metrics.jsonl (and the event file), dropping rows whose step is after resume_step (0: all). */
Status metrics_open(Arena *arena, const char *folder, int64_t resume_step, Metrics **out) CHECKED;
/* Cuts a file of rows {"step":n,...} back to those up to resume_step (0: none). No file: nothing to do. */
Status rows_cut(const char *path, int64_t resume_step) CHECKED;
/* One row: metrics_begin, any number of metrics_add, metrics_end. Names are constant strings. NaN is written as null. */
void metrics_begin(Metrics *metrics, int64_t step);
void metrics_add(Metrics *metrics, const char *name, double value);
/* What differs from run to run (tokens/s, seconds): in the event file only, so that metrics.jsonl of a resumed
 * and an undisturbed run are the same bytes. */
void metrics_add_volatile(Metrics *metrics, const char *name, double value);
Status metrics_end(Metrics *metrics) CHECKED;
/* To disk, before a checkpoint of the same step is written. */
Status metrics_sync(Metrics *metrics) CHECKED;
Status metrics_close(Metrics *metrics) CHECKED;

#endif

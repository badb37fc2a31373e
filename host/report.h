/* report.html of a run directory: the question and its answer first, then the evidence. One self-contained
 * file. */
#ifndef POPALM_REPORT_H
#define POPALM_REPORT_H

#include "base/arena.h"
#include "base/status.h"

/* Writes run_folder/report.html, also of a run that is not finished. */
Status report_write(Arena *arena, const char *run_folder) CHECKED;

#endif

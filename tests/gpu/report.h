/* What check.sh leaves to a program: comparing two results.json and writing the report. */
#ifndef POPALM_GPU_REPORT_H
#define POPALM_GPU_REPORT_H

#include "base/json.h"

/* Compares the numbers of two runs of one experiment on two devices; *same becomes false, and lines are
 * printed, where they are further apart than the table of tolerances allows. */
Status report_compare(Arena *arena, const char *reference, const char *other, bool *same) CHECKED;

#endif

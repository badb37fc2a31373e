/* What this process takes of the machine's memory. */
#ifndef POPALM_BASE_RESIDENT_H
#define POPALM_BASE_RESIDENT_H

#include <stddef.h>

size_t resident_bytes(void); /* now */
size_t resident_peak(void);  /* the most since the last reset that worked, else since the start */
void resident_reset(void);   /* gives unused memory back and starts a new peak, where Linux lets it */

#endif

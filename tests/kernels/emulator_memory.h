/* Memory of the emulated device, for the emulator's own files. */
#ifndef POPALM_EMULATOR_MEMORY_H
#define POPALM_EMULATOR_MEMORY_H

#include <stddef.h>

/* Bytes of 0xFF, 256-byte aligned, with a guard behind them; to be freed by free(). */
unsigned char *poisoned(size_t bytes);
/* Whether nobody wrote past the end. */
bool guard_intact(const unsigned char *memory, size_t bytes);

#endif

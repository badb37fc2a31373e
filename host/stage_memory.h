/* The memory of a stage: stated before it runs, and what it took (in its stage.json). */
#ifndef POPALM_STAGE_MEMORY_H
#define POPALM_STAGE_MEMORY_H

#include "memory.h"
#include "stage.h"

typedef struct StageMemory { /* bytes */
  MemoryNeed need;
  size_t process; /* what the program will take of the machine's memory: with the device's where that is the
                     CPU */
  bool measured;
  size_t device_peak, process_peak; /* where it was measured */
} StageMemory;

/* What the stage will take on this kind of backend. described: a model to take the place of the experiment's,
 * or NULL. input and the data files may not be there yet: then the experiment says how large they will be. */
Status stage_memory(Arena *arena, const Stage *stage, const StageContext *context, const char *kind,
                    const DecoderConfig *described, StageMemory *out) CHECKED;

/* Before and after a stage: starts the peaks, and reads them. backend may be NULL. */
void stage_memory_start(Backend *backend);
void stage_memory_measure(Backend *backend, StageMemory *memory);
/* An object "memory" of stage.json; and back, where it was made with the same statement. */
void stage_memory_add(cJSON *marker, const StageMemory *memory);
void stage_memory_read(const cJSON *marker, StageMemory *memory);

#endif

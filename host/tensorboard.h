/* A TensorBoard event file: TFRecords (length, masked CRC-32C of it, data, masked CRC-32C of it) of Event
 * messages, the few fields of which are encoded by hand. */
#ifndef POPALM_TENSORBOARD_H
#define POPALM_TENSORBOARD_H

#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/status.h"
#include "base/text.h"

typedef struct EventFile {
  const char *path;
  int fd;
  Text summary; /* the values of the event in the making, as an encoded Summary */
  Text record;
} EventFile;

/* Opens path for more events; events whose step is after resume_step, and a torn one at the end, are cut off.
 */
Status events_open(Arena *arena, const char *path, int64_t resume_step, EventFile *out) CHECKED;
/* Values for the next event. */
void events_add(EventFile *file, const char *tag, double value);
/* Writes the event. wall_time: seconds since 1970. */
Status events_write(EventFile *file, int64_t step, double wall_time) CHECKED;
Status events_sync(const EventFile *file) CHECKED;
void events_close(EventFile *file);

/* CRC-32C (Castagnoli), as TFRecord masks it: rotated right by 15 bits plus 0xa282ead8. */
uint32_t masked_crc32c(const void *data, size_t length);

#endif

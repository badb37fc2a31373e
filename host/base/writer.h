/* A file written piece by piece: to a temporary name, fsynced and renamed at the end, so that path is always
 * a whole file. */
#ifndef POPALM_BASE_WRITER_H
#define POPALM_BASE_WRITER_H

#include <stdbool.h>
#include <stddef.h>

#include "base/arena.h"
#include "base/status.h"

typedef struct FileWriter {
  const char *path, *temporary;
  int fd;
  size_t written;     /* bytes so far */
  bool keep_previous; /* what stood at path is kept as path.previous; false after open */
} FileWriter;

Status file_writer_open(Arena *arena, const char *path, FileWriter *out) CHECKED;
Status file_writer_put(FileWriter *writer, const void *data, size_t length) CHECKED;
/* Zeros up to the next multiple of alignment. */
Status file_writer_align(FileWriter *writer, size_t alignment) CHECKED;
/* Writes over what was put before. */
Status file_writer_patch(FileWriter *writer, size_t offset, const void *data, size_t length) CHECKED;
/* With status OK puts the file in its place; otherwise removes what was written, and what stood at path
 * stays. Returns status, or what went wrong at the end. */
Status file_writer_close(FileWriter *writer, Status status) CHECKED;

#endif

#include "base/writer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/text.h"

static Status refused(const FileWriter *writer, int reason) {
  return fail(FAILED, "%s: cannot be written: %s; free space or choose another folder", writer->path,
              strerror(reason ? reason : ENOSPC));
}

Status file_writer_open(Arena *arena, const char *path, FileWriter *out) {
  *out = (FileWriter){.path = arena_strdup(arena, path), .temporary = arena_print(arena, "%s.tmp", path)};
  out->fd = open(out->temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (out->fd >= 0) return OK;
  return fail(FAILED, "%s: cannot be written: %s; check the folder and its rights", out->temporary,
              strerror(errno));
}

Status file_writer_put(FileWriter *writer, const void *data, size_t length) {
  const char *at = data;
  while (length > 0) {
    errno = 0;
    ssize_t written = write(writer->fd, at, length);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return refused(writer, errno);
    at += written;
    length -= (size_t)written;
    writer->written += (size_t)written;
  }
  return OK;
}

Status file_writer_align(FileWriter *writer, size_t alignment) {
  static const char zeros[64];
  while (writer->written % alignment) {
    size_t missing = alignment - writer->written % alignment;
    TRY(file_writer_put(writer, zeros, missing < sizeof zeros ? missing : sizeof zeros));
  }
  return OK;
}

Status file_writer_patch(FileWriter *writer, size_t offset, const void *data, size_t length) {
  errno = 0;
  if (pwrite(writer->fd, data, length, (off_t)offset) == (ssize_t)length) return OK;
  return refused(writer, errno);
}

static Status put_in_place(const FileWriter *writer) {
  Arena arena = {0};
  const char *previous = arena_print(&arena, "%s.previous", writer->path);
  bool moved = writer->keep_previous && rename(writer->path, previous) == 0;
  bool good = moved || !writer->keep_previous || errno == ENOENT;
  int reason = errno;
  if (good && rename(writer->temporary, writer->path) != 0) {
    good = false;
    reason = errno;
    if (moved) (void)!rename(previous, writer->path);
  }
  arena_free(&arena);
  return good ? OK : refused(writer, reason);
}

Status file_writer_close(FileWriter *writer, Status status) {
  if (writer->fd < 0) return status;
  if (status == OK && fsync(writer->fd) != 0) status = refused(writer, errno);
  if (close(writer->fd) != 0 && status == OK) status = refused(writer, errno);
  if (status == OK) status = put_in_place(writer);
  writer->fd = -1;
  if (status == OK)
    sync_folder(writer->path);
  else
    unlink(writer->temporary);
  return status;
}

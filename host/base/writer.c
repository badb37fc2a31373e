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

static Status sync_folder(const char *path) {
  Arena arena = {0};
  int folder = open(path_folder(&arena, path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  arena_free(&arena);
  if (folder < 0) return OK;
  fsync(folder); /* some file systems cannot; the rename is atomic without it */
  close(folder);
  return OK;
}

Status file_writer_close(FileWriter *writer, Status status) {
  if (writer->fd < 0) return status;
  if (status == OK && fsync(writer->fd) != 0) status = refused(writer, errno);
  if (close(writer->fd) != 0 && status == OK) status = refused(writer, errno);
  if (status == OK && rename(writer->temporary, writer->path) != 0) status = refused(writer, errno);
  writer->fd = -1;
  if (status == OK) return sync_folder(writer->path);
  unlink(writer->temporary);
  return status;
}

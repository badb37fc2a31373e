#include "plan_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/text.h"
#include "progress.h"

enum { WAIT_MICROSECONDS = 200000 };

static int open_folder(const char *folder) { return open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC); }

/* A folder that was removed and made again while its lock was waited for is another one under the same name.
 */
static bool still_there(int fd, const char *folder) {
  struct stat locked, named;
  return fstat(fd, &locked) == 0 && stat(folder, &named) == 0 && locked.st_ino == named.st_ino &&
         locked.st_dev == named.st_dev;
}

/* Whether the lock was got, or there are no locks here (then *fd is closed and -1). */
static bool locked(int *fd) {
  if (flock(*fd, LOCK_EX | LOCK_NB) == 0) return true;
  if (errno == EWOULDBLOCK || errno == EINTR) return false;
  close(*fd);
  *fd = -1;
  return true;
}

Status folder_lock(const char *folder, const char *label, FolderLock *out) {
  *out = (FolderLock){.fd = -1};
  for (;;) {
    TRY(make_folders(folder));
    int fd = open_folder(folder);
    if (fd < 0 && errno == ENOENT) continue; /* removed in between */
    if (fd < 0)
      return fail(FAILED, "%s: cannot be opened: %s; check the folder and its rights", folder,
                  strerror(errno));
    while (!locked(&fd)) {
      if (!out->waited && label) progress_say("%s: another process computes it; waiting (%s)", label, folder);
      out->waited = true;
      usleep(label ? WAIT_MICROSECONDS : WAIT_MICROSECONDS / 100);
      if (!interrupted) continue;
      close(fd);
      return fail(INTERRUPTED, "interrupted while waiting for %s; nothing was lost", folder);
    }
    out->fd = fd;
    if (fd < 0 || still_there(fd, folder)) return OK;
    close(fd);
  }
}

bool folder_try_lock(const char *folder, FolderLock *out) {
  *out = (FolderLock){.fd = open_folder(folder)};
  if (out->fd < 0 || (locked(&out->fd) && (out->fd < 0 || still_there(out->fd, folder)))) return true;
  folder_unlock(out);
  return false;
}

void folder_unlock(FolderLock *lock) {
  if (lock->fd >= 0) close(lock->fd);
  lock->fd = -1;
}

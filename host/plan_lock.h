/* The lock of a stage's folder: held by the process that computes it, and gone with that process, however it
 * ends. */
#ifndef POPALM_PLAN_LOCK_H
#define POPALM_PLAN_LOCK_H

#include <stdbool.h>

#include "base/status.h"

typedef struct FolderLock {
  int fd;      /* -1: the file system has no locks; everything goes on without */
  bool waited; /* another process held it before */
} FolderLock;

/* Makes the folder if it is not there and locks it. Another process's lock is waited for, which is said once,
 * label first; INTERRUPTED when a signal comes meanwhile. */
Status folder_lock(const char *folder, const char *label, FolderLock *out) CHECKED;
/* The same for a folder that is there, without waiting: false when another process holds it. */
bool folder_try_lock(const char *folder, FolderLock *out);
void folder_unlock(FolderLock *lock);

#endif

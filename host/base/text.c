#include "base/text.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

void text_add(Text *text, const char *bytes, size_t length) {
  if (text->length + length + 1 > text->capacity) {
    size_t capacity = text->capacity ? text->capacity * 2 : 256;
    while (capacity < text->length + length + 1) capacity *= 2;
    char *data = arena_alloc(text->arena, capacity);
    if (text->length) memcpy(data, text->data, text->length);
    text->data = data;
    text->capacity = capacity;
  }
  memcpy(text->data + text->length, bytes, length);
  text->length += length;
  text->data[text->length] = 0;
}

void text_print(Text *text, const char *format, ...) {
  va_list args, again;
  va_start(args, format);
  va_copy(again, args);
  char small[512];
  int length = vsnprintf(small, sizeof small, format, args);
  va_end(args);
  if ((size_t)length < sizeof small) {
    text_add(text, small, (size_t)length);
  } else {
    char *large = arena_alloc(text->arena, (size_t)length + 1);
    vsnprintf(large, (size_t)length + 1, format, again);
    text_add(text, large, (size_t)length);
  }
  va_end(again);
}

/* Decodes one code point; 0 when the bytes are not valid UTF-8 there (or the byte is 0: *size 1). */
static uint32_t decode(const unsigned char *s, size_t left, int *size) {
  *size = 1;
  if (s[0] < 0x80) return s[0];
  int extra = s[0] >= 0xF0 ? 3 : s[0] >= 0xE0 ? 2 : 1;
  if (s[0] < 0xC2 || s[0] > 0xF4 || left <= (size_t)extra) return 0;
  uint32_t code = s[0] & (0x3Fu >> extra);
  for (int i = 1; i <= extra; i++) {
    if ((s[i] & 0xC0) != 0x80) return 0;
    code = code << 6 | (s[i] & 0x3Fu);
  }
  bool overlong = (extra == 2 && code < 0x800) || (extra == 3 && code < 0x10000);
  if (overlong || (code >= 0xD800 && code < 0xE000) || code > 0x10FFFF) return 0;
  *size = extra + 1;
  return code;
}

uint32_t utf8_next(const char *bytes, size_t length, size_t *at) {
  int size;
  uint32_t code = decode((const unsigned char *)bytes + *at, length - *at, &size);
  bool invalid = code == 0 && bytes[*at] != 0;
  *at += (size_t)size;
  return invalid ? 0xFFFD : code;
}

int utf8_put(uint32_t code, char out[4]) {
  if (code < 0x80) {
    out[0] = (char)code;
    return 1;
  }
  int extra = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
  static const unsigned char lead[] = {0, 0xC0, 0xE0, 0xF0};
  for (int i = extra; i > 0; i--, code >>= 6) out[i] = (char)(0x80 | (code & 0x3F));
  out[0] = (char)(lead[extra] | code);
  return extra + 1;
}

size_t utf8_invalid_at(const char *bytes, size_t length) {
  size_t at = 0;
  while (at < length) {
    int size;
    if (decode((const unsigned char *)bytes + at, length - at, &size) == 0 && bytes[at] != 0) return at;
    at += (size_t)size;
  }
  return length;
}

size_t utf8_unfinished(const char *bytes, size_t length) {
  for (size_t back = 1; back <= 3 && back <= length; back++) {
    unsigned char byte = (unsigned char)bytes[length - back];
    if ((byte & 0xC0) == 0x80) continue;
    size_t wanted = byte >= 0xF0 && byte < 0xF5   ? 4
                    : byte >= 0xE0 && byte < 0xF0 ? 3
                    : byte >= 0xC2 && byte < 0xE0 ? 2
                                                  : 1;
    return wanted > back ? back : 0;
  }
  return 0;
}

size_t utf8_length(const char *bytes, size_t length) {
  size_t count = 0;
  for (size_t i = 0; i < length; i++) count += ((unsigned char)bytes[i] & 0xC0) != 0x80;
  return count;
}

static int edit_distance(const char *a, const char *b) {
  enum { LIMIT = 64 };
  size_t la = strlen(a), lb = strlen(b);
  if (la >= LIMIT || lb >= LIMIT) return LIMIT;
  int row[LIMIT];
  for (size_t j = 0; j <= lb; j++) row[j] = (int)j;
  for (size_t i = 1; i <= la; i++) {
    int diagonal = row[0];
    row[0] = (int)i;
    for (size_t j = 1; j <= lb; j++) {
      int best = diagonal + (a[i - 1] != b[j - 1]);
      if (row[j] + 1 < best) best = row[j] + 1;
      if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
      diagonal = row[j];
      row[j] = best;
    }
  }
  return row[lb];
}

const char *nearest_name(const char *word, const char *const *names, int count) {
  const char *best = NULL;
  int best_distance = (int)strlen(word) / 2 + 1; /* farther than half the word is no help */
  for (int i = 0; i < count; i++) {
    int distance = edit_distance(word, names[i]);
    if (distance < best_distance) {
      best_distance = distance;
      best = names[i];
    }
  }
  return best;
}

Status file_map(const char *path, FileMap *out) {
  *out = (FileMap){"", 0};
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return fail(INVALID, "%s: %s; check the path", path, strerror(errno));
  struct stat info;
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    close(fd);
    return fail(INVALID, "%s: not a regular file; give the path of a file", path);
  }
  if (info.st_size > 0) {
    void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED) {
      int reason = errno;
      close(fd);
      return fail(FAILED, "%s: cannot be mapped: %s; check memory limits", path, strerror(reason));
    }
    *out = (FileMap){data, (size_t)info.st_size};
  }
  close(fd);
  return OK;
}

void file_unmap(FileMap *map) {
  if (map->length) munmap((void *)(uintptr_t)map->data, map->length);
  *map = (FileMap){"", 0};
}

void file_release(const FileMap *map, const void *from, size_t length) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE), first = (size_t)((const char *)from - map->data) / page * page;
  size_t end = (size_t)((const char *)from - map->data) + length;
  if (length > 0) madvise((void *)(uintptr_t)(map->data + first), end - first, MADV_DONTNEED);
}

void sync_folder(const char *path) {
  Arena arena = {0};
  int fd = open(path_folder(&arena, path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  arena_free(&arena);
  if (fd < 0) return;
  fsync(fd);
  close(fd);
}

Status file_write(const char *path, const void *data, size_t length) {
  char temporary[4096];
  if (snprintf(temporary, sizeof temporary, "%s.tmp.%d", path, (int)getpid()) >= (int)sizeof temporary)
    return fail(INVALID, "%s: the path is too long; use a shorter one", path);
  int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0)
    return fail(FAILED, "%s: cannot be written: %s; check the folder and its rights", path, strerror(errno));
  const char *at = data;
  size_t left = length;
  bool good = true;
  while (good && left > 0) {
    ssize_t written = write(fd, at, left);
    if (written < 0 && errno == EINTR) continue;
    good = written > 0;
    if (good) {
      at += written;
      left -= (size_t)written;
    }
  }
  good = good && fsync(fd) == 0;
  int reason = errno;
  good = close(fd) == 0 && good;
  if (good && rename(temporary, path) != 0) {
    reason = errno;
    good = false;
  }
  if (!good) {
    unlink(temporary);
    return fail(FAILED, "%s: cannot be written: %s; free space or choose another folder", path,
                strerror(reason));
  }
  sync_folder(path);
  return OK;
}

bool file_exists(const char *path) { return access(path, F_OK) == 0; }

static int is_shown(const struct dirent *entry) { return entry->d_name[0] != '.'; }

int folder_names(Arena *arena, const char *folder, const char ***out) {
  struct dirent **entries;
  int count = scandir(folder, &entries, is_shown, alphasort);
  *out = NEW(arena, const char *, count > 0 ? count : 1);
  if (count < 0) return 0;
  for (int i = 0; i < count; i++) {
    (*out)[i] = arena_strdup(arena, entries[i]->d_name);
    free(entries[i]);
  }
  free(entries);
  return count;
}

Status make_folders(const char *path) {
  char part[4096];
  size_t length = strlen(path);
  if (length >= sizeof part) return fail(INVALID, "%s: the path is too long; use a shorter one", path);
  for (size_t i = 1; i <= length; i++) {
    if (i < length && path[i] != '/') continue;
    memcpy(part, path, i);
    part[i] = 0;
    if (mkdir(part, 0755) != 0 && errno != EEXIST)
      return fail(FAILED, "%s: cannot make the folder: %s; choose another with --out", part, strerror(errno));
  }
  return OK;
}

char *path_join(Arena *arena, const char *folder, const char *name) {
  if (name[0] == '/' || folder[0] == 0) return arena_strdup(arena, name);
  size_t length = strlen(folder);
  return arena_print(arena, folder[length - 1] == '/' ? "%s%s" : "%s/%s", folder, name);
}

char *path_folder(Arena *arena, const char *path) {
  const char *slash = strrchr(path, '/');
  if (!slash) return arena_strdup(arena, ".");
  return slash == path ? arena_strdup(arena, "/") : arena_strndup(arena, path, (size_t)(slash - path));
}

double seconds_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

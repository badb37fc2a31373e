/* Strings, UTF-8 and files. */
#ifndef POPALM_BASE_TEXT_H
#define POPALM_BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/arena.h"
#include "base/status.h"

/* A growing string in an arena. {.arena = a} is empty. */
typedef struct Text {
  Arena *arena;
  char *data; /* NUL-terminated once something was added */
  size_t length, capacity;
} Text;

void text_add(Text *text, const char *bytes, size_t length);
void text_print(Text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Reads the code point at bytes[*at] and moves on; U+FFFD and one byte on for invalid UTF-8. */
uint32_t utf8_next(const char *bytes, size_t length, size_t *at);
/* Writes the code point, returns its length (1-4). */
int utf8_put(uint32_t code, char out[4]);
/* The offset of the first invalid byte, or length if there is none. Surrogates and overlong forms are invalid. */
size_t utf8_invalid_at(const char *bytes, size_t length);
/* How many bytes at the end begin a character whose rest is missing. */
size_t utf8_unfinished(const char *bytes, size_t length);
/* Code points in valid UTF-8. */
size_t utf8_length(const char *bytes, size_t length);

/* The name in names (count of them) nearest to word by edit distance, or NULL if none is near. */
const char *nearest_name(const char *word, const char *const *names, int count);

/* A file mapped read-only. Errors name the path and the reason. */
typedef struct FileMap {
  const char *data; /* not NUL-terminated; "" for an empty file */
  size_t length;
} FileMap;
Status file_map(const char *path, FileMap *out) CHECKED;
void file_unmap(FileMap *map);
/* The pages of [from, from + length) of the map need not stay in memory; they can still be read. */
void file_release(const FileMap *map, const void *from, size_t length);

/* Writes path atomically: a temporary name beside it, fsync, rename, fsync of the folder. */
Status file_write(const char *path, const void *data, size_t length) CHECKED;
bool file_exists(const char *path);
/* Makes a rename in path's folder last; some file systems cannot, and the rename is atomic without it. */
void sync_folder(const char *path);
/* The names in a folder but hidden ones, sorted; 0 when there is no such folder. */
int folder_names(Arena *arena, const char *folder, const char ***out);
/* mkdir -p */
Status make_folders(const char *path) CHECKED;
/* folder/name; name alone when it is absolute or folder is "" */
char *path_join(Arena *arena, const char *folder, const char *name);
/* The folder part of a path; "." when there is none. */
char *path_folder(Arena *arena, const char *path);
double seconds_now(void); /* monotonic */

#endif

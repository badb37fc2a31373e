/* Content hashes for stage keys and checkpoints: XXH3, 128 bits. */
#ifndef POPALM_BASE_HASH_H
#define POPALM_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/status.h"

typedef struct Hash Hash;

Hash *hash_new(Arena *arena);
void hash_bytes(Hash *hash, const void *data, size_t length);
/* The text and its end, so that ("ab", "c") differs from ("a", "bc"). */
void hash_text(Hash *hash, const char *text);
Status hash_file(Hash *hash, const char *path) CHECKED;
/* The first 16 hexadecimal digits are enough for a folder's name; 32 are written. */
void hash_hex(const Hash *hash, char hex[33]);
uint64_t hash64(const void *data, size_t length);

#endif

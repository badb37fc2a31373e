#include "base/hash.h"

#include <stdio.h>
#include <string.h>
#define XXH_STATIC_LINKING_ONLY /* the state as a complete type */
#include <xxhash.h>

#include "base/text.h"

struct Hash {
  XXH3_state_t state;
};

Hash *hash_new(Arena *arena) {
  Hash *hash = NEW(arena, Hash, 1);
  XXH3_128bits_reset(&hash->state);
  return hash;
}

void hash_bytes(Hash *hash, const void *data, size_t length) { XXH3_128bits_update(&hash->state, data, length); }

void hash_text(Hash *hash, const char *text) { hash_bytes(hash, text, strlen(text) + 1); }

Status hash_file(Hash *hash, const char *path) {
  FileMap map;
  TRY(file_map(path, &map));
  hash_bytes(hash, map.data, map.length);
  file_unmap(&map);
  return OK;
}

void hash_hex(const Hash *hash, char hex[33]) {
  XXH128_hash_t value = XXH3_128bits_digest(&hash->state);
  snprintf(hex, 33, "%016llx%016llx", (unsigned long long)value.high64, (unsigned long long)value.low64);
}

uint64_t hash64(const void *data, size_t length) { return XXH3_64bits(data, length); }

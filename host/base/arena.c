#include "base/arena.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 64, FIRST_BLOCK = 1 << 16 };

struct ArenaBlock {
  ArenaBlock *before;
  size_t used, size; /* bytes of data */
  _Alignas(ALIGNMENT) unsigned char data[];
};

static void abort_exhausted(size_t bytes) {
  fprintf(stderr, "popalm: out of memory for %zu bytes\n", bytes);
  abort();
}

void (*arena_exhausted)(size_t bytes) = abort_exhausted;

static ArenaBlock *add_block(Arena *arena, size_t bytes) {
  size_t size = arena->block ? arena->block->size * 2 : FIRST_BLOCK;
  if (size > (size_t)64 << 20) size = (size_t)64 << 20; /* beyond that, doubling only wastes */
  if (size < bytes) size = bytes;
  size = (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  ArenaBlock *block = aligned_alloc(ALIGNMENT, sizeof(ArenaBlock) + size);
  if (!block) arena_exhausted(size);
  block->before = arena->block;
  block->used = 0;
  block->size = size;
  arena->block = block;
  return block;
}

void *arena_alloc(Arena *arena, size_t bytes) {
  if (bytes > SIZE_MAX / 4) arena_exhausted(bytes);
  size_t rounded = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  ArenaBlock *block = arena->block;
  if (!block || block->size - block->used < rounded) block = add_block(arena, rounded);
  void *memory = block->data + block->used;
  block->used += rounded;
  return memset(memory, 0, rounded);
}

void *arena_alloc_array(Arena *arena, size_t size, size_t count) {
  if (size && count > SIZE_MAX / 4 / size) arena_exhausted(SIZE_MAX);
  return arena_alloc(arena, size * count);
}

char *arena_strndup(Arena *arena, const char *text, size_t length) {
  char *copy = arena_alloc(arena, length + 1);
  memcpy(copy, text, length);
  return copy;
}

char *arena_strdup(Arena *arena, const char *text) { return arena_strndup(arena, text, strlen(text)); }

char *arena_print(Arena *arena, const char *format, ...) {
  va_list args, again;
  va_start(args, format);
  va_copy(again, args);
  int length = vsnprintf(NULL, 0, format, args);
  va_end(args);
  char *text = arena_alloc(arena, (size_t)length + 1);
  vsnprintf(text, (size_t)length + 1, format, again);
  va_end(again);
  return text;
}

ArenaMark arena_mark(const Arena *arena) {
  return (ArenaMark){arena->block, arena->block ? arena->block->used : 0};
}

void arena_reset(Arena *arena, ArenaMark mark) {
  while (arena->block != mark.block) {
    ArenaBlock *before = arena->block->before;
    free(arena->block);
    arena->block = before;
  }
  if (arena->block) arena->block->used = mark.used;
}

void arena_free(Arena *arena) { arena_reset(arena, (ArenaMark){NULL, 0}); }

/* Ownership by arena: what lives as long as a run, a stage or a step sits in that arena and goes
 * with it. There is no free of a single piece. */
#ifndef POPALM_BASE_ARENA_H
#define POPALM_BASE_ARENA_H

#include <stddef.h>

typedef struct ArenaBlock ArenaBlock;

typedef struct Arena {
  ArenaBlock *block; /* newest block; blocks form a list back to the first */
} Arena;           /* {0} is an empty arena */

/* A place to return to. */
typedef struct ArenaMark {
  ArenaBlock *block;
  size_t used;
} ArenaMark;

/* bytes of zeroed memory, 64-byte aligned. Never NULL: without memory it calls arena_exhausted. */
void *arena_alloc(Arena *arena, size_t bytes);

/* count zeroed elements of a type. */
#define NEW(arena, Type, count) ((Type *)arena_alloc_array((arena), sizeof(Type), (size_t)(count)))
void *arena_alloc_array(Arena *arena, size_t size, size_t count);

char *arena_strdup(Arena *arena, const char *text);
char *arena_strndup(Arena *arena, const char *text, size_t length);
char *arena_print(Arena *arena, const char *format, ...) __attribute__((format(printf, 2, 3)));

ArenaMark arena_mark(const Arena *arena);
/* Frees everything allocated since the mark. */
void arena_reset(Arena *arena, ArenaMark mark);
/* Frees everything; the arena is empty again. */
void arena_free(Arena *arena);

/* Called when the machine has no memory left; must not return. main sets one that leaves through
 * the ordinary error path; the default prints one line and aborts. */
extern void (*arena_exhausted)(size_t bytes);

#endif

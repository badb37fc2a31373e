/* The one form of a batch: packed tokens, positions, cu_seqlens, no padding; and the rows that have a loss or
 * a score with their targets. Filled on the host, sent to the device in one copy. */
#ifndef POPALM_BATCH_H
#define POPALM_BATCH_H

#include "backend.h"
#include "base/arena.h"
#include "models/decoder.h"

typedef struct BatchArrays {
  int32_t *tokens, *positions; /* [max_tokens] */
  int32_t *ids;                /* [max_tokens] what random numbers of a token are keyed by */
  int32_t *cu_seqlens;         /* [max_sequences+1] */
  int32_t *rows, *targets;     /* [max_tokens] rows of the batch, and the token that each predicts */
} BatchArrays;

typedef struct Batch {
  Backend *backend;
  int max_tokens, max_sequences;
  int tokens, sequences, rows, max_len;
  BatchArrays host, device; /* each one allocation of the same layout */
} Batch;

/* Bytes of one of its two copies. */
size_t batch_bytes(int max_tokens, int max_sequences);
Status batch_allocate(Arena *arena, Batch *batch, Backend *backend, int max_tokens,
                      int max_sequences) CHECKED;
void batch_free(Batch *batch);
void batch_clear(Batch *batch);
bool batch_fits(const Batch *batch, int tokens);
/* Adds a sequence. Its tokens from first_target (at least 1) on are targets; first_target = count: none. */
void batch_add(Batch *batch, const int32_t *tokens, int count, int first_target);
/* Adds a sequence whose last token's row is asked for (reward model). */
void batch_add_scored(Batch *batch, const int32_t *tokens, int count);
void batch_upload(Batch *batch);
DecoderInput batch_input(const Batch *batch);
/* For batch_input's dropout in a training pass. */
DecoderDropout batch_dropout(const Batch *batch, RandomKey key);

#endif

/* The one form of a batch: packed tokens, positions, cu_seqlens, no padding; and the rows that have a loss or
 * a score with their targets. Filled on the host, sent to the device in one copy.
 *
 * A text is what is added, a post and a reply say. Texts that begin with the same tokens can be branches of one
 * sequence (see Sequences in backend.h): what they share is computed once, with the same results up to rounding. */
#ifndef POPALM_BATCH_H
#define POPALM_BATCH_H

#include "backend.h"
#include "base/arena.h"
#include "models/decoder.h"

typedef struct BatchArrays {
  int32_t *tokens, *positions; /* [max_tokens] */
  int32_t *ids;                /* [max_tokens] what random numbers of a token are keyed by */
  int32_t *branch;             /* [max_tokens] the first token of its branch */
  int32_t *cu_seqlens;         /* [max_sequences+1] */
  int32_t *shared;             /* [max_sequences] tokens before the branches */
  int32_t *rows, *targets;     /* [max_tokens] rows of the batch, and the token that each predicts */
} BatchArrays;

typedef struct Batch {
  Backend *backend;
  int max_tokens, max_sequences;
  int tokens, sequences, rows, max_len;
  int texts, text_tokens; /* as added: of all texts */
  int first_text;         /* tokens of the last sequence's first text */
  bool branches;          /* some sequence has more than one text */
  bool apart;             /* every text becomes a sequence: a batch that is dealt to ranks text by text */
  int32_t *text_shared;   /* [max_sequences] of each text, as it was asked for; host only */
  BatchArrays host, device; /* each one allocation of the same layout */
} Batch;

/* A sequence has at most so many times the tokens of its first text, since scores between its branches are
 * computed in vain. */
enum { BRANCHED_LENGTHS = 4 };

/* Bytes of one of its two copies. */
size_t batch_bytes(int max_tokens, int max_sequences);
Status batch_allocate(Arena *arena, Batch *batch, Backend *backend, int max_tokens,
                      int max_sequences) CHECKED;
void batch_free(Batch *batch);
void batch_clear(Batch *batch);
bool batch_fits(const Batch *batch, int tokens);
/* Adds a text. Its tokens from first_target (at least 1) on are targets; first_target = count: none. */
void batch_add(Batch *batch, const int32_t *tokens, int count, int first_target);
/* The same for a text whose first `shared` tokens, none of whose rows is asked for, are those of the text before.
 * 0: none. */
void batch_branch(Batch *batch, const int32_t *tokens, int count, int first_target, int shared);
/* Such a text of which the last token's row is asked for (reward model). */
void batch_branch_scored(Batch *batch, const int32_t *tokens, int count, int shared);
/* Adds the tokens only. Token t of the text has row t + what is returned, if t is not a shared one. */
int batch_place(Batch *batch, const int32_t *tokens, int count, int shared);
void batch_upload(Batch *batch);
DecoderInput batch_input(const Batch *batch);
/* For batch_input's dropout in a training pass. */
DecoderDropout batch_dropout(const Batch *batch, RandomKey key);

#endif

/* The training examples of SFT: every (post, reply) of a dataset with its length in tokens, in a shuffled
 * order that needs no memory, and cut into batches of packed tokens. */
#ifndef POPALM_EXAMPLES_H
#define POPALM_EXAMPLES_H

#include "batch.h"
#include "dataset.h"
#include "prompt.h"

typedef struct Examples {
  const Dataset *dataset;
  const PromptCodec *codec;
  int64_t count;
  uint32_t *post;   /* [count] line of the dataset */
  uint16_t *reply;  /* [count] which reply of the post */
  uint16_t *length; /* [count] tokens of the whole sequence */
  uint64_t seed;
} Examples;

/* Reads the dataset once. replies_per_post 0: all. */
Status examples_build(Arena *arena, const Dataset *dataset, const PromptCodec *codec, int replies_per_post,
                      uint64_t seed, Examples *out) CHECKED;
/* The example at position `at` of an endless sequence of shuffled epochs. */
int64_t examples_at(const Examples *examples, int64_t at);
/* How many batches of at most tokens_per_batch the first `total` positions make. */
int64_t examples_batches(const Examples *examples, int64_t total, int tokens_per_batch);
/* Fills batch from position *at on, up to position total; moves *at. */
Status examples_fill(const Examples *examples, Batch *batch, int64_t *at, int64_t total) CHECKED;
/* Adds example i to the batch, which must have room. */
Status examples_add(const Examples *examples, int64_t i, Batch *batch) CHECKED;

#endif

/* Optimizer states in shards (ZeRO stage 1, Rajbhandari et al. 2020): every rank has all weights and computes
 * gradients of all, but keeps fp32 weights and Adam's moments only of its own slices. The arena of the
 * parameters is cut into buckets, each into one slice a rank. A bucket's gradients are summed into the slices
 * as soon as the backward pass has completed them, beside the rest of it; a rank updates its slices; the
 * updated weights are copied to all, bucket by bucket, beside the next forward pass, which waits for each
 * where it needs it. */
#ifndef POPALM_MODELS_SHARDS_H
#define POPALM_MODELS_SHARDS_H

#include "backend.h"
#include "base/arena.h"

enum { BUCKET_AT_END = -1, BUCKET_AT_ONCE = 1 << 30 };

/* A piece of the arena, whose length is a multiple of the number of ranks. */
typedef struct Bucket {
  size_t begin, end;
  int layer; /* complete after the backward pass of this layer, BUCKET_AT_END after the last, BUCKET_AT_ONCE
                before the first */
  size_t at; /* where this rank's slice of it stands in the shard */
  bool started;   /* its gradients are on their way */
  int64_t ticket; /* of its weights on their way, or 0 */
} Bucket;

typedef struct Shards {
  int rank, size; /* 0: not in shards */
  Bucket *bucket; /* in the order of the arena; owned by memory */
  int count;
  size_t total;       /* elements of this rank's slices, one after the other: the shard */
  size_t decay_total; /* those of them that decay come first */
  void *grads;        /* [total] storage type, sums over the ranks */
  void *copy;         /* [total] storage type, updated weights; the master weights themselves in fp32 */
  int64_t reduced;    /* ticket of the last sum that was started */
  float *norms;       /* [1 + size] of the shard's gradients; of each rank's */
  Arena memory;
} Shards;

/* A stretch of the arena in which everything is complete at the same time; stretches follow each other
 * without gaps from 0 on. */
typedef struct Stretch {
  size_t end;
  int layer; /* as in Bucket */
} Stretch;

/* Elements of the arena and of every bucket are multiples of this. */
size_t shards_unit(int size);
/* Cuts the arena [total], a multiple of shards_unit, into buckets of at least `least` elements. A unit that
 * belongs to several stretches is complete with the last of them. */
void shards_plan(Shards *shards, const Stretch *stretch, int stretches, size_t total, size_t decay_total,
                 int size, int rank, size_t least);
/* This rank's slice of a bucket: [begin, end) of the arena. */
void shards_slice(const Shards *shards, const Bucket *bucket, size_t *begin, size_t *end);

#endif

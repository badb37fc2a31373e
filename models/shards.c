#include "models/shards.h"

enum { ALIGNMENT = 64 }; /* elements, of a slice */

size_t shards_unit(int size) { return ALIGNMENT * (size_t)size; }

void shards_slice(const Shards *shards, const Bucket *bucket, size_t *begin, size_t *end) {
  size_t length = (bucket->end - bucket->begin) / (size_t)shards->size;
  *begin = bucket->begin + length * (size_t)shards->rank;
  *end = *begin + length;
}

/* When the unit from `at` on is complete; *s is the first stretch that it touches. */
static int complete_at(const Stretch *stretch, int stretches, size_t at, size_t unit, int *s) {
  while (*s < stretches - 1 && stretch[*s].end <= at) ++*s;
  int layer = stretch[*s].layer;
  for (int i = *s + 1; i < stretches && stretch[i - 1].end < at + unit; i++)
    if (stretch[i].layer < layer) layer = stretch[i].layer;
  return layer;
}

static void place_slices(Shards *shards, size_t decay_total) {
  shards->total = shards->decay_total = 0;
  for (int i = 0; i < shards->count; i++) {
    size_t begin, end;
    shards->bucket[i].at = shards->total;
    shards_slice(shards, &shards->bucket[i], &begin, &end);
    shards->total += end - begin;
    if (begin < decay_total) shards->decay_total += (end < decay_total ? end : decay_total) - begin;
  }
}

void shards_plan(Shards *shards, const Stretch *stretch, int stretches, size_t total, size_t decay_total,
                 int size, int rank, size_t least) {
  size_t unit = shards_unit(size);
  shards->size = size;
  shards->rank = rank;
  shards->count = 0;
  shards->bucket = NEW(&shards->memory, Bucket, stretches + 1);
  Bucket *last = NULL;
  int s = 0;
  for (size_t at = 0; at < total; at += unit) {
    int layer = complete_at(stretch, stretches, at, unit, &s);
    if (last && (last->layer == layer || last->end - last->begin < least)) {
      if (layer < last->layer) last->layer = layer;
      last->end = at + unit;
      continue;
    }
    last = &shards->bucket[shards->count++];
    *last = (Bucket){.begin = at, .end = at + unit, .layer = layer};
  }
  place_slices(shards, decay_total);
}

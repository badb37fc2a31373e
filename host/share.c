#include "share.h"

#include <stdlib.h>
#include <string.h>

#include "base/comm.h"

typedef struct Item {
  int weight, index;
} Item;

static int heavier_first(const void *a, const void *b) {
  const Item *x = a, *y = b;
  if (x->weight != y->weight) return x->weight > y->weight ? -1 : 1;
  return (x->index > y->index) - (x->index < y->index);
}

void share_out(const int *weight, int count, int ranks, int *owner) {
  Arena scratch = {0};
  Item *item = NEW(&scratch, Item, count);
  int64_t *load = NEW(&scratch, int64_t, ranks);
  for (int i = 0; i < count; i++) item[i] = (Item){weight[i], i};
  qsort(item, (size_t)count, sizeof *item, heavier_first);
  for (int i = 0; i < count; i++) {
    int least = 0;
    for (int r = 1; r < ranks; r++)
      if (load[r] < load[least]) least = r;
    load[least] += item[i].weight;
    owner[item[i].index] = least;
  }
  arena_free(&scratch);
}

/* When the last item came to the fullest rank, no rank had less than that rank had. */
int share_most(int total, int heaviest, int ranks) {
  int most = total / ranks + heaviest;
  return most < total ? most : total;
}

Status share_allocate(Arena *arena, BatchShare *share, Batch *whole, int unit, int longest) {
  int groups = whole->max_sequences / unit + 1;
  *share = (BatchShare){.whole = whole, .mine = whole, .unit = unit, .group = NEW(arena, int, groups)};
  if (comm.size == 1) return OK;
  whole->apart = true;
  share->mine = &share->part;
  int tokens = share_most(whole->max_tokens, longest, comm.size);
  return batch_allocate(arena, &share->part, whole->backend, tokens, whole->max_sequences);
}

void share_free(BatchShare *share) {
  if (share->part.backend) batch_free(&share->part);
}

/* Adds text s of whole, which is a sequence there, with the rows from *row on that are its own; if not mine,
 * only passes these rows. */
static void take_text(Batch *part, const Batch *whole, int s, int *row, bool mine) {
  int begin = whole->host.cu_seqlens[s], end = whole->host.cu_seqlens[s + 1];
  int first_row = *row, from = part->tokens;
  while (*row < whole->rows && whole->host.rows[*row] < end) ++*row;
  if (!mine) return;
  int offset = batch_place(part, whole->host.tokens + begin, end - begin, whole->text_shared[s]) - begin;
  for (int t = from; t < part->tokens; t++) part->host.ids[t] = whole->host.ids[t - offset];
  for (int r = first_row; r < *row; r++) {
    part->host.rows[part->rows] = whole->host.rows[r] + offset;
    part->host.targets[part->rows++] = whole->host.targets[r];
  }
}

void share_deal(BatchShare *share) {
  const Batch *whole = share->whole;
  int groups = whole->texts / share->unit, row = 0;
  share->groups = 0;
  if (comm.size == 1) {
    for (int g = 0; g < groups; g++) share->group[share->groups++] = g;
    return;
  }
  Arena scratch = {0};
  int *weight = NEW(&scratch, int, groups), *owner = NEW(&scratch, int, groups);
  for (int g = 0; g < groups; g++)
    weight[g] = whole->host.cu_seqlens[(g + 1) * share->unit] - whole->host.cu_seqlens[g * share->unit];
  share_out(weight, groups, comm.size, owner);
  batch_clear(&share->part);
  for (int g = 0; g < groups; g++) {
    bool mine = owner[g] == comm.rank;
    if (mine) share->group[share->groups++] = g;
    for (int s = 0; s < share->unit; s++) take_text(&share->part, whole, g * share->unit + s, &row, mine);
  }
  arena_free(&scratch);
}

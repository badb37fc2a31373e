/* A batch dealt to the ranks of a job (base/comm.h): every rank fills the same whole batch and computes its
 * own texts of it, chosen by packed tokens so that the ranks finish together. Weights of losses stay
 * those of the whole batch. */
#ifndef POPALM_SHARE_H
#define POPALM_SHARE_H

#include "batch.h"

/* Deals items to ranks, the heaviest first, each to the rank that has least so far (Graham 1969: at most 4/3
 * of the best). owner: [count]. The same on every rank; the lower item and the lower rank first among equals.
 */
void share_out(const int *weight, int count, int ranks, int *owner);
/* The most that a rank can get of `total` when no item is heavier than `heaviest`. */
int share_most(int total, int heaviest, int ranks);

typedef struct BatchShare {
  Batch *whole;
  Batch part;  /* this rank's sequences; unused when there is one rank */
  Batch *mine; /* what this rank computes: part, or with one rank whole itself */
  int unit;    /* texts that stay together: 2 for pairs; only they may share tokens */
  int *group;  /* [groups] which groups of `unit` texts of the whole are this rank's, ascending */
  int groups;
} BatchShare;

/* whole: allocated by batch_allocate, filled before each share_deal. longest: tokens of a group. */
Status share_allocate(Arena *arena, BatchShare *share, Batch *whole, int unit, int longest) CHECKED;
void share_free(BatchShare *share);
/* Fills mine and group from whole. */
void share_deal(BatchShare *share);

#endif

/* The synthetic world: events, posts about them, replies and like counts drawn from a small grammar with a
 * popularity function that is known and label noise that is known too. The only place where it can be
 * measured whether a training method finds what people like, or only what was liked by accident. */
#ifndef POPALM_WORLD_H
#define POPALM_WORLD_H

#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/status.h"

typedef struct WorldSettings {
  uint64_t seed;
  int train_posts, dev_posts;
  int replies_per_post;  /* kept in the train and dev files: the most liked of twice as many */
  double exposure_noise; /* sigma of a reply's log exposure; that of the post as a whole has twice as much */
  double early_bird;     /* extra log-likes of the first reply; the n-th gets 1/n of it */
  double author_noise;   /* sigma of the author's log-followers */
  double flip;           /* probability that a reply swaps its like count with another one of the post */
} WorldSettings;

/* Used where the experiment file says nothing. With these the likes of two replies order them as their true
 * popularity does in about 84% of all pairs, 87% of those whose counts are 1.2 times apart or more: no
 * reward model can agree with such labels more often. */
extern const WorldSettings world_defaults;

typedef struct World World;

/* Writes into folder (made if absent), same bytes for the same settings:
 * train.json, dev.json  posts of different events, the most liked half of the replies first to last
 * pairs.json            4 pairs a post of all replies that were written, also of those that were not kept,
 *                       under the train posts and half as many of its own; 60% list the more liked first
 * world.json            settings and what they make of the truth, for the evaluator */
Status world_write(const WorldSettings *settings, const char *folder) CHECKED;

/* For the evaluator: reads world.json. */
Status world_load(Arena *arena, const char *path, World **out) CHECKED;
/* True popularity of a reply under a post, in [0, 1]; 0 for a reply that the grammar cannot read, e.g. one
 * that never ends, repeats itself or speaks of another event. */
double world_popularity(const World *world, const char *post, const char *reply);
/* The highest popularity that any reply can have under the post; 0 for a post of no such world. */
double world_best_popularity(const World *world, const char *post);

#endif

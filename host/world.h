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
  double exposure_noise; /* sigma of the log exposure of a post's replies; 0: none */
  double early_bird;     /* extra log-likes of the first replies, falling with rank of arrival */
  double author_noise;   /* sigma of the author's log-followers */
  double flip;           /* probability that a reply's like count is replaced by another's */
} WorldSettings;

/* Used where the experiment file says nothing. With these the order of two replies' likes agrees with
 * their true popularity for about 83% of the pairs, so a reward model cannot do better on such labels. */
extern const WorldSettings world_defaults;

typedef struct World World;

/* Writes train.json, dev.json, pairs.json and world.json into folder. Same settings, same bytes. */
Status world_write(const WorldSettings *settings, const char *folder) CHECKED;

/* For the evaluator: reads world.json. */
Status world_load(Arena *arena, const char *path, World **out) CHECKED;
/* True popularity of a reply under a post, in [0, 1]; 0 for a reply that the grammar cannot read, e.g. one
 * that never ends, repeats itself or speaks of another event. */
double world_popularity(const World *world, const char *post, const char *reply);
/* The highest popularity that any reply can have under the post; 0 for a post of no such world. */
double world_best_popularity(const World *world, const char *post);

#endif

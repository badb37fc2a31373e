/* Reply pairs made from posts whose replies have likes. */
#ifndef POPALM_PAIRS_H
#define POPALM_PAIRS_H

#include <stdint.h>

#include "base/arena.h"
#include "base/status.h"
#include "base/text.h"
#include "dataset.h"

typedef struct PairSettings {
  double min_ratio; /* likes of text_j over likes of text_k, the latter at least 1 */
  int per_post;     /* at most so many of a post, drawn at random; 0: all */
  uint64_t seed;
} PairSettings;

/* One line a pair as dataset.h has it, the more liked reply always first. Errors: a file without likes, or no
 * pair at all. */
Status pairs_make(const Dataset *posts, const PairSettings *settings, Text *out, int64_t *count) CHECKED;

/* The text as a JSON string with its quotes. */
void text_add_json(Text *out, const char *text);

#endif

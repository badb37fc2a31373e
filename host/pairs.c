#include "pairs.h"

#include <string.h>

#include "base/philox.h"

void text_add_json(Text *out, const char *text) {
  text_add(out, "\"", 1);
  for (const char *p = text; *p; p++) {
    unsigned char c = (unsigned char)*p;
    if (c == '"' || c == '\\')
      text_print(out, "\\%c", c);
    else if (c == '\n')
      text_add(out, "\\n", 2);
    else if (c == '\t')
      text_add(out, "\\t", 2);
    else if (c < 0x20)
      text_print(out, "\\u%04x", c);
    else
      text_add(out, p, 1);
  }
  text_add(out, "\"", 1);
}

static bool far_apart(const Post *post, int j, int k, double min_ratio) {
  double fewer = post->like[k] > 1 ? post->like[k] : 1;
  return post->like[j] > post->like[k] && post->like[j] >= min_ratio * fewer &&
         strcmp(post->reply[j], post->reply[k]) != 0;
}

static void add_pair(const Post *post, int j, int k, Text *out) {
  text_add(out, "{\"weibo\": ", 10);
  text_add_json(out, post->text);
  text_add(out, ", \"text_j\": ", 12);
  text_add_json(out, post->reply[j]);
  text_add(out, ", \"text_k\": ", 12);
  text_add_json(out, post->reply[k]);
  text_print(out, ", \"text_j_like\": %.15g, \"text_k_like\": %.15g}\n", post->like[j], post->like[k]);
}

/* All pairs of a post, or per_post of them by a random permutation, in the order (j, k). */
static int64_t pairs_of_post(const Post *post, const PairSettings *settings, int64_t number, Arena *scratch,
                             Text *out) {
  int64_t candidates = 0, kept = 0;
  for (int j = 0; j < post->replies; j++)
    for (int k = 0; k < post->replies; k++) candidates += far_apart(post, j, k, settings->min_ratio);
  if (candidates == 0) return 0;
  bool *chosen = NEW(scratch, bool, candidates);
  RandomKey key = {settings->seed, RANDOM_SHUFFLE, (uint32_t)number};
  int64_t wanted = settings->per_post && settings->per_post < candidates ? settings->per_post : candidates;
  for (int64_t i = 0; i < wanted; i++)
    chosen[random_permutation(key, (uint64_t)candidates, (uint64_t)i)] = true;
  int64_t at = 0;
  for (int j = 0; j < post->replies; j++) {
    for (int k = 0; k < post->replies; k++) {
      if (!far_apart(post, j, k, settings->min_ratio) || !chosen[at++]) continue;
      add_pair(post, j, k, out);
      kept++;
    }
  }
  return kept;
}

Status pairs_make(const Dataset *posts, const PairSettings *settings, Text *out, int64_t *count) {
  Arena scratch = {0};
  ArenaMark empty = arena_mark(&scratch);
  Status status = OK;
  *count = 0;
  for (int64_t i = 0; i < posts->count && status == OK; i++) {
    Post post;
    status = dataset_post(posts, i, &scratch, &post);
    if (status == OK && !post.like)
      status =
          fail(INVALID, "%s: post %lld has no \"like\" list; pairs can only be made from posts with likes",
               posts->path, (long long)i + 1);
    if (status == OK) *count += pairs_of_post(&post, settings, i, &scratch, out);
    arena_reset(&scratch, empty);
  }
  arena_free(&scratch);
  if (status == OK && *count == 0)
    status = fail(INVALID, "%s: no two replies differ enough in likes; lower --min-ratio (now %g)",
                  posts->path, settings->min_ratio);
  return status;
}

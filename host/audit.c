#include "audit.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

/* Numbers, or hashes, of which there is one a line or a reply. */
typedef struct Values {
  Arena *arena;
  double *at;
  size_t count, room;
} Values;

/* A reply under a post, by the hashes of their texts. */
typedef struct Occurrence {
  uint64_t reply, post;
} Occurrence;

/* What one file adds. */
typedef struct Gathered {
  Dataset data;
  Values per_post, post_characters, reply_characters, post_tokens, reply_tokens, likes, like_ratio;
  uint64_t *post;      /* [data.count] hashes, sorted at the end */
  uint64_t *line;      /* [data.count] what makes a line a duplicate, sorted at the end */
  Occurrence *replies; /* [reply_count] in the file's order */
  size_t reply_count, reply_room;
} Gathered;

static void add_value(Values *values, double value) {
  if (values->count == values->room) {
    size_t room = values->room ? 2 * values->room : 1024;
    double *at = NEW(values->arena, double, room);
    if (values->count) memcpy(at, values->at, values->count * sizeof *at);
    values->at = at;
    values->room = room;
  }
  values->at[values->count++] = value;
}

static int compare_numbers(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static int compare_hashes(const void *a, const void *b) {
  uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return (x > y) - (x < y);
}

static int compare_occurrences(const void *a, const void *b) {
  const Occurrence *x = a, *y = b;
  if (x->reply != y->reply) return x->reply > y->reply ? 1 : -1;
  return (x->post > y->post) - (x->post < y->post);
}

static double quantile(const Values *sorted, double share) {
  size_t rank = (size_t)(share * (double)sorted->count);
  return sorted->at[rank < sorted->count ? rank : sorted->count - 1];
}

static Spread spread_of(Values *values) {
  if (values->count == 0) return (Spread){0};
  qsort(values->at, values->count, sizeof *values->at, compare_numbers);
  double sum = 0;
  for (size_t i = 0; i < values->count; i++) sum += values->at[i];
  return (Spread){.count = (int64_t)values->count,
                  .mean = sum / (double)values->count,
                  .min = values->at[0],
                  .p10 = quantile(values, 0.1),
                  .p50 = quantile(values, 0.5),
                  .p90 = quantile(values, 0.9),
                  .p99 = quantile(values, 0.99),
                  .max = values->at[values->count - 1]};
}

/* ---- reading ---- */

static uint64_t text_hash(const char *text) { return hash64(text, strlen(text)); }

static void add_occurrence(Arena *arena, Gathered *g, const char *reply, uint64_t post) {
  if (g->reply_count == g->reply_room) {
    size_t room = g->reply_room ? 2 * g->reply_room : 1024;
    Occurrence *replies = NEW(arena, Occurrence, room);
    if (g->reply_count) memcpy(replies, g->replies, g->reply_count * sizeof *replies);
    g->replies = replies;
    g->reply_room = room;
  }
  g->replies[g->reply_count++] = (Occurrence){text_hash(reply), post};
}

/* Adds a text's length in characters and tokens; says whether it is longer than the limit. */
static bool add_lengths(const AuditSettings *settings, const char *text, Values *characters, Values *tokens,
                        int limit) {
  size_t length = strlen(text);
  add_value(characters, (double)utf8_length(text, length));
  if (!settings->tokenizer) return false;
  int count = tokenizer_encode(settings->tokenizer, text, length, NULL, 0);
  add_value(tokens, count);
  return count > limit;
}

static void add_reply(Arena *arena, const AuditSettings *settings, const char *reply, uint64_t post,
                      Gathered *g, FileAudit *file) {
  file->replies++;
  file->empty_replies += reply[strspn(reply, " \t\r\n")] == 0;
  file->replies_cut +=
      add_lengths(settings, reply, &g->reply_characters, &g->reply_tokens, settings->max_reply_tokens);
  add_occurrence(arena, g, reply, post);
}

static void gather_post(Arena *arena, const AuditSettings *settings, const Post *post, uint64_t hash,
                        Gathered *g, FileAudit *file) {
  bool unsorted = false;
  size_t first = g->reply_count;
  for (int r = 0; r < post->replies; r++) {
    add_reply(arena, settings, post->reply[r], hash, g, file);
    for (size_t before = first; before + 1 < g->reply_count; before++) {
      if (g->replies[before].reply != g->replies[g->reply_count - 1].reply) continue;
      file->duplicate_replies++;
      break;
    }
    if (post->like) add_value(&g->likes, post->like[r]);
    if (post->like && r > 0) unsorted |= post->like[r] > post->like[r - 1];
  }
  file->unsorted_posts += unsorted;
  add_value(&g->per_post, post->replies);
}

static void gather_pair(Arena *arena, const AuditSettings *settings, const Pair *pair, uint64_t hash,
                        Gathered *g, FileAudit *file) {
  add_reply(arena, settings, pair->reply_j, hash, g, file);
  add_reply(arena, settings, pair->reply_k, hash, g, file);
  file->duplicate_replies += strcmp(pair->reply_j, pair->reply_k) == 0;
  add_value(&g->likes, pair->like_j);
  add_value(&g->likes, pair->like_k);
  double more = pair->like_j > pair->like_k ? pair->like_j : pair->like_k;
  double fewer = pair->like_j > pair->like_k ? pair->like_k : pair->like_j;
  double ratio = more / (fewer > 1 ? fewer : 1);
  if (more == fewer) ratio = 1;
  add_value(&g->like_ratio, ratio);
  file->by_ratio[more == fewer ? 0 : ratio < 2 ? 1 : ratio < 10 ? 2 : ratio <= 100 ? 3 : 4]++;
}

static Status gather(Arena *arena, const AuditSettings *settings, Gathered *g, FileAudit *file) {
  Values *all[] = {&g->per_post,     &g->post_characters, &g->reply_characters, &g->post_tokens,
                   &g->reply_tokens, &g->likes,           &g->like_ratio};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) all[i]->arena = arena;
  g->post = NEW(arena, uint64_t, g->data.count);
  g->line = NEW(arena, uint64_t, g->data.count);
  Arena scratch = {0};
  ArenaMark empty = arena_mark(&scratch);
  Status status = OK;
  for (int64_t i = 0; i < g->data.count && status == OK; i++) {
    Post post = {0};
    Pair pair = {0};
    bool pairs = file->kind == DATASET_PAIRS;
    status = pairs ? dataset_pair(&g->data, i, &scratch, &pair) : dataset_post(&g->data, i, &scratch, &post);
    if (status != OK) break;
    const char *text = pairs ? pair.post : post.text;
    g->post[i] = text_hash(text);
    bool new_group = !pairs || i == 0 || g->post[i] != g->post[i - 1];
    if (new_group)
      file->posts_cut +=
          add_lengths(settings, text, &g->post_characters, &g->post_tokens, settings->max_post_tokens);
    if (pairs) {
      gather_pair(arena, settings, &pair, g->post[i], g, file);
      if (new_group) add_value(&g->per_post, 0);
      g->per_post.at[g->per_post.count - 1]++;
      uint64_t key[3] = {g->post[i], text_hash(pair.reply_j), text_hash(pair.reply_k)};
      g->line[i] = hash64(key, sizeof key);
    } else {
      gather_post(arena, settings, &post, g->post[i], g, file);
      g->line[i] = g->post[i];
    }
    arena_reset(&scratch, empty);
  }
  arena_free(&scratch);
  file->lines = g->data.count;
  return status;
}

/* ---- what the files say together ---- */

/* The first of sorted that is not before (reply, post). */
static size_t lower_bound(const Occurrence *sorted, size_t count, Occurrence key) {
  size_t low = 0;
  while (count > 0) {
    size_t half = count / 2;
    if (compare_occurrences(&sorted[low + half], &key) < 0) {
      low += half + 1;
      count -= half + 1;
    } else {
      count = half;
    }
  }
  return low;
}

/* How often a reply stands under a post; post UINT64_MAX with any: under whatever post. */
static size_t occurrences(const Occurrence *sorted, size_t count, uint64_t reply, uint64_t post, bool any) {
  size_t first = lower_bound(sorted, count, (Occurrence){reply, any ? 0 : post}), last = first;
  while (last < count && sorted[last].reply == reply && (any || sorted[last].post == post)) last++;
  return last - first;
}

static void check_pairs(Gathered *g, FileAudit *file, const Occurrence *sorted, size_t count) {
  uint64_t previous = 0;
  int position = 0;
  bool has_previous = false;
  for (int64_t i = 0; i < g->data.count; i++) {
    uint64_t post = g->post[i];
    if (i > 0 && post == g->post[i - 1]) {
      position++;
    } else {
      has_previous = i > 0;
      previous = i > 0 ? g->post[i - 1] : 0;
      position = 0;
    }
    PositionAudit *at = &file->position[position < AUDIT_POSITIONS ? position : AUDIT_POSITIONS - 1];
    /* likes were gathered in the order of the pairs and are sorted only later */
    double like_j = g->likes.at[2 * i], like_k = g->likes.at[2 * i + 1];
    at->pairs++;
    at->inverted += like_k > like_j;
    at->ties += like_k == like_j;
    const Occurrence *reply = &g->replies[2 * i];
    size_t here = reply[0].reply == reply[1].reply ? 2 : 1;
    for (int side = 0; side < 2; side++) {
      size_t own = occurrences(sorted, count, reply[side].reply, post, false);
      if (own > here || occurrences(sorted, count, reply[side].reply, 0, true) == own) continue;
      *(side ? &at->foreign_k : &at->foreign_j) += 1;
      at->previous += has_previous && occurrences(sorted, count, reply[side].reply, previous, false) > 0;
    }
  }
  for (int p = 0; p < AUDIT_POSITIONS; p++) {
    const PositionAudit *at = &file->position[p];
    file->all.pairs += at->pairs;
    file->all.inverted += at->inverted;
    file->all.ties += at->ties;
    file->all.foreign_j += at->foreign_j;
    file->all.foreign_k += at->foreign_k;
    file->all.previous += at->previous;
  }
}

/* Sorts and leaves each hash once; returns how many are left. */
static int64_t sort_unique(uint64_t *hash, int64_t count) {
  qsort(hash, (size_t)count, sizeof *hash, compare_hashes);
  int64_t kept = 0;
  for (int64_t i = 0; i < count; i++)
    if (i == 0 || hash[i] != hash[i - 1]) hash[kept++] = hash[i];
  return kept;
}

static int64_t count_shared(const uint64_t *a, int64_t a_count, const uint64_t *b, int64_t b_count) {
  int64_t shared = 0;
  for (int64_t i = 0, j = 0; i < a_count && j < b_count;) {
    shared += a[i] == b[j];
    if (a[i] <= b[j])
      i++;
    else
      j++;
  }
  return shared;
}

static void finish(Gathered *g, FileAudit *file) {
  file->posts = sort_unique(g->post, g->data.count);
  file->duplicate_lines = g->data.count - sort_unique(g->line, g->data.count);
  file->per_post = spread_of(&g->per_post);
  file->post_characters = spread_of(&g->post_characters);
  file->reply_characters = spread_of(&g->reply_characters);
  file->post_tokens = spread_of(&g->post_tokens);
  file->reply_tokens = spread_of(&g->reply_tokens);
  file->likes = spread_of(&g->likes);
  file->like_ratio = spread_of(&g->like_ratio);
}

static void compare_files(Arena *arena, Gathered *gathered, Audit *audit) {
  audit->shared = NEW(arena, SharedPosts, audit->files * audit->files);
  for (int a = 0; a < audit->files; a++) {
    for (int b = a + 1; b < audit->files; b++) {
      int64_t posts =
          count_shared(gathered[a].post, audit->file[a].posts, gathered[b].post, audit->file[b].posts);
      if (posts) audit->shared[audit->shares++] = (SharedPosts){a, b, posts};
    }
  }
}

static Status gather_all(Arena *arena, const char *const *paths, Gathered *gathered, Audit *audit) {
  for (int f = 0; f < audit->files; f++) {
    FileAudit *file = &audit->file[f];
    file->path = arena_strdup(arena, paths[f]);
    TRY(dataset_detect(file->path, &file->kind));
    TRY(dataset_open(arena, file->path, file->kind, &gathered[f].data));
    TRY(gather(arena, &audit->settings, &gathered[f], file));
  }
  return OK;
}

Status audit_files(Arena *arena, const char *const *paths, int files, const AuditSettings *settings,
                   Audit *out) {
  *out = (Audit){.settings = *settings, .file = NEW(arena, FileAudit, files), .files = files};
  Arena scratch = {0};
  Gathered *gathered = NEW(&scratch, Gathered, files);
  Status status = gather_all(&scratch, paths, gathered, out);
  if (status == OK) {
    size_t count = 0;
    for (int f = 0; f < files; f++) count += gathered[f].reply_count;
    Occurrence *sorted = NEW(&scratch, Occurrence, count);
    count = 0;
    for (int f = 0; f < files; f++) {
      memcpy(sorted + count, gathered[f].replies, gathered[f].reply_count * sizeof *sorted);
      count += gathered[f].reply_count;
    }
    qsort(sorted, count, sizeof *sorted, compare_occurrences);
    for (int f = 0; f < files; f++)
      if (out->file[f].kind == DATASET_PAIRS) check_pairs(&gathered[f], &out->file[f], sorted, count);
    for (int f = 0; f < files; f++) {
      out->file[f].path = arena_strdup(arena, paths[f]);
      finish(&gathered[f], &out->file[f]);
    }
    compare_files(arena, gathered, out);
    audit_judge(arena, out);
  }
  for (int f = 0; f < files; f++) dataset_close(&gathered[f].data);
  arena_free(&scratch);
  return status;
}

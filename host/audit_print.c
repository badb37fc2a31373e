/* The audit in words, tables and JSON. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "audit.h"

static const char *const ratio_names[AUDIT_RATIOS] = {"tie", "<2", "2-10", "10-100", ">100"};

/* ---- verdicts ---- */

enum { MAX_VERDICTS = 32 }; /* a file */

static double percent(int64_t part, int64_t whole) {
  return whole ? 100.0 * (double)part / (double)whole : 0;
}

static void say(Arena *arena, Audit *audit, const char *format, ...) __attribute__((format(printf, 3, 4)));
static void say(Arena *arena, Audit *audit, const char *format, ...) {
  char text[1024];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  audit->verdict[audit->verdicts++] = arena_strdup(arena, text);
}

static const char *ordinal(int position) {
  static const char *const names[AUDIT_POSITIONS] = {"first", "second", "third",   "fourth",
                                                     "fifth", "sixth",  "seventh", "eighth and later"};
  return names[position];
}

/* Places where something holds for a large share of the pairs are made by a rule, not by chance. */
static void judge_positions(Arena *arena, Audit *audit, const FileAudit *file) {
  for (int p = 0; p < AUDIT_POSITIONS; p++) {
    const PositionAudit *at = &file->position[p];
    if (at->pairs < 10) continue;
    double all = percent(file->all.inverted, file->all.pairs);
    if (percent(at->inverted, at->pairs) >= 90 && all < 90)
      say(arena, audit,
          "%s: the %s pair of a post is inverted nearly always (%lld of %lld); a rule made it so, not taste",
          file->path, ordinal(p), (long long)at->inverted, (long long)at->pairs);
    int64_t foreign = at->foreign_j + at->foreign_k, foreign_all = file->all.foreign_j + file->all.foreign_k;
    double share = percent(foreign, at->pairs);
    /* short replies are common, so a share that all places have may be chance */
    bool stands_out = share >= 2 * percent(foreign_all, file->all.pairs) || 2 * at->previous >= foreign;
    if (share >= 20 && stands_out)
      say(arena, audit,
          "%s: the %s pair of a post often has a foreign reply (%lld of %lld; text_j %lld, text_k %lld; %lld "
          "of them "
          "stand under the post before it); leave these pairs out",
          file->path, ordinal(p), (long long)foreign, (long long)at->pairs, (long long)at->foreign_j,
          (long long)at->foreign_k, (long long)at->previous);
  }
}

static void judge_pairs(Arena *arena, Audit *audit, const FileAudit *file) {
  const PositionAudit *all = &file->all;
  if (all->inverted)
    say(arena, audit,
        "%s: %lld of %lld pairs (%.1f%%) list the less liked reply first; keep reward.orient \"likes\", "
        "\"as_listed\" would learn them the wrong way round",
        file->path, (long long)all->inverted, (long long)all->pairs, percent(all->inverted, all->pairs));
  if (all->ties)
    say(arena, audit, "%s: %lld pairs (%.1f%%) have equally many likes and say nothing; they can be left out",
        file->path, (long long)all->ties, percent(all->ties, all->pairs));
  int64_t foreign = all->foreign_j + all->foreign_k;
  if (foreign)
    say(arena, audit,
        "%s: %lld replies (%.1f%% of the pairs) are known only from another post (short common ones may be "
        "there by chance)",
        file->path, (long long)foreign, percent(foreign, all->pairs));
  judge_positions(arena, audit, file);
  if (file->duplicate_lines)
    say(arena, audit, "%s: %lld pairs are there more than once; remove the repeats", file->path,
        (long long)file->duplicate_lines);
  if (file->duplicate_replies)
    say(arena, audit, "%s: %lld pairs set a reply against itself; remove them", file->path,
        (long long)file->duplicate_replies);
}

static void judge_posts(Arena *arena, Audit *audit, const FileAudit *file) {
  if (file->duplicate_lines)
    say(arena, audit, "%s: %lld lines repeat a post that was there before; join their replies", file->path,
        (long long)file->duplicate_lines);
  if (file->duplicate_replies)
    say(arena, audit, "%s: %lld replies stand twice under the same post; remove the repeats", file->path,
        (long long)file->duplicate_replies);
  if (file->unsorted_posts)
    say(arena, audit,
        "%s: under %lld posts the replies are not ordered by likes; \"replies_per_post\" takes the first "
        "ones",
        file->path, (long long)file->unsorted_posts);
}

static void judge_shared(Arena *arena, Audit *audit, const SharedPosts *shared) {
  const FileAudit *a = &audit->file[shared->first], *b = &audit->file[shared->second];
  const char *meaning =
      a->kind == DATASET_POSTS && b->kind == DATASET_POSTS
          ? "if one trains and the other evaluates, results on them are too good; remove them from one"
      : a->kind == b->kind
          ? "if one trains and the other evaluates, accuracies are too good; remove them from one"
          : "a reward model trained on these pairs knows the posts that it then judges";
  say(arena, audit, "%s and %s share %lld posts (of %lld and %lld); %s", a->path, b->path,
      (long long)shared->posts, (long long)a->posts, (long long)b->posts, meaning);
}

void audit_judge(Arena *arena, Audit *audit) {
  audit->verdict = NEW(arena, const char *, audit->files *(MAX_VERDICTS + audit->files));
  for (int f = 0; f < audit->files; f++) {
    const FileAudit *file = &audit->file[f];
    if (file->kind == DATASET_PAIRS)
      judge_pairs(arena, audit, file);
    else
      judge_posts(arena, audit, file);
    if (file->empty_replies)
      say(arena, audit, "%s: %lld replies are empty or white space; remove them", file->path,
          (long long)file->empty_replies);
    if (file->posts_cut)
      say(arena, audit, "%s: %lld posts (%.1f%%) are longer than data.max_post_tokens %d and lose their end",
          file->path, (long long)file->posts_cut, percent(file->posts_cut, file->post_tokens.count),
          audit->settings.max_post_tokens);
    if (file->replies_cut)
      say(arena, audit,
          "%s: %lld replies (%.1f%%) are longer than data.max_reply_tokens %d and lose their end", file->path,
          (long long)file->replies_cut, percent(file->replies_cut, file->reply_tokens.count),
          audit->settings.max_reply_tokens);
  }
  for (int s = 0; s < audit->shares; s++) judge_shared(arena, audit, &audit->shared[s]);
}

/* ---- tables ---- */

static void print_spread(Text *out, const char *name, const Spread *s) {
  if (s->count == 0) return;
  text_print(out, "  %-22s %9lld %9.2f %7g %7g %7g %7g %7g %8g\n", name, (long long)s->count, s->mean, s->min,
             s->p10, s->p50, s->p90, s->p99, s->max);
}

static void print_positions(Text *out, const FileAudit *file) {
  text_print(out, "\n  %-22s %9s %9s %7s %10s %10s %10s\n", "place in the post", "pairs", "inverted", "ties",
             "foreign j", "foreign k", "previous");
  for (int p = 0; p <= AUDIT_POSITIONS; p++) {
    const PositionAudit *at = p < AUDIT_POSITIONS ? &file->position[p] : &file->all;
    if (at->pairs == 0) continue;
    text_print(out, "  %-22s %9lld %9lld %7lld %10lld %10lld %10lld\n",
               p < AUDIT_POSITIONS ? ordinal(p) : "all", (long long)at->pairs, (long long)at->inverted,
               (long long)at->ties, (long long)at->foreign_j, (long long)at->foreign_k,
               (long long)at->previous);
  }
}

static void print_file(Text *out, const FileAudit *file) {
  bool pairs = file->kind == DATASET_PAIRS;
  text_print(out, "%s: %s, %lld lines, %lld posts, %lld replies\n", file->path, pairs ? "pairs" : "posts",
             (long long)file->lines, (long long)file->posts, (long long)file->replies);
  text_print(out, "  %-22s %9s %9s %7s %7s %7s %7s %7s %8s\n", "", "count", "mean", "min", "10%", "50%",
             "90%", "99%", "max");
  print_spread(out, pairs ? "pairs of a post" : "replies of a post", &file->per_post);
  print_spread(out, "characters of a post", &file->post_characters);
  print_spread(out, "characters of a reply", &file->reply_characters);
  print_spread(out, "tokens of a post", &file->post_tokens);
  print_spread(out, "tokens of a reply", &file->reply_tokens);
  print_spread(out, "likes of a reply", &file->likes);
  print_spread(out, "like ratio of a pair", &file->like_ratio);
  if (file->post_tokens.count)
    text_print(out, "  cut off: %.1f%% of posts, %.1f%% of replies\n",
               percent(file->posts_cut, file->post_tokens.count),
               percent(file->replies_cut, file->reply_tokens.count));
  if (pairs) {
    text_print(out, "  pairs by like ratio:");
    for (int r = 0; r < AUDIT_RATIOS; r++)
      text_print(out, "  %s %lld", ratio_names[r], (long long)file->by_ratio[r]);
    text_print(out, "\n");
    print_positions(out, file);
  }
  text_print(out, "\n");
}

void audit_print(const Audit *audit, Text *out) {
  for (int f = 0; f < audit->files; f++) print_file(out, &audit->file[f]);
  if (audit->verdicts == 0) text_print(out, "No defects found.\n");
  for (int v = 0; v < audit->verdicts; v++)
    text_print(out, "%s- %s\n", v ? "" : "Found:\n", audit->verdict[v]);
}

/* ---- JSON ---- */

static void put_spread(cJSON *object, const char *name, const Spread *s) {
  if (s->count == 0) return;
  cJSON *spread = cJSON_AddObjectToObject(object, name);
  cJSON_AddNumberToObject(spread, "count", (double)s->count);
  cJSON_AddNumberToObject(spread, "mean", s->mean);
  cJSON_AddNumberToObject(spread, "min", s->min);
  cJSON_AddNumberToObject(spread, "p10", s->p10);
  cJSON_AddNumberToObject(spread, "p50", s->p50);
  cJSON_AddNumberToObject(spread, "p90", s->p90);
  cJSON_AddNumberToObject(spread, "p99", s->p99);
  cJSON_AddNumberToObject(spread, "max", s->max);
}

static void put_counts(cJSON *object, const char *const *names, const int64_t *counts, int count) {
  for (int i = 0; i < count; i++) cJSON_AddNumberToObject(object, names[i], (double)counts[i]);
}

static void put_position(cJSON *object, const PositionAudit *at) {
  static const char *const names[] = {"pairs", "inverted", "ties", "foreign_j", "foreign_k", "previous"};
  const int64_t counts[] = {at->pairs, at->inverted, at->ties, at->foreign_j, at->foreign_k, at->previous};
  put_counts(object, names, counts, 6);
}

static void put_pairs(cJSON *object, const FileAudit *file) {
  put_spread(object, "like_ratio", &file->like_ratio);
  put_counts(cJSON_AddObjectToObject(object, "by_like_ratio"), ratio_names, file->by_ratio, AUDIT_RATIOS);
  put_position(cJSON_AddObjectToObject(object, "all"), &file->all);
  cJSON *positions = cJSON_AddArrayToObject(object, "by_position");
  int last = AUDIT_POSITIONS;
  while (last > 0 && file->position[last - 1].pairs == 0) last--;
  for (int p = 0; p < last; p++) {
    cJSON *position = cJSON_CreateObject();
    put_position(position, &file->position[p]);
    cJSON_AddItemToArray(positions, position);
  }
}

static cJSON *put_file(const FileAudit *file) {
  bool pairs = file->kind == DATASET_PAIRS;
  cJSON *object = cJSON_CreateObject();
  cJSON_AddStringToObject(object, "path", file->path);
  cJSON_AddStringToObject(object, "kind", pairs ? "pairs" : "posts");
  static const char *const names[] = {
      "lines",         "posts",          "replies",   "duplicate_lines", "duplicate_replies",
      "empty_replies", "unsorted_posts", "posts_cut", "replies_cut"};
  const int64_t counts[] = {file->lines,
                            file->posts,
                            file->replies,
                            file->duplicate_lines,
                            file->duplicate_replies,
                            file->empty_replies,
                            file->unsorted_posts,
                            file->posts_cut,
                            file->replies_cut};
  put_counts(object, names, counts, 9);
  put_spread(object, pairs ? "pairs_of_a_post" : "replies_of_a_post", &file->per_post);
  put_spread(object, "post_characters", &file->post_characters);
  put_spread(object, "reply_characters", &file->reply_characters);
  put_spread(object, "post_tokens", &file->post_tokens);
  put_spread(object, "reply_tokens", &file->reply_tokens);
  put_spread(object, "likes", &file->likes);
  if (pairs) put_pairs(object, file);
  return object;
}

cJSON *audit_json(const Audit *audit) {
  cJSON *root = cJSON_CreateObject();
  cJSON *files = cJSON_AddArrayToObject(root, "files");
  for (int f = 0; f < audit->files; f++) cJSON_AddItemToArray(files, put_file(&audit->file[f]));
  cJSON *shared = cJSON_AddArrayToObject(root, "shared_posts");
  for (int s = 0; s < audit->shares; s++) {
    cJSON *item = cJSON_CreateObject();
    cJSON_AddStringToObject(item, "first", audit->file[audit->shared[s].first].path);
    cJSON_AddStringToObject(item, "second", audit->file[audit->shared[s].second].path);
    cJSON_AddNumberToObject(item, "posts", (double)audit->shared[s].posts);
    cJSON_AddItemToArray(shared, item);
  }
  cJSON *verdicts = cJSON_AddArrayToObject(root, "verdicts");
  for (int v = 0; v < audit->verdicts; v++)
    cJSON_AddItemToArray(verdicts, cJSON_CreateString(audit->verdict[v]));
  return root;
}

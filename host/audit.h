/* What is wrong with data files before anything is trained on them: popalm data stats. */
#ifndef POPALM_AUDIT_H
#define POPALM_AUDIT_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/status.h"
#include "base/text.h"
#include "dataset.h"
#include "tokenizer.h"

/* A distribution; all 0 when count is 0. Quantiles are values that occur (nearest rank). */
typedef struct Spread {
  int64_t count;
  double mean, min, p10, p50, p90, p99, max;
} Spread;

enum { AUDIT_POSITIONS = 8, AUDIT_RATIOS = 5 };

/* The pairs that stand at one place among the consecutive pairs of their post. A reply is foreign when
 * nothing but this pair shows it under its post, and it does stand under another post. */
typedef struct PositionAudit {
  int64_t pairs, inverted, ties, foreign_j, foreign_k;
  int64_t previous; /* of the foreign ones: replies of the post before this one */
} PositionAudit;

typedef struct FileAudit {
  const char *path;
  DatasetKind kind;
  int64_t lines, posts /* different ones */, replies;
  int64_t duplicate_lines;   /* posts: the post was there before; pairs: post and both replies were */
  int64_t duplicate_replies; /* posts: twice under one post; pairs: a pair of two equal replies */
  int64_t empty_replies, unsorted_posts /* a reply with more likes stands behind one with fewer */;
  Spread per_post; /* replies or pairs */
  Spread post_characters, reply_characters, post_tokens, reply_tokens;
  int64_t posts_cut, replies_cut; /* lines, replies longer than the limits; 0 without a tokenizer */
  Spread likes, like_ratio;       /* more likes over fewer (at least 1) in a pair */
  int64_t by_ratio[AUDIT_RATIOS]; /* pairs: tie, below 2, 2-10, 10-100, above */
  PositionAudit position[AUDIT_POSITIONS], all; /* the last position has all later ones too */
} FileAudit;

typedef struct SharedPosts {
  int first, second; /* files */
  int64_t posts;
} SharedPosts;

typedef struct AuditSettings {
  const Tokenizer *tokenizer; /* or NULL */
  int max_post_tokens, max_reply_tokens;
} AuditSettings;

typedef struct Audit {
  AuditSettings settings;
  FileAudit *file;
  int files;
  SharedPosts *shared; /* every two files that share posts */
  int shares;
  const char **verdict; /* one sentence for each defect found */
  int verdicts;
} Audit;

Status audit_files(Arena *arena, const char *const *paths, int files, const AuditSettings *settings,
                   Audit *out) CHECKED;
/* Aligned tables, then the verdicts. */
void audit_print(const Audit *audit, Text *out);
cJSON *audit_json(const Audit *audit);
/* The verdicts; called by audit_files. */
void audit_judge(Arena *arena, Audit *audit);

#endif

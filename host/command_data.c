/* popalm data synth | stats | pairs | convert */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "audit.h"
#include "base/text.h"
#include "commands.h"
#include "convert.h"
#include "dataset.h"
#include "options.h"
#include "pairs.h"
#include "world.h"

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

/* ---- synth ---- */

static Status data_synth(Arena *arena, int argc, char **argv) {
  (void)arena;
  WorldSettings world = world_defaults;
  const char *out = NULL;
  const Option options[] = {
      {"--out", OPTION_TEXT, &out, "DIR", "where train.json, dev.json, pairs.json and world.json go (required)", 0, 0},
      {"--seed", OPTION_SEED, &world.seed, "N", "same settings and seed, same bytes", 0, 0},
      {"--train-posts", OPTION_INT, &world.train_posts, "N", "posts of train.json", 1, 1e7},
      {"--dev-posts", OPTION_INT, &world.dev_posts, "N", "posts of dev.json and pairs.json", 1, 1e7},
      {"--replies-per-post", OPTION_INT, &world.replies_per_post, "N", "most liked replies kept of twice as many", 1, 1000},
      {"--exposure-noise", OPTION_NUMBER, &world.exposure_noise, "X", "sigma of the log exposure; 0: none", 0, 10},
      {"--early-bird", OPTION_NUMBER, &world.early_bird, "X", "extra log-likes of the first replies; 0: none", 0, 10},
      {"--author-noise", OPTION_NUMBER, &world.author_noise, "X", "sigma of the authors' log-followers; 0: none", 0, 10},
      {"--flip", OPTION_NUMBER, &world.flip, "P", "probability that a reply has another's likes", 0, 1},
  };
  const OptionTable table = {"popalm data synth", "--out DIR [options]",
                             "Makes a synthetic world of posts, replies and likes whose true popularity is known.", options,
                             COUNT(options)};
  int positional;
  bool help;
  TRY(options_parse(&table, argc, argv, &positional, &help));
  if (help) return OK;
  if (positional) return fail(INVALID, "popalm data synth: unexpected argument %s; the folder goes after --out", argv[0]);
  if (!out) return fail(INVALID, "popalm data synth: --out DIR is missing; name the folder to write into");
  TRY(make_folders(out));
  TRY(world_write(&world, out));
  printf("wrote %d training and %d dev posts with pairs to %s\n", world.train_posts, world.dev_posts, out);
  return OK;
}

/* ---- stats ---- */

static Status data_stats(Arena *arena, int argc, char **argv) {
  bool json = false;
  const char *tokenizer_path = NULL;
  AuditSettings settings = {.max_post_tokens = 128, .max_reply_tokens = 32};
  const Option options[] = {
      {"--tokenizer", OPTION_TEXT, &tokenizer_path, "FILE", "tokenizer.json: also lengths in tokens and what is cut off", 0, 0},
      {"--max-post-tokens", OPTION_INT, &settings.max_post_tokens, "N", "longer posts are cut", 1, 1e6},
      {"--max-reply-tokens", OPTION_INT, &settings.max_reply_tokens, "N", "longer replies are cut", 1, 1e6},
      {"--json", OPTION_FLAG, &json, NULL, "as JSON", 0, 0},
  };
  const OptionTable table = {"popalm data stats", "FILE... [options]",
                             "Counts, likes and lengths of files of posts or pairs, and what is wrong with them. Give all\n"
                             "files of an experiment together, so that shared posts and foreign replies are found.",
                             options, COUNT(options)};
  int files;
  bool help;
  TRY(options_parse(&table, argc, argv, &files, &help));
  if (help) return OK;
  if (files == 0) return fail(INVALID, "popalm data stats: no file given; name one or more files of posts or pairs");
  Tokenizer *tokenizer = NULL;
  if (tokenizer_path) TRY(tokenizer_load(arena, tokenizer_path, &tokenizer));
  settings.tokenizer = tokenizer;
  Audit audit;
  TRY(audit_files(arena, argv, files, &settings, &audit));
  if (json) {
    cJSON *root = audit_json(&audit);
    char *text = cJSON_Print(root);
    puts(text);
    free(text);
    cJSON_Delete(root);
  } else {
    Text text = {.arena = arena};
    audit_print(&audit, &text);
    fwrite(text.data, 1, text.length, stdout);
  }
  return OK;
}

/* ---- pairs ---- */

static Status data_pairs(Arena *arena, int argc, char **argv) {
  const char *out = NULL;
  PairSettings settings = {.min_ratio = 1, .per_post = 4, .seed = 2023};
  const Option options[] = {
      {"--out", OPTION_TEXT, &out, "PAIRS", "the file to write (required)", 0, 0},
      {"--min-ratio", OPTION_NUMBER, &settings.min_ratio, "R", "least ratio of likes; ties never make a pair", 1, 1e9},
      {"--per-post", OPTION_INT, &settings.per_post, "N", "at most so many pairs of a post, drawn at random; 0: all", 0, 1e9},
      {"--seed", OPTION_SEED, &settings.seed, "N", "of the drawing", 0, 0},
  };
  const OptionTable table = {"popalm data pairs", "FILE --out PAIRS [options]",
                             "Makes reply pairs from posts with likes, the more liked reply always first.", options,
                             COUNT(options)};
  int files;
  bool help;
  TRY(options_parse(&table, argc, argv, &files, &help));
  if (help) return OK;
  if (files != 1) return fail(INVALID, "popalm data pairs: %d files given; name one file of posts with likes", files);
  if (!out) return fail(INVALID, "popalm data pairs: --out PAIRS is missing; name the file to write");
  Dataset posts;
  TRY(dataset_open(arena, argv[0], DATASET_POSTS, &posts));
  Text text = {.arena = arena};
  int64_t count;
  Status status = pairs_make(&posts, &settings, &text, &count);
  if (status == OK) status = file_write(out, text.data, text.length);
  if (status == OK) printf("wrote %lld pairs from %lld posts to %s\n", (long long)count, (long long)posts.count, out);
  dataset_close(&posts);
  return status;
}

/* ---- convert ---- */

static Status data_convert(Arena *arena, int argc, char **argv) {
  const char *out = NULL;
  ConvertKeys keys = {0};
  const Option options[] = {
      {"--out", OPTION_TEXT, &out, "POSTS", "the file to write (required)", 0, 0},
      {"--post-key", OPTION_TEXT, &keys.post, "NAME", "column or key of the post; dots go through objects", 0, 0},
      {"--reply-key", OPTION_TEXT, &keys.reply, "NAME", "of the reply or list of replies, e.g. answers.content", 0, 0},
      {"--like-key", OPTION_TEXT, &keys.like, "NAME", "of its likes, e.g. answers.voteup_count", 0, 0},
  };
  const OptionTable table = {"popalm data convert", "FILE --out POSTS [options]",
                             "Turns CSV, TSV, JSON lines or a JSON list into a file of posts. Consecutive rows of one post are\n"
                             "joined; with likes the replies are ordered, most liked first. Usual names are found by themselves.",
                             options, COUNT(options)};
  int files;
  bool help;
  TRY(options_parse(&table, argc, argv, &files, &help));
  if (help) return OK;
  if (files != 1) return fail(INVALID, "popalm data convert: %d files given; name one", files);
  if (!out) return fail(INVALID, "popalm data convert: --out POSTS is missing; name the file to write");
  Text text = {.arena = arena};
  Converted result;
  TRY(convert_file(argv[0], &keys, &text, &result));
  TRY(file_write(out, text.data, text.length));
  printf("wrote %lld posts with %lld replies to %s", (long long)result.posts, (long long)result.replies, out);
  if (result.skipped) printf(" (%lld empty ones left out)", (long long)result.skipped);
  putchar('\n');
  return OK;
}

/* ---- dispatch ---- */

typedef struct Subcommand {
  const char *name;
  Status (*run)(Arena *arena, int argc, char **argv);
  const char *help;
} Subcommand;

static const Subcommand subcommands[] = {
    {"synth", data_synth, "make a synthetic world whose true popularity is known"},
    {"stats", data_stats, "counts, likes, lengths, and what is wrong with the files"},
    {"pairs", data_pairs, "reply pairs from posts with likes"},
    {"convert", data_convert, "CSV and JSON of other shapes to a file of posts"},
};

Status command_data(Arena *arena, int argc, char **argv) {
  const char *names[COUNT(subcommands)];
  const char *word = argc > 1 ? argv[1] : "";
  if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
    puts("usage: popalm data synth|stats|pairs|convert ...\n");
    for (int i = 0; i < COUNT(subcommands); i++) printf("  %-10s %s\n", subcommands[i].name, subcommands[i].help);
    puts("\npopalm data SUBCOMMAND --help describes one.");
    return OK;
  }
  for (int i = 0; i < COUNT(subcommands); i++) {
    names[i] = subcommands[i].name;
    if (strcmp(word, names[i]) == 0) return subcommands[i].run(arena, argc - 1, argv + 1);
  }
  if (!*word) return fail(INVALID, "popalm data: no subcommand; give synth, stats, pairs or convert");
  const char *near = nearest_name(word, names, COUNT(names));
  if (near) return fail(INVALID, "popalm data: unknown subcommand %s; did you mean %s?", word, near);
  return fail(INVALID, "popalm data: unknown subcommand %s; give synth, stats, pairs or convert", word);
}

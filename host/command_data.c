/* popalm data synth | stats | pairs | convert */
#include <stdint.h>
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

static Status read_world(const Arguments *arguments, WorldSettings *out) {
  const WorldSettings *d = &world_defaults;
  int64_t seed, train, dev, replies;
  TRY(option_int(arguments, "--seed", 0, INT64_MAX, (int64_t)d->seed, &seed));
  TRY(option_int(arguments, "--train-posts", 1, 10000000, d->train_posts, &train));
  TRY(option_int(arguments, "--dev-posts", 1, 1000000, d->dev_posts, &dev));
  TRY(option_int(arguments, "--replies-per-post", 2, 1000, d->replies_per_post, &replies));
  *out = (WorldSettings){.seed = (uint64_t)seed,
                         .train_posts = (int)train,
                         .dev_posts = (int)dev,
                         .replies_per_post = (int)replies};
  TRY(option_number(arguments, "--exposure-noise", 0, 10, d->exposure_noise, &out->exposure_noise));
  TRY(option_number(arguments, "--early-bird", 0, 10, d->early_bird, &out->early_bird));
  TRY(option_number(arguments, "--author-noise", 0, 10, d->author_noise, &out->author_noise));
  return option_number(arguments, "--flip", 0, 1, d->flip, &out->flip);
}

/* The value of --out, which every writing subcommand requires. */
static Status required_out(const Arguments *arguments, const char *command, const char **out) {
  *out = option_text(arguments, "--out", NULL);
  return *out ? OK : fail(INVALID, "popalm %s: --out is missing; usage: %s", command, arguments->line->usage);
}

static Status data_synth(Arena *arena, int argc, char **argv) {
  const WorldSettings *d = &world_defaults;
  const Option options[] = {
      {"--out", "DIR", "where train.json, dev.json, pairs.json and world.json go (required)"},
      {"--seed", "N",
       arena_print(arena, "same settings and seed, same bytes [%llu]", (unsigned long long)d->seed)},
      {"--train-posts", "N", arena_print(arena, "posts of train.json [%d]", d->train_posts)},
      {"--dev-posts", "N", arena_print(arena, "posts of dev.json [%d]", d->dev_posts)},
      {"--replies-per-post", "N",
       arena_print(arena, "replies kept of each post: the most liked of twice as many [%d]",
                   d->replies_per_post)},
      {"--exposure-noise", "X",
       arena_print(arena, "sigma of a reply's log exposure; 0: none [%g]", d->exposure_noise)},
      {"--early-bird", "X",
       arena_print(arena, "extra log-likes of the first reply; 0: none [%g]", d->early_bird)},
      {"--author-noise", "X",
       arena_print(arena, "sigma of the authors' log-followers; 0: none [%g]", d->author_noise)},
      {"--flip", "P",
       arena_print(arena, "probability that a reply swaps its likes with another [%g]", d->flip)},
  };
  const CommandLine synth_line = {
      .usage = "popalm data synth --out DIR [options]",
      .summary = "Makes a synthetic world of posts, replies and likes whose true popularity is known.",
      .options = options,
      .option_count = COUNT(options)};
  Arguments arguments;
  TRY(command_line_parse(arena, &synth_line, argc, argv, &arguments));
  if (arguments.help) return OK;
  const char *out;
  WorldSettings world;
  TRY(required_out(&arguments, argv[0], &out));
  TRY(read_world(&arguments, &world));
  TRY(make_folders(out));
  TRY(world_write(&world, out));
  printf("wrote %d training and %d dev posts, and pairs, to %s\n", world.train_posts, world.dev_posts, out);
  return OK;
}

/* ---- stats ---- */

static const Option stats_options[] = {
    {"--tokenizer", "FILE", "tokenizer.json: also lengths in tokens and what is cut off"},
    {"--max-post-tokens", "N", "longer posts are cut [128]"},
    {"--max-reply-tokens", "N", "longer replies are cut [32]"},
    {"--json", NULL, "as JSON"},
};
static const CommandLine stats_line = {
    .usage = "popalm data stats FILE... [options]",
    .summary =
        "Counts, likes and lengths of files of posts or pairs, and what is wrong with them. Give all\n"
        "files of an experiment together, so that shared posts and foreign replies are found.",
    .options = stats_options,
    .option_count = COUNT(stats_options),
    .min_positional = 1,
    .max_positional = -1};

static Status data_stats(Arena *arena, int argc, char **argv) {
  Arguments arguments;
  TRY(command_line_parse(arena, &stats_line, argc, argv, &arguments));
  if (arguments.help) return OK;
  int64_t max_post, max_reply;
  TRY(option_int(&arguments, "--max-post-tokens", 1, 1 << 20, 128, &max_post));
  TRY(option_int(&arguments, "--max-reply-tokens", 1, 1 << 20, 32, &max_reply));
  Tokenizer *tokenizer = NULL;
  const char *tokenizer_path = option_text(&arguments, "--tokenizer", NULL);
  if (tokenizer_path) TRY(tokenizer_load(arena, tokenizer_path, &tokenizer));
  AuditSettings settings = {tokenizer, (int)max_post, (int)max_reply};
  Audit audit;
  TRY(audit_files(arena, arguments.positional, arguments.positional_count, &settings, &audit));
  if (option_given(&arguments, "--json")) {
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

static const Option pairs_options[] = {
    {"--out", "PAIRS", "the file to write (required)"},
    {"--min-ratio", "R", "least ratio of likes; ties never make a pair [1]"},
    {"--per-post", "N", "at most so many pairs of a post, drawn at random; 0: all [4]"},
    {"--seed", "N", "of the drawing [1]"},
};
static const CommandLine pairs_line = {
    .usage = "popalm data pairs FILE --out PAIRS [options]",
    .summary = "Makes reply pairs from posts with likes, the more liked reply always first.",
    .options = pairs_options,
    .option_count = COUNT(pairs_options),
    .min_positional = 1,
    .max_positional = 1};

static Status data_pairs(Arena *arena, int argc, char **argv) {
  Arguments arguments;
  TRY(command_line_parse(arena, &pairs_line, argc, argv, &arguments));
  if (arguments.help) return OK;
  const char *out;
  int64_t per_post, seed, count;
  PairSettings settings;
  TRY(required_out(&arguments, argv[0], &out));
  TRY(option_number(&arguments, "--min-ratio", 1, 1e9, 1, &settings.min_ratio));
  TRY(option_int(&arguments, "--per-post", 0, 1000000000, 4, &per_post));
  TRY(option_int(&arguments, "--seed", 0, INT64_MAX, 1, &seed));
  settings.per_post = (int)per_post;
  settings.seed = (uint64_t)seed;
  Dataset posts;
  TRY(dataset_open(arena, arguments.positional[0], DATASET_POSTS, &posts));
  Text text = {.arena = arena};
  Status status = pairs_make(&posts, &settings, &text, &count);
  if (status == OK) status = file_write(out, text.data, text.length);
  if (status == OK)
    printf("wrote %lld pairs from %lld posts to %s\n", (long long)count, (long long)posts.count, out);
  dataset_close(&posts);
  return status;
}

/* ---- convert ---- */

static const Option convert_options[] = {
    {"--out", "POSTS", "the file to write (required)"},
    {"--post-key", "NAME", "column or key of the post; dots go through objects and lists"},
    {"--reply-key", "NAME", "of the reply or list of replies, e.g. answers.content"},
    {"--like-key", "NAME", "of its likes, e.g. answers.voteup_count"},
};
static const CommandLine convert_line = {
    .usage = "popalm data convert FILE --out POSTS [options]",
    .summary =
        "Turns CSV, TSV, JSON lines or a JSON list into a file of posts. Consecutive rows of one post are\n"
        "joined; with likes the replies are ordered, most liked first. Usual names are found by themselves.",
    .options = convert_options,
    .option_count = COUNT(convert_options),
    .min_positional = 1,
    .max_positional = 1};

static Status data_convert(Arena *arena, int argc, char **argv) {
  Arguments arguments;
  TRY(command_line_parse(arena, &convert_line, argc, argv, &arguments));
  if (arguments.help) return OK;
  const char *out;
  TRY(required_out(&arguments, argv[0], &out));
  ConvertKeys keys = {option_text(&arguments, "--post-key", NULL),
                      option_text(&arguments, "--reply-key", NULL),
                      option_text(&arguments, "--like-key", NULL)};
  Text text = {.arena = arena};
  Converted result;
  TRY(convert_file(arguments.positional[0], &keys, &text, &result));
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

/* Messages call it "popalm data stats". */
static Status run_subcommand(Arena *arena, const Subcommand *subcommand, int argc, char **argv) {
  argv[0] = arena_print(arena, "data %s", subcommand->name);
  return subcommand->run(arena, argc, argv);
}

Status command_data(Arena *arena, int argc, char **argv) {
  const char *names[COUNT(subcommands)];
  const char *word = argc > 1 ? argv[1] : "";
  if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
    puts("usage: popalm data synth|stats|pairs|convert ...\n");
    for (int i = 0; i < COUNT(subcommands); i++)
      printf("  %-10s %s\n", subcommands[i].name, subcommands[i].help);
    puts("\npopalm data SUBCOMMAND --help describes one.");
    return OK;
  }
  for (int i = 0; i < COUNT(subcommands); i++) {
    names[i] = subcommands[i].name;
    if (strcmp(word, names[i]) == 0) return run_subcommand(arena, &subcommands[i], argc - 1, argv + 1);
  }
  if (!*word) return fail(INVALID, "popalm data: no subcommand; give synth, stats, pairs or convert");
  const char *near = nearest_name(word, names, COUNT(names));
  if (near) return fail(INVALID, "popalm data: unknown subcommand %s; did you mean %s?", word, near);
  return fail(INVALID, "popalm data: unknown subcommand %s; give synth, stats, pairs or convert", word);
}

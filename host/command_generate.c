/* popalm generate: the replies that most people will like, by a trained model: samples candidates, scores
 * them by the reward model, shows the best. */
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/text.h"
#include "base/visible.h"
#include "commands.h"
#include "generator.h"
#include "json_lines.h"
#include "options.h"
#include "progress.h"
#include "reply_stream.h"

static const Option options[] = {
    {"--post", "TEXT|-", "the post; - reads one post a line from standard input [-]"},
    {"-n", "K", "replies to show [5]"},
    {"--candidates", "N", "replies to sample, of which the K with the highest rewards are shown [4 K]"},
    {"--reward", "DIR", "reward model; without it the one of the run, if MODEL is in a run"},
    {"--temperature", "X", "of the sampling; 0 takes the most likely token [as the model was evaluated]"},
    {"--top-p", "P", "sample from the smallest set of tokens with this probability [as evaluated]"},
    {"--top-k", "N", "sample from so many tokens; 0: all [as evaluated]"},
    {"--seed", "N", "same seed, same replies [1]"},
    {"--device", "auto|cpu|cuda[:n]", "where to compute [auto]"},
    {"--json", NULL, "one line a post: {\"post\", \"replies\": [{\"text\", \"reward\", \"logprob\"}]}"},
    {"--lines", "FILE|-",
     "posts as JSON lines {\"post\": text, ...} (or \"weibo\"); each comes back with \"replies\""},
    {"--batch", "N", "posts answered together; changes no reply [16 with --lines, else 1]"},
    {"--stream", NULL, "one reply, shown while it is drawn [where 1 candidate goes to a terminal]"},
};

static const CommandLine line = {
    .usage = "popalm generate MODEL [options]",
    .summary =
        "Prints the K most popular replies that a model predicts under a post, best first.\n"
        "MODEL is a run (runs/quickstart: its first arm and seed), one arm and seed of it\n"
        "(runs/quickstart/arms/cl-ppo/seed-1), or a folder with model.safetensors.",
    .options = options,
    .option_count = sizeof options / sizeof *options,
    .min_positional = 1,
    .max_positional = 1};

typedef struct Generate {
  Generator generator;
  int shown;
  bool json, stream;
  const char *post; /* NULL: they are read */
  bool rows;        /* of JSON, not lines of text */
  JsonLines lines;
} Generate;

/* A post that waits for its answer. */
typedef struct Question {
  const char *post;
  Json row; /* root NULL: a text */
} Question;

/* ---- finding the model ---- */

static bool has(Arena *arena, const char *folder, const char *name) {
  return file_exists(path_join(arena, folder, name));
}

/* The first entry of folder by name; seed-2 comes before seed-10. NULL if there is none. */
static const char *first_entry(Arena *arena, const char *folder) {
  struct dirent **entries;
  int count = scandir(folder, &entries, NULL, versionsort);
  const char *first = NULL;
  for (int i = 0; i < count; i++) {
    if (!first && entries[i]->d_name[0] != '.') first = path_join(arena, folder, entries[i]->d_name);
    free(entries[i]);
  }
  if (count >= 0) free(entries);
  return first;
}

static Status find_model(Arena *arena, const char *path, const char **model, const char **reward) {
  *model = path;
  *reward = NULL;
  if (has(arena, path, "model.safetensors")) return OK;
  const char *run = path;
  if (has(arena, path, "arms")) {
    const char *arm = first_entry(arena, path_join(arena, path, "arms"));
    run = arm ? first_entry(arena, arm) : NULL;
  }
  if (run && has(arena, run, "ppo/model.safetensors")) {
    *model = path_join(arena, run, "ppo");
    if (has(arena, run, "reward/model.safetensors")) *reward = path_join(arena, run, "reward");
    return OK;
  }
  return fail(INVALID, "%s: has no trained model; give a finished run, or a folder with model.safetensors",
              path);
}

/* ---- answers ---- */

static cJSON *replies_json(const Generate *g, const Answer *answer, int count) {
  cJSON *list = cJSON_CreateArray();
  for (int i = 0; i < count; i++) {
    cJSON *reply = cJSON_CreateObject();
    cJSON_AddStringToObject(reply, "text", answer->candidates[i].text);
    if (g->generator.ranked) cJSON_AddNumberToObject(reply, "reward", answer->candidates[i].reward);
    cJSON_AddNumberToObject(reply, "logprob", answer->candidates[i].logprob);
    cJSON_AddItemToArray(list, reply);
  }
  return list;
}

static void print_json(const Generate *g, const Question *question, const Answer *answer, int count) {
  cJSON *object = cJSON_CreateObject();
  if (!question->row.root) cJSON_AddStringToObject(object, "post", question->post);
  cJSON_AddItemToObject(object, "replies", replies_json(g, answer, count));
  if (question->row.root) {
    json_row_print(stdout, &question->row, object);
  } else {
    char *text = cJSON_PrintUnformatted(object);
    printf("%s\n", text);
    cJSON_free(text);
  }
  cJSON_Delete(object);
}

static void print_reply(const Generate *g, int place, const Candidate *candidate) {
  if (!g->stream) {
    printf("%d. ", place);
    print_visible(stdout, candidate->text, strlen(candidate->text));
  }
  printf("  (%s %.3f)\n", g->generator.ranked ? "reward" : "logprob", candidate->reward);
}

/* The answer's line, the reply while it is drawn. */
static Status answer_live(Generate *g, Answer *answer, Arena *scratch) {
  ReplyStream stream = {.tokenizer = g->generator.codec.tokenizer, .out = stdout};
  printf("1. ");
  fflush(stdout);
  TRY(generator_answer(&g->generator, answer, 1, (RolloutWatch){reply_stream_show, &stream}, scratch));
  reply_stream_end(&stream, answer->candidates[0].text);
  return OK;
}

static Status answer(Generate *g, const Question *questions, int count, Arena *scratch) {
  Answer *answers = NEW(scratch, Answer, count);
  for (int i = 0; i < count; i++) answers[i].post = questions[i].post;
  TRY(g->stream ? answer_live(g, answers, scratch)
                : generator_answer(&g->generator, answers, count, (RolloutWatch){0}, scratch));
  for (int i = 0; i < count; i++) {
    int shown = answers[i].count < g->shown ? answers[i].count : g->shown;
    if (g->json) print_json(g, &questions[i], &answers[i], shown);
    for (int k = 0; k < shown && !g->json; k++) print_reply(g, k + 1, &answers[i].candidates[k]);
  }
  fflush(stdout);
  return OK;
}

/* ---- posts ---- */

static Status check_post(const char *where, const char *post, size_t length) {
  size_t invalid = utf8_invalid_at(post, length), zero = strlen(post);
  if (invalid < length || zero < length)
    return fail(INVALID, "%s: the post is not UTF-8 text at byte %zu; convert it", where,
                (invalid < zero ? invalid : zero) + 1);
  return length ? OK : fail(INVALID, "%s: the post is empty; give its text", where);
}

static Status next_line(Generate *g, Arena *scratch, Question *out, bool *end) {
  do out->post = json_lines_text(&g->lines, scratch);
  while (out->post && g->lines.length == 0);
  *end = !out->post;
  if (*end) return OK;
  return check_post(arena_print(scratch, "%s:%d", g->lines.path, g->lines.number), out->post,
                    g->lines.length);
}

static Status next_row(Generate *g, Arena *scratch, Question *out, bool *end) {
  TRY(json_lines_row(&g->lines, scratch, &out->row, end));
  if (*end) return OK;
  Status status = json_row_post(&out->row, &out->post);
  if (status == OK) status = json_row_lacks(&out->row, "replies");
  if (status != OK) json_free(&out->row);
  return status;
}

/* As many as are answered together; a wrong one ends them, after those before it. */
static Status read_some(Generate *g, Arena *scratch, Question *questions, int *count, bool *end) {
  int room = generator_room(&g->generator);
  Status status = OK;
  for (*count = 0, *end = false; *count < room && status == OK && !*end;) {
    Question *next = &questions[*count];
    *next = (Question){0};
    status = g->rows ? next_row(g, scratch, next, end) : next_line(g, scratch, next, end);
    *count += status == OK && !*end;
  }
  return status;
}

static Status answer_some(Generate *g, Arena *scratch, bool *end) {
  Question *questions = NEW(scratch, Question, g->generator.batch);
  int count;
  Status status = read_some(g, scratch, questions, &count, end);
  const char *why = status == OK ? NULL : arena_strdup(scratch, error_message());
  Status answered = count ? answer(g, questions, count, scratch) : OK;
  for (int i = 0; i < count; i++) json_free(&questions[i].row);
  TRY(answered);
  return status == OK ? OK : fail(status, "%s", why);
}

static Status answer_all(Generate *g, Arena *scratch) {
  double started = seconds_now();
  Status status = OK;
  for (bool end = false; status == OK && !end;) {
    ArenaMark mark = arena_mark(scratch);
    status = answer_some(g, scratch, &end);
    arena_reset(scratch, mark);
  }
  double seconds = seconds_now() - started;
  if (g->rows && g->generator.posts)
    progress_say("%lld posts, %lld replies sampled, %.1f replies/s", (long long)g->generator.posts,
                 (long long)g->generator.replies, (double)g->generator.replies / seconds);
  return status;
}

/* ---- the command ---- */

static Status read_counts(Generate *g, const Arguments *arguments) {
  bool live = option_given(arguments, "--stream");
  int64_t shown, candidates, batch;
  TRY(option_int(arguments, "-n", 1, 1000, live ? 1 : 5, &shown));
  TRY(option_int(arguments, "--candidates", shown, 10000, live ? shown : 4 * shown, &candidates));
  g->rows = option_given(arguments, "--lines");
  TRY(option_int(arguments, "--batch", 1, 4096, g->rows ? 16 : 1, &batch));
  g->shown = (int)shown;
  g->generator.candidates = (int)candidates;
  g->generator.batch = (int)batch;
  g->json = g->rows || option_given(arguments, "--json");
  g->stream = candidates == 1 && !g->json && batch == 1 && (live || isatty(STDOUT_FILENO));
  if (live && !g->stream)
    return fail(INVALID,
                "--stream shows one reply to one post as text; leave out --lines, --json, --batch, -n and "
                "--candidates");
  return OK;
}

static Status read_options(Generate *g, const Arguments *arguments) {
  SamplingSettings *sampling = &g->generator.sampling;
  int64_t seed, top_k;
  TRY(option_int(arguments, "--seed", 0, INT64_MAX, 1, &seed));
  TRY(option_int(arguments, "--top-k", 0, 1 << 24, sampling->top_k, &top_k));
  TRY(option_number(arguments, "--temperature", 0, 100, sampling->temperature, &sampling->temperature));
  TRY(option_number(arguments, "--top-p", 0, 1, sampling->top_p, &sampling->top_p));
  g->generator.seed = (uint64_t)seed;
  sampling->top_k = (int)top_k;
  return read_counts(g, arguments);
}

static Status open_posts(Generate *g, const Arguments *arguments) {
  const char *post = option_text(arguments, "--post", NULL);
  if (post && g->rows)
    return fail(INVALID, "--post and --lines exclude each other; leave out one of the two");
  if (post && strcmp(post, "-") != 0) {
    g->post = post;
    return check_post("--post", post, strlen(post));
  }
  return json_lines_open(&g->lines, option_text(arguments, "--lines", "-"));
}

static Status generate(Arena *arena, Generate *g, const Arguments *arguments) {
  const char *model, *reward;
  TRY(find_model(arena, arguments->positional[0], &model, &reward));
  TRY(generator_read(arena, &g->generator, model));
  TRY(read_options(g, arguments));
  TRY(open_posts(g, arguments));
  TRY(generator_open(arena, &g->generator, model, option_text(arguments, "--reward", reward),
                     option_text(arguments, "--device", "auto")));
  signal(SIGINT, SIG_DFL); /* there is nothing to save */
  Arena scratch = {0};
  Status status = g->post ? answer(g, &(Question){.post = g->post}, 1, &scratch) : answer_all(g, &scratch);
  arena_free(&scratch);
  return status;
}

Status command_generate(Arena *arena, int argc, char **argv) {
  Arguments arguments;
  TRY(command_line_parse(arena, &line, argc, argv, &arguments));
  if (arguments.help) return OK;
  Generate g = {0};
  Status status = generate(arena, &g, &arguments);
  json_lines_close(&g.lines);
  generator_close(&g.generator);
  return status;
}

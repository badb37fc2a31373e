/* popalm generate: the replies that most people will like, by a trained model: samples candidates, scores
 * them by the reward model, shows the best. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "commands.h"
#include "options.h"
#include "reward_model.h"
#include "rollout.h"

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

typedef struct Candidate {
  const char *text;
  double reward, logprob; /* logprob: of the whole reply under the sampling distribution */
} Candidate;

typedef struct Generator {
  Arena *arena;
  Backend *backend;
  Model model;
  PromptCodec codec;
  SamplingSettings sampling;
  Rollout rollout;
  RewardModel reward;
  bool ranked; /* there is a reward model */
  bool json;
  uint64_t seed;
  int shown, candidates;
  uint32_t posts; /* answered so far */
} Generator;

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

/* ---- one post ---- */

static int by_reward_falling(const void *a, const void *b) {
  const Candidate *x = a, *y = b;
  if (x->reward != y->reward) return x->reward > y->reward ? -1 : 1;
  return x->logprob > y->logprob ? -1 : x->logprob < y->logprob;
}

static int drop_repeats(Candidate *candidates, int count) {
  int kept = 0;
  for (int i = 0; i < count; i++) {
    bool repeated = false;
    for (int j = 0; j < kept && !repeated; j++)
      repeated = strcmp(candidates[j].text, candidates[i].text) == 0;
    if (!repeated) candidates[kept++] = candidates[i];
  }
  return kept;
}

static Status sample_candidates(Generator *g, const char *post, Arena *scratch, Candidate *candidates) {
  int32_t *prompt = NEW(scratch, int32_t, prompt_max(&g->codec));
  const int length = prompt_encode(&g->codec, post, prompt);
  const int32_t *prompts[] = {prompt};
  Reply *replies = NEW(scratch, Reply, g->candidates);
  RolloutRequest request = {.prompts = prompts,
                            .prompt_lengths = &length,
                            .posts = 1,
                            .samples = g->candidates,
                            .sampling = g->sampling,
                            .key = {g->seed, RANDOM_GENERATE, g->posts}};
  TRY(rollout_run(&g->rollout, &request, scratch, replies));
  for (int i = 0; i < g->candidates; i++) {
    double logprob = 0;
    for (int t = 0; t < replies[i].length; t++) logprob += (double)replies[i].logprob[t];
    const char *text =
        tokenizer_decode_text(g->codec.tokenizer, scratch, replies[i].tokens, replies[i].length);
    candidates[i] = (Candidate){text, logprob, logprob};
  }
  return OK;
}

static void print_json(const Generator *g, const char *post, const Candidate *candidates, int count) {
  cJSON *object = cJSON_CreateObject();
  cJSON_AddStringToObject(object, "post", post);
  cJSON *list = cJSON_AddArrayToObject(object, "replies");
  for (int i = 0; i < count; i++) {
    cJSON *reply = cJSON_CreateObject();
    cJSON_AddStringToObject(reply, "text", candidates[i].text);
    if (g->ranked) cJSON_AddNumberToObject(reply, "reward", candidates[i].reward);
    cJSON_AddNumberToObject(reply, "logprob", candidates[i].logprob);
    cJSON_AddItemToArray(list, reply);
  }
  char *text = cJSON_PrintUnformatted(object);
  printf("%s\n", text);
  cJSON_free(text);
  cJSON_Delete(object);
}

static Status answer(Generator *g, const char *post, Arena *scratch) {
  size_t length = strlen(post), invalid = utf8_invalid_at(post, length);
  if (length == 0) return fail(INVALID, "the post is empty; give its text with --post");
  if (invalid < length) return fail(INVALID, "the post is not UTF-8 at byte %zu; convert it", invalid + 1);
  Candidate *candidates = NEW(scratch, Candidate, g->candidates);
  TRY(sample_candidates(g, post, scratch, candidates));
  int count = drop_repeats(candidates, g->candidates);
  if (g->ranked) {
    Scored *scored = NEW(scratch, Scored, count);
    for (int i = 0; i < count; i++) scored[i] = (Scored){.post = post, .reply = candidates[i].text};
    TRY(reward_model_score(&g->reward, scored, count));
    for (int i = 0; i < count; i++) candidates[i].reward = scored[i].reward;
  }
  qsort(candidates, (size_t)count, sizeof *candidates, by_reward_falling);
  if (count > g->shown) count = g->shown;
  if (g->json) print_json(g, post, candidates, count);
  for (int i = 0; i < count && !g->json; i++)
    printf("%d. %s  (%s %.3f)\n", i + 1, candidates[i].text, g->ranked ? "reward" : "logprob",
           candidates[i].reward);
  fflush(stdout);
  g->posts++;
  return OK;
}

static Status answer_lines(Generator *g, Arena *scratch) {
  char *text = NULL;
  size_t capacity = 0;
  ssize_t length;
  Status status = OK;
  while (status == OK && (length = getline(&text, &capacity, stdin)) >= 0) {
    while (length > 0 && (text[length - 1] == '\n' || text[length - 1] == '\r')) text[--length] = 0;
    ArenaMark mark = arena_mark(scratch);
    if (length > 0) status = answer(g, text, scratch);
    arena_reset(scratch, mark);
  }
  free(text);
  return status;
}

/* ---- the command ---- */

static Status read_options(Generator *g, const Arguments *arguments) {
  int64_t shown, candidates, seed, top_k;
  TRY(option_int(arguments, "-n", 1, 1000, 5, &shown));
  TRY(option_int(arguments, "--candidates", shown, 10000, 4 * shown, &candidates));
  TRY(option_int(arguments, "--seed", 0, INT64_MAX, 1, &seed));
  TRY(option_int(arguments, "--top-k", 0, 1 << 24, g->sampling.top_k, &top_k));
  TRY(option_number(arguments, "--temperature", 0, 100, g->sampling.temperature, &g->sampling.temperature));
  TRY(option_number(arguments, "--top-p", 0, 1, g->sampling.top_p, &g->sampling.top_p));
  g->shown = (int)shown;
  g->candidates = (int)candidates;
  g->seed = (uint64_t)seed;
  g->sampling.top_k = (int)top_k;
  g->json = option_given(arguments, "--json");
  return OK;
}

static Status generate(Generator *g, const Arguments *arguments) {
  const char *model, *reward;
  TRY(find_model(g->arena, arguments->positional[0], &model, &reward));
  reward = option_text(arguments, "--reward", reward);
  g->ranked = reward != NULL;
  TRY(prompt_load(g->arena, model, &g->codec, &g->sampling));
  TRY(read_options(g, arguments));
  TRY(backend_open(option_text(arguments, "--device", "auto"), &g->backend));
  TRY(model_load(g->arena, &g->model, g->backend, model, (ModelParts){0}, false, 0));
  TRY(rollout_allocate(g->arena, &g->rollout, &g->model, &g->codec, 1, g->candidates));
  if (g->ranked) TRY(reward_model_load(g->arena, &g->reward, g->backend, reward, &g->model));
  Arena scratch = {0};
  const char *post = option_text(arguments, "--post", "-");
  Status status = strcmp(post, "-") == 0 ? answer_lines(g, &scratch) : answer(g, post, &scratch);
  arena_free(&scratch);
  return status;
}

Status command_generate(Arena *arena, int argc, char **argv) {
  Arguments arguments;
  TRY(command_line_parse(arena, &line, argc, argv, &arguments));
  if (arguments.help) return OK;
  Generator g = {.arena = arena};
  Status status = generate(&g, &arguments);
  rollout_free(&g.rollout);
  reward_model_free(&g.reward);
  model_free(&g.model);
  if (g.backend) g.backend->close(g.backend);
  return status;
}

/* popalm score: the reward of given replies, by a trained reward model. */
#include <signal.h>
#include <stdio.h>

#include "commands.h"
#include "json_lines.h"
#include "options.h"
#include "reward_model.h"

enum { ROWS_AT_ONCE = 256 };

static const Option options[] = {
    {"--lines", "FILE|-", "the replies; - is standard input [-]"},
    {"--device", "auto|cpu|cuda[:n]", "where to compute [auto]"},
};

static const CommandLine line = {.usage = "popalm score REWARD [options]",
                                 .summary =
                                     "Reads JSON lines {\"post\": text, \"reply\": text, ...} (or \"weibo\" "
                                     "for \"post\") and prints each with its\n"
                                     "\"reward\". REWARD is a reward model's folder, as "
                                     "runs/quickstart/arms/cl-ppo/seed-1/reward: golden\n"
                                     "replies have mean 0 and variance 1.",
                                 .options = options,
                                 .option_count = sizeof options / sizeof *options,
                                 .min_positional = 1,
                                 .max_positional = 1};

static Status read_row(JsonLines *lines, Arena *scratch, Json *row, Scored *text, bool *end) {
  TRY(json_lines_row(lines, scratch, row, end));
  if (*end) return OK;
  Status status = json_row_post(row, &text->post);
  if (status == OK) status = json_row_text(row, "reply", &text->reply);
  if (status == OK) status = json_row_lacks(row, "reward");
  if (status != OK) json_free(row);
  return status;
}

static Status print_scores(RewardModel *reward, const Json *rows, Scored *texts, int count) {
  TRY(reward_model_score(reward, texts, count));
  for (int i = 0; i < count; i++) {
    cJSON *added = cJSON_CreateObject();
    cJSON_AddNumberToObject(added, "reward", texts[i].reward);
    json_row_print(stdout, &rows[i], added);
    cJSON_Delete(added);
  }
  fflush(stdout);
  return OK;
}

/* Some rows; a wrong one ends them, after those before it. */
static Status score_some(RewardModel *reward, JsonLines *lines, Arena *scratch, bool *end) {
  Json *rows = NEW(scratch, Json, ROWS_AT_ONCE);
  Scored *texts = NEW(scratch, Scored, ROWS_AT_ONCE);
  int count = 0;
  Status status = OK;
  while (count < ROWS_AT_ONCE && status == OK && !*end) {
    status = read_row(lines, scratch, &rows[count], &texts[count], end);
    count += status == OK && !*end;
  }
  const char *why = status == OK ? NULL : arena_strdup(scratch, error_message());
  Status scored = print_scores(reward, rows, texts, count);
  for (int i = 0; i < count; i++) json_free(&rows[i]);
  TRY(scored);
  return status == OK ? OK : fail(status, "%s", why);
}

static Status score_all(RewardModel *reward, JsonLines *lines) {
  Arena scratch = {0};
  Status status = OK;
  for (bool end = false; status == OK && !end;) {
    status = score_some(reward, lines, &scratch, &end);
    arena_free(&scratch);
  }
  return status;
}

static Status score(Arena *arena, const Arguments *arguments, JsonLines *lines, Backend **backend,
                    RewardModel *reward) {
  TRY(json_lines_open(lines, option_text(arguments, "--lines", "-")));
  TRY(backend_open(option_text(arguments, "--device", "auto"), backend));
  TRY(reward_model_load(arena, reward, *backend, arguments->positional[0], NULL));
  signal(SIGINT, SIG_DFL); /* there is nothing to save */
  return score_all(reward, lines);
}

Status command_score(Arena *arena, int argc, char **argv) {
  Arguments arguments;
  JsonLines lines = {0};
  Backend *backend = NULL;
  RewardModel reward = {0};
  TRY(command_line_parse(arena, &line, argc, argv, &arguments));
  if (arguments.help) return OK;
  Status status = score(arena, &arguments, &lines, &backend, &reward);
  json_lines_close(&lines);
  reward_model_free(&reward);
  if (backend) backend->close(backend);
  return status;
}

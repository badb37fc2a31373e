/* The report of made-up runs: well-formed, with hostile texts escaped, and with the right answer on top. */
#include <ftw.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/text.h"
#include "report.h"
#include "report_data.h"
#include "report_html.h"
#include "testing.h"

static char root[] = "/tmp/popalm-report-XXXXXX";
static const char hostile[] =
    "</script><script>alert(1)</script>\\\"><img src=x onerror='y'>&amp;\\u0001 {{body}} ";

static int setup(void **state) {
  (void)state;
  return mkdtemp(root) ? 0 : 1;
}

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *walk) {
  (void)info;
  (void)type;
  (void)walk;
  return remove(path);
}

static int teardown(void **state) {
  (void)state;
  return nftw(root, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static int empty_root(void **state) {
  (void)state;
  if (nftw(root, remove_one, 8, FTW_DEPTH | FTW_PHYS) != 0) return 1;
  return make_folders(root) == OK ? 0 : 1;
}

static void put(const char *name, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void put(const char *name, const char *format, ...) {
  Arena arena = {0};
  const char *path = path_join(&arena, root, name);
  assert_int_equal(make_folders(path_folder(&arena, path)), OK);
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  va_list args;
  va_start(args, format);
  vfprintf(file, format, args);
  va_end(args);
  fclose(file);
  arena_free(&arena);
}

static void put_run(const char *arm, int seed, double reward) {
  Arena arena = {0};
  const char *folder = arena_print(&arena, "arms/%s/seed-%d", arm, seed);
  Text rows = {.arena = &arena};
  for (int step = 1; step <= 30; step++)
    text_print(&rows, "{\"step\":%d,\"reward\":%g,\"reward_model\":null,\"kl\":%g,\"odd<b>\":1%s}\n", step,
               reward * step / 30, step * 0.1, step % 3 ? "" : ",\"entropy\":2");
  text_print(&rows, "{\"step\":31,\"rew"); /* being written */
  put(arena_print(&arena, "%s/ppo/metrics.jsonl", folder), "%s", rows.data);
  put(arena_print(&arena, "%s/ppo/samples.jsonl", folder),
      "{\"step\":1,\"post\":\"%s\",\"reply\":\"%s\",\"reward\":1e999,\"fate\":\"%s\"}\n", hostile, hostile,
      hostile);
  put(arena_print(&arena, "%s/sft/metrics.jsonl", folder), "{\"step\":1,\"loss\":2,\"dev_loss\":3}\n");
  put(arena_print(&arena, "%s/reward/reward.json", folder),
      "{\"pair_accuracy\":0.5,\"by_like_ratio\":{\"<2\":0.5,\"2-10\":0.75}}");
  for (int which = 0; which < 2; which++) {
    const char *stage = which ? "ppo" : "sft";
    put(arena_print(&arena, "%s/evaluate-%s/evaluate.json", folder, stage),
        "{\"reward\":%g,\"rouge_l@3\":0.25}", which ? reward : 0.0);
    put(arena_print(&arena, "%s/evaluate-%s/replies.jsonl", folder, stage),
        "{\"post\":\"%s\",\"golden\":[\"%s\"],\"replies\":[{\"text\":\"%s\",\"reward\":0.5}]}\nnot json\n",
        hostile, hostile, hostile);
  }
  arena_free(&arena);
}

static void put_ablation(double p) {
  put("experiment.json",
      "{\"name\":\"%s\",\"ablate\":{\"arms\":{\"z-base\":{},\"a-new\":{}},\"baseline\":\"z-base\","
      "\"metric\":\"evaluate.reward\"}}",
      hostile);
  for (int seed = 1; seed <= 3; seed++) {
    put_run("z-base", seed, 0.25 + 0.01 * seed);
    put_run("a-new", seed, 0.5 + 0.01 * seed);
  }
  put("results.json",
      "{\"comparison\":[{\"arm\":\"z-base\",\"metric\":\"reward\",\"mean\":0.27,\"ci95\":[0.2,0.3]},"
      "{\"arm\":\"a-new\",\"metric\":\"rouge_l@3\",\"p_holm\":0.9},"
      "{\"arm\":\"a-new\",\"metric\":\"reward\",\"mean\":0.52,\"ci95\":[0.5,0.54],\"difference\":0.25,"
      "\"p_value\":%g,\"p_holm\":%g}]}",
      p / 2, p);
}

static char *write_and_read(Arena *arena) {
  Status status = report_write(arena, root);
  if (status != OK) fail_msg("%s", error_message());
  FileMap map;
  assert_int_equal(file_map(path_join(arena, root, "report.html"), &map), OK);
  assert_int_equal(utf8_invalid_at(map.data, map.length), map.length);
  char *page = arena_strndup(arena, map.data, map.length);
  file_unmap(&map);
  return page;
}

static bool is_void(const char *name) { return strcmp(name, "meta") == 0 || strcmp(name, "br") == 0; }

/* Every element is closed in the right order, and every attribute's value quoted. */
static void assert_well_formed(const char *page) {
  char open[64][32];
  int depth = 0;
  assert_int_equal(strncmp(page, "<!doctype html>", 15), 0);
  for (const char *at = page + 15; (at = strchr(at, '<'));) {
    bool closes = at[1] == '/';
    at += 1 + closes;
    size_t length = strspn(at, "abcdefghijklmnopqrstuvwxyz0123456789");
    if (length == 0 || length > 31) fail_msg("no element: %.60s", at);
    char name[32] = {0};
    memcpy(name, at, length);
    at += length;
    if (closes) {
      if (*at != '>' || depth == 0 || strcmp(open[--depth], name) != 0)
        fail_msg("</%s> closes %s", name, open[depth]);
      continue;
    }
    while (*at == ' ') { /* attributes: name or name="value" */
      at += 1 + strcspn(at + 1, "=> /");
      if (*at != '=') continue;
      assert_int_equal(at[1], '"');
      at = strchr(at + 2, '"');
      assert_non_null(at);
      at++;
    }
    bool closed = *at == '/';
    at += closed;
    if (*at != '>') fail_msg("<%s> is not closed: %.60s", name, at);
    if (closed || is_void(name)) continue;
    assert_true(depth < 64);
    strcpy(open[depth++], name);
    const char *end = strcmp(name, "script") == 0  ? "</script>"
                      : strcmp(name, "style") == 0 ? "</style>"
                                                   : NULL;
    if (end) at = strstr(at, end);
  }
  if (depth) fail_msg("<%s> is never closed", open[depth - 1]);
}

static int count_of(const char *text, const char *part) {
  int count = 0;
  for (; (text = strstr(text, part)); text++) count++;
  return count;
}

static void the_page_is_well_formed_and_escapes_everything(void **state) {
  (void)state;
  Arena arena = {0};
  put_ablation(0.01);
  const char *page = write_and_read(&arena);
  assert_well_formed(page);
  assert_null(strstr(page, "<script>alert"));
  assert_null(strstr(page, "<img"));
  assert_null(strstr(page, "odd<b>"));
  assert_int_equal(count_of(page, "<script>"), 1);
  assert_non_null(strstr(page,
                         "&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt;&quot;&gt;&lt;img src=x "
                         "onerror=&#39;y&#39;&gt;&amp;amp;\xEF\xBF\xBD {{body}}"));
  assert_null(strstr(page, "nan"));
  assert_null(strstr(page, "inf "));
  assert_null(strstr(page, "inf\""));
  assert_null(strstr(page, "src=\"http"));
  arena_free(&arena);
}

static void the_answer_names_the_best_arm_and_its_significance(void **state) {
  (void)state;
  static const struct {
    double p;
    const char *says;
  } rows[] = {{0.01, "<b class=\"good\">significant</b> (p = 0.010 after Holm"},
              {0.2, "<b class=\"bad\">not significant</b> (p = 0.200"},
              {0.0001, "(p &lt; 0.001 after"}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    Arena arena = {0};
    put_ablation(rows[i].p);
    const char *page = write_and_read(&arena), *answer = strstr(page, "<section class=\"answer\">");
    assert_non_null(answer);
    const char *best = strstr(answer, "</i>a-new"), *mean = strstr(answer, "0.520");
    assert_true(best && mean && best < mean && mean < strstr(answer, "</section>"));
    assert_non_null(strstr(answer, "<b>0.270</b>: <b class=\"good\">+0.250</b>"));
    assert_non_null(strstr(answer, rows[i].says));
    assert_non_null(strstr(answer, "paired over 3 seeds"));
    arena_free(&arena);
  }
}

static void arms_stand_in_the_order_of_the_experiment(void **state) {
  (void)state;
  Arena arena = {0};
  put_ablation(0.01);
  ReportData data;
  assert_int_equal(report_data_read(&arena, root, &data), OK);
  assert_int_equal(data.arm_count, 2);
  assert_string_equal(data.arms[0], "z-base");
  assert_int_equal(data.run_count, 6);
  assert_string_equal(data.runs[5].arm, "a-new");
  assert_int_equal(data.runs[5].seed, 3);
  const MetricTable *table = &data.runs[0].metrics[REPORT_PPO];
  assert_int_equal(table->rows, 30); /* without the torn one */
  const double *entropy = metric_column(table, "entropy");
  assert_true(isnan(entropy[0]) && entropy[2] == 2);
  report_data_free(&data);
  arena_free(&arena);
}

static void a_weak_reward_model_is_pointed_out(void **state) {
  (void)state;
  Arena arena = {0};
  put_ablation(0.01);
  assert_non_null(strstr(write_and_read(&arena),
                         "hardly better than chance on held-out pairs; PPO follows noise: z-base seed 1: "
                         "0.500; z-base seed 2: 0.500"));
  arena_free(&arena);
}

/* Three arms: each stands under its verdict; what too few seeds cannot tell is said beside the answer. */
static void every_arm_has_a_verdict(void **state) {
  (void)state;
  Arena arena = {0};
  put("experiment.json",
      "{\"name\":\"three\",\"ablate\":{\"arms\":{\"base\":{},\"up\":{},\"down\":{},\"same\":{},\"own\":{}},"
      "\"baseline\":\"base\",\"baselines\":{\"own\":\"same\"}}}");
  static const char *const arms[] = {"base", "up", "down", "same", "own"};
  for (int a = 0; a < 5; a++)
    for (int seed = 1; seed <= 2; seed++) put_run(arms[a], seed, 0.5 + (a == 1) - (a == 2) * 0.25);
  put("results.json",
      "{\"comparison\":[{\"arm\":\"base\",\"metric\":\"reward\",\"mean\":0.5},"
      "{\"arm\":\"up\",\"metric\":\"reward\",\"mean\":1.5,\"baseline\":\"base\",\"difference\":1,\"p_holm\":"
      "0.01,"
      "\"effect_size\":2.5,\"wins\":2,\"pairs\":2},"
      "{\"arm\":\"down\",\"metric\":\"reward\",\"mean\":0.25,\"baseline\":\"base\",\"difference\":-0.25,\"p_"
      "holm\":0.02},"
      "{\"arm\":\"same\",\"metric\":\"reward\",\"mean\":0.5},"
      "{\"arm\":\"own\",\"metric\":\"reward\",\"mean\":0.5,\"baseline\":\"same\",\"difference\":0,\"p_holm\":"
      "1}],"
      "\"warning\":\"2 seeds cannot tell <anything>\"}");
  const char *page = write_and_read(&arena), *answer = strstr(page, "<section class=\"answer\">");
  assert_well_formed(page);
  const char *const order[] = {"Significantly higher than the baseline: ",
                               "</i>up",
                               "Significantly lower: ",
                               "</i>down",
                               "No difference shown: ",
                               "</i>own",
                               "2 seeds cannot tell &lt;anything&gt;.",
                               "</section>"};
  const char *at = strstr(answer, "class=\"verdicts\"");
  for (size_t i = 0; i < sizeof order / sizeof *order; i++) {
    if (!at || !(at = strstr(at, order[i]))) fail_msg("%s is missing or not in its place", order[i]);
  }
  assert_non_null(strstr(page, "<b class=\"good\">higher</b></td><td>1.500"));
  assert_non_null(strstr(page, "<small>to same</small>")); /* its own baseline */
  assert_non_null(strstr(page, "<td>2.500</td><td>2 of 2</td>"));
  assert_int_equal(count_of(page, "<td>a baseline</td>"), 2);
  arena_free(&arena);
}

/* A run that a gate has stopped: the reason is shown, and what it had left before does not count. */
static void a_stopped_run_is_shown_with_its_reason(void **state) {
  (void)state;
  Arena arena = {0};
  put("experiment.json", "{\"name\":\"gated\"}");
  Text runs = {.arena = &arena};
  for (int seed = 1; seed <= 5; seed++) {
    put_run("main", seed, seed == 5 ? 0.25 : 9);
    text_print(&runs, "%s{\"arm\":\"main\",\"seed\":%d%s}", seed > 1 ? "," : "", seed,
               seed == 5 ? "" : ",\"stopped\":{\"gate\":\"ended\",\"reason\":\"too <few> end\"}");
  }
  put("results.json", "{\"runs\":[%s],\"comparison\":[]}", runs.data);
  const char *page = write_and_read(&arena);
  assert_well_formed(page);
  assert_non_null(
      strstr(page,
             "Stopped by a gate: too &lt;few&gt; end. It stopped main seed 1, main seed 2, main seed 3 "
             "and 1 more runs."));
  const char *answer = strstr(page, "<section class=\"answer\">");
  assert_non_null(strstr(answer, "<b>0.250</b>")); /* the mean of the one that went on */
  arena_free(&arena);
}

static void a_run_that_has_only_begun_has_a_report(void **state) {
  (void)state;
  Arena arena = {0};
  put("experiment.json", "{\"name\":\"young\"}");
  const char *page = write_and_read(&arena);
  assert_well_formed(page);
  assert_non_null(strstr(page, "no answer yet"));
  put("arms/main/seed-1/sft/metrics.jsonl", "{\"step\":5,\"loss\":null}\n{\"step\":6,\"loss\":1}\n");
  page = write_and_read(&arena);
  assert_well_formed(page);
  assert_null(strstr(page, "nan"));
  assert_non_null(strstr(page, "<circle"));
  arena_free(&arena);
}

static void a_folder_without_a_run_is_named(void **state) {
  (void)state;
  Arena arena = {0};
  assert_int_equal(report_write(&arena, root), INVALID);
  assert_non_null(strstr(error_message(), "experiment.json"));
  put("experiment.json", "{");
  assert_int_equal(report_write(&arena, root), INVALID);
  assert_non_null(strstr(error_message(), "experiment.json:1:"));
  arena_free(&arena);
}

static void numbers_are_short(void **state) {
  (void)state;
  static const struct {
    double value;
    const char *text;
  } rows[] = {{0, "0.000"}, {0.12345, "0.123"}, {-12.345, "-12.35"}, {1234.5, "1234"},
              {NAN, "–"},   {1e-5, "1.00e-05"}, {123.45, "123.5"}};
  Arena arena = {0};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    Text text = {.arena = &arena};
    html_number(&text, rows[i].value);
    assert_string_equal(text.data, rows[i].text);
  }
  arena_free(&arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(the_page_is_well_formed_and_escapes_everything, empty_root),
      cmocka_unit_test_setup(the_answer_names_the_best_arm_and_its_significance, empty_root),
      cmocka_unit_test_setup(arms_stand_in_the_order_of_the_experiment, empty_root),
      cmocka_unit_test_setup(a_weak_reward_model_is_pointed_out, empty_root),
      cmocka_unit_test_setup(every_arm_has_a_verdict, empty_root),
      cmocka_unit_test_setup(a_stopped_run_is_shown_with_its_reason, empty_root),
      cmocka_unit_test_setup(a_run_that_has_only_begun_has_a_report, empty_root),
      cmocka_unit_test_setup(a_folder_without_a_run_is_named, empty_root),
      cmocka_unit_test(numbers_are_short),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}

/* Plans: what changes a stage's key, what arms share, and running, with stages that only count their calls.
 */
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/text.h"
#include "plan.h"
#include "testing.h"

static char folder[] = "/tmp/popalm-plan-XXXXXX";
static int calls[STAGE_COUNT];
static StageId failing = STAGE_COUNT; /* this one fails, or is interrupted */
static Status failure;

static Status write_in(const StageContext *context, const char *name, const char *text) {
  return file_write(path_join(context->arena, context->folder, name), text, strlen(text));
}

static Status fake(const StageContext *context, StageId id) {
  calls[id]++;
  if (id == failing) return fail(failure, "the fake stage was told so");
  if (id == STAGE_WORLD) return write_in(context, "train.json", "made");
  if (id == STAGE_SFT)
    return write_in(context, "metrics.jsonl",
                    "{\"step\":1,\"dev_perplexity\":99}\n{\"step\":2,\"dev_perplexity\":20.5}\n");
  if (id == STAGE_REWARD) return write_in(context, "reward.json", "{\"pair_accuracy\": 0.75, \"shift\": 1}");
  if (id != STAGE_EVALUATE_SFT && id != STAGE_EVALUATE_PPO) return OK;
  double reward =
      (double)context->experiment->seed + (id == STAGE_EVALUATE_PPO ? context->experiment->ppo.steps : 0);
  return write_in(
      context, "evaluate.json",
      arena_print(context->arena, "{\"reward\": %g, \"bleu_4@1\": 0.5, \"ended\": 0.25}", reward));
}

static Status fake_world(const StageContext *c) { return fake(c, STAGE_WORLD); }
static Status fake_tokenizer(const StageContext *c) {
  FileMap map; /* the data is there, whoever made it */
  TRY(file_map(c->train, &map));
  file_unmap(&map);
  return fake(c, STAGE_TOKENIZER);
}
static Status fake_sft(const StageContext *c) { return fake(c, STAGE_SFT); }
static Status fake_reward(const StageContext *c) { return fake(c, STAGE_REWARD); }
static Status fake_evaluate_sft(const StageContext *c) { return fake(c, STAGE_EVALUATE_SFT); }
static Status fake_ppo(const StageContext *c) { return fake(c, STAGE_PPO); }
static Status fake_evaluate_ppo(const StageContext *c) { return fake(c, STAGE_EVALUATE_PPO); }

/* The real table, so that its sections and inputs are what is tested, with stages that need no device. */
static Stage table[STAGE_COUNT];

static const char *in_folder(Arena *arena, const char *name) { return path_join(arena, folder, name); }

static void put_file(const char *name, const char *text) {
  Arena arena = {0};
  assert_int_equal(file_write(in_folder(&arena, name), text, strlen(text)), OK);
  arena_free(&arena);
}

static int remove_any(const char *path, const struct stat *info, int type, struct FTW *walk) {
  (void)info, (void)type, (void)walk;
  return remove(path);
}

static int setup(void **state) {
  (void)state;
  Status (*const run[STAGE_COUNT])(const StageContext *) = {
      fake_world, fake_tokenizer, fake_sft, fake_reward, fake_evaluate_sft, fake_ppo, fake_evaluate_ppo};
  for (int i = 0; i < STAGE_COUNT; i++) {
    table[i] = stages[i];
    table[i].run = run[i];
  }
  return mkdtemp(folder) ? 0 : 1;
}

static int teardown(void **state) {
  (void)state;
  return nftw(folder, remove_any, 16, FTW_PHYS | FTW_DEPTH);
}

static int fresh(void **state) {
  (void)state;
  Arena arena = {0};
  nftw(in_folder(&arena, "runs"), remove_any, 16, FTW_PHYS | FTW_DEPTH);
  arena_free(&arena);
  put_file("train.json", "posts\n");
  put_file("dev.json", "other posts\n");
  put_file("pairs.json", "pairs\n");
  put_file("words.txt", "word 1\n");
  memset(calls, 0, sizeof calls);
  failing = STAGE_COUNT;
  interrupted = 0;
  return 0;
}

#define FILES                                                                                             \
  "\"data\": {\"train\": \"train.json\", \"dev\": \"dev.json\", \"pairs\": \"pairs.json\"}, \"device\": " \
  "\"cpu\""

typedef struct Made {
  Arena arena;
  ExperimentFile file;
  Plan plan;
} Made;

static void make(Made *made, const char *text) {
  *made = (Made){0};
  put_file("e.json", text);
  Status status = experiment_read(&made->arena, in_folder(&made->arena, "e.json"), NULL, 0, &made->file);
  if (status == OK)
    status = plan_make(&made->arena, &made->file, table, in_folder(&made->arena, "runs"), STAGE_EVALUATE_PPO,
                       &made->plan);
  if (status != OK) fail_msg("%s", error_message());
}

static void unmake(Made *made) {
  experiment_free(&made->file);
  arena_free(&made->arena);
}

/* The stages of the first run whose key differs between two experiments, as bits. */
static unsigned changed(const char *before, const char *after) {
  Made a, b;
  unsigned bits = 0;
  make(&a, before);
  make(&b, after);
  for (int i = 0; i < STAGE_COUNT; i++) {
    int x = a.plan.of_run[0][i], y = b.plan.of_run[0][i];
    if (x >= 0 && y >= 0 && strcmp(a.plan.stages[x].key, b.plan.stages[y].key) != 0) bits |= 1u << i;
  }
  unmake(&a);
  unmake(&b);
  return bits;
}

#define BIT(stage) (1u << (stage))
static const unsigned FROM_PPO = BIT(STAGE_PPO) | BIT(STAGE_EVALUATE_PPO);
static const unsigned FROM_REWARD = BIT(STAGE_REWARD) | BIT(STAGE_EVALUATE_SFT) | FROM_PPO;
static const unsigned FROM_SFT = BIT(STAGE_SFT) | FROM_REWARD;
static const unsigned FROM_TOKENIZER = BIT(STAGE_TOKENIZER) | FROM_SFT;

static void a_setting_changes_the_keys_of_its_stage_and_of_those_after_it(void **state) {
  (void)state;
  const struct {
    const char *addition;
    unsigned stages;
  } rows[] = {
      {"", 0},
      {", \"name\": \"other\"", 0},
      {", \"checkpoint\": {\"every_steps\": 5}", 0},
      {", \"ppo\": {\"lr\": 1.41e-05}", 0}, /* the default, spelled in another way */
      {", \"ppo\": {\"lr\": 2e-5}", FROM_PPO},
      {", \"ppo\": {\"curriculum\": {\"pace\": {\"decay\": 0.9}}}", FROM_PPO},
      {", \"reward\": {\"margin\": 0.5}", FROM_REWARD},
      {", \"sft\": {\"epochs\": 2}", FROM_SFT},
      {", \"model\": {\"preset\": \"llama-tiny\"}", FROM_SFT},
      {", \"seed\": 9", FROM_SFT},
      {", \"tokenizer\": {\"train\": {\"vocab_size\": 999}}", FROM_TOKENIZER},
      {", \"evaluate\": {\"posts\": 3}", BIT(STAGE_EVALUATE_SFT) | BIT(STAGE_EVALUATE_PPO)},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    char text[512];
    snprintf(text, sizeof text, "{" FILES "%s}", rows[i].addition);
    unsigned have = changed("{" FILES "}", text);
    if (have != rows[i].stages)
      fail_msg("%s: stages %x, expected %x", rows[i].addition, have, rows[i].stages);
  }
}

static void one_byte_of_a_data_file_changes_the_keys_of_its_readers(void **state) {
  (void)state;
  Made before, after;
  const struct {
    const char *name;
    unsigned stages;
  } rows[] = {{"train.json", FROM_TOKENIZER}, {"dev.json", FROM_SFT}, {"pairs.json", FROM_REWARD}};
  for (int i = 0; i < 3; i++) {
    make(&before, "{" FILES "}");
    put_file(rows[i].name, "changed\n");
    make(&after, "{" FILES "}");
    unsigned bits = 0;
    for (int k = 0; k < before.plan.count; k++)
      if (strcmp(before.plan.stages[k].key, after.plan.stages[k].key) != 0)
        bits |= BIT(before.plan.stages[k].id);
    assert_int_equal(bits, rows[i].stages);
    unmake(&before);
    unmake(&after);
  }
}

static void a_file_counts_by_its_content_not_by_its_name(void **state) {
  (void)state;
#define WORDS(name) "{" FILES ", \"evaluate\": {\"segmentation\": \"words\", \"dictionary\": \"" name "\"}}"
  put_file("same.txt", "word 1\n");
  put_file("other.txt", "word 2\n");
  assert_int_equal(changed(WORDS("words.txt"), WORDS("same.txt")), 0);
  assert_int_equal(changed(WORDS("words.txt"), WORDS("other.txt")),
                   BIT(STAGE_EVALUATE_SFT) | BIT(STAGE_EVALUATE_PPO));
}

/* The key of the tokenizer stage. */
static void tokenizer_key(const char *path, char key[33]) {
  char text[512];
  Made made;
  snprintf(text, sizeof text, "{" FILES ", \"tokenizer\": {\"path\": \"%s\"}}", path);
  make(&made, text);
  memcpy(key, made.plan.stages[made.plan.of_run[0][STAGE_TOKENIZER]].key, 33);
  unmake(&made);
}

static void every_file_of_a_tokenizer_counts_and_no_other(void **state) {
  (void)state;
  static const char *const folders[] = {"pair", "lines", "json"};
  const struct {
    const char *path, *file;
    bool counts;
  } rows[] = {{"pair/vocab.json", "pair/vocab.json", true},
              {"pair/vocab.json", "pair/merges.txt", true},
              {"pair/vocab.json", "pair/tokenizer_config.json", true},
              {"pair", "pair/merges.txt", true},
              {"lines", "lines/vocab.txt", true},
              {"lines/vocab.txt", "lines/tokenizer_config.json", true},
              {"json", "json/tokenizer.json", true},
              {"json/tokenizer.json", "json/tokenizer_config.json", true},
              {"json/tokenizer.json", "json/merges.txt", false}};
  Arena arena = {0};
  for (int i = 0; i < 3; i++) assert_int_equal(make_folders(in_folder(&arena, folders[i])), OK);
  arena_free(&arena);
  int count = sizeof rows / sizeof *rows;
  for (int i = 0; i < count; i++) put_file(rows[i].file, "first\n");
  for (int i = 0; i < count; i++) {
    char before[33], changed_key[33], after[33];
    tokenizer_key(rows[i].path, before);
    put_file(rows[i].file, "second\n");
    tokenizer_key(rows[i].path, changed_key);
    put_file(rows[i].file, "first\n");
    tokenizer_key(rows[i].path, after);
    assert_string_equal(before, after);
    if ((strcmp(before, changed_key) != 0) != rows[i].counts)
      fail_msg("%s: %s should %sbe part of the key", rows[i].path, rows[i].file,
               rows[i].counts ? "" : "not ");
  }
}

static void the_synthetic_world_stands_for_its_files(void **state) {
  (void)state;
#define WORLD(flip) "{\"device\": \"cpu\", \"data\": {\"synth\": {\"flip\": " flip "}}}"
  assert_int_equal(changed(WORLD("0.1"), WORLD("0.1")), 0);
  assert_int_equal(changed(WORLD("0.1"), WORLD("0.2")), BIT(STAGE_WORLD) | FROM_TOKENIZER);
}

#define ABLATION                                                                                         \
  "{\"device\": \"cpu\", \"data\": {\"synth\": {}}, \"ablate\": {\"arms\": {\"a\": {\"ppo.steps\": 1}, " \
  "\"b\": {\"ppo.steps\": 2}, \"c\": {\"reward.margin\": 1}}, \"seeds\": [1, 2]}}"

static void arms_share_what_they_do_not_change(void **state) {
  (void)state;
  Made made;
  make(&made, ABLATION);
  const Plan *plan = &made.plan;
  for (int i = 0; i < STAGE_COUNT; i++) { /* runs: a1 a2 b1 b2 c1 c2 */
    bool by_all = i <= STAGE_TOKENIZER;
    assert_int_equal(plan->of_run[0][i] == plan->of_run[1][i], by_all);
    assert_int_equal(plan->of_run[0][i] == plan->of_run[2][i], i < STAGE_PPO);
    assert_int_equal(plan->of_run[0][i] == plan->of_run[4][i], i <= STAGE_SFT);
  }
  assert_int_equal(plan->count,
                   2 + 2 * (1 + 2 + 2 + 3 + 3)); /* per seed: sft, 2 reward, 2 evaluate, 3 ppo, 3 evaluate */
  assert_int_equal(plan->stages[0].users, 6);
  assert_string_equal(plan->stages[0].label, "world");
  assert_string_equal(plan->stages[plan->of_run[0][STAGE_SFT]].label, "sft seed 1");
  assert_string_equal(plan->stages[plan->of_run[3][STAGE_PPO]].label, "ppo b seed 2");
  for (int k = 0; k < plan->count; k++)
    for (int i = 0; i < STAGE_COUNT; i++) assert_true(plan->stages[k].input[i] < k); /* inputs run before */
  unmake(&made);
}

static void the_backend_is_part_of_keys_that_depend_on_it(void **state) {
  (void)state;
  for (int i = 0; i < STAGE_COUNT; i++) assert_int_equal(stages[i].needs_backend, i >= STAGE_SFT);
}

static int total_calls(void) {
  int sum = 0;
  for (int i = 0; i < STAGE_COUNT; i++) sum += calls[i];
  return sum;
}

static char *read_text(Arena *arena, const char *name) {
  FileMap map;
  if (file_map(in_folder(arena, name), &map) != OK) fail_msg("%s", error_message());
  char *text = arena_strndup(arena, map.data, map.length);
  file_unmap(&map);
  return text;
}

static void run_plan(Made *made, const char *text, Status expected) {
  make(made, text);
  Status status = plan_run(&made->arena, &made->plan);
  if (status != expected) fail_msg("status %d: %s", status, error_message());
}

static void a_second_run_computes_nothing_and_gives_the_same_bytes(void **state) {
  (void)state;
  Made first, second;
  run_plan(&first, ABLATION, OK);
  assert_int_equal(total_calls(), first.plan.count);
  const char *results = read_text(&first.arena, "runs/e/results.json"),
             *timing = read_text(&first.arena, "runs/e/timing.json");
  run_plan(&second, ABLATION, OK);
  assert_int_equal(total_calls(), first.plan.count);
  assert_string_equal(read_text(&second.arena, "runs/e/results.json"), results);
  assert_string_equal(read_text(&second.arena, "runs/e/timing.json"), timing);
  assert_true(file_exists(in_folder(&first.arena, "runs/e/arms/b/seed-2/evaluate-ppo/evaluate.json")));
  unmake(&first);
  unmake(&second);
}

static double number(const cJSON *object, const char *name) {
  const cJSON *value = cJSON_GetObjectItem(object, name);
  assert_true(cJSON_IsNumber(value));
  return value->valuedouble;
}

static void results_hold_every_run_and_compare_the_arms(void **state) {
  (void)state;
  Made made;
  run_plan(&made, ABLATION, OK);
  cJSON *root = cJSON_Parse(read_text(&made.arena, "runs/e/results.json"));
  const cJSON *runs = cJSON_GetObjectItem(root, "runs"),
              *comparison = cJSON_GetObjectItem(root, "comparison");
  assert_int_equal(cJSON_GetArraySize(runs), 6);
  const cJSON *b2 = cJSON_GetArrayItem(runs, 3), *evaluate = cJSON_GetObjectItem(b2, "evaluate");
  assert_string_equal(cJSON_GetObjectItem(b2, "arm")->valuestring, "b");
  assert_true(number(b2, "seed") == 2 && number(cJSON_GetObjectItem(b2, "reward"), "pair_accuracy") == 0.75);
  assert_true(number(cJSON_GetObjectItem(evaluate, "sft"), "reward") == 2);
  assert_true(number(cJSON_GetObjectItem(evaluate, "ppo"), "reward") == 4);
  assert_int_equal(cJSON_GetArraySize(comparison), 9); /* 3 arms x 3 metrics, the chosen metric first */
  const cJSON *a = cJSON_GetArrayItem(comparison, 0), *b = cJSON_GetArrayItem(comparison, 1);
  assert_string_equal(cJSON_GetObjectItem(a, "metric")->valuestring, "reward");
  assert_null(cJSON_GetObjectItem(a, "p_value"));
  assert_true(number(a, "mean") == 2.5 && number(b, "mean") == 3.5 && number(b, "difference") == 1);
  assert_true(number(b, "p_value") == 0.5 && number(b, "p_holm") == 1);
  assert_true(number(b, "p_sign") == 0.5 && number(b, "p_bootstrap") < 0.01 && number(b, "wins") == 2);
  assert_true(cJSON_GetArrayItem(cJSON_GetObjectItem(b, "bootstrap_ci95"), 1)->valuedouble == 1);
  assert_true(cJSON_IsNull(cJSON_GetObjectItem(b, "effect_size"))); /* equal differences have no spread */
  assert_string_equal(
      cJSON_GetObjectItem(root, "warning")->valuestring,
      "2 seeds cannot tell 2 arms from their baseline: after Holm's correction the smallest possible p "
      "is 1; 7 seeds can give one below 0.05");
  cJSON_Delete(root);
  unmake(&made);
}

/* A gate stops the runs that use the stage, before what comes after it; the reason stands in results.json. */
static void a_gate_stops_runs_with_a_reason(void **state) {
  (void)state;
  static const struct {
    const char *gates, *reason;
    int rewards, ppos;
  } rows[] = {
      {"\"perplexity\": 20", "the held-out perplexity of the SFT model is 20.5, above the gate's 20; train",
       0, 0},
      {"\"reward_accuracy\": 0.76",
       "the reward model's accuracy on held-out pairs is 0.75, below the gate's 0.76; ", 1, 0},
      {"\"ended\": 0.5", "the share of the SFT model's replies that end is 0.25, below the gate's 0.5; ", 1,
       0},
      {"\"perplexity\": 20.5, \"reward_accuracy\": 0.75, \"ended\": 0.25", NULL, 1, 1},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    fresh(NULL);
    Made made;
    char text[512];
    snprintf(text, sizeof text, "{" FILES ", \"gates\": {%s}}", rows[i].gates);
    run_plan(&made, text, OK);
    assert_int_equal(calls[STAGE_REWARD], rows[i].rewards);
    assert_int_equal(calls[STAGE_PPO], rows[i].ppos);
    assert_true((plan_all_stopped(&made.plan) != NULL) == (rows[i].reason != NULL));
    cJSON *root = cJSON_Parse(read_text(&made.arena, "runs/e/results.json"));
    const cJSON *run = cJSON_GetArrayItem(cJSON_GetObjectItem(root, "runs"), 0),
                *stopped = cJSON_GetObjectItem(run, "stopped");
    assert_true((stopped != NULL) == (rows[i].reason != NULL));
    if (stopped) {
      const char *reason = cJSON_GetObjectItem(stopped, "reason")->valuestring;
      if (strncmp(reason, rows[i].reason, strlen(rows[i].reason)) != 0) fail_msg("%s", reason);
      assert_null(cJSON_GetObjectItem(cJSON_GetObjectItem(run, "evaluate"), "ppo"));
    }
    cJSON_Delete(root);
    unmake(&made);
  }
}

/* Arms with gates of their own: one is stopped, the others are compared without it; what it left before is
 * not used. */
static void a_gate_stops_its_arm_alone(void **state) {
  (void)state;
#define GATED(gate)                                                              \
  "{" FILES ", \"ablate\": {\"arms\": {\"a\": {}, \"b\": {\"ppo.steps\": 5" gate \
  "}, \"c\": {\"ppo.steps\": 7}}, "                                              \
  "\"seeds\": [1, 2]}}"
  Made made;
  run_plan(&made, GATED(""), OK);
  assert_int_equal(calls[STAGE_PPO], 6);
  unmake(&made);
  run_plan(&made, GATED(", \"gates.ended\": 0.9"), OK);
  assert_int_equal(calls[STAGE_PPO], 6); /* a gate is part of no key */
  assert_null(plan_all_stopped(&made.plan));
  cJSON *root = cJSON_Parse(read_text(&made.arena, "runs/e/results.json"));
  const cJSON *comparison = cJSON_GetObjectItem(root, "comparison"), *b = cJSON_GetArrayItem(comparison, 1),
              *c = cJSON_GetArrayItem(comparison, 2);
  assert_true(number(b, "seeds") == 0 && number(b, "pairs") == 0 && number(c, "pairs") == 2);
  assert_true(cJSON_IsNull(cJSON_GetObjectItem(b, "mean")) && cJSON_IsNull(cJSON_GetObjectItem(b, "p_holm")));
  assert_true(number(c, "p_holm") == number(c, "p_value")); /* the only comparison that is left */
  cJSON_Delete(root);
  unmake(&made);
}

/* Arms with a baseline of their own, as the one with the same label noise; a baseline is not compared itself.
 */
static void arms_may_have_baselines_of_their_own(void **state) {
  (void)state;
  Made made;
  run_plan(&made,
           "{" FILES
           ", \"ablate\": {\"arms\": {\"p1\": {\"ppo.steps\": 1}, \"p2\": {\"ppo.steps\": 10}, \"c1\": "
           "{\"ppo.steps\": 3}, \"c2\": {\"ppo.steps\": 14}}, \"seeds\": [1, 2], \"baselines\": {\"c2\": "
           "\"p2\"}}}",
           OK);
  cJSON *root = cJSON_Parse(read_text(&made.arena, "runs/e/results.json"));
  const cJSON *rows = cJSON_GetObjectItem(root, "comparison"), *c1 = cJSON_GetArrayItem(rows, 2),
              *c2 = cJSON_GetArrayItem(rows, 3);
  assert_null(cJSON_GetObjectItem(cJSON_GetArrayItem(rows, 1), "baseline"));
  assert_string_equal(cJSON_GetObjectItem(c1, "baseline")->valuestring, "p1");
  assert_string_equal(cJSON_GetObjectItem(c2, "baseline")->valuestring, "p2");
  assert_true(number(c1, "difference") == 2 && number(c2, "difference") == 4);
  assert_true(number(c2, "p_value") == 0.5 && number(c2, "p_holm") == 1); /* two comparisons */
  assert_non_null(
      strstr(cJSON_GetObjectItem(root, "warning")->valuestring, "cannot tell 2 arms from their baseline"));
  cJSON_Delete(root);
  unmake(&made);
}

static void a_failed_or_interrupted_stage_leaves_no_marker_and_runs_again(void **state) {
  (void)state;
  static const Status kinds[] = {FAILED, INTERRUPTED};
  for (int i = 0; i < 2; i++) {
    fresh(NULL);
    Made made;
    failing = STAGE_REWARD;
    failure = kinds[i];
    run_plan(&made, "{" FILES "}", kinds[i]);
    assert_false(file_exists(in_folder(&made.arena, "runs/e/results.json")));
    assert_int_equal(calls[STAGE_SFT], 1);
    unmake(&made);
    failing = STAGE_COUNT;
    run_plan(&made, "{" FILES "}", OK);
    assert_int_equal(calls[STAGE_SFT], 1);
    assert_int_equal(calls[STAGE_REWARD], 2);
    unmake(&made);
  }
}

static void a_damaged_marker_is_refused_by_name(void **state) {
  (void)state;
  Made made;
  run_plan(&made, "{" FILES "}", OK);
  const char *marker = path_join(&made.arena, made.plan.stages[1].folder, "stage.json");
  assert_int_equal(file_write(marker, "{\"key\": \"00\"}", 13), OK);
  Made again;
  run_plan(&again, "{" FILES "}", FAILED);
  assert_non_null(strstr(error_message(), marker));
  unmake(&made);
  unmake(&again);
}

static void until_stops_after_a_stage(void **state) {
  (void)state;
  Made made;
  make(&made, "{" FILES "}");
  assert_int_equal(
      plan_make(&made.arena, &made.file, table, in_folder(&made.arena, "runs"), STAGE_REWARD, &made.plan),
      OK);
  assert_int_equal(plan_run(&made.arena, &made.plan), OK);
  assert_int_equal(total_calls(), 3);
  assert_false(file_exists(in_folder(&made.arena, "runs/e/results.json")));
  StageId id;
  assert_int_equal(plan_find_stage("evaluate", &id), OK);
  assert_int_equal(id, STAGE_EVALUATE_PPO);
  assert_int_equal(plan_find_stage("rewrad", &id), INVALID);
  assert_non_null(strstr(error_message(), "did you mean reward?"));
  unmake(&made);
}

/* A child holds the lock of the first stage for a while; it dies without letting go, which frees the lock. A
 * folder that is removed meanwhile, as popalm clean does, is made again: its lock is another one. */
static void wait_for_other(bool folder_goes) {
  Made made;
  make(&made, "{" FILES "}");
  assert_int_equal(make_folders(made.plan.stages[0].folder), OK);
  int ready[2];
  assert_int_equal(pipe(ready), 0);
  pid_t child = fork();
  if (child == 0) {
    int fd = open(made.plan.stages[0].folder, O_RDONLY | O_DIRECTORY);
    bool locked = fd >= 0 && flock(fd, LOCK_EX) == 0 && write(ready[1], "x", 1) == 1;
    usleep(500000);
    if (folder_goes) locked = locked && rmdir(made.plan.stages[0].folder) == 0;
    if (locked) kill(getpid(), SIGKILL);
    _exit(1);
  }
  char byte;
  assert_int_equal(read(ready[0], &byte, 1), 1);
  double started = seconds_now();
  Status status = plan_run(&made.arena, &made.plan);
  if (status != OK) fail_msg("%s", error_message());
  assert_true(seconds_now() - started > 0.3);
  waitpid(child, NULL, 0);
  close(ready[0]);
  close(ready[1]);
  unmake(&made);
}

static void a_stage_that_another_process_computes_is_waited_for(void **state) {
  (void)state;
  wait_for_other(false);
}

static void a_folder_that_is_removed_while_it_is_waited_for_is_made_again(void **state) {
  (void)state;
  wait_for_other(true);
}

static void arms_that_are_no_more_lose_their_links(void **state) {
  (void)state;
  Made made;
  run_plan(&made, ABLATION, OK);
  unmake(&made);
  run_plan(&made, "{\"device\": \"cpu\", \"data\": {\"synth\": {}}}", OK);
  assert_false(file_exists(in_folder(&made.arena, "runs/e/arms/b")));
  assert_true(file_exists(in_folder(&made.arena, "runs/e/arms/main/seed-2023/sft/stage.json")));
  unmake(&made);
}

static void lengths_that_the_model_cannot_hold_are_refused(void **state) {
  (void)state;
  Made made = {0};
  put_file("e.json",
           "{" FILES
           ", \"sft\": {\"tokens_per_batch\": 100000}, \"ppo\": {}, \"model\": {\"preset\": \"gpt2-tiny\"}}");
  const Override override = {"data.max_post_tokens", "250"};
  assert_int_equal(experiment_read(&made.arena, in_folder(&made.arena, "e.json"), &override, 1, &made.file),
                   OK);
  assert_int_equal(plan_make(&made.arena, &made.file, table, "runs", STAGE_EVALUATE_PPO, &made.plan),
                   INVALID);
  assert_non_null(strstr(error_message(), "does not fit the 256 positions of model gpt2-tiny"));
  unmake(&made);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(a_setting_changes_the_keys_of_its_stage_and_of_those_after_it, fresh),
      cmocka_unit_test_setup(one_byte_of_a_data_file_changes_the_keys_of_its_readers, fresh),
      cmocka_unit_test_setup(a_file_counts_by_its_content_not_by_its_name, fresh),
      cmocka_unit_test_setup(every_file_of_a_tokenizer_counts_and_no_other, fresh),
      cmocka_unit_test_setup(the_synthetic_world_stands_for_its_files, fresh),
      cmocka_unit_test_setup(arms_share_what_they_do_not_change, fresh),
      cmocka_unit_test_setup(the_backend_is_part_of_keys_that_depend_on_it, fresh),
      cmocka_unit_test_setup(a_second_run_computes_nothing_and_gives_the_same_bytes, fresh),
      cmocka_unit_test_setup(results_hold_every_run_and_compare_the_arms, fresh),
      cmocka_unit_test_setup(a_gate_stops_runs_with_a_reason, fresh),
      cmocka_unit_test_setup(a_gate_stops_its_arm_alone, fresh),
      cmocka_unit_test_setup(arms_may_have_baselines_of_their_own, fresh),
      cmocka_unit_test_setup(a_failed_or_interrupted_stage_leaves_no_marker_and_runs_again, fresh),
      cmocka_unit_test_setup(a_damaged_marker_is_refused_by_name, fresh),
      cmocka_unit_test_setup(until_stops_after_a_stage, fresh),
      cmocka_unit_test_setup(a_stage_that_another_process_computes_is_waited_for, fresh),
      cmocka_unit_test_setup(a_folder_that_is_removed_while_it_is_waited_for_is_made_again, fresh),
      cmocka_unit_test_setup(arms_that_are_no_more_lose_their_links, fresh),
      cmocka_unit_test_setup(lengths_that_the_model_cannot_hold_are_refused, fresh),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}

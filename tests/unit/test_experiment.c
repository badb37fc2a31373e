/* Experiment files: what is refused and the one line that says so; defaults, layers, arms. */
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/text.h"
#include "experiment.h"
#include "experiment_keys.h"
#include "testing.h"

static char folder[] = "/tmp/popalm-experiment-XXXXXX";

static void put_file(const char *name, const char *text) {
  char path[256];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  fputs(text, file);
  fclose(file);
}

static Status read_file(Arena *arena, const char *name, const Override *overrides, int count,
                        ExperimentFile *out) {
  char path[256];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  return experiment_read(arena, path, overrides, count, out);
}

/* The message without the folder that only this run of the test has. */
static const char *message(void) {
  static char text[2048];
  size_t length = strlen(folder), n = 0;
  for (const char *at = error_message(); *at && n + 1 < sizeof text;) {
    if (strncmp(at, folder, length) == 0 && at[length] == '/') at += length + 1;
    text[n++] = *at++;
  }
  text[n] = 0;
  return text;
}

static int setup(void **state) {
  (void)state;
  if (!mkdtemp(folder)) return 1;
  put_file("there.json", "x");
  put_file("loop.json", "{\"extends\": \"e.json\"}");
  put_file("base.json",
           "{\"name\": \"base\", \"data\": {\"synth\": {}}, \"ppo\": {\"steps\": 7, \"curriculum\": null}}");
  put_file("badbase.json", "{\"data\": {\"synth\": {}},\n \"pppo\": {}}");
  return 0;
}

static int teardown(void **state) {
  (void)state;
  static const char *const names[] = {"there.json", "loop.json",  "base.json", "badbase.json",
                                      "e.json",     "sub/s.json", "sub"};
  char path[256];
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    snprintf(path, sizeof path, "%s/%s", folder, names[i]);
    if (remove(path) != 0) continue;
  }
  return rmdir(folder);
}

#define SYNTH "\"data\": {\"synth\": {}}"

/* A wrong file e.json, and the line that is printed. */
static const struct {
  const char *text, *message;
} wrong[] = {
    {"{" SYNTH ",\n \"seed\": 1,}", "e.json:2:11: a comma before '}'; remove it"},
    {"[1]", "e.json:1:1: an experiment is an object; write { ... }"},
    {"{" SYNTH ",\n  \"pppo\": {}}", "e.json:2:3: unknown key \"pppo\"; did you mean \"ppo\"?"},
    {"{" SYNTH ", \"ppo\": {\n    \"lamda\": 0.9}}",
     "e.json:2:5: unknown key \"ppo.lamda\"; did you mean \"ppo.lambda\"?"},
    {"{" SYNTH ", \"ppo\": {\"kl\": {\"ceof\": 1}}}",
     "e.json:1:40: unknown key \"ppo.kl.ceof\"; did you mean \"ppo.kl.coef\"?"},
    {"{" SYNTH ", \"a\\n\\u001b[1m\": 8}",
     "e.json:1:25: unknown key \"a\\x0A\\x1B[1m\"; use one of: $schema, extends, name, preset, seed, device, "
     "data, tokenizer, model, adapter, sft, reward, ppo, evaluate, memory, gates, checkpoint, ablate"},
    {"{" SYNTH ", \"minibatch\": 8}",
     "e.json:1:25: unknown key \"minibatch\"; did you mean \"ppo.minibatch\"?"},
    {"{" SYNTH ", \"model\": {\"xyzzyxyzzy\": 1}}",
     "e.json:1:35: unknown key \"model.xyzzyxyzzy\"; use one of: preset, from"},
    {"{" SYNTH ", \"seed\": -1}",
     "e.json:1:33: \"seed\" is -1; it must be a whole number from 0 to 9007199254740992"},
    {"{" SYNTH ", \"seed\": 1.5}",
     "e.json:1:33: \"seed\" is 1.5; it must be a whole number from 0 to 9007199254740992"},
    {"{" SYNTH ", \"seed\": \"1\"}",
     "e.json:1:33: \"seed\" is \"1\"; it must be a whole number from 0 to 9007199254740992"},
    {"{" SYNTH ", \"ppo\": {\"lr\": 0}}",
     "e.json:1:39: \"ppo.lr\" is 0; it must be a number above 0, at most 1"},
    {"{" SYNTH ", \"ppo\": {\"lr\": \"1e-5\"}}",
     "e.json:1:39: \"ppo.lr\" is \"1e-5\"; it must be a number above 0, at most 1"},
    {"{" SYNTH ", \"ppo\": {\"gamma\": 1.01}}",
     "e.json:1:42: \"ppo.gamma\" is 1.01; it must be a number from 0 to 1"},
    {"{" SYNTH ", \"ppo\": {\"whiten\": 1}}", "e.json:1:43: \"ppo.whiten\" is 1; it must be true or false"},
    {"{" SYNTH ", \"ppo\": null}", "e.json:1:32: \"ppo\" is null; it must be an object"},
    {"{" SYNTH ", \"ppo\": []}", "e.json:1:32: \"ppo\" is []; it must be an object"},
    {"{" SYNTH ", \"ppo\": {\"curriculum\": true}}",
     "e.json:1:47: \"ppo.curriculum\" is true; it must be an object or null"},
    {"{" SYNTH ", \"ppo\": {\"critic\": \"shard\"}}",
     "e.json:1:43: \"ppo.critic\" is \"shard\"; did you mean \"shared\"? It must be \"shared\" or "
     "\"reward\""},
    {"{" SYNTH ", \"reward\": {\"orient\": \"xyzzyxyzzy\"}}",
     "e.json:1:46: \"reward.orient\" is \"xyzzyxyzzy\"; it must be \"likes\" or \"as_listed\""},
    {"{" SYNTH ", \"evaluate\": {\"split\": \"test\"}}",
     "e.json:1:47: \"evaluate.split\" is \"test\"; it must be \"dev\" or \"train\""},
    {"{" SYNTH ", \"evaluate\": {\"replies\": [3, 1]}}",
     "e.json:1:49: \"evaluate.replies\" is [3,1]; it must be a rising list of 1 to 8 whole numbers from 1 to "
     "1000"},
    {"{" SYNTH ", \"evaluate\": {\"replies\": []}}",
     "e.json:1:49: \"evaluate.replies\" is []; it must be a rising list of 1 to 8 whole numbers from 1 to "
     "1000"},
    {"{\n\"seed\": 1}",
     "e.json:1:1: there is no data; set \"data.train\", \"data.dev\" and \"data.pairs\", or \"data.synth\": "
     "{} for the synthetic "
     "world"},
    {"{\n\"data\": {\"train\": \"there.json\"}}",
     "e.json:2:9: \"data.dev\" is missing; add it (popalm data converts files and makes pairs)"},
    {"{\"data\": {\"synth\": {},\n\"dev\": \"there.json\"}}",
     "e.json:2:8: \"data.dev\" and \"data.synth\" exclude each other; set one of them to null"},
    {"{\"data\": {\"train\": \"there.json\", \"dev\": \"there.json\",\n\"pairs\": \"gone.json\"}}",
     "e.json:2:10: \"data.pairs\": the file gone.json cannot be read; correct the path"},
    {"{" SYNTH ", \"tokenizer\": {\"path\": \"gone.json\"}}",
     "e.json:1:47: \"tokenizer.path\": the file gone.json cannot be read; correct the path"},
    {"{" SYNTH ", \"model\": {\"preset\": \"./gone.json\"}}",
     "e.json:1:45: \"model.preset\": the file ./gone.json cannot be read; correct the path"},
    {"{" SYNTH ", \"model\": {\"from\": \"gone\"}}",
     "e.json:1:43: \"model.from\": the file gone/model.safetensors cannot be read; correct the path"},
    {"{" SYNTH ", \"device\": \"gpu\"}",
     "e.json:1:35: \"device\" is \"gpu\"; it must be \"auto\", \"cpu\", \"cuda\" or \"cuda:n\""},
    {"{" SYNTH ", \"name\": \"a/b\"}",
     "e.json:1:33: \"a/b\" cannot name an experiment; set \"name\" to letters, digits, '.', '_' and '-'"},
    {"{" SYNTH ", \"name\": \"stages\"}",
     "e.json:1:33: \"stages\" cannot name an experiment; set \"name\" to letters, digits, '.', '_' and '-'"},
    {"{" SYNTH ", \"ppo\": {\"minibatch\": 49}}",
     "e.json:1:46: \"ppo.minibatch\" is 49, but a step has 16 x 3 = 48 samples; make it at most that"},
    {"{" SYNTH ", \"ppo\": {\"curriculum\": {\"rank\": {\"keep\": 0.1}}}}",
     "e.json:1:65: ranking keeps 4 of 48 samples, fewer than \"ppo.minibatch\" (8), so every step would be "
     "skipped; raise "
     "\"keep\" or lower the minibatch"},
    {"{" SYNTH ", \"ppo\": {\"sampling\": {\"temperature\": 0}}}",
     "e.json:1:61: \"ppo.sampling.temperature\" is 0, so a post's samples would all be the same; use a "
     "number above 0"},
    {"{" SYNTH ", \"evaluate\": {\"sampling\": {\"temperature\": 0}}}",
     "e.json:1:66: \"evaluate.sampling.temperature\" is 0, so the 5 replies of \"evaluate.replies\" would be "
     "the same; use a "
     "number above 0, or \"replies\": [1]"},
    {"{" SYNTH ", \"evaluate\": {\"segmentation\": \"words\"}}",
     "e.json:1:54: \"evaluate.segmentation\" is \"words\", but there is no \"evaluate.dictionary\"; give the "
     "path of a word list"},
    {"{" SYNTH ", \"ppo\": {\"clip\": 1}}",
     "e.json:1:41: \"ppo.clip\" is 1, so a ratio of 0 would not be clipped; use a number below 1"},
    {"{" SYNTH ", \"ppo\": {\"dual_clip\": 1.1}}",
     "e.json:1:46: \"ppo.dual_clip\" is 1.1; it must be 0 (none) or above 1 + the upper clip, 1.2"},
    {"{" SYNTH ", \"sft\": {\"tokens_per_batch\": 100}}",
     "e.json:1:53: \"sft.tokens_per_batch\" is 100, but one post with its reply can have 160 tokens; make it "
     "at least that"},
    {"{\"extends\": \"gone.json\"}",
     "e.json:1:13: \"extends\": there is no file gone.json; correct the path"},
    {"{\n\"extends\": \"loop.json\"}", "e.json:2:12: \"extends\" leads back to this file; break the circle"},
    {"{\"extends\": \"badbase.json\"}", "badbase.json:2:2: unknown key \"pppo\"; did you mean \"ppo\"?"},
    {"{" SYNTH ", \"ablate\": {}}",
     "e.json:1:35: \"ablate\" needs arms; write \"arms\": {\"name\": {\"ppo.steps\": 100}}"},
    {"{" SYNTH ", \"ablate\": {\"arms\": {\"a\": {\n\"ppo.step\": 1}}}}",
     "e.json:2:1: unknown key \"ppo.step\"; did you mean \"ppo.steps\"?"},
    {"{" SYNTH ", \"ablate\": {\"arms\": {\"a\": {\n\"ppo.steps\": 0}}}}",
     "e.json:2:14: \"ppo.steps\" is 0; it must be a whole number from 1 to 100000000"},
    {"{" SYNTH ", \"ablate\": {\"arms\": {\"a\": {\n\"ppo.minibatch\": 49}}}}",
     "e.json:2:18: \"ppo.minibatch\" is 49, but a step has 16 x 3 = 48 samples; make it at most that"},
    {"{" SYNTH ", \"ablate\": {\"arms\": {\"a\": {\"name\": \"x\"}}}}",
     "e.json:1:51: \"name\" cannot differ between arms; move it out of \"ablate\""},
    {"{" SYNTH ", \"ablate\": {\"arms\": {\"a b\": {}}}}",
     "e.json:1:45: \"a b\" cannot name an arm; use letters, digits, '.', '_' and '-'"},
    {"{" SYNTH ", \"ablate\": {\"arms\": {\"a\": 1}}}",
     "e.json:1:50: an arm is an object of dotted paths and values; write {\"ppo.steps\": 100}"},
    {"{" SYNTH ", \"ablate\": {\"arms\": {\"full\": {}}, \"baseline\": \"fulll\"}}",
     "e.json:1:70: \"ablate.baseline\" is \"fulll\", which is no arm; did you mean \"full\"?"},
    {"{" SYNTH ", \"ablate\": {\"arms\": {\"a\": {}}, \"metric\": \"reward\"}}",
     "e.json:1:65: \"ablate.metric\" is \"reward\"; write \"evaluate.\" and a metric, as in "
     "\"evaluate.rouge_l@3\""},
    {"{" SYNTH ", \"ablate\": {\"arms\": {\"a\": {}}, \"seeds\": [1, 1]}}",
     "e.json:1:64: \"ablate.seeds\" is [1,1]; it must be a list of different whole numbers from 0"},
    {"{" SYNTH ", \"ablate\": {\"grid\": {\"ppo.steps\": 5}}}",
     "e.json:1:58: \"ppo.steps\" of the grid needs a list of values; write [0.5, 1]"},
    {"{" SYNTH ", \"ablate\": {\"grid\": {\"ppo.steps\": [5, 6,\n5]}}}",
     "e.json:2:1: the grid lists this value of \"ppo.steps\" twice; remove one"},
    {"{" SYNTH ", \"ablate\": {\"grid\": {\"ppo.step\": [5]}}}",
     "e.json:1:58: unknown key \"ppo.step\"; did you mean \"ppo.steps\"?"},
    {"{" SYNTH ", \"ablate\": {\"grid\": {\"ppo.steps\": [5, 0]}}}",
     "e.json:1:62: \"ppo.steps\" is 0; it must be a whole number from 1 to 100000000"},
    {"{" SYNTH ", \"ablate\": {\"grid\": {\"device\": [\"cpu\"]}}}",
     "e.json:1:45: \"device\" cannot differ between arms; move it out of \"ablate\""},
    {"{" SYNTH ", \"ablate\": {\"grid\": {\"data.instruction\": [\"a b\", \"a c\", \"a-b\"]}}}",
     "e.json:1:45: two arms would be called \"instruction=a-b\"; name them under \"arms\" instead"},
    {"{" SYNTH ", \"ablate\": {\"grid\": {}}}",
     "e.json:1:35: \"ablate\" needs arms; write \"arms\": {\"name\": {\"ppo.steps\": 100}}"},
    {"{" SYNTH ", \"ablate\": {\"arms\": {\"a\": {}}, \"metric\": \"evaluate.rouge_l@4\"}}",
     "e.json:1:65: \"ablate.metric\" is \"evaluate.rouge_l@4\", which no evaluation here has; did you mean "
     "\"evaluate.rouge_l@1\"?"},
    {"{" SYNTH ", \"ablate\": {\"arms\": {\"a\": {}, \"b\": {}}, \"baselines\": {\"b\": \"aa\"}}}",
     "e.json:1:83: \"aa\" is no arm; did you mean \"a\"?"},
    {"{" SYNTH ", \"ablate\": {\"arms\": {\"full\": {}, \"b\": {}}, \"baselines\": {\"fulll\": \"b\"}}}",
     "e.json:1:81: \"fulll\" is no arm; did you mean \"full\"?"},
    {"{\"preset\": \"release\"}",
     "e.json:1:12: \"preset\" is \"release\"; did you mean \"released\"? It must be \"paper\" or "
     "\"released\" or "
     "null"},
    {"{" SYNTH ", \"ppo\": {\"curriculum\": null, \"minibatch\": 10}}",
     "e.json:1:66: \"ppo.minibatch\" 10 does not divide the 16 x 3 = 48 samples of a step; use 8 or 12"},
    {"{" SYNTH ", \"reward\": {\"holdout\": 0}, \"gates\": {\"reward_accuracy\": 0.6}}",
     "e.json:1:80: \"gates.reward_accuracy\" is about held-out pairs, but \"reward.holdout\" is 0; hold some "
     "out"},
    {"{" SYNTH ", \"gates\": {\"perplexity\": 0.5}}",
     "e.json:1:49: \"gates.perplexity\" is 0.5, but no perplexity is below 1; use a number above 1, or 0 for "
     "no "
     "gate"},
};

static void wrong_files_are_refused_in_one_exact_line(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    Arena arena = {0};
    ExperimentFile file;
    put_file("e.json", wrong[i].text);
    assert_int_equal(read_file(&arena, "e.json", NULL, 0, &file), INVALID);
    if (strcmp(message(), wrong[i].message) != 0)
      fail_msg("%s\n gave      %s\n expected  %s", wrong[i].text, message(), wrong[i].message);
    arena_free(&arena);
  }
}

static const struct {
  Override override;
  const char *message;
} wrong_overrides[] = {
    {{"ppo.lamda", "1"}, "--set ppo.lamda=1: unknown key \"ppo.lamda\"; did you mean \"ppo.lambda\"?"},
    {{"ppo.lr.x", "1"},
     "--set ppo.lr.x=1: unknown key \"ppo.lr.x\": \"ppo.lr\" has no keys of its own; give it a value"},
    {{"ppo.steps", "many"},
     "--set ppo.steps=many: \"ppo.steps\" is \"many\"; it must be a whole number from 1 to 100000000"},
    {{"ppo", "{\"steps\": }"},
     "--set ppo={\"steps\": }:1:11: a value is expected, not '}'; write a number, \"text\", true, false, "
     "null, { or ["},
    {{"ppo.kl.kind", "fixd"},
     "--set ppo.kl.kind=fixd: \"ppo.kl.kind\" is \"fixd\"; did you mean \"fixed\"? It must be \"adaptive\" "
     "or \"fixed\""},
    {{"extends", "x"}, "--set extends=x: \"extends\" belongs in the file; write it there"},
};

static void wrong_overrides_are_refused(void **state) {
  (void)state;
  put_file("e.json", "{" SYNTH "}");
  for (size_t i = 0; i < sizeof wrong_overrides / sizeof *wrong_overrides; i++) {
    Arena arena = {0};
    ExperimentFile file;
    assert_int_equal(read_file(&arena, "e.json", &wrong_overrides[i].override, 1, &file), INVALID);
    assert_string_equal(message(), wrong_overrides[i].message);
    arena_free(&arena);
  }
}

static Experiment only(Arena *arena, const char *text, const Override *overrides, int count,
                       ExperimentFile *file) {
  put_file("e.json", text);
  if (read_file(arena, "e.json", overrides, count, file) != OK) fail_msg("%s", error_message());
  assert_int_equal(file->run_count, 1);
  return file->runs[0].experiment;
}

static void defaults_are_the_papers(void **state) {
  (void)state;
  Arena arena = {0};
  ExperimentFile file;
  Experiment e = only(&arena, "{" SYNTH "}", NULL, 0, &file);
  assert_string_equal(e.name, "e");
  assert_string_equal(file.runs[0].arm, "main");
  assert_true(e.ppo.optimizer.lr == 1.41e-5 && e.ppo.gamma == 1 && e.ppo.lambda == 0.95 && e.ppo.clip == 0.2);
  assert_true(e.ppo.kl_coef == 0.1 && e.ppo.kl_target == 6 && e.ppo.kl_horizon == 10000);
  assert_int_equal(e.ppo.kl_control, KL_CONTROL_ADAPTIVE);
  assert_int_equal(e.ppo.curriculum.enhance, ENHANCE_ROUGE_L);
  assert_int_equal(e.ppo.curriculum.rank, RANK_BATCH);
  assert_int_equal(e.ppo.curriculum.pace, PACE_REWARD_PROB);
  assert_false(e.ppo.curriculum.pace_absolute);
  assert_true(e.ppo.curriculum.pace_start == 0.01 && e.ppo.curriculum.pace_decay == 0.95);
  assert_int_equal(e.evaluate.top_count, 3);
  assert_int_equal(e.evaluate.tops[2], 5);
  assert_true(e.data.synth && e.data.train == NULL);
  experiment_free(&file);
  arena_free(&arena);
}

/* popalm data synth takes its defaults from the world, experiments from the table: the same ones. */
static void synthetic_defaults_are_the_worlds(void **state) {
  (void)state;
  Arena arena = {0};
  ExperimentFile file;
  Experiment e = only(&arena, "{" SYNTH "}", NULL, 0, &file);
  const WorldSettings *have = &e.data.world, *want = &world_defaults;
  assert_true(have->seed == want->seed && have->train_posts == want->train_posts &&
              have->dev_posts == want->dev_posts);
  assert_true(have->replies_per_post == want->replies_per_post &&
              have->exposure_noise == want->exposure_noise);
  assert_true(have->early_bird == want->early_bird && have->author_noise == want->author_noise &&
              have->flip == want->flip);
  experiment_free(&file);
  arena_free(&arena);
}

static void the_released_preset_changes_defaults_only(void **state) {
  (void)state;
  Arena arena = {0};
  ExperimentFile file;
  Experiment e =
      only(&arena,
           "{" SYNTH ", \"ppo\": {\"curriculum\": {\"preset\": \"released\", \"pace\": {\"start\": 0.5}}}}",
           NULL, 0, &file);
  assert_int_equal(e.ppo.curriculum.rank, RANK_POST);
  assert_true(e.ppo.curriculum.pace_absolute);
  assert_true(e.ppo.curriculum.pace_start == 0.5);
  experiment_free(&file);
  e = only(&arena,
           "{" SYNTH
           ", \"ppo\": {\"curriculum\": {\"preset\": \"released\", \"rank\": {\"scope\": \"batch\"}}}}",
           NULL, 0, &file);
  assert_int_equal(e.ppo.curriculum.rank, RANK_BATCH);
  experiment_free(&file);
  arena_free(&arena);
}

/* The whole preset: what the released code does otherwise, and nothing that the file says. */
static void the_released_preset_of_a_file_holds_for_all_sections(void **state) {
  (void)state;
  Arena arena = {0};
  ExperimentFile file;
  Experiment e =
      only(&arena, "{" SYNTH ", \"preset\": \"released\", \"ppo\": {\"minibatch\": 4}}", NULL, 0, &file);
  assert_int_equal(e.reward.orient, ORIENT_AS_LISTED);
  assert_int_equal(e.reward.input, INPUT_REPLY_POST);
  assert_true(e.reward.epochs == 20 && e.reward.pairs_per_batch == 64 && e.reward.optimizer.lr == 2e-5);
  assert_true(e.ppo.posts_per_step == 4 && e.ppo.samples_per_post == 3 && e.ppo.steps == 1257);
  assert_int_equal(e.ppo.minibatch, 4);
  assert_int_equal(e.ppo.curriculum.rank, RANK_POST);
  assert_true(e.ppo.curriculum.pace_absolute);
  assert_true(ranked_samples(&e.ppo) == 4);
  assert_null(cJSON_GetObjectItem(file.resolved, "preset")); /* it has become values */
  experiment_free(&file);
  e = only(&arena,
           "{" SYNTH ", \"preset\": \"released\", \"ppo\": {\"curriculum\": {\"preset\": \"paper\"}}}", NULL,
           0, &file);
  assert_int_equal(e.ppo.posts_per_step, 4);
  assert_int_equal(e.ppo.curriculum.rank, RANK_BATCH); /* the nearer preset holds */
  experiment_free(&file);
  const Override override = {"preset", "paper"};
  e = only(&arena, "{" SYNTH ", \"preset\": \"released\"}", &override, 1, &file);
  assert_int_equal(e.ppo.posts_per_step, 16);
  experiment_free(&file);
  arena_free(&arena);
}

/* Every row of the presets is of a known key and changes its default to a value that the key accepts. */
static void presets_change_defaults_to_values_that_are_accepted(void **state) {
  (void)state;
  int rows = 0;
  for (int p = 0; experiment_preset_names[p]; p++)
    for (int i = 0; i < experiment_key_count; i++) {
      const char *value = experiment_preset_value(experiment_preset_names[p], experiment_keys[i].path);
      if (!value) continue;
      Arena arena = {0};
      ExperimentFile file;
      const Override override = {experiment_keys[i].path, value};
      assert_string_not_equal(value, experiment_keys[i].fallback);
      only(&arena, "{" SYNTH ", \"ppo\": {\"minibatch\": 2}}", &override, 1, &file);
      experiment_free(&file);
      arena_free(&arena);
      rows++;
    }
  assert_int_equal(rows, 8); /* all of them: none names a key that is not there */
}

static void null_switches_parts_of_the_curriculum_off(void **state) {
  (void)state;
  Arena arena = {0};
  ExperimentFile plain, none;
  Experiment e = only(&arena, "{" SYNTH ", \"ppo\": {\"curriculum\": null}}", NULL, 0, &plain);
  assert_int_equal(e.ppo.curriculum.enhance, ENHANCE_NONE);
  assert_int_equal(e.ppo.curriculum.rank, RANK_NONE);
  assert_int_equal(e.ppo.curriculum.pace, PACE_NONE);
  e = only(&arena,
           "{" SYNTH
           ", \"ppo\": {\"curriculum\": {\"enhance\": {\"metric\": \"none\"}, \"rank\": null, \"pace\": "
           "{\"kind\": \"none\"}}}}",
           NULL, 0, &none);
  assert_true(cJSON_Compare(plain.resolved, none.resolved, true)); /* so both have one stage key */
  experiment_free(&plain);
  experiment_free(&none);
  const Override five = {"ppo.minibatch", "5"}; /* need not divide what a curriculum leaves */
  e = only(&arena, "{" SYNTH "}", &five, 1, &plain);
  assert_int_equal(e.ppo.minibatch, 5);
  experiment_free(&plain);
  const Override override = {"ppo.curriculum.rank.keep", "0.5"};
  e = only(&arena, "{" SYNTH ", \"ppo\": {\"curriculum\": null}}", &override, 1, &plain);
  assert_int_equal(e.ppo.curriculum.rank, RANK_BATCH); /* a key under null brings back its own part alone */
  assert_true(e.ppo.curriculum.rank_keep == 0.5);
  assert_int_equal(e.ppo.curriculum.pace, PACE_NONE);
  experiment_free(&plain);
  arena_free(&arena);
}

static void later_layers_win(void **state) {
  (void)state;
  Arena arena = {0};
  ExperimentFile file;
  const Override overrides[] = {
      {"ppo.lr", "1e-4"}, {"ppo.lr", "2e-4"}, {"data.instruction", "2023"}, {"ppo.kl.kind", "fixed"}};
  Experiment e = only(&arena, "{\"extends\": \"base.json\", \"ppo\": {\"lr\": 1e-3, \"curriculum\": {}}}",
                      overrides, 4, &file);
  assert_int_equal(e.ppo.steps, 7);                     /* from the base */
  assert_int_equal(e.ppo.curriculum.rank, RANK_BATCH);  /* {} over the base's null: the defaults */
  assert_true(e.ppo.optimizer.lr == 2e-4);              /* the last --set */
  assert_string_equal(e.data.instruction, "2023");      /* a bare number where text is wanted */
  assert_int_equal(e.ppo.kl_control, KL_CONTROL_FIXED); /* a bare word */
  assert_string_equal(e.name, "e");                     /* a name is not inherited */
  experiment_free(&file);
  arena_free(&arena);
}

static void an_object_in_place_of_null_starts_from_the_defaults(void **state) {
  (void)state;
  Arena arena = {0};
  ExperimentFile file;
  const Override overrides[] = {{"ppo.curriculum", "null"}, {"ppo.curriculum", "{}"}};
  const char *text = "{" SYNTH ", \"ppo\": {\"curriculum\": {\"rank\": {\"keep\": 0.5}}}}";
  Experiment e = only(&arena, text, overrides, 2, &file);
  assert_true(e.ppo.curriculum.rank_keep < 0.34);
  experiment_free(&file);
  arena_free(&arena);
}

static void paths_start_at_the_file_that_says_them(void **state) {
  (void)state;
  Arena arena = {0};
  ExperimentFile file;
  char path[256];
  snprintf(path, sizeof path, "%s/sub", folder);
  assert_int_equal(make_folders(path), OK);
  put_file(
      "sub/s.json",
      "{\"data\": {\"train\": \"../there.json\", \"dev\": \"../there.json\", \"pairs\": \"../there.json\"}}");
  Experiment e =
      only(&arena, "{\"extends\": \"sub/s.json\", \"data\": {\"dev\": \"there.json\"}}", NULL, 0, &file);
  snprintf(path, sizeof path, "%s/sub/../there.json", folder);
  assert_string_equal(e.data.train, path);
  snprintf(path, sizeof path, "%s/there.json", folder);
  assert_string_equal(e.data.dev, path);
  experiment_free(&file);
  arena_free(&arena);
}

static void ablations_expand_to_arms_and_seeds(void **state) {
  (void)state;
  Arena arena = {0};
  ExperimentFile file;
  put_file("e.json", "{" SYNTH
                     ", \"ablate\": {\"arms\": {\"ppo\": {\"ppo.curriculum\": null}, \"short\": {\"ppo\": "
                     "{\"steps\": 5}}},\n"
                     " \"seeds\": [4, 2], \"baseline\": \"short\", \"metric\": \"evaluate.rouge_l@3\"}}");
  assert_int_equal(read_file(&arena, "e.json", NULL, 0, &file), OK);
  assert_int_equal(file.run_count, 4);
  assert_int_equal(file.arm_count, 2);
  assert_string_equal(file.runs[1].arm, "ppo");
  assert_int_equal(file.runs[1].experiment.seed, 2);
  assert_int_equal(file.runs[1].experiment.ppo.curriculum.rank, RANK_NONE);
  assert_int_equal(file.runs[1].experiment.ppo.steps, 200);
  assert_int_equal(file.runs[2].experiment.seed, 4);
  assert_int_equal(file.runs[2].experiment.ppo.steps, 5);
  assert_int_equal(file.runs[2].experiment.ppo.curriculum.rank, RANK_BATCH);
  assert_string_equal(file.baseline, "short");
  assert_string_equal(file.metric, "rouge_l@3");
  experiment_free(&file);
  arena_free(&arena);
}

static void a_grid_expands_to_named_cells_beside_the_arms(void **state) {
  (void)state;
  Arena arena = {0};
  ExperimentFile file, again;
  put_file(
      "e.json",
      "{" SYNTH
      ", \"ablate\": {\"arms\": {\"ppo\": {\"ppo.curriculum\": null}}, \"baseline\": "
      "\"pace.kind=none,keep=0.5\",\n \"grid\": {\"ppo.curriculum.pace.kind\": [\"none\", \"reward_prob\"], "
      "\"ppo.curriculum.rank.keep\": [0.333, 0.5], \"ppo.kl.kind\": [\"fixed\"], \"ppo.curriculum.enhance\": "
      "[null, {}]}, \"seeds\": [4, 2]}}");
  const Override baseline = {"ablate.baseline", "pace.kind=none,keep=0.5,kl.kind=fixed,enhance=null"};
  if (read_file(&arena, "e.json", &baseline, 1, &file) != OK) fail_msg("%s", error_message());
  assert_int_equal(file.arm_count, 1 + 8);
  assert_int_equal(file.run_count, 18);
  assert_string_equal(file.runs[0].arm, "ppo");
  assert_string_equal(file.runs[2].arm, "pace.kind=none,keep=0.333,kl.kind=fixed,enhance=null");
  assert_string_equal(file.runs[17].arm, "pace.kind=reward_prob,keep=0.5,kl.kind=fixed,enhance=value2");
  const Experiment *e = &file.runs[17].experiment;
  assert_true(e->ppo.curriculum.rank_keep == 0.5 && e->seed == 2);
  assert_int_equal(e->ppo.curriculum.enhance, ENHANCE_ROUGE_L);
  assert_int_equal(file.runs[2].experiment.ppo.curriculum.enhance, ENHANCE_NONE);
  assert_int_equal(file.runs[2].experiment.ppo.curriculum.pace, PACE_NONE);
  char *text = cJSON_Print(file.resolved); /* lists the cells as arms, and so gives the same runs */
  put_file("e.json", text);
  if (read_file(&arena, "e.json", NULL, 0, &again) != OK) fail_msg("%s", error_message());
  assert_true(cJSON_Compare(file.resolved, again.resolved, true));
  for (int i = 0; i < file.run_count; i++)
    assert_true(cJSON_Compare(file.runs[i].experiment.resolved, again.runs[i].experiment.resolved, true));
  cJSON_free(text);
  experiment_free(&file);
  experiment_free(&again);
  arena_free(&arena);
}

/* Resolving what was resolved changes nothing: experiment.json says all there is to say. */
static void resolved_experiments_resolve_to_themselves(void **state) {
  (void)state;
  Arena arena = {0};
  ExperimentFile first, second;
  only(&arena, "{" SYNTH ", \"ppo\": {\"curriculum\": {\"preset\": \"released\", \"pace\": null}}}", NULL, 0,
       &first);
  char *text = cJSON_Print(first.resolved);
  only(&arena, text, NULL, 0, &second);
  assert_true(cJSON_Compare(first.resolved, second.resolved, true));
  cJSON_free(text);
  experiment_free(&first);
  experiment_free(&second);
  arena_free(&arena);
}

/* Every row of the table has a help sentence, a section before it, and a default that is itself accepted. */
static void the_table_is_sound(void **state) {
  (void)state;
  for (int i = 0; i < experiment_key_count; i++) {
    const ExperimentKey *key = &experiment_keys[i];
    char section[64];
    snprintf(section, sizeof section, "%s", key->path);
    assert_true(key->help && key->help[strlen(key->help) - 1] == '.');
    assert_int_equal(experiment_key_find(key->path), i); /* no path twice */
    char *dot = strrchr(section, '.');
    if (dot) *dot = 0;
    if (dot) assert_in_range(experiment_key_find(section), 0, i - 1);
    if (key->type != KEY_INT && key->type != KEY_NUMBER) continue;
    double value = strtod(key->fallback, NULL);
    assert_true(value >= key->least && value <= key->most && !(key->above && value == key->least));
  }
}

static void the_committed_schema_and_reference_are_the_tables(void **state) {
  (void)state;
  if (!file_exists("docs/experiment.schema.json")) skip(); /* only from the root of the sources */
  Arena arena = {0};
  cJSON *schema = experiment_schema();
  char *text = cJSON_Print(schema);
  Text page = {.arena = &arena};
  experiment_reference(&page);
  const char *made[] = {arena_print(&arena, "%s\n", text), page.data};
  const char *const paths[] = {"docs/experiment.schema.json", "docs/experiment.md"};
  for (int i = 0; i < 2; i++) {
    FileMap map;
    assert_int_equal(file_map(paths[i], &map), OK);
    if (map.length != strlen(made[i]) || memcmp(map.data, made[i], map.length) != 0)
      fail_msg("%s is old; make it again with popalm schema (and --reference)", paths[i]);
    file_unmap(&map);
  }
  cJSON_free(text);
  cJSON_Delete(schema);
  arena_free(&arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(wrong_files_are_refused_in_one_exact_line),
      cmocka_unit_test(wrong_overrides_are_refused),
      cmocka_unit_test(defaults_are_the_papers),
      cmocka_unit_test(synthetic_defaults_are_the_worlds),
      cmocka_unit_test(the_released_preset_changes_defaults_only),
      cmocka_unit_test(the_released_preset_of_a_file_holds_for_all_sections),
      cmocka_unit_test(presets_change_defaults_to_values_that_are_accepted),
      cmocka_unit_test(null_switches_parts_of_the_curriculum_off),
      cmocka_unit_test(later_layers_win),
      cmocka_unit_test(an_object_in_place_of_null_starts_from_the_defaults),
      cmocka_unit_test(paths_start_at_the_file_that_says_them),
      cmocka_unit_test(ablations_expand_to_arms_and_seeds),
      cmocka_unit_test(a_grid_expands_to_named_cells_beside_the_arms),
      cmocka_unit_test(resolved_experiments_resolve_to_themselves),
      cmocka_unit_test(the_table_is_sound),
      cmocka_unit_test(the_committed_schema_and_reference_are_the_tables),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}

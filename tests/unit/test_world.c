/* The synthetic world: same bytes, known truth, noise that does what it says. */
#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/philox.h"
#include "experiment.h"
#include "testing.h"
#include "world.h"
#include "world_grammar.h"

static Arena arena;
static World *world;
static char folder[] = "/tmp/popalm-world-XXXXXX";

static const char joy[] = "#football# Mira won the cup in Oslo with a goat.";
static const char absurd[] = "Just in: Kira sang to the contest with a kettle. #food# Lima";

static double popularity(const char *post, const char *reply) { return world_popularity(world, post, reply); }

/* The whole file as a text. */
static char *read_data(const char *name) {
  FileMap map;
  assert_int_equal(file_map(path_join(&arena, folder, name), &map), OK);
  char *text = arena_strndup(&arena, map.data, map.length);
  file_unmap(&map);
  return text;
}

/* Calls use with each line's JSON. */
static int each_line(const char *name, void (*use)(const cJSON *line, void *context), void *context) {
  char *text = read_data(name), *rest = text;
  int count = 0;
  for (char *line; (line = strsep(&rest, "\n")) && *line; count++) {
    cJSON *json = cJSON_Parse(line);
    assert_non_null(json);
    use(json, context);
    cJSON_Delete(json);
  }
  return count;
}

static const char *text_of(const cJSON *line, const char *key) {
  const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(line, key));
  assert_non_null(text);
  return text;
}

static double number_of(const cJSON *line, const char *key) {
  return cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(line, key));
}

static WorldSettings small(void) {
  WorldSettings settings = world_defaults;
  settings.train_posts = 300;
  settings.dev_posts = 60;
  return settings;
}

static WorldSettings noiseless(void) {
  WorldSettings settings = small();
  settings.exposure_noise = settings.early_bird = settings.author_noise = settings.flip = 0;
  return settings;
}

static void write_world(const WorldSettings *settings) {
  assert_int_equal(world_write(settings, folder), OK);
}

static void same_settings_give_the_same_bytes_and_another_seed_others(void **state) {
  (void)state;
  static const char *const names[] = {"train.json", "dev.json", "pairs.json", "world.json"};
  WorldSettings settings = small();
  char *first[4];
  write_world(&settings);
  for (int i = 0; i < 4; i++) first[i] = read_data(names[i]);
  write_world(&settings);
  for (int i = 0; i < 4; i++) assert_string_equal(first[i], read_data(names[i]));
  settings.seed++;
  write_world(&settings);
  for (int i = 0; i < 4; i++) assert_string_not_equal(first[i], read_data(names[i]));
}

static void noise_changes_likes_but_neither_posts_nor_what_is_written(void **state) {
  (void)state;
  Event a = event_from_number(5), b = event_from_number(5);
  assert_memory_equal(&a, &b, sizeof a);
  WorldSettings settings = small();
  write_world(&settings);
  char *loud = read_data("world.json");
  settings = noiseless();
  write_world(&settings);
  const char *key = "\"written\": ";
  assert_memory_equal(strstr(loud, key), strstr(read_data("world.json"), key), strlen(key) + 8);
}

static void texts_can_be_read_back(void **state) {
  (void)state;
  RandomKey key = {77, RANDOM_TEST, 0};
  for (uint32_t i = 0; i < 3000; i++) {
    Event event = event_from_number((uint64_t)(random_double(key, i, 0) * (double)event_space())), read;
    Text post = {.arena = &arena};
    post_text(&event, &post);
    assert_true(post_parse(post.data, &read));
    assert_memory_equal(&event, &read, sizeof event);

    Reply reply = {.opener = (int)random_below(key, i, 1, OPENERS),
                   .stance = random_below(key, i, 2, STANCES),
                   .form = (int)random_below(key, i, 3, FORMS),
                   .target = random_below(key, i, 4, TARGET_KINDS),
                   .tail = (int)random_below(key, i, 5, TAILS),
                   .punctuation = (int)random_below(key, i, 6, PUNCTUATIONS),
                   .emoji = (int)random_below(key, i, 7, EMOJIS)};
    static const uint32_t targets[TARGET_KINDS] = {SUBJECTS, PROPS, TOPICS, 1};
    reply.target_index = (int)random_below(key, i, 8, targets[reply.target]);
    Text text = {.arena = &arena};
    reply_text(&reply, &text);
    Reply again;
    int words;
    if (!reply_parse(text.data, &again, &words)) fail_msg("not read: %s", text.data);
    assert_memory_equal(&reply, &again, sizeof reply);
  }
}

static void better_parts_make_a_reply_more_popular(void **state) {
  (void)state;
  static const struct {
    const char *post, *better, *worse;
  } rule[] = {
      {joy, "well done Mira!", "stay strong Mira!"},                    /* stance fits the mood */
      {absurd, "send the kettle to space", "so sorry for the kettle"},  /* of another mood */
      {joy, "well done Mira!", "well done the goat!"},                  /* a person in joy */
      {absurd, "send the kettle to space", "send Kira to space"},       /* the thing in the absurd */
      {joy, "well done Mira!", "well done football!"},                  /* the closest entity */
      {joy, "well done football!", "well done this!"},                  /* something rather than "this" */
      {joy, "well done Mira, frame it", "well done Mira, said nobody"}, /* wit on the stage */
      {joy, "well done Mira, frame it", "well done Mira, mom agrees"},  /* what is witty elsewhere */
      {absurd, "my boss is the kettle, said nobody",
       "my boss is the kettle, plot twist"},   /* and the reverse */
      {joy, "we love Mira 👏", "we love Mira"}, /* emoji */
      {joy, "we love Mira", "we love Mira 💔"},
      {joy, "omg we love Mira", "hmm we love Mira"},    /* opener */
      {joy, "we love Mira!", "we love Mira..."},        /* punctuation */
      {joy, "three cheers for Mira", "well done Mira"}, /* length: four words, not three */
  };
  for (size_t i = 0; i < sizeof rule / sizeof *rule; i++) {
    double better = popularity(rule[i].post, rule[i].better), worse = popularity(rule[i].post, rule[i].worse);
    if (!(better > worse + 0.01))
      fail_msg("\"%s\" %g, \"%s\" %g", rule[i].better, better, rule[i].worse, worse);
    assert_true(better <= 1 && worse >= 0);
  }
}

/* The same two tails change places with the kind of topic, so no word is good in itself. */
static void wit_depends_on_topic_and_stance_together(void **state) {
  (void)state;
  static const char street[] = "#food# Kira won the market in Oslo with a goat.";
  assert_true(popularity(joy, "well done Mira, frame it") >
              popularity(joy, "well done Mira, mom agrees") + 0.1);
  assert_true(popularity(joy, "well done Mira, said nobody") >
              popularity(joy, "well done Mira, mom agrees") + 0.01);
  assert_true(popularity(street, "well done Kira, frame it") <
              popularity(street, "well done Kira, mom agrees") - 0.1);
}

static void nobody_laughs_at_a_joke_in_sorrow(void **state) {
  (void)state;
  static const char sorrow[] = "#football# Mira lost the cup in Oslo with a goat.";
  assert_true(popularity(joy, "send Mira to space, plot twist") >
              popularity(joy, "send Mira to space") + 0.05);
  assert_true(popularity(sorrow, "send Mira to space, plot twist") ==
              popularity(sorrow, "send Mira to space"));
}

static void a_reply_can_be_too_short_and_too_long(void **state) {
  (void)state;
  double three = popularity(joy, "well done Mira"), four = popularity(joy, "three cheers for Mira");
  assert_true(three < 0.9 * four);
  double six = popularity(joy, "omg we love Mira, frame it"),
         seven = popularity(joy, "omg three cheers for Mira, frame it");
  assert_true(seven > 0.85 * six && seven < 0.95 * six);
}

static void what_the_grammar_cannot_read_is_worth_nothing(void **state) {
  (void)state;
  static const char *const bad[] = {
      "",
      " ",
      "Mira",
      "well done",
      "well done well done Mira",
      "well done Mira well done Mira",
      "well done Mira! 👏👏",
      "well done Mira!!",
      "well done Mira, frame it, frame it",
      "well done Mira,",
      "well done Mira 👏!",
      "frame it",
      "well done Otto!",
      "well done the drum",
      "well done food",
      "\xff\xfe",
      "is Mira real is Mira real is Mira real is Mira real is Mira real is Mira real is Mira real is Mira "
      "real",
      "!!!! !!!! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! !"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    if (popularity(joy, bad[i]) != 0) fail_msg("\"%s\" has popularity %g", bad[i], popularity(joy, bad[i]));
  assert_true(popularity("a post of another world", "well done Mira!") == 0);
  assert_true(popularity("#football# Mira won the exam in Oslo with a goat.", "well done Mira!") == 0);
}

static void white_space_and_case_do_not_matter(void **state) {
  (void)state;
  double plain = popularity(joy, "omg we love Mira! 👏");
  assert_true(plain > 0.5);
  assert_true(popularity(joy, "  OMG we\tlove mira !👏\n") == plain);
}

static void every_post_has_a_reply_of_popularity_one_and_none_above(void **state) {
  (void)state;
  RandomKey key = {78, RANDOM_TEST, 0};
  for (uint32_t i = 0; i < 300; i++) {
    Event event = event_from_number((uint64_t)(random_double(key, i, 0) * (double)event_space()));
    Text post = {.arena = &arena};
    post_text(&event, &post);
    double best = world_best_popularity(world, post.data);
    assert_true(best > 1 - 1e-12 && best < 1 + 1e-12);
  }
  assert_true(world_best_popularity(world, "a post of another world") == 0);
}

typedef struct PostCheck {
  int replies;
  double popularity;
  const char *posts; /* of another split: none of them may come again */
} PostCheck;

static void check_post(const cJSON *line, void *context) {
  PostCheck *check = context;
  const char *post = text_of(line, "weibo");
  const cJSON *replies = cJSON_GetObjectItemCaseSensitive(line, "resp");
  const cJSON *likes = cJSON_GetObjectItemCaseSensitive(line, "like");
  int count = cJSON_GetArraySize(replies);
  assert_int_equal(count, world_defaults.replies_per_post);
  assert_int_equal(cJSON_GetArraySize(likes), count);
  for (int i = 0; i < count; i++) {
    double like = cJSON_GetNumberValue(cJSON_GetArrayItem(likes, i));
    assert_true(like >= 1);
    if (i > 0) assert_true(like <= cJSON_GetNumberValue(cJSON_GetArrayItem(likes, i - 1)));
    const char *reply = cJSON_GetStringValue(cJSON_GetArrayItem(replies, i));
    check->popularity += popularity(post, reply);
    for (int j = 0; j < i; j++)
      assert_string_not_equal(reply, cJSON_GetStringValue(cJSON_GetArrayItem(replies, j)));
  }
  check->replies += count;
  if (check->posts) assert_null(strstr(check->posts, post));
}

static void files_hold_sorted_distinct_replies_and_dev_is_disjoint_from_train(void **state) {
  (void)state;
  WorldSettings settings = small();
  write_world(&settings);
  PostCheck train = {0}, dev = {.posts = read_data("train.json")};
  assert_int_equal(each_line("train.json", check_post, &train), settings.train_posts);
  assert_int_equal(each_line("dev.json", check_post, &dev), settings.dev_posts);
  /* The kept replies leave room above them, which is what PPO is to find. */
  assert_true(train.popularity / train.replies > 0.5 && train.popularity / train.replies < 0.62);
}

typedef struct PairCheck {
  double agreeing, all, inverted;
  const char *dev;
} PairCheck;

static void check_pair(const cJSON *line, void *context) {
  PairCheck *check = context;
  double j = number_of(line, "text_j_like"), k = number_of(line, "text_k_like");
  assert_true(j >= 1 && k >= 1 && j != k);
  const char *post = text_of(line, "weibo");
  assert_null(strstr(check->dev, post));
  double difference = popularity(post, text_of(line, "text_j")) - popularity(post, text_of(line, "text_k"));
  check->inverted += j < k;
  if ((j > k ? j / k : k / j) < 1.2) return;
  check->agreeing += difference == 0 ? 0.5 : (difference > 0) == (j > k);
  check->all += 1;
}

/* The share of pairs, like counts at least 1.2 apart, in which an oracle agrees with the likes. */
static PairCheck agreement(const WorldSettings *settings) {
  write_world(settings);
  PairCheck check = {.dev = read_data("dev.json")};
  int pairs = each_line("pairs.json", check_pair, &check);
  int posts = settings->train_posts + settings->train_posts / 2; /* few have less: all likes may be 1 */
  assert_true(pairs <= 4 * posts && pairs > 3.8 * posts);
  check.inverted /= pairs;
  return check;
}

static void without_noise_likes_order_replies_as_popularity_does(void **state) {
  (void)state;
  WorldSettings settings = noiseless();
  PairCheck check = agreement(&settings);
  assert_true(check.agreeing == check.all);
}

static void default_noise_lets_an_oracle_reach_four_fifths(void **state) {
  (void)state;
  WorldSettings settings = small();
  PairCheck check = agreement(&settings);
  double share = check.agreeing / check.all;
  print_message("oracle agrees with %.3f of %.0f pairs\n", share, check.all);
  assert_true(share > 0.80 && share < 0.88);
  assert_true(check.inverted > 0.3 && check.inverted < 0.5); /* so that listed order and likes differ */
}

static void each_noise_alone_lowers_agreement_and_more_lowers_it_more(void **state) {
  (void)state;
  for (int kind = 0; kind < 4; kind++) {
    double last = 1;
    for (int level = 1; level <= 3; level++) {
      WorldSettings settings = noiseless();
      double *strength[] = {&settings.exposure_noise, &settings.early_bird, &settings.author_noise,
                            &settings.flip};
      static const double unit[] = {0.4, 1.5, 0.4, 0.15};
      *strength[kind] = unit[kind] * level;
      PairCheck check = agreement(&settings);
      double share = check.agreeing / check.all;
      if (!(share < last - 0.005))
        fail_msg("noise %d at %g: %g, before %g", kind, *strength[kind], share, last);
      last = share;
    }
  }
}

static void settings_come_back_from_the_file_and_others_are_refused(void **state) {
  (void)state;
  WorldSettings settings = small();
  settings.seed = 0xFEDCBA9876543210u;
  write_world(&settings);
  World *read;
  assert_int_equal(world_load(&arena, path_join(&arena, folder, "world.json"), &read), OK);
  assert_non_null(strstr(read_data("world.json"), "\"18364758544493064720\""));
  const char *old = "{\"format\": \"popalm-world\", \"version\": 99, \"settings\": {}}";
  assert_int_equal(file_write(path_join(&arena, folder, "old.json"), old, strlen(old)), OK);
  assert_int_equal(world_load(&arena, path_join(&arena, folder, "old.json"), &read), INVALID);
  assert_non_null(strstr(error_message(), "version 99"));

  settings = small();
  settings.replies_per_post = 1;
  assert_int_equal(world_write(&settings, folder), INVALID);
  settings = small();
  settings.flip = 1.5;
  assert_int_equal(world_write(&settings, folder), INVALID);
  settings = small();
  settings.dev_posts = 0;
  assert_int_equal(world_write(&settings, folder), INVALID);
  settings = small();
  settings.train_posts = 300000;
  assert_int_equal(world_write(&settings, folder), INVALID);
}

static void an_experiment_has_the_same_defaults(void **state) {
  (void)state;
  const char *path = path_join(&arena, folder, "old.json"),
             *text = "{\"name\": \"x\", \"data\": {\"synth\": {}}}";
  assert_int_equal(file_write(path, text, strlen(text)), OK);
  ExperimentFile file;
  assert_int_equal(experiment_read(&arena, path, NULL, 0, &file), OK);
  const WorldSettings *got = &file.runs[0].experiment.data.world, *wanted = &world_defaults;
  assert_int_equal(got->seed, wanted->seed);
  assert_int_equal(got->train_posts, wanted->train_posts);
  assert_int_equal(got->dev_posts, wanted->dev_posts);
  assert_int_equal(got->replies_per_post, wanted->replies_per_post);
  assert_true(got->exposure_noise == wanted->exposure_noise && got->early_bird == wanted->early_bird);
  assert_true(got->author_noise == wanted->author_noise && got->flip == wanted->flip);
  experiment_free(&file);
}

static int setup(void **state) {
  (void)state;
  if (!mkdtemp(folder)) return 1;
  WorldSettings settings = small();
  return world_write(&settings, folder) != OK ||
         world_load(&arena, path_join(&arena, folder, "world.json"), &world) != OK;
}

static int teardown(void **state) {
  (void)state;
  static const char *const names[] = {"train.json", "dev.json", "pairs.json", "world.json", "old.json"};
  for (int i = 0; i < 5; i++) unlink(path_join(&arena, folder, names[i]));
  rmdir(folder);
  arena_free(&arena);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(same_settings_give_the_same_bytes_and_another_seed_others),
      cmocka_unit_test(noise_changes_likes_but_neither_posts_nor_what_is_written),
      cmocka_unit_test(texts_can_be_read_back),
      cmocka_unit_test(better_parts_make_a_reply_more_popular),
      cmocka_unit_test(wit_depends_on_topic_and_stance_together),
      cmocka_unit_test(nobody_laughs_at_a_joke_in_sorrow),
      cmocka_unit_test(a_reply_can_be_too_short_and_too_long),
      cmocka_unit_test(what_the_grammar_cannot_read_is_worth_nothing),
      cmocka_unit_test(white_space_and_case_do_not_matter),
      cmocka_unit_test(every_post_has_a_reply_of_popularity_one_and_none_above),
      cmocka_unit_test(files_hold_sorted_distinct_replies_and_dev_is_disjoint_from_train),
      cmocka_unit_test(without_noise_likes_order_replies_as_popularity_does),
      cmocka_unit_test(default_noise_lets_an_oracle_reach_four_fifths),
      cmocka_unit_test(each_noise_alone_lowers_agreement_and_more_lowers_it_more),
      cmocka_unit_test(settings_come_back_from_the_file_and_others_are_refused),
      cmocka_unit_test(an_experiment_has_the_same_defaults),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}

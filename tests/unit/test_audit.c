/* The audit finds what was put into small files; pairs and conversion make files that it finds nothing in. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "audit.h"
#include "convert.h"
#include "pairs.h"
#include "testing.h"

static char folder[64];

static int make_folder(void **state) {
  (void)state;
  strcpy(folder, "/tmp/popalm-audit-XXXXXX");
  return mkdtemp(folder) ? 0 : -1;
}

static const char *const names[] = {"a.json", "b.json", "c.json"};

static int remove_folder(void **state) {
  (void)state;
  for (int i = 0; i < 3; i++) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, names[i]);
    unlink(path);
  }
  return rmdir(folder);
}

/* Writes the texts to a.json, b.json ... and audits them together. */
static Audit audit(Arena *arena, const char *const *texts, int files) {
  const char *paths[3];
  for (int f = 0; f < files; f++) {
    paths[f] = path_join(arena, folder, names[f]);
    assert_int_equal(file_write(paths[f], texts[f], strlen(texts[f])), OK);
  }
  Audit out;
  AuditSettings settings = {NULL, 128, 32};
  if (audit_files(arena, paths, files, &settings, &out) != OK) fail_msg("%s", error_message());
  return out;
}

static int verdicts_with(const Audit *a, const char *words) {
  int count = 0;
  for (int v = 0; v < a->verdicts; v++) count += strstr(a->verdict[v], words) != NULL;
  return count;
}

static const char *pair_line(Arena *arena, const char *post, const char *j, const char *k, int like_j,
                             int like_k) {
  return arena_print(
      arena, "{\"weibo\":\"%s\",\"text_j\":\"%s\",\"text_k\":\"%s\",\"text_j_like\":%d,\"text_k_like\":%d}\n",
      post, j, k, like_j, like_k);
}

/* Three pairs a post: right, tied (the first post) or right, inverted with text_k of the post before. */
static const char *patterned_pairs(Arena *arena, int posts) {
  Text text = {.arena = arena};
  for (int p = 0; p < posts; p++) {
    const char *post = arena_print(arena, "post %d", p), *before = arena_print(arena, "good %d", p - 1);
    const char *good = arena_print(arena, "good %d", p), *fair = arena_print(arena, "fair %d", p),
               *bad = arena_print(arena, "bad %d", p);
    text_print(&text, "%s", pair_line(arena, post, good, bad, 100 + p, 1));
    text_print(&text, "%s", pair_line(arena, post, good, fair, 100 + p, p == 0 ? 100 : 60));
    text_print(&text, "%s", pair_line(arena, post, fair, p == 0 ? bad : before, 60, 61));
  }
  return text.data;
}

static void pairs_are_judged_by_their_place_in_the_post(void **state) {
  (void)state;
  Arena arena = {0};
  const char *texts[] = {patterned_pairs(&arena, 20)};
  Audit a = audit(&arena, texts, 1);
  const FileAudit *file = &a.file[0];
  assert_int_equal(file->kind, DATASET_PAIRS);
  assert_int_equal(file->lines, 60);
  assert_int_equal(file->posts, 20);
  assert_int_equal(file->all.pairs, 60);
  assert_int_equal(file->all.inverted, 20);
  assert_int_equal(file->all.ties, 1);
  assert_int_equal(file->position[0].inverted, 0);
  assert_int_equal(file->position[1].ties, 1);
  assert_int_equal(file->position[2].inverted, 20);
  assert_int_equal(file->position[2].foreign_k, 19);
  assert_int_equal(file->position[2].foreign_j, 0);
  assert_int_equal(file->position[2].previous, 19);
  assert_int_equal(file->all.foreign_j + file->all.foreign_k, 19);
  assert_int_equal(
      file->by_ratio[0] + file->by_ratio[1] + file->by_ratio[2] + file->by_ratio[3] + file->by_ratio[4], 60);
  assert_int_equal(file->by_ratio[0], 1);
  assert_int_equal(file->by_ratio[3], 1);  /* 100 to 1 */
  assert_int_equal(file->by_ratio[4], 19); /* above */
  assert_int_equal(verdicts_with(&a, "20 of 60 pairs (33.3%) list the less liked reply first"), 1);
  assert_int_equal(verdicts_with(&a, "the third pair of a post is inverted nearly always (20 of 20)"), 1);
  assert_int_equal(verdicts_with(&a, "foreign reply (19 of 20"), 1);
  assert_int_equal(verdicts_with(&a, "1 pairs (1.7%) have equally many likes"), 1);
  arena_free(&arena);
}

static void a_reply_that_the_posts_file_shows_under_the_post_is_not_foreign(void **state) {
  (void)state;
  Arena arena = {0};
  const char *pairs = arena_print(&arena, "%s%s", pair_line(&arena, "p", "x", "y", 5, 1),
                                  pair_line(&arena, "q", "y", "z", 5, 1));
  const char *alone[] = {pairs};
  Audit a = audit(&arena, alone, 1);
  assert_int_equal(a.file[0].all.foreign_j + a.file[0].all.foreign_k, 2); /* y, seen from both posts */
  const char *with[] = {pairs, "{\"weibo\":\"p\",\"resp\":[\"x\",\"y\"]}\n"};
  a = audit(&arena, with, 2);
  assert_int_equal(a.file[0].position[0].foreign_j + a.file[0].position[0].foreign_k, 1); /* y under q only */
  assert_int_equal(a.file[0].all.previous, 1);
  arena_free(&arena);
}

static void duplicates_empty_replies_order_and_shared_posts_are_found(void **state) {
  (void)state;
  Arena arena = {0};
  const char *texts[] = {
      "{\"weibo\":\"p\",\"resp\":[\"a\",\"b\",\"a\",\"a\"],\"like\":[4,3,2,1]}\n{\"weibo\":\"q\",\"resp\":["
      "\" \",\"加油\"],\"like\":[1,9]}\n"
      "{\"weibo\":\"p\",\"resp\":[\"c\"],\"like\":[0]}\n",
      "{\"weibo\":\"q\",\"resp\":[\"r\"]}\n{\"weibo\":\"s\",\"resp\":[\"r\"]}\n",
      arena_print(&arena, "%s%s", pair_line(&arena, "s", "t", "t", 2, 1),
                  pair_line(&arena, "s", "t", "t", 2, 1))};
  Audit a = audit(&arena, texts, 3);
  assert_int_equal(a.file[0].lines, 3);
  assert_int_equal(a.file[0].posts, 2);
  assert_int_equal(a.file[0].duplicate_lines, 1);
  assert_int_equal(a.file[0].duplicate_replies, 2);
  assert_int_equal(a.file[0].empty_replies, 1);
  assert_int_equal(a.file[0].unsorted_posts, 1);
  assert_int_equal(a.file[0].likes.count, 7);
  assert_true(a.file[0].likes.min == 0 && a.file[0].likes.max == 9 && a.file[0].likes.p50 == 2);
  assert_true(a.file[0].reply_characters.max == 2);
  assert_int_equal(a.file[2].duplicate_lines, 1);
  assert_int_equal(a.file[2].duplicate_replies, 2);
  assert_int_equal(a.shares, 2);
  assert_true(a.shared[0].first == 0 && a.shared[0].second == 1 && a.shared[0].posts == 1);
  assert_true(a.shared[1].first == 1 && a.shared[1].second == 2 && a.shared[1].posts == 1);
  assert_int_equal(verdicts_with(&a, "results on them are too good"), 1);
  assert_int_equal(verdicts_with(&a, "knows the posts that it then judges"), 1);
  Text text = {.arena = &arena};
  audit_print(&a, &text);
  assert_non_null(strstr(text.data, "Found:"));
  cJSON *json = audit_json(&a);
  assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(json, "files")), 3);
  assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(json, "verdicts")), a.verdicts);
  cJSON_Delete(json);
  arena_free(&arena);
}

static void made_pairs_list_the_more_liked_reply_first_and_repeat(void **state) {
  (void)state;
  Arena arena = {0};
  const char *path = path_join(&arena, folder, "a.json");
  const char *posts =
      "{\"weibo\":\"p\\n\",\"resp\":[\"a\",\"b\",\"c\",\"a\",\"\\\"\"],\"like\":[9,3,3,0,0]}\n"
      "{\"weibo\":\"q\",\"resp\":[\"x\",\"y\"],\"like\":[2,2]}\n";
  assert_int_equal(file_write(path, posts, strlen(posts)), OK);
  Dataset data;
  assert_int_equal(dataset_open(&arena, path, DATASET_POSTS, &data), OK);
  PairSettings settings = {.min_ratio = 1, .per_post = 0, .seed = 5};
  Text all = {.arena = &arena}, some = {.arena = &arena}, again = {.arena = &arena}, far = {.arena = &arena};
  int64_t count;
  assert_int_equal(pairs_make(&data, &settings, &all, &count), OK);
  assert_int_equal(count, 7); /* of 10 in p: without the ties and the equal texts a-a; q is a tie */
  settings.per_post = 3;
  assert_int_equal(pairs_make(&data, &settings, &some, &count), OK);
  assert_int_equal(count, 3);
  assert_int_equal(pairs_make(&data, &settings, &again, &count), OK);
  assert_string_equal(some.data, again.data);
  settings = (PairSettings){.min_ratio = 4, .per_post = 0};
  assert_int_equal(pairs_make(&data, &settings, &far, &count), OK);
  assert_int_equal(count, 1); /* 9 to 0; 9 to 0 of the same text is none, 3 to 0 counts as 3 to 1 */
  settings.min_ratio = 100;
  assert_int_equal(pairs_make(&data, &settings, &far, &count), INVALID);
  dataset_close(&data);
  const char *made[] = {all.data};
  Audit a = audit(&arena, made, 1);
  assert_int_equal(a.file[0].lines, 7);
  assert_int_equal(a.verdicts, 0);
  arena_free(&arena);
}

typedef struct Conversion {
  const char *input;
  ConvertKeys keys;
  const char *expected; /* the output, or what the error contains */
} Conversion;

static const Conversion conversions[] = {
    {"post,reply,likes\r\n\"p, \"\"q\"\"\",r1,3\r\n\"p, \"\"q\"\"\",\"r\n2\",\"1,200\"\r\ns,t,0\r\n",
     {0},
     "{\"weibo\": \"p, \\\"q\\\"\", \"resp\": [\"r\\n2\", \"r1\"], \"like\": [1200, 3]}\n"
     "{\"weibo\": \"s\", \"resp\": [\"t\"], \"like\": [0]}\n"},
    {"a\tb\nx, y\tz\n", {"a", "b", NULL}, "{\"weibo\": \"x, y\", \"resp\": [\"z\"]}\n"},
    {"[{\"title\": \"题\", \"answers\": [{\"content\": \"甲\", \"voteup_count\": 1}, {\"content\": \"乙\", "
     "\"voteup_count\": \"2万\"}]}]",
     {0},
     "{\"weibo\": \"题\", \"resp\": [\"乙\", \"甲\"], \"like\": [20000, 1]}\n"},
    {"{\"post\": \"p\", \"replies\": [\"a\", \"\", \"b\"]}\n{\"post\": \"p\", \"replies\": []}\n{\"post\": "
     "\"z\", \"replies\": []}\n",
     {0},
     "{\"weibo\": \"p\", \"resp\": [\"a\", \"b\"]}\n"},
    {"{\"q\": {\"t\": \"p\"}, \"c\": \"r\"}", {"q.t", "c", NULL}, "{\"weibo\": \"p\", \"resp\": [\"r\"]}\n"},
    {"post,reply\np,r,x\n", {0}, "a.json:2: 3 fields where the header has 2"},
    {"post,reply\np,\"r\n\n", {0}, "a.json:2: a quoted field is never closed"},
    {"post,reply,likes\np,r,many\n", {0}, "a.json:2: \"many\" under \"likes\" is not a number"},
    {"post,reply\np,r\n", {"poste", NULL, NULL}, "did you mean \"post\"?"},
    {"x,y\np,r\n", {0}, "name one with --post-key"},
    {"{\"post\": \"p\", \"replies\": [\"a\", \"b\"], \"likes\": [1]}",
     {0},
     "2 replies under \"replies\" but 1 likes"},
    {"{\"post\": \"p\", \"replies\": [\"a\"]}\n{\"post\" 1}", {0}, "a.json:2:"},
    {"", {0}, "the file is empty"},
    {"post,reply\n", {0}, "no post with a reply"},
    {"post,reply\n\xff,r\n", {0}, "byte 12 is not valid UTF-8"},
};

static void tables_and_json_of_other_shapes_become_posts(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof conversions / sizeof *conversions; i++) {
    Arena arena = {0};
    const Conversion *c = &conversions[i];
    const char *path = path_join(&arena, folder, "a.json");
    assert_int_equal(file_write(path, c->input, strlen(c->input)), OK);
    Text out = {.arena = &arena};
    Converted result;
    Status status = convert_file(path, &c->keys, &out, &result);
    const char *got = status == OK ? out.data : error_message();
    bool good = c->expected[0] == '{' ? status == OK && strcmp(got, c->expected) == 0
                                      : status == INVALID && strstr(got, c->expected);
    if (!good) fail_msg("conversion %zu\nexpected: %s\ngot: %s", i, c->expected, got);
    arena_free(&arena);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(pairs_are_judged_by_their_place_in_the_post),
      cmocka_unit_test(a_reply_that_the_posts_file_shows_under_the_post_is_not_foreign),
      cmocka_unit_test(duplicates_empty_replies_order_and_shared_posts_are_found),
      cmocka_unit_test(made_pairs_list_the_more_liked_reply_first_and_repeat),
      cmocka_unit_test(tables_and_json_of_other_shapes_become_posts),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}

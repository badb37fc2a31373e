/* Data files: what is read, and how what is wrong is told. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/philox.h"
#include "dataset.h"
#include "testing.h"

static char path[64];

static int make_path(void **state) {
  (void)state;
  strcpy(path, "/tmp/popalm-dataset-XXXXXX");
  int fd = mkstemp(path);
  return fd < 0 ? -1 : close(fd);
}

static int remove_path(void **state) {
  (void)state;
  return unlink(path);
}

static void write_bytes(const void *bytes, size_t length) {
  FILE *file = fopen(path, "wb");
  assert_non_null(file);
  assert_int_equal(fwrite(bytes, 1, length, file), length);
  fclose(file);
}

static void write_text(const char *text) { write_bytes(text, strlen(text)); }

#define GOOD_POST "{\"weibo\": \"p\", \"resp\": [\"a\"]}\n"
#define GOOD_PAIR \
  "{\"weibo\": \"p\", \"text_j\": \"a\", \"text_k\": \"b\", \"text_j_like\": 3, \"text_k_like\": 1}\n"

static void posts_are_read_with_and_without_likes(void **state) {
  (void)state;
  write_text(
      "\xEF\xBB\xBF{\"weibo\": \"\\u52a0油\\n\\\"!\", \"resp\": [\"好\", \"b\"], \"like\": [2, 1.5], \"id\": "
      "7}\r\n"
      "\r\n   \n" GOOD_POST "{\"resp\":[\"x\",\"\"],\"weibo\":\"last without a line's end\"}");
  Arena arena = {0};
  Dataset data;
  assert_int_equal(dataset_open(&arena, path, DATASET_POSTS, &data), OK);
  assert_int_equal(data.count, 3);
  Post post;
  assert_int_equal(dataset_post(&data, 0, &arena, &post), OK);
  assert_string_equal(post.text, "加油\n\"!");
  assert_int_equal(post.replies, 2);
  assert_string_equal(post.reply[0], "好");
  assert_true(post.like[0] == 2 && post.like[1] == 1.5);
  assert_int_equal(dataset_post(&data, 1, &arena, &post), OK);
  assert_null(post.like);
  assert_int_equal(dataset_post(&data, 2, &arena, &post), OK);
  assert_string_equal(post.text, "last without a line's end");
  assert_string_equal(post.reply[1], "");
  assert_int_equal(dataset_post(&data, 3, &arena, &post), FAILED);
  dataset_close(&data);
  arena_free(&arena);
}

static void pairs_are_read(void **state) {
  (void)state;
  write_text(GOOD_PAIR);
  Arena arena = {0};
  Dataset data;
  DatasetKind kind;
  assert_int_equal(dataset_detect(path, &kind), OK);
  assert_int_equal(kind, DATASET_PAIRS);
  assert_int_equal(dataset_open(&arena, path, kind, &data), OK);
  Pair pair;
  assert_int_equal(dataset_pair(&data, 0, &arena, &pair), OK);
  assert_string_equal(pair.reply_j, "a");
  assert_string_equal(pair.reply_k, "b");
  assert_true(pair.like_j == 3 && pair.like_k == 1);
  dataset_close(&data);
  arena_free(&arena);
}

typedef struct Refusal {
  DatasetKind kind;
  const char *text;
  const char *message; /* after the path */
} Refusal;

static const Refusal refusals[] = {
    {DATASET_POSTS, "", ": the file is empty"},
    {DATASET_POSTS, "\n \r\n", ": the file is empty"},
    {DATASET_POSTS, "[" GOOD_POST "]", ":1:1: this is a JSON list"},
    {DATASET_POSTS, GOOD_POST "{\"weibo\": \"p\", \"resp\": [\"a\"]", ":2:"},
    {DATASET_POSTS, GOOD_POST "\n{\"weibo\" \"p\"}", ":3:"},
    {DATASET_POSTS, "7\n", ":1:1: a line must be one JSON object"},
    {DATASET_POSTS, "{\"weibo\": \"p\", \"resp\": [\"a\"]} {}", ":1:31: a line must be one JSON object"},
    {DATASET_POSTS, "{\"wiebo\": \"p\", \"resp\": [\"a\"]}",
     ":1:1: key \"weibo\" is missing (the nearest here is \"wiebo\")"},
    {DATASET_POSTS, "{\"weibo\": \"p\"}", ":1:1: key \"resp\" is missing; each line must be {\"weibo\""},
    {DATASET_POSTS, GOOD_PAIR, ":1:1: key \"resp\" is missing; this is a file of pairs, give one of posts"},
    {DATASET_PAIRS, GOOD_POST, ":1:1: key \"text_j\" is missing; this is a file of posts, give one of pairs"},
    {DATASET_POSTS, "{\"weibo\": 5, \"resp\": [\"a\"]}", ":1:2: \"weibo\" must be a string"},
    {DATASET_POSTS, "{\"weibo\": \"p\", \"resp\": [\"a\"], \"weibo\": \"q\"}",
     ":1:2: key \"weibo\" stands twice; keep one of them"},
    {DATASET_POSTS, "{\"x\": {\"resp\": 1}, \"weibo\": \"加}\\\"油\", \"resp\": \"a\"}",
     ":1:38: \"resp\" must be a list"},
    {DATASET_POSTS, "{\"weibo\": \"p\", \"resp\": [\"a\", 1]}", ":1:16: \"resp\" must be a list"},
    {DATASET_POSTS, GOOD_POST "{\"weibo\": \"p\", \"resp\": []}", ":2:16: \"resp\" is empty"},
    {DATASET_POSTS, "{\"weibo\": \"p\", \"resp\": [\"a\"], \"like\": [1, 2]}",
     ":1:31: \"like\" must be a list of numbers"},
    {DATASET_POSTS, "{\"weibo\": \"p\", \"resp\": [\"a\"], \"like\": [-1]}", ":1:31: \"like\" must be"},
    {DATASET_PAIRS,
     "{\"weibo\": \"p\", \"text_j\": \"a\", \"text_k\": \"b\", \"text_j_like\": \"3\", \"text_k_like\": 1}",
     ":1:46: \"text_j_like\" must be a number"},
    {DATASET_PAIRS,
     "{\"weibo\": \"p\", \"text_j\": \"a\", \"text_k\": \"b\", \"text_j_like\": 3, \"text_k_like\": 1e999}",
     ":1:64: \"text_k_like\" must be a number"},
    {DATASET_POSTS, GOOD_POST "{\"weibo\": \"加\xff\", \"resp\": [\"a\"]}",
     ":2:13: byte 15 of the line (0xFF) is not valid UTF-8"},
    {DATASET_POSTS, "{\"weibo\": \"a\\u0000b\", \"resp\": [\"a\"]}", ":1:13: \\u0000 cannot stand in a text"},
    {DATASET_POSTS, "{\"weibo\": \"a\x01\", \"resp\": [\"a\"]}", ":1:13: a control character"},
};

static void errors_name_file_line_column_and_key(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
    Arena arena = {0};
    Dataset data;
    write_text(refusals[i].text);
    assert_int_equal(dataset_open(&arena, path, refusals[i].kind, &data), INVALID);
    const char *message = error_message();
    bool good = strncmp(message, path, strlen(path)) == 0 &&
                strncmp(message + strlen(path), refusals[i].message, strlen(refusals[i].message)) == 0;
    arena_free(&arena);
    if (!good) fail_msg("expected: %s\ngot: %s", refusals[i].message, message);
  }
}

static void an_escaped_backslash_before_u0000_is_text(void **state) {
  (void)state;
  write_text("{\"weibo\": \"\\\\u0000\", \"resp\": [\"a\"]}");
  Arena arena = {0};
  Dataset data;
  assert_int_equal(dataset_open(&arena, path, DATASET_POSTS, &data), OK);
  dataset_close(&data);
  arena_free(&arena);
}

static void a_missing_file_is_refused_by_name(void **state) {
  (void)state;
  Arena arena = {0};
  Dataset data;
  assert_int_equal(dataset_open(&arena, "/no/such/file", DATASET_POSTS, &data), INVALID);
  assert_non_null(strstr(error_message(), "/no/such/file: No such file"));
  arena_free(&arena);
}

/* No mutation may do worse than an error message; the sanitizers watch. */
static void random_mutations_never_crash_the_reader(void **state) {
  (void)state;
  const char *const originals[] = {
      "{\"weibo\": \"加油\\n\\u52a0\", \"resp\": [\"好\", \"b\"], \"like\": [2, 1.5e3]}\r\n" GOOD_POST,
      GOOD_PAIR GOOD_PAIR};
  for (uint32_t round = 0; round < 150; round++) {
    RandomKey key = {17, RANDOM_TEST, round};
    DatasetKind kind = round % 2 ? DATASET_PAIRS : DATASET_POSTS;
    char text[256];
    size_t length = strlen(originals[kind]);
    memcpy(text, originals[kind], length);
    for (uint32_t k = 0; k <= round % 3; k++) {
      Random4 r = philox(key, k, 0);
      size_t at = r.v[0] % length;
      if (r.v[1] % 5 == 0)
        length = at + 1;
      else
        text[at] = r.v[1] % 5 == 1 ? (char)r.v[2] : "\"{}[],:0-9 \\u\n\xe4"[r.v[2] % 15];
    }
    write_bytes(text, length);
    Arena arena = {0};
    Dataset data;
    DatasetKind found;
    if (dataset_detect(path, &found) != OK) assert_true(strlen(error_message()) > 0);
    if (dataset_open(&arena, path, kind, &data) == OK) {
      Post post;
      Pair pair;
      for (int64_t i = 0; i < data.count; i++)
        assert_int_equal(kind == DATASET_POSTS ? dataset_post(&data, i, &arena, &post)
                                               : dataset_pair(&data, i, &arena, &pair),
                         OK);
      dataset_close(&data);
    }
    arena_free(&arena);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(posts_are_read_with_and_without_likes),
      cmocka_unit_test(pairs_are_read),
      cmocka_unit_test(errors_name_file_line_column_and_key),
      cmocka_unit_test(an_escaped_backslash_before_u0000_is_text),
      cmocka_unit_test(a_missing_file_is_refused_by_name),
      cmocka_unit_test(random_mutations_never_crash_the_reader),
  };
  return cmocka_run_group_tests(tests, make_path, remove_path);
}

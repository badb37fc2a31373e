/* Tokenizers of each kind against what the tokenizers library made of the same texts:
 * tests/fixtures/make_tokenizers.py. */
#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/text.h"
#include "testing.h"
#include "tokenizer.h"
#include "tokenizer_parts.h"

#define FOLDER "tests/fixtures/tokenizers"
enum { MOST = 4096 };

static cJSON *expected;

static const cJSON *item(const cJSON *object, const char *name) {
  return cJSON_GetObjectItemCaseSensitive(object, name);
}

static int read_fixtures(void **state) {
  (void)state;
  FileMap map;
  assert_int_equal(file_map(FOLDER "/expected.json", &map), OK);
  expected = cJSON_ParseWithLength(map.data, map.length);
  file_unmap(&map);
  assert_non_null(expected);
  return 0;
}

static int free_fixtures(void **state) {
  (void)state;
  cJSON_Delete(expected);
  return 0;
}

typedef int Encode(const Tokenizer *, const char *, size_t, int32_t *, int);

static void assert_ids(const Tokenizer *t, Encode *encode, const char *name, const char *text,
                       const cJSON *ids) {
  int32_t token[MOST];
  int count = encode(t, text, strlen(text), token, MOST), at = 0;
  bool same = count == cJSON_GetArraySize(ids);
  const cJSON *id;
  cJSON_ArrayForEach(id, ids) same = same && token[at++] == id->valueint;
  if (!same) {
    print_error("%s: \"%s\" becomes", name, text);
    for (int i = 0; i < count; i++) print_error(" %d", token[i]);
    fail_msg("; not what the tokenizers library makes of it");
  }
}

/* The WordPiece decoder of the library puts spaces beside Chinese characters; ours does not, and is tested
 * below. */
static void assert_texts(const Tokenizer *t, const char *name, const cJSON *texts) {
  Arena arena = {0};
  const cJSON *row;
  cJSON_ArrayForEach(row, texts) {
    const char *text = item(row, "text")->valuestring;
    const cJSON *ids = item(row, "ids"), *plain = item(row, "plain");
    assert_ids(t, tokenizer_encode_marked, name, text, ids);
    assert_ids(t, tokenizer_encode, name, text, plain ? plain : ids);
    int32_t token[MOST];
    int count = tokenizer_encode_marked(t, text, strlen(text), token, MOST);
    if (t->kind != MODEL_BPE || !item(row, "decoded")) continue;
    const char *decoded = tokenizer_decode_text(t, &arena, token, count);
    if (strcmp(decoded, item(row, "decoded")->valuestring) != 0)
      fail_msg("%s: \"%s\" comes back as \"%s\"", name, text, decoded);
  }
  arena_free(&arena);
}

static void ids_and_texts_are_those_of_the_tokenizers_library(void **state) {
  (void)state;
  const cJSON *row;
  int count = 0;
  cJSON_ArrayForEach(row, item(expected, "tokenizers")) {
    Arena arena = {0};
    const char *name = item(row, "tokenizer")->valuestring;
    Tokenizer *t;
    if (tokenizer_load(&arena, path_join(&arena, FOLDER, name), &t) != OK) fail_msg("%s", error_message());
    assert_texts(t, name, item(row, "texts"));
    const int32_t *start;
    assert_int_equal(tokenizer_start(t, &start), cJSON_GetArraySize(item(row, "start")));
    if (tokenizer_start(t, &start)) assert_int_equal(start[0], item(row, "start")->child->valueint);
    arena_free(&arena);
    count++;
  }
  assert_int_equal(count, 12);
}

/* What is put together from other files is saved as a tokenizer.json that says the same, with its end token.
 */
static void older_files_are_saved_as_tokenizer_json(void **state) {
  (void)state;
  static const char *const names[] = {"pair", "lines"};
  static const char *const ends[] = {"<s>", "[SEP]"};
  for (int i = 0; i < 2; i++) {
    Arena arena = {0};
    char folder[] = "/tmp/popalm-tokenizer-XXXXXX";
    Tokenizer *a, *b;
    assert_non_null(mkdtemp(folder));
    assert_int_equal(tokenizer_load(&arena, path_join(&arena, FOLDER, names[i]), &a), OK);
    assert_int_equal(tokenizer_save(a, path_join(&arena, folder, "tokenizer.json")), OK);
    assert_int_equal(tokenizer_load(&arena, folder, &b), OK);
    assert_int_equal(tokenizer_vocab_size(a), tokenizer_vocab_size(b));
    assert_int_equal(tokenizer_eos(a), tokenizer_eos(b));
    int32_t end;
    assert_int_equal(tokenizer_encode_marked(b, ends[i], strlen(ends[i]), &end, 1), 1);
    assert_int_equal(tokenizer_eos(b), end);
    const cJSON *row;
    cJSON_ArrayForEach(
        row, item(expected, "tokenizers")) if (strcmp(item(row, "tokenizer")->valuestring, names[i]) == 0)
        assert_texts(b, names[i], item(row, "texts"));
    unlink(path_join(&arena, folder, "tokenizer.json"));
    unlink(path_join(&arena, folder, "tokenizer_config.json"));
    rmdir(folder);
    arena_free(&arena);
  }
}

static void wordpiece_decodes_without_spaces_beside_chinese(void **state) {
  (void)state;
  Arena arena = {0};
  static const char vocab[] =
      "{\"added_tokens\": [{\"id\": 1, \"content\": \"[SEP]\", \"special\": true}], \"normalizer\": "
      "{\"type\": "
      "\"BertNormalizer\", \"clean_text\": true, \"handle_chinese_chars\": true, \"lowercase\": true}, "
      "\"pre_tokenizer\": {\"type\": \"BertPreTokenizer\"}, \"model\": {\"type\": \"WordPiece\", "
      "\"unk_token\": "
      "\"[UNK]\", \"vocab\": {\"[UNK]\": 0, \"[SEP]\": 1, \"今\": 2, \"天\": 3, \"good\": 4, \"##bye\": 5, "
      "\".\": 6, "
      "\"。\": 7, \"it\": 8}}}";
  Tokenizer *t;
  if (tokenizer_parse(&arena, "t.json", vocab, strlen(vocab), &t) != OK) fail_msg("%s", error_message());
  const char *text = "今天 Good goodbye it . 今。[SEP]天é";
  const int32_t ids[] = {2, 3, 4, 4, 5, 8, 6, 2, 7, 1, 3, 0};
  int32_t token[32];
  int count = tokenizer_encode_marked(t, text, strlen(text), token, 32);
  assert_int_equal(count, sizeof ids / sizeof *ids); /* é loses its accent and is unknown */
  assert_memory_equal(token, ids, sizeof ids);
  assert_string_equal(tokenizer_decode_text(t, &arena, ids, 11), "今天good goodbye it.今。天");
  arena_free(&arena);
}

static void words_longer_than_the_limit_are_unknown(void **state) {
  (void)state;
  Arena arena = {0};
  static const char vocab[] =
      "{\"added_tokens\": [{\"id\": 1, \"content\": \"[SEP]\", \"special\": true}], \"pre_tokenizer\": "
      "{\"type\": "
      "\"BertPreTokenizer\"}, \"model\": {\"type\": \"WordPiece\", \"unk_token\": \"[UNK]\", "
      "\"max_input_chars_per_word\": 3, \"vocab\": {\"[UNK]\": 0, \"[SEP]\": 1, \"é\": 2, \"##é\": 3}}}";
  Tokenizer *t;
  int32_t token[8];
  const int32_t ids[] = {2, 3, 3, 0};
  if (tokenizer_parse(&arena, "t.json", vocab, strlen(vocab), &t) != OK) fail_msg("%s", error_message());
  assert_int_equal(tokenizer_encode(t, "ééé éééé", strlen("ééé éééé"), token, 8), 4);
  assert_memory_equal(token, ids, sizeof ids);
  arena_free(&arena);
}

static void invalid_utf8_is_replaced_where_the_model_has_no_bytes(void **state) {
  (void)state;
  Arena arena = {0};
  Tokenizer *t;
  int32_t a[64], b[64];
  assert_int_equal(tokenizer_load(&arena, FOLDER "/sentencepiece.json", &t), OK);
  static const char broken[] = "the \xff mat\xe4\xbb \xf0\x9f\x98",
                    repaired[] = "the \uFFFD mat\uFFFD \uFFFD";
  int count = tokenizer_encode(t, broken, strlen(broken), a, 64);
  assert_int_equal(tokenizer_encode(t, repaired, strlen(repaired), b, 64), count);
  assert_memory_equal(a, b, (size_t)count * sizeof *a);
  arena_free(&arena);
}

static void a_folder_without_a_tokenizer_is_refused_by_what_is_missing(void **state) {
  (void)state;
  Arena arena = {0};
  Tokenizer *t;
  assert_int_equal(tokenizer_load(&arena, "tests/unit", &t), INVALID);
  assert_non_null(strstr(error_message(), "no tokenizer.json"));
  arena_free(&arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(ids_and_texts_are_those_of_the_tokenizers_library),
      cmocka_unit_test(older_files_are_saved_as_tokenizer_json),
      cmocka_unit_test(wordpiece_decodes_without_spaces_beside_chinese),
      cmocka_unit_test(words_longer_than_the_limit_are_unknown),
      cmocka_unit_test(invalid_utf8_is_replaced_where_the_model_has_no_bytes),
      cmocka_unit_test(a_folder_without_a_tokenizer_is_refused_by_what_is_missing),
  };
  return cmocka_run_group_tests(tests, read_fixtures, free_fixtures);
}

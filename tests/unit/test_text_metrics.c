/* ROUGE, BLEU-4, distinct-n and segmentation against values of the reference packages. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/philox.h"
#include "base/text.h"
#include "testing.h"
#include "text_metrics.h"

typedef struct Expected {
  const char *hypothesis;
  int references;
  const char *reference[4];
  double score[10];   /* precision, recall, F of ROUGE-1, -2, -L against reference[0]; BLEU-4 against all */
  double distinct[2]; /* over references and hypothesis */
} Expected;

#include "tests/fixtures/text_metrics_expected.h"

static Arena arena;

static Tokens characters(const char *text) {
  return text_tokens(&arena, text, strlen(text), SEGMENT_CHARACTERS, NULL);
}

static Tokens numbers(int count, const uint32_t *id) { return (Tokens){id, count}; }

static void near(double got, double wanted) {
  if (!(got > wanted - 1e-12 && got < wanted + 1e-12)) fail_msg("got %.15g, wanted %.15g", got, wanted);
}

static void scores_equal_the_reference_packages(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
    const Expected *e = &expected[i];
    Tokens text[5];
    for (int k = 0; k < e->references; k++) text[k] = characters(e->reference[k]);
    Tokens hypothesis = text[e->references] = characters(e->hypothesis);
    Rouge rouge[] = {rouge_n(hypothesis, text[0], 1, &arena), rouge_n(hypothesis, text[0], 2, &arena),
                     rouge_l(hypothesis, text[0], &arena)};
    for (int m = 0; m < 3; m++) {
      near(rouge[m].precision, e->score[3 * m]);
      near(rouge[m].recall, e->score[3 * m + 1]);
      near(rouge[m].f, e->score[3 * m + 2]);
    }
    near(bleu_4(hypothesis, text, e->references, &arena), e->score[9]);
    for (int n = 1; n <= 2; n++) near(distinct_n(text, e->references + 1, n, &arena), e->distinct[n - 1]);
  }
}

static void empty_texts_score_zero(void **state) {
  (void)state;
  Tokens empty = characters(" \t\n"), some = characters("好的");
  assert_int_equal(empty.count, 0);
  near(rouge_n(empty, some, 1, &arena).f, 0);
  near(rouge_n(some, empty, 2, &arena).f, 0);
  near(rouge_l(empty, some, &arena).f, 0);
  near(rouge_l(some, empty, &arena).f, 0);
  near(rouge_l(empty, empty, &arena).f, 0);
  near(bleu_4(empty, &some, 1, &arena), 0);
  near(bleu_4(some, &empty, 1, &arena), 0);
  near(bleu_4(some, &some, 0, &arena), 0);
  near(distinct_n(&empty, 1, 1, &arena), 0);
  near(distinct_n(&some, 1, 3, &arena), 0);
}

/* The plain recursion, exponential but beyond doubt. */
static int subsequence_by_definition(const uint32_t *a, int m, const uint32_t *b, int n) {
  if (m == 0 || n == 0) return 0;
  if (a[m - 1] == b[n - 1]) return 1 + subsequence_by_definition(a, m - 1, b, n - 1);
  int left = subsequence_by_definition(a, m - 1, b, n), right = subsequence_by_definition(a, m, b, n - 1);
  return left > right ? left : right;
}

static void rouge_l_is_the_longest_common_subsequence(void **state) {
  (void)state;
  RandomKey key = {20231123, RANDOM_TEST, 0};
  for (uint32_t trial = 0; trial < 300; trial++) {
    uint32_t a[8], b[8];
    int m = 1 + (int)random_below(key, trial, 0, 8), n = 1 + (int)random_below(key, trial, 1, 8);
    for (uint32_t i = 0; i < 8; i++) a[i] = random_below(key, trial, 2 + i, 4);
    for (uint32_t i = 0; i < 8; i++) b[i] = random_below(key, trial, 10 + i, 4);
    Rouge rouge = rouge_l(numbers(m, a), numbers(n, b), &arena);
    near(rouge.precision * m, subsequence_by_definition(a, m, b, n));
    near(rouge.recall * n, subsequence_by_definition(a, m, b, n));
  }
}

static void a_repeated_word_is_clipped_in_bleu_and_counted_once_in_rouge(void **state) {
  (void)state;
  const uint32_t the[] = {7, 7, 7, 7, 7}, reference[] = {7, 8, 7, 9, 7};
  near(rouge_n(numbers(5, the), numbers(5, reference), 1, &arena).precision, 1);
  Tokens all = numbers(5, reference);
  /* p1 = 3/5; then 1/(2*4), 1/(4*3), 1/(8*2) by method 3 */
  double product = 3.0 / 5 / 8 / 12 / 16, score = bleu_4(numbers(5, the), &all, 1, &arena);
  near(score * score * score * score, product);
}

static void characters_skip_spaces_and_keep_ascii_runs(void **state) {
  (void)state;
  Tokens tokens = characters(
      "好 A1b,\xe3\x80\x80x\xc2\xa0"
      "é2023年");
  assert_int_equal(tokens.count, 7);
  assert_int_equal(tokens.id[0], 0x597D);
  assert_true(tokens.id[1] & 0x80000000u);
  assert_int_equal(tokens.id[2], ',');
  assert_int_equal(tokens.id[3], 'x');
  assert_int_equal(tokens.id[4], 0xE9);
  assert_int_equal(tokens.id[5], characters("2023").id[0]);
  assert_int_equal(tokens.id[6], 0x5E74);
  assert_int_not_equal(characters("Ab").id[0], characters("ab").id[0]); /* case counts */
}

static Dictionary *dictionary_of(const char *text) {
  char path[] = "/tmp/popalm-words-XXXXXX";
  int file = mkstemp(path);
  assert_true(file >= 0);
  assert_int_equal(write(file, text, strlen(text)), strlen(text));
  close(file);
  Dictionary *dictionary = NULL;
  Status status = dictionary_load(&arena, path, &dictionary);
  unlink(path);
  return status == OK ? dictionary : NULL;
}

static void check_cut(const Dictionary *dictionary, const char *text, const char *wanted) {
  Tokens tokens = text_tokens(&arena, text, strlen(text), SEGMENT_WORDS, dictionary);
  int at = 0;
  for (const char *word = wanted; *word; at++) {
    size_t length = strcspn(word, "/");
    assert_true(at < tokens.count);
    uint32_t id = text_tokens(&arena, word, length, SEGMENT_WORDS, dictionary).id[0];
    assert_int_equal(tokens.id[at], id);
    word += length + (word[length] == '/');
  }
  assert_int_equal(tokens.count, at);
}

static void words_are_the_most_probable_cut(void **state) {
  (void)state;
  const Dictionary *d =
      dictionary_of("北京 100\n大学 80 n\r\n北京大学 60\n大学生 50\n生活 50\n\n生 5\nhello 3\n京大 1\n");
  assert_non_null(d);
  check_cut(d, "北京大学", "北京大学");
  check_cut(d, "大学生活", "大学/生活");                             /* 80 * 50 beats 50 * 1 */
  check_cut(d, "北京大学生", "北京/大学生");                         /* 100 * 50 beats 60 * 5 */
  check_cut(d, "北京 大学", "北京/大学");                            /* no word over a space */
  check_cut(dictionary_of("甲乙 5\n乙丙 5\n"), "甲乙丙", "甲乙/丙"); /* as likely: the longer first */
  check_cut(d, "hello未知北京2023", "hello/未/知/北京/2023");
}

static void a_bad_word_list_is_refused_with_its_place(void **state) {
  (void)state;
  assert_null(dictionary_of("好 1\n坏 many\n"));
  assert_non_null(strstr(error_message(), ":2:5:"));
  assert_null(dictionary_of("好 1\n\xff\xfe 1\n"));
  assert_non_null(strstr(error_message(), ":2:1: not UTF-8"));
  assert_null(dictionary_of("\n\n"));
  assert_non_null(strstr(error_message(), "no words"));
}

static int teardown(void **state) {
  (void)state;
  arena_free(&arena);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(scores_equal_the_reference_packages),
      cmocka_unit_test(empty_texts_score_zero),
      cmocka_unit_test(rouge_l_is_the_longest_common_subsequence),
      cmocka_unit_test(a_repeated_word_is_clipped_in_bleu_and_counted_once_in_rouge),
      cmocka_unit_test(characters_skip_spaces_and_keep_ascii_runs),
      cmocka_unit_test(words_are_the_most_probable_cut),
      cmocka_unit_test(a_bad_word_list_is_refused_with_its_place),
  };
  return cmocka_run_group_tests(tests, NULL, teardown);
}

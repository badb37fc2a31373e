/* Normal forms, lower case and repair of UTF-8, for texts on their way to a pretrained model. */
#include <string.h>

#include "testing.h"
#include "unicode.h"

static void assert_text(Text *made, const char *expected, const char *of) {
  text_add(made, "", 0);
  if (strcmp(made->data, expected) != 0)
    fail_msg("\"%s\" becomes \"%s\", not \"%s\"", of, made->data, expected);
}

static void normal_forms_are_those_of_unicode(void **state) {
  (void)state;
  unicode_prepare();
  static const struct {
    const char *text, *nfc, *nfd;
  } rows[] = {
      {"plain 中文 ，。", "plain 中文 ，。", "plain 中文 ，。"},
      {"e\u0301", "\u00e9", "e\u0301"},
      {"\u00e9", "\u00e9", "e\u0301"},
      {"a\u0323\u0307", "\u1ea1\u0307", "a\u0323\u0307"},
      {"a\u0307\u0323", "\u1ea1\u0307", "a\u0323\u0307"}, /* marks are put in order */
      {"\u212b", "\u00c5", "A\u030a"},
      {"\u0958", "\u0915\u093c", "\u0915\u093c"}, /* composed again by nobody */
      {"\uf900", "\u8c48", "\u8c48"},
      {"\u1112\u1161\u11ab", "\ud55c", "\u1112\u1161\u11ab"},
      {"\u0bc6\u0bbe", "\u0bca", "\u0bc6\u0bbe"}, /* a second part that is no mark */
      {"\u1025\u102e", "\u1026", "\u1025\u102e"},
      {"e\u0301\uc8fc\u11a7x", "\u00e9\uc8fc\u11a7x", "e\u0301\u110c\u116e\u11a7x"},
      {"e\u0301\U00011935\U00011930", "\u00e9\U00011935\U00011930", "e\u0301\U00011935\U00011930"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    Arena arena = {0};
    Text nfc = {.arena = &arena}, nfd = {.arena = &arena};
    const char *text = rows[i].text;
    unicode_normal_form(&nfc, text, strlen(text), true);
    unicode_normal_form(&nfd, text, strlen(text), false);
    assert_text(&nfc, rows[i].nfc, text);
    assert_text(&nfd, rows[i].nfd, text);
    /* what is changed is announced */
    assert_true(unicode_has(text, strlen(text), IS_COMPOSING) || strcmp(text, rows[i].nfc) == 0);
    assert_true(unicode_has(text, strlen(text), IS_DECOMPOSING) || strcmp(text, rows[i].nfd) == 0);
    arena_free(&arena);
  }
  assert_false(unicode_has("caf\u00e9 中文", strlen("caf\u00e9 中文"), IS_COMPOSING));
}

static void invalid_bytes_become_one_sign_for_each_beginning(void **state) {
  (void)state;
  static const struct {
    const char *text, *repaired;
  } rows[] = {
      {"ok", "ok"},
      {"a\xff"
       "b",
       "a\uFFFD"
       "b"},
      {"\xe4\xbb", "\uFFFD"},
      {"\xe4\xbbx", "\uFFFDx"},
      {"\xf0\x9f\x98", "\uFFFD"},
      {"\xe0\x80\x80", "\uFFFD\uFFFD\uFFFD"}, /* no code point begins like this */
      {"\xed\xa0\x80", "\uFFFD\uFFFD\uFFFD"},
      {"\xf0\x80\x80", "\uFFFD\uFFFD\uFFFD"},
      {"\xf4\x90", "\uFFFD\uFFFD"},
      {"\xc0\xaf", "\uFFFD\uFFFD"},
      {"\x80\xe4\xbb\x8a", "\uFFFD今"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    Arena arena = {0};
    Text made = {.arena = &arena};
    unicode_add_repaired(&made, rows[i].text, strlen(rows[i].text));
    assert_text(&made, rows[i].repaired, rows[i].text);
    arena_free(&arena);
  }
}

static void lower_case_may_be_longer_and_skips_lower_letters(void **state) {
  (void)state;
  Arena arena = {0};
  static const uint32_t codes[] = {'A', 0x130, 0x100, 0x101, 0x1E9E, 0x4E2D, 0x10400};
  Text made = {.arena = &arena};
  for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) unicode_add_lower(&made, codes[i]);
  assert_text(&made, "ai\u0307\u0101\u0101ß中\U00010428", "upper case");
  arena_free(&arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(normal_forms_are_those_of_unicode),
      cmocka_unit_test(invalid_bytes_become_one_sign_for_each_beginning),
      cmocka_unit_test(lower_case_may_be_longer_and_skips_lower_letters),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

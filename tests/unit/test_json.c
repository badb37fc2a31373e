/* What strict JSON refuses, where it says so, and positions of values. */
#include <string.h>

#include "base/json.h"
#include "base/text.h"
#include "testing.h"

static Status parse(Arena *arena, const char *text, size_t length, Json *json) {
  return json_parse(arena, "f.json", text, length, json);
}

/* Every text that strict JSON refuses, and the beginning of the message with its exact position. */
static const struct {
  const char *text, *message;
} wrong[] = {
    {"", "f.json:1:1: there is no JSON here"},
    {" \n ", "f.json:2:2: there is no JSON here"},
    {"{\"a\": 1} x", "f.json:1:10: text after the end"},
    {"{\"a\": 1}\n{}", "f.json:2:1: text after the end"},
    {"{\"a\": 1,\n \"b\": 2,\n \"a\": 3}", "f.json:3:2: the key \"a\" stands here for the second time"},
    {"{\"a\": 1, \"\\u0061\": 3}", "f.json:1:10: the key \"a\" stands here for the second time"},
    {"{\"x\": {\"k\": 1, \"k\": 2}}", "f.json:1:16: the key \"k\""},
    {"{\"a\": NaN}", "f.json:1:7: 'NaN' is not JSON"},
    {"{\"a\": -Infinity}", "f.json:1:7: not a number"},
    {"{\"a\": 1e999}", "f.json:1:7: this number is too large"},
    {"{\"a\": 01}", "f.json:1:7: a number cannot begin with 0"},
    {"{\"a\": 1.}", "f.json:1:7: no digit after the decimal point"},
    {"{\"a\": .5}", "f.json:1:7: a value is expected, not '.'"},
    {"{\"a\": +5}", "f.json:1:7: a value is expected, not '+'"},
    {"{\"a\": 1e}", "f.json:1:7: no digit in the exponent"},
    {"{\"a\": 0x10}", "f.json:1:8: ',' or '}' is expected after a member, not 'x'"},
    {"[1, 2,]", "f.json:1:6: a comma before ']'"},
    {"{\"a\": 1,\n}", "f.json:1:8: a comma before '}'"},
    {"[1 2]", "f.json:1:4: ',' or ']' is expected after an element, not '2'"},
    {"{\"a\" 1}", "f.json:1:6: ':' is expected after a key, not '1'"},
    {"{a: 1}", "f.json:1:2: a key in double quotes is expected, not 'a'"},
    {"{'a': 1}", "f.json:1:2: a key in double quotes is expected"},
    {"{\"a\": 'b'}", "f.json:1:7: text stands in double quotes"},
    {"{\"a\": 1} // end", "f.json:1:10: text after the end"},
    {"{\n  // a comment\n \"a\": 1}", "f.json:2:3: JSON has no comments"},
    {"{\"a\": /* b */ 1}", "f.json:1:7: JSON has no comments"},
    {"{\"a\": \"b\nc\"}", "f.json:1:9: control character 0x0A in a string"},
    {"{\"a\": \"b\tc\"}", "f.json:1:9: control character 0x09 in a string"},
    {"{\"a\": \"b}", "f.json:1:7: this string never ends"},
    {"{\"a\": \"\\x\"}", "f.json:1:8: unknown escape"},
    {"{\"a\": \"\\u12g4\"}", "f.json:1:8: \\u needs four hexadecimal digits"},
    {"{\"a\": \"\\u0000\"}", "f.json:1:8: \\u0000 cannot be part of a text"},
    {"{\"a\": \"\\ud83d\"}", "f.json:1:8: half of a surrogate pair"},
    {"{\"a\": \"\\ude00\"}", "f.json:1:8: half of a surrogate pair"},
    {"{\"a\": tru}", "f.json:1:7: 'tru' is not JSON; did you mean true?"},
    {"{\"a\": True}", "f.json:1:7: 'True' is not JSON; did you mean true?"},
    {"{\"a\": \"\xE4\xB8\xAD\", \"b\": \"\xFF\"}", "f.json:1:18: byte 0xFF is not valid UTF-8"},
    {"{\"\xE4\xB8\xAD\": 1, 2}", "f.json:1:10: a key in double quotes"}, /* columns are characters */
    {"\xEF\xBB\xBF{}", "f.json:1:1: the file begins with a byte order mark"},
    {"[1", "f.json:1:3: ',' or ']' is expected after an element, not the end of the file"},
};

static void everything_that_is_not_strict_json_is_refused_at_its_place(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    Arena arena = {0};
    Json json;
    assert_int_equal(parse(&arena, wrong[i].text, strlen(wrong[i].text), &json), INVALID);
    if (strncmp(error_message(), wrong[i].message, strlen(wrong[i].message)) != 0)
      fail_msg("%s\n gave      %s\n expected  %s", wrong[i].text, error_message(), wrong[i].message);
    arena_free(&arena);
  }
}

static void a_nul_byte_and_too_much_depth_are_refused(void **state) {
  (void)state;
  Arena arena = {0};
  Json json;
  assert_int_equal(parse(&arena, "{\"a\": 1}\0", 9, &json), INVALID);
  assert_int_equal(parse(&arena, "[\"a\0b\"]", 7, &json), INVALID);
  char deep[2000];
  memset(deep, '[', 1000);
  memset(deep + 1000, ']', 1000);
  assert_int_equal(parse(&arena, deep, 2000, &json), INVALID);
  assert_non_null(strstr(error_message(), "nested"));
  arena_free(&arena);
}

static void valid_json_is_read(void **state) {
  (void)state;
  static const char *const good[] = {
      "{}",
      "[]",
      " [ ] ",
      "0",
      "-0",
      "1e-5",
      "1.5E+3",
      "\"\"",
      "null",
      "[[],{}]",
      "{\"\":0}",
      "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u4e2d\\ud83d\\ude00\"",
      "[true,false,null]",
  };
  for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
    Arena arena = {0};
    Json json;
    if (parse(&arena, good[i], strlen(good[i]), &json) != OK) fail_msg("%s: %s", good[i], error_message());
    json_free(&json);
    arena_free(&arena);
  }
}

static void positions_are_found_by_dotted_path(void **state) {
  (void)state;
  const char *text =
      "{\"name\": \"x:y{[\\\"\",\n"
      " \"ppo\": {\"kl\": {\"coef\": 0.1},\n"
      "   \"list\": [1, {\"z\": \"}\"}, \"s\"]},\n"
      " \"\xE4\xB8\xAD\": {\"ppo.kl\": null, \"ppo\": 4}}";
  static const struct {
    const char *path;
    bool at_key;
    int line, column;
  } expected[] = {
      {"name", true, 1, 2},
      {"name", false, 1, 10},
      {"ppo", false, 2, 9},
      {"ppo.kl.coef", false, 2, 25},
      {"ppo.kl.coef", true, 2, 17},
      {"ppo.list[0]", false, 3, 13},
      {"ppo.list[1].z", true, 3, 17},
      {"ppo.list[2]", false, 3, 28},
      {"\xE4\xB8\xAD.ppo.kl", true, 4, 8},
      {"\xE4\xB8\xAD.ppo", false, 4, 31},
      {"ppo.none", false, 1, 1},
      {"", false, 1, 1},
  };
  Arena arena = {0};
  Json json;
  assert_int_equal(parse(&arena, text, strlen(text), &json), OK);
  for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
    int line, column;
    json_position(&json, expected[i].path, expected[i].at_key, &line, &column);
    if (line != expected[i].line || column != expected[i].column)
      fail_msg("%s: %d:%d, expected %d:%d", expected[i].path, line, column, expected[i].line,
               expected[i].column);
  }
  json_free(&json);
  arena_free(&arena);
}

static void duplicates_are_found_among_many_keys(void **state) {
  (void)state;
  Arena arena = {0};
  Text text = {.arena = &arena};
  text_print(&text, "{");
  for (int i = 0; i < 20000; i++) text_print(&text, "\"key%d\": %d,\n", i, i);
  text_print(&text, "\"last\": 0}");
  Json json;
  assert_int_equal(parse(&arena, text.data, text.length, &json), OK);
  json_free(&json);
  text.length -= 11;
  text_print(&text, "\n\"key77\": 0}");
  assert_int_equal(parse(&arena, text.data, text.length, &json), INVALID);
  assert_non_null(strstr(error_message(), "f.json:20001:"));
  arena_free(&arena);
}

static void members_are_checked_for_presence_and_type(void **state) {
  (void)state;
  const char *text = "{\"i\": 3,\n \"d\": 1.5,\n \"o\": {\"s\": \"t\", \"b\": true}}";
  Arena arena = {0};
  Json json;
  assert_int_equal(parse(&arena, text, strlen(text), &json), OK);
  const cJSON *o = cJSON_GetObjectItem(json.root, "o");
  int64_t integer;
  double number;
  const char *string;
  bool boolean;
  assert_int_equal(json_get_int(&json, json.root, "i", &integer), OK);
  assert_int_equal(integer, 3);
  assert_int_equal(json_get_number(&json, json.root, "d", &number), OK);
  assert_int_equal(json_get_string(&json, o, "s", &string), OK);
  assert_string_equal(string, "t");
  assert_int_equal(json_get_bool(&json, o, "b", &boolean), OK);
  assert_true(boolean);
  assert_int_equal(json_get_int(&json, json.root, "d", &integer), INVALID);
  assert_string_equal(error_message(), "f.json:2:7: \"d\" must be a whole number; correct it");
  assert_int_equal(json_get_int(&json, o, "x", &integer), INVALID);
  assert_string_equal(error_message(), "f.json:3:7: \"x\" is missing; add it (a whole number)");
  json_free(&json);
  arena_free(&arena);
}

static void rows_of_a_json_lines_file_keep_their_line(void **state) {
  (void)state;
  Arena arena = {0};
  Json json;
  assert_int_equal(json_parse_line(&arena, "f.json", 71, "{\"a\": }", 7, &json), INVALID);
  assert_non_null(strstr(error_message(), "f.json:71:7: "));
  arena_free(&arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(everything_that_is_not_strict_json_is_refused_at_its_place),
      cmocka_unit_test(a_nul_byte_and_too_much_depth_are_refused),
      cmocka_unit_test(valid_json_is_read),
      cmocka_unit_test(positions_are_found_by_dotted_path),
      cmocka_unit_test(duplicates_are_found_among_many_keys),
      cmocka_unit_test(members_are_checked_for_presence_and_type),
      cmocka_unit_test(rows_of_a_json_lines_file_keep_their_line),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

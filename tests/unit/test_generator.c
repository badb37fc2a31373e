/* A reply that is watched while it is drawn, and what is shown of it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/philox.h"
#include "base/text.h"
#include "base/visible.h"
#include "generator.h"
#include "reply_stream.h"
#include "testing.h"

enum { LONGEST = 64 };

/* The text with its control characters made visible; free it. */
static char *visible(const char *text) {
  char *shown = NULL;
  size_t length = 0;
  FILE *out = open_memstream(&shown, &length);
  print_visible(out, text, strlen(text));
  fclose(out);
  return shown;
}

/* Shows the tokens one by one; what is on the screen is valid at every moment and a beginning of the text. */
static void check_stream(const Tokenizer *tokenizer, const int32_t *tokens, int count) {
  Arena arena = {0};
  char *screen = NULL;
  size_t length = 0;
  FILE *out = open_memstream(&screen, &length);
  ReplyStream stream = {.tokenizer = tokenizer, .out = out};
  const char *text = tokenizer_decode_text(tokenizer, &arena, tokens, count);
  char *whole = visible(text);
  for (int shown = 1; shown <= count; shown++) {
    reply_stream_show(&stream, tokens, shown);
    fflush(out);
    assert_int_equal(utf8_invalid_at(screen, length), length);
    assert_true(length <= strlen(whole) && memcmp(screen, whole, length) == 0);
  }
  assert_true(strlen(whole) - length <= 9); /* at most a cut character, shown as three, waits for the end */
  reply_stream_end(&stream, text);
  fclose(out);
  assert_string_equal(screen, whole);
  free(screen);
  free(whole);
  arena_free(&arena);
}

static void control_characters_are_shown_not_sent(void **state) {
  (void)state;
  char *shown = visible(
      "a\x1B[2Jb\n\t\x7F \xC2\x9B"
      "1m \xC2\xA0\xE4\xBB\x8A\xC2");
  assert_string_equal(shown,
                      "a\\x1B[2Jb\\x0A\\x09\\x7F \\x9B"
                      "1m \xC2\xA0\xE4\xBB\x8A\xC2");
  free(shown);
}

static void a_stream_shows_whole_characters_and_ends_as_the_text(void **state) {
  (void)state;
  static const char *const names[] = {"gpt2", "smollm2", "bert_lower", "sentencepiece"};
  static const char text[] =
      "caf\xC3\xA9 \xE4\xBB\x8A\xE5\xA4\xA9 \xF0\x9F\x98\x80\xF0\x9F\x91\x8D\xF0\x9F\x8F\xBD, it's 12.";
  for (size_t n = 0; n < sizeof names / sizeof *names; n++) {
    Arena arena = {0};
    Tokenizer *tokenizer;
    int32_t tokens[LONGEST];
    const char *path = arena_print(&arena, "tests/fixtures/tokenizers/%s.json", names[n]);
    assert_int_equal(tokenizer_load(&arena, path, &tokenizer), OK);
    int count = tokenizer_encode(tokenizer, text, strlen(text), tokens, LONGEST);
    check_stream(tokenizer, tokens, count < LONGEST ? count : LONGEST);
    RandomKey key = {9, RANDOM_TEST, (uint32_t)n};
    for (uint32_t trial = 0; trial < 300; trial++) { /* mostly bytes that are no text */
      for (uint32_t i = 0; i < LONGEST; i++)
        tokens[i] = (int32_t)random_below(key, trial, i, (uint32_t)tokenizer_vocab_size(tokenizer));
      check_stream(tokenizer, tokens, 1 + (int)(trial % LONGEST));
    }
    arena_free(&arena);
  }
}

static void unfinished_characters_are_counted(void **state) {
  (void)state;
  const struct {
    const char *bytes;
    size_t unfinished;
  } rows[] = {{"", 0},
              {"a", 0},
              {"\xC3", 1},
              {"\xC3\xA9", 0},
              {"a\xE4", 1},
              {"\xE4\xBB", 2},
              {"\xE4\xBB\x8A", 0},
              {"\xF0\x9F\x98", 3},
              {"\xF0\x9F\x98\x80", 0},
              {"\x80", 0},
              {"\xFF", 0},
              {"\xC3z", 0}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
    assert_int_equal(utf8_unfinished(rows[i].bytes, strlen(rows[i].bytes)), rows[i].unfinished);
}

/* ---- the rollout ---- */

typedef struct Watched {
  int32_t tokens[LONGEST];
  int count, calls;
} Watched;

static void watch(void *state, const int32_t *tokens, int count) {
  Watched *watched = state;
  assert_true(count == watched->count + 1 || count == watched->count); /* the same once it has ended */
  watched->calls++;
  assert_memory_equal(watched->tokens, tokens, sizeof *tokens * (size_t)watched->count);
  memcpy(watched->tokens, tokens, sizeof *tokens * (size_t)count);
  watched->count = count;
}

/* An untrained model with the tokenizer of a fixture, in g. */
static void open_untrained(Arena *arena, Generator *g) {
  Tokenizer *tokenizer;
  DecoderConfig config;
  assert_int_equal(tokenizer_load(arena, "tests/fixtures/tokenizers/gpt2.json", &tokenizer), OK);
  assert_int_equal(model_start(arena, "llama-tiny", NULL, &config), OK);
  config.vocab = tokenizer_vocab_size(tokenizer);
  *g = (Generator){.sampling = {.temperature = 1, .top_p = 1}, .candidates = 3, .batch = 4, .seed = 5};
  g->codec = prompt_codec(arena, tokenizer, "", 16, 12);
  assert_int_equal(backend_open("cpu", &g->backend), OK);
  assert_int_equal(model_create(arena, &g->model, g->backend, &config, NULL, (ModelParts){0}, false, 1), OK);
  assert_int_equal(rollout_allocate(arena, &g->rollout, &g->model, &g->codec, g->batch, g->candidates), OK);
}

static void a_watched_reply_grows_token_by_token(void **state) {
  (void)state;
  Arena arena = {0};
  Generator g;
  Watched watched = {0};
  open_untrained(&arena, &g);
  int32_t prompt[64];
  const int32_t *prompts[] = {prompt};
  int length = prompt_encode(&g.codec, "a post", prompt);
  Reply reply;
  RolloutRequest request = {.prompts = prompts,
                            .prompt_lengths = &length,
                            .posts = 1,
                            .samples = 1,
                            .sampling = g.sampling,
                            .key = {5, RANDOM_GENERATE, 0},
                            .watch = {watch, &watched}};
  assert_int_equal(rollout_run(&g.rollout, &request, &arena, &reply), OK);
  assert_int_equal(watched.count, reply.length);
  assert_true(reply.length > 1 && watched.calls >= reply.length);
  assert_memory_equal(watched.tokens, reply.tokens, sizeof *reply.tokens * (size_t)reply.length);
  generator_close(&g);
  arena_free(&arena);
}

/* The candidates of the posts [first, first + count) of a long list, asked for together. */
static void answers_of(Generator *g, int first, int count, Answer *answers, Arena *arena) {
  g->posts = first;
  for (int i = 0; i < count; i++) answers[i].post = arena_print(arena, "post %d", first + i);
  assert_int_equal(generator_answer(g, answers, count, (RolloutWatch){0}, arena), OK);
}

static void an_answer_depends_on_the_posts_number_alone(void **state) {
  (void)state;
  Arena arena = {0};
  Generator g;
  open_untrained(&arena, &g);
  Answer together[4], alone[4];
  answers_of(&g, 4090, 4, together, &arena);
  for (int i = 0; i < 4; i++) {
    answers_of(&g, 4090 + i, 1, &alone[i], &arena);
    assert_int_equal(alone[i].count, together[i].count);
    for (int k = 0; k < alone[i].count; k++)
      assert_string_equal(alone[i].candidates[k].text, together[i].candidates[k].text);
  }
  assert_string_not_equal(alone[0].candidates[0].text, alone[1].candidates[0].text);
  g.posts = 4094; /* two posts are left of this key */
  assert_int_equal(generator_room(&g), 2);
  g.posts = 4096;
  assert_int_equal(generator_room(&g), 4);
  generator_close(&g);
  arena_free(&arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(control_characters_are_shown_not_sent),
      cmocka_unit_test(a_stream_shows_whole_characters_and_ends_as_the_text),
      cmocka_unit_test(unfinished_characters_are_counted),
      cmocka_unit_test(a_watched_reply_grows_token_by_token),
      cmocka_unit_test(an_answer_depends_on_the_posts_number_alone),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

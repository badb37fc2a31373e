/* Byte-level BPE: exact round trips, deterministic merges, refusal of damaged files. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/philox.h"
#include "base/text.h"
#include "testing.h"
#include "tokenizer.h"
#include "tokenizer_parts.h"

typedef struct Lines {
  const char *const *line;
  int count, next;
} Lines;

static bool next_line(void *state, const char **text, size_t *length) {
  Lines *lines = state;
  if (lines->next >= lines->count) return false;
  *text = lines->line[lines->next++];
  *length = strlen(*text);
  return true;
}

static const char *const corpus[] = {
    "the cat sat on the mat, the rat sat on the cat",
    "加油加油,中国队加油!今天的比赛太精彩了",
    "今天天气真好,我们去看比赛吧 🎉🎉🎉",
    "it's 2024 and they're here:   aaaaaaa aaaa aaa",
    "\"quotes\\\" and \\backslashes\\ and\ttabs\n",
};

static Tokenizer *train(Arena *arena, const char *const *texts, int count, int vocab_size,
                        int min_frequency) {
  Lines lines = {texts, count, 0};
  Tokenizer *tokenizer = NULL;
  TokenizerTraining training = {vocab_size, min_frequency, next_line, &lines};
  assert_int_equal(tokenizer_train(arena, &training, &tokenizer), OK);
  return tokenizer;
}

static void assert_round_trip(const Tokenizer *t, const char *bytes, size_t length) {
  Arena arena = {0};
  int32_t *token = NEW(&arena, int32_t, length + 1);
  char *back = NEW(&arena, char, length + 1);
  int count = tokenizer_encode(t, bytes, length, token, (int)length + 1);
  assert_true(count <= (int)length);
  for (int i = 0; i < count; i++) assert_in_range(token[i], 3, tokenizer_vocab_size(t) - 1);
  assert_int_equal(tokenizer_decode(t, token, count, back, length + 1), length);
  assert_memory_equal(back, bytes, length);
  arena_free(&arena);
}

static void any_bytes_come_back_unchanged(void **state) {
  (void)state;
  Arena arena = {0};
  Tokenizer *t = train(&arena, corpus, 5, 400, 2);
  const char *const texts[] = {"",
                               " ",
                               "今天加油",
                               "🎉👨‍👩‍👧‍👦",
                               "<eos><sep><pad>",
                               "a\u180Eb \xC2\x85\u3000c",
                               "\xff",
                               "\xe4\xbb",
                               "今\xe5天\xc0\x80",
                               "\xed\xa0\x80",
                               "don't  stop \n\n x "};
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) assert_round_trip(t, texts[i], strlen(texts[i]));
  for (uint32_t round = 0; round < 300; round++) {
    RandomKey key = {7, RANDOM_TEST, round};
    char bytes[3000];
    size_t length = random_below(key, 0, 0, round % 50 == 0 ? 3000 : 90);
    for (size_t i = 0; i < length; i++) {
      uint32_t r = philox(key, 1, (uint32_t)i).v[0];
      /* wholly random, few letters (long pieces that merge), or slices of the corpus */
      bytes[i] = (char)(round % 3 == 0   ? (char)r
                        : round % 3 == 1 ? "a the"[r % 5]
                                         : corpus[1][(i + round) % strlen(corpus[1])]);
    }
    assert_round_trip(t, bytes, length);
  }
  arena_free(&arena);
}

/* The definition, taken literally: merge the pair of lowest rank, leftmost first, until none is left. */
static int encode_naively(const Tokenizer *t, const char *piece, size_t length, int32_t *token) {
  int n = (int)length;
  for (int i = 0; i < n; i++) token[i] = t->byte_id[(unsigned char)piece[i]];
  for (;;) {
    const BpeMerge *best = NULL;
    int at = 0;
    for (int i = 0; i + 1 < n; i++) {
      for (uint32_t m = 0; m <= t->merge_mask; m++) {
        const BpeMerge *merge = &t->merge[m];
        if (merge->rank == UINT32_MAX || merge->left != token[i] || merge->right != token[i + 1]) continue;
        if (best && merge->rank >= best->rank) continue;
        best = merge;
        at = i;
      }
    }
    if (!best) return n;
    token[at] = best->id;
    for (int i = at + 1; i + 1 < n; i++) token[i] = token[i + 1];
    n--;
  }
}

static void assert_follows_definition(const Tokenizer *t, const char *piece, size_t length) {
  int32_t expected[400], token[400];
  assert_true(length <= 400);
  int count = encode_naively(t, piece, length, expected);
  if (bpe_encode_piece(t, piece, length, token) != count ||
      memcmp(token, expected, (size_t)count * sizeof *token) != 0)
    fail_msg("\"%.*s\" becomes other tokens than merging one by one", (int)length, piece);
}

/* A few characters that share bytes, so that merges join their parts; and ASCII, two and four bytes. */
static Text mixed_piece(Arena *arena, uint32_t round) {
  static const char *const parts[] = {"中", "丽", "与", "业", "伽", "佀", "侀",
                                      "、", "。", "ab", "a",  "é",  "🎉"};
  RandomKey key = {19, RANDOM_TEST, round};
  Text text = {.arena = arena};
  uint32_t count = 1 + random_below(key, 0, 0, 12);
  for (uint32_t i = 0; i < count; i++) {
    const char *part = parts[random_below(key, 1, i, round % 5 ? 11 : 13)];
    text_add(&text, part, strlen(part));
  }
  return text;
}

/* The merges of a tokenizer in another order: then some take a character before it is made. */
static Tokenizer *with_shuffled_merges(Arena *arena, const Tokenizer *t, uint32_t seed) {
  cJSON *root = cJSON_Parse(t->json);
  cJSON *model = cJSON_GetObjectItemCaseSensitive(root, "model");
  cJSON *merges = cJSON_GetObjectItemCaseSensitive(model, "merges"), *shuffled = cJSON_CreateArray();
  RandomKey key = {seed, RANDOM_TEST, 0};
  for (uint32_t i = 0, left; (left = (uint32_t)cJSON_GetArraySize(merges)) > 0; i++)
    cJSON_AddItemToArray(shuffled, cJSON_DetachItemFromArray(merges, (int)random_below(key, 0, i, left)));
  cJSON_ReplaceItemInObjectCaseSensitive(model, "merges", shuffled);
  char *printed = cJSON_PrintUnformatted(root);
  char *text = arena_strdup(arena, printed);
  cJSON_free(printed);
  cJSON_Delete(root);
  Tokenizer *out = NULL;
  assert_int_equal(tokenizer_parse(arena, "t.json", text, strlen(text), &out), OK);
  return out;
}

/* A tokenizer whose merges are drawn from pieces without regard to characters or to any order. */
static Tokenizer *with_random_merges(Arena *arena, uint32_t seed) {
  enum { MERGES = 100, FIRST = 3 + 256 };
  int wanted = 5 + (int)(seed % 5) * 20;
  BpePair pair[MERGES] = {{0}};
  Text token[FIRST + MERGES] = {{0}};
  unsigned char order[256];
  bpe_byte_order(order);
  for (int i = 0; i < 256; i++) {
    token[3 + i].arena = arena;
    text_add(&token[3 + i], (const char *)&order[i], 1);
  }
  int count = 0;
  for (uint32_t draw = 0; count < wanted; draw++) {
    RandomKey key = {seed, RANDOM_TEST, draw};
    Text piece = mixed_piece(arena, draw);
    uint32_t at = random_below(key, 0, 0, (uint32_t)piece.length), left = 1 + random_below(key, 1, 0, 4),
             right = 1 + random_below(key, 2, 0, 4);
    int id[3] = {-1, -1, -1};
    if (at + left + right > piece.length) continue;
    for (int t = 3; t < FIRST + count; t++) {
      const Text *known = &token[t];
      if (known->length == left && memcmp(known->data, piece.data + at, left) == 0) id[0] = t;
      if (known->length == right && memcmp(known->data, piece.data + at + left, right) == 0) id[1] = t;
      if (known->length == left + right && memcmp(known->data, piece.data + at, left + right) == 0) id[2] = t;
    }
    if (id[0] < 0 || id[1] < 0 || id[2] >= 0) continue;
    token[FIRST + count].arena = arena;
    text_add(&token[FIRST + count], piece.data + at, left + right);
    pair[count++] = (BpePair){id[0], id[1], false};
  }
  Text json = tokenizer_format(arena, pair, count);
  Tokenizer *out = NULL;
  assert_int_equal(tokenizer_parse(arena, "t.json", json.data, json.length, &out), OK);
  return out;
}

static void starting_from_characters_changes_no_token(void **state) {
  (void)state;
  Arena arena = {0};
  const char *texts[300];
  int started = 0, pieces = 0;
  for (uint32_t i = 0; i < 300; i++) texts[i] = mixed_piece(&arena, i).data;
  for (uint32_t kind = 0; kind < 120; kind++) {
    Tokenizer *t =
        kind < 4 ? train(&arena, texts, 300, 300 + 40 * (int)kind, 2) : with_random_merges(&arena, kind);
    if (kind % 2) t = with_shuffled_merges(&arena, t, kind);
    for (uint32_t round = 1000; round < 1060; round++) {
      Text piece = mixed_piece(&arena, round);
      int32_t token[400];
      started += bpe_start_characters(t, piece.data, piece.length, token) > 0;
      pieces++;
      assert_follows_definition(t, piece.data, piece.length);
    }
  }
  assert_in_range(started, pieces / 20, pieces - pieces / 20); /* both ways are taken */
  arena_free(&arena);
}

/* 丽 is made first and takes the last byte of 中 before that is made. */
static void a_character_may_lose_a_byte_to_its_neighbour(void **state) {
  (void)state;
  Arena arena = {0};
  unsigned char order[256];
  int id[256];
  bpe_byte_order(order);
  for (int i = 0; i < 256; i++) id[order[i]] = 3 + i;
  const BpePair pairs[] = {{id[0xB8], id[0xBD], false}, /* 259 */
                           {id[0xE4], 259, false},      /* 260: 丽 */
                           {id[0xAD], 260, false},      /* 261 */
                           {id[0xE4], id[0xB8], false}, /* 262 */
                           {262, id[0xAD], false}};     /* 263: 中 */
  Text json = tokenizer_format(&arena, pairs, 5);
  Tokenizer *t;
  assert_int_equal(tokenizer_parse(&arena, "t.json", json.data, json.length, &t), OK);
  static const char *const pieces[] = {"中丽", "丽中", "中中丽丽中", "中a丽"};
  for (int i = 0; i < 4; i++) assert_follows_definition(t, pieces[i], strlen(pieces[i]));
  int32_t token[6];
  assert_int_equal(bpe_encode_piece(t, "中丽", 6, token), 2);
  assert_int_equal(token[0], 262);
  assert_int_equal(token[1], 261);
  arena_free(&arena);
}

static void short_and_long_pieces_follow_the_definition(void **state) {
  (void)state;
  Arena arena = {0};
  Tokenizer *t = train(&arena, corpus, 5, 330, 2);
  for (uint32_t round = 0; round < 60; round++) {
    RandomKey key = {11, RANDOM_TEST, round};
    char piece[200];
    size_t length = 1 + random_below(key, 0, 0, 150); /* both below and above the scan's limit */
    for (size_t i = 0; i < length; i++) piece[i] = "aaathecs"[philox(key, 1, (uint32_t)i).v[0] % 8];
    assert_follows_definition(t, piece, length);
  }
  arena_free(&arena);
}

/* The pieces of a text, one after the other. */
typedef struct Cuts {
  const char *piece[40];
  size_t length[40];
  int count;
} Cuts;

static void keep_piece(void *state, const char *piece, size_t length) {
  Cuts *cuts = state;
  assert_true(cuts->count < 40);
  cuts->piece[cuts->count] = piece;
  cuts->length[cuts->count++] = length;
}

static void assert_cut(const char *pattern, SplitBehavior behavior, const char *text,
                       const char *const *expected) {
  Arena arena = {0};
  Cuts cuts = {0};
  Pieces *pieces = pieces_new(&arena);
  assert_int_equal(pieces_add_pattern(&arena, pieces, pattern, behavior), OK);
  pieces_cut(pieces, text, strlen(text), keep_piece, &cuts);
  for (int i = 0; i < cuts.count && expected[i]; i++) {
    assert_int_equal(cuts.length[i], strlen(expected[i]));
    assert_memory_equal(cuts.piece[i], expected[i], cuts.length[i]);
  }
  int count = 0;
  while (expected[count]) count++;
  assert_int_equal(cuts.count, count);
  arena_free(&arena);
}

static void pieces_are_cut_as_gpt2_cuts_them(void **state) {
  (void)state;
  const char *const expected[] = {"It",     "'s",   " 12", " ",    " ok",     "!!", "\u3000",
                                  "\u3000", "加油", " ",   "\xff", "\u180E.", NULL};
  assert_cut(bpe_gpt2_pattern, SPLIT_ISOLATED, "It's 12  ok!!\u3000\u3000加油 \xff\u180E.", expected);
}

static void what_matches_is_kept_removed_or_isolated(void **state) {
  (void)state;
  const char *const isolated[] = {"a", "12", "b", "3", NULL}, *const removed[] = {"a", "b", NULL},
                    *const kept[] = {"12", "3", NULL};
  assert_cut("\\p{N}+", SPLIT_ISOLATED, "a12b3", isolated);
  assert_cut("\\p{N}+", SPLIT_REMOVED, "a12b3", removed);
  assert_cut("\\p{N}+", SPLIT_KEPT, "a12b3", kept);
}

/* The scanners written out for three patterns, against PCRE2 on the same pattern: a group around it hides it
 * from the table of scanners. */
static void scanners_cut_as_their_patterns_say(void **state) {
  (void)state;
  static const char *const patterns[] = {bpe_gpt2_pattern, bpe_llama3_pattern, bpe_qwen2_pattern};
  static const char *const parts[] = {"'s",     "'S", "'\u017f", "'re",    "'LL",    "'",      " ", "  ",
                                      "\t",     "\n", "\r",      "\u3000", "\u2028", "\u00a0", "1", "23",
                                      "\u0663", "a",  "B",       "é",      "中",     "文",     "!", "…",
                                      "\u0301", "🎉",  "ve",      "\xff",   "\u180e", "\u2167"};
  for (int p = 0; p < 3; p++) {
    Arena arena = {0};
    Pieces *scanned = pieces_new(&arena), *matched = pieces_new(&arena);
    assert_int_equal(pieces_add_pattern(&arena, scanned, patterns[p], SPLIT_ISOLATED), OK);
    assert_int_equal(
        pieces_add_pattern(&arena, matched, arena_print(&arena, "(?:%s)", patterns[p]), SPLIT_ISOLATED), OK);
    for (uint32_t round = 0; round < 3000; round++) {
      RandomKey key = {17, RANDOM_TEST, round};
      Text text = {.arena = &arena};
      uint32_t count = 1 + random_below(key, 0, 0, 9);
      for (uint32_t i = 0; i < count; i++) {
        const char *part = parts[random_below(key, 1, i, sizeof parts / sizeof *parts)];
        text_add(&text, part, strlen(part));
      }
      Cuts a = {0}, b = {0};
      pieces_cut(scanned, text.data, text.length, keep_piece, &a);
      pieces_cut(matched, text.data, text.length, keep_piece, &b);
      if (a.count != b.count || memcmp(a.length, b.length, sizeof a.length) != 0)
        fail_msg("pattern %d cuts \"%s\" differently", p, text.data);
    }
    arena_free(&arena);
  }
}

static void patterns_that_mean_something_else_to_pcre_are_refused(void **state) {
  (void)state;
  static const char *const patterns[] = {"\\bx",     "\\w+", "^a",     "a$",    "[[:alpha:]]",
                                         "[a&&b]",   "\\h",  "(?m:a)", "a{2}+", "(*UTF)",
                                         "\\p{Han}", "[]a]", "(",      "\\"};
  for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
    Arena arena = {0};
    Pieces *pieces = pieces_new(&arena);
    assert_int_equal(pieces_add_pattern(&arena, pieces, patterns[i], SPLIT_ISOLATED), INVALID);
    assert_non_null(strstr(error_message(), "pattern"));
    arena_free(&arena);
  }
}

static void ids_are_specials_bytes_merges_and_ties_go_to_lower_ids(void **state) {
  (void)state;
  Arena arena = {0};
  const char *const texts[] = {"ab ab", "cd cd", "b", "!"};
  Tokenizer *t = train(&arena, texts, 4, 264, 2);
  assert_int_equal(tokenizer_eos(t), 0);
  assert_int_equal(tokenizer_sep(t), 1);
  int32_t id;
  assert_int_equal(tokenizer_encode(t, "!", 1, &id, 1), 1);
  assert_int_equal(id, 3); /* the first byte in GPT-2's order */
  assert_int_equal(tokenizer_encode(t, "\xAD", 1, &id, 1), 1);
  assert_int_equal(id, 258); /* the last */
  assert_int_equal(tokenizer_encode(t, "ab", 2, &id, 1), 1);
  assert_int_equal(id, 259); /* (a, b) and (c, d) are equally frequent; a has the lower id */
  assert_int_equal(tokenizer_encode(t, "cd", 2, &id, 1), 1);
  assert_int_equal(id, 260);
  arena_free(&arena);
}

static void training_twice_gives_the_same_bytes(void **state) {
  (void)state;
  Arena arena = {0};
  Tokenizer *a = train(&arena, corpus, 5, 350, 1), *b = train(&arena, corpus, 5, 350, 1);
  assert_int_equal(tokenizer_vocab_size(a), 350);
  assert_string_equal(a->json, b->json);
  arena_free(&arena);
}

static void vocabulary_is_smaller_when_pairs_run_out(void **state) {
  (void)state;
  Arena arena = {0};
  const char *const texts[] = {"abab abab"};
  Tokenizer *t = train(&arena, texts, 1, 5000, 2);
  assert_int_equal(tokenizer_vocab_size(t), 259 + 2); /* ab, abab; with its space it is seen once only */
  t = train(&arena, texts, 0, 5000, 2);
  assert_int_equal(tokenizer_vocab_size(t), 259);
  assert_round_trip(t, "加油", 6);
  arena_free(&arena);
}

static void too_small_a_vocabulary_is_refused(void **state) {
  (void)state;
  Arena arena = {0};
  Tokenizer *t;
  Lines lines = {corpus, 5, 0};
  TokenizerTraining training = {258, 2, next_line, &lines};
  assert_int_equal(tokenizer_train(&arena, &training, &t), INVALID);
  assert_non_null(strstr(error_message(), "259"));
  arena_free(&arena);
}

static void special_tokens_decode_to_nothing_and_output_is_bounded(void **state) {
  (void)state;
  Arena arena = {0};
  Tokenizer *t = train(&arena, corpus, 5, 400, 2);
  int32_t token[64];
  int count = tokenizer_encode(t, "加油", 6, token + 1, 60);
  token[0] = tokenizer_sep(t);
  token[count + 1] = tokenizer_eos(t);
  token[count + 2] = 100000; /* no such row */
  char out[8] = "zzzzzzz";
  assert_int_equal(tokenizer_decode(t, token, count + 3, out, 4), 6);
  assert_memory_equal(out, "加油", 4);
  assert_int_equal(out[4], 'z');
  int32_t few[2] = {-1, -1};
  int all = tokenizer_encode(t, "xyzxyz", 6, few, 1);
  assert_true(all > 1);
  assert_int_equal(few[1], -1);
  int32_t half = t->byte_id[0xE5];
  assert_string_equal(tokenizer_decode_text(t, &arena, &half, 1), "\xEF\xBF\xBD");
  arena_free(&arena);
}

/* One of more threads than there are caches: the same texts again and again, in an order of its own. */
typedef struct Encoder {
  const Tokenizer *t;
  uint32_t number;
  int wrong;
} Encoder;

static void *encode_often(void *state) {
  Encoder *e = state;
  for (uint32_t i = 0; i < 2000; i++) {
    const char *text = corpus[(i * (e->number + 1) + e->number) % 5];
    char back[200];
    int32_t token[200];
    int count = tokenizer_encode(e->t, text, strlen(text), token, 200);
    size_t length = tokenizer_decode(e->t, token, count, back, sizeof back);
    e->wrong += length != strlen(text) || memcmp(back, text, length) != 0;
  }
  return NULL;
}

static void many_threads_share_a_tokenizer(void **state) {
  (void)state;
  enum { THREADS = PIECE_CACHES + 3 };
  Arena arena = {0};
  Tokenizer *t = train(&arena, corpus, 5, 400, 1);
  pthread_t thread[THREADS];
  Encoder encoder[THREADS];
  for (uint32_t i = 0; i < THREADS; i++) {
    encoder[i] = (Encoder){t, i, 0};
    assert_int_equal(pthread_create(&thread[i], NULL, encode_often, &encoder[i]), 0);
  }
  for (int i = 0; i < THREADS; i++) pthread_join(thread[i], NULL);
  for (int i = 0; i < THREADS; i++) assert_int_equal(encoder[i].wrong, 0);
  arena_free(&arena);
}

/* Pieces that come again are found in a cache; whatever is in it, they must be the same tokens. */
static void a_piece_encoded_before_is_the_same_again(void **state) {
  (void)state;
  Arena arena = {0};
  Tokenizer *t = train(&arena, corpus, 5, 270, 1);
  for (uint32_t round = 0; round < 3000; round++) {
    char text[24];
    int32_t token[24], expected[24], little[24];
    RandomKey key = {23, RANDOM_TEST, round % 1500};
    int length = (int)random_below(key, 0, 0, 23);
    for (int i = 0; i < length; i++) text[i] = "aceth"[philox(key, 1, (uint32_t)i).v[0] % 5];
    int count = tokenizer_encode(t, text, (size_t)length, token, 24);
    assert_int_equal(length ? encode_naively(t, text, (size_t)length, expected) : 0, count);
    assert_memory_equal(token, expected, (size_t)count * sizeof *token);
    little[count / 2] = -7;
    assert_int_equal(tokenizer_encode(t, text, (size_t)length, little, count / 2), count);
    assert_memory_equal(little, expected, (size_t)(count / 2) * sizeof *token);
    assert_int_equal(little[count / 2], -7);
  }
  arena_free(&arena);
}

static void saved_and_loaded_is_the_same(void **state) {
  (void)state;
  Arena arena = {0};
  Tokenizer *a = train(&arena, corpus, 5, 400, 1), *b;
  char path[] = "/tmp/popalm-tokenizer-XXXXXX";
  close(mkstemp(path));
  assert_int_equal(tokenizer_save(a, path), OK);
  assert_int_equal(tokenizer_load(&arena, path, &b), OK);
  unlink(path);
  assert_string_equal(a->json, b->json);
  for (int i = 0; i < 5; i++) {
    int32_t x[200], y[200];
    int count = tokenizer_encode(a, corpus[i], strlen(corpus[i]), x, 200);
    assert_int_equal(tokenizer_encode(b, corpus[i], strlen(corpus[i]), y, 200), count);
    assert_memory_equal(x, y, (size_t)count * sizeof *x);
  }
  arena_free(&arena);
}

/* text with the first `from` replaced by `to`. */
static char *replaced(Arena *arena, const char *text, const char *from, const char *to) {
  const char *at = strstr(text, from);
  assert_non_null(at);
  return arena_print(arena, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
}

static void damaged_files_are_refused_by_name_and_reason(void **state) {
  (void)state;
  Arena arena = {0};
  Tokenizer *t = train(&arena, corpus, 5, 300, 1);
  const struct {
    const char *from, *to, *reason;
  } rows[] = {
      {"\"version\"", "version", "t.json:2:4: not a JSON object"},
      {"\"merges\"", "\"mergers\"", "no \"model\" with"},
      {"\"type\": \"ByteLevel\"", "\"type\": \"Whitespace\"", "pre-tokenizer Whitespace"},
      {"\"normalizer\": null", "\"normalizer\": {\"type\": \"Precompiled\"}", "normalizer Precompiled"},
      {"\"post_processor\": null", "\"post_processor\": {\"type\": \"Odd\"}", "post-processor Odd"},
      {"\"decoder\": {\"type\": \"ByteLevel\"", "\"decoder\": {\"type\": \"CTC\"", "decoder CTC"},
      {"\"type\": \"BPE\"", "\"type\": \"Unigram\"", "model Unigram"},
      {"\"dropout\": null", "\"dropout\": 0.1", "dropout"},
      {"\"unk_token\": null", "\"unk_token\": \"<unk>\"", "unk_token"},
      {"\"!\": 3", "\"!\": 4", "given twice"},
      {"\"!\": 3", "\"!\": -1", "whole number"},
      {"\"!\": 3", "\"加\": 3", "byte-level alphabet"},
      {"\"merges\": [", "\"merges\": [\"qq zz\",", "merge 0"},
      {"\"merges\": [", "\"merges\": [[\"q\"],", "merge 0"},
      {"\"<eos>\", \"single_word\"", "\"<end>\", \"single_word\"", "id 0 is given twice"},
      {"\"added_tokens\": [", "\"added_tokens\": [], \"were\": [", "no end token"},
      {"\"end_of_word_suffix\": null", "\"end_of_word_suffix\": \"</w>\"", "end_of_word_suffix"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    char *text = replaced(&arena, t->json, rows[i].from, rows[i].to);
    Tokenizer *out;
    assert_int_equal(tokenizer_parse(&arena, "t.json", text, strlen(text), &out), INVALID);
    assert_ptr_equal(strstr(error_message(), "t.json"), error_message());
    if (!strstr(error_message(), rows[i].reason)) fail_msg("%s: %s", rows[i].reason, error_message());
  }
  arena_free(&arena);
}

/* No mutation may do worse than an error message; the sanitizers watch. */
static void random_mutations_never_crash_the_reader(void **state) {
  (void)state;
  Arena keep = {0};
  Tokenizer *t = train(&keep, corpus, 5, 262, 1);
  for (uint32_t round = 0; round < 200; round++) {
    RandomKey key = {13, RANDOM_TEST, round};
    Arena arena = {0};
    char *text = arena_strndup(&arena, t->json, t->json_length);
    size_t length = t->json_length;
    for (uint32_t k = 0; k <= round % 4; k++) {
      Random4 r = philox(key, k, 0);
      size_t at = r.v[0] % length;
      if (r.v[1] % 4 == 0)
        length = at + 1;
      else
        text[at] = (char)(r.v[1] % 4 == 1 ? (char)r.v[2] : "\"{}[],:0-9 \\\xc4"[r.v[2] % 13]);
    }
    Tokenizer *out;
    if (tokenizer_parse(&arena, "t.json", text, length, &out) == OK)
      assert_true(tokenizer_vocab_size(out) > 255);
    arena_free(&arena);
  }
  arena_free(&keep);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(any_bytes_come_back_unchanged),
      cmocka_unit_test(short_and_long_pieces_follow_the_definition),
      cmocka_unit_test(starting_from_characters_changes_no_token),
      cmocka_unit_test(a_character_may_lose_a_byte_to_its_neighbour),
      cmocka_unit_test(pieces_are_cut_as_gpt2_cuts_them),
      cmocka_unit_test(what_matches_is_kept_removed_or_isolated),
      cmocka_unit_test(scanners_cut_as_their_patterns_say),
      cmocka_unit_test(patterns_that_mean_something_else_to_pcre_are_refused),
      cmocka_unit_test(ids_are_specials_bytes_merges_and_ties_go_to_lower_ids),
      cmocka_unit_test(training_twice_gives_the_same_bytes),
      cmocka_unit_test(vocabulary_is_smaller_when_pairs_run_out),
      cmocka_unit_test(too_small_a_vocabulary_is_refused),
      cmocka_unit_test(special_tokens_decode_to_nothing_and_output_is_bounded),
      cmocka_unit_test(many_threads_share_a_tokenizer),
      cmocka_unit_test(a_piece_encoded_before_is_the_same_again),
      cmocka_unit_test(saved_and_loaded_is_the_same),
      cmocka_unit_test(damaged_files_are_refused_by_name_and_reason),
      cmocka_unit_test(random_mutations_never_crash_the_reader),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

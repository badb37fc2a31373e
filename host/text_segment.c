/* Cuts texts into tokens: characters, or words of a dictionary by the most probable path (unigram model,
 * Viterbi from the end of the text to its start over all dictionary words that begin at each place). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/text.h"
#include "text_metrics.h"

typedef struct Word {
  const char *bytes; /* into the dictionary's copy of the file; NULL: free slot */
  uint32_t length;
  double log_frequency;
} Word;

struct Dictionary {
  Word *slot;    /* [mask + 1] open addressing by hash64 of the bytes */
  uint64_t mask; /* a power of two less one */
  double log_total;
  size_t longest; /* bytes of the longest word */
};

static Word *find_slot(const Dictionary *dictionary, const char *bytes, size_t length) {
  uint64_t at = hash64(bytes, length) & dictionary->mask;
  for (;; at = (at + 1) & dictionary->mask) {
    Word *word = &dictionary->slot[at];
    if (!word->bytes || (word->length == length && memcmp(word->bytes, bytes, length) == 0)) return word;
  }
}

/* One line "word [frequency [anything]]"; the frequency counts 1 when absent, the last line of a word wins.
 */
static Status add_line(Dictionary *dictionary, const char *path, int number, const char *line, size_t length,
                       double *total) {
  size_t end = 0;
  while (end < length && line[end] != ' ' && line[end] != '\t') end++;
  if (end == 0) return OK;
  if (utf8_invalid_at(line, length) < length)
    return fail(INVALID, "%s:%d:%zu: not UTF-8; convert the word list", path, number,
                utf8_invalid_at(line, length) + 1);
  double frequency = 1;
  while (end < length && (line[end] == ' ' || line[end] == '\t')) end++;
  if (end < length) {
    char digits[32] = {0};
    for (size_t i = 0; i < sizeof digits - 1 && end + i < length && line[end + i] > ' '; i++)
      digits[i] = line[end + i];
    char *rest;
    frequency = strtod(digits, &rest);
    if (*rest || !isfinite(frequency) || frequency < 0)
      return fail(INVALID, "%s:%d:%zu: \"%s\" is no frequency; write \"word\" or \"word 12\"", path, number,
                  end + 1, digits);
  }
  size_t word_length = strcspn(line, " \t\r\n");
  Word *word = find_slot(dictionary, line, word_length);
  if (word->bytes) *total -= exp(word->log_frequency);
  *word = (Word){line, (uint32_t)word_length, frequency > 0 ? log(frequency) : 0};
  *total += frequency;
  if (word_length > dictionary->longest) dictionary->longest = word_length;
  return OK;
}

Status dictionary_load(Arena *arena, const char *path, Dictionary **out) {
  FileMap map;
  TRY(file_map(path, &map));
  size_t length = map.length;
  char *text = arena_strndup(arena, map.data, length);
  file_unmap(&map);
  uint64_t lines = 1;
  for (size_t i = 0; i < length; i++) lines += text[i] == '\n';
  Dictionary *dictionary = NEW(arena, Dictionary, 1);
  dictionary->mask = 15;
  while (dictionary->mask < 2 * lines) dictionary->mask = dictionary->mask * 2 + 1;
  dictionary->slot = NEW(arena, Word, dictionary->mask + 1);
  double total = 0;
  int number = 1;
  for (size_t start = 0; start < length; number++) {
    size_t end = start;
    while (end < length && text[end] != '\n') end++;
    size_t trimmed = end > start && text[end - 1] == '\r' ? end - 1 : end;
    TRY(add_line(dictionary, path, number, text + start, trimmed - start, &total));
    start = end + 1;
  }
  if (dictionary->longest == 0)
    return fail(INVALID, "%s:1:1: no words; give one \"word [frequency]\" a line", path);
  dictionary->log_total = log(total > 1 ? total : 1);
  *out = dictionary;
  return OK;
}

/* White space as Unicode has it. */
static bool is_space(uint32_t code) {
  return code == ' ' || (code >= 0x09 && code <= 0x0D) || (code >= 0x1C && code <= 0x1F) || code == 0x85 ||
         code == 0xA0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 ||
         code == 0x2029 || code == 0x202F || code == 0x205F || code == 0x3000;
}

static bool is_letter_or_digit(uint32_t code) {
  return (code >= '0' && code <= '9') || (code >= 'a' && code <= 'z') || (code >= 'A' && code <= 'Z');
}

/* A piece of text that is never cut: one code point, or a run of ASCII letters and digits. */
typedef struct Unit {
  size_t start, end; /* bytes */
  uint32_t id; /* a code point, or for longer pieces a hash with the top bit set, which no code point has */
} Unit;

static uint32_t piece_id(const char *bytes, size_t length) {
  size_t at = 0;
  uint32_t code = utf8_next(bytes, length, &at);
  return at == length ? code : (uint32_t)hash64(bytes, length) | 0x80000000u;
}

static int cut_units(const char *text, size_t length, Unit *unit) {
  int count = 0;
  for (size_t at = 0; at < length;) {
    size_t start = at;
    uint32_t code = utf8_next(text, length, &at);
    if (is_space(code)) continue;
    if (is_letter_or_digit(code))
      while (at < length && is_letter_or_digit((unsigned char)text[at])) at++;
    unit[count++] = (Unit){start, at, piece_id(text + start, at - start)};
  }
  return count;
}

/* best[i]: log-probability of the best cut of units i..; next[i]: where its first word ends. As in jieba an
 * unknown unit counts once, and of two equal cuts the one with the longer first word is taken. */
static int cut_words(Arena *arena, const char *text, Unit *unit, int count, const Dictionary *dictionary) {
  ArenaMark mark = arena_mark(arena);
  double *best = NEW(arena, double, count + 1);
  int *next = NEW(arena, int, count + 1);
  for (int i = count - 1; i >= 0; i--) {
    best[i] = -INFINITY;
    for (int j = i; j < count; j++) {
      size_t bytes = unit[j].end - unit[i].start;
      if (j > i && bytes > dictionary->longest) break; /* no word holds white space, so none crosses it */
      const Word *word = find_slot(dictionary, text + unit[i].start, bytes);
      if (j > i && !word->bytes) continue;
      double score = (word->bytes ? word->log_frequency : 0) - dictionary->log_total + best[j + 1];
      if (score >= best[i]) {
        best[i] = score;
        next[i] = j + 1;
      }
    }
  }
  int words = 0;
  for (int i = 0; i < count; i = next[i]) {
    Unit word = {unit[i].start, unit[next[i] - 1].end, 0};
    word.id = piece_id(text + word.start, word.end - word.start);
    unit[words++] = word; /* words <= i: never overtakes the reader */
  }
  arena_reset(arena, mark);
  return words;
}

Tokens text_tokens(Arena *arena, const char *text, size_t length, Segmentation segmentation,
                   const Dictionary *dictionary) {
  uint32_t *id = NEW(arena, uint32_t, length ? length : 1);
  ArenaMark mark = arena_mark(arena);
  Unit *unit = NEW(arena, Unit, length ? length : 1);
  int count = cut_units(text, length, unit);
  if (segmentation == SEGMENT_WORDS && dictionary) count = cut_words(arena, text, unit, count, dictionary);
  for (int i = 0; i < count; i++) id[i] = unit[i].id;
  arena_reset(arena, mark);
  return (Tokens){id, count};
}

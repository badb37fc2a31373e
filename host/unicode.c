/* The classes are spread into one array so that a look-up is one load. Normal forms come from utf8proc. */
#include "unicode.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

uint16_t unicode_class[UNICODE_END];

static void mark(const UnicodeRange *range, int count, unsigned class) {
  for (int i = 0; i < count; i++)
    for (uint32_t c = range[i].first; c <= range[i].last; c++)
      unicode_class[c] = (uint16_t)(unicode_class[c] | class);
}

static const UnicodeRange spaces[] = {{0x09, 0x0D},     {0x20, 0x20},     {0x85, 0x85},     {0xA0, 0xA0},
                                      {0x1680, 0x1680}, {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F},
                                      {0x205F, 0x205F}, {0x3000, 0x3000}};
static const UnicodeRange line_ends[] = {{'\n', '\n'}, {'\r', '\r'}};
/* With the gap from U+2B820 that BERT's implementations have in common. */
static const UnicodeRange cjk[] = {{0x3400, 0x4DBF},   {0x4E00, 0x9FFF},   {0xF900, 0xFAFF},
                                   {0x20000, 0x2A6DF}, {0x2A700, 0x2B81F}, {0x2B920, 0x2CEAF},
                                   {0x2F800, 0x2FA1F}};
/* Scripts whose compositions are younger than the tokenizers library's tables. */
static const UnicodeRange young[] = {
    {0x105C0, 0x105FF}, {0x11380, 0x113FF}, {0x11900, 0x1195F}, {0x16100, 0x1613F}, {0x16D40, 0x16D7F}};

static bool is_young(uint32_t code) {
  for (size_t i = 0; i < sizeof young / sizeof *young; i++)
    if (code >= young[i].first && code <= young[i].last) return true;
  return false;
}

/* Code points with a decomposition or a combining class decompose; of these, NFC leaves alone what comes back
 * when its decomposition is composed, unless it can be the second part of a composition. */
static void mark_normal_forms(void) {
  for (int i = 0; i < unicode_composed_count; i++) {
    for (uint32_t c = unicode_composed[i].first; c <= unicode_composed[i].last; c++) {
      if (is_young(c)) continue;
      unicode_class[c] |= IS_DECOMPOSING;
      utf8proc_int32_t part[8];
      utf8proc_ssize_t count =
          utf8proc_decompose_char((utf8proc_int32_t)c, part, 8, UTF8PROC_DECOMPOSE, NULL);
      if (count > 1) unicode_class[part[count - 1]] |= IS_COMPOSING;
      count = utf8proc_normalize_utf32(part, count, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
      bool starter = utf8proc_get_property((utf8proc_int32_t)c)->combining_class == 0;
      if (!starter || count != 1 || (uint32_t)part[0] != c) unicode_class[c] |= IS_COMPOSING;
    }
  }
}

static void prepare(void) {
  mark(unicode_letters, unicode_letters_count, IS_LETTER);
  mark(unicode_numbers, unicode_numbers_count, IS_NUMBER);
  mark(unicode_words, unicode_words_count, IS_WORD);
  mark(unicode_digits, unicode_digits_count, IS_DIGIT);
  mark(unicode_bert_punctuation, unicode_bert_punctuation_count, IS_BERT_PUNCTUATION);
  mark(unicode_bert_removed, unicode_bert_removed_count, IS_BERT_REMOVED);
  mark(unicode_accents, unicode_accents_count, IS_ACCENT);
  mark(unicode_bert_accents, unicode_bert_accents_count, IS_BERT_ACCENT);
  mark(spaces, sizeof spaces / sizeof *spaces, IS_SPACE);
  mark(line_ends, sizeof line_ends / sizeof *line_ends, IS_LINE_END);
  mark(cjk, sizeof cjk / sizeof *cjk, IS_CJK);
  unicode_class[0] |= IS_BERT_REMOVED;
  mark_normal_forms();
}

void unicode_prepare(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, prepare);
}

/* The length of the ASCII at text, in whole words of 8 bytes. */
static size_t ascii_words(const char *text, size_t length) {
  size_t at = 0;
  for (uint64_t word; at + sizeof word <= length; at += sizeof word) {
    memcpy(&word, text + at, sizeof word);
    if (word & 0x8080808080808080u) break;
  }
  return at;
}

bool unicode_has(const char *text, size_t length, unsigned classes) {
  bool skip_ascii = !(classes & ~(unsigned)(IS_COMPOSING | IS_DECOMPOSING | IS_CJK)); /* ASCII has none */
  for (size_t at = 0; at < length;) {
    if (skip_ascii && (unsigned char)text[at] < 0x80) {
      at += ascii_words(text + at, length - at);
      while (at < length && (unsigned char)text[at] < 0x80) at++;
      continue;
    }
    int size;
    if (unicode_class_at(text + at, &size) & classes) return true;
    at += (size_t)size;
  }
  return false;
}

void unicode_add(Text *out, uint32_t code) {
  char bytes[4];
  text_add(out, bytes, (size_t)utf8_put(code, bytes));
}

/* How many bytes at s, where no code point is, could begin one. */
static size_t broken_length(const unsigned char *s, size_t left) {
  if (s[0] < 0xC2 || s[0] > 0xF4) return 1;
  unsigned low = s[0] == 0xE0 ? 0xA0 : s[0] == 0xF0 ? 0x90 : 0x80;
  unsigned high = s[0] == 0xED ? 0x9F : s[0] == 0xF4 ? 0x8F : 0xBF;
  size_t most = s[0] < 0xE0 ? 1 : s[0] < 0xF0 ? 2 : 3, at = 1;
  while (at < most && at < left && s[at] >= low && s[at] <= high) {
    at++;
    low = 0x80;
    high = 0xBF;
  }
  return at;
}

void unicode_add_repaired(Text *out, const char *bytes, size_t length) {
  for (size_t at = 0; at < length;) {
    size_t valid = utf8_invalid_at(bytes + at, length - at);
    text_add(out, bytes + at, valid);
    at += valid;
    if (at == length) return;
    unicode_add(out, 0xFFFD);
    at += broken_length((const unsigned char *)bytes + at, length - at);
  }
}

/* One that utf8proc would change or move and the tokenizers library would not; and U+11A7, before the first
 * of Hangul's finals, which utf8proc 2.8 drops after a syllable without one. */
static bool is_unknown(uint32_t code) {
  if (code < 0x300 || (unicode_class[code] & (IS_COMPOSING | IS_DECOMPOSING))) return false;
  const utf8proc_property_t *property = utf8proc_get_property((utf8proc_int32_t)code);
  return code == 0x11A7 || is_young(code) || property->combining_class != 0 ||
         (property->decomp_type == 0 && property->decomp_seqindex != UINT16_MAX);
}

static void add_normal_run(Text *out, const char *text, size_t length, bool composed) {
  if (length == 0) return;
  utf8proc_uint8_t *made = NULL;
  utf8proc_ssize_t size = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)length, &made,
                                       UTF8PROC_STABLE | (composed ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE));
  if (size < 0 && size == UTF8PROC_ERROR_NOMEM) arena_exhausted(length);
  if (size >= 0)
    text_add(out, (const char *)made, (size_t)size);
  else
    text_add(out, text, length);
  free(made);
}

void unicode_normal_form(Text *out, const char *text, size_t length, bool composed) {
  size_t run = 0;
  for (size_t at = 0; at < length;) {
    int size;
    uint32_t code = unicode_at(text + at, &size);
    if (is_unknown(code)) {
      add_normal_run(out, text + run, at - run, composed);
      text_add(out, text + at, (size_t)size);
      run = at + (size_t)size;
    }
    at += (size_t)size;
  }
  add_normal_run(out, text + run, length - run, composed);
}

static int compare_lower(const void *key, const void *item) {
  uint32_t code = *(const uint32_t *)key;
  const UnicodeLower *row = item;
  return code < row->first ? -1 : code > row->last;
}

void unicode_add_lower(Text *out, uint32_t code) {
  if (code == 0x130) { /* the only one whose lower case is two code points */
    text_add(out, "i\xCC\x87", 3);
    return;
  }
  const UnicodeLower *row = bsearch(&code, unicode_lower_case, (size_t)unicode_lower_case_count,
                                    sizeof *unicode_lower_case, compare_lower);
  if (row && (code - row->first) % row->step == 0) code = (uint32_t)((int32_t)code + row->distance);
  unicode_add(out, code);
}

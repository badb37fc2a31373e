/* Unicode as the tokenizers of pretrained models see it: classes of code points, and the normal forms. */
#ifndef POPALM_UNICODE_H
#define POPALM_UNICODE_H

#include "base/text.h"

typedef struct UnicodeRange {
  uint32_t first, last;
} UnicodeRange;

typedef struct UnicodeLower {
  uint32_t first, last;
  int32_t distance; /* from a code point to its lower case */
  uint32_t step;    /* 2: each second one has a lower case */
} UnicodeLower;

/* unicode_classes.c, unicode_forms.c */
extern const UnicodeRange unicode_letters[], unicode_numbers[], unicode_words[], unicode_digits[],
    unicode_bert_punctuation[], unicode_bert_removed[], unicode_accents[], unicode_bert_accents[],
    unicode_composed[];
extern const int unicode_letters_count, unicode_numbers_count, unicode_words_count, unicode_digits_count,
    unicode_bert_punctuation_count, unicode_bert_removed_count, unicode_accents_count,
    unicode_bert_accents_count, unicode_composed_count;
extern const UnicodeLower unicode_lower_case[];
extern const int unicode_lower_case_count;

/* What a code point is: any of these together. */
enum {
  IS_LETTER = 1 << 0,           /* \p{L} */
  IS_NUMBER = 1 << 1,           /* \p{N} */
  IS_SPACE = 1 << 2,            /* \s: White_Space */
  IS_LINE_END = 1 << 3,         /* \r and \n */
  IS_WORD = 1 << 4,             /* \w */
  IS_DIGIT = 1 << 5,            /* numeric for the pre-tokenizer Digits */
  IS_BERT_PUNCTUATION = 1 << 6, /* cut off by BERT's pre-tokenizer */
  IS_BERT_REMOVED = 1 << 7,     /* taken out by BERT's clean_text */
  IS_ACCENT = 1 << 8,           /* taken out by StripAccents */
  IS_COMPOSING = 1 << 9,        /* NFC may change it or move it */
  IS_DECOMPOSING = 1 << 10,     /* NFD may change it or move it */
  IS_BERT_ACCENT = 1 << 12,     /* taken out by BERT's own strip_accents: no marks but nonspacing ones */
  IS_CJK = 1 << 11              /* BERT puts spaces around it */
};

enum { UNICODE_END = 0x110000 };

/* [UNICODE_END]; filled by unicode_prepare, which may be called often and from many threads. */
extern uint16_t unicode_class[UNICODE_END];
void unicode_prepare(void);

/* The code point at text[0] of valid UTF-8; its length goes to size. */
static inline uint32_t unicode_at(const char *text, int *size) {
  const unsigned char *s = (const unsigned char *)text;
  if (s[0] < 0x80) return *size = 1, s[0];
  if (s[0] < 0xE0) return *size = 2, (s[0] & 0x1Fu) << 6 | (s[1] & 0x3Fu);
  if (s[0] < 0xF0) return *size = 3, (s[0] & 0x0Fu) << 12 | (s[1] & 0x3Fu) << 6 | (s[2] & 0x3Fu);
  return *size = 4, (s[0] & 0x07u) << 18 | (s[1] & 0x3Fu) << 12 | (s[2] & 0x3Fu) << 6 | (s[3] & 0x3Fu);
}

/* The classes at text[0] of valid UTF-8. */
static inline unsigned unicode_class_at(const char *text, int *size) {
  return unicode_class[unicode_at(text, size)];
}

/* True when a code point of valid UTF-8 has one of the classes. */
bool unicode_has(const char *text, size_t length, unsigned classes);
/* Adds the normal form of valid UTF-8 to out. Code points that the tokenizers library's tables do not know
 * stay as they are and nothing moves across them. */
void unicode_normal_form(Text *out, const char *text, size_t length, bool composed);
/* Adds bytes with U+FFFD for what is not UTF-8, one for each longest beginning of a code point (as Python's
 * and Rust's decoders do). */
void unicode_add_repaired(Text *out, const char *bytes, size_t length);
/* Adds the lower case of a code point. */
void unicode_add_lower(Text *out, uint32_t code);
void unicode_add(Text *out, uint32_t code);

#endif

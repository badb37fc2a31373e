/* The model WordPiece (Schuster & Nakajima 2012, as BERT has it): a word is cut from its beginning, each time
 * into the longest token that fits; inside a word tokens begin with a mark, "##". A word that cannot be cut
 * to its end is unknown as a whole. */
#include <string.h>

#include "tokenizer_parts.h"
#include "unicode.h"

enum { KEY_ROOM = 256 };

/* The longest token at the beginning of word, its bytes without the mark in *taken; -1 if there is none. */
static int32_t longest_token(const Tokenizer *t, const char *word, size_t word_length, bool inside,
                             size_t *taken) {
  char key[KEY_ROOM];
  size_t mark = inside ? strlen(t->continuing) : 0, most = t->longest < KEY_ROOM ? t->longest : KEY_ROOM;
  if (mark >= most) return -1;
  memcpy(key, t->continuing, mark);
  size_t length = word_length < most - mark ? word_length : most - mark;
  memcpy(key + mark, word, length);
  for (; length > 0; length--) {
    if (length < word_length && ((unsigned char)word[length] & 0xC0) == 0x80)
      continue; /* inside a character */
    int32_t id = find_token(t, key, mark + length);
    if (id >= 0) {
      *taken = length;
      return id;
    }
  }
  return -1;
}

int wordpiece_encode_piece(const Tokenizer *t, const char *word, size_t length, int32_t *out) {
  if (utf8_length(word, length) <= (size_t)t->max_word) {
    int count = 0;
    size_t at = 0, taken = 0;
    for (; at < length; at += taken) {
      int32_t id = longest_token(t, word + at, length - at, at > 0, &taken);
      if (id < 0) break;
      out[count++] = id;
    }
    if (at == length) return count;
  }
  out[0] = t->unknown;
  return 1;
}

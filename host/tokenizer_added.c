/* Added tokens: found in the text before it is cut. Of those that begin at one place the longest counts; the
 * flags widen a match over white space or forbid it inside a word. */
#include <stdlib.h>
#include <string.h>

#include "tokenizer_parts.h"
#include "unicode.h"

static int by_first_byte(const void *left, const void *right) {
  const AddedToken *a = left, *b = right;
  unsigned char x = (unsigned char)a->text[0], y = (unsigned char)b->text[0];
  if (x != y) return x < y ? -1 : 1;
  if (a->length != b->length) return a->length > b->length ? -1 : 1;
  return a->id < b->id ? -1 : a->id > b->id;
}

AddedSet added_set(Arena *arena, const AddedToken *token, int count) {
  AddedSet set = {.count = count, .only = -1};
  if (count == 0) return set;
  set.token = NEW(arena, AddedToken, count);
  memcpy(set.token, token, sizeof *token * (size_t)count);
  qsort(set.token, (size_t)count, sizeof *set.token, by_first_byte);
  for (int i = 0; i < count; i++) set.start[(unsigned char)set.token[i].text[0] + 1]++;
  for (int b = 0; b < 256; b++) set.start[b + 1] += set.start[b];
  unsigned char first = (unsigned char)set.token[0].text[0];
  if (first == (unsigned char)set.token[count - 1].text[0]) set.only = first;
  return set;
}

/* The longest token at text[at], or NULL. */
static const AddedToken *token_at(const AddedSet *set, const char *text, size_t length, size_t at) {
  unsigned char first = (unsigned char)text[at];
  for (int i = set->start[first]; i < set->start[first + 1]; i++) {
    const AddedToken *token = &set->token[i];
    if (token->length <= length - at && memcmp(token->text, text + at, token->length) == 0) return token;
  }
  return NULL;
}

/* Where the code point before text[at] begins; its classes. An invalid byte has none. */
static unsigned class_before(const char *text, size_t at, size_t *begin) {
  size_t from = at - 1;
  while (from > 0 && at - from < 4 && ((unsigned char)text[from] & 0xC0) == 0x80) from--;
  size_t next = from;
  uint32_t code = utf8_next(text, at, &next);
  bool whole = next == at;
  *begin = whole ? from : at - 1;
  return whole ? unicode_class[code] : 0;
}

static unsigned class_after(const char *text, size_t length, size_t at, size_t *end) {
  *end = at;
  return unicode_class[utf8_next(text, length, end)];
}

/* Rust's \w also has the two joiners. */
static bool inside_word(const char *text, size_t length, size_t begin, size_t end) {
  size_t unused;
  bool before = begin > 0 && ((class_before(text, begin, &unused) & IS_WORD) ||
                              (begin >= 3 && (memcmp(text + begin - 3, "\xE2\x80\x8C", 3) == 0 ||
                                              memcmp(text + begin - 3, "\xE2\x80\x8D", 3) == 0)));
  bool after = end < length && ((class_after(text, length, end, &unused) & IS_WORD) ||
                                (end + 3 <= length && (memcmp(text + end, "\xE2\x80\x8C", 3) == 0 ||
                                                       memcmp(text + end, "\xE2\x80\x8D", 3) == 0)));
  return before || after;
}

const AddedToken *added_next(AddedScan *scan, bool specials) {
  const AddedSet *set = scan->set;
  const char *text = scan->text;
  size_t length = scan->length;
  scan->plain = scan->end; /* what follows the last token */
  while (set->count > 0 && scan->at < length) {
    if (set->only >= 0) {
      const char *found = memchr(text + scan->at, set->only, length - scan->at);
      if (!found) break;
      scan->at = (size_t)(found - text);
    }
    const AddedToken *token = token_at(set, text, length, scan->at);
    if (!token) {
      scan->at++;
      continue;
    }
    size_t begin = scan->at, end = begin + token->length, next;
    scan->at = end;
    if ((token->special && !specials) || (token->single_word && inside_word(text, length, begin, end)))
      continue;
    if (token->lstrip)
      while (begin > scan->plain && (class_before(text, begin, &next) & IS_SPACE)) begin = next;
    if (begin < scan->plain) begin = scan->plain; /* the token before took it already */
    if (token->rstrip)
      while (end < length && (class_after(text, length, end, &next) & IS_SPACE)) end = next;
    scan->plain_length = begin > scan->plain ? begin - scan->plain : 0;
    scan->end = end;
    return token;
  }
  scan->plain_length = length - scan->plain;
  scan->at = scan->end = length;
  return NULL;
}

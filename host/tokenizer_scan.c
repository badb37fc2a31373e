/* The patterns that cut the texts of most models, written out:
 *
 *   GPT-2    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 *   Llama 3  (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*
 *            |\s*[\r\n]+|\s+(?!\S)|\s+
 *   Qwen 2   the same with \p{N} instead of \p{N}{1,3} */
#include "tokenizer_parts.h"
#include "unicode.h"

const char bpe_gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
const char bpe_llama3_pattern[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const char bpe_qwen2_pattern[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/* The four classes of these patterns; IS_LINE_END comes with IS_SPACE. */
enum { CLASSES = IS_LETTER | IS_NUMBER | IS_SPACE };

/* The end of the run from text of code points whose CLASSES are class. */
static inline const char *run_end(const char *text, const char *end, unsigned class) {
  while (text < end) {
    int size;
    if ((unicode_class_at(text, &size) & CLASSES) != class) break;
    text += size;
  }
  return text;
}

/* The length of 's 't 'm 'd 're 've 'll at text, which is an apostrophe; 0 if none. Without case the long s
 * (U+017F) is an s. */
static size_t contraction(const char *text, const char *end, bool any_case) {
  size_t left = (size_t)(end - text);
  unsigned fold = any_case ? 0x20 : 0;
  char a = left > 1 ? (char)(text[1] | fold) : 0, b = left > 2 ? (char)(text[2] | fold) : 0;
  if (left > 1 && (a == 's' || a == 't' || a == 'm' || a == 'd')) return 2;
  if (left > 2 && ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l'))) return 3;
  if (any_case && left > 2 && (unsigned char)text[1] == 0xC5 && (unsigned char)text[2] == 0xBF) return 3;
  return 0;
}

/* \s+(?!\S)|\s+ for the run of white space text .. stop: the last one is left to what follows. */
static size_t space_piece(const char *text, const char *stop, const char *end) {
  if (stop == end) return (size_t)(stop - text);
  const char *last = stop - 1;
  while (((unsigned char)*last & 0xC0) == 0x80) last--;
  return (size_t)((last > text ? last : stop) - text);
}

size_t scan_gpt2(const char *text, const char *end) {
  size_t length = *text == '\'' ? contraction(text, end, false) : 0;
  if (length) return length;
  int size, next_size;
  unsigned class = unicode_class_at(text, &size) & CLASSES;
  const char *run = text + size;
  if (*text == ' ' && run < end) {
    unsigned next = unicode_class_at(run, &next_size) & CLASSES;
    if (next != IS_SPACE) {
      class = next;
      run += next_size;
    }
  }
  const char *stop = run_end(run, end, class);
  return class == IS_SPACE ? space_piece(text, stop, end) : (size_t)(stop - text);
}

/* \s*[\r\n]+|\s+(?!\S)|\s+ */
static size_t line_or_space(const char *text, const char *end) {
  const char *at = text, *line_end = NULL;
  while (at < end) {
    int size;
    unsigned class = unicode_class_at(at, &size);
    if (!(class & IS_SPACE)) break;
    at += size;
    if (class & IS_LINE_END) line_end = at;
  }
  return line_end ? (size_t)(line_end - text) : space_piece(text, at, end);
}

static inline size_t scan_llama(const char *text, const char *end, int digits) {
  if (*text == '\'') {
    size_t length = contraction(text, end, true);
    if (length) return length;
  }
  int size, next_size;
  unsigned class = unicode_class_at(text, &size);
  const char *next = text + size;
  if (class & IS_LETTER) return (size_t)(run_end(next, end, IS_LETTER) - text);
  if (class & IS_NUMBER) {
    for (int i = 1; i < digits && next < end && (unicode_class_at(next, &next_size) & IS_NUMBER); i++)
      next += next_size;
    return (size_t)(next - text);
  }
  unsigned after = next < end ? unicode_class_at(next, &next_size) & CLASSES : IS_SPACE;
  if (after == IS_LETTER && !(class & IS_LINE_END))
    return (size_t)(run_end(next + next_size, end, IS_LETTER) - text);
  bool other = !(class & IS_SPACE);
  if (!other && (*text != ' ' || after != 0)) return line_or_space(text, end);
  const char *stop = run_end(next, end, 0);
  while (stop < end && (*stop == '\r' || *stop == '\n')) stop++;
  return (size_t)(stop - text);
}

size_t scan_llama3(const char *text, const char *end) { return scan_llama(text, end, 3); }
size_t scan_qwen2(const char *text, const char *end) { return scan_llama(text, end, 1); }

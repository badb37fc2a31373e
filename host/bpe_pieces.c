/* The cut of a text into pieces (PCRE2, compiled just in time), and GPT-2's byte alphabet. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>

#include "bpe.h"

const char bpe_default_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* PCRE2's \s also takes U+180E, which has not been White_Space since Unicode 6.3. */
#define WHITE_SPACE \
  "\\x09-\\x0D\\x20\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}"

struct Pieces {
  pcre2_code *code;
  bool jit;
};

static bool byte_is_printable(unsigned byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

uint32_t bpe_byte_char(unsigned byte) {
  if (byte_is_printable(byte)) return byte;
  uint32_t next = 256; /* the others follow in order from U+0100 */
  for (unsigned b = 0; b < byte; b++) next += !byte_is_printable(b);
  return next;
}

int bpe_char_byte(uint32_t code) {
  if (code < 256) return byte_is_printable(code) ? (int)code : -1;
  uint32_t next = 256;
  for (unsigned b = 0; b < 256; b++)
    if (!byte_is_printable(b) && next++ == code) return (int)b;
  return -1;
}

void bpe_byte_order(unsigned char order[256]) {
  int at = 0;
  for (unsigned b = 0; b < 256; b++)
    if (byte_is_printable(b)) order[at++] = (unsigned char)b;
  for (unsigned b = 0; b < 256; b++)
    if (!byte_is_printable(b)) order[at++] = (unsigned char)b;
}

/* Spells out \s and \S, inside and outside of brackets. */
static Text expand_white_space(Arena *arena, const char *pattern) {
  Text out = {.arena = arena};
  bool bracket = false;
  for (const char *p = pattern; *p; p++) {
    if (*p == '\\' && p[1]) {
      if (p[1] == 's')
        text_print(&out, bracket ? "%s" : "[%s]", WHITE_SPACE);
      else if (p[1] == 'S' && !bracket)
        text_print(&out, "[^%s]", WHITE_SPACE);
      else
        text_add(&out, p, 2);
      p++;
      continue;
    }
    if (*p == '[') bracket = true;
    if (*p == ']') bracket = false;
    text_add(&out, p, 1);
  }
  return out;
}

/* The compiled pattern lives in the arena too, so nothing is left to free but the machine code, which
 * stays with the process. */
static void *pcre_alloc(size_t bytes, void *arena) { return arena_alloc(arena, bytes); }
static void pcre_free(void *memory, void *arena) {
  (void)memory;
  (void)arena;
}

Status pieces_new(Arena *arena, const char *pattern, Pieces **out) {
  Text spelled = expand_white_space(arena, pattern);
  pcre2_general_context *memory = pcre2_general_context_create(pcre_alloc, pcre_free, arena);
  int error;
  PCRE2_SIZE at;
  pcre2_code *code = pcre2_compile((PCRE2_SPTR)(spelled.data ? spelled.data : ""), spelled.length,
                                   PCRE2_UTF | PCRE2_UCP, &error, &at, pcre2_compile_context_create(memory));
  if (!code) {
    char reason[128];
    pcre2_get_error_message(error, (PCRE2_UCHAR *)reason, sizeof reason);
    return fail(INVALID, "the pattern \"%.200s\" cannot be compiled: %s; use one that PCRE2 reads", pattern,
                reason);
  }
  Pieces *pieces = NEW(arena, Pieces, 1);
  pieces->code = code;
  pieces->jit = pcre2_jit_compile(code, PCRE2_JIT_COMPLETE) == 0;
  *out = pieces;
  return OK;
}

PieceWalk piece_walk(const Pieces *pieces, const char *text, size_t length) {
  pcre2_match_data *match = pcre2_match_data_create(1, NULL);
  if (!match) arena_exhausted(sizeof(PCRE2_SIZE) * 2);
  return (PieceWalk){.pieces = pieces, .text = text, .length = length, .match = match};
}

void piece_walk_end(PieceWalk *walk) {
  pcre2_match_data_free(walk->match);
  walk->match = NULL;
}

bool piece_next(PieceWalk *walk, const char **piece, size_t *length) {
  if (walk->at >= walk->length) return false;
  if (walk->at >= walk->valid_end)
    walk->valid_end = walk->at + utf8_invalid_at(walk->text + walk->at, walk->length - walk->at);
  *piece = walk->text + walk->at;
  *length = 1;
  size_t left = walk->valid_end - walk->at;
  if (left > 0) {
    PCRE2_SPTR subject = (PCRE2_SPTR)*piece;
    int found = walk->pieces->jit
                    ? pcre2_jit_match(walk->pieces->code, subject, left, 0, PCRE2_NOTEMPTY, walk->match, NULL)
                    : PCRE2_ERROR_JIT_STACKLIMIT;
    if (found == PCRE2_ERROR_JIT_STACKLIMIT)
      found = pcre2_match(walk->pieces->code, subject, left, 0,
                          PCRE2_NOTEMPTY | PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, walk->match, NULL);
    /* What the pattern skips is a piece as well; the match after it is found again by the next call. */
    const PCRE2_SIZE *span = pcre2_get_ovector_pointer(walk->match);
    *length = found < 0 ? left : span[0] > 0 ? span[0] : span[1];
  }
  walk->at += *length;
  return true;
}

/* A short cut for texts of three-byte characters (most of Chinese, Japanese, Korean): a piece starts as the
 * tokens of its characters instead of its bytes. It gives the same tokens when
 *
 *   1. no merge joins a part of a character with something of another character in the piece;
 *   2. for each character C that starts whole, every merge that takes C comes after the merges that make C.
 *
 * By (1) the merges inside one character know nothing of its neighbours. By (2), when (B, C) could be merged
 * early because C is there already, its rank is higher than the ranks that were still to make C, so the
 * lowest rank is the same in either order. A piece that may break rule 1 starts as bytes, a character that
 * breaks rule 2 as its own bytes. In the vocabularies of GPT-2, Llama 3 and Qwen 2 about a hundred merges are
 * of the kind in (1). */
#include "tokenizer_parts.h"

enum { FIRST_LEAD = 0xE0, LAST_LEAD = 0xEF, NOT_SAFE = -2 };

/* A merge joins a part of another character to this one. */
typedef struct Crossing {
  uint16_t index; /* of the character */
  bool before;    /* the byte stands before it, else behind it */
  unsigned char byte;
} Crossing;

struct BpeCharacters {
  int32_t token[1 << 16][3]; /* by the low 16 bits of code points; -1 behind the last, NOT_SAFE: no tokens */
  uint64_t crossed[1024];    /* a bit an index: it stands in crossing */
  Crossing *crossing;        /* [crossings] */
  int crossings;
  uint64_t joined[256][4]; /* a bit a pair of bytes: a merge joins parts of characters that meet there */
};

static bool is_lead(unsigned char byte) { return byte >= FIRST_LEAD && byte <= LAST_LEAD; }
static bool is_inner(unsigned char byte) { return (byte & 0xC0) == 0x80; }

/* The index of a three-byte character. */
static inline uint32_t index_of(const unsigned char *s) {
  return (s[0] & 0x0Fu) << 12 | (s[1] & 0x3Fu) << 6 | (s[2] & 0x3Fu);
}

static void bytes_of(uint32_t index, char bytes[3]) {
  bytes[0] = (char)(FIRST_LEAD | index >> 12);
  bytes[1] = (char)(0x80 | (index >> 6 & 0x3F));
  bytes[2] = (char)(0x80 | (index & 0x3F));
}

static size_t whole_at(const unsigned char *s, size_t left) {
  if (left >= 1 && s[0] < 0x80) return 1;
  return left >= 3 && is_lead(s[0]) && is_inner(s[1]) && is_inner(s[2]) ? 3 : 0;
}

static void add_crossing(BpeCharacters *c, const unsigned char *whole, bool before, unsigned char byte) {
  uint32_t index = index_of(whole);
  c->crossed[index / 64] |= (uint64_t)1 << (index % 64);
  c->crossing[c->crossings++] = (Crossing){(uint16_t)index, before, byte};
}

/* Rule 1 for the bytes of a merge that are parts of several characters: notes one place where a part meets
 * its neighbour. A piece without such places cannot have the merge. */
static void note_crossing(BpeCharacters *c, const unsigned char *s, size_t length) {
  size_t head = 0, last = 0, size;
  while (head < length && is_inner(s[head])) head++;
  size_t at = head;
  for (; at < length && (size = whole_at(s + at, length - at)); at += size) last = at;
  size_t tail = length - at;
  bool parts = head <= 2 && tail <= 2 && (tail == 0 || is_lead(s[at])) && (tail < 2 || is_inner(s[at + 1]));
  bool several = (head > 0) + (tail > 0) + (at > head) > 1;
  if (!parts || !several) return; /* not of such characters, whole, or inside one */
  size_t meet = head > 0 ? head : at;
  if (head > 0 && at > head && s[head] >= 0x80)
    add_crossing(c, s + head, true, s[head - 1]);
  else if (head == 0 && s[last] >= 0x80)
    add_crossing(c, s + last, false, s[at]);
  else
    c->joined[s[meet - 1]][s[meet] / 64] |= (uint64_t)1 << (s[meet] % 64);
}

/* The tokens of a character by itself; the highest rank among its merges, + 1, goes to after. */
static void encode_character(const Tokenizer *t, uint32_t index, int32_t to[3], uint32_t *after) {
  char bytes[3];
  int32_t token[3];
  bytes_of(index, bytes);
  int count = 3;
  *after = 0;
  for (int i = 0; i < 3; i++)
    if ((token[i] = t->byte_id[(unsigned char)bytes[i]]) < 0) to[0] = NOT_SAFE;
  if (to[0] == NOT_SAFE) return;
  for (; count > 1; count--) {
    const BpeMerge *first = find_merge(t, token[0], token[1]);
    const BpeMerge *second = count == 3 ? find_merge(t, token[1], token[2]) : first;
    bool take_second = second->rank < first->rank;
    const BpeMerge *best = take_second ? second : first;
    if (best->rank == UINT32_MAX) break;
    if (best->rank >= *after) *after = best->rank + 1;
    token[take_second] = best->id;
    if (!take_second) token[1] = token[2];
  }
  for (int i = 0; i < 3; i++) to[i] = i < count ? token[i] : -1;
}

/* Rule 2: a character that a merge takes before it is made starts as bytes. */
static void check_order(const Tokenizer *t, BpeCharacters *c, const uint32_t *after, const BpeMerge *merge) {
  for (int side = 0; side < 2; side++) {
    int32_t part = side ? merge->right : merge->left;
    if (merge->rank >= after[part]) continue;
    const unsigned char *s = (const unsigned char *)t->bytes + t->token[part].offset;
    int32_t *token = c->token[index_of(s)];
    if (token[0] == NOT_SAFE) continue;
    for (int i = 0; i < 3; i++) token[i] = t->byte_id[s[i]];
  }
}

void bpe_index_characters(Arena *arena, Tokenizer *t, int merges) {
  BpeCharacters *c = NEW(arena, BpeCharacters, 1);
  c->crossing = NEW(arena, Crossing, merges);
  Arena scratch = {0};
  uint32_t *after = NEW(&scratch, uint32_t, t->vocab_size); /* of the token that is a character */
  for (uint32_t m = 0; m <= t->merge_mask; m++) {
    if (t->merge[m].rank == UINT32_MAX) continue;
    const BpeToken *made = &t->token[t->merge[m].id];
    note_crossing(c, (const unsigned char *)t->bytes + made->offset, made->length);
  }
  for (uint32_t i = 0; i < 1 << 16; i++) {
    uint32_t rank;
    encode_character(t, i, c->token[i], &rank);
    if (c->token[i][0] >= 0 && c->token[i][1] < 0) after[c->token[i][0]] = rank;
  }
  for (uint32_t m = 0; m <= t->merge_mask; m++)
    if (t->merge[m].rank != UINT32_MAX) check_order(t, c, after, &t->merge[m]);
  arena_free(&scratch);
  t->characters = c;
}

/* A merge may take the character at s[at] together with a part of a neighbour. */
static bool is_crossed(const BpeCharacters *c, const unsigned char *s, size_t at, size_t length) {
  uint32_t index = index_of(s + at);
  if (!(c->crossed[index / 64] >> (index % 64) & 1)) return false;
  for (int i = 0; i < c->crossings; i++) {
    const Crossing *crossing = &c->crossing[i];
    if (crossing->index != index) continue;
    if (crossing->before ? at > 0 && s[at - 1] == crossing->byte
                         : at + 3 < length && s[at + 3] == crossing->byte)
      return true;
  }
  return false;
}

int bpe_start_characters(const Tokenizer *t, const char *piece, size_t length, int32_t *out) {
  const unsigned char *s = (const unsigned char *)piece;
  const BpeCharacters *c = t->characters;
  int count = 0;
  if (!c) return 0;
  for (size_t at = 0, size; at < length; at += size) {
    size = whole_at(s + at, length - at);
    if (size == 0) return 0;
    if (at > 0 && (c->joined[s[at - 1]][s[at] / 64] >> (s[at] % 64) & 1)) return 0;
    if (size == 1) {
      out[count++] = t->byte_id[s[at]];
      if (t->byte_id[s[at]] < 0) return 0;
      continue;
    }
    const int32_t *token = c->token[index_of(s + at)];
    if (token[0] < 0 || is_crossed(c, s, at, length)) return 0;
    for (int i = 0; i < 3 && token[i] >= 0; i++) out[count++] = token[i];
  }
  return count;
}

/* The model BPE. A piece starts as one token a byte (byte-level) or a character; the pair of neighbours with
 * the lowest rank is merged until none has one. Short pieces search the lowest rank directly, long ones keep
 * a heap. */
#include <string.h>

#include "tokenizer_parts.h"
#include "unicode.h"

enum { SCAN_LIMIT = 96 };

static const uint32_t NO_RANK = UINT32_MAX;

/* n <= SCAN_LIMIT tokens in place; rank[i] is the rank of the pair (i, i + 1). */
static int merge_by_scan(const Tokenizer *t, int32_t *token, uint32_t *rank, int n) {
  while (n > 1) {
    int best = 0;
    uint32_t lowest = NO_RANK;
    for (int i = 0; i < n - 1; i++) lowest = rank[i] < lowest ? rank[i] : lowest;
    if (lowest == NO_RANK) break;
    while (rank[best] != lowest) best++;
    token[best] = find_merge(t, token[best], token[best + 1])->id;
    int after = n - best - 2; /* tokens behind the pair */
    memmove(token + best + 1, token + best + 2, (size_t)after * sizeof *token);
    if (after > 0) memmove(rank + best, rank + best + 1, (size_t)after * sizeof *rank);
    n--;
    if (best > 0) rank[best - 1] = find_merge(t, token[best - 1], token[best])->rank;
    if (best + 1 < n) rank[best] = find_merge(t, token[best], token[best + 1])->rank;
  }
  return n;
}

/* A pair that could merge; stale when the tokens at its place have changed since. */
typedef struct Candidate {
  uint32_t rank;
  int32_t at; /* of the left token */
  int32_t left, right;
} Candidate;

typedef struct Candidates {
  Candidate *heap; /* lowest (rank, at) first */
  int count;
} Candidates;

static bool candidate_before(const Candidate *a, const Candidate *b) {
  return a->rank < b->rank || (a->rank == b->rank && a->at < b->at);
}

static void push_candidate(Candidates *c, Candidate new) {
  int i = c->count++;
  while (i > 0 && candidate_before(&new, &c->heap[(i - 1) / 2])) {
    c->heap[i] = c->heap[(i - 1) / 2];
    i = (i - 1) / 2;
  }
  c->heap[i] = new;
}

static Candidate pop_candidate(Candidates *c) {
  Candidate top = c->heap[0], last = c->heap[--c->count];
  int i = 0;
  for (;;) {
    int child = 2 * i + 1;
    if (child >= c->count) break;
    if (child + 1 < c->count && candidate_before(&c->heap[child + 1], &c->heap[child])) child++;
    if (!candidate_before(&c->heap[child], &last)) break;
    c->heap[i] = c->heap[child];
    i = child;
  }
  c->heap[i] = last;
  return top;
}

static void propose(const Tokenizer *t, Candidates *c, const int32_t *token, int left, int right) {
  const BpeMerge *merge = find_merge(t, token[left], token[right]);
  if (merge->rank != NO_RANK) push_candidate(c, (Candidate){merge->rank, left, token[left], token[right]});
}

/* Any n, in n log n: tokens in a linked list, candidates in a heap. */
static int merge_by_heap(const Tokenizer *t, int32_t *token, int n) {
  Arena arena = {0};
  int *before = NEW(&arena, int, n), *after = NEW(&arena, int, n);
  /* n - 1 pairs at first, and each of at most n - 1 merges proposes two more */
  Candidates candidates = {NEW(&arena, Candidate, 3 * (size_t)n), 0};
  for (int i = 0; i < n; i++) {
    before[i] = i - 1;
    after[i] = i + 1 < n ? i + 1 : -1;
  }
  for (int i = 0; i + 1 < n; i++) propose(t, &candidates, token, i, i + 1);
  while (candidates.count > 0) {
    Candidate top = pop_candidate(&candidates);
    int next = token[top.at] == top.left ? after[top.at] : -1;
    if (next < 0 || token[next] != top.right) continue;
    token[top.at] = find_merge(t, top.left, top.right)->id;
    token[next] = -1; /* gone */
    after[top.at] = after[next];
    if (after[next] >= 0) before[after[next]] = top.at;
    if (before[top.at] >= 0) propose(t, &candidates, token, before[top.at], top.at);
    if (after[top.at] >= 0) propose(t, &candidates, token, top.at, after[top.at]);
  }
  int count = 0;
  for (int i = 0; i >= 0; i = after[i]) token[count++] = token[i];
  arena_free(&arena);
  return count;
}

/* A token a byte. Bytes without a token are unknown, or nothing. */
static int start_bytes(const Tokenizer *t, const char *piece, size_t length, int32_t *out) {
  int n = 0;
  bool fuses = false;
  for (size_t i = 0; i < length; i++) {
    int32_t id = t->byte_id[(unsigned char)piece[i]];
    if (id >= 0) {
      out[n++] = id;
      fuses = false;
    } else if (t->unknown >= 0 && !fuses) {
      out[n++] = t->unknown;
      fuses = t->fuse_unknown;
    }
  }
  return n;
}

/* The tokens of a character's bytes; 0 unless all are there. */
static int fall_back(const Tokenizer *t, const char *bytes, int size, int32_t *out) {
  for (int i = 0; i < size; i++)
    if ((out[i] = t->byte_id[(unsigned char)bytes[i]]) < 0) return 0;
  return size;
}

/* A token a character. An unknown token waits, as in the tokenizers library, until a known character or the
 * end comes. */
static int start_characters(const Tokenizer *t, const char *piece, size_t length, int32_t *out) {
  int n = 0, waiting = 0;
  for (size_t at = 0; at < length;) {
    int size;
    unicode_at(piece + at, &size);
    int32_t id = find_token(t, piece + at, (size_t)size);
    int32_t byte[4];
    int bytes = id < 0 && t->byte_fallback ? fall_back(t, piece + at, size, byte) : 0;
    if (id >= 0 || (bytes == 0 && waiting && !t->fuse_unknown)) {
      if (waiting) out[n++] = t->unknown;
      waiting = 0;
    }
    if (id >= 0) out[n++] = id;
    for (int i = 0; i < bytes; i++) out[n++] = byte[i];
    if (id < 0 && bytes == 0 && t->unknown >= 0) waiting = 1;
    at += (size_t)size;
  }
  if (waiting) out[n++] = t->unknown;
  return n;
}

/* The token that is this piece and its whole encoding, or -1. */
static int32_t find_whole(const Tokenizer *t, const char *piece, size_t length) {
  if (!t->whole || length > t->longest) return -1;
  for (uint32_t i = piece_hash(piece, length) & t->whole_mask; t->whole[i] >= 0;
       i = (i + 1) & t->whole_mask) {
    const BpeToken *token = &t->token[t->whole[i]];
    if (token->length == length && memcmp(t->bytes + token->offset, piece, length) == 0) return t->whole[i];
  }
  return -1;
}

int bpe_encode_piece(const Tokenizer *t, const char *piece, size_t length, int32_t *out) {
  int32_t whole = find_whole(t, piece, length);
  if (whole >= 0) {
    out[0] = whole;
    return 1;
  }
  bool ascii = length < 3 || ((unsigned char)piece[0] < 0x80 && (unsigned char)piece[length - 1] < 0x80);
  int n = ascii ? 0 : bpe_start_characters(t, piece, length, out);
  bool bytes = n == 0 && t->byte_level;
  if (n == 0) n = bytes ? start_bytes(t, piece, length, out) : start_characters(t, piece, length, out);
  if (n > SCAN_LIMIT) return merge_by_heap(t, out, n);
  uint32_t rank[SCAN_LIMIT];
  if (bytes && t->byte_merge && (size_t)n == length)
    for (int i = 0; i + 1 < n; i++)
      rank[i] = t->byte_merge[(unsigned char)piece[i] << 8 | (unsigned char)piece[i + 1]];
  else
    for (int i = 0; i + 1 < n; i++) rank[i] = find_merge(t, out[i], out[i + 1])->rank;
  return merge_by_scan(t, out, rank, n);
}

/* The ranks of two bytes, without a search. */
static void index_bytes(Arena *arena, Tokenizer *t) {
  uint32_t *rank = NEW(arena, uint32_t, 256 * 256);
  for (int i = 0; i < 256 * 256; i++) {
    int32_t left = t->byte_id[i >> 8], right = t->byte_id[i & 255];
    rank[i] = left < 0 || right < 0 ? NO_RANK : find_merge(t, left, right)->rank;
  }
  t->byte_merge = rank;
}

void bpe_index(Arena *arena, Tokenizer *t, int merges) {
  if (t->byte_level) {
    index_bytes(arena, t);
    bpe_index_characters(arena, t, merges);
  }
  if (!t->byte_level && !t->ignore_merges) return; /* pieces are as long as texts */
  uint32_t size = 16;
  while (size < 2 * (uint32_t)t->vocab_size) size *= 2;
  int32_t *whole = NEW(arena, int32_t, size), *encoded = NEW(arena, int32_t, t->longest);
  memset(whole, -1, size * sizeof *whole);
  for (int32_t id = 0; id < t->vocab_size; id++) {
    const BpeToken *token = &t->token[id];
    const char *bytes = t->bytes + token->offset;
    if (token->length == 0 || find_token(t, bytes, token->length) != id) continue;
    bool whole_piece =
        t->ignore_merges || (bpe_encode_piece(t, bytes, token->length, encoded) == 1 && encoded[0] == id);
    if (!whole_piece) continue;
    uint32_t i = piece_hash(bytes, token->length) & (size - 1);
    while (whole[i] >= 0) i = (i + 1) & (size - 1);
    whole[i] = id;
  }
  t->whole_mask = size - 1;
  t->whole = whole; /* set last: until here pieces were encoded without it */
}

/* Encoding and decoding. A piece of n bytes starts as n tokens; the pair of neighbours with the lowest
 * rank is merged until none has one. Short pieces search the lowest rank directly, long ones keep a heap. */
#include "tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "bpe.h"

enum { SCAN_LIMIT = 64, STACK_LIMIT = 1024 };

static const uint32_t NO_RANK = UINT32_MAX;

/* The slot of a pair; its rank is NO_RANK when the two do not merge. */
static inline const BpeMerge *find_merge(const Tokenizer *t, int32_t left, int32_t right) {
  uint32_t i = bpe_pair_hash(left, right) & t->merge_mask;
  while (t->merge[i].rank != NO_RANK && (t->merge[i].left != left || t->merge[i].right != right))
    i = (i + 1) & t->merge_mask;
  return &t->merge[i];
}

/* n <= SCAN_LIMIT tokens in place: rank[i] is the rank of the pair (i, i + 1). */
static int merge_by_scan(const Tokenizer *t, int32_t *token, int n) {
  uint32_t rank[SCAN_LIMIT];
  for (int i = 0; i + 1 < n; i++) rank[i] = find_merge(t, token[i], token[i + 1])->rank;
  while (n > 1) {
    int best = 0;
    uint32_t lowest = rank[0];
    for (int i = 1; i < n - 1; i++) {
      if (rank[i] < lowest) {
        lowest = rank[i];
        best = i;
      }
    }
    if (lowest == NO_RANK) break;
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

/* The token that is this piece and its whole encoding, or -1. */
static int32_t find_whole(const Tokenizer *t, const char *piece, size_t length) {
  if (!t->whole) return -1;
  for (uint32_t i = (uint32_t)hash64(piece, length) & t->whole_mask; t->whole[i] >= 0;
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
  for (size_t i = 0; i < length; i++) out[i] = t->byte_id[(unsigned char)piece[i]];
  return length <= SCAN_LIMIT ? merge_by_scan(t, out, (int)length) : merge_by_heap(t, out, (int)length);
}

void bpe_index_whole_tokens(Arena *arena, Tokenizer *t, bool ignore_merges) {
  uint32_t size = 16;
  while (size < 2 * (uint32_t)t->vocab_size) size *= 2;
  int32_t *whole = NEW(arena, int32_t, size);
  memset(whole, -1, size * sizeof *whole);
  for (int32_t id = 0; id < t->vocab_size; id++) {
    const BpeToken *token = &t->token[id];
    int32_t encoded[SCAN_LIMIT];
    if (token->length == 0 || token->length > SCAN_LIMIT) continue;
    const char *bytes = t->bytes + token->offset;
    bool whole_piece =
        ignore_merges || (bpe_encode_piece(t, bytes, token->length, encoded) == 1 && encoded[0] == id);
    if (!whole_piece) continue;
    uint32_t i = (uint32_t)hash64(bytes, token->length) & (size - 1);
    while (whole[i] >= 0) i = (i + 1) & (size - 1);
    whole[i] = id;
  }
  t->whole_mask = size - 1;
  t->whole = whole; /* set last: until here pieces were encoded without it */
}

int tokenizer_encode(const Tokenizer *t, const char *text, size_t length, int32_t *out, int max) {
  int32_t small[STACK_LIMIT];
  Arena arena = {0};
  int32_t *token = small;
  size_t room = STACK_LIMIT;
  int count = 0;
  const char *piece;
  size_t piece_length;
  PieceWalk walk = piece_walk(t->pieces, text, length);
  while (piece_next(&walk, &piece, &piece_length)) {
    if (piece_length > room) {
      room = piece_length;
      token = NEW(&arena, int32_t, room);
    }
    int tokens = bpe_encode_piece(t, piece, piece_length, token);
    for (int i = 0; i < tokens && count + i < max; i++) out[count + i] = token[i];
    count += tokens;
  }
  piece_walk_end(&walk);
  arena_free(&arena);
  return count;
}

size_t tokenizer_decode(const Tokenizer *t, const int32_t *tokens, int count, char *out, size_t max) {
  size_t length = 0;
  for (int i = 0; i < count; i++) {
    if (tokens[i] < 0 || tokens[i] >= t->vocab_size) continue; /* a padded vocabulary's rows mean nothing */
    const BpeToken *token = &t->token[tokens[i]];
    if (length < max) {
      size_t fits = max - length < token->length ? max - length : token->length;
      memcpy(out + length, t->bytes + token->offset, fits);
    }
    length += token->length;
  }
  return length;
}

char *tokenizer_decode_text(const Tokenizer *t, Arena *arena, const int32_t *tokens, int count) {
  size_t length = tokenizer_decode(t, tokens, count, NULL, 0);
  char *bytes = NEW(arena, char, length + 1);
  tokenizer_decode(t, tokens, count, bytes, length);
  if (utf8_invalid_at(bytes, length) == length) return bytes;
  Text out = {.arena = arena};
  for (size_t at = 0; at < length;) {
    char code[4];
    text_add(&out, code, (size_t)utf8_put(utf8_next(bytes, length, &at), code));
  }
  return out.data;
}

int tokenizer_vocab_size(const Tokenizer *t) { return t->vocab_size; }
int32_t tokenizer_eos(const Tokenizer *t) { return t->eos; }
int32_t tokenizer_sep(const Tokenizer *t) { return t->sep; }

Status tokenizer_save(const Tokenizer *t, const char *path) {
  return file_write(path, t->json, t->json_length);
}

Status tokenizer_load(Arena *arena, const char *path, Tokenizer **out) {
  FileMap map;
  TRY(file_map(path, &map));
  size_t length = map.length;
  const char *text = arena_strndup(arena, map.data, length);
  file_unmap(&map);
  return tokenizer_parse(arena, path, text, length, out);
}

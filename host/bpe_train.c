/* Learning merges (Sennrich et al. 2016, "Neural machine translation of rare words with subword units"):
 * again and again the most frequent pair of neighbours becomes one token. Pieces are counted once; the
 * counts of pairs are kept up to date by looking only at the pieces in which the merged pair stands, and a
 * heap with lazy updates gives the next pair. */
#include <stdlib.h>
#include <string.h>

#include "tokenizer_parts.h"

enum { FIRST_BYTE = 3, FIRST_MERGE = FIRST_BYTE + 256 };

/* A distinct piece and how often it was seen. */
typedef struct Word {
  int64_t count;
  uint32_t offset; /* of its bytes in Trainer.bytes, and of its tokens in Trainer.symbol */
  int32_t length;  /* bytes at first, then tokens */
  int32_t seen;    /* the last merge that looked at this word */
} Word;

/* A link in the list of words where a pair was once seen. */
typedef struct Place {
  int32_t word, next; /* next: index of a Place or -1 */
} Place;

typedef struct PairCount {
  int32_t left, right;
  int64_t count;
  int32_t first;  /* Place, -1: none */
  int32_t queued; /* the merge in which it was last pushed */
  bool merged;
} PairCount;

typedef struct Queued {
  int64_t count;
  int32_t left, right, pair;
} Queued;

/* Arrays that grow; old copies stay in the trainer's arena. */
typedef struct Trainer {
  Arena arena;
  Text bytes;
  Word *word;
  size_t words, word_room;
  uint32_t *word_slot; /* word + 1, 0: empty */
  size_t word_mask;
  int32_t *symbol;
  PairCount *pair;
  size_t pairs, pair_room;
  uint32_t *pair_slot; /* pair + 1 */
  size_t pair_mask;
  Place *place;
  size_t places, place_room;
  Queued *heap;
  size_t queued, heap_room;
  Text token_bytes; /* of the tokens so far, by id */
  uint32_t *token_offset, *token_length;
  uint32_t *token_slot; /* id + 1 */
  size_t token_mask;
} Trainer;

/* Room for one more element: doubles the array in the arena when it is full. */
#define GROW(trainer, array, used, room)                                              \
  do {                                                                                \
    if ((used) == (room)) {                                                           \
      size_t new_room = (room) ? 2 * (room) : 1024;                                   \
      void *larger = arena_alloc_array(&(trainer)->arena, sizeof *(array), new_room); \
      if (used) memcpy(larger, (array), (used) * sizeof *(array));                    \
      (array) = larger;                                                               \
      (room) = new_room;                                                              \
    }                                                                                 \
  } while (0)

/* ---- counting pieces ---- */

static void rehash_words(Trainer *t) {
  size_t size = t->word_mask ? 2 * (t->word_mask + 1) : 1 << 14;
  t->word_slot = NEW(&t->arena, uint32_t, size);
  t->word_mask = size - 1;
  for (size_t w = 0; w < t->words; w++) {
    size_t i = hash64(t->bytes.data + t->word[w].offset, (size_t)t->word[w].length) & t->word_mask;
    while (t->word_slot[i]) i = (i + 1) & t->word_mask;
    t->word_slot[i] = (uint32_t)w + 1;
  }
}

static void count_piece(void *state, const char *piece, size_t length) {
  Trainer *t = state;
  if (2 * t->words >= t->word_mask) rehash_words(t);
  size_t i = hash64(piece, length) & t->word_mask;
  for (; t->word_slot[i]; i = (i + 1) & t->word_mask) {
    Word *word = &t->word[t->word_slot[i] - 1];
    if ((size_t)word->length == length && memcmp(t->bytes.data + word->offset, piece, length) == 0) {
      word->count++;
      return;
    }
  }
  GROW(t, t->word, t->words, t->word_room);
  t->word[t->words] = (Word){1, (uint32_t)t->bytes.length, (int32_t)length, -1};
  text_add(&t->bytes, piece, length);
  t->word_slot[i] = (uint32_t)++t->words;
}

static Status count_texts(Trainer *t, const TokenizerTraining *training) {
  Pieces *pieces = pieces_new(&t->arena);
  TRY(pieces_add_pattern(&t->arena, pieces, bpe_gpt2_pattern, SPLIT_ISOLATED));
  const char *text;
  size_t length;
  while (training->source(training->state, &text, &length)) {
    pieces_cut(pieces, text, length, count_piece, t);
    if (t->bytes.length > UINT32_MAX / 2)
      return fail(INVALID, "the tokenizer's texts have over 2 GiB of different pieces; train it on fewer");
  }
  return OK;
}

/* ---- counting pairs ---- */

static void rehash_pairs(Trainer *t) {
  size_t size = t->pair_mask ? 2 * (t->pair_mask + 1) : 1 << 14;
  t->pair_slot = NEW(&t->arena, uint32_t, size);
  t->pair_mask = size - 1;
  for (size_t p = 0; p < t->pairs; p++) {
    size_t i = bpe_pair_hash(t->pair[p].left, t->pair[p].right) & t->pair_mask;
    while (t->pair_slot[i]) i = (i + 1) & t->pair_mask;
    t->pair_slot[i] = (uint32_t)p + 1;
  }
}

static int32_t find_pair(Trainer *t, int32_t left, int32_t right) {
  if (2 * t->pairs >= t->pair_mask) rehash_pairs(t);
  size_t i = bpe_pair_hash(left, right) & t->pair_mask;
  for (; t->pair_slot[i]; i = (i + 1) & t->pair_mask) {
    const PairCount *pair = &t->pair[t->pair_slot[i] - 1];
    if (pair->left == left && pair->right == right) return (int32_t)t->pair_slot[i] - 1;
  }
  GROW(t, t->pair, t->pairs, t->pair_room);
  t->pair[t->pairs] = (PairCount){.left = left, .right = right, .first = -1, .queued = -1};
  t->pair_slot[i] = (uint32_t)++t->pairs;
  return (int32_t)t->pairs - 1;
}

static int32_t add_pair(Trainer *t, int32_t left, int32_t right, int32_t word) {
  int32_t p = find_pair(t, left, right);
  PairCount *pair = &t->pair[p];
  pair->count += t->word[word].count;
  if (pair->first < 0 || t->place[pair->first].word != word) {
    GROW(t, t->place, t->places, t->place_room);
    t->place[t->places] = (Place){word, pair->first};
    pair->first = (int32_t)t->places++;
  }
  return p;
}

/* More frequent first; ties to the lower left, then the lower right id. */
static bool queued_before(const Queued *a, const Queued *b) {
  if (a->count != b->count) return a->count > b->count;
  return a->left != b->left ? a->left < b->left : a->right < b->right;
}

static void push(Trainer *t, int32_t p) {
  Queued new = {t->pair[p].count, t->pair[p].left, t->pair[p].right, p};
  GROW(t, t->heap, t->queued, t->heap_room);
  size_t i = t->queued++;
  for (; i > 0 && queued_before(&new, &t->heap[(i - 1) / 2]); i = (i - 1) / 2)
    t->heap[i] = t->heap[(i - 1) / 2];
  t->heap[i] = new;
}

static Queued pop(Trainer *t) {
  Queued top = t->heap[0], last = t->heap[--t->queued];
  size_t i = 0;
  for (size_t child; (child = 2 * i + 1) < t->queued; i = child) {
    if (child + 1 < t->queued && queued_before(&t->heap[child + 1], &t->heap[child])) child++;
    if (!queued_before(&t->heap[child], &last)) break;
    t->heap[i] = t->heap[child];
  }
  t->heap[i] = last;
  return top;
}

/* ---- merging ---- */

/* Replaces the pair by id in a word. Pairs that became more frequent are listed in changed. */
static void merge_in_word(Trainer *t, int32_t w, int32_t left, int32_t right, int32_t id, int32_t merge,
                          int32_t **changed, size_t *changes, size_t *room) {
  int32_t *symbol = t->symbol + t->word[w].offset;
  int32_t n = t->word[w].length, kept = 0;
  int64_t count = t->word[w].count;
  for (int32_t i = 0; i < n; i++) {
    if (i + 1 >= n || symbol[i] != left || symbol[i + 1] != right) {
      symbol[kept++] = symbol[i];
      continue;
    }
    t->pair[find_pair(t, left, right)].count -= count;
    int32_t grown[2] = {-1, -1};
    if (kept > 0) {
      t->pair[find_pair(t, symbol[kept - 1], left)].count -= count;
      grown[0] = add_pair(t, symbol[kept - 1], id, w);
    }
    if (i + 2 < n) {
      t->pair[find_pair(t, right, symbol[i + 2])].count -= count;
      grown[1] = add_pair(t, id, symbol[i + 2], w);
    }
    symbol[kept++] = id;
    i++;
    for (int side = 0; side < 2; side++) {
      if (grown[side] < 0 || t->pair[grown[side]].queued == merge) continue;
      t->pair[grown[side]].queued = merge;
      GROW(t, *changed, *changes, *room);
      (*changed)[(*changes)++] = grown[side];
    }
  }
  t->word[w].length = kept;
}

/* The id of the bytes of left and right together: an existing one, or *next, which is then counted up. */
static int32_t token_of(Trainer *t, int32_t left, int32_t right, int32_t *next) {
  size_t first = t->token_length[left], length = first + t->token_length[right];
  size_t offset = t->token_bytes.length;
  /* text_add may move the bytes, so the two halves are added from copies that stay in the arena */
  const char *left_bytes = t->token_bytes.data + t->token_offset[left];
  const char *right_bytes = t->token_bytes.data + t->token_offset[right];
  text_add(&t->token_bytes, left_bytes, first);
  text_add(&t->token_bytes, right_bytes, length - first);
  const char *bytes = t->token_bytes.data + offset;
  size_t i = hash64(bytes, length) & t->token_mask;
  for (; t->token_slot[i]; i = (i + 1) & t->token_mask) {
    int32_t id = (int32_t)t->token_slot[i] - 1;
    if (t->token_length[id] == length &&
        memcmp(t->token_bytes.data + t->token_offset[id], bytes, length) == 0) {
      t->token_bytes.length = offset;
      return id;
    }
  }
  t->token_offset[*next] = (uint32_t)offset;
  t->token_length[*next] = (uint32_t)length;
  t->token_slot[i] = (uint32_t)*next + 1;
  return (*next)++;
}

/* Tokens for bytes, a token for each byte in every word, and all pairs counted and queued. */
static void start(Trainer *t, int vocab_size) {
  unsigned char order[256];
  int32_t id_of[256];
  bpe_byte_order(order);
  size_t size = 1024;
  while (size < 2 * (size_t)vocab_size) size *= 2;
  t->token_slot = NEW(&t->arena, uint32_t, size);
  t->token_mask = size - 1;
  t->token_offset = NEW(&t->arena, uint32_t, vocab_size);
  t->token_length = NEW(&t->arena, uint32_t, vocab_size);
  for (int i = 0; i < 256; i++) {
    id_of[order[i]] = FIRST_BYTE + i;
    t->token_offset[FIRST_BYTE + i] = (uint32_t)i;
    t->token_length[FIRST_BYTE + i] = 1;
  }
  text_add(&t->token_bytes, (const char *)order, 256);
  t->symbol = NEW(&t->arena, int32_t, t->bytes.length + 1);
  for (size_t i = 0; i < t->bytes.length; i++) t->symbol[i] = id_of[(unsigned char)t->bytes.data[i]];
  for (size_t w = 0; w < t->words; w++)
    for (int32_t i = 0; i + 1 < t->word[w].length; i++)
      add_pair(t, t->symbol[t->word[w].offset + (size_t)i], t->symbol[t->word[w].offset + (size_t)i + 1],
               (int32_t)w);
  for (size_t p = 0; p < t->pairs; p++) push(t, (int32_t)p);
}

/* Merges until the vocabulary is full or no pair is frequent enough. */
static int learn(Trainer *t, const TokenizerTraining *training, BpePair *learned) {
  int32_t next = FIRST_MERGE, merges = 0;
  int32_t *changed = NULL;
  size_t room = 0;
  int64_t enough = training->min_frequency > 1 ? training->min_frequency : 1;
  for (int32_t merge = 0; next < training->vocab_size && t->queued > 0; merge++) {
    Queued top = pop(t);
    PairCount *pair = &t->pair[top.pair];
    if (top.count != pair->count) { /* it became less frequent since; again at its place */
      if (pair->count >= enough && pair->count < top.count) push(t, top.pair);
      continue;
    }
    if (top.count < enough) break;
    int32_t fresh = next, id = token_of(t, top.left, top.right, &next);
    /* A pair can come back when its left or right token is made again by another merge. */
    if (!pair->merged) learned[merges++] = (BpePair){top.left, top.right, id != fresh};
    pair->merged = true;
    size_t changes = 0;
    for (int32_t at = pair->first; at >= 0; at = t->place[at].next) {
      int32_t w = t->place[at].word;
      if (t->word[w].seen == merge) continue;
      t->word[w].seen = merge;
      merge_in_word(t, w, top.left, top.right, id, merge, &changed, &changes, &room);
      pair = &t->pair[top.pair];
    }
    for (size_t i = 0; i < changes; i++) push(t, changed[i]);
  }
  return merges;
}

Status tokenizer_train(Arena *arena, const TokenizerTraining *training, Tokenizer **out) {
  if (training->vocab_size < FIRST_MERGE)
    return fail(
        INVALID,
        "tokenizer.vocab_size %d is too small: %d special tokens and 256 bytes come first; give at least %d",
        training->vocab_size, FIRST_BYTE, FIRST_MERGE);
  Trainer trainer = {0};
  trainer.bytes.arena = trainer.token_bytes.arena = &trainer.arena;
  Status status = count_texts(&trainer, training);
  if (status == OK) {
    start(&trainer, training->vocab_size);
    BpePair *learned = NEW(&trainer.arena, BpePair, trainer.bytes.length + (size_t)training->vocab_size);
    int merges = learn(&trainer, training, learned);
    Text json = tokenizer_format(&trainer.arena, learned, merges);
    const char *text = arena_strndup(arena, json.data, json.length);
    status = tokenizer_parse(arena, "tokenizer.json", text, json.length, out);
  }
  arena_free(&trainer.arena);
  return status;
}

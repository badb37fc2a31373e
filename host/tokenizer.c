/* Encoding and decoding. */
#include "tokenizer.h"

#include <stdatomic.h>
#include <string.h>

#include "tokenizer_parts.h"
#include "unicode.h"

enum { CACHE_SLOTS = 4096, CACHED_BYTES = 30, CACHED_TOKENS = 8, STACK_ROOM = 256 };

/* A piece and its tokens; one cache line. */
typedef struct CachedPiece {
  uint8_t length, tokens; /* length 0: empty */
  char bytes[CACHED_BYTES];
  int32_t token[CACHED_TOKENS];
} CachedPiece;

struct PieceCache {
  atomic_flag busy;
  CachedPiece slot[CACHE_SLOTS];
};

/* One text on its way. */
typedef struct Encoding {
  const Tokenizer *t;
  PieceCache *cache; /* one that no other thread has, or NULL */
  bool specials;
  int32_t *out;
  int max, count;
  Arena arena;
  int32_t *room; /* [room_size] for pieces that do not fit into out */
  size_t room_size;
} Encoding;

int32_t find_token(const Tokenizer *t, const char *bytes, size_t length) {
  uint32_t i = piece_hash(bytes, length) & t->by_bytes_mask;
  for (; t->by_bytes[i] >= 0; i = (i + 1) & t->by_bytes_mask) {
    const BpeToken *token = &t->token[t->by_bytes[i]];
    if (token->length == length && memcmp(t->bytes + token->offset, bytes, length) == 0) break;
  }
  return t->by_bytes[i];
}

PieceCache *piece_caches_new(Arena *arena, int count) {
  PieceCache *cache = NEW(arena, PieceCache, count);
  for (int i = 0; i < count; i++) atomic_flag_clear(&cache[i].busy);
  return cache;
}

static PieceCache *take_cache(const Tokenizer *t) {
  for (int i = 0; i < PIECE_CACHES; i++)
    if (!atomic_flag_test_and_set_explicit(&t->cache[i].busy, memory_order_acquire)) return &t->cache[i];
  return NULL;
}

static void put_token(Encoding *e, int32_t token) {
  if (e->count < e->max) e->out[e->count] = token;
  e->count++;
}

static bool fits(const Encoding *e, size_t length) {
  return e->count < e->max && (size_t)(e->max - e->count) >= length;
}

/* Room for the tokens of a piece that does not fit into out. */
static int32_t *other_room(Encoding *e, size_t length) {
  if (length > e->room_size) {
    e->room_size = length > 2 * e->room_size ? length : 2 * e->room_size;
    e->room = NEW(&e->arena, int32_t, e->room_size);
  }
  return e->room;
}

static void encode_piece(void *state, const char *piece, size_t length) {
  Encoding *e = state;
  CachedPiece *slot = NULL;
  if (length <= CACHED_BYTES && e->cache) {
    slot = &e->cache->slot[piece_hash(piece, length) & (CACHE_SLOTS - 1)];
    if (slot->length == length && memcmp(slot->bytes, piece, length) == 0) {
      if (fits(e, CACHED_TOKENS)) {
        memcpy(e->out + e->count, slot->token, sizeof slot->token);
        e->count += slot->tokens;
      } else {
        for (int i = 0; i < slot->tokens; i++) put_token(e, slot->token[i]);
      }
      return;
    }
  }
  bool in_place = fits(e, length);
  int32_t *to = in_place ? e->out + e->count : other_room(e, length);
  int tokens = e->t->kind == MODEL_BPE ? bpe_encode_piece(e->t, piece, length, to)
                                       : wordpiece_encode_piece(e->t, piece, length, to);
  if (slot && tokens <= CACHED_TOKENS) {
    slot->length = (uint8_t)length;
    slot->tokens = (uint8_t)tokens;
    memcpy(slot->bytes, piece, length);
    memcpy(slot->token, to, (size_t)tokens * sizeof *to);
  }
  if (in_place)
    e->count += tokens;
  else
    for (int i = 0; i < tokens; i++) put_token(e, to[i]);
}

/* Spaces become visible, and one is put in front; or a plain one is. */
static void mark_spaces(const Tokenizer *t, const char *text, size_t length, bool first, Text *out) {
  if (t->prefix_space) {
    if (text[0] != ' ') text_add(out, " ", 1);
    text_add(out, text, length);
    return;
  }
  bool marked = text[0] == ' ' || (length >= 3 && memcmp(text, METASPACE, 3) == 0);
  bool prefix = t->prefix == PREFIX_ALWAYS || (t->prefix == PREFIX_FIRST && first);
  if (prefix && !marked) text_add(out, METASPACE, 3);
  for (size_t i = 0; i < length; i++)
    if (text[i] == ' ')
      text_add(out, METASPACE, 3);
    else
      text_add(out, text + i, 1);
}

/* Normalized text without added tokens; first: the whole text begins with it. */
static void encode_plain(Encoding *e, const char *text, size_t length, bool first) {
  if (length == 0) return;
  Text marked = {.arena = &e->arena};
  if (e->t->metaspace || e->t->prefix_space) {
    mark_spaces(e->t, text, length, first, &marked);
    text = marked.data;
    length = marked.length;
  }
  pieces_cut(e->t->pieces, text, length, encode_piece, e);
}

static void encode_section(Encoding *e, const char *text, size_t length, bool first) {
  Text normal = {.arena = &e->arena};
  if (normalize(e->t->normalizer, text, length, &normal)) {
    text = normal.data;
    length = normal.length;
  }
  AddedScan scan = {.set = &e->t->added[1], .text = text, .length = length};
  const AddedToken *token;
  do {
    token = added_next(&scan, e->specials);
    encode_plain(e, text + scan.plain, scan.plain_length, first && scan.plain == 0);
    if (token) put_token(e, token->id);
  } while (token);
}

static int encode(const Tokenizer *t, const char *text, size_t length, bool specials, int32_t *out, int max) {
  int32_t small[STACK_ROOM];
  Encoding e = {.t = t, .specials = specials, .out = out, .max = max, .room = small, .room_size = STACK_ROOM};
  Text repaired = {.arena = &e.arena};
  if (!t->byte_level && utf8_invalid_at(text, length) < length) {
    unicode_add_repaired(&repaired, text, length);
    text = repaired.data;
    length = repaired.length;
  }
  e.cache = take_cache(t);
  AddedScan scan = {.set = &t->added[0], .text = text, .length = length};
  const AddedToken *token;
  do {
    token = added_next(&scan, specials);
    if (scan.plain_length) encode_section(&e, text + scan.plain, scan.plain_length, scan.plain == 0);
    if (token) put_token(&e, token->id);
  } while (token);
  if (e.cache) atomic_flag_clear_explicit(&e.cache->busy, memory_order_release);
  arena_free(&e.arena);
  return e.count;
}

int tokenizer_encode(const Tokenizer *t, const char *text, size_t length, int32_t *out, int max) {
  return encode(t, text, length, false, out, max);
}

int tokenizer_encode_marked(const Tokenizer *t, const char *text, size_t length, int32_t *out, int max) {
  return encode(t, text, length, true, out, max);
}

/* ---- decoding ---- */

typedef struct Decoding {
  char *out;
  size_t max, length;
} Decoding;

static void show(Decoding *d, const char *bytes, size_t length) {
  if (d->length < d->max)
    memcpy(d->out + d->length, bytes, d->max - d->length < length ? d->max - d->length : length);
  d->length += length;
}

/* Scripts that have no spaces between words, and their punctuation. */
static bool has_no_spaces(uint32_t code) {
  return (code >= 0x3000 && code < 0x3100) || (code >= 0xFF00 && code < 0xFFF0) ||
         (unicode_class[code] & IS_CJK);
}

/* The first code point of bytes, and the last. */
static uint32_t first_code(const char *bytes, size_t length) {
  size_t at = 0;
  return utf8_next(bytes, length, &at);
}

static uint32_t last_code(const char *bytes, size_t length) {
  size_t at = length - 1;
  while (at > 0 && length - at < 4 && ((unsigned char)bytes[at] & 0xC0) == 0x80) at--;
  return utf8_next(bytes, length, &at);
}

/* WordPiece keeps no spaces: one goes before each word, but none beside a script without spaces, nor before
 * what closes a sentence. */
static void show_word(const Tokenizer *t, Decoding *d, const char *bytes, size_t length, uint32_t *before) {
  size_t mark = strlen(t->continuing);
  bool continues = length > mark && memcmp(bytes, t->continuing, mark) == 0;
  if (continues && *before) {
    bytes += mark;
    length -= mark;
  }
  uint32_t next = first_code(bytes, length);
  bool closes = next < 0x80 && next && strchr(".,?!", (char)next);
  if (*before && !continues && !closes && !has_no_spaces(*before) && !has_no_spaces(next)) show(d, " ", 1);
  show(d, bytes, length);
  *before = last_code(bytes, length);
}

size_t tokenizer_decode(const Tokenizer *t, const int32_t *tokens, int count, char *out, size_t max) {
  Decoding d = {out, max, 0};
  uint32_t before = 0; /* the last code point of the word before */
  bool first = t->strips_first_space;
  for (int i = 0; i < count; i++) {
    if (tokens[i] < 0 || tokens[i] >= t->vocab_size) continue; /* a padded vocabulary's rows mean nothing */
    const BpeToken *shown = &t->shown[tokens[i]];
    const char *bytes = t->bytes + shown->offset;
    size_t length = shown->length;
    if (length == 0) continue;
    if (t->kind == MODEL_WORDPIECE) {
      show_word(t, &d, bytes, length, &before);
      continue;
    }
    bool strip = first && bytes[0] == ' ';
    first = false;
    show(&d, bytes + strip, length - strip);
  }
  return d.length;
}

char *tokenizer_decode_text(const Tokenizer *t, Arena *arena, const int32_t *tokens, int count) {
  size_t length = tokenizer_decode(t, tokens, count, NULL, 0);
  char *bytes = NEW(arena, char, length + 1);
  tokenizer_decode(t, tokens, count, bytes, length);
  if (utf8_invalid_at(bytes, length) == length) return bytes;
  Text out = {.arena = arena};
  unicode_add_repaired(&out, bytes, length);
  return out.data;
}

bool tokenizer_same(const Tokenizer *a, const Tokenizer *b) {
  return a->json_length == b->json_length && memcmp(a->json, b->json, a->json_length) == 0;
}

int tokenizer_vocab_size(const Tokenizer *t) { return t->vocab_size; }
int32_t tokenizer_eos(const Tokenizer *t) { return t->eos; }
int32_t tokenizer_sep(const Tokenizer *t) { return t->sep; }

int tokenizer_start(const Tokenizer *t, const int32_t **tokens) {
  *tokens = t->start;
  return t->start_count;
}

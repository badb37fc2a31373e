/* What the tokenizer's files share. A text goes through: added tokens that stand for themselves, normalizer,
 * added tokens that are looked for afterwards, cut into pieces, model (a piece at a time). */
#ifndef POPALM_TOKENIZER_PARTS_H
#define POPALM_TOKENIZER_PARTS_H

#include <cjson/cJSON.h>

#include "base/hash.h"
#include "base/text.h"
#include "tokenizer.h"

/* A token's bytes. */
typedef struct BpeToken {
  uint32_t offset; /* into Tokenizer.bytes */
  uint32_t length; /* 0 for ids that are not used */
} BpeToken;

/* An open-addressed table: pair of neighbours -> what they become. Empty slots have rank UINT32_MAX. */
typedef struct BpeMerge {
  int32_t left, right;
  uint32_t rank; /* lower ranks are merged first */
  int32_t id;
} BpeMerge;

typedef struct BpeCharacters BpeCharacters; /* the tokens of three-byte characters */

/* A token that is looked for in the text, as Hugging Face's tokenizer.json describes it. */
typedef struct AddedToken {
  const char *text;
  uint32_t length;
  int32_t id;
  bool special, lstrip, rstrip, single_word, normalized;
} AddedToken;

/* Sorted by first byte, then the longest first: token[start[b]] .. token[start[b + 1]] begin with byte b. */
typedef struct AddedSet {
  AddedToken *token; /* [count] */
  int count;
  int start[257];
  int only; /* the first byte of all of them, or -1 */
} AddedSet;

typedef struct Pieces Pieces;
typedef struct Normalizer Normalizer;
typedef struct PieceCache PieceCache;

typedef enum ModelKind { MODEL_BPE, MODEL_WORDPIECE } ModelKind;

/* White space as a visible sign, as SentencePiece has it. */
#define METASPACE "\xE2\x96\x81" /* U+2581 */
typedef enum MetaspacePrefix { PREFIX_NEVER, PREFIX_FIRST, PREFIX_ALWAYS } MetaspacePrefix;

struct Tokenizer {
  int vocab_size; /* highest id + 1 */
  int32_t eos, sep;
  ModelKind kind;
  BpeToken *token;   /* [vocab_size] as the model knows them: bytes of byte-level BPE, else the spelling */
  BpeToken *shown;   /* [vocab_size] as they are decoded; special tokens have length 0 */
  int32_t *by_bytes; /* [by_bytes_mask + 1] ids by hash of token's bytes; -1: empty */
  const char *bytes;
  uint32_t by_bytes_mask;
  uint32_t longest; /* token, in bytes */

  bool byte_level;      /* BPE works on bytes, not on characters */
  bool fuse_unknown;    /* neighbouring unknown characters are one token */
  bool ignore_merges;   /* a piece that is a token is that token, whatever the merges say */
  bool byte_fallback;   /* an unknown character becomes the tokens of its bytes */
  int32_t unknown;      /* -1: unknown characters are dropped */
  int32_t byte_id[256]; /* of byte-level BPE, or of <0x00> .. <0xFF>; -1: no such token */
  BpeMerge *merge;      /* [merge_mask + 1] */
  uint32_t merge_mask;
  uint64_t *merge_filter; /* [filter_mask + 1 bits] 0: no merge has this hash */
  uint32_t filter_mask;
  BpeCharacters *characters; /* byte-level only */
  uint32_t *byte_merge;      /* [256 * 256] ranks of two bytes; byte-level only */
  int32_t *whole;            /* [whole_mask + 1] ids of tokens that are their own encoding; -1: empty */
  uint32_t whole_mask;

  const char *continuing; /* WordPiece: what a token inside a word begins with */
  int max_word;           /* WordPiece: characters; longer words are unknown */

  AddedSet added[2]; /* looked for before and after the normalizer */
  Normalizer *normalizer;
  bool metaspace; /* spaces become METASPACE before the cut */
  MetaspacePrefix prefix;
  bool prefix_space; /* a text that does not begin with a space gets one */
  Pieces *pieces;
  const int32_t *start; /* [start_count] tokens that a text begins with */
  int start_count;
  bool strips_first_space; /* when decoding */
  PieceCache *cache;       /* [PIECE_CACHES] */

  const char *json; /* the file as it is saved: NUL-terminated */
  size_t json_length;
  const char *eos_text; /* the end token that a tokenizer_config.json named, or NULL */
};

/* ---- bytes and their look-up ---- */

/* GPT-2's printable stand-in for each byte. */
uint32_t bpe_byte_char(unsigned byte);
/* The 256 bytes in the order of their stand-ins, which is the order of their ids. */
void bpe_byte_order(unsigned char order[256]);
/* The id of a token with these bytes, or -1. */
int32_t find_token(const Tokenizer *tokenizer, const char *bytes, size_t length);

/* A hash of few bytes. */
static inline uint32_t piece_hash(const char *bytes, size_t length) {
  if (length > 16) return (uint32_t)hash64(bytes, length);
  uint64_t a = 0, b = 0;
  if (length >= 8) {
    __builtin_memcpy(&a, bytes, 8);
    __builtin_memcpy(&b, bytes + length - 8, 8);
  } else if (length >= 4) {
    __builtin_memcpy(&a, bytes, 4);
    __builtin_memcpy(&b, bytes + length - 4, 4);
  } else if (length > 0) {
    a = (unsigned char)bytes[0];
    b = (uint64_t)(unsigned char)bytes[length / 2] << 8 | (unsigned char)bytes[length - 1];
  }
  uint64_t key = (a ^ length) * 0x9E3779B97F4A7C15u ^ (b + 0x632BE59BD9B4E019u) * 0xC2B2AE3D27D4EB4Fu;
  key ^= key >> 29;
  key *= 0x9FB21C651E98DF25u;
  return (uint32_t)(key >> 32);
}

/* Mixes a pair into a table index. */
static inline uint32_t bpe_pair_hash(int32_t left, int32_t right) {
  uint64_t key = ((uint64_t)(uint32_t)left << 32) | (uint32_t)right;
  key *= 0x9E3779B97F4A7C15u;
  return (uint32_t)(key >> 32) ^ (uint32_t)(key >> 15);
}

/* The slot of a pair; its rank is UINT32_MAX when the two do not merge. Most pairs do not, and the filter
 * says so without a look into the large table. */
static inline const BpeMerge *find_merge(const Tokenizer *t, int32_t left, int32_t right) {
  static const BpeMerge none = {-1, -1, UINT32_MAX, -1};
  uint32_t hash = bpe_pair_hash(left, right), bit = hash & t->filter_mask, i = hash & t->merge_mask;
  if (!(t->merge_filter[bit / 64] >> (bit % 64) & 1)) return &none;
  while (t->merge[i].rank != UINT32_MAX && (t->merge[i].left != left || t->merge[i].right != right))
    i = (i + 1) & t->merge_mask;
  return &t->merge[i];
}

/* ---- the cut into pieces (tokenizer_cut.c, tokenizer_scan.c) ---- */

typedef void PieceSink(void *state, const char *piece, size_t length);
/* The length of the piece that begins at text < end. */
typedef size_t Scanner(const char *text, const char *end);
size_t scan_gpt2(const char *text, const char *end);
size_t scan_llama3(const char *text, const char *end); /* numbers in threes */
size_t scan_qwen2(const char *text, const char *end);  /* digits one by one */
extern const char bpe_gpt2_pattern[], bpe_llama3_pattern[], bpe_qwen2_pattern[];

typedef enum CutKind { CUT_SCAN, CUT_PATTERN, CUT_DIGITS, CUT_EACH_DIGIT, CUT_BERT, CUT_METASPACE } CutKind;
typedef enum SplitBehavior { SPLIT_ISOLATED, SPLIT_REMOVED, SPLIT_KEPT } SplitBehavior; /* of what matches */

Pieces *pieces_new(Arena *arena);
/* Further steps; each cuts the pieces of the one before. */
Status pieces_add(Pieces *pieces, CutKind kind) CHECKED;
Status pieces_add_pattern(Arena *arena, Pieces *pieces, const char *pattern, SplitBehavior behavior) CHECKED;
/* A pattern of the tokenizers library in PCRE2's language. */
Status pattern_translate(Arena *arena, const char *pattern, Text *out) CHECKED;
/* Gives every piece to sink, in order. An invalid byte of UTF-8 is a piece of its own. */
void pieces_cut(const Pieces *pieces, const char *text, size_t length, PieceSink *sink, void *state);

/* ---- normalizer, added tokens ---- */

Status normalizer_read(Arena *arena, const char *path, const cJSON *section, Normalizer **out) CHECKED;
/* Puts the normal form of text into out and returns true, or returns false when it is text as it stands. */
bool normalize(const Normalizer *normalizer, const char *text, size_t length, Text *out);

AddedSet added_set(Arena *arena, const AddedToken *token, int count);
/* A walk over the added tokens of a text. */
typedef struct AddedScan {
  const AddedSet *set;
  const char *text;
  size_t length;
  size_t at;                  /* searched up to here */
  size_t end;                 /* of the last token, with the white space it took */
  size_t plain, plain_length; /* what lies between the last token and this one */
} AddedScan;
/* The next added token, or NULL at the end of the text; plain is set in both cases. Without specials, special
 * tokens are plain text. */
const AddedToken *added_next(AddedScan *scan, bool specials);

/* ---- models ---- */

/* Tokens of one piece into out, which has room for length of them; returns how many. */
int bpe_encode_piece(const Tokenizer *tokenizer, const char *piece, size_t length, int32_t *out);
/* The tokens that a piece of three-byte characters and ASCII can start as, or 0 if it must start as bytes. */
int bpe_start_characters(const Tokenizer *tokenizer, const char *piece, size_t length, int32_t *out);
void bpe_index_characters(Arena *arena, Tokenizer *tokenizer, int merges);
int wordpiece_encode_piece(const Tokenizer *tokenizer, const char *piece, size_t length, int32_t *out);
/* Fills the tables that only make it faster, once all others stand. */
void bpe_index(Arena *arena, Tokenizer *tokenizer, int merges);

enum { PIECE_CACHES = 4 }; /* so many threads can use one at a time; further ones do without */
PieceCache *piece_caches_new(Arena *arena, int count);

/* ---- files ---- */

/* Builds a tokenizer from the text of a tokenizer.json; path is for messages. text must live as long. */
Status tokenizer_parse(Arena *arena, const char *path, const char *text, size_t length,
                       Tokenizer **out) CHECKED;
/* The sections of a tokenizer.json besides the model. */
Status read_pre_tokenizer(Arena *arena, const char *path, const cJSON *section, Tokenizer *tokenizer) CHECKED;
Status read_decoder(const char *path, const cJSON *section, Tokenizer *tokenizer) CHECKED;
Status read_post_processor(Arena *arena, const char *path, const cJSON *section,
                           Tokenizer *tokenizer) CHECKED;
const char *json_type(const cJSON *section); /* its "type", or "none" */

/* The text of tokenizer.json for tokens <eos> <sep> <pad>, the bytes, then the merges in order. */
typedef struct BpePair {
  int32_t left, right;
  bool repeats; /* another merge made the same bytes: no id of its own */
} BpePair;
Text tokenizer_format(Arena *arena, const BpePair *pair, int count);

#endif

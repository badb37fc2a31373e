/* What the tokenizer's parts share: its tables, GPT-2's byte alphabet, and the cut into pieces. Only
 * tokenizer.c, tokenizer_file.c and bpe_train.c include this. */
#ifndef POPALM_BPE_H
#define POPALM_BPE_H

#include "base/text.h"
#include "tokenizer.h"

/* A token's bytes. */
typedef struct BpeToken {
  uint32_t offset; /* into Tokenizer.bytes */
  uint32_t length; /* 0 for special tokens and ids that are not used */
} BpeToken;

/* An open-addressed table: pair of neighbours -> what they become. Empty slots have rank UINT32_MAX. */
typedef struct BpeMerge {
  int32_t left, right;
  uint32_t rank; /* lower ranks are merged first */
  int32_t id;
} BpeMerge;

/* The cut into pieces; a piece is tokenised on its own. */
typedef struct Pieces Pieces;

struct Tokenizer {
  int vocab_size; /* highest id + 1 */
  int32_t eos, sep;
  BpeToken *token; /* [vocab_size] */
  const char *bytes;
  int32_t byte_id[256];
  BpeMerge *merge; /* [merge_mask + 1] */
  uint32_t merge_mask;
  int32_t
      *whole; /* [whole_mask + 1] ids of tokens that are their own encoding, by hash of bytes; -1: empty */
  uint32_t whole_mask;
  Pieces *pieces;
  const char *json; /* the file as it is saved: NUL-terminated */
  size_t json_length;
};

/* GPT-2's printable stand-in for each byte, and back; -1 where a code point stands for no byte. */
uint32_t bpe_byte_char(unsigned byte);
int bpe_char_byte(uint32_t code);
/* The 256 bytes in the order of their stand-ins, which is the order of their ids. */
void bpe_byte_order(unsigned char order[256]);

/* GPT-2's pattern. */
extern const char bpe_default_pattern[];
/* Compiles a pattern. White space means Unicode's White_Space, as in the tokenizers library. */
Status pieces_new(Arena *arena, const char *pattern, Pieces **out) CHECKED;
/* What one walk over a text needs; close it after. */
typedef struct PieceWalk {
  const Pieces *pieces;
  const char *text;
  size_t length, at, valid_end; /* text[at .. valid_end) is known to be valid UTF-8 */
  void *match;
} PieceWalk;
PieceWalk piece_walk(const Pieces *pieces, const char *text, size_t length);
/* The next piece; false at the end. Pieces cover the text without gaps; an invalid byte is a piece. */
bool piece_next(PieceWalk *walk, const char **piece, size_t *length);
void piece_walk_end(PieceWalk *walk);

/* Tokens of one piece into out, which has room for length of them; returns how many. */
int bpe_encode_piece(const Tokenizer *tokenizer, const char *piece, size_t length, int32_t *out);
/* Fills tokenizer->whole once all other tables stand; with ignore_merges every token counts as whole. */
void bpe_index_whole_tokens(Arena *arena, Tokenizer *tokenizer, bool ignore_merges);

/* Builds a tokenizer from the text of a tokenizer.json; path is for messages. text must live as long. */
Status tokenizer_parse(Arena *arena, const char *path, const char *text, size_t length,
                       Tokenizer **out) CHECKED;

/* The text of tokenizer.json for tokens <eos> <sep> <pad>, the bytes, then the merges in order. */
typedef struct BpePair {
  int32_t left, right;
  bool repeats; /* another merge made the same bytes: no id of its own */
} BpePair;
Text tokenizer_format(Arena *arena, const BpePair *pair, int count);

/* Mixes a pair into a table index. */
static inline uint32_t bpe_pair_hash(int32_t left, int32_t right) {
  uint64_t key = ((uint64_t)(uint32_t)left << 32) | (uint32_t)right;
  key *= 0x9E3779B97F4A7C15u;
  return (uint32_t)(key >> 32) ^ (uint32_t)(key >> 15);
}

#endif

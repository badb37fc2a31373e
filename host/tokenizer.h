/* Text to tokens and back, for the tokenizers of pretrained models and those learned here. Stored as Hugging
 * Face's tokenizer.json; ids are those of the tokenizers library. docs/tokenizers.md says what is known. */
#ifndef POPALM_TOKENIZER_H
#define POPALM_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/status.h"

typedef struct Tokenizer Tokenizer;

/* Special tokens of every tokenizer that is trained here; their ids come first (0, 1, 2). */
#define TOKEN_EOS_TEXT "<eos>"
#define TOKEN_SEP_TEXT "<sep>"
#define TOKEN_PAD_TEXT "<pad>" /* never fed to a model; other tools ask for one */

/* Gives the next text to learn from; false at the end. The text need only live until the next call. */
typedef bool (*TextSource)(void *state, const char **text, size_t *length);

typedef struct TokenizerTraining {
  int vocab_size;    /* specials + 256 bytes + merges; fewer if the texts run out of pairs */
  int min_frequency; /* of a pair that is merged */
  TextSource source;
  void *state;
} TokenizerTraining;

/* Deterministic: ties go to the pair with the lower ids. Errors: vocab_size too small. */
Status tokenizer_train(Arena *arena, const TokenizerTraining *training, Tokenizer **out) CHECKED;
/* Writes the tokenizer.json, and a tokenizer_config.json beside it if the end token came from one. */
Status tokenizer_save(const Tokenizer *tokenizer, const char *path) CHECKED;
/* A tokenizer.json, a vocab.json (its merges.txt beside it) or vocab.txt, or a folder with one of them. The
 * end token is that of the tokenizer_config.json beside it, if there is one. */
Status tokenizer_load(Arena *arena, const char *path, Tokenizer **out) CHECKED;
/* The files that tokenizer_load reads of this path; returns how many. */
enum { TOKENIZER_FILES = 3 };
int tokenizer_files(Arena *arena, const char *path, const char *files[TOKENIZER_FILES]);

/* Whether both come from the same tokenizer.json, so that one's tokens are the other's. */
bool tokenizer_same(const Tokenizer *a, const Tokenizer *b);
int tokenizer_vocab_size(const Tokenizer *tokenizer);
int32_t tokenizer_eos(const Tokenizer *tokenizer);
int32_t tokenizer_sep(const Tokenizer *tokenizer);

/* The tokens that a model of this tokenizer expects at the beginning of every text. Returns how many. */
int tokenizer_start(const Tokenizer *tokenizer, const int32_t **tokens);

/* Tokens of text (special tokens' spellings in it are ordinary text). Writes at most max and returns how
 * many the whole text has, which can be more than its bytes. Safe to call from many threads at once. */
int tokenizer_encode(const Tokenizer *tokenizer, const char *text, size_t length, int32_t *out, int max);
/* The same, but a special token's spelling becomes that token. */
int tokenizer_encode_marked(const Tokenizer *tokenizer, const char *text, size_t length, int32_t *out,
                            int max);
/* Bytes of tokens; special tokens give nothing. Writes at most max bytes (no NUL) and returns how many
 * there are in all. The result may be cut UTF-8 when the model stopped inside a character. */
size_t tokenizer_decode(const Tokenizer *tokenizer, const int32_t *tokens, int count, char *out, size_t max);
/* tokenizer_decode into an arena, invalid UTF-8 replaced by U+FFFD, NUL-terminated. */
char *tokenizer_decode_text(const Tokenizer *tokenizer, Arena *arena, const int32_t *tokens, int count);

#endif

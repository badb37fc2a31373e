/* A tokenizer.json, a zero byte, and a text: whatever they are, reading ends in a tokenizer or a message, and
 * encoding and decoding stay within their buffers. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "tokenizer.h"
#include "tokenizer_parts.h"



static void require(bool holds) {
  if (!holds) abort();
}

/* Encodes into a buffer of exactly the right size, and into one that is too small, then decodes. */
static void encode_and_decode(const Tokenizer *t, const char *text, size_t length,
                              int (*encode)(const Tokenizer *, const char *, size_t, int32_t *, int)) {
  int count = encode(t, text, length, NULL, 0);
  require(count >= 0);
  int32_t *exact = malloc(sizeof *exact * (size_t)count + 1),
          *half = malloc(sizeof *half * (size_t)count + 1);
  require(encode(t, text, length, exact, count) == count);
  require(encode(t, text, length, half, count / 2) == count);
  require(memcmp(exact, half, sizeof *exact * (size_t)(count / 2)) == 0);
  for (int i = 0; i < count; i++) require(exact[i] >= 0 && exact[i] < tokenizer_vocab_size(t));
  size_t bytes = tokenizer_decode(t, exact, count, NULL, 0);
  char *out = malloc(bytes + 1);
  require(tokenizer_decode(t, exact, count, out, bytes) == bytes);
  Arena arena = {0};
  const char *decoded = tokenizer_decode_text(t, &arena, exact, count);
  require(utf8_invalid_at(decoded, strlen(decoded)) == strlen(decoded));
  arena_free(&arena);
  free(out);
  free(half);
  free(exact);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size > 1 << 16) return 0;
  const char *bytes = (const char *)data, *zero = size ? memchr(bytes, 0, size) : NULL;
  size_t length = zero ? (size_t)(zero - bytes) : size;
  Arena arena = {0};
  const char *json = arena_strndup(&arena, bytes, length);
  Tokenizer *t;
  if (tokenizer_parse(&arena, "tokenizer.json", json, length, &t) != OK) {
    require(strncmp(error_message(), "tokenizer.json", 14) == 0);
  } else {
    size_t text_length = zero ? size - length - 1 : 0;
    char *text = malloc(text_length + 1); /* of its own, so that reading past it is seen */
    if (text_length) memcpy(text, zero + 1, text_length);
    encode_and_decode(t, text, text_length, tokenizer_encode);
    encode_and_decode(t, text, text_length, tokenizer_encode_marked);
    free(text);
  }
  arena_free(&arena);
  return 0;
}

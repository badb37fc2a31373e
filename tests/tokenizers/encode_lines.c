/* Encodes or decodes many texts with one tokenizer, for tests/tokenizers/compare.py.
 *
 *   encode_lines TOKENIZER TEXTS IDS [ROUNDS]    texts and ids are records: a 32-bit count, then bytes or ids
 *   encode_lines TOKENIZER IDS TEXTS decode
 *
 * With ROUNDS the encoding is repeated and the seconds of the fastest round are printed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "tokenizer.h"

static int32_t *ids;
static int room;

/* All texts once; the ids are written to out if it is given. */
static size_t encode_all(const Tokenizer *t, const FileMap *texts, FILE *out) {
  size_t tokens = 0;
  for (size_t at = 0; at < texts->length;) {
    uint32_t length;
    memcpy(&length, texts->data + at, sizeof length);
    const char *text = texts->data + at + sizeof length;
    int count = tokenizer_encode_marked(t, text, length, ids, room);
    if (count > room) {
      room = 2 * count;
      ids = realloc(ids, sizeof *ids * (size_t)room);
      continue;
    }
    at += sizeof length + length;
    tokens += (size_t)count;
    if (!out) continue;
    fwrite(&count, sizeof count, 1, out);
    fwrite(ids, sizeof *ids, (size_t)count, out);
  }
  return tokens;
}

static void decode_all(const Tokenizer *t, const FileMap *records, FILE *out) {
  for (size_t at = 0; at < records->length;) {
    int32_t count;
    memcpy(&count, records->data + at, sizeof count);
    ids = realloc(ids, sizeof *ids * ((size_t)count + 1));
    memcpy(ids, records->data + at + sizeof count, sizeof *ids * (size_t)count);
    at += sizeof count + sizeof *ids * (size_t)count;
    Arena arena = {0};
    const char *text = tokenizer_decode_text(t, &arena, ids, count);
    uint32_t length = (uint32_t)strlen(text);
    fwrite(&length, sizeof length, 1, out);
    fwrite(text, 1, length, out);
    arena_free(&arena);
  }
}

int main(int count, char **argument) {
  Arena arena = {0};
  Tokenizer *t;
  FileMap input;
  if (count < 4) return 2;
  if (tokenizer_load(&arena, argument[1], &t) != OK || file_map(argument[2], &input) != OK) {
    fprintf(stderr, "%s\n", error_message());
    return 2;
  }
  FILE *out = fopen(argument[3], "wb");
  if (!out) return 2;
  bool decode = count > 4 && strcmp(argument[4], "decode") == 0;
  if (decode) {
    decode_all(t, &input, out);
  } else {
    encode_all(t, &input, out);
    double fastest = 1e9;
    for (int round = count > 4 ? atoi(argument[4]) : 0; round > 0; round--) {
      double start = seconds_now();
      encode_all(t, &input, NULL);
      double took = seconds_now() - start;
      if (took < fastest) fastest = took;
    }
    printf("%.6f\n", fastest);
  }
  fclose(out);
  free(ids);
  arena_free(&arena);
  return 0;
}

/* A reply on the screen while it is drawn: whole characters only, and at the end all of its text;
 * control characters as \xNN. */
#ifndef POPALM_REPLY_STREAM_H
#define POPALM_REPLY_STREAM_H

#include <stdio.h>

#include "tokenizer.h"

typedef struct ReplyStream {
  const Tokenizer *tokenizer;
  FILE *out;
  size_t shown; /* bytes of the text */
} ReplyStream;

/* Writes what the tokens so far have beyond what was written; stream is a ReplyStream. */
void reply_stream_show(void *stream, const int32_t *tokens, int count);
/* Writes the rest of the text. */
void reply_stream_end(ReplyStream *stream, const char *text);

#endif

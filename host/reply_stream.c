#include "reply_stream.h"

#include <string.h>

#include "base/visible.h"
#include "unicode.h"

void reply_stream_show(void *state, const int32_t *tokens, int count) {
  ReplyStream *stream = state;
  Arena scratch = {0};
  size_t length = tokenizer_decode(stream->tokenizer, tokens, count, NULL, 0);
  char *bytes = NEW(&scratch, char, length + 1);
  tokenizer_decode(stream->tokenizer, tokens, count, bytes, length);
  Text text = {.arena = &scratch};
  unicode_add_repaired(&text, bytes, length - utf8_unfinished(bytes, length));
  if (text.length > stream->shown) {
    print_visible(stream->out, text.data + stream->shown, text.length - stream->shown);
    fflush(stream->out);
    stream->shown = text.length;
  }
  arena_free(&scratch);
}

void reply_stream_end(ReplyStream *stream, const char *text) {
  print_visible(stream->out, text + stream->shown, strlen(text + stream->shown));
}

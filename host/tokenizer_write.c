/* Our own tokenizer.json, as the tokenizers library would write it. */
#include "tokenizer_parts.h"

static const char *const special_texts[] = {TOKEN_EOS_TEXT, TOKEN_SEP_TEXT, TOKEN_PAD_TEXT};
enum { SPECIAL_COUNT = 3 };

static void add_token_text(Text *out, const unsigned char *bytes, size_t length) {
  for (size_t i = 0; i < length; i++) {
    char code[4];
    uint32_t c = bpe_byte_char(bytes[i]);
    if (c == '"' || c == '\\') text_add(out, "\\", 1);
    text_add(out, code, (size_t)utf8_put(c, code));
  }
}

Text tokenizer_format(Arena *arena, const BpePair *pair, int count) {
  Text out = {.arena = arena};
  text_print(
      &out,
      "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": [");
  for (int i = 0; i < SPECIAL_COUNT; i++)
    text_print(&out,
               "%s\n    {\"id\": %d, \"content\": \"%s\", \"single_word\": false, \"lstrip\": false, "
               "\"rstrip\": false, "
               "\"normalized\": false, \"special\": true}",
               i ? "," : "", i, special_texts[i]);
  text_print(
      &out,
      "\n  ],\n  \"normalizer\": null,\n  \"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": "
      "false, "
      "\"trim_offsets\": true, \"use_regex\": true},\n  \"post_processor\": null,\n  \"decoder\": {\"type\": "
      "\"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": true},\n");
  text_print(&out,
             "  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": null,\n    "
             "\"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n    \"fuse_unk\": "
             "false,\n    "
             "\"byte_fallback\": false,\n    \"ignore_merges\": false,\n    \"vocab\": {");
  /* Ids: specials, bytes, then each merge whose bytes are new. text[id] is kept to spell the merges. */
  int first = SPECIAL_COUNT + 256, next = first;
  Text *text = NEW(arena, Text, first + count);
  unsigned char order[256];
  bpe_byte_order(order);
  for (int i = 0; i < SPECIAL_COUNT; i++)
    text_print(&out, "%s\n      \"%s\": %d", i ? "," : "", special_texts[i], i);
  for (int i = 0; i < 256; i++) {
    text[SPECIAL_COUNT + i].arena = arena;
    add_token_text(&text[SPECIAL_COUNT + i], &order[i], 1);
    text_print(&out, ",\n      \"%s\": %d", text[SPECIAL_COUNT + i].data, SPECIAL_COUNT + i);
  }
  Text merges = {.arena = arena};
  for (int i = 0; i < count; i++) {
    const Text *left = &text[pair[i].left], *right = &text[pair[i].right];
    text_print(&merges, "%s\n      \"%s %s\"", i ? "," : "", left->data, right->data);
    if (pair[i].repeats) continue;
    text[next].arena = arena;
    text_print(&text[next], "%s%s", left->data, right->data);
    text_print(&out, ",\n      \"%s\": %d", text[next].data, next);
    next++;
  }
  text_print(&out, "\n    },\n    \"merges\": [");
  if (merges.length) text_add(&out, merges.data, merges.length);
  text_print(&out, "\n    ]\n  }\n}\n");
  return out;
}

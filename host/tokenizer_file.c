/* tokenizer.json as the tokenizers library writes and reads it: our own, and those of byte-level models
 * such as GPT-2, Llama 3 and Qwen (their NFC normalizer is not applied: text is taken as it is). */
#include <cjson/cJSON.h>
#include <string.h>

#include "base/hash.h"
#include "bpe.h"

enum { MAX_ID = 1 << 22 };

static const char *const special_texts[] = {TOKEN_EOS_TEXT, TOKEN_SEP_TEXT, TOKEN_PAD_TEXT};
enum { SPECIAL_COUNT = 3 };

enum { BY_ADDED = 1, BY_VOCAB };

/* What is needed while a file is read. */
typedef struct Reading {
  Arena *arena;
  const char *path;
  Tokenizer *t;
  Text bytes;       /* of all tokens */
  int32_t *by_text; /* [mask + 1] ids by hash of bytes, -1: empty; without added tokens */
  uint32_t mask;
  int16_t byte_of[512]; /* of a stand-in character: byte + 1, 0: none */
  unsigned char *used;  /* [vocab_size] 0, BY_ADDED or BY_VOCAB */
} Reading;

/* ---- writing ---- */

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

/* ---- reading ---- */

/* Bytes of a token's stand-in spelling; false if a character stands for no byte. */
static bool spell_bytes(const Reading *r, const char *text, size_t length, unsigned char *out,
                        size_t *out_length) {
  size_t count = 0;
  for (size_t at = 0; at < length;) {
    uint32_t code = utf8_next(text, length, &at);
    if (code >= 512 || !r->byte_of[code]) return false;
    out[count++] = (unsigned char)(r->byte_of[code] - 1);
  }
  *out_length = count;
  return true;
}

static int32_t *text_slot(Reading *r, const void *bytes, size_t length) {
  uint32_t i = (uint32_t)hash64(bytes, length) & r->mask;
  for (; r->by_text[i] >= 0; i = (i + 1) & r->mask) {
    const BpeToken *token = &r->t->token[r->by_text[i]];
    if (token->length == length && memcmp(r->bytes.data + token->offset, bytes, length) == 0) break;
  }
  return &r->by_text[i];
}

static void set_token(Reading *r, int32_t id, const void *bytes, size_t length) {
  r->t->token[id] = (BpeToken){(uint32_t)r->bytes.length, (uint32_t)length};
  text_add(&r->bytes, bytes, length);
}

static Status read_id(const Reading *r, const cJSON *item, const char *what, int32_t *id) {
  if (!cJSON_IsNumber(item) || item->valuedouble < 0 || item->valuedouble >= MAX_ID ||
      item->valuedouble != (double)item->valueint)
    return fail(INVALID,
                "%s: the id of \"%s\" is not a whole number from 0 to %d; use a file written by tokenizers",
                r->path, what, MAX_ID - 1);
  *id = item->valueint;
  return OK;
}

static Status read_added(Reading *r, const cJSON *added) {
  const cJSON *item;
  cJSON_ArrayForEach(item, added) {
    const char *content = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(item, "content"));
    if (!content)
      return fail(INVALID, "%s: an added token has no \"content\"; use a file written by tokenizers",
                  r->path);
    int32_t id = -1;
    TRY(read_id(r, cJSON_GetObjectItemCaseSensitive(item, "id"), content, &id));
    bool special = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(item, "special"));
    if (r->used[id])
      return fail(INVALID, "%s: id %d is given twice, once to \"%.40s\"; use a file written by tokenizers",
                  r->path, id, content);
    r->used[id] = BY_ADDED;
    set_token(r, id, content, special ? 0 : strlen(content));
  }
  return OK;
}

static Status read_vocab(Reading *r, const cJSON *vocab) {
  unsigned char *bytes = NULL;
  size_t room = 0;
  const cJSON *item;
  cJSON_ArrayForEach(item, vocab) {
    size_t length = strlen(item->string);
    int32_t id = -1;
    TRY(read_id(r, item, item->string, &id));
    if (length > room) bytes = NEW(r->arena, unsigned char, room = 2 * length);
    if (r->used[id] == BY_ADDED)
      continue; /* added tokens stand in the vocabulary too; their spelling is text */
    if (length == 0 || !spell_bytes(r, item->string, length, bytes, &length))
      return fail(
          INVALID,
          "%s: the token \"%.40s\" is not in the byte-level alphabet; give a byte-level BPE tokenizer",
          r->path, item->string);
    if (r->used[id])
      return fail(INVALID, "%s: id %d is given twice, once to \"%.40s\"; use a file written by tokenizers",
                  r->path, id, item->string);
    int32_t *slot = text_slot(r, bytes, length);
    if (*slot >= 0)
      return fail(INVALID, "%s: ids %d and %d have the same bytes; use a file written by tokenizers", r->path,
                  *slot, id);
    r->used[id] = BY_VOCAB;
    set_token(r, id, bytes, length);
    *slot = id;
  }
  for (int b = 0; b < 256; b++) {
    unsigned char byte = (unsigned char)b;
    r->t->byte_id[b] = *text_slot(r, &byte, 1);
    if (r->t->byte_id[b] < 0)
      return fail(INVALID, "%s: byte 0x%02X has no token; give a byte-level BPE tokenizer", r->path,
                  (unsigned)b);
  }
  return OK;
}

/* The two spellings of a merge: "a b" or ["a", "b"]. */
static bool merge_sides(const cJSON *item, const char *side[2], size_t length[2]) {
  if (cJSON_IsString(item)) {
    const char *space = strchr(item->valuestring, ' ');
    if (!space) return false;
    side[0] = item->valuestring;
    length[0] = (size_t)(space - item->valuestring);
    side[1] = space + 1;
    length[1] = strlen(side[1]);
    return true;
  }
  if (!cJSON_IsArray(item) || cJSON_GetArraySize(item) != 2) return false;
  for (int i = 0; i < 2; i++) {
    side[i] = cJSON_GetStringValue(i ? item->child->next : item->child);
    if (!side[i]) return false;
    length[i] = strlen(side[i]);
  }
  return true;
}

static Status read_merges(Reading *r, const cJSON *merges) {
  Tokenizer *t = r->t;
  uint32_t size = 16, rank = 0;
  while (size < 3 * (uint32_t)cJSON_GetArraySize(merges)) size *= 2;
  t->merge = NEW(r->arena, BpeMerge, size);
  t->merge_mask = size - 1;
  for (uint32_t i = 0; i < size; i++) t->merge[i].rank = UINT32_MAX;
  unsigned char *bytes = NULL;
  size_t room = 0;
  const cJSON *item;
  cJSON_ArrayForEach(item, merges) {
    const char *side[2];
    size_t length[2] = {0, 0};
    int32_t id[3] = {-1, -1, -1}; /* left, right, both */
    bool good = merge_sides(item, side, length);
    if (length[0] + length[1] > room)
      bytes = NEW(r->arena, unsigned char, room = 2 * (length[0] + length[1]));
    size_t first = 0, second = 0;
    good = good && length[0] && length[1] && spell_bytes(r, side[0], length[0], bytes, &first) &&
           spell_bytes(r, side[1], length[1], bytes + first, &second);
    if (good) {
      id[0] = *text_slot(r, bytes, first);
      id[1] = *text_slot(r, bytes + first, second);
      id[2] = *text_slot(r, bytes, first + second);
    }
    if (id[0] < 0 || id[1] < 0 || id[2] < 0)
      return fail(
          INVALID,
          "%s: merge %u does not join two tokens of the vocabulary to a third; the file is damaged, use "
          "one written by tokenizers",
          r->path, rank);
    uint32_t i = bpe_pair_hash(id[0], id[1]) & t->merge_mask;
    while (t->merge[i].rank != UINT32_MAX && (t->merge[i].left != id[0] || t->merge[i].right != id[1]))
      i = (i + 1) & t->merge_mask;
    t->merge[i] = (BpeMerge){id[0], id[1], rank++, id[2]};
  }
  return OK;
}

static const char *type_of(const cJSON *object) {
  const char *type = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, "type"));
  return type ? type : "none";
}

/* ByteLevel, or a Split by a pattern and then ByteLevel. */
static Status read_pieces(Reading *r, const cJSON *pre) {
  const char *pattern = bpe_default_pattern;
  const cJSON *level = pre;
  if (strcmp(type_of(pre), "Sequence") == 0) {
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(pre, "pretokenizers");
    const cJSON *split = cJSON_GetArrayItem(list, 0);
    level = cJSON_GetArrayItem(list, 1);
    const cJSON *by = cJSON_GetObjectItemCaseSensitive(split, "pattern");
    pattern = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(by, "Regex"));
    const char *behavior = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(split, "behavior"));
    if (strcmp(type_of(split), "Split") != 0 || !pattern || !behavior || strcmp(behavior, "Isolated") != 0 ||
        cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(split, "invert")) || cJSON_GetArraySize(list) != 2 ||
        cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(level, "use_regex")))
      return fail(
          INVALID,
          "%s: this sequence of pre-tokenizers is not known; give Split (Regex, Isolated) and ByteLevel",
          r->path);
  }
  if (strcmp(type_of(level), "ByteLevel") != 0)
    return fail(INVALID, "%s: pre-tokenizer %s is not known; give a byte-level BPE tokenizer", r->path,
                type_of(level));
  if (cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(level, "add_prefix_space")))
    return fail(INVALID, "%s: add_prefix_space is true, which changes the text; set it to false", r->path);
  if (level == pre && cJSON_IsFalse(cJSON_GetObjectItemCaseSensitive(level, "use_regex")))
    pattern = "[\\s\\S]+";
  Status status = pieces_new(r->arena, pattern, &r->t->pieces);
  return status == OK ? OK : fail(status, "%s: %s", r->path, error_message());
}

/* The first of names that is an added token, or -1. */
static int32_t find_added(const cJSON *added, const char *const *names) {
  for (; *names; names++) {
    const cJSON *item;
    cJSON_ArrayForEach(item, added) {
      const char *content = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(item, "content"));
      if (content && strcmp(content, *names) == 0)
        return cJSON_GetObjectItemCaseSensitive(item, "id")->valueint;
    }
  }
  return -1;
}

static Status read_specials(Reading *r, const cJSON *added) {
  static const char *const ends[] = {TOKEN_EOS_TEXT, "<|endoftext|>", "<|end_of_text|>",
                                     "<|im_end|>",   "</s>",          NULL};
  static const char *const separators[] = {TOKEN_SEP_TEXT,        "[SEP]", "<|sep|>", "<|im_start|>",
                                           "<|start_header_id|>", NULL};
  Tokenizer *t = r->t;
  t->eos = find_added(added, ends);
  if (t->eos < 0)
    return fail(INVALID, "%s: no end token among added_tokens; add one called %s", r->path, TOKEN_EOS_TEXT);
  t->sep = find_added(added, separators);
  if (t->sep < 0)
    t->sep = t->byte_id['\n']; /* GPT-2 has one special token only; a line's end must not be it */
  return OK;
}

static Status find_vocab_size(Reading *r, const cJSON *list, bool added) {
  const cJSON *item;
  cJSON_ArrayForEach(item, list) {
    int32_t id = -1;
    TRY(read_id(r, added ? cJSON_GetObjectItemCaseSensitive(item, "id") : item,
                added ? "an added token" : item->string, &id));
    if (id >= r->t->vocab_size) r->t->vocab_size = id + 1;
  }
  return OK;
}

static Status read_root(Reading *r, const cJSON *root) {
  const cJSON *model = cJSON_GetObjectItemCaseSensitive(root, "model");
  const cJSON *vocab = cJSON_GetObjectItemCaseSensitive(model, "vocab");
  const cJSON *merges = cJSON_GetObjectItemCaseSensitive(model, "merges");
  const cJSON *added = cJSON_GetObjectItemCaseSensitive(root, "added_tokens");
  if (!cJSON_IsObject(vocab) || !cJSON_IsArray(merges) || !cJSON_IsArray(added))
    return fail(
        INVALID,
        "%s: no \"model\" with \"vocab\" and \"merges\", or no \"added_tokens\"; give the tokenizer.json "
        "of a byte-level BPE tokenizer",
        r->path);
  static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
  for (int i = 0; i < 2; i++) {
    const char *affix = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(model, affixes[i]));
    if (affix && *affix)
      return fail(INVALID, "%s: \"%s\" is not known to byte-level BPE; give a byte-level BPE tokenizer",
                  r->path, affixes[i]);
  }
  TRY(find_vocab_size(r, vocab, false));
  TRY(find_vocab_size(r, added, true));
  Tokenizer *t = r->t;
  t->token = NEW(r->arena, BpeToken, t->vocab_size);
  r->used = NEW(r->arena, unsigned char, t->vocab_size);
  uint32_t size = 1024;
  while (size < 2 * (uint32_t)cJSON_GetArraySize(vocab)) size *= 2;
  r->mask = size - 1;
  r->by_text = NEW(r->arena, int32_t, size);
  memset(r->by_text, -1, size * sizeof *r->by_text);
  TRY(read_added(r, added));
  TRY(read_vocab(r, vocab));
  TRY(read_merges(r, merges));
  TRY(read_pieces(r, cJSON_GetObjectItemCaseSensitive(root, "pre_tokenizer")));
  TRY(read_specials(r, added));
  t->bytes = r->bytes.data;
  bpe_index_whole_tokens(r->arena, t, cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(model, "ignore_merges")));
  return OK;
}

Status tokenizer_parse(Arena *arena, const char *path, const char *text, size_t length, Tokenizer **out) {
  const char *end = text;
  cJSON *root = cJSON_ParseWithLengthOpts(text, length, &end, false);
  if (!cJSON_IsObject(root)) {
    int line = 1, column = 1;
    for (const char *p = text; p < end; p++) {
      column = *p == '\n' ? 1 : column + 1;
      line += *p == '\n';
    }
    cJSON_Delete(root);
    return fail(INVALID, "%s:%d:%d: not a JSON object; give the tokenizer.json of a byte-level BPE tokenizer",
                path, line, column);
  }
  Tokenizer *t = NEW(arena, Tokenizer, 1);
  t->json = text;
  t->json_length = length;
  Reading reading = {.arena = arena, .path = path, .t = t, .bytes = {.arena = arena}};
  for (unsigned b = 0; b < 256; b++) reading.byte_of[bpe_byte_char(b)] = (int16_t)(b + 1);
  Status status = read_root(&reading, root);
  cJSON_Delete(root);
  if (status == OK) *out = t;
  return status;
}

/* Reads tokenizer.json as the tokenizers library writes it: the models BPE and WordPiece, and what belongs to
 * them. */
#include <stdio.h>
#include <string.h>

#include "tokenizer_parts.h"
#include "unicode.h"

enum { MAX_ID = 1 << 22, MAX_GAP = 1 << 16, MAX_SPELLING = 1 << 16 };

/* What is needed while a file is read. */
typedef struct Reading {
  Arena *arena;
  const char *path;
  Tokenizer *t;
  Text bytes;           /* of all tokens */
  int16_t byte_of[512]; /* of a stand-in character: byte + 1, 0: none */
  unsigned char *used;  /* [vocab_size] an id of the vocabulary */
  AddedToken *added;    /* [added_count] */
  int added_count;
} Reading;

static const cJSON *item(const cJSON *section, const char *name) {
  return cJSON_GetObjectItemCaseSensitive(section, name);
}

/* The bytes of a token that is spelled in stand-ins; false if a character stands for no byte. */
static bool spell_bytes(const Reading *r, const char *text, size_t length, char *out, size_t *out_length) {
  size_t count = 0;
  for (size_t at = 0; at < length;) {
    uint32_t code = utf8_next(text, length, &at);
    if (code >= 512 || !r->byte_of[code]) return false;
    out[count++] = (char)(r->byte_of[code] - 1);
  }
  *out_length = count;
  return true;
}

/* A token as the model knows it: bytes, or the spelling itself. */
static bool spell(const Reading *r, const char *text, size_t length, char *out, size_t *out_length) {
  if (r->t->byte_level) return spell_bytes(r, text, length, out, out_length);
  memcpy(out, text, length);
  *out_length = length;
  return true;
}

static int32_t *free_slot(Tokenizer *t, const char *bytes, size_t length) {
  uint32_t i = piece_hash(bytes, length) & t->by_bytes_mask;
  while (t->by_bytes[i] >= 0) i = (i + 1) & t->by_bytes_mask;
  return &t->by_bytes[i];
}

static BpeToken keep_bytes(Reading *r, const char *bytes, size_t length) {
  BpeToken token = {(uint32_t)r->bytes.length, (uint32_t)length};
  text_add(&r->bytes, bytes, length);
  r->t->bytes = r->bytes.data; /* may have moved */
  return token;
}

static Status read_id(const Reading *r, const cJSON *number, const char *what, int32_t *id) {
  if (!cJSON_IsNumber(number) || number->valuedouble < 0 || number->valuedouble >= MAX_ID ||
      number->valuedouble != (double)number->valueint)
    return fail(
        INVALID,
        "%s: the id of \"%.40s\" is not a whole number from 0 to %d; use a file written by tokenizers",
        r->path, what, MAX_ID - 1);
  *id = number->valueint;
  return OK;
}

static Status find_vocab_size(Reading *r, const cJSON *list, bool added) {
  const cJSON *one;
  cJSON_ArrayForEach(one, list) {
    int32_t id = -1;
    TRY(read_id(r, added ? item(one, "id") : one, added ? "an added token" : one->string, &id));
    if (id >= r->t->vocab_size) r->t->vocab_size = id + 1;
  }
  return OK;
}

/* ---- vocabulary ---- */

/* True when an added token is spelled like this; in byte-level vocabularies it may use other characters. */
static bool is_added(const Reading *r, const char *text, int32_t id) {
  for (int i = 0; i < r->added_count; i++)
    if (r->added[i].id == id) return strcmp(r->added[i].text, text) == 0;
  return false;
}

static Status read_token(Reading *r, const cJSON *one, char *bytes) {
  Tokenizer *t = r->t;
  size_t length = strlen(one->string);
  int32_t id = -1;
  TRY(read_id(r, one, one->string, &id));
  if (length > MAX_SPELLING)
    return fail(INVALID, "%s: the token of id %d is longer than %d bytes; use a file written by tokenizers",
                r->path, id, MAX_SPELLING);
  if (r->used[id])
    return fail(INVALID, "%s: id %d is given twice, once to \"%.40s\"; use a file written by tokenizers",
                r->path, id, one->string);
  bool spelled = length > 0 && spell(r, one->string, length, bytes, &length);
  if (!spelled && is_added(r, one->string, id)) return OK;
  if (!spelled)
    return fail(INVALID,
                "%s: the token \"%.40s\" is not in the byte-level alphabet; give a byte-level BPE tokenizer",
                r->path, one->string);
  int32_t same = find_token(t, bytes, length);
  if (same >= 0)
    return fail(INVALID, "%s: ids %d and %d have the same bytes; use a file written by tokenizers", r->path,
                same, id);
  r->used[id] = 1;
  t->token[id] = keep_bytes(r, bytes, length);
  if (length > t->longest) t->longest = (uint32_t)length;
  *free_slot(t, bytes, length) = id;
  return OK;
}

static Status read_vocab(Reading *r, const cJSON *vocab) {
  Tokenizer *t = r->t;
  t->token = NEW(r->arena, BpeToken, t->vocab_size);
  t->shown = NEW(r->arena, BpeToken, t->vocab_size);
  r->used = NEW(r->arena, unsigned char, t->vocab_size);
  uint32_t size = 1024;
  while (size < 2 * (uint32_t)cJSON_GetArraySize(vocab)) size *= 2;
  t->by_bytes_mask = size - 1;
  t->by_bytes = NEW(r->arena, int32_t, size);
  memset(t->by_bytes, -1, size * sizeof *t->by_bytes);
  keep_bytes(r, "", 0);
  char *bytes = NEW(r->arena, char, MAX_SPELLING);
  const cJSON *one;
  cJSON_ArrayForEach(one, vocab) TRY(read_token(r, one, bytes));
  return OK;
}

static int32_t find_spelled(const Reading *r, const char *text) {
  char bytes[64];
  size_t length = strlen(text);
  if (length > sizeof bytes || !spell(r, text, length, bytes, &length)) return -1;
  return find_token(r->t, bytes, length);
}

/* ---- added tokens ---- */

/* Before the vocabulary is read, as that may spell them in characters of its own. */
static Status list_added(Reading *r, const cJSON *list) {
  r->added = NEW(r->arena, AddedToken, cJSON_GetArraySize(list) + 1);
  const cJSON *one;
  cJSON_ArrayForEach(one, list) {
    const char *content = cJSON_GetStringValue(item(one, "content"));
    if (!content || !*content || strlen(content) > MAX_SPELLING)
      return fail(INVALID, "%s: an added token has no \"content\"; use a file written by tokenizers",
                  r->path);
    AddedToken *token = &r->added[r->added_count++];
    *token = (AddedToken){.text = arena_strdup(r->arena, content),
                          .length = (uint32_t)strlen(content),
                          .special = cJSON_IsTrue(item(one, "special")),
                          .lstrip = cJSON_IsTrue(item(one, "lstrip")),
                          .rstrip = cJSON_IsTrue(item(one, "rstrip")),
                          .single_word = cJSON_IsTrue(item(one, "single_word")),
                          .normalized = cJSON_IsTrue(item(one, "normalized"))};
    TRY(read_id(r, item(one, "id"), content, &token->id));
  }
  return OK;
}

/* SentencePiece's spelling as text: spaces for METASPACE, a byte for <0x41>. */
static BpeToken show_characters(Reading *r, BpeToken token) {
  char byte[8] = "";
  const char *spelled = r->t->bytes + token.offset;
  if (r->t->byte_fallback && token.length == 6) {
    for (int b = 0; b < 256; b++) {
      snprintf(byte, sizeof byte, "<0x%02X>", (unsigned)b);
      if (memcmp(byte, spelled, 6) == 0) return keep_bytes(r, &(char){(char)b}, 1);
    }
  }
  Text text = {.arena = r->arena};
  for (size_t at = 0; at < token.length;) {
    bool space = token.length - at >= 3 && memcmp(spelled + at, METASPACE, 3) == 0;
    text_add(&text, space ? " " : spelled + at, 1);
    at += space ? 3 : 1;
  }
  return keep_bytes(r, text.data, text.length);
}

/* What each token is when it is decoded, and the two sets that are looked for. */
static Status place_added(Reading *r) {
  Tokenizer *t = r->t;
  AddedToken *set[2] = {NEW(r->arena, AddedToken, r->added_count + 1),
                        NEW(r->arena, AddedToken, r->added_count + 1)};
  int count[2] = {0, 0};
  unsigned char *seen = NEW(r->arena, unsigned char, t->vocab_size);
  for (int i = 0; i < r->added_count; i++) {
    AddedToken token = r->added[i];
    int32_t known = find_spelled(r, token.text);
    if ((known >= 0 && known != token.id) || (known < 0 && r->used[token.id]) || seen[token.id])
      return fail(INVALID, "%s: id %d is given twice, once to \"%.40s\"; use a file written by tokenizers",
                  r->path, token.id, token.text);
    seen[token.id] = 1;
    t->shown[token.id] = (BpeToken){0, 0};
    Text normal = {.arena = r->arena};
    if (token.normalized && normalize(t->normalizer, token.text, token.length, &normal)) {
      if (normal.length == 0) continue; /* nothing is left to look for */
      token.text = normal.data;
      token.length = (uint32_t)normal.length;
    }
    set[token.normalized][count[token.normalized]++] = token;
    if (token.special) continue;
    t->shown[token.id] = keep_bytes(r, token.text, token.length);
    if (t->kind == MODEL_BPE && !t->byte_level) t->shown[token.id] = show_characters(r, t->shown[token.id]);
  }
  for (int i = 0; i < 2; i++) t->added[i] = added_set(r->arena, set[i], count[i]);
  return OK;
}

static void show_vocab(Reading *r) {
  Tokenizer *t = r->t;
  for (int32_t id = 0; id < t->vocab_size; id++) {
    if (t->token[id].length == 0) continue;
    bool as_it_is = t->byte_level || t->kind == MODEL_WORDPIECE;
    t->shown[id] = as_it_is ? t->token[id] : show_characters(r, t->token[id]);
  }
}

/* ---- merges ---- */

/* The two spellings of a merge: "a b" or ["a", "b"]. */
static bool merge_sides(const cJSON *one, const char *side[2], size_t length[2]) {
  if (cJSON_IsString(one)) {
    const char *space = strchr(one->valuestring, ' ');
    if (!space) return false;
    side[0] = one->valuestring;
    length[0] = (size_t)(space - one->valuestring);
    side[1] = space + 1;
    length[1] = strlen(side[1]);
    return true;
  }
  if (!cJSON_IsArray(one) || cJSON_GetArraySize(one) != 2) return false;
  for (int i = 0; i < 2; i++) {
    side[i] = cJSON_GetStringValue(i ? one->child->next : one->child);
    if (!side[i]) return false;
    length[i] = strlen(side[i]);
  }
  return true;
}

static bool read_merge(const Reading *r, const cJSON *one, char *bytes, int32_t id[3]) {
  const char *side[2];
  size_t length[2] = {0, 0}, first = 0, second = 0;
  if (!merge_sides(one, side, length) || !length[0] || !length[1] || length[0] + length[1] > MAX_SPELLING)
    return false;
  if (!spell(r, side[0], length[0], bytes, &first) || !spell(r, side[1], length[1], bytes + first, &second))
    return false;
  id[0] = find_token(r->t, bytes, first);
  id[1] = find_token(r->t, bytes + first, second);
  id[2] = find_token(r->t, bytes, first + second);
  return id[0] >= 0 && id[1] >= 0 && id[2] >= 0;
}

static Status read_merges(Reading *r, const cJSON *merges) {
  Tokenizer *t = r->t;
  uint32_t size = 16, rank = 0;
  while (size < 3 * (uint32_t)cJSON_GetArraySize(merges)) size *= 2;
  t->merge = NEW(r->arena, BpeMerge, size);
  t->merge_mask = size - 1;
  for (uint32_t i = 0; i < size; i++) t->merge[i].rank = UINT32_MAX;
  t->filter_mask = 4 * size - 1;
  t->merge_filter = NEW(r->arena, uint64_t, 4 * size / 64);
  char *bytes = NEW(r->arena, char, MAX_SPELLING);
  const cJSON *one;
  cJSON_ArrayForEach(one, merges) {
    int32_t id[3];
    if (!read_merge(r, one, bytes, id))
      return fail(
          INVALID,
          "%s: merge %u does not join two tokens of the vocabulary to a third; the file is damaged, use one "
          "written by tokenizers",
          r->path, rank);
    uint32_t hash = bpe_pair_hash(id[0], id[1]), bit = hash & t->filter_mask, i = hash & t->merge_mask;
    t->merge_filter[bit / 64] |= (uint64_t)1 << (bit % 64);
    while (t->merge[i].rank != UINT32_MAX && (t->merge[i].left != id[0] || t->merge[i].right != id[1]))
      i = (i + 1) & t->merge_mask;
    t->merge[i] = (BpeMerge){id[0], id[1], rank++, id[2]};
  }
  return OK;
}

/* ---- models ---- */

static Status read_unknown(Reading *r, const cJSON *model) {
  const char *name = cJSON_GetStringValue(item(model, "unk_token"));
  r->t->unknown = name && *name ? find_spelled(r, name) : -1;
  if (name && *name && r->t->unknown < 0)
    return fail(INVALID,
                "%s: the vocabulary has no \"%.40s\", its unk_token; use a file written by tokenizers",
                r->path, name);
  return OK;
}

static Status read_bpe(Reading *r, const cJSON *model) {
  Tokenizer *t = r->t;
  static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
  for (int i = 0; i < 2; i++) {
    const char *affix = cJSON_GetStringValue(item(model, affixes[i]));
    if (affix && *affix)
      return fail(INVALID, "%s: \"%s\" is not known to byte-level BPE; give a byte-level BPE tokenizer",
                  r->path, affixes[i]);
  }
  const cJSON *dropout = item(model, "dropout");
  if (cJSON_IsNumber(dropout) && dropout->valuedouble != 0)
    return fail(INVALID, "%s: dropout %g makes ids random; set it to null", r->path, dropout->valuedouble);
  t->fuse_unknown = cJSON_IsTrue(item(model, "fuse_unk"));
  t->ignore_merges = cJSON_IsTrue(item(model, "ignore_merges"));
  t->byte_fallback = !t->byte_level && cJSON_IsTrue(item(model, "byte_fallback"));
  TRY(read_unknown(r, model));
  int bytes = 0;
  for (int b = 0; b < 256; b++) {
    char byte[8] = {(char)b};
    if (!t->byte_level) snprintf(byte, sizeof byte, "<0x%02X>", (unsigned)b);
    t->byte_id[b] = t->byte_level || t->byte_fallback ? find_token(t, byte, t->byte_level ? 1 : 6) : -1;
    bytes += t->byte_id[b] >= 0;
  }
  if (t->byte_level && bytes == 0)
    return fail(INVALID, "%s: no byte has a token; give a byte-level BPE tokenizer", r->path);
  return read_merges(r, item(model, "merges"));
}

static Status read_wordpiece(Reading *r, const cJSON *model) {
  Tokenizer *t = r->t;
  const char *mark = cJSON_GetStringValue(item(model, "continuing_subword_prefix"));
  const cJSON *most = item(model, "max_input_chars_per_word");
  t->continuing = arena_strdup(r->arena, mark ? mark : "##");
  t->max_word = cJSON_IsNumber(most) ? most->valueint : 100;
  if (strlen(t->continuing) > 16 || t->max_word < 1)
    return fail(INVALID,
                "%s: WordPiece's continuing_subword_prefix or max_input_chars_per_word is out of range; use "
                "a file written by tokenizers",
                r->path);
  TRY(read_unknown(r, model));
  if (t->unknown < 0)
    return fail(INVALID, "%s: WordPiece has no unk_token; use a file written by tokenizers", r->path);
  return OK;
}

/* Tables are as long as the highest id, so that must have to do with how many tokens there are. */
static Status check_vocab_size(const Reading *r, const cJSON *vocab) {
  int listed = cJSON_GetArraySize(vocab) + r->added_count;
  if (r->t->vocab_size <= 2 * listed + MAX_GAP) return OK;
  return fail(INVALID, "%s: the highest id is %d, but there are %d tokens; use a file written by tokenizers",
              r->path, r->t->vocab_size - 1, listed);
}

static Status read_model(Reading *r, const cJSON *model) {
  const char *type = json_type(model);
  Tokenizer *t = r->t;
  /* Files from before 2021 do not name the model. */
  bool bpe = strcmp(type, "BPE") == 0 || (strcmp(type, "none") == 0 && cJSON_IsArray(item(model, "merges")));
  if (!bpe && strcmp(type, "WordPiece") != 0)
    return fail(INVALID, "%s: the model %s is not known; give a tokenizer.json of BPE or WordPiece", r->path,
                type);
  if (!cJSON_IsObject(item(model, "vocab")) || (bpe && !cJSON_IsArray(item(model, "merges"))))
    return fail(INVALID,
                "%s: no \"model\" with \"vocab\"%s; give the tokenizer.json of a BPE or WordPiece tokenizer",
                r->path, bpe ? " and \"merges\"" : "");
  t->kind = bpe ? MODEL_BPE : MODEL_WORDPIECE;
  if (t->byte_level && !bpe)
    return fail(INVALID, "%s: WordPiece after ByteLevel is not known; give a BERT tokenizer", r->path);
  TRY(find_vocab_size(r, item(model, "vocab"), false));
  TRY(check_vocab_size(r, item(model, "vocab")));
  TRY(read_vocab(r, item(model, "vocab")));
  return bpe ? read_bpe(r, model) : read_wordpiece(r, model);
}

/* ---- the tokens that PopALM itself writes ---- */

/* The first of names that is a token, or -1. */
static int32_t find_named(const Reading *r, const char *const *names) {
  for (; *names; names++)
    for (int i = 0; i < r->added_count; i++)
      if (strcmp(r->added[i].text, *names) == 0) return r->added[i].id;
  return -1;
}

static Status read_specials(Reading *r) {
  static const char *const ends[] = {
      TOKEN_EOS_TEXT, "<|endoftext|>",         "<|end_of_text|>", "<|im_end|>", "<|eot_id|>",
      "</s>",         "<｜end▁of▁sentence｜>", "[SEP]",           NULL};
  static const char *const separators[] = {TOKEN_SEP_TEXT,        "[SEP]", "<|sep|>", "<|im_start|>",
                                           "<|start_header_id|>", NULL};
  Tokenizer *t = r->t;
  t->eos = find_named(r, ends);
  if (t->eos < 0)
    return fail(INVALID, "%s: no end token among added_tokens; add one called %s", r->path, TOKEN_EOS_TEXT);
  t->sep = find_named(r, separators);
  /* GPT-2 has one special token only; a line's end must not be it. */
  if (t->sep < 0) t->sep = t->kind == MODEL_BPE && t->byte_id['\n'] >= 0 ? t->byte_id['\n'] : t->eos;
  return OK;
}

static Status read_root(Reading *r, const cJSON *root) {
  const cJSON *model = item(root, "model"), *added = item(root, "added_tokens");
  Tokenizer *t = r->t;
  if (!cJSON_IsObject(model) || !cJSON_IsArray(added))
    return fail(
        INVALID,
        "%s: no \"model\" with \"vocab\", or no \"added_tokens\"; give the tokenizer.json of a BPE or "
        "WordPiece tokenizer",
        r->path);
  TRY(normalizer_read(r->arena, r->path, item(root, "normalizer"), &t->normalizer));
  TRY(read_pre_tokenizer(r->arena, r->path, item(root, "pre_tokenizer"), t));
  TRY(find_vocab_size(r, added, true));
  TRY(list_added(r, added));
  TRY(read_model(r, model));
  show_vocab(r);
  TRY(place_added(r));
  TRY(read_decoder(r->path, item(root, "decoder"), t));
  TRY(read_post_processor(r->arena, r->path, item(root, "post_processor"), t));
  TRY(read_specials(r));
  if (t->kind == MODEL_BPE) bpe_index(r->arena, t, cJSON_GetArraySize(item(model, "merges")));
  t->cache = piece_caches_new(r->arena, PIECE_CACHES);
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
    return fail(INVALID,
                "%s:%d:%d: not a JSON object; give the tokenizer.json of a BPE or WordPiece tokenizer", path,
                line, column);
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

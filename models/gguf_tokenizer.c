/* Byte-level BPE tokenizers between GGUF's keys and tokenizer.json. GGUF names the cut into pieces ("qwen2")
 * where tokenizer.json spells it out. */
#include <string.h>

#include "models/import.h"

#define LETTERS_AND_NUMBERS(number)                                    \
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" number \
  "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/* How a text is cut into pieces before BPE. */
typedef struct Cut {
  const char *name;    /* tokenizer.ggml.pre */
  const char *pattern; /* of a Split before ByteLevel; NULL: ByteLevel's own */
  bool digits;         /* each digit is a piece of its own first */
  bool nfc;
  bool ignore_merges;
} Cut;

static const Cut cuts[] = {
    {.name = "gpt-2"},
    {.name = "smollm", .digits = true},
    {.name = "qwen2", .pattern = LETTERS_AND_NUMBERS("\\p{N}"), .nfc = true},
    {.name = "llama-bpe", .pattern = LETTERS_AND_NUMBERS("\\p{N}{1,3}"), .ignore_merges = true},
};
enum { CUTS = sizeof cuts / sizeof *cuts };

typedef enum TokenKind { KIND_NORMAL = 1, KIND_CONTROL = 3, KIND_USER = 4, KIND_UNUSED = 5 } TokenKind;

/* ---- to tokenizer.json ---- */

static cJSON *byte_level(bool use_regex) {
  cJSON *object = cJSON_CreateObject();
  cJSON_AddStringToObject(object, "type", "ByteLevel");
  cJSON_AddBoolToObject(object, "add_prefix_space", false);
  cJSON_AddBoolToObject(object, "trim_offsets", true);
  cJSON_AddBoolToObject(object, "use_regex", use_regex);
  return object;
}

static cJSON *pre_tokenizer(const Cut *cut) {
  if (!cut->digits && !cut->pattern) return byte_level(true);
  cJSON *sequence = cJSON_CreateObject(), *first = cJSON_CreateObject();
  cJSON_AddStringToObject(sequence, "type", "Sequence");
  cJSON *list = cJSON_AddArrayToObject(sequence, "pretokenizers");
  cJSON_AddStringToObject(first, "type", cut->digits ? "Digits" : "Split");
  if (cut->digits) {
    cJSON_AddBoolToObject(first, "individual_digits", true);
  } else {
    cJSON_AddStringToObject(cJSON_AddObjectToObject(first, "pattern"), "Regex", cut->pattern);
    cJSON_AddStringToObject(first, "behavior", "Isolated");
    cJSON_AddBoolToObject(first, "invert", false);
  }
  cJSON_AddItemToArray(list, first);
  cJSON_AddItemToArray(list, byte_level(cut->digits));
  return sequence;
}

static void add_token(cJSON *added, int id, const char *content, bool special) {
  cJSON *token = cJSON_CreateObject();
  cJSON_AddNumberToObject(token, "id", id);
  cJSON_AddStringToObject(token, "content", content);
  static const char *const flags[] = {"single_word", "lstrip", "rstrip", "normalized"};
  for (int i = 0; i < 4; i++) cJSON_AddBoolToObject(token, flags[i], false);
  cJSON_AddBoolToObject(token, "special", special);
  cJSON_AddItemToArray(added, token);
}

static bool is_array(const GgufValue *value, GgufType element) {
  return value && value->type == GGUF_ARRAY && value->element == element;
}

/* A string of the file as C text; NULL where it has a zero byte or is not UTF-8. */
static const char *as_text(Arena *arena, GgufString string) {
  if (memchr(string.text, 0, string.length) || utf8_invalid_at(string.text, string.length) < string.length)
    return NULL;
  return arena_strndup(arena, string.text, string.length);
}

static Status bad_token(const GgufFile *file, const char *key, uint64_t at) {
  return fail(INVALID, "%s: \"%s\": text %llu is not UTF-8; use another copy of the file", file->path, key,
              (unsigned long long)at);
}

static Status add_vocab(Arena *arena, const GgufFile *file, cJSON *added, cJSON *model) {
  const GgufValue *tokens = gguf_find(file, "tokenizer.ggml.tokens");
  const GgufValue *kinds = gguf_find(file, "tokenizer.ggml.token_type");
  cJSON *vocab = cJSON_AddObjectToObject(model, "vocab");
  const unsigned char *at = tokens->at;
  for (uint64_t i = 0; i < tokens->count; i++) {
    const char *text = as_text(arena, gguf_next_string(&at));
    if (!text) return bad_token(file, tokens->key, i);
    int kind = kinds && i < kinds->count ? (int)gguf_number(kinds, i) : KIND_NORMAL;
    if (kind == KIND_UNUSED) continue; /* rows that pad the vocabulary */
    if (kind == KIND_CONTROL || kind == KIND_USER) add_token(added, (int)i, text, kind == KIND_CONTROL);
    cJSON_AddNumberToObject(vocab, text, (double)i);
  }
  return OK;
}

static Status add_merges(Arena *arena, const GgufFile *file, cJSON *model) {
  const GgufValue *merges = gguf_find(file, "tokenizer.ggml.merges");
  cJSON *list = cJSON_AddArrayToObject(model, "merges");
  const unsigned char *at = merges->at;
  for (uint64_t i = 0; i < merges->count; i++) {
    const char *text = as_text(arena, gguf_next_string(&at));
    if (!text) return bad_token(file, merges->key, i);
    cJSON_AddItemToArray(list, cJSON_CreateString(text));
  }
  return OK;
}

/* The cut that the file names, or NULL and why. */
static const Cut *find_cut(Arena *arena, const GgufFile *file, const char **why) {
  const GgufValue *kind = gguf_find(file, "tokenizer.ggml.model"),
                  *pre = gguf_find(file, "tokenizer.ggml.pre");
  const char *model = kind && kind->type == GGUF_STRING ? as_text(arena, kind->string) : NULL;
  const char *name = pre && pre->type == GGUF_STRING ? as_text(arena, pre->string) : NULL;
  bool complete = is_array(gguf_find(file, "tokenizer.ggml.tokens"), GGUF_STRING) &&
                  is_array(gguf_find(file, "tokenizer.ggml.merges"), GGUF_STRING);
  const GgufValue *kinds = gguf_find(file, "tokenizer.ggml.token_type");
  *why = arena_print(
      arena,
      "its tokenizer is of kind \"%.40s\" (pre-tokenizer \"%.40s\"), not a byte-level BPE that is known",
      model ? model : "none", name ? name : "none");
  if (!model || strcmp(model, "gpt2") != 0 || !name || !complete || (kinds && !is_array(kinds, GGUF_I32)))
    return NULL;
  for (int i = 0; i < CUTS; i++)
    if (strcmp(cuts[i].name, name) == 0) return &cuts[i];
  return NULL;
}

static Status fill(Arena *arena, const GgufFile *file, const Cut *cut, cJSON *root) {
  cJSON_AddStringToObject(root, "version", "1.0");
  cJSON_AddNullToObject(root, "truncation");
  cJSON_AddNullToObject(root, "padding");
  cJSON *added = cJSON_AddArrayToObject(root, "added_tokens");
  if (cut->nfc)
    cJSON_AddStringToObject(cJSON_AddObjectToObject(root, "normalizer"), "type", "NFC");
  else
    cJSON_AddNullToObject(root, "normalizer");
  cJSON_AddItemToObject(root, "pre_tokenizer", pre_tokenizer(cut));
  cJSON_AddNullToObject(root, "post_processor");
  cJSON_AddItemToObject(root, "decoder", byte_level(true));
  cJSON *model = cJSON_AddObjectToObject(root, "model");
  cJSON_AddStringToObject(model, "type", "BPE");
  static const char *const none[] = {"dropout", "unk_token", "continuing_subword_prefix",
                                     "end_of_word_suffix"};
  for (int i = 0; i < 4; i++) cJSON_AddNullToObject(model, none[i]);
  cJSON_AddBoolToObject(model, "fuse_unk", false);
  cJSON_AddBoolToObject(model, "byte_fallback", false);
  cJSON_AddBoolToObject(model, "ignore_merges", cut->ignore_merges);
  TRY(add_vocab(arena, file, added, model));
  return add_merges(arena, file, model);
}

Status import_gguf_tokenizer(Arena *arena, const GgufFile *file, cJSON **out, const char **why) {
  *out = NULL;
  const Cut *cut = find_cut(arena, file, why);
  if (!cut) return OK;
  cJSON *root = cJSON_CreateObject();
  Status status = fill(arena, file, cut, root);
  if (status == OK)
    *out = root;
  else
    cJSON_Delete(root);
  return status;
}

/* The text of the added token that a key gives the id of, or NULL. */
static const char *named_token(Arena *arena, const GgufFile *file, const char *key) {
  const GgufValue *id = gguf_find(file, key), *tokens = gguf_find(file, "tokenizer.ggml.tokens");
  if (!id || id->type != GGUF_U32 || !is_array(tokens, GGUF_STRING)) return NULL;
  uint64_t wanted = (uint64_t)gguf_number(id, 0);
  if (wanted >= tokens->count) return NULL;
  const GgufValue *kinds = gguf_find(file, "tokenizer.ggml.token_type");
  int kind =
      is_array(kinds, GGUF_I32) && wanted < kinds->count ? (int)gguf_number(kinds, wanted) : KIND_NORMAL;
  if (kind != KIND_CONTROL && kind != KIND_USER) return NULL;
  const unsigned char *at = tokens->at;
  for (uint64_t i = 0; i < wanted; i++) gguf_next_string(&at);
  return as_text(arena, gguf_next_string(&at));
}

cJSON *import_gguf_tokenizer_config(Arena *arena, const GgufFile *file) {
  cJSON *config = cJSON_CreateObject();
  cJSON_AddStringToObject(config, "tokenizer_class", "PreTrainedTokenizerFast");
  const char *bos = named_token(arena, file, "tokenizer.ggml.bos_token_id");
  const char *eos = named_token(arena, file, "tokenizer.ggml.eos_token_id");
  const GgufValue *chat = gguf_find(file, "tokenizer.chat_template");
  const char *template = chat && chat->type == GGUF_STRING ? as_text(arena, chat->string) : NULL;
  if (bos) cJSON_AddStringToObject(config, "bos_token", bos);
  if (eos) cJSON_AddStringToObject(config, "eos_token", eos);
  if (template) cJSON_AddStringToObject(config, "chat_template", template);
  return config;
}

/* ---- from tokenizer.json ---- */

static const cJSON *get(const cJSON *object, const char *key) {
  return cJSON_GetObjectItemCaseSensitive(object, key);
}

static const Cut *cut_of(const cJSON *root) {
  const cJSON *pre = get(root, "pre_tokenizer");
  for (int i = 0; i < CUTS; i++) {
    cJSON *known = pre_tokenizer(&cuts[i]);
    const cJSON *list = get(pre, "pretokenizers"), *known_list = get(known, "pretokenizers");
    const char *type = cJSON_GetStringValue(get(pre, "type")),
               *known_type = cJSON_GetStringValue(get(known, "type"));
    bool same = type && strcmp(type, known_type) == 0;
    if (same && known_list) { /* what follows is ByteLevel in all of them */
      const cJSON *first = cJSON_GetArrayItem(list, 0), *wanted = cJSON_GetArrayItem(known_list, 0);
      const char *kind = cJSON_GetStringValue(get(first, "type"));
      same = kind && strcmp(kind, cJSON_GetStringValue(get(wanted, "type"))) == 0 &&
             (cuts[i].digits || cJSON_Compare(get(first, "pattern"), get(wanted, "pattern"), true));
    }
    cJSON_Delete(known);
    if (same) return &cuts[i];
  }
  return NULL;
}

typedef struct Tokens {
  GgufString *text; /* [vocab] */
  int32_t *kind;    /* [vocab] */
  int vocab;
} Tokens;

static Status put_token(const Json *json, Tokens *tokens, const cJSON *id, const char *text, TokenKind kind) {
  if (!cJSON_IsNumber(id) || id->valuedouble < 0 || id->valuedouble >= tokens->vocab || !text)
    return fail(INVALID,
                "%s: a token's id is not below the model's vocabulary of %d; give the model's own tokenizer",
                json->path, tokens->vocab);
  tokens->text[id->valueint] = (GgufString){text, strlen(text)};
  tokens->kind[id->valueint] = (int32_t)kind;
  return OK;
}

static Status collect_tokens(Arena *arena, const Json *json, Tokens *tokens) {
  for (int i = 0; i < tokens->vocab; i++) {
    const char *pad = arena_print(arena, "[PAD%d]", i);
    tokens->text[i] = (GgufString){pad, strlen(pad)};
    tokens->kind[i] = KIND_UNUSED;
  }
  const cJSON *item;
  cJSON_ArrayForEach(item, get(get(json->root, "model"), "vocab"))
      TRY(put_token(json, tokens, item, item->string, KIND_NORMAL));
  cJSON_ArrayForEach(item, get(json->root, "added_tokens")) {
    TokenKind kind = cJSON_IsTrue(get(item, "special")) ? KIND_CONTROL : KIND_USER;
    TRY(put_token(json, tokens, get(item, "id"), cJSON_GetStringValue(get(item, "content")), kind));
  }
  return OK;
}

/* Merges stand as "a b", or as ["a", "b"]. */
static Status collect_merges(Arena *arena, const Json *json, const cJSON *merges, GgufString *out) {
  const cJSON *item;
  cJSON_ArrayForEach(item, merges) {
    const char *text = cJSON_GetStringValue(item);
    const char *left = cJSON_GetStringValue(cJSON_GetArrayItem(item, 0));
    const char *right = cJSON_GetStringValue(cJSON_GetArrayItem(item, 1));
    if (!text && left && right) text = arena_print(arena, "%s %s", left, right);
    if (!text)
      return fail(INVALID, "%s: a merge is not a pair of texts; give the model's own tokenizer", json->path);
    *out++ = (GgufString){text, strlen(text)};
  }
  return OK;
}

Status export_gguf_tokenizer(Arena *arena, const Json *json, int vocab, GgufWriter *writer) {
  const cJSON *model = get(json->root, "model"), *merges = get(model, "merges");
  const char *type = cJSON_GetStringValue(get(model, "type"));
  const Cut *cut = cut_of(json->root);
  if (!type || strcmp(type, "BPE") != 0 || !cut)
    return fail(INVALID,
                "%s: GGUF has no name for this tokenizer's cut into pieces (known: GPT-2, SmolLM, Qwen2, "
                "Llama 3); export "
                "with --format hf",
                json->path);
  Tokens tokens = {NEW(arena, GgufString, vocab), NEW(arena, int32_t, vocab), vocab};
  TRY(collect_tokens(arena, json, &tokens));
  int count = cJSON_GetArraySize(merges);
  GgufString *pairs = NEW(arena, GgufString, count + 1);
  TRY(collect_merges(arena, json, merges, pairs));
  gguf_add_string(writer, "tokenizer.ggml.model", "gpt2");
  gguf_add_string(writer, "tokenizer.ggml.pre", cut->name);
  gguf_add_strings(writer, "tokenizer.ggml.tokens", tokens.text, (uint64_t)vocab);
  gguf_add_i32s(writer, "tokenizer.ggml.token_type", tokens.kind, (uint64_t)vocab);
  gguf_add_strings(writer, "tokenizer.ggml.merges", pairs, (uint64_t)count);
  return OK;
}

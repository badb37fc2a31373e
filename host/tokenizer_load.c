/* Tokenizers on disk: tokenizer.json, or its older forms vocab.json with merges.txt (byte-level BPE) and
 * vocab.txt (WordPiece), which are put together to the tokenizer.json that they stand for. */
#include <ctype.h>
#include <string.h>
#include <sys/stat.h>

#include "tokenizer_parts.h"

#define SETTINGS "tokenizer_config.json"

/* ---- putting a tokenizer.json together ---- */

static void add_object(cJSON *parent, const char *name, const char *json) {
  cJSON_AddItemToObject(parent, name, cJSON_Parse(json));
}

static void add_added(cJSON *list, int32_t id, const char *content, bool special, bool normalized) {
  cJSON *token = cJSON_CreateObject();
  cJSON_AddNumberToObject(token, "id", id);
  cJSON_AddStringToObject(token, "content", content);
  cJSON_AddBoolToObject(token, "single_word", false);
  cJSON_AddBoolToObject(token, "lstrip", false);
  cJSON_AddBoolToObject(token, "rstrip", false);
  cJSON_AddBoolToObject(token, "normalized", normalized);
  cJSON_AddBoolToObject(token, "special", special);
  cJSON_AddItemToArray(list, token);
}

#define BYTE_LEVEL(regex) \
  "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": " regex "}"

/* Qwen 2's pre-tokenizer. */
static cJSON *split_then_bytes(void) {
  cJSON *sequence = cJSON_CreateObject();
  cJSON_AddStringToObject(sequence, "type", "Sequence");
  cJSON *list = cJSON_AddArrayToObject(sequence, "pretokenizers"), *split = cJSON_CreateObject();
  cJSON_AddStringToObject(split, "type", "Split");
  cJSON_AddStringToObject(cJSON_AddObjectToObject(split, "pattern"), "Regex", bpe_qwen2_pattern);
  cJSON_AddStringToObject(split, "behavior", "Isolated");
  cJSON_AddBoolToObject(split, "invert", false);
  cJSON_AddItemToArray(list, split);
  cJSON_AddItemToArray(list, cJSON_Parse(BYTE_LEVEL("false")));
  return sequence;
}

/* BERT's [CLS] text [SEP] text [SEP]. */
static void add_bert_template(cJSON *root, int32_t start, int32_t end) {
  static const char start_part[] = "{\"SpecialToken\": {\"id\": \"[CLS]\", \"type_id\": 0}}";
  static const char end_part[] = "{\"SpecialToken\": {\"id\": \"[SEP]\", \"type_id\": 0}}";
  static const char text_part[] = "{\"Sequence\": {\"id\": \"%s\", \"type_id\": %d}}";
  static const char token[] = "\"%s\": {\"id\": \"%s\", \"ids\": [%d], \"tokens\": [\"%s\"]}";
  Arena scratch = {0};
  Text json = {.arena = &scratch};
  text_print(&json, "{\"type\": \"TemplateProcessing\"");
  for (int texts = 1; texts <= 2; texts++) {
    text_print(&json, ", \"%s\": [%s", texts == 1 ? "single" : "pair", start_part);
    for (int i = 0; i < texts; i++) {
      text_print(&json, ", ");
      text_print(&json, text_part, i ? "B" : "A", i);
      text_print(&json, ", %s", end_part);
    }
    text_print(&json, "]");
  }
  text_print(&json, ", \"special_tokens\": {");
  text_print(&json, token, "[CLS]", "[CLS]", start, "[CLS]");
  text_print(&json, ", ");
  text_print(&json, token, "[SEP]", "[SEP]", end, "[SEP]");
  text_print(&json, "}}");
  add_object(root, "post_processor", json.data);
  arena_free(&scratch);
}

/* Parses what was put together, with the text of it in the arena. */
static Status finish(Arena *arena, const char *path, cJSON *root, Tokenizer **out) {
  char *printed = cJSON_PrintUnformatted(root);
  cJSON_Delete(root);
  if (!printed) arena_exhausted(0);
  const char *text = arena_strdup(arena, printed);
  cJSON_free(printed);
  return tokenizer_parse(arena, path, text, strlen(text), out);
}

static cJSON *new_root(cJSON **added) {
  cJSON *root = cJSON_CreateObject();
  cJSON_AddStringToObject(root, "version", "1.0");
  cJSON_AddNullToObject(root, "truncation");
  cJSON_AddNullToObject(root, "padding");
  *added = cJSON_AddArrayToObject(root, "added_tokens");
  return root;
}

/* The root takes vocab and merges over. */
static cJSON *bpe_root(bool qwen2, cJSON **added, cJSON *vocab, cJSON *merges) {
  cJSON *root = new_root(added);
  if (qwen2) {
    add_object(root, "normalizer", "{\"type\": \"NFC\"}");
    cJSON_AddItemToObject(root, "pre_tokenizer", split_then_bytes());
  } else {
    cJSON_AddNullToObject(root, "normalizer");
    add_object(root, "pre_tokenizer", BYTE_LEVEL("true"));
  }
  add_object(root, "decoder", BYTE_LEVEL("true"));
  cJSON *model = cJSON_AddObjectToObject(root, "model");
  cJSON_AddStringToObject(model, "type", "BPE");
  static const char *const unset[] = {"dropout", "unk_token", "continuing_subword_prefix",
                                      "end_of_word_suffix"};
  for (int i = 0; i < 4; i++) cJSON_AddNullToObject(model, unset[i]);
  static const char *const off[] = {"fuse_unk", "byte_fallback", "ignore_merges"};
  for (int i = 0; i < 3; i++) cJSON_AddBoolToObject(model, off[i], false);
  cJSON_AddItemToObject(model, "vocab", vocab);
  cJSON_AddItemToObject(model, "merges", merges);
  return root;
}

/* ---- files ---- */

static Status read_json(const char *path, cJSON **out) {
  FileMap map;
  TRY(file_map(path, &map));
  *out = cJSON_ParseWithLength(map.data, map.length);
  file_unmap(&map);
  return *out ? OK : fail(INVALID, "%s: not JSON; give a file as it was written", path);
}

/* A setting of tokenizer_config.json, which may be a text or an added token. */
static const char *config_text(const cJSON *config, const char *name) {
  const cJSON *value = cJSON_GetObjectItemCaseSensitive(config, name);
  if (cJSON_IsObject(value)) value = cJSON_GetObjectItemCaseSensitive(value, "content");
  return cJSON_GetStringValue(value);
}

/* config's added_tokens_decoder: {"50256": {"content": ...}}. */
static void add_from_config(cJSON *added, const cJSON *config) {
  const cJSON *one;
  cJSON_ArrayForEach(one, cJSON_GetObjectItemCaseSensitive(config, "added_tokens_decoder")) {
    double id = 0;
    for (const char *digit = one->string; isdigit((unsigned char)*digit) && id < 1e9; digit++)
      id = 10 * id + (*digit - '0');
    cJSON *token = cJSON_Duplicate(one, true);
    cJSON_DeleteItemFromObjectCaseSensitive(token, "id");
    cJSON_AddNumberToObject(token, "id", id);
    cJSON_AddItemToArray(added, token);
  }
}

/* merges.txt: a comment, then "left right" a line. */
static Status read_merge_lines(const char *path, cJSON *merges) {
  FileMap map;
  TRY(file_map(path, &map));
  for (size_t at = 0; at < map.length;) {
    const char *line = map.data + at, *end = memchr(line, '\n', map.length - at);
    size_t length = end ? (size_t)(end - line) : map.length - at;
    at += length + 1;
    if (length && line[length - 1] == '\r') length--;
    if (length == 0 || (length >= 9 && memcmp(line, "#version:", 9) == 0)) continue;
    Arena scratch = {0};
    cJSON_AddItemToArray(merges, cJSON_CreateString(arena_strndup(&scratch, line, length)));
    arena_free(&scratch);
  }
  file_unmap(&map);
  return OK;
}

static Status load_pair(Arena *arena, const char *folder, const cJSON *config, Tokenizer **out) {
  const char *path = path_join(arena, folder, "vocab.json"), *class = config_text(config, "tokenizer_class");
  bool qwen2 = class && strncmp(class, "Qwen2Tokenizer", 14) == 0;
  if (class && !qwen2 && strncmp(class, "GPT2Tokenizer", 13) != 0)
    return fail(
        INVALID,
        "%s: vocab.json and merges.txt of a %s are not known; save it with transformers as tokenizer.json",
        path, class);
  cJSON *vocab, *added, *merges = cJSON_CreateArray();
  Status status = read_merge_lines(path_join(arena, folder, "merges.txt"), merges);
  if (status == OK) status = read_json(path, &vocab);
  if (status != OK) {
    cJSON_Delete(merges);
    return status;
  }
  cJSON *root = bpe_root(qwen2, &added, vocab, merges);
  add_from_config(added, config);
  const cJSON *end = cJSON_GetObjectItemCaseSensitive(vocab, "<|endoftext|>");
  if (cJSON_GetArraySize(added) == 0 && end) add_added(added, end->valueint, "<|endoftext|>", true, false);
  return finish(arena, path, root, out);
}

static bool is_on(const cJSON *config, const char *name) {
  return !cJSON_IsFalse(cJSON_GetObjectItemCaseSensitive(config, name));
}

/* BERT's normalizer; what the settings do not say is as transformers has it. */
static void add_bert_normalizer(cJSON *root, const cJSON *config) {
  const cJSON *strip = cJSON_GetObjectItemCaseSensitive(config, "strip_accents");
  cJSON *normalizer = cJSON_AddObjectToObject(root, "normalizer");
  cJSON_AddStringToObject(normalizer, "type", "BertNormalizer");
  cJSON_AddBoolToObject(normalizer, "clean_text", true);
  cJSON_AddBoolToObject(normalizer, "handle_chinese_chars", is_on(config, "tokenize_chinese_chars"));
  cJSON_AddItemToObject(normalizer, "strip_accents",
                        cJSON_IsBool(strip) ? cJSON_CreateBool(cJSON_IsTrue(strip)) : cJSON_CreateNull());
  cJSON_AddBoolToObject(normalizer, "lowercase", is_on(config, "do_lower_case"));
}

/* A token a line, its id the line's number from 0; an empty line is an id that is not used. */
static void add_vocab_lines(const FileMap *map, cJSON *vocab, cJSON *added, int32_t *start, int32_t *sep) {
  static const char *const specials[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
  int32_t id = 0;
  for (size_t at = 0; at < map->length; id++) {
    const char *line = map->data + at, *end = memchr(line, '\n', map->length - at);
    size_t length = end ? (size_t)(end - line) : map->length - at;
    at += length + 1;
    while (length && isspace((unsigned char)line[length - 1])) length--;
    if (length == 0) continue;
    Arena scratch = {0};
    const char *token = arena_strndup(&scratch, line, length);
    cJSON_AddNumberToObject(vocab, token, id);
    for (int i = 0; i < 5; i++)
      if (strcmp(token, specials[i]) == 0) add_added(added, id, token, true, false);
    if (strcmp(token, "[CLS]") == 0) *start = id;
    if (strcmp(token, "[SEP]") == 0) *sep = id;
    arena_free(&scratch);
  }
}

static Status load_lines(Arena *arena, const char *folder, const cJSON *config, Tokenizer **out) {
  const char *path = path_join(arena, folder, "vocab.txt");
  FileMap map;
  TRY(file_map(path, &map));
  cJSON *added, *root = new_root(&added), *model = cJSON_CreateObject();
  add_bert_normalizer(root, config);
  add_object(root, "pre_tokenizer", "{\"type\": \"BertPreTokenizer\"}");
  add_object(root, "decoder", "{\"type\": \"WordPiece\", \"prefix\": \"##\", \"cleanup\": true}");
  cJSON_AddStringToObject(model, "type", "WordPiece");
  cJSON_AddStringToObject(model, "unk_token", "[UNK]");
  cJSON_AddStringToObject(model, "continuing_subword_prefix", "##");
  cJSON_AddNumberToObject(model, "max_input_chars_per_word", 100);
  int32_t start = -1, sep = -1;
  add_vocab_lines(&map, cJSON_AddObjectToObject(model, "vocab"), added, &start, &sep);
  file_unmap(&map);
  if (start >= 0 && sep >= 0) add_bert_template(root, start, sep);
  cJSON_AddItemToObject(root, "model", model);
  return finish(arena, path, root, out);
}

static Status load_json(Arena *arena, const char *path, Tokenizer **out) {
  FileMap map;
  TRY(file_map(path, &map));
  size_t length = map.length;
  const char *text = arena_strndup(arena, map.data, length);
  file_unmap(&map);
  return tokenizer_parse(arena, path, text, length, out);
}

static bool is_folder(const char *path) {
  struct stat info;
  return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

static bool ends_in(const char *path, const char *name) {
  const char *slash = strrchr(path, '/');
  return strcmp(slash ? slash + 1 : path, name) == 0;
}

static bool has_file(Arena *arena, const char *folder, const char *name) {
  return file_exists(path_join(arena, folder, name));
}

/* What a path stands for. */
typedef enum Form { FORM_JSON, FORM_PAIR, FORM_LINES, FORM_NONE } Form;

static Form form_of(Arena *arena, const char *path) {
  if (is_folder(path)) {
    if (has_file(arena, path, "tokenizer.json")) return FORM_JSON;
    if (has_file(arena, path, "merges.txt")) return FORM_PAIR;
    return has_file(arena, path, "vocab.txt") ? FORM_LINES : FORM_NONE;
  }
  if (ends_in(path, "vocab.json") || ends_in(path, "merges.txt")) return FORM_PAIR;
  return ends_in(path, "vocab.txt") ? FORM_LINES : FORM_JSON;
}

static const char *folder_of(Arena *arena, const char *path) {
  return is_folder(path) ? path : path_folder(arena, path);
}

static const char *json_of(Arena *arena, const char *path) {
  return is_folder(path) ? path_join(arena, path, "tokenizer.json") : path;
}

int tokenizer_files(Arena *arena, const char *path, const char *files[TOKENIZER_FILES]) {
  const char *folder = folder_of(arena, path), *settings = path_join(arena, folder, SETTINGS);
  int count = 0;
  switch (form_of(arena, path)) {
    case FORM_JSON:
      files[count++] = json_of(arena, path);
      break;
    case FORM_PAIR:
      files[count++] = path_join(arena, folder, "vocab.json");
      files[count++] = path_join(arena, folder, "merges.txt");
      break;
    case FORM_LINES:
      files[count++] = path_join(arena, folder, "vocab.txt");
      break;
    case FORM_NONE:
      files[count++] = path;
      return count;
  }
  if (file_exists(settings)) files[count++] = settings;
  return count;
}

static Status load_form(Arena *arena, const char *path, const cJSON *config, Tokenizer **out) {
  switch (form_of(arena, path)) {
    case FORM_JSON:
      return load_json(arena, json_of(arena, path), out);
    case FORM_PAIR:
      return load_pair(arena, folder_of(arena, path), config, out);
    case FORM_LINES:
      return load_lines(arena, folder_of(arena, path), config, out);
    case FORM_NONE:
      break;
  }
  return fail(
      INVALID,
      "%s: no tokenizer.json, no vocab.json with merges.txt and no vocab.txt; save the tokenizer with "
      "transformers as tokenizer.json",
      path);
}

/* The end token that the model's own settings name. */
static Status apply_config(Arena *arena, const char *path, const cJSON *config, Tokenizer *t) {
  const char *eos = config_text(config, "eos_token");
  if (!eos) return OK;
  for (int set = 0; set < 2; set++)
    for (int i = 0; i < t->added[set].count; i++)
      if (strcmp(t->added[set].token[i].text, eos) == 0) {
        t->eos = t->added[set].token[i].id;
        t->eos_text = arena_strdup(arena, eos);
        return OK;
      }
  return fail(INVALID,
              "%s: the eos_token \"%.40s\" is not among the tokenizer's added tokens; correct it or delete "
              "the line",
              path, eos);
}

Status tokenizer_load(Arena *arena, const char *path, Tokenizer **out) {
  const char *settings = path_join(arena, folder_of(arena, path), SETTINGS);
  cJSON *config = NULL;
  if (file_exists(settings)) TRY(read_json(settings, &config));
  Status status = load_form(arena, path, config, out);
  if (status == OK) status = apply_config(arena, settings, config, *out);
  cJSON_Delete(config);
  return status;
}

Status tokenizer_save(const Tokenizer *t, const char *path) {
  TRY(file_write(path, t->json, t->json_length));
  if (!t->eos_text) return OK;
  Arena arena = {0};
  cJSON *config = cJSON_CreateObject();
  cJSON_AddStringToObject(config, "tokenizer_class", "PreTrainedTokenizerFast");
  cJSON_AddStringToObject(config, "eos_token", t->eos_text);
  char *text = cJSON_Print(config);
  const char *settings = path_join(&arena, path_folder(&arena, path), SETTINGS);
  Status status = file_write(settings, text, strlen(text));
  cJSON_free(text);
  cJSON_Delete(config);
  arena_free(&arena);
  return status;
}

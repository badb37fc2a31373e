/* The sections pre_tokenizer, decoder and post_processor of a tokenizer.json. What is not known is refused by
 * its name, so that no text is quietly cut otherwise than where the model was trained. */
#include <string.h>

#include "tokenizer_parts.h"

const char *json_type(const cJSON *section) {
  const char *type = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(section, "type"));
  return type ? type : "none";
}

static const cJSON *item(const cJSON *section, const char *name) {
  return cJSON_GetObjectItemCaseSensitive(section, name);
}

static const char *text_item(const cJSON *section, const char *name) {
  const char *text = cJSON_GetStringValue(item(section, name));
  return text ? text : "";
}

static bool is_type(const cJSON *section, const char *type) { return strcmp(json_type(section), type) == 0; }

static bool is_missing(const cJSON *section) { return !section || cJSON_IsNull(section); }

/* ---- pre_tokenizer ---- */

typedef struct Reading {
  Arena *arena;
  const char *path;
  Tokenizer *t;
  bool alone; /* not part of a sequence */
} Reading;

static Status in_file(const Reading *r, Status status) {
  if (status == OK) return OK;
  const char *message = arena_strdup(r->arena, error_message());
  return fail(status, "%s: %s", r->path, message);
}

/* A plain string as a pattern. */
static const char *quote(Arena *arena, const char *text) {
  Text out = {.arena = arena};
  for (; *text; text++) {
    bool special = strchr("\\^$.[]|()?*+{}#&-", *text) != NULL;
    text_print(&out, "%s%c", special ? "\\" : "", *text);
  }
  return out.data ? out.data : "";
}

static Status read_split(const Reading *r, const cJSON *section) {
  const cJSON *pattern = item(section, "pattern");
  const char *regex = cJSON_GetStringValue(item(pattern, "Regex"));
  const char *plain = cJSON_GetStringValue(item(pattern, "String"));
  if ((!regex || !*regex) && (!plain || !*plain))
    return fail(INVALID, "%s: pre-tokenizer Split has no pattern; use a file written by tokenizers", r->path);
  const char *behavior = text_item(section, "behavior");
  bool invert = cJSON_IsTrue(item(section, "invert")), isolated = strcmp(behavior, "Isolated") == 0;
  if (!isolated && strcmp(behavior, "Removed") != 0)
    return fail(INVALID, "%s: Split's behavior \"%s\" is not known; use a tokenizer with Isolated or Removed",
                r->path, behavior);
  SplitBehavior meant = isolated ? SPLIT_ISOLATED : invert ? SPLIT_KEPT : SPLIT_REMOVED;
  return in_file(r,
                 pieces_add_pattern(r->arena, r->t->pieces, regex ? regex : quote(r->arena, plain), meant));
}

/* The last of the cut: what follows would see stand-ins for bytes. */
static Status read_byte_level(const Reading *r, const cJSON *section) {
  r->t->byte_level = true;
  r->t->prefix_space = cJSON_IsTrue(item(section, "add_prefix_space"));
  if (r->t->prefix_space && !r->alone)
    return fail(
        INVALID,
        "%s: ByteLevel with add_prefix_space after another pre-tokenizer is not known; set it to false",
        r->path);
  if (cJSON_IsFalse(item(section, "use_regex"))) return OK;
  return in_file(r, pieces_add_pattern(r->arena, r->t->pieces, bpe_gpt2_pattern, SPLIT_ISOLATED));
}

static Status read_metaspace(const Reading *r, const cJSON *section) {
  Tokenizer *t = r->t;
  const char *scheme = text_item(section, "prepend_scheme");
  if (strcmp(text_item(section, "replacement"), METASPACE) != 0)
    return fail(INVALID,
                "%s: Metaspace with a replacement other than U+2581 is not known; use a tokenizer with it",
                r->path);
  t->metaspace = true;
  t->prefix = strcmp(scheme, "never") == 0 || cJSON_IsFalse(item(section, "add_prefix_space")) ? PREFIX_NEVER
              : strcmp(scheme, "first") == 0                                                   ? PREFIX_FIRST
                                             : PREFIX_ALWAYS;
  return cJSON_IsFalse(item(section, "split")) ? OK : in_file(r, pieces_add(t->pieces, CUT_METASPACE));
}

static Status read_cut(const Reading *r, const cJSON *section) {
  if (r->t->byte_level)
    return fail(INVALID,
                "%s: pre-tokenizer %s after ByteLevel is not known; use a tokenizer that ends with it",
                r->path, json_type(section));
  if (is_type(section, "Split")) return read_split(r, section);
  if (is_type(section, "ByteLevel")) return read_byte_level(r, section);
  if (is_type(section, "BertPreTokenizer")) return in_file(r, pieces_add(r->t->pieces, CUT_BERT));
  if (is_type(section, "Digits")) {
    bool each = cJSON_IsTrue(item(section, "individual_digits"));
    return in_file(r, pieces_add(r->t->pieces, each ? CUT_EACH_DIGIT : CUT_DIGITS));
  }
  if (is_type(section, "Metaspace") && r->alone) return read_metaspace(r, section);
  return fail(
      INVALID,
      "%s: pre-tokenizer %s is not known%s; use a tokenizer with ByteLevel, Split, Digits, Metaspace or "
      "BertPreTokenizer",
      r->path, json_type(section), r->alone ? "" : " in this sequence");
}

Status read_pre_tokenizer(Arena *arena, const char *path, const cJSON *section, Tokenizer *t) {
  Reading r = {arena, path, t, true};
  t->pieces = pieces_new(arena);
  if (is_missing(section)) return OK; /* the text is one piece */
  if (!is_type(section, "Sequence")) return read_cut(&r, section);
  r.alone = false;
  const cJSON *list = item(section, "pretokenizers"), *one;
  if (cJSON_GetArraySize(list) == 1) r.alone = true;
  cJSON_ArrayForEach(one, list) TRY(read_cut(&r, one));
  return OK;
}

/* ---- decoder ---- */

static Status read_one_decoder(const char *path, const cJSON *section, Tokenizer *t) {
  if (is_type(section, "ByteLevel") && t->byte_level) return OK;
  if (is_type(section, "WordPiece") && t->kind == MODEL_WORDPIECE) return OK;
  if (t->kind == MODEL_BPE && !t->byte_level) {
    if (is_type(section, "ByteFallback") || is_type(section, "Fuse")) return OK;
    if (is_type(section, "Replace") &&
        strcmp(text_item(item(section, "pattern"), "String"), METASPACE) == 0 &&
        strcmp(text_item(section, "content"), " ") == 0)
      return OK;
    if (is_type(section, "Metaspace")) {
      t->strips_first_space = strcmp(text_item(section, "prepend_scheme"), "never") != 0;
      return OK;
    }
    const cJSON *start = item(section, "start"), *stop = item(section, "stop");
    if (is_type(section, "Strip") && strcmp(text_item(section, "content"), " ") == 0 &&
        cJSON_IsNumber(start) && start->valueint <= 1 && cJSON_IsNumber(stop) && stop->valueint == 0) {
      t->strips_first_space = start->valueint == 1;
      return OK;
    }
  }
  return fail(
      INVALID,
      "%s: decoder %s is not known for this model; use a tokenizer with ByteLevel, WordPiece, Metaspace, or "
      "Replace, ByteFallback, Fuse and Strip",
      path, json_type(section));
}

Status read_decoder(const char *path, const cJSON *section, Tokenizer *t) {
  if (is_missing(section)) return OK; /* what the model is says how it is decoded */
  if (!is_type(section, "Sequence")) return read_one_decoder(path, section, t);
  const cJSON *one;
  cJSON_ArrayForEach(one, item(section, "decoders")) TRY(read_one_decoder(path, one, t));
  return OK;
}

/* ---- post_processor: tokens that a text begins with ---- */

/* Ids of the special tokens before the text in TemplateProcessing's "single". */
static Status read_template(const Reading *r, const cJSON *section, int32_t *start, int room, int *count) {
  const cJSON *one, *id;
  cJSON_ArrayForEach(one, item(section, "single")) {
    const char *name = cJSON_GetStringValue(item(item(one, "SpecialToken"), "id"));
    if (!name) return OK; /* the text itself; what stands behind it PopALM writes on its own */
    cJSON_ArrayForEach(id, item(item(item(section, "special_tokens"), name), "ids")) {
      if (!cJSON_IsNumber(id) || id->valuedouble < 0 || id->valuedouble >= r->t->vocab_size || *count == room)
        return fail(INVALID,
                    "%s: TemplateProcessing begins with an id that is none of the vocabulary's; use a file "
                    "written by tokenizers",
                    r->path);
      start[(*count)++] = id->valueint;
    }
  }
  return OK;
}

static Status read_one_post_processor(const Reading *r, const cJSON *section, int32_t *start, int room,
                                      int *count) {
  if (is_type(section, "ByteLevel")) return OK; /* changes offsets only */
  if (is_type(section, "TemplateProcessing")) return read_template(r, section, start, room, count);
  if (is_type(section, "BertProcessing") || is_type(section, "RobertaProcessing")) {
    const cJSON *id = cJSON_GetArrayItem(item(section, "cls"), 1);
    if (!cJSON_IsNumber(id) || id->valuedouble < 0 || id->valuedouble >= r->t->vocab_size || *count == room)
      return fail(INVALID, "%s: %s has no \"cls\" with an id; use a file written by tokenizers", r->path,
                  json_type(section));
    start[(*count)++] = id->valueint;
    return OK;
  }
  return fail(INVALID, "%s: post-processor %s is not known; use a tokenizer with TemplateProcessing", r->path,
              json_type(section));
}

Status read_post_processor(Arena *arena, const char *path, const cJSON *section, Tokenizer *t) {
  enum { ROOM = 16 };
  if (is_missing(section)) return OK;
  Reading r = {arena, path, t, false};
  int32_t *start = NEW(arena, int32_t, ROOM);
  int count = 0;
  if (is_type(section, "Sequence")) {
    const cJSON *one;
    cJSON_ArrayForEach(one, item(section, "processors"))
        TRY(read_one_post_processor(&r, one, start, ROOM, &count));
  } else {
    TRY(read_one_post_processor(&r, section, start, ROOM, &count));
  }
  t->start = start;
  t->start_count = count;
  return OK;
}

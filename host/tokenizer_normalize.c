/* The normalizers of a tokenizer.json, one after the other. Each looks first whether it would change the
 * text: most texts are in NFC, and then nothing is copied. */
#include <string.h>

#include "tokenizer_parts.h"
#include "unicode.h"

enum { MAX_NORMALIZERS = 16 };

typedef struct Step Step;
typedef void StepFunction(const Step *step, const char *text, size_t length, Text *out);

struct Step {
  StepFunction *run;
  unsigned changes;      /* classes of code points without which nothing happens; 0: always run */
  const char *from, *to; /* replace and prepend */
  bool clean, cjk;       /* BERT */
};

struct Normalizer {
  int count;
  Step step[MAX_NORMALIZERS];
};

static void run_nfc(const Step *step, const char *text, size_t length, Text *out) {
  (void)step;
  unicode_normal_form(out, text, length, true);
}

static void run_nfd(const Step *step, const char *text, size_t length, Text *out) {
  (void)step;
  unicode_normal_form(out, text, length, false);
}

static void run_lowercase(const Step *step, const char *text, size_t length, Text *out) {
  (void)step;
  for (size_t at = 0; at < length;) {
    int size;
    uint32_t code = unicode_at(text + at, &size);
    if (code < 0x80) {
      char lower = (char)(code >= 'A' && code <= 'Z' ? code | 0x20 : code);
      text_add(out, &lower, 1);
    } else {
      unicode_add_lower(out, code);
    }
    at += (size_t)size;
  }
}

static void run_strip_accents(const Step *step, const char *text, size_t length, Text *out) {
  for (size_t at = 0; at < length;) {
    int size;
    if (!(unicode_class_at(text + at, &size) & step->changes)) text_add(out, text + at, (size_t)size);
    at += (size_t)size;
  }
}

/* clean_text and handle_chinese_chars. The first makes a space of white space that it does not take out. */
static void run_bert(const Step *step, const char *text, size_t length, Text *out) {
  for (size_t at = 0; at < length;) {
    int size;
    unsigned class = unicode_class_at(text + at, &size);
    bool line = text[at] == '\t' || text[at] == '\n' || text[at] == '\r';
    if (step->clean && (class & IS_BERT_REMOVED) && !line) {
      at += (size_t)size;
      continue;
    }
    bool spaced = step->cjk && (class & IS_CJK);
    if (spaced) text_add(out, " ", 1);
    if (step->clean && (class & IS_SPACE))
      text_add(out, " ", 1);
    else
      text_add(out, text + at, (size_t)size);
    if (spaced) text_add(out, " ", 1);
    at += (size_t)size;
  }
}

static void run_prepend(const Step *step, const char *text, size_t length, Text *out) {
  if (length > 0) text_add(out, step->to, strlen(step->to));
  text_add(out, text, length);
}

static void run_replace(const Step *step, const char *text, size_t length, Text *out) {
  size_t from = strlen(step->from);
  for (size_t at = 0; at < length;) {
    const char *found = memmem(text + at, length - at, step->from, from);
    size_t plain = found ? (size_t)(found - text) - at : length - at;
    text_add(out, text + at, plain);
    if (found) text_add(out, step->to, strlen(step->to));
    at += plain + (found ? from : 0);
  }
}

static Status add_step(Normalizer *n, const char *path, Step step) {
  if (n->count == MAX_NORMALIZERS)
    return fail(INVALID, "%s: more than %d normalizers; use a tokenizer with fewer", path, MAX_NORMALIZERS);
  n->step[n->count++] = step;
  return OK;
}

static Status add_strip_accents(Normalizer *n, const char *path, unsigned marks) {
  return add_step(n, path, (Step){.run = run_strip_accents, .changes = marks});
}

static Status read_bert(Normalizer *n, const char *path, const cJSON *section) {
  bool clean = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(section, "clean_text"));
  bool cjk = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(section, "handle_chinese_chars"));
  bool lower = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(section, "lowercase"));
  const cJSON *strip = cJSON_GetObjectItemCaseSensitive(section, "strip_accents");
  if (clean || cjk) TRY(add_step(n, path, (Step){.run = run_bert, .clean = clean, .cjk = cjk}));
  if (cJSON_IsTrue(strip) || (lower && !cJSON_IsFalse(strip))) {
    TRY(add_step(n, path, (Step){.run = run_nfd, .changes = IS_DECOMPOSING}));
    TRY(add_strip_accents(n, path, IS_BERT_ACCENT));
  }
  return lower ? add_step(n, path, (Step){.run = run_lowercase}) : OK;
}

static Status read_replace(Arena *arena, Normalizer *n, const char *path, const cJSON *section) {
  const cJSON *pattern = cJSON_GetObjectItemCaseSensitive(section, "pattern");
  const char *from = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(pattern, "String"));
  const char *to = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(section, "content"));
  if (!from || !*from || !to)
    return fail(INVALID,
                "%s: normalizer Replace is known with a \"String\" and a \"content\" only; use a "
                "tokenizer without Regex there",
                path);
  return add_step(
      n, path, (Step){.run = run_replace, .from = arena_strdup(arena, from), .to = arena_strdup(arena, to)});
}

static Status read_step(Arena *arena, Normalizer *n, const char *path, const cJSON *section, int depth) {
  const char *type = json_type(section);
  if (strcmp(type, "Sequence") == 0 && depth < 4) {
    const cJSON *item;
    cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(section, "normalizers"))
        TRY(read_step(arena, n, path, item, depth + 1));
    return OK;
  }
  if (strcmp(type, "NFC") == 0) return add_step(n, path, (Step){.run = run_nfc, .changes = IS_COMPOSING});
  if (strcmp(type, "NFD") == 0) return add_step(n, path, (Step){.run = run_nfd, .changes = IS_DECOMPOSING});
  if (strcmp(type, "Lowercase") == 0) return add_step(n, path, (Step){.run = run_lowercase});
  if (strcmp(type, "StripAccents") == 0) return add_strip_accents(n, path, IS_ACCENT);
  if (strcmp(type, "BertNormalizer") == 0) return read_bert(n, path, section);
  if (strcmp(type, "Replace") == 0) return read_replace(arena, n, path, section);
  if (strcmp(type, "Prepend") == 0) {
    const char *to = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(section, "prepend"));
    if (to) return add_step(n, path, (Step){.run = run_prepend, .to = arena_strdup(arena, to)});
  }
  return fail(
      INVALID,
      "%s: normalizer %s is not known; use a tokenizer with NFC, NFD, Lowercase, StripAccents, Replace, "
      "Prepend or BertNormalizer",
      path, type);
}

Status normalizer_read(Arena *arena, const char *path, const cJSON *section, Normalizer **out) {
  *out = NULL;
  if (!section || cJSON_IsNull(section)) return OK;
  unicode_prepare();
  Normalizer *n = NEW(arena, Normalizer, 1);
  TRY(read_step(arena, n, path, section, 0));
  if (n->count > 0) *out = n;
  return OK;
}

static bool normalize_valid(const Normalizer *n, const char *text, size_t length, Text *out) {
  bool changed = false;
  for (int i = 0; i < n->count; i++) {
    const Step *step = &n->step[i];
    if (step->changes && !unicode_has(text, length, step->changes)) continue;
    Text next = {.arena = out->arena};
    text_add(&next, "", 0);
    step->run(step, text, length, &next);
    text = next.data;
    length = next.length;
    changed = true;
  }
  if (changed) text_add(out, text, length);
  return changed;
}

bool normalize(const Normalizer *n, const char *text, size_t length, Text *out) {
  if (!n) return false;
  size_t valid = utf8_invalid_at(text, length);
  if (valid == length) return normalize_valid(n, text, length, out);
  for (size_t at = 0; at < length;) {
    valid = utf8_invalid_at(text + at, length - at);
    if (!normalize_valid(n, text + at, valid, out)) text_add(out, text + at, valid);
    at += valid;
    if (at < length) text_add(out, text + at++, 1);
  }
  return true;
}

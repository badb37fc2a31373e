/* The cut of a text into pieces: steps, each of which cuts the pieces of the one before. Patterns that have
 * no scanner of their own are run by PCRE2, compiled just in time. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>

#include "tokenizer_parts.h"
#include "unicode.h"

enum { MAX_STEPS = 16 };

typedef struct CutStep {
  CutKind kind;
  Scanner *scan;
  pcre2_code *code;
  bool jit;
  SplitBehavior behavior;
} CutStep;

struct Pieces {
  int count;
  bool patterns; /* a step needs PCRE2 */
  CutStep step[MAX_STEPS];
};

/* One cut of one text. */
typedef struct Cut {
  const Pieces *pieces;
  pcre2_match_data *match;
  PieceSink *sink;
  void *state;
} Cut;

static bool byte_is_printable(unsigned byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

uint32_t bpe_byte_char(unsigned byte) {
  if (byte_is_printable(byte)) return byte;
  uint32_t next = 256; /* the others follow in order from U+0100 */
  for (unsigned b = 0; b < byte; b++) next += !byte_is_printable(b);
  return next;
}

void bpe_byte_order(unsigned char order[256]) {
  int at = 0;
  for (unsigned b = 0; b < 256; b++)
    if (byte_is_printable(b)) order[at++] = (unsigned char)b;
  for (unsigned b = 0; b < 256; b++)
    if (!byte_is_printable(b)) order[at++] = (unsigned char)b;
}

Pieces *pieces_new(Arena *arena) {
  unicode_prepare();
  return NEW(arena, Pieces, 1);
}

/* NULL, with a message, when there are too many. */
static CutStep *add_step(Pieces *pieces, CutKind kind) {
  if (pieces->count == MAX_STEPS) {
    fail(INVALID, "more than %d pre-tokenizers in a row; use a tokenizer with fewer", MAX_STEPS);
    return NULL;
  }
  CutStep *step = &pieces->step[pieces->count++];
  step->kind = kind;
  return step;
}

Status pieces_add(Pieces *pieces, CutKind kind) { return add_step(pieces, kind) ? OK : INVALID; }

/* The compiled pattern lives in the arena too, so nothing is left to free but the machine code, which
 * stays with the process. */
static void *pcre_alloc(size_t bytes, void *arena) { return arena_alloc(arena, bytes); }
static void pcre_free(void *memory, void *arena) {
  (void)memory;
  (void)arena;
}

static Status compile(Arena *arena, const char *pattern, CutStep *step) {
  Text spelled;
  TRY(pattern_translate(arena, pattern, &spelled));
  pcre2_general_context *memory = pcre2_general_context_create(pcre_alloc, pcre_free, arena);
  int error;
  PCRE2_SIZE at;
  step->code = pcre2_compile((PCRE2_SPTR)spelled.data, spelled.length, PCRE2_UTF | PCRE2_UCP, &error, &at,
                             pcre2_compile_context_create(memory));
  if (!step->code) {
    char reason[128];
    pcre2_get_error_message(error, (PCRE2_UCHAR *)reason, sizeof reason);
    return fail(INVALID, "the pattern \"%.200s\" cannot be compiled: %s; use one that PCRE2 reads", pattern,
                reason);
  }
  step->jit = pcre2_jit_compile(step->code, PCRE2_JIT_COMPLETE) == 0;
  return OK;
}

Status pieces_add_pattern(Arena *arena, Pieces *pieces, const char *pattern, SplitBehavior behavior) {
  static const struct {
    const char *pattern;
    Scanner *scan;
  } known[] = {
      {bpe_gpt2_pattern, scan_gpt2}, {bpe_llama3_pattern, scan_llama3}, {bpe_qwen2_pattern, scan_qwen2}};
  CutStep *step = add_step(pieces, CUT_PATTERN);
  if (!step) return INVALID;
  step->behavior = behavior;
  for (size_t i = 0; i < sizeof known / sizeof *known && behavior == SPLIT_ISOLATED; i++)
    if (strcmp(pattern, known[i].pattern) == 0) {
      step->kind = CUT_SCAN;
      step->scan = known[i].scan;
      return OK;
    }
  pieces->patterns = true;
  return compile(arena, pattern, step);
}

/* ---- cutting ---- */

static void cut_from(const Cut *cut, int index, const char *text, size_t length);

static void cut_by_pattern(const Cut *cut, const CutStep *step, int next, const char *text, size_t length) {
  size_t at = 0;
  while (at < length) {
    int found = step->jit ? pcre2_jit_match(step->code, (PCRE2_SPTR)text, length, at, PCRE2_NOTEMPTY,
                                            cut->match, NULL)
                          : PCRE2_ERROR_JIT_STACKLIMIT;
    if (found == PCRE2_ERROR_JIT_STACKLIMIT)
      found = pcre2_match(step->code, (PCRE2_SPTR)text, length, at,
                          PCRE2_NOTEMPTY | PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, cut->match, NULL);
    const PCRE2_SIZE *span = pcre2_get_ovector_pointer(cut->match);
    size_t begin = found < 0 ? length : span[0], end = found < 0 ? length : span[1];
    if (begin < at || end < begin)
      begin = end = length; /* \K and the like, which are refused, could do this */
    if (begin > at && step->behavior != SPLIT_KEPT) cut_from(cut, next, text + at, begin - at);
    if (end > begin && step->behavior != SPLIT_REMOVED) cut_from(cut, next, text + begin, end - begin);
    at = end;
  }
}

/* Numbers one by one, or each run of them. */
static void cut_digits(const Cut *cut, bool each, int next, const char *text, size_t length) {
  size_t from = 0;
  bool number = false;
  for (size_t at = 0; at < length;) {
    int size;
    bool is_digit = unicode_class_at(text + at, &size) & IS_DIGIT;
    if (at > from && (is_digit != number || (is_digit && each))) {
      cut_from(cut, next, text + from, at - from);
      from = at;
    }
    number = is_digit;
    at += (size_t)size;
  }
  cut_from(cut, next, text + from, length - from);
}

/* White space goes, punctuation stands alone. */
static void cut_bert(const Cut *cut, int next, const char *text, size_t length) {
  size_t from = 0;
  for (size_t at = 0; at < length;) {
    int size;
    unsigned class = unicode_class_at(text + at, &size);
    size_t after = at + (size_t)size;
    if (class & (IS_SPACE | IS_BERT_PUNCTUATION)) {
      if (at > from) cut_from(cut, next, text + from, at - from);
      if (!(class & IS_SPACE)) cut_from(cut, next, text + at, (size_t)size);
      from = after;
    }
    at = after;
  }
  if (length > from) cut_from(cut, next, text + from, length - from);
}

/* Before each METASPACE. */
static void cut_metaspace(const Cut *cut, int next, const char *text, size_t length) {
  size_t from = 0;
  for (size_t at = 1; at < length; at++) {
    if (length - at < 3 || memcmp(text + at, METASPACE, 3) != 0) continue;
    cut_from(cut, next, text + from, at - from);
    from = at;
  }
  cut_from(cut, next, text + from, length - from);
}

static void cut_from(const Cut *cut, int index, const char *text, size_t length) {
  if (index == cut->pieces->count) {
    cut->sink(cut->state, text, length);
    return;
  }
  const CutStep *step = &cut->pieces->step[index++];
  switch (step->kind) {
    case CUT_SCAN: {
      const char *end = text + length;
      for (size_t piece; text < end; text += piece) {
        piece = step->scan(text, end);
        if (index == cut->pieces->count)
          cut->sink(cut->state, text, piece);
        else
          cut_from(cut, index, text, piece);
      }
      break;
    }
    case CUT_PATTERN:
      cut_by_pattern(cut, step, index, text, length);
      break;
    case CUT_DIGITS:
      cut_digits(cut, false, index, text, length);
      break;
    case CUT_EACH_DIGIT:
      cut_digits(cut, true, index, text, length);
      break;
    case CUT_BERT:
      cut_bert(cut, index, text, length);
      break;
    case CUT_METASPACE:
      cut_metaspace(cut, index, text, length);
      break;
  }
}

void pieces_cut(const Pieces *pieces, const char *text, size_t length, PieceSink *sink, void *state) {
  Cut cut = {pieces, NULL, sink, state};
  if (pieces->patterns) {
    cut.match = pcre2_match_data_create(1, NULL);
    if (!cut.match) arena_exhausted(sizeof(PCRE2_SIZE) * 2);
  }
  for (size_t at = 0; at < length;) {
    size_t valid = utf8_invalid_at(text + at, length - at);
    if (valid > 0) cut_from(&cut, 0, text + at, valid);
    at += valid;
    if (at < length) sink(state, text + at++, 1);
  }
  pcre2_match_data_free(cut.match);
}

/* Patterns are written for Oniguruma, with which the tokenizers library runs them; PCRE2 reads most of the
 * language alike. What differs is spelled out here or refused. */
#include <string.h>

#include "tokenizer_parts.h"

/* PCRE2's \s also takes U+180E, which has not been White_Space since Unicode 6.3. */
#define WHITE_SPACE \
  "\\x09-\\x0D\\x20\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}"

/* What Unicode 15 and 16 added to a property, for a PCRE2 that knows Unicode 14. */
static const struct {
  const char *property, *added;
} properties[] = {
    {"L",
     "\\x{1C89}\\x{1C8A}\\x{A7CB}-\\x{A7CD}\\x{A7DA}-\\x{A7DC}\\x{105C0}-\\x{105F3}\\x{10D4A}-\\x{10D65}"
     "\\x{10D6F}-\\x{10D85}\\x{10EC2}-\\x{10EC4}\\x{1123F}\\x{11240}\\x{11380}-\\x{11389}\\x{1138B}"
     "\\x{1138E}\\x{11390}-\\x{113B5}\\x{113B7}\\x{113D1}\\x{113D3}\\x{11BC0}-\\x{11BE0}\\x{11F02}"
     "\\x{11F04}-\\x{11F10}\\x{11F12}-\\x{11F33}\\x{1342F}\\x{13441}-\\x{13446}\\x{13460}-\\x{143FA}"
     "\\x{16100}-\\x{1611D}\\x{16D40}-\\x{16D6C}\\x{18CFF}\\x{1B132}\\x{1B155}\\x{1DF25}-\\x{1DF2A}"
     "\\x{1E030}-\\x{1E06D}\\x{1E4D0}-\\x{1E4EB}\\x{1E5D0}-\\x{1E5ED}\\x{1E5F0}\\x{2B739}"
     "\\x{2EBF0}-\\x{2EE5D}\\x{31350}-\\x{323AF}"},
    {"N",
     "\\x{10D40}-\\x{10D49}\\x{116D0}-\\x{116E3}\\x{11BF0}-\\x{11BF9}\\x{11F50}-\\x{11F59}"
     "\\x{16130}-\\x{16139}\\x{16D70}-\\x{16D79}\\x{1CCF0}-\\x{1CCF9}\\x{1D2C0}-\\x{1D2D3}"
     "\\x{1E4F0}-\\x{1E4F9}\\x{1E5F1}-\\x{1E5FA}"},
    {"M",
     "\\x{897}\\x{CF3}\\x{ECE}\\x{10D69}-\\x{10D6D}\\x{10EFC}-\\x{10EFF}\\x{11241}\\x{113B8}-\\x{113C0}"
     "\\x{113C2}\\x{113C5}\\x{113C7}-\\x{113CA}\\x{113CC}-\\x{113D0}\\x{113D2}\\x{113E1}\\x{113E2}"
     "\\x{11F00}\\x{11F01}\\x{11F03}\\x{11F34}-\\x{11F3A}\\x{11F3E}-\\x{11F42}\\x{11F5A}\\x{13440}"
     "\\x{13447}-\\x{13455}\\x{1611E}-\\x{1612F}\\x{1E08F}\\x{1E4EC}-\\x{1E4EF}\\x{1E5EE}\\x{1E5EF}"},
    {"P",
     "\\x{1B4E}\\x{1B4F}\\x{1B7F}\\x{10D6E}\\x{113D4}\\x{113D5}\\x{113D7}\\x{113D8}\\x{11B00}-\\x{11B09}"
     "\\x{11BE1}\\x{11F43}-\\x{11F4F}\\x{16D6D}-\\x{16D6F}\\x{1E5FF}"},
    {"S",
     "\\x{2427}-\\x{2429}\\x{2FFC}-\\x{2FFF}\\x{31E4}\\x{31E5}\\x{31EF}\\x{10D8E}\\x{10D8F}"
     "\\x{1CC00}-\\x{1CCEF}\\x{1CD00}-\\x{1CEB3}\\x{1F6DC}\\x{1F774}-\\x{1F776}\\x{1F77B}-\\x{1F77F}"
     "\\x{1F7D9}\\x{1F8B2}-\\x{1F8BB}\\x{1F8C0}\\x{1F8C1}\\x{1FA75}-\\x{1FA77}\\x{1FA87}-\\x{1FA89}"
     "\\x{1FA8F}\\x{1FAAD}-\\x{1FAAF}\\x{1FABB}-\\x{1FABF}\\x{1FAC6}\\x{1FACE}\\x{1FACF}"
     "\\x{1FADA}-\\x{1FADC}\\x{1FADF}\\x{1FAE8}\\x{1FAE9}\\x{1FAF7}\\x{1FAF8}\\x{1FBCB}-\\x{1FBEF}"},
    {"Nd",
     "\\x{10D40}-\\x{10D49}\\x{116D0}-\\x{116E3}\\x{11BF0}-\\x{11BF9}\\x{11F50}-\\x{11F59}"
     "\\x{16130}-\\x{16139}\\x{16D70}-\\x{16D79}\\x{1CCF0}-\\x{1CCF9}\\x{1E4F0}-\\x{1E4F9}"
     "\\x{1E5F1}-\\x{1E5FA}"},
};

/* What is being translated. */
typedef struct Translation {
  const char *at; /* the next character */
  bool in_class;  /* between [ and ] */
  Text out;
} Translation;

/* \p{L}, \P{L} or \p{^L} at t->at, which is behind the letter p. False if it is none, or too long a name. */
static bool translate_property(Translation *t, bool negated) {
  if (*t->at != '{') return false;
  const char *name = t->at + 1, *end = strchr(name, '}');
  if (!end) return false;
  if (*name == '^') {
    negated = !negated;
    name++;
  }
  int length = (int)(end - name);
  if (length < 1 || length > 2) return false; /* scripts and long names are not the same in both */
  const char *added = "";
  for (size_t i = 0; i < sizeof properties / sizeof *properties; i++)
    if ((int)strlen(properties[i].property) == length &&
        memcmp(properties[i].property, name, (size_t)length) == 0)
      added = properties[i].added;
  t->at = end + 1;
  if (!t->in_class)
    text_print(&t->out, "[%s\\p{%.*s}%s]", negated ? "^" : "", length, name, added);
  else if (negated)
    text_print(&t->out, "\\P{%.*s}", length, name);
  else
    text_print(&t->out, "\\p{%.*s}%s", length, name, added);
  return true;
}

static bool is_hex(char c) { return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'f'); }

/* The escape at t->at, which is the backslash. */
static bool translate_escape(Translation *t) {
  char c = t->at[1];
  if (!c) return false;
  t->at += 2;
  bool letter = (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
  if (c == 's' || (c == 'S' && !t->in_class))
    text_print(&t->out, t->in_class ? "%s%s" : "[%s%s]", c == 'S' ? "^" : "", WHITE_SPACE);
  else if (c == 'p' || c == 'P')
    return translate_property(t, c == 'P');
  else if (c == 'u' && is_hex(t->at[0]) && is_hex(t->at[1]) && is_hex(t->at[2]) && is_hex(t->at[3])) {
    text_print(&t->out, "\\x{%.4s}", t->at);
    t->at += 4;
  } else if (!letter || strchr("ndrtfvaexS", c))
    text_add(&t->out, t->at - 2, 2);
  else
    return false; /* \w \b \h \A \R ..., which the two take differently */
  return true;
}

/* What stands behind an opening parenthesis means the same to both. */
static bool group_is_common(const char *at) {
  static const char *const kinds[] = {"?:", "?=", "?!", "?>", "?<=", "?<!", "?i:"};
  if (*at != '?') return *at != '*';
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if (strncmp(at, kinds[i], strlen(kinds[i])) == 0) return true;
  return false;
}

static bool translate_next(Translation *t) {
  char c = *t->at;
  if (c == '\\') return translate_escape(t);
  if (t->in_class) {
    if (c == '[' || (c == '&' && t->at[1] == '&')) return false; /* sets within sets, Oniguruma's own */
    if (c == ']') t->in_class = false;
  } else if (c == '[') {
    t->in_class = true;
    const char *first = t->at + 1 + (t->at[1] == '^');
    if (*first == ']') return false;
    text_add(&t->out, t->at, (size_t)(first - t->at));
    t->at = first;
    return true;
  } else if (c == '^' || c == '$' || (c == '(' && !group_is_common(t->at + 1)) ||
             (c == '}' && t->at[1] == '+')) {
    return false;
  }
  text_add(&t->out, t->at++, 1);
  return true;
}

Status pattern_translate(Arena *arena, const char *pattern, Text *out) {
  Translation t = {.at = pattern, .out = {.arena = arena}};
  text_print(&t.out, "(*LIMIT_MATCH=1000000)"); /* a hostile pattern could try for hours */
  while (*t.at) {
    const char *from = t.at;
    if (!translate_next(&t))
      return fail(
          INVALID,
          "the pattern \"%.200s\" has \"%.20s\", which PopALM's pattern language does not share with the "
          "tokenizers library's; use a pattern without it",
          pattern, from);
  }
  *out = t.out;
  return OK;
}

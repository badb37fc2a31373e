/* Words of the synthetic world and the way from text back to events and replies. */
#include "world_grammar.h"

#include <string.h>
#include <strings.h>

static const char *const topic_word[TOPICS] = {"football", "film",   "music",   "games",
                                               "food",     "travel", "fashion", "school"};
static const char *const noun_word[TOPICS][NOUNS] = {
    {"derby", "cup"},      {"premiere", "sequel"}, {"concert", "album"}, {"tournament", "launch"},
    {"market", "contest"}, {"ferry", "tour"},      {"show", "sale"},     {"exam", "fair"}};
static const char *const subject_word[SUBJECTS] = {"Mira", "Otto", "Lena", "Ivan", "Yara", "Finn",
                                                   "Rosa", "Omar", "Kira", "Paul", "Ines", "Hugo",
                                                   "Vera", "Noah", "Dana", "Milo"};
static const char *const prop_word[PROPS] = {"drum",   "goat",   "ladder",  "pancake",
                                             "kettle", "carpet", "balloon", "parrot"};
static const char *const place_word[PLACES] = {"Oslo",  "Lima",  "Cairo", "Kyoto", "Porto",
                                               "Quito", "Delhi", "Turin", "Perth", "Minsk"};

/* % is the noun. */
static const char *const phrase_pattern[MOODS][PHRASES] = {
    [MOOD_JOY] = {"won the %", "saved the %", "made the % shine", "set a % record", "got a prize for the %",
                  "finished the % at last", "sold out the %", "led the % to glory"},
    [MOOD_SORROW] = {"lost the %", "got hurt at the %", "said goodbye to the %", "cried after the %",
                     "fell ill before the %", "missed the % by a minute", "left the % alone",
                     "mourned the %"},
    [MOOD_OUTRAGE] = {"cheated at the %", "raised the % price again", "lied about the %", "broke the % rules",
                      "skipped the % queue", "stole the % money", "fired the % crew",
                      "banned kids from the %"},
    [MOOD_ABSURD] = {"danced through the %", "slept through the %", "wore pajamas to the %",
                     "got stuck under the %", "brought llamas to the %", "walked backwards to the %",
                     "sang to the %", "licked the % trophy"},
    [MOOD_PUZZLE] = {"vanished from the %", "denied the % rumor", "was seen twice at the %", "may buy the %",
                     "hid a note in the %", "moved the % overnight", "deleted the % post",
                     "will not explain the %"},
};

/* % is the target, never at the start: its first token is then the same as in the post. */
static const char *const form_pattern[STANCES][FORMS] = {
    [PRAISE] = {"well done %", "so proud of %", "three cheers for %", "we love %"},
    [EMPATHY] = {"stay strong %", "hugs to %", "thinking of %", "so sorry for %"},
    [COMPLAINT] = {"shame on %", "no more %", "get rid of %", "sick of %"},
    [JOKE] = {"give % a medal", "send % to space", "vote for %", "my boss is %"},
    [QUESTION] = {"is % real", "why % again", "who saw % first", "what about %"},
};
static const char *const opener_word[OPENERS] = {NULL, "omg", "honestly", "seriously", "lol", "hmm"};
static const char *const tail_words[TAILS] = {NULL,       "plot twist", "said nobody",
                                              "frame it", "mom agrees", "asking twice"};
static const char *const punctuation_mark[PUNCTUATIONS] = {NULL, "!", "?", "...", "."};
static const char *const emoji_mark[EMOJIS] = {NULL, "👏", "💔", "😡", "😂", "🤔"};

uint64_t event_space(void) { return (uint64_t)SUBJECTS * MOODS * PHRASES * NOUNS * PROPS * PLACES * FRAMES; }

static int take_digit(uint64_t *number, int base) {
  int digit = (int)(*number % (uint64_t)base);
  *number /= (uint64_t)base;
  return digit;
}

Event event_from_number(uint64_t number) {
  Event event;
  event.subject = take_digit(&number, SUBJECTS);
  event.mood = (Mood)take_digit(&number, MOODS);
  event.phrase = take_digit(&number, PHRASES);
  event.noun = take_digit(&number, NOUNS);
  event.prop = take_digit(&number, PROPS);
  event.place = take_digit(&number, PLACES);
  event.frame = take_digit(&number, FRAMES);
  return event;
}

/* The pattern with its % replaced. */
static void fill(const char *pattern, const char *filler, Text *out) {
  const char *hole = strchr(pattern, '%');
  text_print(out, "%.*s%s%s", (int)(hole - pattern), pattern, filler, hole + 1);
}

void post_text(const Event *event, Text *out) {
  const char *subject = subject_word[event->subject], *topic = topic_word[event_topic(event)];
  const char *prop = prop_word[event->prop], *place = place_word[event->place];
  const char *phrase = phrase_pattern[event->mood][event->phrase];
  const char *noun = noun_word[event_topic(event)][event->noun];
  if (event->frame == 0) {
    text_print(out, "#%s# %s ", topic, subject);
    fill(phrase, noun, out);
    text_print(out, " in %s with a %s.", place, prop);
  } else if (event->frame == 1) {
    text_print(out, "Just in: %s ", subject);
    fill(phrase, noun, out);
    text_print(out, " with a %s. #%s# %s", prop, topic, place);
  } else {
    text_print(out, "%s tonight: with a %s, %s ", place, prop, subject);
    fill(phrase, noun, out);
    text_print(out, "! #%s#", topic);
  }
}

void reply_core_text(const Reply *reply, Text *out) {
  char target[32];
  const char *word = "this";
  if (reply->target == TARGET_SUBJECT) word = subject_word[reply->target_index];
  if (reply->target == TARGET_PROP) word = prop_word[reply->target_index];
  if (reply->target == TARGET_TOPIC) word = topic_word[reply->target_index];
  snprintf(target, sizeof target, "%s%s", reply->target == TARGET_PROP ? "the " : "", word);
  fill(form_pattern[reply->stance][reply->form], target, out);
}

void reply_text(const Reply *reply, Text *out) {
  if (reply->opener) text_print(out, "%s ", opener_word[reply->opener]);
  reply_core_text(reply, out);
  if (reply->tail) text_print(out, ", %s", tail_words[reply->tail]);
  if (reply->punctuation)
    text_add(out, punctuation_mark[reply->punctuation], strlen(punctuation_mark[reply->punctuation]));
  if (reply->emoji) text_print(out, " %s", emoji_mark[reply->emoji]);
}

/* Reading. A piece is a run of letters, of the same punctuation mark, or of non-ASCII bytes. */

enum { MOST_PIECES = 40 };

typedef struct Pieces {
  const char *start[MOST_PIECES];
  int length[MOST_PIECES];
  int count;
} Pieces;

typedef enum PieceClass { CLASS_SPACE, CLASS_WORD, CLASS_MARK, CLASS_WIDE } PieceClass;

static PieceClass piece_class(char c) {
  if ((unsigned char)c >= 0x80) return CLASS_WIDE;
  if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9')) return CLASS_WORD;
  return (unsigned char)c <= ' ' ? CLASS_SPACE : CLASS_MARK;
}

/* false for a text of too many pieces: no text of the grammar is as long. */
static bool cut(const char *text, Pieces *out) {
  out->count = 0;
  while (*text) {
    const char *start = text++;
    PieceClass class = piece_class(*start);
    if (class == CLASS_SPACE) continue;
    while (*text && piece_class(*text) == class && (class != CLASS_MARK || *text == *start)) text++;
    if (out->count == MOST_PIECES) return false;
    out->start[out->count] = start;
    out->length[out->count++] = (int)(text - start);
  }
  return true;
}

static bool piece_is(const Pieces *pieces, int at, const char *word) {
  return at < pieces->count && (size_t)pieces->length[at] == strlen(word) &&
         strncasecmp(pieces->start[at], word, strlen(word)) == 0;
}

/* Reads one of the words [first, count) at *at and moves on; -1 and stays if none stands there. */
static int read_one_of(const Pieces *pieces, int *at, const char *const *words, int first, int count) {
  for (int i = first; i < count; i++) {
    if (!piece_is(pieces, *at, words[i])) continue;
    ++*at;
    return i;
  }
  return -1;
}

/* Reads the words of text (single spaces between them) up to length; true and moves on if all stand there. */
static bool read_words(const Pieces *pieces, int *at, const char *text, size_t length) {
  int next = *at;
  for (size_t i = 0; i < length;) {
    size_t end = i;
    while (end < length && text[end] != ' ') end++;
    if (end > i) {
      bool same = next < pieces->count && (size_t)pieces->length[next] == end - i &&
                  strncasecmp(pieces->start[next], text + i, end - i) == 0;
      if (!same) return false;
      next++;
    }
    i = end + 1;
  }
  *at = next;
  return true;
}

static bool read_target(const Pieces *pieces, int *at, Reply *reply) {
  int next = *at, found;
  reply->target_index = 0;
  if (piece_is(pieces, next, "the")) {
    next++;
    reply->target = TARGET_PROP;
    found = read_one_of(pieces, &next, prop_word, 0, PROPS);
  } else if ((found = read_one_of(pieces, &next, subject_word, 0, SUBJECTS)) >= 0) {
    reply->target = TARGET_SUBJECT;
  } else if ((found = read_one_of(pieces, &next, topic_word, 0, TOPICS)) >= 0) {
    reply->target = TARGET_TOPIC;
  } else {
    reply->target = TARGET_GENERIC;
    found = piece_is(pieces, next++, "this") ? 0 : -1;
  }
  if (found < 0) return false;
  reply->target_index = found;
  *at = next;
  return true;
}

static bool read_core(const Pieces *pieces, int *at, const char *pattern, Reply *reply) {
  const char *hole = strchr(pattern, '%');
  int next = *at;
  if (!read_words(pieces, &next, pattern, (size_t)(hole - pattern)) || !read_target(pieces, &next, reply) ||
      !read_words(pieces, &next, hole + 1, strlen(hole + 1)))
    return false;
  *at = next;
  return true;
}

static bool read_end(const Pieces *pieces, int at, Reply *reply) {
  reply->tail = 0;
  if (piece_is(pieces, at, ",")) {
    at++;
    for (int i = 1; i < TAILS && !reply->tail; i++)
      if (read_words(pieces, &at, tail_words[i], strlen(tail_words[i]))) reply->tail = i;
    if (!reply->tail) return false;
  }
  int mark = read_one_of(pieces, &at, punctuation_mark, 1, PUNCTUATIONS);
  int emoji = read_one_of(pieces, &at, emoji_mark, 1, EMOJIS);
  reply->punctuation = mark < 0 ? 0 : mark;
  reply->emoji = emoji < 0 ? 0 : emoji;
  return at == pieces->count;
}

bool reply_parse(const char *text, Reply *out, int *words) {
  Pieces pieces;
  if (!cut(text, &pieces)) return false;
  int start = 0, opener = read_one_of(&pieces, &start, opener_word, 1, OPENERS);
  *words = 0;
  for (int i = 0; i < pieces.count; i++) *words += piece_class(*pieces.start[i]) == CLASS_WORD;
  for (int stance = 0; stance < STANCES; stance++) {
    for (int form = 0; form < FORMS; form++) {
      int at = start;
      *out = (Reply){.opener = opener < 0 ? 0 : opener, .stance = (Stance)stance, .form = form};
      if (!read_core(&pieces, &at, form_pattern[stance][form], out) || !read_end(&pieces, at, out)) continue;
      *words -= out->target == TARGET_PROP; /* "the goat" counts as one, like a name */
      return true;
    }
  }
  return false;
}

/* The index of the one word of the list that the text contains; -1 if none or two do. */
static int find_only(const Pieces *pieces, const char *const *words, int count) {
  int found = -1;
  for (int at = 0; at < pieces->count; at++) {
    int next = at, index = read_one_of(pieces, &next, words, 0, count);
    if (index >= 0 && found >= 0) return -1;
    if (index >= 0) found = index;
  }
  return found;
}

static bool find_phrase(const Pieces *pieces, Event *event) {
  const char *const *nouns = noun_word[event_topic(event)];
  for (int mood = 0; mood < MOODS; mood++) {
    for (int phrase = 0; phrase < PHRASES; phrase++) {
      const char *pattern = phrase_pattern[mood][phrase], *hole = strchr(pattern, '%');
      for (int at = 0; at < pieces->count; at++) {
        int next = at, noun;
        if (read_words(pieces, &next, pattern, (size_t)(hole - pattern)) &&
            (noun = read_one_of(pieces, &next, nouns, 0, NOUNS)) >= 0 &&
            read_words(pieces, &next, hole + 1, strlen(hole + 1))) {
          event->mood = (Mood)mood;
          event->phrase = phrase;
          event->noun = noun;
          return true;
        }
      }
    }
  }
  return false;
}

bool post_parse(const char *text, Event *out) {
  Pieces pieces;
  if (!cut(text, &pieces)) return false;
  *out = (Event){.subject = find_only(&pieces, subject_word, SUBJECTS),
                 .prop = find_only(&pieces, prop_word, PROPS),
                 .place = find_only(&pieces, place_word, PLACES)};
  if (out->subject < 0 || out->prop < 0 || out->place < 0) return false;
  out->frame = piece_is(&pieces, 0, "#") ? 0 : piece_is(&pieces, 0, "just") ? 1 : 2;
  return find_phrase(&pieces, out);
}

/* The grammar of the synthetic world: what an event, a post and a reply are made of, their text, and the way
 * back from the text. Only world*.c include this. */
#ifndef POPALM_WORLD_GRAMMAR_H
#define POPALM_WORLD_GRAMMAR_H

#include <stdbool.h>
#include <stdint.h>

#include "base/text.h"

enum { TOPICS = 8, SUBJECTS = 16, PROPS = 8, PLACES = 10, NOUNS = 2, FRAMES = 3, PHRASES = 8 };

/* An event has a mood; the reply's stance should fit it. */
typedef enum Mood { MOOD_JOY, MOOD_SORROW, MOOD_OUTRAGE, MOOD_ABSURD, MOOD_PUZZLE, MOODS } Mood;
typedef enum Stance { PRAISE, EMPATHY, COMPLAINT, JOKE, QUESTION, STANCES } Stance;
typedef enum TargetKind {
  TARGET_SUBJECT,
  TARGET_PROP,
  TARGET_TOPIC,
  TARGET_GENERIC,
  TARGET_KINDS
} TargetKind;

enum { FORMS = 4, OPENERS = 6, TAILS = 6, PUNCTUATIONS = 5, EMOJIS = 6 }; /* all but forms: 0 is "none" */

typedef struct Event {
  int subject; /* tells the topic: subject / (SUBJECTS / TOPICS) */
  Mood mood;
  int phrase, noun, prop, place, frame;
} Event;

typedef struct Reply {
  int opener;
  Stance stance;
  int form;
  TargetKind target;
  int target_index; /* of the subject, prop or topic */
  int tail, punctuation, emoji;
} Reply;

/* Events are numbered 0 .. event_space() - 1. */
uint64_t event_space(void);
Event event_from_number(uint64_t number);
static inline int event_topic(const Event *event) { return event->subject / (SUBJECTS / TOPICS); }

void post_text(const Event *event, Text *out);
void reply_text(const Reply *reply, Text *out);
void reply_core_text(const Reply *reply, Text *out); /* stance and target only */

/* false if the text is none that post_text or reply_text can write, apart from white space and case. */
bool post_parse(const char *text, Event *out);
bool reply_parse(const char *text, Reply *out, int *words);

/* The parts of true popularity, each in [0, 1]. */
typedef struct Factors {
  double stance, target, wit, emoji, opener, punctuation;
  double length; /* multiplies the weighted sum of the others */
  bool of_event; /* false: it speaks of somebody or something else, which nobody likes */
} Factors;

Factors reply_factors(const Event *event, const Reply *reply, int words);
double factors_popularity(const Factors *factors);

/* What fits the event best, part by part; a reply of these parts in a short form has popularity 1. */
Reply reply_best(const Event *event);
Stance second_stance(Mood mood);
int witty_tail(const Event *event, Stance stance);
int fitting_emoji(Stance stance);
int fitting_punctuation(Stance stance);

#endif

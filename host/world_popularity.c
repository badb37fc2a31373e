/* True popularity of a reply: what people of the synthetic world like.
 *
 *   popularity = length * (0.34 stance + 0.24 target + 0.22 wit + 0.07 emoji + 0.07 opener + 0.06
 * punctuation)
 *
 * stance: how the reply's attitude fits the event's mood (table stance_fit).
 * target: in joy, sorrow and outrage people want to read of the person, in the absurd and the puzzling of the
 *   thing; the other of the two is worth 0.5, the topic 0.4, "this" 0.15.
 * wit: a tail is witty only with the right stance on the right kind of topic; the same tail after the same
 *   stance is flat on the other kind. No single word, of post or reply, shows it. Wit is multiplied by the
 *   stance's fit: a joke told at a funeral is no joke.
 * emoji and punctuation fit the stance, the opener fits the mood; none is worth half of a fitting one.
 * length: 4 to 6 words count in full, fewer 0.85, more 0.9; whom or what it names counts as one word.
 * A reply that names another person, thing or topic than the post has popularity 0. */
#include "world_grammar.h"

static const double stance_fit[MOODS][STANCES] = {
    /*                praise empathy complaint joke question */
    [MOOD_JOY] = {1.0, 0.2, 0.0, 0.5, 0.2},     [MOOD_SORROW] = {0.5, 1.0, 0.1, 0.0, 0.2},
    [MOOD_OUTRAGE] = {0.0, 0.1, 1.0, 0.3, 0.5}, [MOOD_ABSURD] = {0.3, 0.1, 0.1, 1.0, 0.5},
    [MOOD_PUZZLE] = {0.1, 0.1, 0.3, 0.5, 1.0},
};

/* Each row and column of a kind holds each tail once, so neither stance nor kind alone tells the tail. */
enum { TOPIC_STAGE, TOPIC_STREET, TOPIC_GROUPS };
static const int witty[TOPIC_GROUPS][STANCES] = {
    /*               praise empathy complaint joke question; tails as in world_grammar.c */
    [TOPIC_STAGE] = {3, 4, 2, 1, 5},
    [TOPIC_STREET] = {4, 5, 1, 2, 3},
};

static const TargetKind wanted_target[MOODS] = {TARGET_SUBJECT, TARGET_SUBJECT, TARGET_SUBJECT, TARGET_PROP,
                                                TARGET_PROP};
static const int wanted_opener[MOODS] = {1, 2, 3, 4, 5};
static const int wanted_emoji[STANCES] = {1, 2, 3, 4, 5};
static const int wanted_punctuation[STANCES] = {1, 3, 1, 1, 2};

static int topic_group(const Event *event) {
  return event_topic(event) < TOPICS / 2 ? TOPIC_STAGE : TOPIC_STREET;
}

int witty_tail(const Event *event, Stance stance) { return witty[topic_group(event)][stance]; }
int fitting_emoji(Stance stance) { return wanted_emoji[stance]; }
int fitting_punctuation(Stance stance) { return wanted_punctuation[stance]; }

static Stance best_stance(Mood mood, double below) {
  int best = -1;
  for (int s = 0; s < STANCES; s++)
    if (stance_fit[mood][s] < below && (best < 0 || stance_fit[mood][s] > stance_fit[mood][best])) best = s;
  return (Stance)best;
}

Stance second_stance(Mood mood) { return best_stance(mood, 1.0); }

Reply reply_best(const Event *event) {
  Stance stance = best_stance(event->mood, 2.0);
  TargetKind target = wanted_target[event->mood];
  return (Reply){.opener = wanted_opener[event->mood],
                 .stance = stance,
                 .target = target,
                 .target_index = target == TARGET_SUBJECT ? event->subject : event->prop,
                 .tail = witty_tail(event, stance),
                 .punctuation = wanted_punctuation[stance],
                 .emoji = wanted_emoji[stance]};
}

static double style_value(int got, int wanted) { return got == wanted ? 1.0 : got == 0 ? 0.5 : 0.0; }

static double target_value(const Event *event, const Reply *reply) {
  if (reply->target == wanted_target[event->mood]) return 1.0;
  if (reply->target == TARGET_GENERIC) return 0.15;
  return reply->target == TARGET_TOPIC ? 0.4 : 0.5;
}

static double wit_value(const Event *event, const Reply *reply) {
  if (reply->tail == 0) return 0.3;
  if (reply->tail == witty_tail(event, reply->stance)) return 1.0;
  return reply->tail == witty[!topic_group(event)][reply->stance] ? 0.0 : 0.1;
}

static bool speaks_of_event(const Event *event, const Reply *reply) {
  if (reply->target == TARGET_SUBJECT) return reply->target_index == event->subject;
  if (reply->target == TARGET_PROP) return reply->target_index == event->prop;
  return reply->target == TARGET_GENERIC || reply->target_index == event_topic(event);
}

Factors reply_factors(const Event *event, const Reply *reply, int words) {
  double fit = stance_fit[event->mood][reply->stance];
  return (Factors){.stance = fit,
                   .target = target_value(event, reply),
                   .wit = fit * wit_value(event, reply),
                   .emoji = style_value(reply->emoji, wanted_emoji[reply->stance]),
                   .opener = style_value(reply->opener, wanted_opener[event->mood]),
                   .punctuation = style_value(reply->punctuation, wanted_punctuation[reply->stance]),
                   .length = words < 4   ? 0.85
                             : words > 6 ? 0.9
                                         : 1.0,
                   .of_event = speaks_of_event(event, reply)};
}

double factors_popularity(const Factors *f) {
  if (!f->of_event) return 0;
  return f->length * (0.34 * f->stance + 0.24 * f->target + 0.22 * f->wit + 0.07 * f->emoji +
                      0.07 * f->opener + 0.06 * f->punctuation);
}

#include "curriculum.h"

#include <math.h>
#include <stdlib.h>

/* ---- rank: keep the highest rewards ---- */

typedef struct Ranked {
  double value;
  int index;
} Ranked;

static int by_value_then_index(const void *a, const void *b) {
  const Ranked *x = a, *y = b;
  if (x->value != y->value) return x->value < y->value ? -1 : 1;
  return x->index - y->index;
}

static int by_value_falling(const void *a, const void *b) {
  const Ranked *x = a, *y = b;
  if (x->value != y->value) return x->value > y->value ? -1 : 1;
  return x->index - y->index;
}

/* Keeps the best rank_share(n, keep), at least one, of samples first .. first+n-1. */
static void keep_best(CurriculumSample *samples, int first, int n, double keep, Arena *scratch) {
  Ranked *order = NEW(scratch, Ranked, n);
  for (int i = 0; i < n; i++) order[i] = (Ranked){samples[first + i].reward, first + i};
  qsort(order, (size_t)n, sizeof *order, by_value_falling);
  int best = (int)rank_share(n, keep);
  for (int i = best > 1 ? best : 1; i < n; i++) samples[order[i].index].fate = DROPPED_BY_RANK;
}

static void rank_none(const CurriculumSettings *settings, CurriculumSample *samples, int count,
                      Arena *scratch) {
  (void)settings, (void)samples, (void)count, (void)scratch;
}

static void rank_batch(const CurriculumSettings *settings, CurriculumSample *samples, int count,
                       Arena *scratch) {
  if (count) keep_best(samples, 0, count, settings->rank_keep, scratch);
}

static void rank_post(const CurriculumSettings *settings, CurriculumSample *samples, int count,
                      Arena *scratch) {
  for (int first = 0, end; first < count; first = end) {
    for (end = first; end < count && samples[end].post == samples[first].post;) end++;
    keep_best(samples, first, end - first, settings->rank_keep, scratch);
  }
}

static void (*const ranks[])(const CurriculumSettings *, CurriculumSample *, int, Arena *) = {
    [RANK_NONE] = rank_none, [RANK_BATCH] = rank_batch, [RANK_POST] = rank_post};

/* ---- difficulty: small is easy ---- */

double sample_probability(const CurriculumSettings *settings, double logprob, int length) {
  return exp(settings->pace_prob == PROB_GEOMETRIC && length > 0 ? logprob / length : logprob);
}

static double difficulty_reward_prob(const CurriculumSettings *settings, const CurriculumSample *sample) {
  double value = sample->reward * sample_probability(settings, sample->logprob, sample->length);
  return settings->pace_absolute ? -fabs(value) : -value;
}

static double difficulty_reward(const CurriculumSettings *settings, const CurriculumSample *sample) {
  (void)settings;
  return -sample->reward;
}

static double difficulty_logprob(const CurriculumSettings *settings, const CurriculumSample *sample) {
  return -log(sample_probability(settings, sample->logprob, sample->length));
}

static double difficulty_length(const CurriculumSettings *settings, const CurriculumSample *sample) {
  (void)settings;
  return sample->length;
}

static double difficulty_like_gap(const CurriculumSettings *settings, const CurriculumSample *sample) {
  (void)settings;
  return -sample->like_gap;
}

static double (*const difficulties[])(const CurriculumSettings *, const CurriculumSample *) = {
    [DIFFICULTY_REWARD_PROB] = difficulty_reward_prob,
    [DIFFICULTY_REWARD] = difficulty_reward,
    [DIFFICULTY_LOGPROB] = difficulty_logprob,
    [DIFFICULTY_LENGTH] = difficulty_length,
    [DIFFICULTY_LIKE_GAP] = difficulty_like_gap};

/* ---- pace ---- */

/* q(t) rises from q0 at t = 0 to 1 at t = 1. */
static double q_linear(double q0, double t) { return q0 + (1 - q0) * t; }
static double q_root(double q0, double t) { return q0 + (1 - q0) * sqrt(t); }
static double q_exponential(double q0, double t) { return pow(q0, 1 - t); }
static double q_step(double q0, double t) { return q0 + (1 - q0) * floor(4 * t) / 4; }
static double q_competence(double q0, double t) {
  return sqrt(q0 * q0 + (1 - q0 * q0) * t);
} /* Platanios et al. 2019 */

static double (*const quantiles[])(double, double) = {[Q_LINEAR] = q_linear,
                                                      [Q_ROOT] = q_root,
                                                      [Q_EXPONENTIAL] = q_exponential,
                                                      [Q_STEP] = q_step,
                                                      [Q_COMPETENCE] = q_competence};

double pace_quantile(const CurriculumSettings *settings, int64_t step, int64_t steps) {
  double end = fmax(1, settings->pace_q_end_at * (double)steps);
  return fmin(1, quantiles[settings->pace_q](settings->pace_q_start, fmin(1, (double)step / end)));
}

/* Each pace says how many of the n samples that rank left stay, and its threshold. */
typedef struct PaceInput {
  const CurriculumSettings *settings;
  int64_t step, steps;
  const CurriculumSample *samples;
  int count, n;
} PaceInput;

static int pace_none(const PaceInput *in, double *threshold) {
  *threshold = NAN;
  return in->n;
}

/* those with R prob(y) > lambda, lambda = start decay^step */
static int pace_reward_prob(const PaceInput *in, double *threshold) {
  int stay = 0;
  *threshold = in->settings->pace_start * pow(in->settings->pace_decay, (double)in->step);
  for (int i = 0; i < in->count; i++)
    stay += in->samples[i].fate == KEPT && -in->samples[i].difficulty > *threshold;
  return stay;
}

/* the share q(t) */
static int pace_of_quantile(const PaceInput *in, double *threshold) {
  *threshold = pace_quantile(in->settings, in->step, in->steps);
  return (int)ceil(*threshold * in->n - 1e-9);
}

static int (*const paces[])(const PaceInput *, double *) = {
    [PACE_NONE] = pace_none, [PACE_REWARD_PROB] = pace_reward_prob, [PACE_QUANTILE] = pace_of_quantile};

/* Which ones stay: the easiest, the hardest, or, as a control for "fewer samples", a random choice. */
static double order_value(const CurriculumSettings *settings, const CurriculumSample *sample, RandomKey key,
                          int i) {
  if (settings->pace_order == ORDER_RANDOM) return random_double(key, (uint32_t)i, 0);
  return settings->pace_order == ORDER_HARD ? -sample->difficulty : sample->difficulty;
}

static void keep_in_order(const CurriculumSettings *settings, RandomKey key, CurriculumSample *samples,
                          int count, int stay, Arena *scratch) {
  Ranked *order = NEW(scratch, Ranked, count);
  int n = 0;
  for (int i = 0; i < count; i++)
    if (samples[i].fate == KEPT) order[n++] = (Ranked){order_value(settings, &samples[i], key, i), i};
  qsort(order, (size_t)n, sizeof *order, by_value_then_index);
  for (int i = stay; i < n; i++) samples[order[i].index].fate = DROPPED_BY_PACE;
}

/* ---- the whole ---- */

static int kept(const CurriculumSample *samples, int count) {
  int total = 0;
  for (int i = 0; i < count; i++) total += samples[i].fate == KEPT;
  return total;
}

CurriculumStep curriculum_select(const CurriculumSettings *settings, int64_t step, int64_t steps,
                                 RandomKey key, CurriculumSample *samples, int count, Arena *scratch) {
  /* reward_prob is a pace and a measure in one */
  Difficulty measure =
      settings->pace == PACE_REWARD_PROB ? DIFFICULTY_REWARD_PROB : settings->pace_difficulty;
  for (int i = 0; i < count; i++) {
    samples[i].fate = KEPT;
    samples[i].difficulty = difficulties[measure](settings, &samples[i]);
  }
  CurriculumStep out;
  ranks[settings->rank](settings, samples, count, scratch);
  out.kept_rank = kept(samples, count);
  PaceInput input = {settings, step, steps, samples, count, out.kept_rank};
  int stay = paces[settings->pace](&input, &out.threshold);
  keep_in_order(settings, key, samples, count, stay, scratch);
  out.kept_pace = kept(samples, count);
  return out;
}

const char *sample_fate_name(SampleFate fate) {
  static const char *const names[] = {
      [KEPT] = "kept", [DROPPED_BY_RANK] = "dropped by rank", [DROPPED_BY_PACE] = "dropped by pace"};
  return names[fate];
}

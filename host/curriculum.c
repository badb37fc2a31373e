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

/* Keeps the best floor(keep * n), at least one, of samples first .. first+n-1. */
static void keep_best(CurriculumSample *samples, int first, int n, double keep, Arena *scratch) {
  Ranked *order = NEW(scratch, Ranked, n);
  for (int i = 0; i < n; i++) order[i] = (Ranked){samples[first + i].reward, first + i};
  qsort(order, (size_t)n, sizeof *order, by_value_falling);
  int best = (int)floor(keep * n + 1e-9); /* so that 3 * (1/3) is 1 */
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

typedef struct PaceInput {
  const CurriculumSettings *settings;
  int64_t step, steps;
  RandomKey key;
  CurriculumSample *samples;
  int count;
  Arena *scratch;
} PaceInput;

static double pace_none(const PaceInput *in) {
  (void)in;
  return NAN;
}

/* keep while R prob(y) > lambda, lambda = start decay^step */
static double pace_reward_prob(const PaceInput *in) {
  double lambda = in->settings->pace_start * pow(in->settings->pace_decay, (double)in->step);
  for (int i = 0; i < in->count; i++) {
    CurriculumSample *sample = &in->samples[i];
    if (sample->fate == KEPT && !(-difficulty_reward_prob(in->settings, sample) > lambda))
      sample->fate = DROPPED_BY_PACE;
  }
  return lambda;
}

/* Keep the share q(t): the easiest, the hardest, or, as a control for "fewer samples", a random choice. */
static double pace_of_quantile(const PaceInput *in) {
  Ranked *order = NEW(in->scratch, Ranked, in->count);
  int left = 0;
  for (int i = 0; i < in->count; i++) {
    if (in->samples[i].fate != KEPT) continue;
    double value = in->samples[i].difficulty;
    if (in->settings->pace_order == ORDER_HARD) value = -value;
    if (in->settings->pace_order == ORDER_RANDOM) value = random_double(in->key, (uint32_t)i, 0);
    order[left++] = (Ranked){value, i};
  }
  qsort(order, (size_t)left, sizeof *order, by_value_then_index);
  double q = pace_quantile(in->settings, in->step, in->steps);
  for (int i = (int)ceil(q * left - 1e-9); i < left; i++) in->samples[order[i].index].fate = DROPPED_BY_PACE;
  return q;
}

static double (*const paces[])(const PaceInput *) = {
    [PACE_NONE] = pace_none, [PACE_REWARD_PROB] = pace_reward_prob, [PACE_QUANTILE] = pace_of_quantile};

/* ---- the whole ---- */

static int kept(const CurriculumSample *samples, int count) {
  int total = 0;
  for (int i = 0; i < count; i++) total += samples[i].fate == KEPT;
  return total;
}

CurriculumStep curriculum_select(const CurriculumSettings *settings, int64_t step, int64_t steps,
                                 RandomKey key, CurriculumSample *samples, int count, Arena *scratch) {
  for (int i = 0; i < count; i++) {
    samples[i].fate = KEPT;
    samples[i].difficulty = difficulties[settings->pace_difficulty](settings, &samples[i]);
  }
  CurriculumStep out;
  ranks[settings->rank](settings, samples, count, scratch);
  out.kept_rank = kept(samples, count);
  out.threshold = paces[settings->pace](&(PaceInput){settings, step, steps, key, samples, count, scratch});
  out.kept_pace = kept(samples, count);
  return out;
}

const char *sample_fate_name(SampleFate fate) {
  static const char *const names[] = {
      [KEPT] = "kept", [DROPPED_BY_RANK] = "dropped by rank", [DROPPED_BY_PACE] = "dropped by pace"};
  return names[fate];
}

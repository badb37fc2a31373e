/* The curriculum for noisy likes: which samples of a step are learned from. Pure functions of rewards,
 * probabilities and the step; every schedule is a row of a table in curriculum.c. */
#ifndef POPALM_CURRICULUM_H
#define POPALM_CURRICULUM_H

#include <stdbool.h>

#include "experiment.h"

typedef enum SampleFate { KEPT, DROPPED_BY_RANK, DROPPED_BY_PACE } SampleFate;

typedef struct CurriculumSample {
  int post;          /* index within the step */
  double reward;     /* R, enhancement included */
  double logprob;    /* log prob(y) under the sampling distribution: sum over tokens */
  int length;        /* tokens */
  double like_gap;   /* ln of most over median likes of the post's replies; 0 when unknown */
  double difficulty; /* result: by the chosen measure, small is easy */
  SampleFate fate;   /* result */
} CurriculumSample;

typedef struct CurriculumStep {
  int kept_rank, kept_pace; /* after each */
  double threshold;         /* lambda of reward_prob, or the share q of quantile; NaN without a pace */
} CurriculumStep;

/* Decides every sample's fate at `step` of `steps`. scratch is freed by the caller. */
CurriculumStep curriculum_select(const CurriculumSettings *settings, int64_t step, int64_t steps,
                                 RandomKey key, CurriculumSample *samples, int count, Arena *scratch);
/* prob(y): the product over tokens, or its geometric mean. */
double sample_probability(const CurriculumSettings *settings, double logprob, int length);
/* The share of samples that a quantile pace keeps at this point of training. */
double pace_quantile(const CurriculumSettings *settings, int64_t step, int64_t steps);
const char *sample_fate_name(SampleFate fate);

#endif

/* Answers to posts: candidates sampled from a model, ranked by a reward model. What a post is answered
 * depends on its number and the seed alone, not on which posts are answered together with it. */
#ifndef POPALM_GENERATOR_H
#define POPALM_GENERATOR_H

#include "reward_model.h"
#include "rollout.h"

typedef struct Candidate {
  const char *text;
  double reward, logprob; /* logprob: of the whole reply under the sampling distribution */
} Candidate;

typedef struct Generator {
  Backend *backend;
  Model model;
  PromptCodec codec;
  SamplingSettings sampling;
  Rollout rollout;
  RewardModel reward;
  bool ranked;           /* there is a reward model; else the logprob ranks */
  int candidates, batch; /* sampled for each post; posts answered together, at most */
  uint64_t seed;
  int64_t posts, replies; /* answered so far; candidates sampled so far */
} Generator;

/* The candidates of one post, different ones, best first. */
typedef struct Answer {
  const char *post;
  Candidate *candidates; /* [count] */
  int count;
} Answer;

/* Reads the model's lengths, sampling and tokenizer, which the caller may change before generator_open. */
Status generator_read(Arena *arena, Generator *generator, const char *model) CHECKED;
/* reward: a reward stage's folder, or NULL. */
Status generator_open(Arena *arena, Generator *generator, const char *model, const char *reward,
                      const char *device) CHECKED;
void generator_close(Generator *generator);
/* How many posts may be answered together next: batch, or fewer where the random numbers' key changes. */
int generator_room(const Generator *generator);
/* Fills in the answers; the texts are in scratch. watch: as in RolloutRequest, for one candidate of one post.
 */
Status generator_answer(Generator *generator, Answer *answers, int count, RolloutWatch watch,
                        Arena *scratch) CHECKED;

#endif

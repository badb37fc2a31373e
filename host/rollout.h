/* Sampling replies: each post's prompt goes through the decoder once, then all samples of all posts are
 * decoded together, one token a step, until each has drawn <eos> or is full. Replies that have ended leave
 * the batch at times. Where the backend records, the batch has one of a few sizes, each with a recorded step;
 * its rows beyond the open replies are ended ones, which stay as they are. */
#ifndef POPALM_ROLLOUT_H
#define POPALM_ROLLOUT_H

#include "batch.h"
#include "models/decode.h"
#include "prompt.h"

typedef struct Reply {
  int32_t *tokens; /* [length], <eos> included when it ended */
  float *logprob;  /* [length] under the sampling distribution */
  int length;
  bool ended;
} Reply;

typedef struct RolloutArrays {                               /* int32 each, one allocation */
  int32_t *post, *slot, *sample, *last_row;                  /* [rows]; last_row: of the post's prompt */
  int32_t *token, *position, *reply_len, *cache_row, *index; /* [rows] */
  int32_t *drawn;                                            /* [rows] */
  int32_t *length, *finished;                                /* [slots] */
  int32_t *reply;                                            /* [slots, max_reply] */
} RolloutArrays;

/* The decode step of one number of rows: run the first time, recorded the second, then replayed. */
typedef struct RolloutStep {
  int rows;
  bool warm;
  void *recording; /* or NULL */
} RolloutStep;

enum { ROLLOUT_STEPS = 6 }; /* max_rows, its half, ... */

typedef struct Rollout {
  const Model *model;
  int max_posts, max_rows, max_reply; /* of this rank */
  int32_t eos;
  SamplingSettings sampling; /* that the recordings were made with */
  RolloutStep steps[ROLLOUT_STEPS];
  Batch prompts;
  Activations activations;
  ModelRows normed;
  DecodeCache cache;
  RolloutArrays host, device;
  RandomKey *device_key;                                        /* [1] */
  float *device_logits, *device_logprob, *device_reply_logprob; /* [rows, V], [rows], [slots, max_reply] */
} Rollout;

/* How many of an evaluation's posts are answered together, over all ranks. */
int rollout_evaluated_at_once(int posts);

/* Device bytes that rollout_allocate takes, where prompts have at most prompt_tokens tokens. */
size_t rollout_bytes(const DecoderConfig *config, DType storage, int prompt_tokens, int max_reply,
                     int max_posts, int samples_per_post);
/* Buffers for up to max_posts posts of samples_per_post samples, over all ranks. */
Status rollout_allocate(Arena *arena, Rollout *rollout, const Model *model, const PromptCodec *codec,
                        int max_posts, int samples_per_post) CHECKED;
void rollout_free(Rollout *rollout);

/* Told after each step what a reply has so far; for a request of one reply. show NULL: nobody looks. */
typedef struct RolloutWatch {
  void (*show)(void *state, const int32_t *tokens, int count);
  void *state;
} RolloutWatch;

typedef struct RolloutRequest {
  const int32_t *const *prompts; /* [posts] */
  const int *prompt_lengths;     /* [posts] */
  int posts, samples;            /* of each post */
  SamplingSettings sampling;
  RandomKey key;
  int first_sample; /* sample ids are first_sample + post * samples + i: what a sample draws depends on its id
                       alone */
  RolloutWatch watch;
} RolloutRequest;

/* replies: [posts * samples], samples of a post together, tokens in `arena`. With several ranks all call it with
 * the same request; each samples the replies to a part of the posts, and all get all. */
Status rollout_run(Rollout *rollout, const RolloutRequest *request, Arena *arena, Reply *replies) CHECKED;

#endif

#include "generator.h"

#include <stdlib.h>
#include <string.h>

enum { POSTS_A_KEY = 4096 }; /* a sample's number within a key is an int */

Status generator_read(Arena *arena, Generator *g, const char *model) {
  return prompt_load(arena, model, &g->codec, &g->sampling);
}

Status generator_open(Arena *arena, Generator *g, const char *model, const char *reward, const char *device) {
  g->ranked = reward != NULL;
  TRY(backend_open(device, &g->backend));
  TRY(model_load(arena, &g->model, g->backend, model, (ModelParts){0}, false, 0));
  TRY(rollout_allocate(arena, &g->rollout, &g->model, &g->codec, g->batch, g->candidates));
  return g->ranked ? reward_model_load(arena, &g->reward, g->backend, reward, &g->model) : OK;
}

void generator_close(Generator *g) {
  rollout_free(&g->rollout);
  reward_model_free(&g->reward);
  model_free(&g->model);
  if (g->backend) g->backend->close(g->backend);
}

int generator_room(const Generator *g) {
  int left = POSTS_A_KEY - (int)(g->posts % POSTS_A_KEY);
  return left < g->batch ? left : g->batch;
}

static int by_reward_falling(const void *a, const void *b) {
  const Candidate *x = a, *y = b;
  if (x->reward != y->reward) return x->reward > y->reward ? -1 : 1;
  return x->logprob > y->logprob ? -1 : x->logprob < y->logprob;
}

static int drop_repeats(Candidate *candidates, int count) {
  int kept = 0;
  for (int i = 0; i < count; i++) {
    bool repeated = false;
    for (int j = 0; j < kept && !repeated; j++)
      repeated = strcmp(candidates[j].text, candidates[i].text) == 0;
    if (!repeated) candidates[kept++] = candidates[i];
  }
  return kept;
}

static Status sample(Generator *g, Answer *answers, int count, RolloutWatch watch, Arena *scratch) {
  const int32_t **prompts = NEW(scratch, const int32_t *, count);
  int *lengths = NEW(scratch, int, count);
  Reply *replies = NEW(scratch, Reply, count * g->candidates);
  for (int p = 0; p < count; p++) {
    int32_t *prompt = NEW(scratch, int32_t, prompt_max(&g->codec));
    lengths[p] = prompt_encode(&g->codec, answers[p].post, prompt);
    prompts[p] = prompt;
  }
  RolloutRequest request = {.prompts = prompts,
                            .prompt_lengths = lengths,
                            .posts = count,
                            .samples = g->candidates,
                            .sampling = g->sampling,
                            .key = {g->seed, RANDOM_GENERATE, (uint32_t)(g->posts / POSTS_A_KEY)},
                            .first_sample = (int)(g->posts % POSTS_A_KEY) * g->candidates,
                            .watch = watch};
  TRY(rollout_run(&g->rollout, &request, scratch, replies));
  for (int p = 0; p < count; p++) {
    answers[p].candidates = NEW(scratch, Candidate, g->candidates);
    for (int i = 0; i < g->candidates; i++) {
      const Reply *reply = &replies[p * g->candidates + i];
      double logprob = 0;
      for (int t = 0; t < reply->length; t++) logprob += (double)reply->logprob[t];
      const char *text = tokenizer_decode_text(g->codec.tokenizer, scratch, reply->tokens, reply->length);
      answers[p].candidates[i] = (Candidate){text, logprob, logprob};
    }
    answers[p].count = drop_repeats(answers[p].candidates, g->candidates);
  }
  return OK;
}

static Status score(Generator *g, Answer *answers, int count, Arena *scratch) {
  Scored *scored = NEW(scratch, Scored, count * g->candidates);
  int texts = 0, next = 0;
  for (int p = 0; p < count; p++)
    for (int i = 0; i < answers[p].count; i++)
      scored[texts++] = (Scored){.post = answers[p].post, .reply = answers[p].candidates[i].text};
  TRY(reward_model_score(&g->reward, scored, texts));
  for (int p = 0; p < count; p++)
    for (int i = 0; i < answers[p].count; i++) answers[p].candidates[i].reward = scored[next++].reward;
  return OK;
}

Status generator_answer(Generator *g, Answer *answers, int count, RolloutWatch watch, Arena *scratch) {
  TRY(sample(g, answers, count, watch, scratch));
  if (g->ranked) TRY(score(g, answers, count, scratch));
  for (int p = 0; p < count; p++)
    qsort(answers[p].candidates, (size_t)answers[p].count, sizeof(Candidate), by_reward_falling);
  g->posts += count;
  g->replies += (int64_t)count * g->candidates;
  return OK;
}

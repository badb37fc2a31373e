#include "examples.h"

#include <stdlib.h>

/* Lengths of one post's examples from `first` on. */
static Status measure(const Examples *examples, int64_t line, int64_t first, int64_t end, Arena *scratch) {
  Post post;
  TRY(dataset_post(examples->dataset, line, scratch, &post));
  int32_t *tokens = NEW(scratch, int32_t, sequence_max(examples->codec));
  int prompt = prompt_encode(examples->codec, post.text, tokens);
  for (int64_t i = first; i < end; i++)
    examples->length[i] =
        (uint16_t)(prompt + reply_encode(examples->codec, post.reply[examples->reply[i]], tokens));
  return OK;
}

static Status measure_all(const Examples *examples, const int64_t *first) {
  Status status = OK;
#pragma omp parallel
  {
    Arena scratch = {0};
#pragma omp for schedule(dynamic, 64)
    for (int64_t line = 0; line < examples->dataset->count; line++) {
      ArenaMark mark = arena_mark(&scratch);
      Status one = measure(examples, line, first[line], first[line + 1], &scratch);
      if (one != OK) {
#pragma omp critical
        status = one;
      }
      arena_reset(&scratch, mark);
    }
    arena_free(&scratch);
  }
  /* the message of another thread is lost to this one; a dataset that was checked at opening has none */
  return status == OK ? OK
                      : fail(status, "%s: was changed while it was read; run again", examples->dataset->path);
}

Status examples_build(Arena *arena, const Dataset *dataset, const PromptCodec *codec, int replies_per_post,
                      uint64_t seed, Examples *out) {
  *out = (Examples){.dataset = dataset, .codec = codec, .seed = seed};
  if (sequence_max(codec) > UINT16_MAX)
    return fail(INVALID,
                "data.max_post_tokens and data.max_reply_tokens make sequences over %d tokens; lower them",
                UINT16_MAX);
  int64_t *first = NEW(arena, int64_t, dataset->count + 1);
  Arena scratch = {0};
  Status status = OK;
  for (int64_t line = 0; line < dataset->count && status == OK; line++) {
    ArenaMark mark = arena_mark(&scratch);
    Post post = {0};
    status = dataset_post(dataset, line, &scratch, &post);
    int kept = replies_per_post > 0 && post.replies > replies_per_post ? replies_per_post : post.replies;
    first[line + 1] = first[line] + (kept < UINT16_MAX ? kept : UINT16_MAX);
    arena_reset(&scratch, mark);
  }
  arena_free(&scratch);
  TRY(status);
  out->count = first[dataset->count];
  out->post = NEW(arena, uint32_t, out->count);
  out->reply = NEW(arena, uint16_t, out->count);
  out->length = NEW(arena, uint16_t, out->count);
  for (int64_t line = 0; line < dataset->count; line++)
    for (int64_t i = first[line]; i < first[line + 1]; i++) {
      out->post[i] = (uint32_t)line;
      out->reply[i] = (uint16_t)(i - first[line]);
    }
  return measure_all(out, first);
}

int64_t examples_at(const Examples *examples, int64_t at) {
  RandomKey key = {examples->seed, RANDOM_SHUFFLE, (uint32_t)(at / examples->count)};
  return (int64_t)random_permutation(key, (uint64_t)examples->count, (uint64_t)(at % examples->count));
}

int64_t examples_batches(const Examples *examples, int64_t total, int tokens_per_batch) {
  int64_t batches = 0, tokens = tokens_per_batch;
  for (int64_t at = 0; at < total; at++) {
    int length = examples->length[examples_at(examples, at)];
    if (tokens + length > tokens_per_batch) {
      batches++;
      tokens = 0;
    }
    tokens += length;
  }
  return batches;
}

Status examples_add(const Examples *examples, int64_t i, Batch *batch) {
  Arena scratch = {0};
  Post post = {0};
  Status status = dataset_post(examples->dataset, examples->post[i], &scratch, &post);
  if (status == OK) {
    int32_t *tokens = NEW(&scratch, int32_t, sequence_max(examples->codec));
    int prompt = prompt_encode(examples->codec, post.text, tokens);
    int count = prompt + reply_encode(examples->codec, post.reply[examples->reply[i]], tokens + prompt);
    batch_add(batch, tokens, count, prompt);
  }
  arena_free(&scratch);
  return status;
}

Status examples_fill(const Examples *examples, Batch *batch, int64_t *at, int64_t total) {
  batch_clear(batch);
  for (; *at < total; ++*at) {
    int64_t i = examples_at(examples, *at);
    if (!batch_fits(batch, examples->length[i])) break;
    TRY(examples_add(examples, i, batch));
  }
  return OK;
}

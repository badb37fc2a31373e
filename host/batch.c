#include "batch.h"

#include <string.h>

static size_t padded(int count) { return ((size_t)count + 63) / 64 * 64; }

static size_t elements(const Batch *batch) {
  return 5 * padded(batch->max_tokens) + padded(batch->max_sequences + 1);
}

static BatchArrays lay_out(const Batch *batch, int32_t *base) {
  size_t tokens = padded(batch->max_tokens), sequences = padded(batch->max_sequences + 1);
  return (BatchArrays){.tokens = base,
                       .positions = base + tokens,
                       .ids = base + 2 * tokens,
                       .cu_seqlens = base + 3 * tokens,
                       .rows = base + 3 * tokens + sequences,
                       .targets = base + 4 * tokens + sequences};
}

size_t batch_bytes(int max_tokens, int max_sequences) {
  Batch shape = {.max_tokens = max_tokens, .max_sequences = max_sequences};
  return elements(&shape) * sizeof(int32_t);
}

Status batch_allocate(Arena *arena, Batch *batch, Backend *backend, int max_tokens, int max_sequences) {
  *batch = (Batch){.backend = backend, .max_tokens = max_tokens, .max_sequences = max_sequences};
  batch->host = lay_out(batch, NEW(arena, int32_t, elements(batch)));
  void *device;
  TRY(backend->alloc(backend, elements(batch) * sizeof(int32_t), "a batch of tokens", &device));
  batch->device = lay_out(batch, device);
  return OK;
}

void batch_free(Batch *batch) {
  if (batch->device.tokens) batch->backend->free(batch->backend, batch->device.tokens);
  batch->device.tokens = NULL;
}

void batch_clear(Batch *batch) { batch->tokens = batch->sequences = batch->rows = batch->max_len = 0; }

bool batch_fits(const Batch *batch, int tokens) {
  return batch->tokens + tokens <= batch->max_tokens && batch->sequences < batch->max_sequences;
}

static void add_row(Batch *batch, int row, int32_t target) {
  batch->host.rows[batch->rows] = row;
  batch->host.targets[batch->rows++] = target;
}

static void add_tokens(Batch *batch, const int32_t *tokens, int count) {
  memcpy(batch->host.tokens + batch->tokens, tokens, sizeof *tokens * (size_t)count);
  for (int i = 0; i < count; i++) {
    batch->host.positions[batch->tokens + i] = i;
    batch->host.ids[batch->tokens + i] = batch->tokens + i;
  }
  batch->tokens += count;
  batch->host.cu_seqlens[0] = 0;
  batch->host.cu_seqlens[++batch->sequences] = batch->tokens;
  if (count > batch->max_len) batch->max_len = count;
}

void batch_add(Batch *batch, const int32_t *tokens, int count, int first_target) {
  for (int t = first_target; t < count; t++) add_row(batch, batch->tokens + t - 1, tokens[t]);
  add_tokens(batch, tokens, count);
}

void batch_add_scored(Batch *batch, const int32_t *tokens, int count) {
  add_row(batch, batch->tokens + count - 1, 0);
  add_tokens(batch, tokens, count);
}

void batch_upload(Batch *batch) {
  batch->backend->upload(batch->backend, batch->device.tokens, batch->host.tokens,
                         elements(batch) * sizeof(int32_t));
}

DecoderInput batch_input(const Batch *batch) {
  return (DecoderInput){.tokens = batch->device.tokens,
                        .positions = batch->device.positions,
                        .sequences = {.cu_seqlens = batch->device.cu_seqlens,
                                      .count = batch->sequences,
                                      .tokens = batch->tokens,
                                      .max_len = batch->max_len}};
}

DecoderDropout batch_dropout(const Batch *batch, RandomKey key) {
  return (DecoderDropout){key, batch->device.ids};
}

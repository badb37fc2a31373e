#include "batch.h"

static size_t padded(int count) { return ((size_t)count + 63) / 64 * 64; }

static size_t elements(const Batch *batch) {
  return 6 * padded(batch->max_tokens) + 2 * padded(batch->max_sequences + 1);
}

static BatchArrays lay_out(const Batch *batch, int32_t *base) {
  size_t tokens = padded(batch->max_tokens), sequences = padded(batch->max_sequences + 1);
  return (BatchArrays){.tokens = base,
                       .positions = base + tokens,
                       .ids = base + 2 * tokens,
                       .branch = base + 3 * tokens,
                       .rows = base + 4 * tokens,
                       .targets = base + 5 * tokens,
                       .cu_seqlens = base + 6 * tokens,
                       .shared = base + 6 * tokens + sequences};
}

size_t batch_bytes(int max_tokens, int max_sequences) {
  Batch shape = {.max_tokens = max_tokens, .max_sequences = max_sequences};
  return elements(&shape) * sizeof(int32_t);
}

Status batch_allocate(Arena *arena, Batch *batch, Backend *backend, int max_tokens, int max_sequences) {
  *batch = (Batch){.backend = backend, .max_tokens = max_tokens, .max_sequences = max_sequences};
  batch->host = lay_out(batch, NEW(arena, int32_t, elements(batch)));
  batch->text_shared = NEW(arena, int32_t, max_sequences);
  void *device;
  TRY(backend->alloc(backend, elements(batch) * sizeof(int32_t), "a batch of tokens", &device));
  batch->device = lay_out(batch, device);
  return OK;
}

void batch_free(Batch *batch) {
  if (batch->device.tokens) batch->backend->free(batch->backend, batch->device.tokens);
  batch->device.tokens = NULL;
}

void batch_clear(Batch *batch) {
  batch->tokens = batch->sequences = batch->rows = batch->max_len = 0;
  batch->texts = batch->text_tokens = 0;
  batch->branches = false;
}

bool batch_fits(const Batch *batch, int tokens) {
  return batch->tokens + tokens <= batch->max_tokens && batch->texts < batch->max_sequences;
}

static void add_row(Batch *batch, int row, int32_t target) {
  batch->host.rows[batch->rows] = row;
  batch->host.targets[batch->rows++] = target;
}

/* The tokens of a text from `from` on. */
static void add_tokens(Batch *batch, const int32_t *tokens, int from, int count, int branch) {
  for (int i = from; i < count; i++) {
    int at = batch->tokens++;
    batch->host.tokens[at] = tokens[i];
    batch->host.positions[at] = i;
    batch->host.ids[at] = batch->text_tokens + i;
    batch->host.branch[at] = branch;
  }
}

/* Whether a text of count tokens can become a branch of the last sequence, whose texts so far share as many.
 */
static bool branches_off(const Batch *batch, int count, int shared) {
  if (shared <= 0 || batch->apart || batch->texts == 0) return false;
  int last = batch->sequences - 1, begin = batch->host.cu_seqlens[last];
  int length = batch->tokens - begin, before = batch->host.shared[last];
  return (before == shared || before == 0) && length + count - shared <= BRANCHED_LENGTHS * batch->first_text;
}

/* The last sequence's first text, until now one whole, becomes a branch too. */
static void split_first(Batch *batch, int shared) {
  int last = batch->sequences - 1, begin = batch->host.cu_seqlens[last];
  if (batch->host.shared[last]) return;
  batch->host.shared[last] = shared;
  for (int t = begin + shared; t < batch->tokens; t++) batch->host.branch[t] = begin + shared;
  batch->branches = true;
}

int batch_place(Batch *batch, const int32_t *tokens, int count, int shared) {
  int begin = batch->tokens;
  if (branches_off(batch, count, shared)) {
    split_first(batch, shared);
    add_tokens(batch, tokens, shared, count, begin);
    begin -= shared;
  } else {
    add_tokens(batch, tokens, 0, count, begin);
    batch->host.shared[batch->sequences++] = 0;
    batch->first_text = count;
  }
  batch->text_shared[batch->texts++] = shared;
  batch->text_tokens += count;
  int last = batch->sequences - 1;
  batch->host.cu_seqlens[0] = 0;
  batch->host.cu_seqlens[last + 1] = batch->tokens;
  int length = batch->tokens - batch->host.cu_seqlens[last];
  if (length > batch->max_len) batch->max_len = length;
  return begin;
}

void batch_branch(Batch *batch, const int32_t *tokens, int count, int first_target, int shared) {
  int first = batch_place(batch, tokens, count, shared);
  for (int t = first_target; t < count; t++) add_row(batch, first + t - 1, tokens[t]);
}

void batch_branch_scored(Batch *batch, const int32_t *tokens, int count, int shared) {
  add_row(batch, batch_place(batch, tokens, count, shared) + count - 1, 0);
}

void batch_add(Batch *batch, const int32_t *tokens, int count, int first_target) {
  batch_branch(batch, tokens, count, first_target, 0);
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
                                      .max_len = batch->max_len,
                                      .shared = batch->branches ? batch->device.shared : NULL,
                                      .branch = batch->branches ? batch->device.branch : NULL}};
}

DecoderDropout batch_dropout(const Batch *batch, RandomKey key) {
  return (DecoderDropout){key, batch->device.ids};
}

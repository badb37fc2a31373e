/* Benchmarks of the vocabulary layer and of what one decode step does behind it. In the formulas w is the
 * width of a stored element, H the hidden size, V the vocabulary. */
#include <string.h>

#include "bench_kernels.h"

static const char *vocab_size(BenchInputs *in, int rows, const BenchShape *shape) {
  return arena_print(in->arena, "%d x %d, V %d", rows, shape->hidden, shape->vocab);
}

/* 2 rows H V operations; the logits need not be stored. */
static void make_vocab(BenchInputs *in, const BenchShape *shape, BenchCall *call) {
  int rows = loss_rows(shape), H = shape->hidden, V = shape->vocab;
  call->op = BENCH_OP(
      in, Vocab, .hidden = bench_numbers(in, (size_t)rows * H, ACTIVATION),
      .weight = bench_numbers(in, (size_t)V * H, WEIGHT), .targets = bench_integers(in, rows, 0, V - 1, NULL),
      .logprob = bench_output(in, (size_t)rows * sizeof(float)),
      .entropy = bench_output(in, (size_t)rows * sizeof(float)), .rows = rows, .hidden_size = H, .vocab = V);
  call->operations = 2.0 * rows * H * V;
  call->bytes = width_of(in) * H * ((double)rows + V) + 12.0 * rows;
  call->size = vocab_size(in, rows, shape);
}

/* 6 rows H V operations: logits, dhidden, dweight. dhidden is written, dweight read and written. */
static void make_vocab_backward(BenchInputs *in, const BenchShape *shape, BenchCall *call) {
  int rows = loss_rows(shape), H = shape->hidden, V = shape->vocab;
  call->op = BENCH_OP(
      in, VocabBackward, .hidden = bench_numbers(in, (size_t)rows * H, ACTIVATION),
      .weight = bench_numbers(in, (size_t)V * H, WEIGHT), .targets = bench_integers(in, rows, 0, V - 1, NULL),
      .dlogprob = bench_floats(in, (size_t)rows, WEIGHT),
      .logprob = bench_output(in, (size_t)rows * sizeof(float)),
      .dhidden = bench_output(in, (size_t)rows * H * dtype_bytes(in->backend->storage)),
      .dweight = bench_numbers(in, (size_t)V * H, WEIGHT), .rows = rows, .hidden_size = H, .vocab = V);
  call->operations = 6.0 * rows * H * V;
  call->bytes = width_of(in) * H * (2.0 * rows + 3.0 * V) + 12.0 * rows;
  call->size = vocab_size(in, rows, shape);
}

/* One decode step's logits: 2 rows H V operations; fp32 logits are written. */
static void make_vocab_logits(BenchInputs *in, const BenchShape *shape, BenchCall *call) {
  int rows = shape->replies, H = shape->hidden, V = shape->vocab;
  call->op = BENCH_OP(in, VocabLogits, .hidden = bench_numbers(in, (size_t)rows * H, ACTIVATION),
                      .weight = bench_numbers(in, (size_t)V * H, WEIGHT),
                      .logits = bench_output(in, (size_t)rows * V * sizeof(float)), .rows = rows,
                      .hidden_size = H, .vocab = V);
  call->operations = 2.0 * rows * H * V;
  call->bytes = width_of(in) * H * ((double)rows + V) + 4.0 * rows * V;
  call->size = vocab_size(in, rows, shape);
}

/* sample overwrites its logits. */
typedef struct SampleCase {
  Sample sample; /* first: run takes it for the operation */
  const float *logits;
} SampleCase;

/* The logits are read once: 4 rows V bytes. */
static void make_sample(BenchInputs *in, const BenchShape *shape, BenchCall *call) {
  int rows = shape->replies, V = shape->vocab;
  size_t count = (size_t)rows * V;
  const RandomKey key = {.seed = 1, .use = RANDOM_TEST};
  Sample sample = {.logits = bench_output(in, count * sizeof(float)),
                   .rows = rows,
                   .vocab = V,
                   .temperature = 1,
                   .top_p = 0.9f,
                   .top_k = V > 50 ? 50 : 0,
                   .key = bench_upload(in, &key, sizeof key),
                   .sample = bench_steps(in, rows, 0, 1),
                   .position = bench_integers(in, rows, 0, shape->reply - 1, NULL),
                   .token = bench_output(in, (size_t)rows * sizeof(int32_t)),
                   .logprob = bench_output(in, (size_t)rows * sizeof(float))};
  call->op = BENCH_OP(in, SampleCase, .sample = sample, .logits = bench_floats(in, count, ACTIVATION));
  call->bytes = 4.0 * (double)count + 16.0 * rows;
  call->size = arena_print(in->arena, "%d x %d, top k %d, p 0.9", rows, V, sample.top_k);
}

static void restore_sample(Backend *backend, const void *op) {
  const SampleCase *c = op;
  backend->copy(backend, c->sample.logits, c->logits,
                (size_t)c->sample.rows * c->sample.vocab * sizeof(float));
}

/* A row reads 10 and writes 9 words. */
static void make_decode_advance(BenchInputs *in, const BenchShape *shape, BenchCall *call) {
  int rows = shape->replies, most = shape->reply;
  size_t words = (size_t)rows * sizeof(int32_t);
  call->op = BENCH_OP(in, DecodeAdvance, .slot = bench_steps(in, rows, 0, 1),
                      .token = bench_integers(in, rows, 2, shape->vocab - 1, NULL),
                      .logprob = bench_floats(in, (size_t)rows, ACTIVATION), .eos = 1, .rows = rows,
                      .max_reply = most, .reply = bench_output(in, words * most),
                      .reply_logprob = bench_output(in, words * most), .length = bench_output(in, words),
                      .finished = bench_output(in, words), .next_token = bench_output(in, words),
                      .next_position = bench_output(in, words), .next_reply_len = bench_output(in, words),
                      .next_cache_row = bench_output(in, words), .next_index = bench_output(in, words));
  call->bytes = 4.0 * 19 * rows;
  call->size = arena_print(in->arena, "%d rows", rows);
}

/* Every reply is empty again. */
static void restore_decode_advance(Backend *backend, const void *op) {
  const DecodeAdvance *a = op;
  size_t words = (size_t)a->rows * sizeof(int32_t);
  backend->zero(backend, a->length, words);
  backend->zero(backend, a->finished, words);
  backend->zero(backend, a->next_reply_len, words);
}

BENCH_RUN(vocab)
BENCH_RUN(vocab_backward)
BENCH_RUN(vocab_logits)
BENCH_RUN(sample)
BENCH_RUN(decode_advance)

enum { SETS = SET_RLHF | SET_LARGE | SET_TINY };

static const BenchKernel rows[] = {
    {"vocab", SETS, "logprob and entropy of the vocabulary's softmax", make_vocab, run_vocab, NULL, NULL},
    {"vocab_backward", SETS, "its gradient: the whole loss of a cross-entropy", make_vocab_backward,
     run_vocab_backward, NULL, NULL},
    {"vocab_logits", SETS, "logits for sampling", make_vocab_logits, run_vocab_logits, NULL, NULL},
    {"sample", SETS, "one token a row, top k and top p", make_sample, run_sample, restore_sample, NULL},
    {"decode_advance", SET_RLHF | SET_TINY, "bookkeeping of a decode step", make_decode_advance,
     run_decode_advance, restore_decode_advance, NULL},
};

const BenchKernels bench_vocab_kernels = BENCH_ROWS(rows);

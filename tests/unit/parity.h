/* For tests that compare a model with what another program computed of it: logits and the loss of one
 * training step, whose gradients stand in p.model.parameters afterwards. */
#ifndef POPALM_TESTS_PARITY_H
#define POPALM_TESTS_PARITY_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "batch.h"
#include "models/import.h"
#include "models/model.h"
#include "testing.h"

enum { PARITY_TOKENS = 32 };

/* A model run over the input of a fixture, and what another program computed there. */
typedef struct Parity {
  Arena arena;
  Backend *backend;
  SafeFile expected;
  const Family *family;
  Model model;
  Activations activations;
  ModelRows rows;
  Batch batch;
  int tokens, vocab;
} Parity;

static const float *expected_floats(Parity *p, const char *name) {
  const SafeTensor *tensor = safetensors_find(&p->expected, name);
  if (!tensor) fail_msg("the fixture has no tensor %s", name);
  assert_int_equal(tensor->type, SAFE_F32);
  float *copy = NEW(&p->arena, float, tensor->bytes / sizeof(float)); /* it may be unaligned */
  memcpy(copy, tensor->data, tensor->bytes);
  return copy;
}

static const int32_t *expected_ints(Parity *p, const char *name, int *count) {
  const SafeTensor *tensor = safetensors_find(&p->expected, name);
  assert_non_null(tensor);
  *count = (int)tensor->shape[0];
  int32_t *copy = NEW(&p->arena, int32_t, *count);
  memcpy(copy, tensor->data, tensor->bytes);
  return copy;
}

/* Every token is input and every next token a target, sequence by sequence. */
static void fill_batch(Parity *p) {
  int sequences;
  const int32_t *tokens = expected_ints(p, "tokens", &p->tokens);
  const int32_t *lengths = expected_ints(p, "lengths", &sequences);
  batch_clear(&p->batch);
  for (int s = 0, at = 0; s < sequences; at += lengths[s++]) batch_add(&p->batch, tokens + at, lengths[s], 1);
  batch_upload(&p->batch);
}

/* folder: of expected.safetensors */
static void open_expected(Parity *p, const char *folder) {
  *p = (Parity){0};
  assert_int_equal(cpu_backend_open(0, &p->backend), OK);
  Status status =
      safetensors_open(&p->arena, path_join(&p->arena, folder, "expected.safetensors"), &p->expected);
  if (status != OK) fail_msg("%s", error_message());
}

/* Another tool's model as a folder of ours. */
static void import_into(Parity *p, const char *source, bool gguf, const char *folder) {
  ForeignModel foreign;
  Status status = gguf ? import_open_gguf(&p->arena, source, 0, &foreign)
                       : import_open_hf(&p->arena, source, 0, &foreign);
  if (status == OK) status = import_write(&p->arena, &foreign, folder);
  if (status != OK) fail_msg("%s", error_message());
  p->family = foreign.family;
  import_close(&foreign);
}

/* The forward pass of p->model over the fixture's input. */
static void run_parity(Parity *p) {
  const DecoderConfig *config = &p->model.decoder.config;
  p->vocab = config->vocab;
  assert_int_equal(
      activations_allocate(&p->activations, &p->arena, config, p->backend, PARITY_TOKENS, ACTIVATIONS_KEPT),
      OK);
  assert_int_equal(model_rows_allocate(&p->rows, &p->model, PARITY_TOKENS, true), OK);
  assert_int_equal(batch_allocate(&p->arena, &p->batch, p->backend, PARITY_TOKENS, PARITY_TOKENS), OK);
  fill_batch(p);
  DecoderInput input = batch_input(&p->batch);
  decoder_forward(&p->model.decoder, &p->activations, &input);
}

static void close_parity(Parity *p) {
  model_rows_free(&p->rows, p->backend);
  activations_free(&p->activations, p->backend);
  batch_free(&p->batch);
  model_free(&p->model);
  safetensors_close(&p->expected);
  p->backend->close(p->backend);
  arena_free(&p->arena);
}

static const void *vocab_weight(const Parity *p) {
  return parameters_weight(&p->model.parameters, p->model.decoder.vocab_weight);
}

static void compare_logits(Parity *p, const char *source) {
  int32_t index[PARITY_TOKENS];
  for (int i = 0; i < p->tokens; i++) index[i] = i;
  model_rows_forward(&p->model, &p->activations, &p->rows, index, p->tokens);
  float *logits = NEW(&p->arena, float, p->tokens * p->vocab);
  p->backend->vocab_logits(p->backend, &(VocabLogits){.hidden = p->rows.normed,
                                                      .weight = vocab_weight(p),
                                                      .logits = logits,
                                                      .rows = p->tokens,
                                                      .hidden_size = p->model.decoder.config.hidden,
                                                      .vocab = p->vocab});
  const float *expected = expected_floats(p, "logits");
  double largest = 0, spread = 0;
  bool close = true; /* false for NaN too */
  for (int i = 0; i < p->tokens * p->vocab; i++) {
    double difference = fabs((double)logits[i] - (double)expected[i]);
    close = close && difference < 1e-4;
    largest = fmax(largest, difference);
    spread = fmax(spread, fabs((double)expected[i]));
  }
  print_message("%s: logits up to %.1f differ by %.1e at most\n", source, spread, largest);
  assert_true(spread > 0.5);
  assert_true(close);
}

static double backward(Parity *p) {
  int rows = p->batch.rows;
  float dlogprob[PARITY_TOKENS], logprob[PARITY_TOKENS];
  for (int i = 0; i < rows; i++) dlogprob[i] = -1.0f / (float)rows;
  model_rows_forward(&p->model, &p->activations, &p->rows, p->batch.device.rows, rows);
  int weight = p->model.decoder.vocab_weight;
  p->backend->vocab_backward(p->backend,
                             &(VocabBackward){.hidden = p->rows.normed,
                                              .weight = vocab_weight(p),
                                              .targets = p->batch.device.targets,
                                              .dlogprob = dlogprob,
                                              .logprob = logprob,
                                              .dhidden = p->rows.dnormed,
                                              .dweight = parameters_grad(&p->model.parameters, weight),
                                              .rows = rows,
                                              .hidden_size = p->model.decoder.config.hidden,
                                              .vocab = p->vocab});
  DecoderInput input = batch_input(&p->batch);
  model_rows_backward(&p->model, &p->activations, &p->rows, p->batch.device.rows, rows, &input);
  double loss = 0;
  for (int i = 0; i < rows; i++) loss -= (double)logprob[i] / rows;
  return loss;
}

static void compare_loss(Parity *p, const char *source) {
  double loss = backward(p), expected = (double)*expected_floats(p, "loss");
  if (!(fabs(loss - expected) <= 1e-5)) fail_msg("%s: the loss is %.8g, not %.8g", source, loss, expected);
}

#endif

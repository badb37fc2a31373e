/* For tests of whole models: what a pass over a batch needs, a loss, and the check of its gradients. */
#ifndef POPALM_TESTS_MODEL_PASS_H
#define POPALM_TESTS_MODEL_PASS_H

#include <math.h>
#include <string.h>

#include "batch.h"
#include "models/model.h"
#include "testing.h"

#define PASS_FUNCTION static inline __attribute__((unused))

enum { PASS_TOKENS = 96, PASS_SEQUENCES = 8 };

typedef struct Pass {
  Backend *backend;
  Activations activations;
  ModelRows rows;
  Batch batch;
  bool training; /* passes drop out what the model says */
  float logprob[PASS_TOKENS], dlogprob[PASS_TOKENS];
} Pass;

/* config: of the models that will be run, which may adapt `model`. Memory that nobody wrote is NaN. */
PASS_FUNCTION void pass_open(Pass *p, Arena *arena, const Model *model, const DecoderConfig *config,
                             ActivationsUse use) {
  *p = (Pass){.backend = model->parameters.backend};
  assert_int_equal(activations_allocate(&p->activations, arena, config, p->backend, PASS_TOKENS, use), OK);
  assert_int_equal(model_rows_allocate(&p->rows, model, PASS_TOKENS, true), OK);
  memset(p->activations.memory, 0xFF, p->activations.bytes);
  memset(p->rows.memory, 0xFF, model_rows_bytes(config, p->backend->storage, PASS_TOKENS, true));
  assert_int_equal(batch_allocate(arena, &p->batch, p->backend, PASS_TOKENS, PASS_SEQUENCES), OK);
}

PASS_FUNCTION void pass_close(Pass *p) {
  model_rows_free(&p->rows, p->backend);
  activations_free(&p->activations, p->backend);
  batch_free(&p->batch);
}

PASS_FUNCTION DecoderInput pass_input(const Pass *p, DecoderDropout *dropout) {
  DecoderInput input = batch_input(&p->batch);
  *dropout = batch_dropout(&p->batch, (RandomKey){11, RANDOM_TEST, 5});
  if (p->training) input.dropout = dropout;
  return input;
}

/* The sum of the batch's logprobs, row i weighing 1 + i % 3. */
PASS_FUNCTION double pass_forward(Pass *p, const Model *model) {
  DecoderDropout dropout;
  DecoderInput input = pass_input(p, &dropout);
  const Decoder *decoder = &model->decoder;
  decoder_forward(decoder, &p->activations, &input);
  model_rows_forward(model, &p->activations, &p->rows, p->batch.device.rows, p->batch.rows);
  p->backend->vocab(p->backend,
                    &(Vocab){.hidden = p->rows.normed,
                             .weight = parameters_weight(&model->parameters, decoder->vocab_weight),
                             .targets = p->batch.device.targets,
                             .logprob = p->logprob,
                             .rows = p->batch.rows,
                             .hidden_size = decoder->config.hidden,
                             .vocab = decoder->config.vocab});
  double sum = 0;
  for (int i = 0; i < p->batch.rows; i++) sum += (double)p->logprob[i] * (1 + i % 3);
  return sum;
}

/* Its gradients, after pass_forward of the same model. */
PASS_FUNCTION void pass_backward(Pass *p, Model *model) {
  Parameters *parameters = &model->parameters;
  const Decoder *decoder = &model->decoder;
  for (int i = 0; i < p->batch.rows; i++) p->dlogprob[i] = (float)(1 + i % 3);
  parameters_zero_grads(parameters);
  p->backend->vocab_backward(p->backend,
                             &(VocabBackward){.hidden = p->rows.normed,
                                              .weight = parameters_weight(parameters, decoder->vocab_weight),
                                              .targets = p->batch.device.targets,
                                              .dlogprob = p->dlogprob,
                                              .dhidden = p->rows.dnormed,
                                              .dweight = parameters_grad(parameters, decoder->vocab_weight),
                                              .rows = p->batch.rows,
                                              .hidden_size = decoder->config.hidden,
                                              .vocab = decoder->config.vocab});
  DecoderDropout dropout;
  DecoderInput input = pass_input(p, &dropout);
  model_rows_backward(model, &p->activations, &p->rows, p->batch.device.rows, p->batch.rows, &input);
}

/* Along the gradient of one tensor the loss rises by the gradient's norm, to 2% and `slack`. Returns how many
 * of the tensors that were compared have `part` in their names. */
PASS_FUNCTION int pass_check_gradients(Pass *pass, Arena *arena, Model *model, const char *part,
                                       double slack) {
  Parameters *p = &model->parameters;
  pass_forward(pass, model);
  pass_backward(pass, model);
  float *grads = NEW(arena, float, p->total), *weights = NEW(arena, float, p->total);
  memcpy(grads, p->grads, p->total * sizeof(float));
  memcpy(weights, p->weights, p->total * sizeof(float));
  int compared = 0;
  for (int i = 0; i < p->count; i++) {
    const Parameter *tensor = &p->list[i];
    if (tensor->frozen) {
      assert_null(parameters_grad(p, i));
      continue;
    }
    double norm = 0;
    for (size_t j = tensor->offset; j < tensor->offset + tensor->count; j++)
      norm += (double)grads[j] * (double)grads[j];
    norm = sqrt(norm);
    if (norm < 1e-3) continue; /* what softmax ignores, or A while B is zero */
    double step = 1e-2, value[2];
    for (int side = 0; side < 2; side++) {
      for (size_t j = tensor->offset; j < tensor->offset + tensor->count; j++)
        ((float *)p->weights)[j] = weights[j] + (float)((side ? -step : step) * (double)grads[j] / norm);
      value[side] = pass_forward(pass, model);
    }
    memcpy(p->weights, weights, p->total * sizeof(float));
    double numeric = (value[0] - value[1]) / (2 * step);
    if (!(fabs(numeric - norm) <= 0.02 * norm + slack)) /* NaN fails too */
      fail_msg("%s: gradient norm %g, by differences %g", tensor->name, norm, numeric);
    compared += strstr(tensor->name, part) != NULL;
  }
  return compared;
}

#endif

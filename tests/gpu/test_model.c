/* Whole models on two devices: loss and every parameter's gradient of one pass, then the losses of a short
 * training, from the same bf16-rounded parameters and the same batches. What differs is the rounding on the
 * way.
 *
 *   test_model REFERENCE DEVICE [--short]      for example cpu cuda; run from the root, where the presets are
 *
 * Sequences follow a fixed rule (the next token is a function of this one), so a model that learns at all
 * learns it. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "batch.h"
#include "models/model.h"
#include "trainer.h"

/* bf16 has 8 bits: one rounding is 0.4%, and a gradient has passed some dozens of them, mostly independent.
 */
static const double loss_tolerance = 0.003, gradient_tolerance = 0.03, curve_tolerance = 0.03;
/* A gradient whose norm is below this share of the whole one's is compared with that share: key biases have
 * none. */
static const double negligible = 1e-2;
static const double learned = 0.9; /* of the first loss, at most, is the last one */

typedef struct Size {
  int vocab, tokens, longest, steps;
} Size;

static const Size full = {.vocab = 300, .tokens = 512, .longest = 60, .steps = 40};
static const Size small = {.vocab = 50, .tokens = 96, .longest = 30, .steps = 12};

typedef struct Trainee {
  Arena arena;
  Backend *backend;
  Model model;
  Activations activations;
  ModelRows rows;
  Batch batch;
  float *logprob, *dlogprob, *wide; /* device; wide: [parameters] */
  float *host, *grads;
} Trainee;

static Status allocate(Trainee *t, size_t count, float **out) {
  return t->backend->alloc(t->backend, count * sizeof(float), "a comparison of models", (void **)out);
}

/* Both sides begin with parameters that bf16 holds exactly. */
static Status round_parameters(Trainee *t) {
  Parameters *p = &t->model.parameters;
  Backend *backend = t->backend;
  backend->convert(backend, t->wide, BF16, p->master, F32, p->total);
  backend->convert(backend, p->master, F32, t->wide, BF16, p->total);
  if (p->weights != p->master)
    backend->convert(backend, p->weights, backend->storage, p->master, F32, p->total);
  return backend->synchronize(backend);
}

static Status trainee_open(Trainee *t, const char *device, const char *preset, const Size *size) {
  *t = (Trainee){0};
  TRY(backend_open(device, &t->backend));
  DecoderConfig config;
  TRY(decoder_config_read(&t->arena, preset, &config));
  config.vocab = size->vocab;
  TRY(model_create(&t->arena, &t->model, t->backend, &config, NULL, (ModelParts){0}, true, 1));
  TRY(activations_allocate(&t->activations, &t->arena, &config, t->backend, size->tokens, ACTIVATIONS_KEPT));
  TRY(model_rows_allocate(&t->rows, &t->model, size->tokens, true));
  TRY(batch_allocate(&t->arena, &t->batch, t->backend, size->tokens, size->tokens));
  TRY(allocate(t, (size_t)size->tokens, &t->logprob));
  TRY(allocate(t, (size_t)size->tokens, &t->dlogprob));
  TRY(allocate(t, t->model.parameters.total, &t->wide));
  t->host = NEW(&t->arena, float, size->tokens);
  t->grads = NEW(&t->arena, float, t->model.parameters.total);
  return round_parameters(t);
}

static void trainee_close(Trainee *t) {
  Backend *backend = t->backend;
  if (!backend) return;
  model_free(&t->model);
  activations_free(&t->activations, backend);
  model_rows_free(&t->rows, backend);
  batch_free(&t->batch);
  backend->free(backend, t->logprob);
  backend->free(backend, t->dlogprob);
  backend->free(backend, t->wide);
  backend->close(backend);
  arena_free(&t->arena);
}

/* Ragged texts of the rule token -> 3 token + 7, pairs of them from a token of their own: the second of a
 * pair shares half of what the shorter one has. */
static void fill_batch(Batch *batch, const Size *size, int step) {
  RandomKey key = {.seed = 1, .use = RANDOM_TEST, .step = (uint32_t)step};
  int32_t tokens[64];
  int before = 0;
  batch_clear(batch);
  for (uint32_t i = 0;; i++) {
    int length = 2 + (int)random_below(key, i, 0, (uint32_t)size->longest - 1);
    if (!batch_fits(batch, length)) return;
    tokens[0] = (int32_t)random_below(key, i / 2, 1, (uint32_t)size->vocab);
    for (int t = 1; t < length; t++) tokens[t] = (3 * tokens[t - 1] + 7) % size->vocab;
    int shared = i % 2 ? (length < before ? length : before) / 2 : 0;
    batch_branch(batch, tokens, length, shared + 1, shared);
    before = length;
  }
}

/* Mean loss and, added to what is there, its gradients. */
static Status pass(Trainee *t, double *loss) {
  Backend *backend = t->backend;
  Batch *batch = &t->batch;
  Model *model = &t->model;
  const DecoderConfig *config = &model->decoder.config;
  batch_upload(batch);
  DecoderInput input = batch_input(batch);
  decoder_forward(&model->decoder, &t->activations, &input);
  model_rows_forward(model, &t->activations, &t->rows, batch->device.rows, batch->rows);
  for (int i = 0; i < batch->rows; i++) t->host[i] = -1.0f / (float)batch->rows;
  backend->upload(backend, t->dlogprob, t->host, sizeof(float) * (size_t)batch->rows);
  backend->vocab_backward(
      backend, &(VocabBackward){.hidden = t->rows.normed,
                                .weight = parameters_weight(&model->parameters, model->decoder.vocab_weight),
                                .targets = batch->device.targets,
                                .dlogprob = t->dlogprob,
                                .logprob = t->logprob,
                                .dhidden = t->rows.dnormed,
                                .dweight = parameters_grad(&model->parameters, model->decoder.vocab_weight),
                                .rows = batch->rows,
                                .hidden_size = config->hidden,
                                .vocab = config->vocab});
  model_rows_backward(model, &t->activations, &t->rows, batch->device.rows, batch->rows, &input);
  TRY(backend->download(backend, t->host, t->logprob, sizeof(float) * (size_t)batch->rows));
  *loss = 0;
  for (int i = 0; i < batch->rows; i++) *loss -= (double)t->host[i] / batch->rows;
  return OK;
}

static Status read_grads(Trainee *t) {
  Parameters *p = &t->model.parameters;
  t->backend->convert(t->backend, t->wide, F32, p->grads, t->backend->storage, p->total);
  return t->backend->download(t->backend, t->grads, t->wide, p->total * sizeof(float));
}

static double norm_of(const float *x, const float *less, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; i++) {
    double d = (double)x[i] - (less ? (double)less[i] : 0);
    sum += d * d;
  }
  return sqrt(sum);
}

/* Whether value is near want; says so if it is not. NaN is not. */
static bool near(const char *preset, const char *what, double value, double want, double tolerance) {
  if (fabs(value - want) <= tolerance * fabs(want)) return true;
  printf("%s: %s is %.6g, should be %.6g within %g%%\n", preset, what, value, want, 100 * tolerance);
  return false;
}

static bool same_gradients(const char *preset, const Trainee *a, const Trainee *b) {
  const Parameters *p = &a->model.parameters;
  double whole = norm_of(a->grads, NULL, p->total), worst = 0;
  const char *worst_name = "";
  bool good = whole > 0;
  for (int i = 0; i < p->count; i++) {
    const Parameter *one = &p->list[i];
    double norm = norm_of(a->grads + one->offset, NULL, one->count);
    double error =
        norm_of(b->grads + one->offset, a->grads + one->offset, one->count) / fmax(norm, negligible * whole);
    if (!(error <= gradient_tolerance)) {
      printf("%s: the gradient of %s is off by %.2f%% of its norm %.3g\n", preset, one->name, 100 * error,
             norm);
      good = false;
    }
    if (error > worst) {
      worst = error;
      worst_name = one->name;
    }
  }
  printf("%s: %d gradients, the worst off by %.2f%% (%s), %.2f%% all together; %g%% each is allowed\n",
         preset, p->count, 100 * worst, worst_name, 100 * norm_of(b->grads, a->grads, p->total) / whole,
         100 * gradient_tolerance);
  return good;
}

static Status train_step(Trainee *t, const Size *size, int step, double *loss) {
  static const OptimizerSettings settings = {
      .lr = 3e-3, .beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8, .grad_clip = 1};
  fill_batch(&t->batch, size, step);
  TRY(pass(t, loss));
  optimizer_step(&t->model, &settings, settings.lr, step);
  return OK;
}

/* Compares all of it; *good becomes false where the two differ. */
static Status compare(Trainee *a, Trainee *b, const char *preset, const Size *size, bool *good) {
  Trainee *const both[] = {a, b};
  double loss[2], first = 0, worst = 0;
  for (int i = 0; i < 2; i++) {
    fill_batch(&both[i]->batch, size, 0);
    TRY(pass(both[i], &loss[i]));
    TRY(read_grads(both[i]));
    parameters_zero_grads(&both[i]->model.parameters);
  }
  *good &= near(preset, "the loss", loss[1], loss[0], loss_tolerance);
  *good &= same_gradients(preset, a, b);
  for (int step = 0; step < size->steps; step++) {
    for (int i = 0; i < 2; i++) TRY(train_step(both[i], size, step, &loss[i]));
    if (step == 0) first = loss[0];
    /* Near 0 a loss is a small difference of large numbers. */
    double apart = fabs(loss[1] - loss[0]) / fmax(loss[0], 0.1 * first);
    if (!(apart <= curve_tolerance)) {
      printf("%s: after %d steps the losses are %.6g and %.6g\n", preset, step, loss[0], loss[1]);
      *good = false;
    }
    worst = fmax(worst, apart);
  }
  printf("%s: %d steps, loss from %.4f to %.4f and %.4f, never apart by more than %.2f%%; %g%% is allowed\n",
         preset, size->steps, first, loss[0], loss[1], 100 * worst, 100 * curve_tolerance);
  if (!(loss[0] <= learned * first && loss[1] <= learned * first)) {
    printf("%s: nothing was learned\n", preset);
    *good = false;
  }
  return OK;
}

static Status run(const char *reference, const char *device, const Size *size, bool *good) {
  static const char *const names[] = {"gpt2-tiny", "llama-tiny"};
  static const char *const presets[] = {"models/presets/gpt2-tiny.json", "models/presets/llama-tiny.json"};
  for (int i = 0; i < 2; i++) {
    Trainee a = {0}, b = {0};
    Status status = trainee_open(&a, reference, presets[i], size);
    if (status == OK) status = trainee_open(&b, device, presets[i], size);
    if (status == OK && i == 0)
      printf("%s (%s) against %s (%s)\n", b.backend->name, b.backend->device, a.backend->name,
             a.backend->device);
    if (status == OK) status = compare(&a, &b, names[i], size, good);
    trainee_close(&a);
    trainee_close(&b);
    TRY(status);
  }
  return OK;
}

int main(int argc, char **argv) {
  if (argc < 3 || argc > 4 || (argc == 4 && strcmp(argv[3], "--short") != 0)) {
    fprintf(stderr, "usage: %s REFERENCE DEVICE [--short]\n", argv[0]);
    return INVALID;
  }
  bool good = true;
  Status status = run(argv[1], argv[2], argc == 4 ? &small : &full, &good);
  if (status != OK) fprintf(stderr, "%s\n", error_message());
  return status != OK ? (int)status : good ? 0 : 1;
}

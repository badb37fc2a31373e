/* Training with optimizer states in shards (models/parameters_shards.c) over collectives that are as late as
 * they may be: nothing arrives before it is waited for. One rank, so that the result is that of a model
 * without shards. */
#include <math.h>
#include <string.h>

#include "batch.h"
#include "testing.h"
#include "trainer.h"

enum { TOKENS = 48, SEQUENCES = 4, VOCAB = 600, STEPS = 4, MOST = 64 };

/* ---- late collectives ---- */

static struct Late {
  void *to;
  const void *from;
  size_t bytes;
} late[MOST];
static int64_t started, arrived;

static int64_t begin(void *to, const void *from, size_t bytes) {
  late[started++ % MOST] = (struct Late){to, from, bytes};
  assert_true(started - arrived < MOST);
  return started;
}

static int64_t reduce_scatter(Backend *backend, const void *all, void *part, size_t count) {
  (void)backend;
  memset(part, 0xFF, count * sizeof(float)); /* NaN until it arrives */
  return begin(part, all, count * sizeof(float));
}

static int64_t all_gather(Backend *backend, const void *part, void *all, size_t count, DType type) {
  (void)backend;
  return begin(all, part, count * dtype_bytes(type));
}

static void progress(Backend *backend) { (void)backend; }

static void wait(Backend *backend, int64_t ticket) {
  (void)backend;
  assert_true(ticket <= started);
  for (; arrived < ticket; arrived++)
    memcpy(late[arrived % MOST].to, late[arrived % MOST].from, late[arrived % MOST].bytes);
}

static const Collectives collectives = {0, 1, reduce_scatter, all_gather, progress, wait};

/* ---- training ---- */

typedef struct Trained {
  double loss[STEPS];
  HostTensor *tensor;
  int tensors, buckets;
} Trained;

static size_t tensor_bytes(const HostTensor *tensor) {
  return sizeof(float) * (size_t)(tensor->shape[0] * (tensor->rank == 2 ? tensor->shape[1] : 1));
}

static void fill(Batch *batch, uint32_t step) {
  int32_t tokens[TOKENS / SEQUENCES];
  batch_clear(batch);
  for (int s = 0; s < SEQUENCES; s++) {
    for (int t = 0; t < TOKENS / SEQUENCES; t++)
      tokens[t] = (int32_t)random_below((RandomKey){5, 6, step}, (uint32_t)s, (uint32_t)t, VOCAB);
    batch_add(batch, tokens, TOKENS / SEQUENCES, 1);
  }
  batch_upload(batch);
}

static double step(Model *model, Activations *activations, ModelRows *rows, Batch *batch, int64_t number) {
  Backend *backend = model->parameters.backend;
  float logprob[TOKENS], dlogprob[TOKENS];
  double loss = 0;
  fill(batch, (uint32_t)number);
  DecoderInput input = batch_input(batch);
  decoder_forward(&model->decoder, activations, &input);
  model_rows_forward(model, activations, rows, batch->device.rows, batch->rows);
  for (int i = 0; i < batch->rows; i++) dlogprob[i] = -1.0f / (float)batch->rows;
  backend->vocab_backward(
      backend, &(VocabBackward){.hidden = rows->normed,
                                .weight = parameters_weight(&model->parameters, model->decoder.vocab_weight),
                                .targets = batch->device.targets,
                                .dlogprob = dlogprob,
                                .logprob = logprob,
                                .dhidden = rows->dnormed,
                                .dweight = parameters_grad(&model->parameters, model->decoder.vocab_weight),
                                .rows = batch->rows,
                                .hidden_size = model->decoder.config.hidden,
                                .vocab = VOCAB});
  for (int i = 0; i < batch->rows; i++) loss -= (double)logprob[i] / batch->rows;
  model_rows_backward(model, activations, rows, batch->device.rows, batch->rows, &input);
  const OptimizerSettings settings = {
      .lr = 1e-2, .beta1 = 0.9, .beta2 = 0.99, .epsilon = 1e-8, .weight_decay = 0.1, .grad_clip = 1};
  optimizer_step(model, &settings, 1e-2, number);
  return loss;
}

static Trained train(Arena *arena, const char *preset, bool tied, ActivationsUse use, bool sharded) {
  Trained out = {0};
  Backend *backend;
  DecoderConfig config;
  Model model;
  Activations activations;
  ModelRows rows;
  Batch batch;
  started = arrived = 0;
  assert_int_equal(cpu_backend_open(0, &backend), OK);
  if (sharded) backend->collectives = &collectives;
  assert_int_equal(decoder_config_read(arena, preset, &config), OK);
  config.vocab = VOCAB;
  config.tied = tied;
  assert_int_equal(model_create(arena, &model, backend, &config, NULL, (ModelParts){0}, true, 3), OK);
  assert_int_equal(activations_allocate(&activations, arena, &config, backend, TOKENS, use), OK);
  assert_int_equal(model_rows_allocate(&rows, &model, TOKENS, true), OK);
  assert_int_equal(batch_allocate(arena, &batch, backend, TOKENS, SEQUENCES), OK);
  for (int s = 0; s < STEPS; s++) out.loss[s] = step(&model, &activations, &rows, &batch, s);
  assert_int_equal(parameters_download(&model.parameters, arena, true, &out.tensor, &out.tensors), OK);
  for (int i = 0; i < out.tensors; i++) { /* they may be the model's own memory */
    void *copy = arena_alloc(arena, tensor_bytes(&out.tensor[i]));
    out.tensor[i].data = memcpy(copy, out.tensor[i].data, tensor_bytes(&out.tensor[i]));
  }
  out.buckets = model.parameters.shards.count;
  activations_free(&activations, backend);
  model_rows_free(&rows, backend);
  batch_free(&batch);
  model_free(&model);
  assert_true(started == arrived); /* nothing is under way when its memory is freed */
  backend->close(backend);
  return out;
}

static void compare(const char *preset, bool tied, ActivationsUse use) {
  Arena arena = {0};
  Trained whole = train(&arena, preset, tied, use, false), sharded = train(&arena, preset, tied, use, true);
  assert_true(sharded.buckets >= 4); /* of layers, and others */
  assert_memory_equal(whole.loss, sharded.loss, sizeof whole.loss);
  assert_int_equal(whole.tensors, sharded.tensors);
  for (int i = 0; i < whole.tensors; i++) {
    const HostTensor *a = &whole.tensor[i], *b = &sharded.tensor[i];
    assert_string_equal(a->name, b->name);
    assert_memory_equal(a->data, b->data, tensor_bytes(a));
  }
  arena_free(&arena);
}

static void nothing_is_used_before_it_arrived(void **state) {
  (void)state;
  compare("models/presets/gpt2-tiny.json", true, ACTIVATIONS_KEPT);
}

static void an_untied_vocabulary_is_waited_for(void **state) {
  (void)state;
  compare("models/presets/llama-tiny.json", false, ACTIVATIONS_KEPT);
}

static void layers_that_are_computed_twice_have_their_weights(void **state) {
  (void)state;
  compare("models/presets/llama-tiny.json", false, ACTIVATIONS_RECOMPUTED);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(nothing_is_used_before_it_arrived),
      cmocka_unit_test(an_untied_vocabulary_is_waited_for),
      cmocka_unit_test(layers_that_are_computed_twice_have_their_weights),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

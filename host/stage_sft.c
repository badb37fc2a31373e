/* Supervised fine-tuning: loss = -(1/R) sum of log p(token) over the R reply tokens of a batch. */
#include <math.h>
#include <string.h>

#include "base/comm.h"
#include "examples.h"
#include "progress.h"
#include "share.h"
#include "stage.h"
#include "trainer.h"

enum {
  DEV_POSTS = 128,
  DEV_TIMES = 10
}; /* posts whose best reply is the held-out loss; how often it is taken */

typedef struct Sft {
  const StageContext *context;
  PromptCodec codec;
  Dataset train, dev;
  Examples examples, dev_examples;
  Model model;
  Activations activations;
  ModelRows rows;
  Batch batch;                             /* the whole one, the same at all ranks */
  BatchShare share;                        /* this rank's part of it */
  float *device_dlogprob, *device_logprob; /* [max_tokens] */
  float *host;                             /* [max_tokens] */
  Metrics *metrics;
  TrainingState state;
  int64_t steps, total; /* batches; examples over all epochs */
  int64_t step, at;     /* what comes next */
  int64_t tokens;       /* of the last batch */
} Sft;

static Status sft_open_data(Sft *sft) {
  const StageContext *context = sft->context;
  const Experiment *experiment = context->experiment;
  Tokenizer *tokenizer;
  TRY(tokenizer_load(context->arena,
                     path_join(context->arena, context->input[STAGE_TOKENIZER], "tokenizer.json"),
                     &tokenizer));
  sft->codec = prompt_codec(context->arena, tokenizer, experiment->data.instruction,
                            experiment->data.max_post_tokens, experiment->data.max_reply_tokens);
  TRY(dataset_open(context->arena, context->train, DATASET_POSTS, &sft->train));
  TRY(dataset_open(context->arena, context->dev, DATASET_POSTS, &sft->dev));
  TRY(examples_build(context->arena, &sft->train, &sft->codec, experiment->sft.replies_per_post,
                     experiment->seed, &sft->examples));
  return examples_build(context->arena, &sft->dev, &sft->codec, 1, experiment->seed, &sft->dev_examples);
}

/* An untrained model takes its vocabulary from the tokenizer; one that is started from may have more rows. */
static Status sft_config(const Sft *sft, DecoderConfig *config) {
  const Experiment *experiment = sft->context->experiment;
  const char *from = experiment->model_from;
  int tokens = tokenizer_vocab_size(sft->codec.tokenizer);
  TRY(experiment_model(sft->context->arena, experiment, config));
  if (!from) config->vocab = tokens;
  if (config->vocab < tokens)
    return fail(
        INVALID,
        "model.from %s has a vocabulary of %d, the tokenizer one of %d; use the model's own tokenizer", from,
        config->vocab, tokens);
  return prompt_check(&sft->codec, config, policy_model_name(experiment));
}

static Status sft_open_model(Sft *sft) {
  const StageContext *context = sft->context;
  const Experiment *experiment = context->experiment;
  Backend *backend = context->backend;
  DecoderConfig config;
  TRY(sft_config(sft, &config));
  int max_tokens = experiment->sft.tokens_per_batch;
  if (max_tokens < sequence_max(&sft->codec))
    return fail(INVALID, "sft.tokens_per_batch %d is less than the longest sequence, %d tokens; raise it",
                max_tokens, sequence_max(&sft->codec));
  TRY(training_model(context->arena, &sft->model, backend, &config, "model.from", experiment->model_from,
                     decoder_adapted(&config), (ModelParts){0}, experiment->seed));
  TRY(batch_allocate(context->arena, &sft->batch, backend, max_tokens, max_tokens));
  TRY(share_allocate(context->arena, &sft->share, &sft->batch, 1, sequence_max(&sft->codec)));
  int own_tokens = sft->share.mine->max_tokens;
  TRY(activations_allocate(&sft->activations, context->arena, &config, backend, own_tokens,
                           training_activations(experiment)));
  TRY(model_rows_allocate(&sft->rows, &sft->model, own_tokens, true));
  size_t bytes = (size_t)own_tokens * sizeof(float);
  TRY(backend->alloc(backend, bytes, "logprobs", (void **)&sft->device_logprob));
  TRY(backend->alloc(backend, bytes, "logprobs", (void **)&sft->device_dlogprob));
  sft->host = NEW(context->arena, float, own_tokens);
  sft->total = (int64_t)ceil(experiment->sft.epochs * (double)sft->examples.count);
  sft->steps = examples_batches(&sft->examples, sft->total, max_tokens);
  return OK;
}

/* The logprobs of the targets of this rank's part, left on the device. With backward, adds the gradients of
 * the whole batch's mean. */
static void sft_pass(Sft *sft, bool backward) {
  Backend *backend = sft->context->backend;
  Batch *batch = sft->share.mine;
  share_deal(&sft->share);
  Parameters *parameters = &sft->model.parameters;
  const DecoderConfig *config = &sft->model.decoder.config;
  const void *vocab_weight = parameters_weight(parameters, sft->model.decoder.vocab_weight);
  WeightType vocab_type = parameters_weight_type(parameters, sft->model.decoder.vocab_weight);
  batch_upload(batch);
  RandomKey key = {sft->context->experiment->seed, RANDOM_DROPOUT_SFT, (uint32_t)sft->step};
  DecoderDropout dropout = batch_dropout(batch, key);
  DecoderInput input = batch_input(batch);
  if (backward) input.dropout = &dropout;
  decoder_forward(&sft->model.decoder, &sft->activations, &input);
  model_rows_forward(&sft->model, &sft->activations, &sft->rows, batch->device.rows, batch->rows);
  if (backward) {
    for (int i = 0; i < batch->rows; i++) sft->host[i] = -1.0f / (float)sft->batch.rows;
    backend->upload(backend, sft->device_dlogprob, sft->host, sizeof(float) * (size_t)batch->rows);
    backend->vocab_backward(
        backend, &(VocabBackward){.hidden = sft->rows.normed,
                                  .weight = vocab_weight,
                                  .weight_type = vocab_type,
                                  .targets = batch->device.targets,
                                  .dlogprob = sft->device_dlogprob,
                                  .logprob = sft->device_logprob,
                                  .dhidden = sft->rows.dnormed,
                                  .dweight = parameters_grad(parameters, sft->model.decoder.vocab_weight),
                                  .rows = batch->rows,
                                  .hidden_size = config->hidden,
                                  .vocab = config->vocab});
    model_rows_backward(&sft->model, &sft->activations, &sft->rows, batch->device.rows, batch->rows, &input);
  } else {
    backend->vocab(backend, &(Vocab){.hidden = sft->rows.normed,
                                     .weight = vocab_weight,
                                     .weight_type = vocab_type,
                                     .targets = batch->device.targets,
                                     .logprob = sft->device_logprob,
                                     .rows = batch->rows,
                                     .hidden_size = config->hidden,
                                     .vocab = config->vocab});
  }
}

/* Sum of the negative logprobs that the last pass left, over the whole batch. */
static Status sft_read_loss(Sft *sft, double *sum) {
  Backend *backend = sft->context->backend;
  int rows = sft->share.mine->rows;
  TRY(backend->download(backend, sft->host, sft->device_logprob, sizeof(float) * (size_t)rows));
  *sum = 0;
  for (int i = 0; i < rows; i++) *sum -= (double)sft->host[i];
  comm_sum(sum, 1);
  return OK;
}

/* Mean loss a token over the first dev posts' most liked replies. */
static Status sft_dev_loss(Sft *sft, double *loss) {
  int64_t count = sft->dev_examples.count < DEV_POSTS ? sft->dev_examples.count : DEV_POSTS;
  double sum = 0;
  int64_t targets = 0;
  for (int64_t i = 0; i < count;) {
    batch_clear(&sft->batch);
    for (; i < count && batch_fits(&sft->batch, sft->dev_examples.length[i]); i++)
      TRY(examples_add(&sft->dev_examples, i, &sft->batch));
    double part;
    sft_pass(sft, false);
    TRY(sft_read_loss(sft, &part));
    sum += part;
    targets += sft->batch.rows;
  }
  *loss = sum / (double)targets;
  return OK;
}

static Status sft_step(Sft *sft, double *loss) {
  const SftSettings *settings = &sft->context->experiment->sft;
  Backend *backend = sft->context->backend;
  TRY(examples_fill(&sft->examples, &sft->batch, &sft->at, sft->total));
  sft_pass(sft, true);
  double lr = learning_rate(&settings->optimizer, sft->step, sft->steps), sum;
  optimizer_step(&sft->model, &settings->optimizer, lr, sft->step);
  TRY(sft_read_loss(sft, &sum)); /* the step's only wait for the device */
  *loss = sum / sft->batch.rows;
  sft->tokens = sft->batch.tokens;
  if (!isfinite(*loss))
    return fail(FAILED, "sft: the loss is not a finite number at step %lld; lower sft.lr or sft.grad_clip",
                (long long)sft->step);
  float norm;
  TRY(backend->download(backend, &norm, sft->model.parameters.norm, sizeof norm));
  metrics_begin(sft->metrics, sft->step + 1);
  metrics_add(sft->metrics, "loss", *loss);
  metrics_add(sft->metrics, "perplexity", exp(*loss));
  metrics_add(sft->metrics, "lr", lr);
  metrics_add(sft->metrics, "grad_norm", (double)norm);
  sft->step++;
  int64_t every = (sft->steps + DEV_TIMES - 1) / DEV_TIMES;
  if (sft->step % every == 0 || sft->step == sft->steps || sft->step == 1) {
    double dev;
    TRY(sft_dev_loss(sft, &dev));
    metrics_add(sft->metrics, "dev_loss", dev);
    metrics_add(sft->metrics, "dev_perplexity", exp(dev));
  }
  return metrics_end(sft->metrics);
}

static Status sft_save_state(Sft *sft) {
  cJSON *meta = cJSON_CreateObject();
  cJSON_AddNumberToObject(meta, "at", (double)sft->at);
  return state_save(&sft->state, sft->step, (Model *[]){&sft->model}, 1, sft->metrics, meta);
}

static Status sft_resume(Sft *sft) {
  cJSON *meta;
  TRY(state_open(sft->context->arena, &sft->state, &sft->context->experiment->checkpoint,
                 sft->context->folder, (Model *[]){&sft->model}, 1, &meta));
  if (meta) {
    sft->step = sft->state.saved_step;
    sft->at = (int64_t)cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(meta, "at"));
    cJSON_Delete(meta);
  }
  return metrics_open(sft->context->arena, sft->context->folder, sft->step, &sft->metrics);
}

static Status sft_train(Sft *sft) {
  Progress progress;
  progress_begin(&progress, sft->context->label, sft->steps, sft->step);
  while (sft->step < sft->steps) {
    double loss;
    TRY(sft_step(sft, &loss));
    progress_step(&progress, sft->step, (double)sft->tokens, "loss", loss);
    if (sft->step < sft->steps && state_due(&sft->state, sft->step)) TRY(sft_save_state(sft));
  }
  progress_end(&progress, NULL);
  return OK;
}

static Status sft_run(Sft *sft) {
  TRY(sft_open_data(sft));
  TRY(sft_open_model(sft));
  TRY(sft_resume(sft));
  TRY(sft_train(sft));
  TRY(metrics_close(sft->metrics));
  TRY(model_save(&sft->model, sft->context->folder));
  TRY(prompt_save(&sft->codec, &sft->context->experiment->evaluate.sampling, sft->context->folder));
  state_remove(&sft->state);
  return OK;
}

Status stage_sft(const StageContext *context) {
  Sft sft = {.context = context};
  Backend *backend = context->backend;
  Status status = sft_run(&sft);
  model_free(&sft.model);
  activations_free(&sft.activations, backend);
  model_rows_free(&sft.rows, backend);
  batch_free(&sft.batch);
  share_free(&sft.share);
  if (sft.device_logprob) backend->free(backend, sft.device_logprob);
  if (sft.device_dlogprob) backend->free(backend, sft.device_dlogprob);
  dataset_close(&sft.train);
  dataset_close(&sft.dev);
  return status;
}

#include "ppo.h"

#include <math.h>
#include <string.h>

#include "base/comm.h"
#include "share.h"
#include "trainer.h"

/* ---- set-up ---- */

static Status open_learner(Arena *arena, Learner *learner, Backend *backend, const char *folder,
                           ModelParts parts, ActivationsUse use, int max_tokens, int max_rows,
                           uint64_t seed) {
  bool trainable = use != ACTIVATIONS_INFERENCE;
  TRY(model_load(arena, &learner->model, backend, folder, parts, trainable, seed));
  TRY(activations_allocate(&learner->activations, arena, &learner->model.decoder.config, backend, max_tokens,
                           use));
  return model_rows_allocate(&learner->rows, &learner->model, max_rows, trainable);
}

static void close_learner(Learner *learner) {
  Backend *backend = learner->model.parameters.backend;
  if (!backend) return;
  activations_free(&learner->activations, backend);
  model_rows_free(&learner->rows, backend);
  model_free(&learner->model);
}

/* Optimizer steps of one PPO step, at most. */
static int max_updates(const PpoSettings *settings) {
  int samples = settings->posts_per_step * settings->samples_per_post;
  return (samples + settings->minibatch - 1) / settings->minibatch * settings->epochs;
}

enum { VALUE_ARRAYS = 17 }; /* of floats in PpoTensors; cu_seqlens is one more */

/* Elements of each. */
static size_t values_each(const PpoSettings *settings, int max_reply) {
  size_t samples = (size_t)settings->posts_per_step * (size_t)settings->samples_per_post;
  size_t tokens = samples * (size_t)max_reply + 1; /* + 1: cu_seqlens fits too */
  size_t stats = (size_t)PPO_STATS * (size_t)max_updates(settings) + ADVANTAGE_STATS;
  return ((stats > tokens ? stats : tokens) + 63) / 64 * 64;
}

size_t ppo_values_bytes(const PpoSettings *settings, int max_reply) {
  return (VALUE_ARRAYS + 1) * values_each(settings, max_reply) * sizeof(float);
}

static Status allocate_tensors(Ppo *ppo) {
  PpoTensors *d = &ppo->device;
  float **all[VALUE_ARRAYS] = {
      &d->logprob,    &d->entropy,  &d->ref_logprob,    &d->value,        &d->advantage,    &d->returns,
      &d->score,      &d->stats,    &d->mb_old_logprob, &d->mb_advantage, &d->mb_old_value, &d->mb_returns,
      &d->mb_logprob, &d->mb_value, &d->mb_dlogprob,    &d->mb_dvalue,    &d->mb_dentropy};
  size_t each = values_each(ppo->settings, ppo->max_reply);
  TRY(ppo->backend->alloc(ppo->backend, ppo_values_bytes(ppo->settings, ppo->max_reply),
                          "PPO's values per token", &ppo->memory));
  for (size_t i = 0; i < VALUE_ARRAYS; i++) *all[i] = (float *)ppo->memory + i * each;
  d->cu_seqlens = (int32_t *)ppo->memory + VALUE_ARRAYS * each;
  return OK;
}

PpoPass ppo_pass(const PpoSettings *settings, int max_sequence, int max_reply) {
  int tokens = share_most(settings->minibatch * max_sequence, max_sequence, comm.size);
  int rows = settings->minibatch * max_reply;
  return (PpoPass){tokens, rows < tokens ? rows : tokens};
}

Status ppo_open(Arena *arena, Ppo *ppo, const Experiment *experiment, Backend *backend,
                const char *sft_folder, const char *reward_folder, int max_sequence, int max_reply) {
  const PpoSettings *settings = &experiment->ppo;
  uint64_t seed = experiment->seed;
  ActivationsUse use = training_activations(experiment);
  *ppo = (Ppo){.settings = settings,
               .backend = backend,
               .max_samples = settings->posts_per_step * settings->samples_per_post,
               .max_reply = max_reply,
               .kl_coef = settings->kl_coef};
  PpoPass pass = ppo_pass(settings, max_sequence, max_reply);
  bool shared = settings->critic == CRITIC_SHARED;
  TRY(open_learner(arena, &ppo->policy, backend, sft_folder, (ModelParts){.value_head = shared}, use,
                   pass.tokens, pass.rows, seed));
  TRY(open_learner(arena, &ppo->reference, backend, sft_folder,
                   (ModelParts){.frozen_from = &ppo->policy.model}, ACTIVATIONS_INFERENCE, pass.tokens,
                   pass.rows, seed));
  if (!shared)
    TRY(open_learner(arena, &ppo->critic, backend, reward_folder,
                     (ModelParts){.value_head = true, .frozen_from = &ppo->policy.model}, use, pass.tokens,
                     pass.rows, seed));
  TRY(batch_allocate(arena, &ppo->batch, backend, pass.tokens, settings->minibatch));
  return allocate_tensors(ppo);
}

void ppo_close(Ppo *ppo) {
  close_learner(&ppo->policy);
  close_learner(&ppo->reference);
  close_learner(&ppo->critic);
  batch_free(&ppo->batch);
  if (ppo->memory) ppo->backend->free(ppo->backend, ppo->memory);
  ppo->memory = NULL;
}

int ppo_models(Ppo *ppo, Model *models[2]) {
  models[0] = &ppo->policy.model;
  models[1] = &ppo->critic.model;
  return ppo->settings->critic == CRITIC_SHARED ? 1 : 2;
}

/* ---- forward passes ---- */

static int sample_length(const PpoSample *sample) { return sample->prompt_length + sample->reply_length; }

/* This rank's part of samples order[0..count-1], in that order; returns how many. */
static int own_samples(const PpoSample *samples, const int *order, int count, int *own, Arena *scratch) {
  int *length = NEW(scratch, int, count), *owner = NEW(scratch, int, count), mine = 0;
  for (int i = 0; i < count; i++) length[i] = sample_length(&samples[order[i]]);
  share_out(length, count, comm.size, owner);
  for (int i = 0; i < count; i++)
    if (owner[i] == comm.rank) own[mine++] = order[i];
  return mine;
}

/* Packs samples order[0..count-1]; the batch's rows are their reply tokens in that order. Neighbours with one
 * prompt share its computation but for the last token, whose row predicts the reply's first. */
static void fill_batch(Ppo *ppo, const PpoSample *samples, const int *order, int count, Arena *scratch) {
  batch_clear(&ppo->batch);
  for (int i = 0; i < count; i++) {
    const PpoSample *sample = &samples[order[i]];
    bool same_post = i > 0 && sample->prompt == samples[order[i - 1]].prompt;
    int length = sample_length(sample);
    int32_t *tokens = NEW(scratch, int32_t, length);
    memcpy(tokens, sample->prompt, sizeof *tokens * (size_t)sample->prompt_length);
    memcpy(tokens + sample->prompt_length, sample->reply, sizeof *tokens * (size_t)sample->reply_length);
    batch_branch(&ppo->batch, tokens, length, sample->prompt_length,
                 same_post ? sample->prompt_length - 1 : 0);
  }
  batch_upload(&ppo->batch);
}

static void forward(Ppo *ppo, Learner *learner) {
  DecoderInput input = batch_input(&ppo->batch);
  decoder_forward(&learner->model.decoder, &learner->activations, &input);
  model_rows_forward(&learner->model, &learner->activations, &learner->rows, ppo->batch.device.rows,
                     ppo->batch.rows);
}

static void logprobs(Ppo *ppo, const Learner *learner, float *logprob, float *entropy) {
  const Decoder *decoder = &learner->model.decoder;
  ppo->backend->vocab(
      ppo->backend,
      &(Vocab){.hidden = learner->rows.normed,
               .weight = parameters_weight(&learner->model.parameters, decoder->vocab_weight),
               .weight_type = parameters_weight_type(&learner->model.parameters, decoder->vocab_weight),
               .targets = ppo->batch.device.targets,
               .logprob = logprob,
               .entropy = entropy,
               .rows = ppo->batch.rows,
               .hidden_size = decoder->config.hidden,
               .vocab = decoder->config.vocab});
}

static Learner *critic_of(Ppo *ppo) {
  return ppo->settings->critic == CRITIC_SHARED ? &ppo->policy : &ppo->critic;
}

static void values(Ppo *ppo, float *value) {
  const Model *model = &critic_of(ppo)->model;
  ppo->backend->scalar_head(
      ppo->backend, &(ScalarHead){.hidden = critic_of(ppo)->rows.normed,
                                  .weight = parameters_weight(&model->parameters, model->value_weight),
                                  .bias = parameters_weight(&model->parameters, model->value_bias),
                                  .out = value,
                                  .rows = ppo->batch.rows,
                                  .hidden_size = model->decoder.config.hidden});
}

static void forward_policy_and_critic(Ppo *ppo) {
  forward(ppo, &ppo->policy);
  if (ppo->settings->critic == CRITIC_REWARD) forward(ppo, &ppo->critic);
}

/* How many of the samples order[0..count-1] one pass takes. */
static int pass_count(const Ppo *ppo, const PpoSample *samples, const int *order, int count) {
  int n = 0, tokens = 0;
  while (n < count && n < ppo->settings->minibatch) {
    tokens += sample_length(&samples[order[n]]);
    if (tokens > ppo->batch.max_tokens) break;
    n++;
  }
  return n;
}

/* Logprobs, entropies, values and reference logprobs of the samples order[0..count-1], pass by pass. */
static void evaluate_old(Ppo *ppo, const PpoSample *samples, const int *order, int count, Arena *scratch) {
  for (int first = 0, offset = 0, n; first < count; first += n) {
    n = pass_count(ppo, samples, order + first, count - first);
    fill_batch(ppo, samples, order + first, n, scratch);
    forward_policy_and_critic(ppo);
    logprobs(ppo, &ppo->policy, ppo->device.logprob + offset, ppo->device.entropy + offset);
    values(ppo, ppo->device.value + offset);
    forward(ppo, &ppo->reference);
    logprobs(ppo, &ppo->reference, ppo->device.ref_logprob + offset, NULL);
    offset += ppo->batch.rows;
  }
}

/* ---- advantages ---- */

/* What the host needs of a step: [tokens] each. */
typedef struct HostTensors {
  int tokens;
  int32_t *cu_seqlens; /* [count+1] */
  float *logprob, *entropy, *ref_logprob, *value, *advantage, *returns;
  float stats[ADVANTAGE_STATS];
} HostTensors;

static void lay_out_replies(const PpoSample *samples, int count, HostTensors *host, Arena *scratch) {
  host->cu_seqlens = NEW(scratch, int32_t, count + 1);
  for (int i = 0; i < count; i++) host->cu_seqlens[i + 1] = host->cu_seqlens[i] + samples[i].reply_length;
  host->tokens = host->cu_seqlens[count];
}

/* The device has the old values of this rank's samples, packed; afterwards of all. Each token's value comes
 * from one rank and the others add 0 to it, so it stays what it was. */
static Status exchange_old(Ppo *ppo, const int *own, int count, const HostTensors *host, Arena *scratch) {
  Backend *backend = ppo->backend;
  float *const device[] = {ppo->device.logprob, ppo->device.entropy, ppo->device.ref_logprob,
                           ppo->device.value};
  size_t tokens = (size_t)host->tokens;
  float *packed = NEW(scratch, float, tokens), *all = NEW(scratch, float, 4 * tokens);
  size_t own_tokens = 0;
  for (int i = 0; i < count; i++)
    own_tokens += (size_t)(host->cu_seqlens[own[i] + 1] - host->cu_seqlens[own[i]]);
  for (int k = 0; k < 4; k++) {
    TRY(backend->download(backend, packed, device[k], sizeof(float) * own_tokens));
    const float *next = packed;
    for (int i = 0; i < count; i++)
      for (int t = host->cu_seqlens[own[i]]; t < host->cu_seqlens[own[i] + 1]; t++)
        all[(size_t)k * tokens + (size_t)t] = *next++;
  }
  comm_sum_floats(all, 4 * tokens);
  for (int k = 0; k < 4; k++)
    backend->upload(backend, device[k], all + (size_t)k * tokens, sizeof(float) * tokens);
  return OK;
}

static Status advantages(Ppo *ppo, const PpoSample *samples, int count, HostTensors *host, Arena *scratch) {
  Backend *backend = ppo->backend;
  PpoTensors *d = &ppo->device;
  float *score = NEW(scratch, float, count);
  int max_len = 0;
  for (int i = 0; i < count; i++) {
    score[i] = (float)samples[i].score;
    if (samples[i].reply_length > max_len) max_len = samples[i].reply_length;
  }
  backend->upload(backend, d->cu_seqlens, host->cu_seqlens, sizeof(int32_t) * ((size_t)count + 1));
  backend->upload(backend, d->score, score, sizeof(float) * (size_t)count);
  backend->ppo_advantage(backend, &(PpoAdvantage){.replies = {.cu_seqlens = d->cu_seqlens,
                                                              .count = count,
                                                              .tokens = host->tokens,
                                                              .max_len = max_len},
                                                  .logprob = d->logprob,
                                                  .ref_logprob = d->ref_logprob,
                                                  .value = d->value,
                                                  .score = d->score,
                                                  .kl_kind = ppo->settings->kl_kind,
                                                  .kl_coef = (float)ppo->kl_coef,
                                                  .gamma = (float)ppo->settings->gamma,
                                                  .lambda = (float)ppo->settings->lambda,
                                                  .whiten = ppo->settings->whiten,
                                                  .advantage = d->advantage,
                                                  .returns = d->returns,
                                                  .stats = d->stats});
  const float *source[] = {d->logprob, d->entropy, d->ref_logprob, d->value, d->advantage, d->returns};
  float **target[] = {&host->logprob, &host->entropy,   &host->ref_logprob,
                      &host->value,   &host->advantage, &host->returns};
  for (int i = 0; i < 6; i++) {
    *target[i] = NEW(scratch, float, host->tokens);
    TRY(backend->download(backend, *target[i], source[i], sizeof(float) * (size_t)host->tokens));
  }
  return backend->download(backend, host->stats, d->stats, sizeof host->stats);
}

static void describe(const HostTensors *host, int count, PpoStep *out) {
  double entropy = 0, k1 = 0, k3 = 0, mean = 0, residual_mean = 0, variance = 0, residual_variance = 0;
  int n = host->tokens;
  for (int t = 0; t < n; t++) {
    double x = (double)host->logprob[t] - (double)host->ref_logprob[t];
    entropy += (double)host->entropy[t] / n;
    k1 += x / count;
    k3 += (exp(-x) - 1 + x) / count;
    mean += (double)host->returns[t] / n;
    residual_mean += ((double)host->returns[t] - (double)host->value[t]) / n;
  }
  for (int t = 0; t < n; t++) {
    variance += pow((double)host->returns[t] - mean, 2);
    residual_variance += pow((double)host->returns[t] - (double)host->value[t] - residual_mean, 2);
  }
  out->tokens = n;
  out->entropy = entropy;
  out->kl = k1;
  out->kl_k3 = k3;
  out->mean_return = mean;
  out->advantage_std = sqrt(fmax(0, (double)host->stats[ADVANTAGE_VARIANCE]));
  out->explained_variance = variance > 0 ? 1 - residual_variance / variance : NAN;
}

/* ---- updates ---- */

/* The minibatch's old values beside its rows on the device. whole_rows: of the minibatch over all ranks. */
static void upload_minibatch(Ppo *ppo, const HostTensors *host, const int *order, int count, int whole_rows,
                             Arena *scratch) {
  Backend *backend = ppo->backend;
  float *const device[] = {ppo->device.mb_old_logprob, ppo->device.mb_advantage, ppo->device.mb_old_value,
                           ppo->device.mb_returns};
  const float *const source[] = {host->logprob, host->advantage, host->value, host->returns};
  float *gathered = NEW(scratch, float, ppo->batch.rows);
  for (int k = 0; k < 4; k++) {
    int at = 0;
    for (int i = 0; i < count; i++)
      for (int t = host->cu_seqlens[order[i]]; t < host->cu_seqlens[order[i] + 1]; t++)
        gathered[at++] = source[k][t];
    backend->upload(backend, device[k], gathered, sizeof(float) * (size_t)at);
  }
  if (ppo->settings->entropy_coef == 0) return;
  for (int t = 0; t < ppo->batch.rows; t++) gathered[t] = (float)(-ppo->settings->entropy_coef / whole_rows);
  backend->upload(backend, ppo->device.mb_dentropy, gathered, sizeof(float) * (size_t)ppo->batch.rows);
}

/* stats: the minibatch's, on the device. */
static void losses(Ppo *ppo, int whole_rows, float *stats) {
  const PpoSettings *s = ppo->settings;
  PpoTensors *d = &ppo->device;
  ppo->backend->ppo_loss(ppo->backend,
                         &(PpoLoss){.logprob = d->mb_logprob,
                                    .old_logprob = d->mb_old_logprob,
                                    .advantage = d->mb_advantage,
                                    .value = d->mb_value,
                                    .old_value = d->mb_old_value,
                                    .returns = d->mb_returns,
                                    .clip_low = (float)s->clip,
                                    .clip_high = (float)(s->clip_high > 0 ? s->clip_high : s->clip),
                                    .dual_clip = (float)s->dual_clip,
                                    .value_clip = (float)s->value_clip,
                                    .value_coef = (float)s->value_coef,
                                    .scale = 1.0f / (float)whole_rows,
                                    .dlogprob = d->mb_dlogprob,
                                    .dvalue = d->mb_dvalue,
                                    .stats = stats,
                                    .tokens = ppo->batch.rows});
}

static void backward(Ppo *ppo) {
  Backend *backend = ppo->backend;
  Learner *policy = &ppo->policy, *critic = critic_of(ppo);
  Decoder *decoder = &policy->model.decoder;
  DecoderInput input = batch_input(&ppo->batch);
  backend->vocab_backward(
      backend, &(VocabBackward){
                   .hidden = policy->rows.normed,
                   .weight = parameters_weight(&policy->model.parameters, decoder->vocab_weight),
                   .weight_type = parameters_weight_type(&policy->model.parameters, decoder->vocab_weight),
                   .targets = ppo->batch.device.targets,
                   .dlogprob = ppo->device.mb_dlogprob,
                   .dentropy = ppo->settings->entropy_coef != 0 ? ppo->device.mb_dentropy : NULL,
                   .dhidden = policy->rows.dnormed,
                   .dweight = parameters_grad(&policy->model.parameters, decoder->vocab_weight),
                   .rows = ppo->batch.rows,
                   .hidden_size = decoder->config.hidden,
                   .vocab = decoder->config.vocab});
  Model *model = &critic->model;
  backend->scalar_head_backward(
      backend, &(ScalarHeadBackward){.hidden = critic->rows.normed,
                                     .weight = parameters_weight(&model->parameters, model->value_weight),
                                     .dout = ppo->device.mb_dvalue,
                                     .dhidden = critic->rows.dnormed,
                                     .accumulate = critic == policy,
                                     .dweight = parameters_grad(&model->parameters, model->value_weight),
                                     .dbias = parameters_grad(&model->parameters, model->value_bias),
                                     .rows = ppo->batch.rows,
                                     .hidden_size = model->decoder.config.hidden});
  model_rows_backward(&policy->model, &policy->activations, &policy->rows, ppo->batch.device.rows,
                      ppo->batch.rows, &input);
  if (critic != policy)
    model_rows_backward(&critic->model, &critic->activations, &critic->rows, ppo->batch.device.rows,
                        ppo->batch.rows, &input);
}

/* Issued without waiting for the device; update reads what it left in device.stats. */
static void update_minibatch(Ppo *ppo, int whole_rows, double lr, PpoStep *out) {
  forward_policy_and_critic(ppo);
  logprobs(ppo, &ppo->policy, ppo->device.mb_logprob, NULL);
  values(ppo, ppo->device.mb_value);
  losses(ppo, whole_rows, ppo->device.stats + PPO_STATS * out->updates);
  backward(ppo);
  Model *models[2];
  int count = ppo_models(ppo, models);
  for (int i = 0; i < count; i++) optimizer_step(models[i], &ppo->settings->optimizer, lr, ppo->updates);
  ppo->updates++;
  out->updates++;
}

/* Means of the minibatches' sums, and the last gradient norm. */
static Status read_updates(Ppo *ppo, double tokens, PpoStep *out, Arena *scratch) {
  float *stats = NEW(scratch, float, PPO_STATS * out->updates), norm;
  TRY(ppo->backend->download(ppo->backend, stats, ppo->device.stats,
                             sizeof *stats * PPO_STATS * (size_t)out->updates));
  TRY(ppo->backend->download(ppo->backend, &norm, ppo->policy.model.parameters.norm, sizeof norm));
  comm_sum_floats(stats, (size_t)PPO_STATS * (size_t)out->updates);
  double sums[PPO_STATS] = {0};
  for (int i = 0; i < PPO_STATS * out->updates; i++) sums[i % PPO_STATS] += (double)stats[i];
  out->policy_loss = sums[PPO_POLICY_LOSS] / tokens;
  out->value_loss = sums[PPO_VALUE_LOSS] / tokens;
  out->clip_fraction = sums[PPO_CLIPPED] / tokens;
  out->value_clip_fraction = sums[PPO_VALUE_CLIPPED] / tokens;
  out->approx_kl = sums[PPO_APPROX_KL] / tokens;
  out->ratio = sums[PPO_RATIO] / tokens;
  out->grad_norm = (double)norm;
  return OK;
}

/* Posts in a random order, the samples of each together: in a minibatch they share its computation. */
static void shuffle(const PpoSample *samples, int *order, int count, RandomKey key, int epoch,
                    Arena *scratch) {
  int *first = NEW(scratch, int, count + 1), *post = NEW(scratch, int, count), posts = 0, at = 0;
  for (int i = 0; i < count; i++)
    if (i == 0 || samples[i].prompt != samples[i - 1].prompt) first[posts++] = i;
  first[posts] = count;
  for (int i = 0; i < posts; i++) post[i] = i;
  for (int i = posts - 1; i > 0; i--) {
    int j = (int)random_below(key, (uint32_t)epoch, (uint32_t)i, (uint32_t)i + 1), swap = post[i];
    post[i] = post[j];
    post[j] = swap;
  }
  for (int i = 0; i < posts; i++)
    for (int sample = first[post[i]]; sample < first[post[i] + 1]; sample++) order[at++] = sample;
}

/* beta <- beta (1 + clip(KL / target - 1, -0.2, 0.2) n / horizon) (Ziegler et al. 2019) */
static void adapt_kl(Ppo *ppo, double kl, int samples) {
  const PpoSettings *s = ppo->settings;
  if (s->kl_control == KL_CONTROL_FIXED) return;
  double error = fmin(0.2, fmax(-0.2, kl / s->kl_target - 1));
  ppo->kl_coef *= 1 + error * samples / s->kl_horizon;
}

static Status update(Ppo *ppo, const PpoSample *samples, int count, double lr, RandomKey key, PpoStep *out,
                     Arena *scratch) {
  HostTensors host = {0};
  int *order = NEW(scratch, int, count), *own = NEW(scratch, int, count);
  for (int i = 0; i < count; i++) order[i] = i;
  int mine = own_samples(samples, order, count, own, scratch);
  lay_out_replies(samples, count, &host, scratch);
  evaluate_old(ppo, samples, own, mine, scratch);
  if (comm.size > 1) TRY(exchange_old(ppo, own, mine, &host, scratch));
  TRY(advantages(ppo, samples, count, &host, scratch));
  describe(&host, count, out);
  for (int epoch = 0; epoch < ppo->settings->epochs; epoch++) {
    shuffle(samples, order, count, key, epoch, scratch);
    for (int first = 0; first < count; first += ppo->settings->minibatch) {
      int n = count - first < ppo->settings->minibatch ? count - first : ppo->settings->minibatch;
      int whole_rows = 0;
      for (int i = first; i < first + n; i++) whole_rows += samples[order[i]].reply_length;
      mine = own_samples(samples, order + first, n, own, scratch);
      fill_batch(ppo, samples, own, mine, scratch);
      upload_minibatch(ppo, &host, own, mine, whole_rows, scratch);
      update_minibatch(ppo, whole_rows, lr, out);
    }
  }
  TRY(read_updates(ppo, (double)host.tokens * ppo->settings->epochs, out, scratch));
  adapt_kl(ppo, out->kl, count);
  return OK;
}

Status ppo_update(Ppo *ppo, const PpoSample *samples, int count, double lr, RandomKey key, PpoStep *out) {
  Arena scratch = {0};
  *out = (PpoStep){0};
  Status status = update(ppo, samples, count, lr, key, out, &scratch);
  arena_free(&scratch);
  return status;
}

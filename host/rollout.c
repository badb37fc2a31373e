#include "rollout.h"

#include <string.h>

#include "base/comm.h"

enum { COMPACT_EVERY = 4, ARRAYS = 10 }; /* steps between two looks at which replies have ended */
enum { EVALUATED_AT_ONCE = 32 };         /* posts, by each rank */

static size_t padded(int count) { return ((size_t)count + 63) / 64 * 64; }

static size_t elements(const Rollout *r) {
  return (ARRAYS + 2) * padded(r->max_rows) + padded(r->max_rows * r->max_reply);
}

static RolloutArrays lay_out(const Rollout *r, int32_t *base) {
  size_t n = padded(r->max_rows);
  return (RolloutArrays){.post = base,
                         .slot = base + n,
                         .sample = base + 2 * n,
                         .last_row = base + 3 * n,
                         .token = base + 4 * n,
                         .position = base + 5 * n,
                         .reply_len = base + 6 * n,
                         .cache_row = base + 7 * n,
                         .index = base + 8 * n,
                         .drawn = base + 9 * n,
                         .length = base + ARRAYS * n,
                         .finished = base + (ARRAYS + 1) * n,
                         .reply = base + (ARRAYS + 2) * n};
}

int rollout_evaluated_at_once(int posts) {
  int most = EVALUATED_AT_ONCE * comm.size;
  return posts < most ? posts : most;
}

size_t rollout_bytes(const DecoderConfig *config, DType storage, int prompt_tokens, int max_reply,
                     int max_posts, int samples_per_post) {
  max_posts = comm_part_most(max_posts);
  Rollout shape = {.max_rows = max_posts * samples_per_post, .max_reply = max_reply};
  int prompts = max_posts * prompt_tokens, rows = shape.max_rows, tokens = prompts > rows ? prompts : rows;
  size_t sampler = (size_t)rows * (size_t)config->vocab + padded(rows) + padded(rows * max_reply);
  return batch_bytes(tokens, max_posts) + activations_bytes(config, storage, tokens, ACTIVATIONS_INFERENCE) +
         model_rows_bytes(config, storage, rows, false) +
         decode_cache_bytes(config, storage, prompts, rows, max_reply) + elements(&shape) * sizeof(int32_t) +
         sampler * sizeof(float) + sizeof(RandomKey);
}

Status rollout_allocate(Arena *arena, Rollout *rollout, const Model *model, const PromptCodec *codec,
                        int max_posts, int samples_per_post) {
  Backend *backend = model->parameters.backend;
  const DecoderConfig *config = &model->decoder.config;
  max_posts = comm_part_most(max_posts);
  *rollout = (Rollout){.model = model,
                       .max_posts = max_posts,
                       .max_rows = max_posts * samples_per_post,
                       .max_reply = codec->max_reply_tokens,
                       .eos = tokenizer_eos(codec->tokenizer)};
  for (int i = 0; i < ROLLOUT_STEPS; i++) rollout->steps[i].rows = (rollout->max_rows + (1 << i) - 1) >> i;
  int prompt_tokens = max_posts * prompt_max(codec), rows = rollout->max_rows;
  int max_tokens = prompt_tokens > rows ? prompt_tokens : rows;
  TRY(batch_allocate(arena, &rollout->prompts, backend, max_tokens, max_posts));
  TRY(activations_allocate(&rollout->activations, arena, config, backend, max_tokens, ACTIVATIONS_INFERENCE));
  TRY(model_rows_allocate(&rollout->normed, model, rows, false));
  TRY(decode_cache_allocate(arena, &rollout->cache, model, prompt_tokens, rows, rollout->max_reply));
  void *device;
  TRY(backend->alloc(backend, elements(rollout) * sizeof(int32_t), "the replies", &device));
  rollout->device = lay_out(rollout, device);
  rollout->host = lay_out(rollout, NEW(arena, int32_t, elements(rollout)));
  size_t logits = (size_t)rows * (size_t)config->vocab;
  size_t logprobs = padded(rows * rollout->max_reply);
  TRY(backend->alloc(backend, logits * sizeof(float), "logits of the sampler",
                     (void **)&rollout->device_logits));
  TRY(backend->alloc(backend, sizeof(RandomKey), "the sampler's key", (void **)&rollout->device_key));
  TRY(backend->alloc(backend, padded(rows) * sizeof(float), "logprobs of the sampler",
                     (void **)&rollout->device_logprob));
  return backend->alloc(backend, logprobs * sizeof(float), "logprobs of the sampler",
                        (void **)&rollout->device_reply_logprob);
}

static void free_recordings(Rollout *rollout) {
  Backend *backend = rollout->model->parameters.backend;
  for (int i = 0; i < ROLLOUT_STEPS; i++) {
    if (rollout->steps[i].recording) backend->record_free(backend, rollout->steps[i].recording);
    rollout->steps[i].recording = NULL;
  }
}

void rollout_free(Rollout *rollout) {
  if (!rollout->model) return;
  Backend *backend = rollout->model->parameters.backend;
  free_recordings(rollout);
  batch_free(&rollout->prompts);
  activations_free(&rollout->activations, backend);
  model_rows_free(&rollout->normed, backend);
  decode_cache_free(&rollout->cache, backend);
  void *memory[] = {rollout->device.post, rollout->device_key, rollout->device_logits,
                    rollout->device_logprob, rollout->device_reply_logprob};
  for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
    if (memory[i]) backend->free(backend, memory[i]);
  rollout->model = NULL;
}

/* The number of rows that a step over `open` replies has. */
static int step_rows(const Rollout *r, int open) {
  if (!r->model->parameters.backend->records) return open;
  int i = ROLLOUT_STEPS - 1;
  while (i > 0 && r->steps[i].rows < open) i--;
  return open ? r->steps[i].rows : 0;
}

/* The prompts' keys and values into the cache, and every row's start. Rows beyond count belong to no reply:
 * they stand for ended ones. */
static void prefill(Rollout *r, const RolloutRequest *request, int rows) {
  Backend *backend = r->model->parameters.backend;
  batch_clear(&r->prompts);
  memset(r->host.post, 0, elements(r) * sizeof(int32_t));
  for (int p = 0; p < request->posts; p++) {
    int length = request->prompt_lengths[p];
    batch_add(&r->prompts, request->prompts[p], length, length);
    for (int s = 0; s < request->samples; s++) {
      int row = p * request->samples + s;
      r->host.post[row] = p;
      r->host.slot[row] = row;
      r->host.sample[row] = request->first_sample + row;
      r->host.last_row[row] = r->prompts.tokens - 1;
      r->host.position[row] = length - 1;
      r->host.cache_row[row] = row * r->max_reply - 1;
    }
  }
  for (int row = request->posts * request->samples; row < rows; row++) {
    r->host.slot[row] = row;
    r->host.cache_row[row] = row * r->max_reply;
    r->host.reply_len[row] = 1;
    r->host.finished[row] = 1;
  }
  batch_upload(&r->prompts);
  backend->upload(backend, r->device_key, &request->key, sizeof request->key);
  backend->upload(backend, r->device.post, r->host.post, elements(r) * sizeof(int32_t));
  DecoderInput input = batch_input(&r->prompts);
  input.kv_cache = r->cache.post;
  decoder_forward(&r->model->decoder, &r->activations, &input);
}

/* Draws the next token of every row from the residual stream's rows `index`. */
static void draw(Rollout *r, const RolloutRequest *request, const int32_t *index, int rows) {
  const Model *model = r->model;
  Backend *backend = model->parameters.backend;
  const DecoderConfig *config = &model->decoder.config;
  model_rows_forward(model, &r->activations, &r->normed, index, rows);
  backend->vocab_logits(
      backend,
      &(VocabLogits){.hidden = r->normed.normed,
                     .weight = parameters_weight(&model->parameters, model->decoder.vocab_weight),
                     .weight_type = parameters_weight_type(&model->parameters, model->decoder.vocab_weight),
                     .logits = r->device_logits,
                     .rows = rows,
                     .hidden_size = config->hidden,
                     .vocab = config->vocab});
  backend->sample(backend, &(Sample){.logits = r->device_logits,
                                     .rows = rows,
                                     .vocab = config->vocab,
                                     .temperature = (float)request->sampling.temperature,
                                     .top_p = (float)request->sampling.top_p,
                                     .top_k = request->sampling.top_k,
                                     .key = r->device_key,
                                     .sample = r->device.sample,
                                     .position = r->device.index,
                                     .token = r->device.drawn,
                                     .logprob = r->device_logprob});
  backend->decode_advance(backend, &(DecodeAdvance){.slot = r->device.slot,
                                                    .token = r->device.drawn,
                                                    .logprob = r->device_logprob,
                                                    .eos = r->eos,
                                                    .rows = rows,
                                                    .max_reply = r->max_reply,
                                                    .reply = r->device.reply,
                                                    .reply_logprob = r->device_reply_logprob,
                                                    .length = r->device.length,
                                                    .finished = r->device.finished,
                                                    .next_token = r->device.token,
                                                    .next_position = r->device.position,
                                                    .next_reply_len = r->device.reply_len,
                                                    .next_cache_row = r->device.cache_row,
                                                    .next_index = r->device.index});
}

/* Leaves the rows whose reply has not ended, and of the ended ones as many as fill the step; returns how
 * many. */
static Status compact(Rollout *r, int *rows) {
  Backend *backend = r->model->parameters.backend;
  RolloutArrays *h = &r->host;
  TRY(backend->download(backend, h->post, r->device.post, elements(r) * sizeof(int32_t)));
  int32_t *lists[] = {h->post,     h->slot,      h->sample,    h->last_row, h->token,
                      h->position, h->reply_len, h->cache_row, h->index};
  int open = 0;
  for (int row = 0; row < *rows; row++) open += !h->finished[h->slot[row]];
  int wanted = step_rows(r, open), ended = wanted - open, kept = 0;
  if (wanted == *rows) return OK;
  for (int row = 0; row < *rows; row++) {
    if (h->finished[h->slot[row]] && ended-- <= 0) continue;
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) lists[i][kept] = lists[i][row];
    kept++;
  }
  backend->upload(backend, r->device.post, h->post, elements(r) * sizeof(int32_t));
  *rows = kept;
  return OK;
}

/* ---- steps ---- */

/* One token of every row: row i of the residual stream is row i of the lists, so identity is 0, 1, 2, ... */
static void issue_step(Rollout *r, const RolloutRequest *request, const int32_t *identity, int rows) {
  DecodeRows decode = {.rows = rows,
                       .post_cu_seqlens = r->prompts.device.cu_seqlens,
                       .post = r->device.post,
                       .slot = r->device.slot,
                       .token = r->device.token,
                       .position = r->device.position,
                       .reply_len = r->device.reply_len,
                       .cache_row = r->device.cache_row};
  decode_step(r->model, &r->activations, &r->cache, &decode);
  draw(r, request, identity, rows);
}

static RolloutStep *recorded_step(Rollout *r, int rows) {
  for (int i = 0; i < ROLLOUT_STEPS; i++)
    if (r->steps[i].rows == rows) return &r->steps[i];
  return NULL;
}

static void run_step(Rollout *r, const RolloutRequest *request, const int32_t *identity, int rows) {
  Backend *backend = r->model->parameters.backend;
  RolloutStep *step = backend->records ? recorded_step(r, rows) : NULL;
  if (!step || !step->warm) {
    issue_step(r, request, identity, rows);
    if (step) step->warm = true;
    return;
  }
  if (!step->recording) {
    backend->record_begin(backend);
    issue_step(r, request, identity, rows);
    step->recording = backend->record_end(backend);
  }
  backend->replay(backend, step->recording);
}

/* The reply so far, of slot 0. */
static Status show(Rollout *r, const RolloutWatch *watch) {
  Backend *backend = r->model->parameters.backend;
  if (!watch->show) return OK;
  TRY(backend->download(backend, r->host.length, r->device.length, sizeof(int32_t)));
  TRY(backend->download(backend, r->host.reply, r->device.reply, sizeof(int32_t) * (size_t)r->max_reply));
  watch->show(watch->state, r->host.reply, r->host.length[0]);
  return OK;
}

static Status collect(Rollout *r, int count, Arena *arena, Reply *replies) {
  Backend *backend = r->model->parameters.backend;
  size_t stride = (size_t)r->max_reply, total = (size_t)count * stride;
  float *logprob = NEW(arena, float, total);
  int32_t *tokens = NEW(arena, int32_t, total);
  TRY(backend->download(backend, r->host.post, r->device.post, elements(r) * sizeof(int32_t)));
  TRY(backend->download(backend, logprob, r->device_reply_logprob, total * sizeof(float)));
  memcpy(tokens, r->host.reply, total * sizeof(int32_t));
  for (int i = 0; i < count; i++) {
    int length = r->host.length[i];
    replies[i] = (Reply){
        .tokens = tokens + (size_t)i * stride, .logprob = logprob + (size_t)i * stride, .length = length};
    replies[i].ended = length > 0 && replies[i].tokens[length - 1] == r->eos;
  }
  return OK;
}

static bool same_sampling(const SamplingSettings *a, const SamplingSettings *b) {
  return a->temperature == b->temperature && a->top_p == b->top_p && a->top_k == b->top_k;
}

/* Samples on this rank alone. */
static Status sample_posts(Rollout *r, const RolloutRequest *request, Arena *arena, Reply *replies) {
  Backend *backend = r->model->parameters.backend;
  int count = request->posts * request->samples, rows = step_rows(r, count);
  if (request->posts > r->max_posts || count > r->max_rows)
    return fail(FAILED, "rollout: %d posts x %d samples do not fit the buffers; ask for fewer",
                request->posts, request->samples);
  if (!same_sampling(&r->sampling, &request->sampling)) free_recordings(r);
  r->sampling = request->sampling;
  prefill(r, request, rows);
  draw(r, request, r->device.last_row, rows);
  TRY(show(r, &request->watch));
  int32_t *identity = r->prompts.device.rows;
  for (int i = 0; i < rows; i++) r->host.drawn[i] = i;
  backend->upload(backend, identity, r->host.drawn, sizeof(int32_t) * (size_t)rows);
  for (int step = 1; step < r->max_reply; step++) {
    if (step % COMPACT_EVERY == 1) TRY(compact(r, &rows));
    if (rows == 0) break;
    run_step(r, request, identity, rows);
    TRY(show(r, &request->watch));
  }
  return collect(r, count, arena, replies);
}

/* ---- over the ranks ---- */

/* Gives all ranks the replies that the others have sampled; this rank's are those first[rank] .. */
static void exchange(const Rollout *r, Reply *replies, const int *first, Arena *arena) {
  int count = first[comm.size];
  size_t stride = (size_t)r->max_reply;
  int32_t *tokens = NEW(arena, int32_t, (size_t)count * stride);
  float *logprob = NEW(arena, float, (size_t)count *stride);
  int32_t *length = NEW(arena, int32_t, count);
  for (int i = first[comm.rank]; i < first[comm.rank + 1]; i++) {
    length[i] = replies[i].length;
    memcpy(tokens + (size_t)i * stride, replies[i].tokens, sizeof *tokens * (size_t)length[i]);
    memcpy(logprob + (size_t)i * stride, replies[i].logprob, sizeof *logprob * (size_t)length[i]);
  }
  comm_all_gather(length, sizeof *length, first);
  comm_all_gather(tokens, stride * sizeof *tokens, first);
  comm_all_gather(logprob, stride * sizeof *logprob, first);
  for (int i = 0; i < count; i++) {
    int32_t *own = tokens + (size_t)i * stride;
    replies[i] = (Reply){.tokens = own,
                         .logprob = logprob + (size_t)i * stride,
                         .length = length[i],
                         .ended = length[i] > 0 && own[length[i] - 1] == r->eos};
  }
}

Status rollout_run(Rollout *r, const RolloutRequest *request, Arena *arena, Reply *replies) {
  if (comm.size == 1) return sample_posts(r, request, arena, replies);
  int *first = NEW(arena, int, comm.size + 1);
  comm_parts(request->posts, first);
  int begin = first[comm.rank];
  RolloutRequest mine = *request;
  mine.prompts += begin;
  mine.prompt_lengths += begin;
  mine.posts = first[comm.rank + 1] - begin;
  mine.first_sample += begin * request->samples;
  if (mine.posts > 0) TRY(sample_posts(r, &mine, arena, replies + begin * request->samples));
  for (int i = 0; i <= comm.size; i++) first[i] *= request->samples;
  exchange(r, replies, first, arena);
  return OK;
}

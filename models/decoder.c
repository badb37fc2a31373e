#include "models/decoder.h"

#include <math.h>

#include "models/adapter.h"

#define WEIGHT(index) parameters_weight(decoder->parameters, index)
#define TYPE(index) parameters_weight_type(decoder->parameters, index)
#define GRAD(index) parameters_grad(decoder->parameters, index)

static int query_width(const DecoderConfig *c) { return c->heads * c->head_dim; }
static int qkv_width(const DecoderConfig *c) { return (c->heads + 2 * c->kv_heads) * c->head_dim; }
static int up_width(const DecoderConfig *c) {
  return c->activation == ACTIVATION_SWIGLU ? 2 * c->mlp : c->mlp;
}

/* ---- declaration ---- */

typedef struct Declaration {
  Parameters *parameters;
  Arena *arena;
  int layer; /* -1: outside the layers */
} Declaration;

static int declare(const Declaration *d, bool present, const char *name, int rows, int cols, Init init,
                   double std) {
  if (!present) return -1;
  const char *full = d->layer < 0 ? name : arena_print(d->arena, "layers.%d.%s", d->layer, name);
  return parameters_add(d->parameters, d->arena, full, rows, cols, init, std);
}

void decoder_declare(Decoder *decoder, Arena *arena, const DecoderConfig *c, Parameters *parameters) {
  const double std = sqrt(2.0 / (5.0 * c->hidden)); /* Nguyen and Salazar 2019; 0.023 at GPT-2's width */
  const double residual_std = std / sqrt(2.0 * c->layers); /* GPT-2: keeps the stream's variance at depth */
  int H = c->hidden, F = c->mlp, q = query_width(c), qkv = qkv_width(c), up = up_width(c);
  bool norm_bias = c->bias && c->norm == NORM_LAYER;
  Declaration d = {parameters, arena, -1};
  *decoder = (Decoder){.config = *c, .parameters = parameters, .layer = NEW(arena, DecoderLayer, c->layers)};
  parameters->declare_frozen = decoder_adapted(c);
  parameters->base = c->base;
  decoder->token_table = declare(&d, true, "embedding.weight", c->vocab, H, INIT_NORMAL, std);
  decoder->position_table = declare(&d, !c->rope, "positions.weight", c->max_positions, H, INIT_NORMAL, std);
  for (d.layer = 0; d.layer < c->layers; d.layer++) {
    DecoderLayer *l = &decoder->layer[d.layer];
    l->norm1_gain = declare(&d, true, "attention_norm.gain", H, 0, INIT_ONES, 0);
    l->norm1_bias = declare(&d, norm_bias, "attention_norm.bias", H, 0, INIT_ZEROS, 0);
    l->qkv = declare(&d, true, "attention.qkv.weight", qkv, H, INIT_NORMAL, std);
    l->qkv_bias = declare(&d, c->qkv_bias, "attention.qkv.bias", qkv, 0, INIT_ZEROS, 0);
    l->q_norm = declare(&d, c->qk_norm, "attention.q_norm.gain", c->head_dim, 0, INIT_ONES, 0);
    l->k_norm = declare(&d, c->qk_norm, "attention.k_norm.gain", c->head_dim, 0, INIT_ONES, 0);
    l->proj = declare(&d, true, "attention.proj.weight", H, q, INIT_NORMAL, residual_std);
    l->proj_bias = declare(&d, c->bias, "attention.proj.bias", H, 0, INIT_ZEROS, 0);
    l->norm2_gain = declare(&d, true, "mlp_norm.gain", H, 0, INIT_ONES, 0);
    l->norm2_bias = declare(&d, norm_bias, "mlp_norm.bias", H, 0, INIT_ZEROS, 0);
    l->up = declare(&d, true, "mlp.up.weight", up, H, INIT_NORMAL, std);
    l->up_bias = declare(&d, c->bias, "mlp.up.bias", up, 0, INIT_ZEROS, 0);
    l->down = declare(&d, true, "mlp.down.weight", H, F, INIT_NORMAL, residual_std);
    l->down_bias = declare(&d, c->bias, "mlp.down.bias", H, 0, INIT_ZEROS, 0);
  }
  d.layer = -1;
  decoder->final_gain = declare(&d, true, "final_norm.gain", H, 0, INIT_ONES, 0);
  decoder->final_bias = declare(&d, norm_bias, "final_norm.bias", H, 0, INIT_ZEROS, 0);
  decoder->vocab_weight =
      c->tied ? decoder->token_table : declare(&d, true, "vocab.weight", c->vocab, H, INIT_NORMAL, std);
  parameters->declare_frozen = false;
  for (int i = 0; i < c->layers; i++) adapter_declare(decoder, arena, i);
}

/* ---- activations ---- */

typedef struct Carver { /* hands out aligned pieces of one allocation; with base NULL it only measures */
  char *base;
  size_t at;
} Carver;

static void *carve(Carver *carver, size_t rows, int width, size_t element) {
  void *piece = carver->base ? carver->base + carver->at : NULL;
  carver->at += (rows * (size_t)width * element + 255) / 256 * 256;
  return piece;
}

static LayerActivations carve_layer(Carver *carver, const DecoderConfig *c, size_t element, size_t n,
                                    bool training) {
  LayerActivations out = {.x1 = carve(carver, n, c->hidden, element),
                          .y1 = carve(carver, n, c->hidden, element),
                          .qkv = carve(carver, n, qkv_width(c), element),
                          .attended = carve(carver, n, query_width(c), element),
                          .x2 = carve(carver, n, c->hidden, element),
                          .y2 = carve(carver, n, c->hidden, element),
                          .u = carve(carver, n, up_width(c), element),
                          .g = carve(carver, n, c->mlp, element)};
  for (int t = 0; t < LORA_TARGETS; t++)
    if (c->lora.rank && c->lora.target[t]) out.low[t] = carve(carver, n, c->lora.rank, element);
  if (!training) return out;
  out.lse = carve(carver, n, c->heads, sizeof(float));
  out.rstd1 = carve(carver, n, 1, sizeof(float));
  out.rstd2 = carve(carver, n, 1, sizeof(float));
  if (c->qk_norm) {
    out.qk = carve(carver, n, (c->heads + c->kv_heads) * c->head_dim, element);
    out.qk_rstd = carve(carver, n, c->heads + c->kv_heads, sizeof(float));
  }
  if (c->norm == NORM_RMS) return out;
  out.mean1 = carve(carver, n, 1, sizeof(float));
  out.mean2 = carve(carver, n, 1, sizeof(float));
  return out;
}

static void carve_all(Carver *carver, const DecoderConfig *c, size_t element, Activations *out) {
  size_t n = (size_t)out->max_tokens;
  bool training = out->use != ACTIVATIONS_INFERENCE;
  LayerActivations first = {0};
  void *dropped = NULL;
  if (training && c->lora.rank && c->lora.dropout > 0) dropped = carve(carver, n, adapter_widest(c), element);
  for (int l = 0; l < c->layers; l++) {
    LayerActivations layer = first;
    if (l == 0 || out->use == ACTIVATIONS_KEPT) layer = carve_layer(carver, c, element, n, training);
    layer.dropped = dropped;
    if (l == 0) first = layer;
    if (l > 0 && out->use == ACTIVATIONS_RECOMPUTED) layer.x1 = carve(carver, n, c->hidden, element);
    if (out->layer) out->layer[l] = layer;
  }
  out->branch = carve(carver, n, c->hidden, element);
  if (!training) return;
  out->dstream = carve(carver, n, c->hidden, element);
  out->dy = carve(carver, n, c->hidden, element);
  out->datt = carve(carver, n, query_width(c), element);
  out->dqkv = carve(carver, n, qkv_width(c), element);
  out->du = carve(carver, n, up_width(c), element);
  out->dg = carve(carver, n, c->mlp, element);
  if (c->lora.rank) out->dlow = carve(carver, n, c->lora.rank, element);
}

size_t activations_bytes(const DecoderConfig *config, DType storage, int max_tokens, ActivationsUse use) {
  Carver carver = {0};
  Activations measured = {.max_tokens = max_tokens, .use = use};
  carve_all(&carver, config, dtype_bytes(storage), &measured);
  return carver.at;
}

Status activations_allocate(Activations *activations, Arena *arena, const DecoderConfig *config,
                            Backend *backend, int max_tokens, ActivationsUse use) {
  *activations = (Activations){
      .max_tokens = max_tokens, .use = use, .layer = NEW(arena, LayerActivations, config->layers)};
  activations->bytes = activations_bytes(config, backend->storage, max_tokens, use);
  TRY(backend->alloc(backend, activations->bytes, "activations (fewer tokens per batch need less)",
                     &activations->memory));
  Carver carver = {activations->memory, 0};
  carve_all(&carver, config, dtype_bytes(backend->storage), activations);
  return OK;
}

void activations_free(Activations *activations, Backend *backend) {
  if (activations->memory) backend->free(backend, activations->memory);
  activations->memory = NULL;
}

/* ---- forward ---- */

static void linear(const Decoder *decoder, const void *x, int weight, int bias, void *y, int rows, int in,
                   int out) {
  Backend *backend = decoder->parameters->backend;
  backend->linear(backend, &(Linear){.x = x,
                                     .weight = WEIGHT(weight),
                                     .weight_type = TYPE(weight),
                                     .bias = WEIGHT(bias),
                                     .y = y,
                                     .rows = rows,
                                     .in = in,
                                     .out = out});
}

static void qk_norm(const Decoder *decoder, int index, const LayerActivations *a, int rows) {
  Backend *backend = decoder->parameters->backend;
  const DecoderConfig *c = &decoder->config;
  const DecoderLayer *l = &decoder->layer[index];
  if (!c->qk_norm) return;
  backend->qk_norm(backend, &(QkNorm){.qkv = a->qkv,
                                      .kept = a->qk,
                                      .rstd = a->qk_rstd,
                                      .q_gain = WEIGHT(l->q_norm),
                                      .k_gain = WEIGHT(l->k_norm),
                                      .rows = rows,
                                      .heads = c->heads,
                                      .kv_heads = c->kv_heads,
                                      .head_dim = c->head_dim,
                                      .epsilon = c->norm_epsilon});
}

static void rope(const Decoder *decoder, void *qkv, const int32_t *positions, int rows, bool inverse) {
  Backend *backend = decoder->parameters->backend;
  const DecoderConfig *c = &decoder->config;
  if (!c->rope) return;
  backend->rope(backend, &(Rope){.qkv = qkv,
                                 .positions = positions,
                                 .rows = rows,
                                 .heads = c->heads,
                                 .kv_heads = c->kv_heads,
                                 .head_dim = c->head_dim,
                                 .theta = c->rope_theta,
                                 .inverse = inverse,
                                 .scaling = c->rope_scaling,
                                 .first_position = c->prefix_tokens});
}

void decoder_before_attention(const Decoder *decoder, int index, const LayerActivations *a, const void *x,
                              const void *residual, const int32_t *positions, const DecoderDropout *dropout,
                              int rows) {
  Backend *backend = decoder->parameters->backend;
  const DecoderConfig *c = &decoder->config;
  const DecoderLayer *l = &decoder->layer[index];
  backend->norm(backend, &(Norm){.kind = c->norm,
                                 .x = x,
                                 .residual = residual,
                                 .sum = a->x1,
                                 .y = a->y1,
                                 .mean = a->mean1,
                                 .rstd = a->rstd1,
                                 .gain = WEIGHT(l->norm1_gain),
                                 .bias = WEIGHT(l->norm1_bias),
                                 .rows = rows,
                                 .hidden = c->hidden,
                                 .epsilon = c->norm_epsilon});
  linear(decoder, a->y1, l->qkv, l->qkv_bias, a->qkv, rows, c->hidden, qkv_width(c));
  adapter_forward(decoder, index, PRODUCT_QKV, a, dropout, a->y1, a->qkv, rows);
  qk_norm(decoder, index, a, rows);
  rope(decoder, a->qkv, positions, rows, false);
}

void decoder_after_attention(const Decoder *decoder, int index, const LayerActivations *a, void *branch,
                             const DecoderDropout *dropout, int rows) {
  Backend *backend = decoder->parameters->backend;
  const DecoderConfig *c = &decoder->config;
  const DecoderLayer *l = &decoder->layer[index];
  linear(decoder, a->attended, l->proj, l->proj_bias, branch, rows, query_width(c), c->hidden);
  adapter_forward(decoder, index, PRODUCT_PROJ, a, dropout, a->attended, branch, rows);
  backend->norm(backend, &(Norm){.kind = c->norm,
                                 .x = a->x1,
                                 .residual = branch,
                                 .sum = a->x2,
                                 .y = a->y2,
                                 .mean = a->mean2,
                                 .rstd = a->rstd2,
                                 .gain = WEIGHT(l->norm2_gain),
                                 .bias = WEIGHT(l->norm2_bias),
                                 .rows = rows,
                                 .hidden = c->hidden,
                                 .epsilon = c->norm_epsilon});
  linear(decoder, a->y2, l->up, l->up_bias, a->u, rows, c->hidden, up_width(c));
  adapter_forward(decoder, index, PRODUCT_UP, a, dropout, a->y2, a->u, rows);
  backend->activation(
      backend, &(Activation){.kind = c->activation, .x = a->u, .y = a->g, .rows = rows, .width = c->mlp});
  linear(decoder, a->g, l->down, l->down_bias, branch, rows, c->mlp, c->hidden);
  adapter_forward(decoder, index, PRODUCT_DOWN, a, dropout, a->g, branch, rows);
}

static void attention(const Decoder *decoder, int index, const LayerActivations *a,
                      const Sequences *sequences) {
  Backend *backend = decoder->parameters->backend;
  const DecoderConfig *c = &decoder->config;
  backend->attention(backend, &(Attention){.sequences = *sequences,
                                           .qkv = a->qkv,
                                           .prefix = WEIGHT(decoder->layer[index].prefix),
                                           .prefix_len = c->prefix_tokens,
                                           .out = a->attended,
                                           .lse = a->lse,
                                           .heads = c->heads,
                                           .kv_heads = c->kv_heads,
                                           .head_dim = c->head_dim});
}

/* A table of positions without the rows that a prefix takes. */
static void *after_prefix(const Decoder *decoder, void *table) {
  const DecoderConfig *c = &decoder->config;
  size_t row = weight_row_bytes(TYPE(decoder->position_table), decoder->parameters->backend->storage, c->hidden);
  return table ? (char *)table + (size_t)c->prefix_tokens * row : NULL;
}

void decoder_embed(const Decoder *decoder, const int32_t *tokens, const int32_t *positions, int rows,
                   void *out) {
  Backend *backend = decoder->parameters->backend;
  const DecoderConfig *c = &decoder->config;
  backend->embedding(backend,
                     &(Embedding){.tokens = tokens,
                                  .positions = positions,
                                  .rows = rows,
                                  .hidden = c->hidden,
                                  .vocab = c->vocab,
                                  .max_positions = decoder_context(c),
                                  .token_table = WEIGHT(decoder->token_table),
                                  .position_table = after_prefix(decoder, WEIGHT(decoder->position_table)),
                                  .table_type = TYPE(decoder->token_table),
                                  .out = out});
}

void decoder_forward(const Decoder *decoder, Activations *activations, const DecoderInput *input) {
  Backend *backend = decoder->parameters->backend;
  const DecoderConfig *c = &decoder->config;
  int rows = input->sequences.tokens;
  parameters_ready(decoder->parameters, BUCKET_AT_END);
  decoder_embed(decoder, input->tokens, input->positions, rows, activations->layer[0].x1);
  for (int i = 0; i < c->layers; i++) {
    LayerActivations *a = &activations->layer[i];
    parameters_ready(decoder->parameters, i);
    const void *x = i ? activations->layer[i - 1].x2 : a->x1;
    decoder_before_attention(decoder, i, a, x, i ? activations->branch : NULL, input->positions,
                             input->dropout, rows);
    if (input->kv_cache)
      backend->kv_store(backend, &(KvStore){.qkv = a->qkv,
                                            .cache = input->kv_cache[i],
                                            .rows = rows,
                                            .heads = c->heads,
                                            .kv_heads = c->kv_heads,
                                            .head_dim = c->head_dim});
    attention(decoder, i, a, &input->sequences);
    decoder_after_attention(decoder, i, a, activations->branch, input->dropout, rows);
  }
  parameters_ready(decoder->parameters, BUCKET_AT_ONCE); /* vocabulary and heads, which come next */
}

/* ---- backward ---- */

static void linear_backward(const Decoder *decoder, const void *x, int weight, int bias, const void *dy,
                            void *dx, int rows, int in, int out) {
  Backend *backend = decoder->parameters->backend;
  backend->linear_backward(backend, &(LinearBackward){.x = x,
                                                      .weight = WEIGHT(weight),
                                                      .weight_type = TYPE(weight),
                                                      .dy = dy,
                                                      .dx = dx,
                                                      .dweight = GRAD(weight),
                                                      .dbias = GRAD(bias),
                                                      .rows = rows,
                                                      .in = in,
                                                      .out = out});
}

/* dstream <- dstream + gradient of dy through the norm of sum */
static void norm_backward(const Decoder *decoder, const Activations *activations, const void *sum,
                          const float *mean, const float *rstd, int gain, int bias, int rows) {
  Backend *backend = decoder->parameters->backend;
  backend->norm_backward(backend, &(NormBackward){.kind = decoder->config.norm,
                                                  .sum = sum,
                                                  .dy = activations->dy,
                                                  .dresidual = activations->dstream,
                                                  .mean = mean,
                                                  .rstd = rstd,
                                                  .gain = WEIGHT(gain),
                                                  .dx = activations->dstream,
                                                  .dgain = GRAD(gain),
                                                  .dbias = GRAD(bias),
                                                  .rows = rows,
                                                  .hidden = decoder->config.hidden});
}

static void qk_norm_backward(const Decoder *decoder, int index, const LayerActivations *a, void *dqkv,
                             int rows) {
  Backend *backend = decoder->parameters->backend;
  const DecoderConfig *c = &decoder->config;
  const DecoderLayer *l = &decoder->layer[index];
  if (!c->qk_norm) return;
  backend->qk_norm_backward(backend, &(QkNormBackward){.dqkv = dqkv,
                                                       .kept = a->qk,
                                                       .rstd = a->qk_rstd,
                                                       .q_gain = WEIGHT(l->q_norm),
                                                       .k_gain = WEIGHT(l->k_norm),
                                                       .dq_gain = GRAD(l->q_norm),
                                                       .dk_gain = GRAD(l->k_norm),
                                                       .rows = rows,
                                                       .heads = c->heads,
                                                       .kv_heads = c->kv_heads,
                                                       .head_dim = c->head_dim});
}

static void backward_mlp(const Decoder *decoder, Activations *activations, int index,
                         const DecoderInput *input) {
  Backend *backend = decoder->parameters->backend;
  const DecoderConfig *c = &decoder->config;
  const DecoderLayer *l = &decoder->layer[index];
  const LayerActivations *a = &activations->layer[index];
  int rows = input->sequences.tokens;
  linear_backward(decoder, a->g, l->down, l->down_bias, activations->dstream, activations->dg, rows, c->mlp,
                  c->hidden);
  adapter_backward(decoder, index, PRODUCT_DOWN, a, input->dropout, a->g, activations->dstream,
                   activations->dg, activations->dlow, rows);
  backend->activation_backward(backend, &(ActivationBackward){.kind = c->activation,
                                                              .x = a->u,
                                                              .dy = activations->dg,
                                                              .dx = activations->du,
                                                              .rows = rows,
                                                              .width = c->mlp});
  linear_backward(decoder, a->y2, l->up, l->up_bias, activations->du, activations->dy, rows, c->hidden,
                  up_width(c));
  adapter_backward(decoder, index, PRODUCT_UP, a, input->dropout, a->y2, activations->du, activations->dy,
                   activations->dlow, rows);
  norm_backward(decoder, activations, a->x2, a->mean2, a->rstd2, l->norm2_gain, l->norm2_bias, rows);
}

static void backward_attention(const Decoder *decoder, Activations *activations, int index,
                               const DecoderInput *input) {
  Backend *backend = decoder->parameters->backend;
  const DecoderConfig *c = &decoder->config;
  const DecoderLayer *l = &decoder->layer[index];
  const LayerActivations *a = &activations->layer[index];
  int rows = input->sequences.tokens;
  linear_backward(decoder, a->attended, l->proj, l->proj_bias, activations->dstream, activations->datt, rows,
                  query_width(c), c->hidden);
  adapter_backward(decoder, index, PRODUCT_PROJ, a, input->dropout, a->attended, activations->dstream,
                   activations->datt, activations->dlow, rows);
  backend->attention_backward(backend, &(AttentionBackward){.sequences = input->sequences,
                                                            .qkv = a->qkv,
                                                            .prefix = WEIGHT(l->prefix),
                                                            .dprefix = GRAD(l->prefix),
                                                            .prefix_len = c->prefix_tokens,
                                                            .out = a->attended,
                                                            .dout = activations->datt,
                                                            .lse = a->lse,
                                                            .dqkv = activations->dqkv,
                                                            .heads = c->heads,
                                                            .kv_heads = c->kv_heads,
                                                            .head_dim = c->head_dim});
  rope(decoder, activations->dqkv, input->positions, rows, true);
  qk_norm_backward(decoder, index, a, activations->dqkv, rows);
  linear_backward(decoder, a->y1, l->qkv, l->qkv_bias, activations->dqkv, activations->dy, rows, c->hidden,
                  qkv_width(c));
  adapter_backward(decoder, index, PRODUCT_QKV, a, input->dropout, a->y1, activations->dqkv, activations->dy,
                   activations->dlow, rows);
  norm_backward(decoder, activations, a->x1, a->mean1, a->rstd1, l->norm1_gain, l->norm1_bias, rows);
}

/* A layer's activations from the input that was kept of it. */
static void forward_again(const Decoder *decoder, Activations *activations, int index,
                          const DecoderInput *input) {
  const LayerActivations *a = &activations->layer[index];
  int rows = input->sequences.tokens;
  decoder_before_attention(decoder, index, a, a->x1, NULL, input->positions, input->dropout, rows);
  attention(decoder, index, a, &input->sequences);
  decoder_after_attention(decoder, index, a, activations->branch, input->dropout, rows);
}

void decoder_backward(const Decoder *decoder, Activations *activations, const DecoderInput *input) {
  Backend *backend = decoder->parameters->backend;
  const DecoderConfig *c = &decoder->config;
  int rows = input->sequences.tokens;
  for (int i = c->layers - 1; i >= 0; i--) {
    if (activations->use == ACTIVATIONS_RECOMPUTED && i < c->layers - 1)
      forward_again(decoder, activations, i, input);
    backward_mlp(decoder, activations, i, input);
    backward_attention(decoder, activations, i, input);
    parameters_layer_done(decoder->parameters, i);
  }
  backend->embedding_backward(
      backend, &(EmbeddingBackward){.tokens = input->tokens,
                                    .positions = input->positions,
                                    .rows = rows,
                                    .hidden = c->hidden,
                                    .vocab = c->vocab,
                                    .max_positions = decoder_context(c),
                                    .dout = activations->dstream,
                                    .dtoken_table = GRAD(decoder->token_table),
                                    .dposition_table = after_prefix(decoder, GRAD(decoder->position_table))});
}

#include "models/decode.h"

static size_t layer_bytes(const DecoderConfig *c, DType storage, size_t rows) {
  return (rows * 2 * (size_t)c->kv_heads * (size_t)c->head_dim * dtype_bytes(storage) + 255) / 256 * 256;
}

size_t decode_cache_bytes(const DecoderConfig *c, DType storage, int max_post_tokens, int slots,
                          int max_reply) {
  size_t replies = (size_t)slots * (size_t)max_reply;
  return (size_t)c->layers *
         (layer_bytes(c, storage, (size_t)max_post_tokens) + layer_bytes(c, storage, replies));
}

Status decode_cache_allocate(Arena *arena, DecodeCache *cache, const Model *model, int max_post_tokens,
                             int slots, int max_reply) {
  Backend *backend = model->parameters.backend;
  const DecoderConfig *c = &model->decoder.config;
  *cache = (DecodeCache){.max_post_tokens = max_post_tokens,
                         .slots = slots,
                         .max_reply = max_reply,
                         .post = NEW(arena, void *, c->layers),
                         .reply = NEW(arena, void *, c->layers)};
  TRY(backend->alloc(backend, decode_cache_bytes(c, backend->storage, max_post_tokens, slots, max_reply),
                     "the KV cache", &cache->memory));
  char *at = cache->memory;
  for (int l = 0; l < c->layers; l++) {
    cache->post[l] = at;
    at += layer_bytes(c, backend->storage, (size_t)max_post_tokens);
    cache->reply[l] = at;
    at += layer_bytes(c, backend->storage, (size_t)slots * (size_t)max_reply);
  }
  return OK;
}

void decode_cache_free(DecodeCache *cache, Backend *backend) {
  if (cache->memory) backend->free(backend, cache->memory);
  cache->memory = NULL;
}

static void attend(const Model *model, int layer, const LayerActivations *a, const DecodeCache *cache,
                   const DecodeRows *rows) {
  Backend *backend = model->parameters.backend;
  const DecoderConfig *c = &model->decoder.config;
  backend->kv_store(backend, &(KvStore){.qkv = a->qkv,
                                        .row = rows->cache_row,
                                        .cache = cache->reply[layer],
                                        .rows = rows->rows,
                                        .heads = c->heads,
                                        .kv_heads = c->kv_heads,
                                        .head_dim = c->head_dim});
  backend->attention_decode(
      backend,
      &(AttentionDecode){.qkv = a->qkv,
                         .post_cache = cache->post[layer],
                         .post_cu_seqlens = rows->post_cu_seqlens,
                         .post = rows->post,
                         .reply_cache = cache->reply[layer],
                         .slot = rows->slot,
                         .reply_len = rows->reply_len,
                         .rows = rows->rows,
                         .max_reply = cache->max_reply,
                         .heads = c->heads,
                         .kv_heads = c->kv_heads,
                         .head_dim = c->head_dim,
                         .out = a->attended,
                         .prefix = parameters_weight(&model->parameters, model->decoder.layer[layer].prefix),
                         .prefix_len = c->prefix_tokens});
}

void decode_step(const Model *model, Activations *buffers, const DecodeCache *cache, const DecodeRows *rows) {
  const Decoder *decoder = &model->decoder;
  const DecoderConfig *c = &decoder->config;
  decoder_embed(decoder, rows->token, rows->position, rows->rows, buffers->layer[0].x1);
  for (int l = 0; l < c->layers; l++) {
    LayerActivations *a = &buffers->layer[l];
    const void *x = l ? buffers->layer[l - 1].x2 : a->x1;
    decoder_before_attention(decoder, l, a, x, l ? buffers->branch : NULL, rows->position, NULL, rows->rows);
    attend(model, l, a, cache, rows);
    decoder_after_attention(decoder, l, a, buffers->branch, NULL, rows->rows);
  }
}

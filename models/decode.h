/* Decoding with a KV cache: each post's keys and values are computed once and shared by its samples, whose
 * own keys stand in slots of max_reply rows. A prefix is in no cache: attention reads the weights themselves,
 * once for all posts. */
#ifndef POPALM_MODELS_DECODE_H
#define POPALM_MODELS_DECODE_H

#include "models/model.h"

typedef struct DecodeCache {
  int max_post_tokens; /* of all posts together */
  int slots, max_reply;
  void **post;  /* [layers] of [max_post_tokens, 2 Hkv d] */
  void **reply; /* [layers] of [slots * max_reply, 2 Hkv d] */
  void *memory;
} DecodeCache;

/* The rows that one step decodes, all on the device; rows is the number of replies not yet finished. */
typedef struct DecodeRows {
  int rows;
  const int32_t *post_cu_seqlens;
  int32_t *post, *slot;                              /* [rows] */
  int32_t *token, *position, *reply_len, *cache_row; /* [rows] as DecodeAdvance leaves them */
} DecodeRows;

size_t decode_cache_bytes(const DecoderConfig *config, DType storage, int max_post_tokens, int slots,
                          int max_reply);
Status decode_cache_allocate(Arena *arena, DecodeCache *cache, const Model *model, int max_post_tokens,
                             int slots, int max_reply) CHECKED;
void decode_cache_free(DecodeCache *cache, Backend *backend);

/* One token of every row through the decoder; then layer[last].x2 + branch of buffers (made for at least rows
 * tokens, without training) is the residual stream, one row each. */
void decode_step(const Model *model, Activations *buffers, const DecodeCache *cache, const DecodeRows *rows);

#endif

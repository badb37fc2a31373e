/* The decoder: a pre-norm transformer described by a small JSON file, which covers GPT-2 (layer norm, learned
 * positions, GELU, biases, tied embedding) and the Llama and Qwen families (RMS norm, rope, SwiGLU, grouped
 * heads). Weights are in Parameters, activations in Activations. */
#ifndef POPALM_MODELS_DECODER_H
#define POPALM_MODELS_DECODER_H

#include "models/config.h"
#include "models/parameters.h"

/* Indices into Parameters; -1 where the model has none. */
typedef struct DecoderLayer {
  int norm1_gain, norm1_bias; /* [H] */
  int qkv, qkv_bias;          /* [(Hq + 2 Hkv) d, H] */
  int q_norm, k_norm;         /* [d] */
  int proj, proj_bias;        /* [H, Hq d] */
  int norm2_gain, norm2_bias;
  int up, up_bias;                                /* [F, H], or [2F, H] (gate above up) for SwiGLU */
  int down, down_bias;                            /* [H, F] */
  int lora_a[LORA_TARGETS], lora_b[LORA_TARGETS]; /* [rank, in], [part of out, rank] */
  int prefix;                                     /* [prefix_tokens, 2 Hkv d]: key heads, value heads */
} DecoderLayer;

typedef struct Decoder {
  DecoderConfig config;
  Parameters *parameters;
  int token_table, position_table; /* [V, H], [max_positions, H] */
  DecoderLayer *layer;             /* [layers] */
  int final_gain, final_bias;
  int vocab_weight; /* [V, H]; token_table when tied */
} Decoder;

/* Dropout of the adapters' inputs, at the model's lora.dropout, in one training pass. */
typedef struct DecoderDropout {
  RandomKey key;
  const int32_t *ids; /* [N] what each token's random numbers are keyed by */
} DecoderDropout;

/* Packed tokens on the device. */
typedef struct DecoderInput {
  const int32_t *tokens, *positions; /* [N] */
  Sequences sequences;
  void *const *kv_cache; /* [layers] caches that take every token's keys and values (prefill), or NULL */
  const DecoderDropout *dropout; /* NULL: none */
} DecoderInput;

typedef struct LayerActivations {
  void *x1, *y1, *qkv, *attended, *x2, *y2, *u,
      *g;                                     /* [N, H | H | (Hq + 2 Hkv) d | Hq d | H | H | F or 2F | F] */
  void *low[LORA_TARGETS];                    /* [N, rank] x At; NULL where there is no adapter */
  void *dropped;                              /* [N, widest x] scratch, one for all layers; NULL without dropout */
  float *lse, *mean1, *rstd1, *mean2, *rstd2; /* [Hq, N], [N] ...; NULL without training */
  void *qk;       /* [N, (Hq + Hkv) d] query and key heads before their norm; NULL without it or training */
  float *qk_rstd; /* [N, Hq + Hkv] */
} LayerActivations;

/* What the buffers are for. To be recomputed: the forward pass keeps only each layer's input, and the
 * backward pass runs a layer's forward pass once more before its own: a third more operations, and one set of
 * buffers for all layers (Chen et al. 2016). The gradients are the same bits. */
typedef enum ActivationsUse {
  ACTIVATIONS_INFERENCE,
  ACTIVATIONS_KEPT,
  ACTIVATIONS_RECOMPUTED
} ActivationsUse;

/* Buffers of one forward and backward pass over at most max_tokens tokens. For inference all layers share one
 * set and there are no gradients. */
typedef struct Activations {
  int max_tokens;
  ActivationsUse use;
  LayerActivations *layer;
  void *branch;                               /* [N, H] what the last layer adds to its x2 */
  void *dstream, *dy, *datt, *dqkv, *du, *dg; /* gradients */
  void *dlow;                                 /* [N, rank] */
  void *memory;                               /* all of the above */
  size_t bytes;
} Activations;

/* Declares the decoder's tensors in parameters. */
void decoder_declare(Decoder *decoder, Arena *arena, const DecoderConfig *config, Parameters *parameters);

size_t activations_bytes(const DecoderConfig *config, DType storage, int max_tokens, ActivationsUse use);
Status activations_allocate(Activations *activations, Arena *arena, const DecoderConfig *config,
                            Backend *backend, int max_tokens, ActivationsUse use) CHECKED;
void activations_free(Activations *activations, Backend *backend);

/* Afterwards the residual stream is layer[last].x2 + branch. */
void decoder_forward(const Decoder *decoder, Activations *activations, const DecoderInput *input);
/* From the gradient of that stream in activations->dstream (overwritten) to the parameters' gradients. */
void decoder_backward(const Decoder *decoder, Activations *activations, const DecoderInput *input);

/* What the decode path (decode.c) shares: the embedding, and the two halves of a layer around its attention,
 * x + residual -> norm -> qkv -> rope, and attended -> projection -> norm -> MLP -> branch. positions count
 * from 0; a prefix's length is added to them here. */
void decoder_embed(const Decoder *decoder, const int32_t *tokens, const int32_t *positions, int rows,
                   void *out);
void decoder_before_attention(const Decoder *decoder, int layer, const LayerActivations *buffers,
                              const void *x, const void *residual, const int32_t *positions,
                              const DecoderDropout *dropout, int rows);
void decoder_after_attention(const Decoder *decoder, int layer, const LayerActivations *buffers, void *branch,
                             const DecoderDropout *dropout, int rows);

#endif

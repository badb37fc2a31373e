/* The shape of a decoder, as a small JSON file describes it. */
#ifndef POPALM_MODELS_CONFIG_H
#define POPALM_MODELS_CONFIG_H

#include "backend.h"
#include "base/arena.h"
#include "base/json.h"

/* Low-rank adapters (LoRA, Hu et al. 2021): y += alpha / rank (x At) Bt for the named parts of the decoder's
 * products, whose own weights are frozen. */
typedef enum LoraTarget {
  LORA_QKV,
  LORA_Q,
  LORA_K,
  LORA_V,
  LORA_PROJ,
  LORA_GATE,
  LORA_UP,
  LORA_DOWN,
  LORA_TARGETS
} LoraTarget;

extern const char *const lora_target_names[LORA_TARGETS];

#define LORA_DROPOUT_MOST 0.99
enum { PREFIX_TOKENS_MOST = 65536 };

typedef struct LoraConfig {
  int rank; /* 0: no adapter */
  float alpha;
  float dropout; /* of its input, in SFT and reward training */
  bool target[LORA_TARGETS];
} LoraConfig;

typedef struct DecoderConfig {
  int vocab, hidden, layers, heads, kv_heads, head_dim;
  int mlp;           /* F, width of the MLP */
  int max_positions; /* context length */
  NormKind norm;
  float norm_epsilon;
  bool rope; /* else learned positions */
  float rope_theta;
  RopeScaling rope_scaling;
  ActivationKind activation;
  bool bias;     /* of norms, projections and MLP */
  bool qkv_bias; /* of the query, key and value projection */
  bool qk_norm;  /* RMS norm of every query and key head before rope */
  bool tied;     /* the vocabulary layer is the token table */
  LoraConfig lora;
  int prefix_tokens; /* trained keys and values before every sequence's own (P-tuning v2, Liu et al. 2022) */
  WeightType base;   /* what the frozen matrices under an adapter stand in */
} DecoderConfig;

extern const char *const base_names[]; /* of WeightType, for people and files; ends with NULL */

/* Whether an adapter, LoRA or a prefix, is what is trained; all else is then a base's and frozen. */
static inline bool decoder_adapted(const DecoderConfig *c) {
  return c->lora.rank > 0 || c->prefix_tokens > 0;
}
/* The whole model of the same form. */
static inline DecoderConfig decoder_without_adapter(const DecoderConfig *c) {
  DecoderConfig whole = *c;
  whole.lora = (LoraConfig){0};
  whole.prefix_tokens = 0;
  whole.base = WEIGHT_NATIVE;
  return whole;
}
/* Tokens that a sequence may have: positions count from the prefix's length on. */
static inline int decoder_context(const DecoderConfig *c) { return c->max_positions - c->prefix_tokens; }

/* Sets the targets that text names, with commas; INVALID names the one that is unknown or missing. */
Status lora_targets_parse(const char *text, const DecoderConfig *config, LoraConfig *out) CHECKED;
/* Finds and reads models/presets/<preset>.json beside the program, or the path that preset is. vocab stays 0:
 * it comes from the tokenizer. */
Status decoder_config_read(Arena *arena, const char *preset, DecoderConfig *out) CHECKED;
/* The file decoder_config_read would read. */
Status decoder_preset_path(Arena *arena, const char *preset, const char **out) CHECKED;
/* The names of all presets, sorted. */
int decoder_preset_names(Arena *arena, const char *const **out);
/* An object of the same keys (with "vocab"), and back. */
cJSON *decoder_config_json(const DecoderConfig *config);
Status decoder_config_parse(const Json *json, const cJSON *object, DecoderConfig *out) CHECKED;
/* Whether the decoder can have these sizes; path is what the message begins with. */
Status decoder_config_check(const char *path, const DecoderConfig *config) CHECKED;

#endif

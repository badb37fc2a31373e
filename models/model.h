/* A model: a decoder with the scalar heads that its role needs, its parameters, and the folder it is kept in
 * (model.safetensors with the description in its metadata, tokenizer.json beside it). */
#ifndef POPALM_MODELS_MODEL_H
#define POPALM_MODELS_MODEL_H

#include "models/decoder.h"

typedef struct Model Model;

typedef struct ModelParts {
  bool reward_head, value_head;
  const Model *frozen_from; /* a model that lives longer: where both adapt the same base, its frozen weights
                               are used in place; or NULL */
} ModelParts;

struct Model {
  Parameters parameters;
  Decoder decoder;
  int reward_weight, reward_bias; /* [H], [1]; -1: no such head */
  int value_weight, value_bias;
  const char *base; /* folder of the model that the frozen weights are from, or NULL: nothing is frozen */
};

/* Declares the tensors of such a model without allocating them: for statements of its size. */
void model_declare(Arena *arena, Model *model, const DecoderConfig *config, ModelParts parts);
/* A model with random weights; with an adapter the frozen ones are of the model in folder
 * base, which else is NULL. config->vocab must be set. */
Status model_create(Arena *arena, Model *model, Backend *backend, const DecoderConfig *config,
                    const char *base, ModelParts parts, bool trainable, uint64_t seed) CHECKED;
/* From a folder written by model_save; heads that the file has not are random. An adapter's file names the
 * folder of its base. */
Status model_load(Arena *arena, Model *model, Backend *backend, const char *folder, ModelParts parts,
                  bool trainable, uint64_t seed) CHECKED;
/* The description of the model in a folder, without its weights. */
Status model_describe(Arena *arena, const char *folder, DecoderConfig *out) CHECKED;
/* The folder of the base of an adapter; NULL of a whole model. */
Status model_base(Arena *arena, const char *folder, const char **out) CHECKED;
/* What an experiment starts from: the model in the folder `from`, or where that is NULL a preset, whose vocab
 * stays 0. */
Status model_start(Arena *arena, const char *preset, const char *from, DecoderConfig *out) CHECKED;
/* The metadata that model.safetensors has under "popalm"; its owner is the caller. */
cJSON *model_meta(const DecoderConfig *config);
/* The description in such metadata; path is for messages. */
Status model_meta_parse(const char *path, const cJSON *meta, DecoderConfig *out) CHECKED;
/* Writes folder/model.safetensors; of a model with an adapter only what was trained. All ranks of a job call it. */
Status model_save(const Model *model, const char *folder) CHECKED;
void model_free(Model *model);

/* The rows that have a loss or a score: the residual stream gathered at them, then the final norm. The
 * vocabulary layer and the heads see only these, so tokens of the post cost no logits. */
typedef struct ModelRows {
  int max_rows;
  void *sum, *normed, *dnormed; /* [rows, H]; dnormed is NULL without training */
  float *mean, *rstd;           /* [rows] */
  void *memory;
} ModelRows;

size_t model_rows_bytes(const DecoderConfig *config, DType storage, int max_rows, bool training);
Status model_rows_allocate(ModelRows *rows, const Model *model, int max_rows, bool training) CHECKED;
void model_rows_free(ModelRows *rows, Backend *backend);
/* After decoder_forward: rows->normed. index: [count] device, rows of the packed batch (may repeat in a
 * forward pass without backward). */
void model_rows_forward(const Model *model, const Activations *activations, ModelRows *rows,
                        const int32_t *index, int count);
/* From rows->dnormed to the parameters' gradients through the whole decoder. */
void model_rows_backward(const Model *model, Activations *activations, ModelRows *rows, const int32_t *index,
                         int count, const DecoderInput *input);

#endif

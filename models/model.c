#include "models/model.h"

#include <math.h>
#include <string.h>

#include "base/comm.h"
#include "safetensors.h"

enum { MODEL_FORMAT = 1 };

void model_declare(Arena *arena, Model *model, const DecoderConfig *config, ModelParts parts) {
  *model = (Model){.reward_weight = -1, .reward_bias = -1, .value_weight = -1, .value_bias = -1};
  decoder_declare(&model->decoder, arena, config, &model->parameters);
  int H = config->hidden;
  if (parts.reward_head) { /* unit variance of the first rewards (Stiennon et al. 2020) */
    model->reward_weight =
        parameters_add(&model->parameters, arena, "reward_head.weight", H, 0, INIT_NORMAL, 1 / sqrt(H + 1.0));
    model->reward_bias = parameters_add(&model->parameters, arena, "reward_head.bias", 1, 0, INIT_ZEROS, 0);
  }
  if (parts.value_head) { /* zero: the first values are the mean of whitened rewards */
    model->value_weight = parameters_add(&model->parameters, arena, "value_head.weight", H, 0, INIT_ZEROS, 0);
    model->value_bias = parameters_add(&model->parameters, arena, "value_head.bias", 1, 0, INIT_ZEROS, 0);
  }
}

/* The frozen tensors, from the model in folder base. */
static Status load_base(Arena *arena, Model *model, const char *base) {
  if (!base)
    return fail(INVALID, "a model with an adapter needs a base model; name its folder in model.from");
  model->base = arena_strdup(arena, base);
  if (model->parameters.borrowed) return OK;
  Checkpoint checkpoint;
  TRY(checkpoint_open(arena, path_join(arena, base, "model.safetensors"), &checkpoint));
  Status status = parameters_load(&model->parameters, &checkpoint, true, NULL);
  checkpoint_close(&checkpoint);
  return status;
}

static Status allocate(Arena *arena, Model *model, Backend *backend, const char *base, ModelParts parts,
                       bool trainable) {
  const Model *other = parts.frozen_from;
  bool same = other && base && other->base && strcmp(other->base, base) == 0;
  const Parameters *lender = same ? &other->parameters : NULL;
  TRY(parameters_allocate(&model->parameters, backend, trainable, lender));
  return decoder_adapted(&model->decoder.config) ? load_base(arena, model, base) : OK;
}

Status model_create(Arena *arena, Model *model, Backend *backend, const DecoderConfig *config,
                    const char *base, ModelParts parts, bool trainable, uint64_t seed) {
  model_declare(arena, model, config, parts);
  TRY(allocate(arena, model, backend, base, parts, trainable));
  return parameters_init(&model->parameters, "", seed);
}

cJSON *model_meta(const DecoderConfig *config) {
  cJSON *meta = cJSON_CreateObject();
  cJSON_AddNumberToObject(meta, "format", MODEL_FORMAT);
  cJSON_AddItemToObject(meta, "config", decoder_config_json(config));
  return meta;
}

Status model_meta_parse(const char *path, const cJSON *meta, DecoderConfig *out) {
  Json json = {.path = path, .text = "", .root = (cJSON *)(uintptr_t)meta};
  int64_t format;
  TRY(json_get_int(&json, meta, "format", &format));
  if (format != MODEL_FORMAT)
    return fail(INVALID, "%s: has format %lld, this program reads %d; make it again", path, (long long)format,
                MODEL_FORMAT);
  return decoder_config_parse(&json, cJSON_GetObjectItemCaseSensitive(meta, "config"), out);
}

/* The metadata of a model's file, to be freed. */
static Status read_meta(Arena *arena, const char *folder, const char **path, cJSON **out) {
  SafeFile file;
  TRY(safetensors_open(arena, path_join(arena, folder, "model.safetensors"), &file));
  const char *text = safetensors_meta(&file, "popalm");
  *out = text ? cJSON_Parse(text) : NULL;
  *path = file.path;
  safetensors_close(&file);
  if (*out) return OK;
  return fail(INVALID, "%s: has no \"popalm\" metadata; import the model first (popalm import)", *path);
}

Status model_describe(Arena *arena, const char *folder, DecoderConfig *out) {
  const char *path;
  cJSON *meta;
  TRY(read_meta(arena, folder, &path, &meta));
  Status status = model_meta_parse(path, meta, out);
  cJSON_Delete(meta);
  return status;
}

Status model_base(Arena *arena, const char *folder, const char **out) {
  const char *path;
  cJSON *meta;
  TRY(read_meta(arena, folder, &path, &meta));
  const char *base = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(meta, "base"));
  *out = base ? arena_strdup(arena, base) : NULL;
  cJSON_Delete(meta);
  return OK;
}

Status model_start(Arena *arena, const char *preset, const char *from, DecoderConfig *out) {
  return from ? model_describe(arena, from, out) : decoder_config_read(arena, preset, out);
}

static Status create_from(Arena *arena, Model *model, Backend *backend, const Checkpoint *checkpoint,
                          ModelParts parts, bool trainable, uint64_t seed) {
  DecoderConfig config;
  TRY(model_meta_parse(checkpoint->path, checkpoint->meta, &config));
  const char *base = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(checkpoint->meta, "base"));
  const char *head = parts.value_head ? "value_head." : "reward_head.";
  model_declare(arena, model, &config, parts);
  TRY(allocate(arena, model, backend, base, parts, trainable));
  TRY(parameters_init(&model->parameters, head, seed)); /* the only tensors that the file may lack */
  return parameters_load(&model->parameters, checkpoint, false, head);
}

Status model_load(Arena *arena, Model *model, Backend *backend, const char *folder, ModelParts parts,
                  bool trainable, uint64_t seed) {
  Checkpoint checkpoint;
  TRY(checkpoint_open(arena, path_join(arena, folder, "model.safetensors"), &checkpoint));
  Status status = create_from(arena, model, backend, &checkpoint, parts, trainable, seed);
  checkpoint_close(&checkpoint);
  return status;
}

Status model_save(const Model *model, const char *folder) {
  Arena arena = {0};
  HostTensor *tensors;
  int count;
  Status status = parameters_download(&model->parameters, &arena, false, &tensors, &count);
  if (status == OK) {
    cJSON *meta = model_meta(&model->decoder.config);
    if (model->base) cJSON_AddStringToObject(meta, "base", model->base);
    if (comm_is_first())
      status = checkpoint_write(path_join(&arena, folder, "model.safetensors"), tensors, count, meta, false);
    cJSON_Delete(meta);
  }
  arena_free(&arena);
  return status;
}

void model_free(Model *model) { parameters_free(&model->parameters); }

/* ---- rows ---- */

static size_t rows_bytes(int max_rows, size_t width) { return ((size_t)max_rows * width + 255) / 256 * 256; }

size_t model_rows_bytes(const DecoderConfig *config, DType storage, int max_rows, bool training) {
  size_t matrix = rows_bytes(max_rows, (size_t)config->hidden * dtype_bytes(storage));
  return (training ? 3 : 2) * matrix + 2 * rows_bytes(max_rows, sizeof(float));
}

Status model_rows_allocate(ModelRows *rows, const Model *model, int max_rows, bool training) {
  Backend *backend = model->parameters.backend;
  const DecoderConfig *config = &model->decoder.config;
  size_t matrix = rows_bytes(max_rows, (size_t)config->hidden * dtype_bytes(backend->storage));
  size_t vector = rows_bytes(max_rows, sizeof(float));
  *rows = (ModelRows){.max_rows = max_rows};
  TRY(backend->alloc(backend, model_rows_bytes(config, backend->storage, max_rows, training),
                     "rows with a loss", &rows->memory));
  char *at = rows->memory;
  rows->sum = at;
  rows->normed = at + matrix;
  rows->mean = (float *)(void *)(at + 2 * matrix);
  rows->rstd = (float *)(void *)(at + 2 * matrix + vector);
  if (training) rows->dnormed = at + 2 * matrix + 2 * vector;
  return OK;
}

void model_rows_free(ModelRows *rows, Backend *backend) {
  if (rows->memory) backend->free(backend, rows->memory);
  rows->memory = NULL;
}

void model_rows_forward(const Model *model, const Activations *activations, ModelRows *rows,
                        const int32_t *index, int count) {
  const Decoder *decoder = &model->decoder;
  const DecoderConfig *c = &decoder->config;
  Backend *backend = model->parameters.backend;
  backend->gather_rows(backend, &(GatherRows){.src = activations->layer[c->layers - 1].x2,
                                              .addend = activations->branch,
                                              .index = index,
                                              .dst = rows->sum,
                                              .rows = count,
                                              .cols = c->hidden});
  backend->norm(backend, &(Norm){.kind = c->norm,
                                 .x = rows->sum,
                                 .y = rows->normed,
                                 .mean = c->norm == NORM_LAYER ? rows->mean : NULL,
                                 .rstd = rows->rstd,
                                 .gain = parameters_weight(&model->parameters, decoder->final_gain),
                                 .bias = parameters_weight(&model->parameters, decoder->final_bias),
                                 .rows = count,
                                 .hidden = c->hidden,
                                 .epsilon = c->norm_epsilon});
}

void model_rows_backward(const Model *model, Activations *activations, ModelRows *rows, const int32_t *index,
                         int count, const DecoderInput *input) {
  const Decoder *decoder = &model->decoder;
  const DecoderConfig *c = &decoder->config;
  Backend *backend = model->parameters.backend;
  backend->norm_backward(backend,
                         &(NormBackward){.kind = c->norm,
                                         .sum = rows->sum,
                                         .dy = rows->dnormed,
                                         .mean = c->norm == NORM_LAYER ? rows->mean : NULL,
                                         .rstd = rows->rstd,
                                         .gain = parameters_weight(&model->parameters, decoder->final_gain),
                                         .dx = rows->normed, /* no longer needed */
                                         .dgain = parameters_grad(&model->parameters, decoder->final_gain),
                                         .dbias = parameters_grad(&model->parameters, decoder->final_bias),
                                         .rows = count,
                                         .hidden = c->hidden});
  backend->scatter_rows(backend, &(ScatterRows){.src = rows->normed,
                                                .index = index,
                                                .dst = activations->dstream,
                                                .rows = count,
                                                .dst_rows = input->sequences.tokens,
                                                .cols = c->hidden});
  decoder_backward(decoder, activations, input);
}

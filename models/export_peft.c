/* An adapter as the files of the PEFT library: adapter_config.json and adapter_model.safetensors. A module
 * there is one tensor of the family; a target of ours that covers several (qkv of a family with q, k and v)
 * gives each the same A and its own rows of B, which computes the same. A prefix is one tensor there,
 * prompt_embeddings [prefix tokens, layers 2 Hkv d]: a row holds each layer's keys, then its values. */
#include <stdio.h>
#include <string.h>

#include "models/adapter.h"
#include "models/import.h"
#include "models/model.h"

typedef struct PeftExport {
  Arena *arena;
  const Checkpoint *adapter;
  const DecoderConfig *config;
  SafeTensor *tensors;
  int count;
  cJSON *modules; /* names for "target_modules" */
} PeftExport;

/* "self_attn.q_proj" of "model.layers.0.self_attn.q_proj.weight": PEFT adapts what ends in it. */
static const char *module_suffix(Arena *arena, const char *tensor) {
  size_t end = strlen(tensor) - strlen(".weight"), start = end;
  for (int dots = 0; start > 0 && (tensor[start - 1] != '.' || ++dots < 2);) start--;
  return arena_strndup(arena, tensor + start, end - start);
}

static void add_module(PeftExport *e, const char *suffix) {
  const cJSON *name;
  cJSON_ArrayForEach(name, e->modules) if (strcmp(name->valuestring, suffix) == 0) return;
  cJSON_AddItemToArray(e->modules, cJSON_CreateString(suffix));
}

static void add_tensor(PeftExport *e, const char *module, const char *kind, int64_t rows, int64_t cols,
                       const float *values) {
  e->tensors[e->count++] =
      (SafeTensor){.name = arena_print(e->arena, "base_model.model.%s.lora_%s.weight", module, kind),
                   .type = SAFE_F32,
                   .rank = 2,
                   .shape = {rows, cols},
                   .data = values};
}

/* The part of one target that falls on a tensor of the family. */
static Status add_slice(PeftExport *e, const Slice *slice, int layer, LoraTarget target, bool *adapted) {
  const char *product;
  int first, out;
  adapter_target_rows(e->config, target, &product, &first, &out);
  const char *ours = arena_print(e->arena, "layers.%d.%s.weight", layer, product);
  if (strcmp(slice->parameter, ours) != 0) return OK;
  int64_t end = slice->first + slice->rows;
  if (end <= first || slice->first >= first + out) return OK;
  if (slice->first < first || end > first + out || *adapted)
    return fail(INVALID,
                "%s: an adapter of \"%s\" is not one of a whole \"%s\", which PEFT would need; train it with "
                "the target qkv, or export it merged, with --format hf",
                e->adapter->path, lora_target_names[target], slice->name);
  *adapted = true;
  const char *low = arena_print(e->arena, "layers.%d.lora.%s", layer, lora_target_names[target]);
  const HostTensor *a = checkpoint_tensor(e->adapter, arena_print(e->arena, "%s.a", low));
  const HostTensor *b = checkpoint_tensor(e->adapter, arena_print(e->arena, "%s.b", low));
  if (!a || !b) return fail(INVALID, "%s: has no tensors \"%s\"; train it again", e->adapter->path, low);
  const char *module = arena_strndup(e->arena, slice->name, strlen(slice->name) - strlen(".weight"));
  add_tensor(e, module, "A", a->shape[0], a->shape[1], a->data);
  add_tensor(e, module, "B", slice->rows, b->shape[1],
             (const float *)b->data + (size_t)(slice->first - first) * (size_t)b->shape[1]);
  add_module(e, module_suffix(e->arena, slice->name));
  return OK;
}

static Status collect(PeftExport *e, const Family *family) {
  Slice *slices;
  int count;
  family_slices(e->arena, family, e->config, OUTSIDE_HF, &slices, &count);
  e->tensors = NEW(e->arena, SafeTensor, 2 * count);
  for (int i = 0; i < count; i++) {
    int layer;
    bool adapted = false;
    if (!slices[i].cols || sscanf(slices[i].parameter, "layers.%d.", &layer) != 1) continue;
    for (int t = 0; t < LORA_TARGETS; t++)
      if (e->config->lora.target[t]) TRY(add_slice(e, &slices[i], layer, (LoraTarget)t, &adapted));
  }
  return OK;
}

static Status collect_prefix(PeftExport *e) {
  const DecoderConfig *c = e->config;
  size_t width = 2 * (size_t)c->kv_heads * (size_t)c->head_dim, row = (size_t)c->layers * width;
  float *values = NEW(e->arena, float, (size_t)c->prefix_tokens *row);
  for (int l = 0; l < c->layers; l++) {
    const char *name = arena_print(e->arena, "layers.%d.prefix", l);
    const HostTensor *prefix = checkpoint_tensor(e->adapter, name);
    if (!prefix || prefix->type != F32 || prefix->rank != 2 || prefix->shape[0] != c->prefix_tokens ||
        prefix->shape[1] != (int64_t)width)
      return fail(INVALID, "%s: has no tensor \"%s\" of its description's shape; train it again",
                  e->adapter->path, name);
    for (size_t t = 0; t < (size_t)c->prefix_tokens; t++)
      memcpy(values + t * row + (size_t)l * width, (const float *)prefix->data + t * width,
             width * sizeof *values);
  }
  e->tensors = NEW(e->arena, SafeTensor, 1);
  e->tensors[e->count++] = (SafeTensor){.name = "prompt_embeddings",
                                        .type = SAFE_F32,
                                        .rank = 2,
                                        .shape = {c->prefix_tokens, (int64_t)row},
                                        .data = values};
  return OK;
}

static void describe_prefix(const DecoderConfig *c, cJSON *json) {
  cJSON_AddStringToObject(json, "peft_type", "PREFIX_TUNING");
  cJSON_AddNumberToObject(json, "num_virtual_tokens", c->prefix_tokens);
  cJSON_AddNumberToObject(json, "num_layers", c->layers);
  cJSON_AddNumberToObject(json, "num_attention_heads", c->kv_heads);
  cJSON_AddNumberToObject(json, "token_dim", c->kv_heads * c->head_dim);
  cJSON_AddNumberToObject(json, "encoder_hidden_size", c->kv_heads * c->head_dim);
  cJSON_AddNumberToObject(json, "num_transformer_submodules", 1);
  cJSON_AddBoolToObject(json, "prefix_projection", false);
}

static void describe_lora(const PeftExport *e, const Family *family, cJSON *json) {
  cJSON_AddStringToObject(json, "peft_type", "LORA");
  cJSON_AddNumberToObject(json, "r", e->config->lora.rank);
  cJSON_AddNumberToObject(json, "lora_alpha", (double)e->config->lora.alpha);
  cJSON_AddNumberToObject(json, "lora_dropout", (double)e->config->lora.dropout);
  cJSON_AddStringToObject(json, "bias", "none");
  cJSON_AddBoolToObject(json, "fan_in_fan_out", strcmp(family_name(family), "gpt2") == 0); /* Conv1D */
  cJSON_AddItemReferenceToObject(json, "target_modules", e->modules);
}

static Status write_description(PeftExport *e, const Family *family, const char *base, const char *folder) {
  cJSON *json = cJSON_CreateObject();
  if (e->config->prefix_tokens)
    describe_prefix(e->config, json);
  else
    describe_lora(e, family, json);
  cJSON_AddStringToObject(json, "task_type", "CAUSAL_LM");
  cJSON_AddStringToObject(json, "base_model_name_or_path", base ? base : "");
  cJSON_AddBoolToObject(json, "inference_mode", true);
  Status status = json_write(path_join(e->arena, folder, "adapter_config.json"), json);
  cJSON_Delete(json);
  return status;
}

static Status write_adapter(Arena *arena, const Checkpoint *adapter, const char *folder) {
  DecoderConfig config;
  const Family *family;
  TRY(model_meta_parse(adapter->path, adapter->meta, &config));
  if (!decoder_adapted(&config))
    return fail(INVALID, "%s: is a whole model, not an adapter; export it with --format hf", adapter->path);
  if (config.lora.rank && config.prefix_tokens)
    return fail(
        INVALID,
        "%s: has low-rank adapters and a prefix, which PEFT cannot have at once; train one of them alone",
        adapter->path);
  TRY(family_of(&config, &family));
  PeftExport e = {.arena = arena, .adapter = adapter, .config = &config, .modules = cJSON_CreateArray()};
  Status status = config.prefix_tokens ? collect_prefix(&e) : collect(&e, family);
  if (status == OK) status = make_folders(folder);
  SafeMeta meta = {"format", "pt"};
  if (status == OK)
    status = safetensors_write(path_join(arena, folder, "adapter_model.safetensors"), e.tensors, e.count,
                               &meta, 1, false);
  const char *base = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(adapter->meta, "base"));
  if (status == OK) status = write_description(&e, family, base, folder);
  cJSON_Delete(e.modules);
  return status;
}

Status export_peft(Arena *arena, const char *folder, const char *out) {
  Checkpoint adapter;
  TRY(checkpoint_open(arena, path_join(arena, folder, "model.safetensors"), &adapter));
  Status status = write_adapter(arena, &adapter, out);
  checkpoint_close(&adapter);
  return status;
}

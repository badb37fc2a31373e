/* config.json, read and written. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "models/family_tables.h"

enum { MOST_FAMILIES = 16 };

static const char *where(Arena *arena, const Json *json, const cJSON *item) {
  int line = 1, column = 1;
  json_position_of(json, item, false, &line, &column);
  return arena_print(arena, "%s:%d:%d", json->path, line, column);
}

static const cJSON *member(const cJSON *object, const char *key) {
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
  return cJSON_IsNull(item) ? NULL : item;
}

static Status find_hf(Arena *arena, const Json *json, const Family **out) {
  const cJSON *type = member(json->root, "model_type");
  if (!cJSON_IsString(type))
    return fail(INVALID, "%s: no \"model_type\"; give the folder of a Hugging Face model", json->path);
  const char *names[MOST_FAMILIES];
  Text known = {.arena = arena};
  for (int i = 0; i < family_count; i++) {
    names[i] = families[i].model_type;
    text_print(&known, "%s%s", i ? ", " : "", names[i]);
    *out = &families[i];
    if (strcmp(names[i], type->valuestring) == 0) return OK;
  }
  return fail(INVALID, "%s: model_type \"%.40s\" is not one of the families that are imported: %s",
              where(arena, json, type), type->valuestring, known.data);
}

static Status check_rules(Arena *arena, const Json *json, const Family *family) {
  for (const Rule *rule = family->rules; rule->key; rule++) {
    const cJSON *item = member(json->root, rule->key);
    if (!item) continue;
    char *text = cJSON_PrintUnformatted(item);
    bool good = false;
    for (int i = 0; i < 3 && rule->values[i]; i++)
      good = good || (text && strcmp(text, rule->values[i]) == 0);
    const char *kept = arena_print(arena, "%.60s", text ? text : "");
    cJSON_free(text);
    if (!good)
      return fail(INVALID, "%s: \"%s\" is %s; the decoder does only %s, take another model",
                  where(arena, json, item), rule->key, kept, rule->values[0]);
  }
  const cJSON *quantised = member(json->root, "quantization_config");
  if (quantised)
    return fail(INVALID,
                "%s: the weights are quantised (\"quantization_config\"); take the model in bf16 or fp32",
                where(arena, json, quantised));
  return OK;
}

static Status read_llama3(Arena *arena, const Json *json, const cJSON *scaling, RopeScaling *out) {
  static const char *const keys[] = {"factor", "low_freq_factor", "high_freq_factor",
                                     "original_max_position_embeddings"};
  float *const values[] = {&out->factor, &out->low, &out->high, &out->context};
  for (int i = 0; i < 4; i++) {
    const cJSON *item = member(scaling, keys[i]);
    if (!cJSON_IsNumber(item) || !(item->valuedouble > 0 && item->valuedouble < 1e9))
      return fail(INVALID, "%s: rope scaling \"llama3\": \"%s\" is not a positive number; correct it",
                  where(arena, json, item ? item : scaling), keys[i]);
    *values[i] = (float)item->valuedouble;
  }
  if (out->low < out->high) return OK;
  return fail(INVALID,
              "%s: rope scaling \"llama3\": low_freq_factor is not below high_freq_factor; correct it",
              where(arena, json, scaling));
}

/* Rope's base and scaling: in "rope_parameters" since transformers 5, before in two keys. */
static Status read_rope(Arena *arena, const Json *json, DecoderConfig *out) {
  const cJSON *both = member(json->root, "rope_parameters");
  const cJSON *scaling = both ? both : member(json->root, "rope_scaling");
  const cJSON *kind = member(scaling, "rope_type");
  if (!kind) kind = member(scaling, "type");
  const char *name = cJSON_GetStringValue(kind);
  if (scaling && name && strcmp(name, "llama3") == 0)
    TRY(read_llama3(arena, json, scaling, &out->rope_scaling));
  else if (scaling && (!name || strcmp(name, "default") != 0))
    return fail(INVALID,
                "%s: rope scaling \"%.40s\" is not done by the decoder; take a model with llama3's or none",
                where(arena, json, scaling), name ? name : "?");
  const cJSON *theta = member(both, "rope_theta");
  if (!theta) return OK;
  const NumberRow row = {.offset = offsetof(DecoderConfig, rope_theta), .real = true};
  return family_store_number(&row, where(arena, json, theta), "rope_theta",
                             cJSON_IsNumber(theta) ? theta->valuedouble : 0, out);
}

static Status read_bool(Arena *arena, const Json *json, const char *key, bool otherwise, bool *out) {
  const cJSON *item = member(json->root, key);
  *out = item ? cJSON_IsTrue(item) : otherwise;
  if (!item || cJSON_IsBool(item)) return OK;
  return fail(INVALID, "%s: \"%s\" is neither true nor false; correct it", where(arena, json, item), key);
}

static Status read_flags(Arena *arena, const Json *json, const Family *family, DecoderConfig *out) {
  TRY(read_bool(arena, json, "tie_word_embeddings", family->tied, &out->tied));
  if (!family->biases) return OK;
  bool mlp = false;
  TRY(read_bool(arena, json, "attention_bias", false, &out->qkv_bias));
  TRY(read_bool(arena, json, "mlp_bias", false, &mlp));
  out->bias = mlp;
  if (mlp == out->qkv_bias) return OK;
  return fail(
      INVALID,
      "%s: \"attention_bias\" and \"mlp_bias\" differ, the decoder has both or none; take another model",
      json->path);
}

Status family_read_hf(Arena *arena, const Json *json, int context, const Family **family,
                      DecoderConfig *out) {
  TRY(find_hf(arena, json, family));
  TRY(check_rules(arena, json, *family));
  *out = (*family)->form;
  for (const NumberRow *row = (*family)->numbers; number_row(row); row++) {
    const cJSON *item = row->hf ? member(json->root, row->hf) : NULL;
    if (!item && row->missing == REQUIRED)
      return fail(INVALID, "%s: \"%s\" is missing; give the config.json of a %s model", json->path, row->hf,
                  (*family)->model_type);
    if (item)
      TRY(family_store_number(row, where(arena, json, item), row->hf,
                              cJSON_IsNumber(item) ? item->valuedouble : 0, out));
    else
      family_fill_missing(row, out);
  }
  if (out->rope) TRY(read_rope(arena, json, out));
  TRY(read_flags(arena, json, *family, out));
  const cJSON *window = member(json->root, "sliding_window");
  bool slides = !(*family)->window_off && cJSON_IsNumber(window);
  return family_limit_context(json->path, context, slides ? window->valuedouble : 0, out);
}

cJSON *family_hf_config(const Family *family, const DecoderConfig *config) {
  cJSON *object = cJSON_CreateObject();
  cJSON_AddItemToObject(object, "architectures", cJSON_CreateStringArray(&family->architecture, 1));
  cJSON_AddStringToObject(object, "model_type", family->model_type);
  for (const NumberRow *row = family->numbers; number_row(row); row++) {
    const char *at = (const char *)config + row->offset;
    if (!row->hf) continue;
    if (!row->real) {
      cJSON_AddNumberToObject(object, row->hf, *(const int *)(const void *)at);
      continue;
    }
    char digits[32]; /* the shortest that is the same float: 1e-06, not 9.99999997e-07 */
    float value = *(const float *)(const void *)at;
    for (int precision = 1; precision <= 9; precision++) {
      snprintf(digits, sizeof digits, "%.*g", precision, (double)value);
      if (strtof(digits, NULL) == value) break;
    }
    cJSON_AddNumberToObject(object, row->hf, strtod(digits, NULL));
  }
  if (config->rope) {
    cJSON *rope = cJSON_AddObjectToObject(object, "rope_parameters");
    const RopeScaling *scaling = &config->rope_scaling;
    cJSON_AddStringToObject(rope, "rope_type", scaling->factor > 0 ? "llama3" : "default");
    if (scaling->factor > 0) {
      cJSON_AddNumberToObject(rope, "factor", (double)scaling->factor);
      cJSON_AddNumberToObject(rope, "low_freq_factor", (double)scaling->low);
      cJSON_AddNumberToObject(rope, "high_freq_factor", (double)scaling->high);
      cJSON_AddNumberToObject(rope, "original_max_position_embeddings", (double)scaling->context);
    }
    cJSON_AddNumberToObject(rope, "rope_theta",
                            cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(object, "rope_theta")));
  }
  bool gpt2 = config->activation == ACTIVATION_GELU;
  cJSON_AddStringToObject(object, gpt2 ? "activation_function" : "hidden_act", gpt2 ? "gelu_new" : "silu");
  if (family->biases) {
    cJSON_AddBoolToObject(object, "attention_bias", config->qkv_bias);
    cJSON_AddBoolToObject(object, "mlp_bias", config->bias);
  }
  cJSON_AddBoolToObject(object, "tie_word_embeddings", config->tied);
  return object;
}

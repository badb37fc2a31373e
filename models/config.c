#include "models/config.h"

#include <dirent.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

/* One row a key of a model description; fields with names are enumerations. */
typedef enum FieldType { FIELD_INT, FIELD_FLOAT, FIELD_BOOL, FIELD_NAME } FieldType;

typedef struct Field {
  const char *key;
  FieldType type;
  size_t offset;
  const char *names[3];
} Field;

#define AT(member) offsetof(DecoderConfig, member)

static const Field fields[] = {
    {"vocab", FIELD_INT, AT(vocab), {0}},
    {"hidden", FIELD_INT, AT(hidden), {0}},
    {"layers", FIELD_INT, AT(layers), {0}},
    {"heads", FIELD_INT, AT(heads), {0}},
    {"kv_heads", FIELD_INT, AT(kv_heads), {0}},
    {"head_dim", FIELD_INT, AT(head_dim), {0}},
    {"mlp", FIELD_INT, AT(mlp), {0}},
    {"max_positions", FIELD_INT, AT(max_positions), {0}},
    {"norm", FIELD_NAME, AT(norm), {"layer", "rms"}},
    {"norm_epsilon", FIELD_FLOAT, AT(norm_epsilon), {0}},
    {"rope", FIELD_BOOL, AT(rope), {0}},
    {"rope_theta", FIELD_FLOAT, AT(rope_theta), {0}},
    {"rope_factor", FIELD_FLOAT, AT(rope_scaling.factor), {0}},
    {"rope_low", FIELD_FLOAT, AT(rope_scaling.low), {0}},
    {"rope_high", FIELD_FLOAT, AT(rope_scaling.high), {0}},
    {"rope_context", FIELD_FLOAT, AT(rope_scaling.context), {0}},
    {"activation", FIELD_NAME, AT(activation), {"gelu", "swiglu"}},
    {"bias", FIELD_BOOL, AT(bias), {0}},
    {"qkv_bias", FIELD_BOOL, AT(qkv_bias), {0}},
    {"qk_norm", FIELD_BOOL, AT(qk_norm), {0}},
    {"tied", FIELD_BOOL, AT(tied), {0}},
};
enum { FIELD_COUNT = sizeof fields / sizeof *fields };

const char *const lora_target_names[LORA_TARGETS] = {"qkv", "q", "k", "v", "proj", "gate", "up", "down"};

const char *const base_names[] = {
    [WEIGHT_NATIVE] = "native", [WEIGHT_BF16] = "bf16", [WEIGHT_INT8] = "int8", NULL};

static Status parse_name(const Json *json, const cJSON *object, const Field *field, int *out) {
  const char *name;
  TRY(json_get_string(json, object, field->key, &name));
  for (*out = 0; field->names[*out]; ++*out)
    if (strcmp(field->names[*out], name) == 0) return OK;
  return fail(INVALID, "%s: \"%s\" is \"%s\"; use \"%s\" or \"%s\"", json->path, field->key, name,
              field->names[0], field->names[1]);
}

static Status parse_field(const Json *json, const cJSON *object, const Field *field, void *at) {
  double number;
  int64_t integer;
  switch (field->type) {
    case FIELD_INT:
      TRY(json_get_int(json, object, field->key, &integer));
      if (integer < 1 || integer > 1 << 24)
        return fail(INVALID, "%s: \"%s\" is %lld; use a positive number", json->path, field->key,
                    (long long)integer);
      *(int *)at = (int)integer;
      return OK;
    case FIELD_FLOAT:
      TRY(json_get_number(json, object, field->key, &number));
      *(float *)at = (float)number;
      return OK;
    case FIELD_BOOL:
      return json_get_bool(json, object, field->key, at);
    case FIELD_NAME:
      return parse_name(json, object, field, at);
  }
  return OK;
}

Status decoder_config_check(const char *path, const DecoderConfig *c) {
  if (c->heads % c->kv_heads)
    return fail(INVALID, "%s: heads %d is not a multiple of kv_heads %d; change one of them", path, c->heads,
                c->kv_heads);
  if (c->head_dim % 8 || c->head_dim > 256)
    return fail(INVALID, "%s: head_dim %d; use a multiple of 8 up to 256", path, c->head_dim);
  if (c->hidden % 8 || c->mlp % 8)
    return fail(INVALID, "%s: hidden %d and mlp %d must be multiples of 8", path, c->hidden, c->mlp);
  if (c->lora.target[LORA_GATE] && c->activation != ACTIVATION_SWIGLU)
    return fail(INVALID, "%s: an adapter of \"gate\", but the activation is gelu; use \"up\"", path);
  if (decoder_context(c) < 1)
    return fail(INVALID, "%s: a prefix of %d tokens leaves none of the %d positions; use fewer", path,
                c->prefix_tokens, c->max_positions);
  return OK;
}

/* The target of this name, or LORA_TARGETS. */
static LoraTarget target_named(const char *name, size_t length) {
  int i = 0;
  while (i < LORA_TARGETS &&
         (strlen(lora_target_names[i]) != length || memcmp(lora_target_names[i], name, length) != 0))
    i++;
  return (LoraTarget)i;
}

Status lora_targets_parse(const char *text, const DecoderConfig *config, LoraConfig *out) {
  for (const char *at = text;; at++) {
    size_t length = strcspn(at, ",");
    LoraTarget target = target_named(at, length);
    if (target == LORA_TARGETS)
      return fail(INVALID,
                  "adapter.targets: \"%.*s\" is not a target; use qkv, q, k, v, proj, gate, up or down",
                  (int)length, at);
    if (target == LORA_GATE && config->activation != ACTIVATION_SWIGLU)
      return fail(INVALID, "adapter.targets: this model's MLP has no \"gate\"; use \"up\"");
    out->target[target] = true;
    at += length;
    if (!*at) return OK;
  }
}

/* "lora": {"rank": 8, "alpha": 16, "dropout": 0.1, "targets": ["q", "v"]}; it may be missing, as may its
 * dropout */
static Status parse_lora(const Json *json, const cJSON *object, LoraConfig *out) {
  const cJSON *lora = cJSON_GetObjectItemCaseSensitive(object, "lora");
  if (!lora) return OK;
  int64_t rank;
  double alpha, dropout = 0;
  TRY(json_get_int(json, lora, "rank", &rank));
  TRY(json_get_number(json, lora, "alpha", &alpha));
  if (cJSON_HasObjectItem(lora, "dropout")) TRY(json_get_number(json, lora, "dropout", &dropout));
  if (rank < 1 || rank > 4096)
    return fail(INVALID, "%s: lora.rank is %lld; use 1 to 4096", json->path, (long long)rank);
  if (!(dropout >= 0 && dropout <= LORA_DROPOUT_MOST))
    return fail(INVALID, "%s: lora.dropout is %g; use 0 to %g", json->path, dropout, LORA_DROPOUT_MOST);
  *out = (LoraConfig){.rank = (int)rank, .alpha = (float)alpha, .dropout = (float)dropout};
  const cJSON *name;
  cJSON_ArrayForEach(name, cJSON_GetObjectItemCaseSensitive(lora, "targets")) {
    int i = 0;
    while (i < LORA_TARGETS && (!cJSON_IsString(name) || strcmp(name->valuestring, lora_target_names[i])))
      i++;
    if (i == LORA_TARGETS)
      return fail(INVALID, "%s: lora.targets has an unknown name; use qkv, q, k, v, proj, gate, up or down",
                  json->path);
    out->target[i] = true;
  }
  return OK;
}

/* "prefix_tokens": 16, which may be missing */
static Status parse_prefix(const Json *json, const cJSON *object, int *out) {
  int64_t tokens;
  if (!cJSON_GetObjectItemCaseSensitive(object, "prefix_tokens")) return OK;
  TRY(json_get_int(json, object, "prefix_tokens", &tokens));
  if (tokens < 1 || tokens > PREFIX_TOKENS_MOST)
    return fail(INVALID, "%s: \"prefix_tokens\" is %lld; use 1 to %d", json->path, (long long)tokens,
                PREFIX_TOKENS_MOST);
  *out = (int)tokens;
  return OK;
}

/* "base": "int8", which may be missing */
static Status parse_base(const Json *json, const cJSON *object, WeightType *out) {
  const char *name;
  *out = WEIGHT_NATIVE;
  if (!cJSON_GetObjectItemCaseSensitive(object, "base")) return OK;
  TRY(json_get_string(json, object, "base", &name));
  for (int i = 0; base_names[i]; i++)
    if (strcmp(name, base_names[i]) == 0) {
      *out = (WeightType)i;
      return OK;
    }
  return fail(INVALID, "%s: \"base\" is \"%s\"; use native, bf16 or int8", json->path, name);
}

Status decoder_config_parse(const Json *json, const cJSON *object, DecoderConfig *out) {
  *out = (DecoderConfig){.norm_epsilon = 1e-5f, .rope_theta = 10000};
  const char *known[FIELD_COUNT];
  for (int i = 0; i < FIELD_COUNT; i++) known[i] = fields[i].key;
  const cJSON *item;
  cJSON_ArrayForEach(item, object) {
    bool found = strcmp(item->string, "lora") == 0 || strcmp(item->string, "prefix_tokens") == 0 ||
                 strcmp(item->string, "base") == 0;
    for (int i = 0; i < FIELD_COUNT; i++) found = found || strcmp(known[i], item->string) == 0;
    const char *near = nearest_name(item->string, known, FIELD_COUNT);
    if (!found)
      return fail(INVALID, "%s: \"%s\" is not a key of a model description; did you mean \"%s\"?", json->path,
                  item->string, near ? near : known[1]);
  }
  for (int i = 0; i < FIELD_COUNT; i++) {
    bool defaulted = strcmp(fields[i].key, "vocab") == 0 || strcmp(fields[i].key, "qk_norm") == 0 ||
                     fields[i].type == FIELD_FLOAT;
    if (defaulted && !cJSON_GetObjectItemCaseSensitive(object, fields[i].key)) continue;
    TRY(parse_field(json, object, &fields[i], (char *)out + fields[i].offset));
  }
  TRY(parse_lora(json, object, &out->lora));
  TRY(parse_prefix(json, object, &out->prefix_tokens));
  TRY(parse_base(json, object, &out->base));
  return decoder_config_check(json->path, out);
}

cJSON *decoder_config_json(const DecoderConfig *config) {
  cJSON *object = cJSON_CreateObject();
  for (int i = 0; i < FIELD_COUNT; i++) {
    const void *at = (const char *)config + fields[i].offset;
    const Field *field = &fields[i];
    if (field->type == FIELD_INT) cJSON_AddNumberToObject(object, field->key, *(const int *)at);
    if (field->type == FIELD_FLOAT) cJSON_AddNumberToObject(object, field->key, (double)*(const float *)at);
    if (field->type == FIELD_BOOL) cJSON_AddBoolToObject(object, field->key, *(const bool *)at);
    if (field->type == FIELD_NAME)
      cJSON_AddStringToObject(object, field->key, field->names[*(const int *)at]);
  }
  if (config->prefix_tokens) cJSON_AddNumberToObject(object, "prefix_tokens", config->prefix_tokens);
  if (config->base != WEIGHT_NATIVE) cJSON_AddStringToObject(object, "base", base_names[config->base]);
  if (config->lora.rank == 0) return object;
  cJSON *lora = cJSON_AddObjectToObject(object, "lora");
  cJSON_AddNumberToObject(lora, "rank", config->lora.rank);
  cJSON_AddNumberToObject(lora, "alpha", (double)config->lora.alpha);
  if (config->lora.dropout > 0) cJSON_AddNumberToObject(lora, "dropout", (double)config->lora.dropout);
  cJSON *targets = cJSON_AddArrayToObject(lora, "targets");
  for (int i = 0; i < LORA_TARGETS; i++)
    if (config->lora.target[i]) cJSON_AddItemToArray(targets, cJSON_CreateString(lora_target_names[i]));
  return object;
}

Status decoder_preset_path(Arena *arena, const char *preset, const char **out) {
  if (strchr(preset, '/') || strstr(preset, ".json")) {
    *out = arena_strdup(arena, preset);
    return OK;
  }
  *out = arena_print(arena, "%s/%s.json", POPALM_PRESETS, preset);
  if (file_exists(*out)) return OK;
  return fail(INVALID,
              "model.preset \"%s\" is not in %s; name a file there, or give the path of a .json file", preset,
              POPALM_PRESETS);
}

static int is_preset(const struct dirent *entry) {
  const char *dot = strrchr(entry->d_name, '.');
  return dot && strcmp(dot, ".json") == 0;
}

int decoder_preset_names(Arena *arena, const char *const **out) {
  struct dirent **entries;
  int count = scandir(POPALM_PRESETS, &entries, is_preset, alphasort);
  if (count < 0) return 0;
  const char **names = NEW(arena, const char *, count + 1);
  for (int i = 0; i < count; i++) {
    names[i] = arena_strndup(arena, entries[i]->d_name, strlen(entries[i]->d_name) - strlen(".json"));
    free(entries[i]);
  }
  free(entries);
  *out = names;
  return count;
}

Status decoder_config_read(Arena *arena, const char *preset, DecoderConfig *out) {
  const char *path;
  TRY(decoder_preset_path(arena, preset, &path));
  Json json;
  TRY(json_read(arena, path, &json));
  Status status = decoder_config_parse(&json, json.root, out);
  json_free(&json);
  return status;
}

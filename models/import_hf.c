/* Hugging Face folders: config.json, and the weights in one safetensors file or in several with an index. */
#include <dirent.h>
#include <string.h>

#include "models/import.h"

static const char index_name[] = "model.safetensors.index.json";

/* ---- the files ---- */

static void take_tensors(ForeignModel *model, const SafeFile *file) {
  static const struct {
    SafeType safe;
    ElementType type;
  } types[] = {{SAFE_F32, ELEMENT_F32}, {SAFE_F16, ELEMENT_F16}, {SAFE_BF16, ELEMENT_BF16}};
  for (int i = 0; i < file->count; i++) {
    const SafeTensor *safe = &file->tensors[i];
    ForeignTensor *tensor = &model->tensors[model->count++];
    *tensor = (ForeignTensor){.name = safe->name,
                              .path = file->path,
                              .rank = safe->rank,
                              .shape = {-1, -1},
                              .type = -1,
                              .type_name = safe_type_name(safe->type),
                              .data = safe->data,
                              .offset = (size_t)((const char *)safe->data - file->map.data)};
    for (int d = 0; d < safe->rank && safe->rank <= 2; d++) tensor->shape[d] = safe->shape[d];
    for (int t = 0; t < 3; t++)
      if (types[t].safe == safe->type) tensor->type = (int)types[t].type;
  }
}

static Status open_shards(Arena *arena, ForeignModel *model, const char *const *paths, int count) {
  model->shards = NEW(arena, SafeFile, count);
  size_t tensors = 0;
  for (; model->shard_count < count; model->shard_count++) {
    SafeFile *shard = &model->shards[model->shard_count];
    TRY(safetensors_open(arena, paths[model->shard_count], shard));
    tensors += (size_t)shard->count;
  }
  model->tensors = NEW(arena, ForeignTensor, tensors + 1);
  for (int i = 0; i < count; i++) take_tensors(model, &model->shards[i]);
  import_index(model);
  for (int i = 1; i < model->count; i++)
    if (strcmp(model->tensors[i - 1].name, model->tensors[i].name) == 0)
      return fail(INVALID,
                  "%s: offset %zu: tensor \"%s\" stands in %s too; remove the file that does not belong here",
                  model->tensors[i].path, model->tensors[i].offset, model->tensors[i].name,
                  model->tensors[i - 1].path);
  return OK;
}

/* The names of the index's files, each once. A name with a folder in it could point anywhere. */
static Status list_shards(Arena *arena, const Json *json, const char *folder, const char ***out, int *count) {
  const cJSON *map = cJSON_GetObjectItemCaseSensitive(json->root, "weight_map");
  if (!cJSON_IsObject(map))
    return fail(INVALID, "%s: no object \"weight_map\"; use another copy of the file", json->path);
  *out = NEW(arena, const char *, cJSON_GetArraySize(map) + 1);
  *count = 0;
  const cJSON *item;
  const char *last = NULL;
  cJSON_ArrayForEach(item, map) {
    const char *name = cJSON_GetStringValue(item);
    if (!name || !*name || strchr(name, '/') || name[0] == '.')
      return fail(INVALID, "%s: the file of \"%.80s\" is not a plain name; use another copy of the file",
                  json->path, item->string);
    if (last && strcmp(last, name) == 0) continue;
    last = name;
    const char *path = path_join(arena, folder, name);
    int at = 0;
    while (at < *count && strcmp((*out)[at], path) != 0) at++;
    if (at == *count) (*out)[(*count)++] = path;
    if (*count > 10000)
      return fail(INVALID, "%s: more than 10000 files; use another copy of the file", json->path);
  }
  if (*count == 0)
    return fail(INVALID, "%s: \"weight_map\" is empty; use another copy of the file", json->path);
  return OK;
}

static Status open_indexed(Arena *arena, ForeignModel *model, const char *folder) {
  Json json;
  const char **paths = NULL;
  int count = 0;
  TRY(json_read(arena, path_join(arena, folder, index_name), &json));
  Status status = list_shards(arena, &json, folder, &paths, &count);
  json_free(&json);
  return status == OK ? open_shards(arena, model, paths, count) : status;
}

/* Whether the folder has weights that only PyTorch's pickle reader opens. */
static const char *pickled_weights(Arena *arena, const char *folder) {
  DIR *dir = opendir(folder);
  const char *found = NULL;
  for (struct dirent *entry; dir && !found && (entry = readdir(dir));) {
    size_t length = strlen(entry->d_name);
    bool pickled = strncmp(entry->d_name, "pytorch_model", 13) == 0;
    if (pickled && length > 4 && strcmp(entry->d_name + length - 4, ".bin") == 0)
      found = path_join(arena, folder, entry->d_name);
  }
  if (dir) closedir(dir);
  return found;
}

static Status open_weights(Arena *arena, ForeignModel *model, const char *folder) {
  const char *whole = path_join(arena, folder, "model.safetensors");
  if (file_exists(whole)) return open_shards(arena, model, &whole, 1);
  if (file_exists(path_join(arena, folder, index_name))) return open_indexed(arena, model, folder);
  const char *pickled = pickled_weights(arena, folder);
  if (pickled)
    return fail(
        INVALID,
        "%s: PyTorch's .bin files can run code when they are read, so they are not; convert the folder once "
        "with transformers: AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(OUT)",
        pickled);
  return fail(INVALID,
              "%s: neither model.safetensors nor %s; give a folder with both config.json and weights", folder,
              index_name);
}

Status import_open_hf(Arena *arena, const char *folder, int context, ForeignModel *out) {
  *out = (ForeignModel){.path = folder, .outside = OUTSIDE_HF};
  Json json;
  TRY(json_read(arena, path_join(arena, folder, "config.json"), &json));
  Status status = family_read_hf(arena, &json, context, &out->family, &out->config);
  json_free(&json);
  if (status == OK) status = open_weights(arena, out, folder);
  if (status != OK) import_close(out);
  return status;
}

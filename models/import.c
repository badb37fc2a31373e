/* From the tensors of a foreign model to the parameters of ours. */
#include "models/import.h"

#include <stdlib.h>
#include <string.h>

#include "models/decoder.h"
#include "models/model.h"

/* ---- finding ---- */

static int by_name(const void *a, const void *b) {
  return strcmp(((const ForeignTensor *)a)->name, ((const ForeignTensor *)b)->name);
}

void import_index(ForeignModel *model) {
  if (model->count) qsort(model->tensors, (size_t)model->count, sizeof *model->tensors, by_name);
}

static ForeignTensor *look_up(const ForeignModel *model, const char *name) {
  ForeignTensor key = {.name = name};
  if (!model->count) return NULL;
  return bsearch(&key, model->tensors, (size_t)model->count, sizeof key, by_name);
}

/* Under its name, or without the prefix that files of a bare trunk leave out. */
static ForeignTensor *find_tensor(const ForeignModel *model, const char *name) {
  ForeignTensor *found = look_up(model, name);
  const char *prefix = family_prefix(model->family);
  size_t length = strlen(prefix);
  if (!found && model->outside == OUTSIDE_HF && strncmp(name, prefix, length) == 0)
    found = look_up(model, name + length);
  return found;
}

static Status check_tensor(const ForeignTensor *tensor, const Slice *slice) {
  int64_t rows = slice->transposed ? slice->cols : slice->rows;
  int64_t cols = slice->transposed ? slice->rows : slice->cols;
  bool vector = slice->cols == 0;
  bool same =
      tensor->rank == (vector ? 1 : 2) && tensor->shape[0] == rows && (vector || tensor->shape[1] == cols);
  if (!same)
    return fail(INVALID,
                "%s: offset %zu: tensor \"%s\" is %d-dimensional, %lld x %lld, but config and family want "
                "%lld x %lld; "
                "use a file that fits its description",
                tensor->path, tensor->offset, tensor->name, tensor->rank, (long long)tensor->shape[0],
                (long long)(tensor->rank > 1 ? tensor->shape[1] : 1), (long long)rows,
                (long long)(vector ? 1 : cols));
  if (tensor->type >= 0) return OK;
  return fail(INVALID, "%s: offset %zu: tensor \"%s\" has type %s; convert it to F32, F16 or BF16",
              tensor->path, tensor->offset, tensor->name, tensor->type_name);
}

/* ---- rows ---- */

/* A parameter and the slices that make it, in the order of their rows. */
typedef struct Target {
  const Parameter *parameter;
  const Slice *slice[3];
  const ForeignTensor *source[3];
  int parts;
} Target;

typedef struct Import {
  const ForeignModel *model;
  Parameters parameters;
  Target *targets; /* [parameters.count] */
} Import;

/* Where row i of a slice stands outside. */
static int64_t outside_row(const Slice *slice, int64_t i) {
  if (!slice->turned) return i;
  int64_t head = i / slice->turned, at = i % slice->turned, half = slice->turned / 2;
  return head * slice->turned + (at < half ? 2 * at : 2 * (at - half) + 1);
}

static void read_values(const ForeignTensor *tensor, int64_t first, int64_t count, float *out) {
  const Element *element = &elements[tensor->type];
  element->read(tensor->data + element_bytes((ElementType)tensor->type, (size_t)first), out,
                (size_t)(count / element->elements));
}

/* Rows first .. of the slice's matrix. */
static void read_rows(const Slice *slice, const ForeignTensor *tensor, int64_t first, int64_t count,
                      float *out, Arena *scratch) {
  if (slice->turned) {
    for (int64_t i = 0; i < count; i++)
      read_values(tensor, outside_row(slice, first + i) * slice->cols, slice->cols, out + i * slice->cols);
  } else if (!slice->transposed) {
    read_values(tensor, first * slice->cols, count * slice->cols, out);
  } else {
    float *column = NEW(scratch, float, count);
    for (int64_t c = 0; c < slice->cols; c++) {
      read_values(tensor, c * slice->rows + first, count, column);
      for (int64_t i = 0; i < count; i++) out[i * slice->cols + c] = column[i];
    }
  }
}

static void read_vector(const Slice *slice, const ForeignTensor *tensor, float *out, Arena *scratch) {
  float *values = NEW(scratch, float, slice->rows);
  read_values(tensor, 0, slice->rows, values);
  for (int64_t i = 0; i < slice->rows; i++) out[slice->first + i] = values[outside_row(slice, i)];
}

/* RowSource of the file being written. */
static Status give_rows(void *context, int index, int64_t first, int64_t count, float *out) {
  const Target *target = &((Import *)context)->targets[index];
  Arena scratch = {0};
  for (int p = 0; p < target->parts; p++) {
    const Slice *slice = target->slice[p];
    int64_t from = first > slice->first ? first : slice->first;
    int64_t end = first + count < slice->first + slice->rows ? first + count : slice->first + slice->rows;
    if (slice->cols == 0)
      read_vector(slice, target->source[p], out, &scratch);
    else if (from < end)
      read_rows(slice, target->source[p], from - slice->first, end - from, out + (from - first) * slice->cols,
                &scratch);
  }
  arena_free(&scratch);
  return interrupted ? fail(INTERRUPTED, "interrupted; nothing was written") : OK;
}

/* ---- matching ---- */

static Status match(Import *import, const Slice *slices, int count) {
  const ForeignModel *model = import->model;
  int at = 0;
  for (int i = 0; i < count; i++) {
    ForeignTensor *tensor = find_tensor(model, slices[i].name);
    if (!tensor)
      return fail(INVALID, "%s: no tensor \"%s\", which a %s model of this config has; use a whole copy",
                  model->path, slices[i].name, family_name(model->family));
    TRY(check_tensor(tensor, &slices[i]));
    tensor->used = true;
    for (int tries = 0; strcmp(import->parameters.list[at].name, slices[i].parameter) != 0; tries++)
      at = (at + 1) % import->parameters.count;
    Target *target = &import->targets[at];
    target->slice[target->parts] = &slices[i];
    target->source[target->parts++] = tensor;
  }
  return OK;
}

static Status refuse_left_over(const ForeignModel *model) {
  for (int i = 0; i < model->count; i++) {
    const ForeignTensor *tensor = &model->tensors[i];
    bool tied = model->config.tied &&
                (strcmp(tensor->name, "lm_head.weight") == 0 || strcmp(tensor->name, "output.weight") == 0);
    if (!tensor->used && !tied && !family_ignores(tensor->name))
      return fail(
          INVALID,
          "%s: offset %zu: tensor \"%s\" has no place in a %s model of this config; take a model without it",
          tensor->path, tensor->offset, tensor->name, family_name(model->family));
  }
  return OK;
}

/* ---- writing ---- */

static bool all_bf16(const Target *target) {
  for (int p = 0; p < target->parts; p++)
    if (target->source[p]->type != ELEMENT_BF16) return false;
  return true;
}

static Status write_all(Arena *arena, Import *import, const char *folder) {
  int count = import->parameters.count;
  SafeTensor *tensors = NEW(arena, SafeTensor, count);
  for (int i = 0; i < count; i++) {
    const Parameter *parameter = &import->parameters.list[i];
    tensors[i] = (SafeTensor){.name = parameter->name,
                              .type = all_bf16(&import->targets[i]) ? SAFE_BF16 : SAFE_F32,
                              .rank = parameter->rank,
                              .shape = {parameter->shape[0], parameter->shape[1]}};
  }
  cJSON *meta = model_meta(&import->model->config);
  char *text = cJSON_PrintUnformatted(meta);
  cJSON_Delete(meta);
  if (!text) return fail(FAILED, "%s: its metadata cannot be printed; free memory", folder);
  SafeMeta own = {"popalm", arena_strdup(arena, text)};
  cJSON_free(text);
  return safetensors_write_rows(path_join(arena, folder, "model.safetensors"), tensors, count, &own, 1,
                                give_rows, import);
}

static Status match_all(Arena *arena, ForeignModel *model, Import *import) {
  if (model->config.layers > model->count)
    return fail(INVALID, "%s: %d layers, but only %d tensors; use a whole copy", model->path,
                model->config.layers, model->count);
  *import = (Import){.model = model};
  Decoder decoder;
  decoder_declare(&decoder, arena, &model->config, &import->parameters);
  import->targets = NEW(arena, Target, import->parameters.count);
  Slice *slices;
  int count;
  family_slices(arena, model->family, &model->config, model->outside, &slices, &count);
  TRY(match(import, slices, count));
  return refuse_left_over(model);
}

Status import_match(Arena *arena, ForeignModel *model) {
  Import import;
  return match_all(arena, model, &import);
}

Status import_write(Arena *arena, ForeignModel *model, const char *folder) {
  Import import;
  TRY(match_all(arena, model, &import));
  TRY(make_folders(folder));
  return write_all(arena, &import, folder);
}

void import_close(ForeignModel *model) {
  for (int i = 0; i < model->shard_count; i++) safetensors_close(&model->shards[i]);
  if (model->gguf.path) gguf_close(&model->gguf);
  model->shard_count = 0;
}

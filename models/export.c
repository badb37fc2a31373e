/* From the parameters of ours to the tensors of other tools. */
#include <math.h>
#include <string.h>

#include "models/adapter.h"
#include "models/import.h"
#include "models/model.h"

/* An fp32 copy of a matrix. */
static void copy_widened(Arena *arena, HostTensor *tensor) {
  size_t count = (size_t)tensor->shape[0] * (size_t)tensor->shape[1];
  float *copy = NEW(arena, float, count);
  elements[tensor->type == BF16 ? ELEMENT_BF16 : ELEMENT_F32].read(tensor->data, copy, count);
  tensor->type = F32;
  tensor->data = copy;
}

/* Puts the base's tensors in the adapter's place; those that it adapts as merged copies. They are the base's
 * own values, whatever the adapter was trained over (adapter.base). */
static Status merge_adapter(Arena *arena, OwnModel *out) {
  Checkpoint *adapter = &out->checkpoint, *base = &out->base;
  const char *folder = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(adapter->meta, "base"));
  if (!folder) return fail(INVALID, "%s: an adapter that names no base; train it again", adapter->path);
  TRY(checkpoint_open(arena, path_join(arena, folder, "model.safetensors"), base));
  HostTensor *tensors = NEW(arena, HostTensor, base->count + adapter->count);
  for (int i = 0; i < base->count; i++) {
    tensors[i] = base->tensors[i];
    if (adapter_changes(&out->config, tensors[i].name)) copy_widened(arena, &tensors[i]);
  }
  memcpy(tensors + base->count, adapter->tensors, sizeof *tensors * (size_t)adapter->count);
  adapter->count = adapter_merge(&out->config, arena, tensors, base->count + adapter->count);
  adapter->tensors = tensors;
  out->config.lora = (LoraConfig){0};
  out->config.base = WEIGHT_NATIVE;
  return OK;
}

Status export_open(Arena *arena, const char *folder, OwnModel *out) {
  *out = (OwnModel){0};
  TRY(checkpoint_open(arena, path_join(arena, folder, "model.safetensors"), &out->checkpoint));
  Status status = model_meta_parse(out->checkpoint.path, out->checkpoint.meta, &out->config);
  if (status == OK && out->config.prefix_tokens)
    status = fail(INVALID, "%s: no weights can hold a prefix; export it alone, with --format peft",
                  out->checkpoint.path);
  if (status == OK && out->config.lora.rank) status = merge_adapter(arena, out);
  if (status == OK) status = family_of(&out->config, &out->family);
  if (status != OK) export_close(out);
  return status;
}

void export_close(OwnModel *model) {
  checkpoint_close(&model->checkpoint);
  checkpoint_close(&model->base);
}

/* The tensors of the outside with ours behind them. */
typedef struct Export {
  const Slice *slices; /* [count] */
  const HostTensor **sources;
  int count;
  ElementType *types;
} Export;

static Status match(Arena *arena, const OwnModel *model, Outside outside, ElementType type, Export *out) {
  Slice *slices;
  family_slices(arena, model->family, &model->config, outside, &slices, &out->count);
  out->slices = slices;
  out->sources = NEW(arena, const HostTensor *, out->count);
  out->types = NEW(arena, ElementType, out->count);
  for (int i = 0; i < out->count; i++) {
    const HostTensor *tensor = checkpoint_tensor(&model->checkpoint, slices[i].parameter);
    bool same = tensor && (tensor->type == F32 || tensor->type == BF16) &&
                tensor->rank == (slices[i].cols ? 2 : 1) &&
                tensor->shape[0] >= slices[i].first + slices[i].rows &&
                (!slices[i].cols || tensor->shape[1] == slices[i].cols);
    if (!same)
      return fail(INVALID,
                  "%s: tensor \"%s\" is missing or has another shape than the description; use a whole model",
                  model->checkpoint.path, slices[i].parameter);
    out->sources[i] = tensor;
    out->types[i] = type;
  }
  return OK;
}

/* Values first .. of one of our tensors. */
static void read_values(const HostTensor *tensor, int64_t first, int64_t count, float *out) {
  ElementType type = tensor->type == BF16 ? ELEMENT_BF16 : ELEMENT_F32;
  elements[type].read((const unsigned char *)tensor->data + element_bytes(type, (size_t)first), out,
                      (size_t)count);
}

/* The row of ours that stands outside as row i. */
static int64_t our_row(const Slice *slice, int64_t i) {
  if (!slice->turned) return slice->first + i;
  int64_t head = i / slice->turned, at = i % slice->turned;
  return slice->first + head * slice->turned + at / 2 + (at % 2 ? slice->turned / 2 : 0);
}

static void give_matrix(const Slice *slice, const HostTensor *tensor, int64_t first, int64_t count,
                        float *out) {
  if (slice->turned) {
    for (int64_t i = 0; i < count; i++)
      read_values(tensor, our_row(slice, first + i) * slice->cols, slice->cols, out + i * slice->cols);
  } else if (!slice->transposed) {
    read_values(tensor, (slice->first + first) * slice->cols, count * slice->cols, out);
  } else {
    for (int64_t r = 0; r < slice->rows; r++) /* row r of ours is column r outside */
      for (int64_t i = 0; i < count; i++)
        read_values(tensor, (slice->first + r) * slice->cols + first + i, 1, out + i * slice->rows + r);
  }
}

static Status check_range(const Slice *slice, const float *values, size_t count) {
  for (size_t i = 0; i < count; i++)
    if (isfinite(values[i]) && fabsf(values[i]) >= 65520)
      return fail(INVALID,
                  "tensor \"%s\" has the value %g, which F16 cannot hold; export with --type bf16 or f32",
                  slice->name, (double)values[i]);
  return OK;
}

/* RowSource of the file being written. */
static Status give_rows(void *context, int index, int64_t first, int64_t count, float *out) {
  const Export *export = context;
  const Slice *slice = &export->slices[index];
  const HostTensor *tensor = export->sources[index];
  int64_t width = slice->transposed ? slice->rows : slice->cols;
  if (slice->cols == 0) {
    for (int64_t i = 0; i < slice->rows; i++) read_values(tensor, our_row(slice, i), 1, out + i);
    width = slice->rows;
  } else {
    give_matrix(slice, tensor, first, count, out);
  }
  if (export->types[index] == ELEMENT_F16) TRY(check_range(slice, out, (size_t)(count * width)));
  return interrupted ? fail(INTERRUPTED, "interrupted; nothing was written") : OK;
}

/* ---- Hugging Face ---- */

static Status write_config(Arena *arena, const OwnModel *model, const char *folder, ElementType type,
                           int eos) {
  static const char *const names[ELEMENT_COUNT] = {
      [ELEMENT_F32] = "float32", [ELEMENT_F16] = "float16", [ELEMENT_BF16] = "bfloat16"};
  cJSON *config = family_hf_config(model->family, &model->config);
  cJSON_AddStringToObject(config, "dtype", names[type]);
  if (eos >= 0) cJSON_AddNumberToObject(config, "eos_token_id", eos);
  Status status = json_write(path_join(arena, folder, "config.json"), config);
  cJSON_Delete(config);
  return status;
}

Status export_hf(Arena *arena, const OwnModel *model, const char *folder, ElementType type, int eos) {
  static const SafeType safe[ELEMENT_COUNT] = {
      [ELEMENT_F32] = SAFE_F32, [ELEMENT_F16] = SAFE_F16, [ELEMENT_BF16] = SAFE_BF16};
  Export export;
  TRY(match(arena, model, OUTSIDE_HF, type, &export));
  SafeTensor *tensors = NEW(arena, SafeTensor, export.count);
  for (int i = 0; i < export.count; i++) {
    const Slice *slice = &export.slices[i];
    tensors[i] = (SafeTensor){.name = slice->name,
                              .type = safe[type],
                              .rank = slice->cols ? 2 : 1,
                              .shape = {slice->transposed ? slice->cols : slice->rows,
                                        slice->transposed ? slice->rows : slice->cols}};
  }
  TRY(make_folders(folder));
  SafeMeta meta = {"format", "pt"}; /* transformers asks for it */
  TRY(safetensors_write_rows(path_join(arena, folder, "model.safetensors"), tensors, export.count, &meta, 1,
                             give_rows, &export));
  return write_config(arena, model, folder, type, eos);
}

/* ---- GGUF ---- */

Status export_gguf(Arena *arena, const OwnModel *model, const char *path, ElementType type, int eos,
                   const Json *tokenizer) {
  if (model->config.rope_scaling.factor > 0)
    return fail(INVALID, "%s: rope scaling is not written to GGUF files; export with --format hf",
                model->checkpoint.path);
  Export export;
  TRY(match(arena, model, OUTSIDE_GGUF, type, &export));
  GgufWriter *writer = gguf_begin(arena);
  family_gguf_keys(arena, model->family, &model->config, writer);
  if (tokenizer) TRY(export_gguf_tokenizer(arena, tokenizer, model->config.vocab, writer));
  if (tokenizer && eos >= 0) gguf_add_u32(writer, "tokenizer.ggml.eos_token_id", (uint32_t)eos);
  for (int i = 0; i < export.count; i++) {
    const Slice *slice = &export.slices[i];
    export.types[i] = slice->cols == 0 ? ELEMENT_F32
                      : slice->cols % elements[type].elements == 0
                          ? type
                          : ELEMENT_F16; /* rows of no whole blocks */
    gguf_add_tensor(writer, slice->name, export.types[i], slice->rows, slice->cols);
  }
  return gguf_finish(writer, path, give_rows, &export);
}

/* GGUF files: the description stands in the keys, the weights behind them. */
#include "models/import.h"

static void take_tensors(Arena *arena, ForeignModel *model) {
  const GgufFile *file = &model->gguf;
  model->tensors = NEW(arena, ForeignTensor, file->count + 1);
  for (int i = 0; i < file->count; i++) {
    const GgufTensor *tensor = &file->tensors[i];
    bool matrix = tensor->rank <= 2;
    model->tensors[model->count++] =
        (ForeignTensor){.name = tensor->name,
                        .path = file->path,
                        .rank = tensor->rank,
                        .shape = {matrix ? tensor->shape[0] : -1, tensor->rank == 2 ? tensor->shape[1] : -1},
                        .type = (int)tensor->type,
                        .type_name = elements[tensor->type].name,
                        .data = tensor->data,
                        .offset = (size_t)(tensor->data - (const unsigned char *)file->map.data)};
  }
  import_index(model);
}

Status import_open_gguf(Arena *arena, const char *path, int context, ForeignModel *out) {
  *out = (ForeignModel){.path = path, .outside = OUTSIDE_GGUF};
  TRY(gguf_open(arena, path, &out->gguf));
  Status status = family_read_gguf(arena, &out->gguf, context, &out->family, &out->config);
  if (status == OK)
    take_tensors(arena, out);
  else
    import_close(out);
  return status;
}

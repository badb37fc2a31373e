#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/writer.h"
#include "safetensors.h"

enum { ALIGNMENT = 64, CHUNK = 1 << 20, CHUNK_ELEMENTS = 1 << 20 };

/* A file in the making: everything written is hashed on its way, so that nothing is read twice. */
typedef struct Writer {
  FileWriter file;
  Hash *hash;
  const SafeTensor *tensors; /* as the caller gave them */
  RowSource source;          /* of tensors without data */
  void *context;
} Writer;

static void add_json_string(Text *text, const char *value) {
  cJSON *item = cJSON_CreateString(value);
  char *printed = item ? cJSON_PrintUnformatted(item) : NULL;
  if (!printed) arena_exhausted(strlen(value));
  text_add(text, printed, strlen(printed));
  cJSON_free(printed);
  cJSON_Delete(item);
}

static size_t tensor_bytes(const SafeTensor *tensor) {
  size_t bytes = safe_type_bytes(tensor->type);
  for (int i = 0; i < tensor->rank; i++) bytes *= (size_t)tensor->shape[i];
  return bytes;
}

static int larger_type_first(const void *a, const void *b) {
  const SafeTensor *x = *(const SafeTensor *const *)a, *y = *(const SafeTensor *const *)b;
  size_t bx = safe_type_bytes(x->type), by = safe_type_bytes(y->type);
  if (bx != by) return bx > by ? -1 : 1;
  return (x > y) - (x < y); /* elements of one array: keeps the caller's order */
}

/* Length prefix and JSON header with a checksum of zeros, padded with spaces to the alignment. */
static Text make_header(Arena *arena, const SafeTensor *const *order, int count, const SafeMeta *meta,
                        int meta_count) {
  Text text = {.arena = arena};
  text_add(&text, "\0\0\0\0\0\0\0", SAFE_PREFIX);
  text_print(&text, SAFE_CHECKSUM_LEAD SAFE_CHECKSUM_ZEROS "\"");
  for (int i = 0; i < meta_count; i++) {
    text_print(&text, ",");
    add_json_string(&text, meta[i].key);
    text_print(&text, ":");
    add_json_string(&text, meta[i].value);
  }
  text_print(&text, "}");
  size_t offset = 0;
  for (int i = 0; i < count; i++) {
    const SafeTensor *tensor = order[i];
    text_print(&text, ",");
    add_json_string(&text, tensor->name);
    text_print(&text, ":{\"dtype\":\"%s\",\"shape\":[", safe_type_name(tensor->type));
    for (int d = 0; d < tensor->rank; d++)
      text_print(&text, d ? ",%lld" : "%lld", (long long)tensor->shape[d]);
    size_t end = offset + tensor_bytes(tensor);
    text_print(&text, "],\"data_offsets\":[%zu,%zu]}", offset, end);
    offset = end;
  }
  text_print(&text, "}");
  while (text.length % ALIGNMENT) text_add(&text, " ", 1);
  for (int i = 0; i < SAFE_PREFIX; i++)
    text.data[i] = (char)((uint64_t)(text.length - SAFE_PREFIX) >> (8 * i));
  return text;
}

static Status put(Writer *writer, const char *data, size_t length) {
  for (size_t part; length > 0; data += part, length -= part) {
    part = length < CHUNK ? length : CHUNK;
    hash_bytes(writer->hash, data, part);
    TRY(file_writer_put(&writer->file, data, part));
  }
  return OK;
}

static ElementType element_of(SafeType type) {
  return type == SAFE_F16 ? ELEMENT_F16 : type == SAFE_BF16 ? ELEMENT_BF16 : ELEMENT_F32;
}

/* A tensor that source gives, about a million values at a time. */
static Status put_rows(Writer *writer, const SafeTensor *tensor) {
  int64_t rows = tensor->rank > 1 ? tensor->shape[0] : 1, cols = tensor->shape[tensor->rank > 1];
  int64_t step = CHUNK_ELEMENTS / cols > 0 ? CHUNK_ELEMENTS / cols : 1;
  if (step > rows) step = rows;
  Arena scratch = {0};
  float *values = NEW(&scratch, float, step *cols);
  unsigned char *bytes = NEW(&scratch, unsigned char, (size_t)(step * cols) * safe_type_bytes(tensor->type));
  Status status = OK;
  for (int64_t first = 0; first < rows && status == OK; first += step) {
    int64_t count = rows - first < step ? rows - first : step;
    status = writer->source(writer->context, (int)(tensor - writer->tensors), first, count, values);
    if (status != OK) break;
    size_t total = (size_t)(count * cols);
    elements[element_of(tensor->type)].write(bytes, values, total);
    status = put(writer, (const char *)bytes, total * safe_type_bytes(tensor->type));
  }
  arena_free(&scratch);
  return status;
}

static Status put_tensor(Writer *writer, const SafeTensor *tensor) {
  return tensor->data || tensor_bytes(tensor) == 0 ? put(writer, tensor->data, tensor_bytes(tensor))
                                                   : put_rows(writer, tensor);
}

static Status put_all(Writer *writer, const Text *header, const SafeTensor *const *order, int count) {
  TRY(put(writer, header->data, header->length));
  for (int i = 0; i < count; i++) TRY(put_tensor(writer, order[i]));
  char hex[SAFE_DIGITS + 1];
  hash_hex(writer->hash, hex);
  return file_writer_patch(&writer->file, SAFE_PREFIX + SAFE_LEAD, hex, SAFE_DIGITS);
}

static Status write_with(Writer *writer, const char *path, int count, const SafeMeta *meta, int meta_count,
                         bool keep_previous) {
  Arena arena = {0};
  const SafeTensor **order = NEW(&arena, const SafeTensor *, count + 1);
  for (int i = 0; i < count; i++) order[i] = &writer->tensors[i];
  qsort(order, (size_t)count, sizeof *order, larger_type_first);
  Text header = make_header(&arena, order, count, meta, meta_count);
  writer->hash = hash_new(&arena);
  Status status = file_writer_open(&arena, path, &writer->file);
  if (status == OK) {
    writer->file.keep_previous = keep_previous;
    status = file_writer_close(&writer->file, put_all(writer, &header, order, count));
  }
  arena_free(&arena);
  return status;
}

Status safetensors_write(const char *path, const SafeTensor *tensors, int count, const SafeMeta *meta,
                         int meta_count, bool keep_previous) {
  Writer writer = {.tensors = tensors};
  return write_with(&writer, path, count, meta, meta_count, keep_previous);
}

Status safetensors_write_rows(const char *path, const SafeTensor *tensors, int count, const SafeMeta *meta,
                              int meta_count, RowSource source, void *context) {
  Writer writer = {.tensors = tensors, .source = source, .context = context};
  return write_with(&writer, path, count, meta, meta_count, false);
}

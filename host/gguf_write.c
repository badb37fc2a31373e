#include <string.h>

#include "base/writer.h"
#include "gguf.h"

enum { ALIGNMENT = 32, CHUNK_ELEMENTS = 1 << 20 };

typedef struct WrittenTensor {
  const char *name;
  ElementType type;
  int64_t rows, cols; /* a vector is one row */
  int rank;
} WrittenTensor;

struct GgufWriter {
  Arena *arena;
  Text values;
  uint64_t value_count;
  WrittenTensor *tensors;
  int count, capacity;
};

GgufWriter *gguf_begin(Arena *arena) {
  GgufWriter *writer = NEW(arena, GgufWriter, 1);
  writer->arena = arena;
  writer->values.arena = arena;
  return writer;
}

static void put_number(Text *text, uint64_t value, int bytes) {
  char little[8];
  for (int i = 0; i < bytes; i++) little[i] = (char)(value >> (8 * i));
  text_add(text, little, (size_t)bytes);
}

static void put_string(Text *text, const char *bytes, size_t length) {
  put_number(text, length, 8);
  text_add(text, bytes, length);
}

static void put_key(GgufWriter *writer, const char *key, GgufType type) {
  put_string(&writer->values, key, strlen(key));
  put_number(&writer->values, type, 4);
  writer->value_count++;
}

void gguf_add_string(GgufWriter *writer, const char *key, const char *value) {
  put_key(writer, key, GGUF_STRING);
  put_string(&writer->values, value, strlen(value));
}

void gguf_add_u32(GgufWriter *writer, const char *key, uint32_t value) {
  put_key(writer, key, GGUF_U32);
  put_number(&writer->values, value, 4);
}

void gguf_add_f32(GgufWriter *writer, const char *key, float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  put_key(writer, key, GGUF_F32);
  put_number(&writer->values, bits, 4);
}

void gguf_add_bool(GgufWriter *writer, const char *key, bool value) {
  put_key(writer, key, GGUF_BOOL);
  put_number(&writer->values, value, 1);
}

static void put_array(GgufWriter *writer, const char *key, GgufType element, uint64_t count) {
  put_key(writer, key, GGUF_ARRAY);
  put_number(&writer->values, element, 4);
  put_number(&writer->values, count, 8);
}

void gguf_add_strings(GgufWriter *writer, const char *key, const GgufString *strings, uint64_t count) {
  put_array(writer, key, GGUF_STRING, count);
  for (uint64_t i = 0; i < count; i++) put_string(&writer->values, strings[i].text, strings[i].length);
}

void gguf_add_i32s(GgufWriter *writer, const char *key, const int32_t *numbers, uint64_t count) {
  put_array(writer, key, GGUF_I32, count);
  for (uint64_t i = 0; i < count; i++) put_number(&writer->values, (uint32_t)numbers[i], 4);
}

void gguf_add_tensor(GgufWriter *writer, const char *name, ElementType type, int64_t rows, int64_t cols) {
  if (writer->count == writer->capacity) {
    int capacity = writer->capacity ? 2 * writer->capacity : 64;
    WrittenTensor *tensors = NEW(writer->arena, WrittenTensor, capacity);
    if (writer->count) memcpy(tensors, writer->tensors, sizeof *tensors * (size_t)writer->count);
    writer->tensors = tensors;
    writer->capacity = capacity;
  }
  writer->tensors[writer->count++] = (WrittenTensor){.name = arena_strdup(writer->arena, name),
                                                     .type = type,
                                                     .rows = cols ? rows : 1,
                                                     .cols = cols ? cols : rows,
                                                     .rank = cols ? 2 : 1};
}

static size_t row_bytes(const WrittenTensor *tensor) {
  return element_bytes(tensor->type, (size_t)tensor->cols);
}

static Text make_header(const GgufWriter *writer) {
  Text header = {.arena = writer->arena};
  text_add(&header, "GGUF", 4);
  put_number(&header, 3, 4);
  put_number(&header, (uint64_t)writer->count, 8);
  put_number(&header, writer->value_count, 8);
  if (writer->values.length) text_add(&header, writer->values.data, writer->values.length);
  uint64_t offset = 0;
  for (int i = 0; i < writer->count; i++) {
    const WrittenTensor *tensor = &writer->tensors[i];
    put_string(&header, tensor->name, strlen(tensor->name));
    put_number(&header, (uint64_t)tensor->rank, 4);
    put_number(&header, (uint64_t)tensor->cols, 8);
    if (tensor->rank == 2) put_number(&header, (uint64_t)tensor->rows, 8);
    put_number(&header, elements[tensor->type].gguf, 4);
    put_number(&header, offset, 8);
    offset += (uint64_t)tensor->rows * row_bytes(tensor);
    offset = (offset + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  }
  return header;
}

/* One tensor, about a million values at a time. */
static Status put_tensor(FileWriter *file, const GgufWriter *writer, int index, RowSource source,
                         void *context) {
  const WrittenTensor *tensor = &writer->tensors[index];
  const Element *element = &elements[tensor->type];
  int64_t step = CHUNK_ELEMENTS / tensor->cols > 0 ? CHUNK_ELEMENTS / tensor->cols : 1;
  if (step > tensor->rows) step = tensor->rows;
  Arena scratch = {0};
  float *values = NEW(&scratch, float, step * tensor->cols);
  unsigned char *blocks = NEW(&scratch, unsigned char, (size_t)step *row_bytes(tensor));
  Status status = OK;
  for (int64_t first = 0; first < tensor->rows && status == OK; first += step) {
    int64_t count = tensor->rows - first < step ? tensor->rows - first : step;
    status = source(context, index, first, count, values);
    if (status != OK) break;
    element->write(blocks, values, (size_t)(count * tensor->cols / element->elements));
    status = file_writer_put(file, blocks, (size_t)count * row_bytes(tensor));
  }
  arena_free(&scratch);
  return status;
}

static Status put_all(FileWriter *file, const GgufWriter *writer, RowSource source, void *context) {
  Text header = make_header(writer);
  TRY(file_writer_put(file, header.data, header.length));
  for (int i = 0; i < writer->count; i++) {
    TRY(file_writer_align(file, ALIGNMENT));
    TRY(put_tensor(file, writer, i, source, context));
  }
  return file_writer_align(file, ALIGNMENT);
}

Status gguf_finish(GgufWriter *writer, const char *path, RowSource source, void *context) {
  FileWriter file;
  TRY(file_writer_open(writer->arena, path, &file));
  return file_writer_close(&file, put_all(&file, writer, source, context));
}

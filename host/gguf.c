#include "gguf.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_ALIGNMENT = 32, LEAST_VALUE = 8 + 1 + 4 + 1, LEAST_TENSOR = 8 + 1 + 4 + 8 + 4 + 8 };

static const size_t type_bytes[GGUF_TYPE_COUNT] = {
    [GGUF_U8] = 1,  [GGUF_I8] = 1,   [GGUF_U16] = 2, [GGUF_I16] = 2, [GGUF_U32] = 4, [GGUF_I32] = 4,
    [GGUF_F32] = 4, [GGUF_BOOL] = 1, [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8};

/* Where the reading stands; nothing is read past the map's end. */
typedef struct Cursor {
  Arena *arena;
  const GgufFile *file;
  size_t at; /* offset in the file */
} Cursor;

static Status damaged(const Cursor *c, const char *what) {
  return fail(INVALID, "%s: offset %zu: %s; the file is damaged or no GGUF file, use another copy",
              c->file->path, c->at, what);
}

static size_t left(const Cursor *c) { return c->file->map.length - c->at; }

static const unsigned char *here(const Cursor *c) { return (const unsigned char *)c->file->map.data + c->at; }

static uint64_t little_endian(const unsigned char *at, size_t bytes) {
  uint64_t value = 0;
  for (size_t i = bytes; i-- > 0;) value = value << 8 | at[i];
  return value;
}

static Status take_number(Cursor *c, size_t bytes, uint64_t *out) {
  if (left(c) < bytes) return damaged(c, "the file ends inside its header");
  *out = little_endian(here(c), bytes);
  c->at += bytes;
  return OK;
}

static Status take_string(Cursor *c, GgufString *out) {
  uint64_t length = 0;
  TRY(take_number(c, 8, &length));
  if (length > left(c)) return damaged(c, "a text is longer than the rest of the file");
  *out = (GgufString){(const char *)here(c), (size_t)length};
  c->at += (size_t)length;
  return OK;
}

/* A name: UTF-8 without zero bytes. */
static Status take_name(Cursor *c, const char **out) {
  GgufString string = {0};
  TRY(take_string(c, &string));
  c->at -= string.length;
  if (string.length == 0 || string.length > 65535) return damaged(c, "a name has no or too many bytes");
  if (utf8_invalid_at(string.text, string.length) < string.length || memchr(string.text, 0, string.length))
    return damaged(c, "a name is not UTF-8");
  c->at += string.length;
  *out = arena_strndup(c->arena, string.text, string.length);
  return OK;
}

/* ---- values ---- */

static Status take_type(Cursor *c, GgufType *out) {
  uint64_t type = 0;
  TRY(take_number(c, 4, &type));
  if (type >= GGUF_TYPE_COUNT) {
    c->at -= 4;
    return damaged(c, "a value's type is not known");
  }
  *out = (GgufType)type;
  return OK;
}

static Status take_array(Cursor *c, GgufValue *value) {
  TRY(take_type(c, &value->element));
  if (value->element == GGUF_ARRAY) return damaged(c, "an array of arrays, which no model needs");
  TRY(take_number(c, 8, &value->count));
  value->at = here(c);
  if (value->element != GGUF_STRING) {
    size_t each = type_bytes[value->element];
    if (value->count > left(c) / each) return damaged(c, "an array is longer than the rest of the file");
    c->at += (size_t)value->count * each;
    return OK;
  }
  if (value->count > left(c) / 8) return damaged(c, "an array is longer than the rest of the file");
  for (uint64_t i = 0; i < value->count; i++) {
    GgufString unused;
    TRY(take_string(c, &unused));
  }
  return OK;
}

static Status take_value(Cursor *c, GgufValue *value) {
  *value = (GgufValue){.count = 1};
  TRY(take_name(c, &value->key));
  TRY(take_type(c, &value->type));
  value->at = here(c);
  uint64_t unused = 0;
  if (value->type == GGUF_ARRAY) return take_array(c, value);
  if (value->type == GGUF_STRING) return take_string(c, &value->string);
  return take_number(c, type_bytes[value->type], &unused);
}

double gguf_number(const GgufValue *value, uint64_t i) {
  GgufType type = value->type == GGUF_ARRAY ? value->element : value->type;
  uint64_t bits = little_endian(value->at + i * type_bytes[type], type_bytes[type]);
  uint32_t low = (uint32_t)bits;
  float single;
  double twice;
  switch (type) {
    case GGUF_I8:
      return (int8_t)bits;
    case GGUF_I16:
      return (int16_t)bits;
    case GGUF_I32:
      return (int32_t)bits;
    case GGUF_I64:
      return (double)(int64_t)bits;
    case GGUF_F32:
      memcpy(&single, &low, sizeof single);
      return (double)single;
    case GGUF_F64:
      memcpy(&twice, &bits, sizeof twice);
      return twice;
    default:
      return (double)bits;
  }
}

GgufString gguf_next_string(const unsigned char **at) {
  GgufString string = {(const char *)*at + 8, (size_t)little_endian(*at, 8)};
  *at += 8 + string.length;
  return string;
}

/* ---- tensors ---- */

static Status bad_tensor(const Cursor *c, size_t offset, const char *name, const char *what) {
  return fail(INVALID, "%s: offset %zu: tensor \"%s\": %s; the file is damaged, use another copy",
              c->file->path, offset, name, what);
}

static Status find_type(const Cursor *c, size_t offset, const char *name, uint64_t number, ElementType *out) {
  for (int t = 0; t < ELEMENT_COUNT; t++) {
    if (elements[t].gguf != number) continue;
    *out = (ElementType)t;
    return OK;
  }
  Text known = {.arena = c->arena};
  for (int t = 0; t < ELEMENT_COUNT; t++) text_print(&known, "%s%s", t ? ", " : "", elements[t].name);
  return fail(INVALID, "%s: offset %zu: tensor \"%s\" has type %llu, which is not read; take a file of %s",
              c->file->path, offset, name, (unsigned long long)number, known.data);
}

/* shape and bytes of a tensor; sizes stand innermost first in the file. */
static Status take_shape(Cursor *c, GgufTensor *tensor, uint64_t sizes[GGUF_MAX_RANK]) {
  size_t start = c->at;
  uint64_t rank = 0;
  TRY(take_number(c, 4, &rank));
  if (rank < 1 || rank > GGUF_MAX_RANK)
    return bad_tensor(c, start, tensor->name, "it has not 1 to 4 dimensions");
  tensor->rank = (int)rank;
  for (uint64_t d = 0; d < rank; d++) {
    TRY(take_number(c, 8, &sizes[d]));
    if (sizes[d] < 1 || sizes[d] > INT64_MAX / 8)
      return bad_tensor(c, c->at - 8, tensor->name, "a dimension is not possible");
    tensor->shape[rank - 1 - d] = (int64_t)sizes[d];
  }
  return OK;
}

static Status take_tensor(Cursor *c, GgufTensor *tensor, uint64_t *offset) {
  uint64_t sizes[GGUF_MAX_RANK] = {1, 1, 1, 1}, type = 0;
  TRY(take_name(c, &tensor->name));
  TRY(take_shape(c, tensor, sizes));
  size_t type_at = c->at;
  TRY(take_number(c, 4, &type));
  TRY(find_type(c, type_at, tensor->name, type, &tensor->type));
  TRY(take_number(c, 8, offset));
  const Element *element = &elements[tensor->type];
  if (sizes[0] % (uint64_t)element->elements)
    return bad_tensor(c, type_at, tensor->name, "its rows are not whole blocks of its type");
  uint64_t bytes = sizes[0] / (uint64_t)element->elements;
  bool fits = !__builtin_mul_overflow(bytes, (uint64_t)element->bytes, &bytes);
  for (int d = 1; d < GGUF_MAX_RANK; d++) fits = fits && !__builtin_mul_overflow(bytes, sizes[d], &bytes);
  if (!fits || bytes > SIZE_MAX / 8)
    return bad_tensor(c, type_at, tensor->name, "its shape is too large for memory");
  tensor->bytes = (size_t)bytes;
  return OK;
}

static int by_data(const void *a, const void *b) {
  const GgufTensor *x = *(const GgufTensor *const *)a, *y = *(const GgufTensor *const *)b;
  return (x->data > y->data) - (x->data < y->data);
}

static int by_name(const void *a, const void *b) {
  return strcmp((*(const GgufTensor *const *)a)->name, (*(const GgufTensor *const *)b)->name);
}

static int by_key(const void *a, const void *b) {
  return strcmp((*(const GgufValue *const *)a)->key, (*(const GgufValue *const *)b)->key);
}

/* The tensors follow each other, with less than the alignment between, to the file's end. */
static Status check_layout(Arena *arena, const GgufFile *file) {
  const GgufTensor **order = NEW(arena, const GgufTensor *, file->count + 1);
  for (int i = 0; i < file->count; i++) order[i] = &file->tensors[i];
  qsort(order, (size_t)file->count, sizeof *order, by_data);
  const unsigned char *map = (const unsigned char *)file->map.data;
  size_t end = file->data_start;
  for (int i = 0; i < file->count; i++) {
    size_t begin = (size_t)(order[i]->data - map);
    if (begin < end || begin - end >= file->alignment)
      return fail(INVALID, "%s: offset %zu: tensor \"%s\" %s; the file is damaged, use another copy",
                  file->path, begin, order[i]->name,
                  begin < end ? "overlaps the one before it" : "leaves a hole before it");
    end = begin + order[i]->bytes;
  }
  if (file->map.length - end >= file->alignment)
    return fail(
        INVALID,
        "%s: offset %zu: bytes that belong to no tensor follow; the file is damaged, use another copy",
        file->path, end);
  qsort(order, (size_t)file->count, sizeof *order, by_name);
  for (int i = 1; i < file->count; i++)
    if (strcmp(order[i - 1]->name, order[i]->name) == 0)
      return fail(INVALID,
                  "%s: offset %zu: tensor \"%s\" stands twice; the file is damaged, use another copy",
                  file->path, (size_t)(order[i]->data - map), order[i]->name);
  return OK;
}

static Status check_keys(const Cursor *c) {
  const GgufFile *file = c->file;
  const GgufValue **order = NEW(c->arena, const GgufValue *, file->value_count + 1);
  for (int i = 0; i < file->value_count; i++) order[i] = &file->values[i];
  qsort(order, (size_t)file->value_count, sizeof *order, by_key);
  for (int i = 1; i < file->value_count; i++)
    if (strcmp(order[i - 1]->key, order[i]->key) == 0)
      return fail(INVALID, "%s: offset %zu: key \"%s\" stands twice; the file is damaged, use another copy",
                  file->path, (size_t)(order[i]->at - (const unsigned char *)file->map.data), order[i]->key);
  return OK;
}

static Status find_alignment(const Cursor *c, GgufFile *file) {
  file->alignment = DEFAULT_ALIGNMENT;
  const GgufValue *value = gguf_find(file, "general.alignment");
  if (!value) return OK;
  double alignment = value->type == GGUF_U32 ? gguf_number(value, 0) : 0;
  if (alignment < 8 || alignment > 65536 || fmod(alignment, 8) != 0)
    return damaged(c, "\"general.alignment\" is not a multiple of 8 up to 65536");
  file->alignment = (size_t)alignment;
  return OK;
}

static Status place_tensors(const Cursor *c, GgufFile *file, const uint64_t *offsets) {
  size_t start = c->at + (file->alignment - c->at % file->alignment) % file->alignment;
  file->data_start = start < file->map.length ? start : file->map.length;
  size_t room = file->map.length - file->data_start;
  for (int i = 0; i < file->count; i++) {
    GgufTensor *tensor = &file->tensors[i];
    if (offsets[i] % file->alignment)
      return bad_tensor(c, c->at, tensor->name, "its offset is no multiple of the alignment");
    if (offsets[i] > room || tensor->bytes > room - (size_t)offsets[i])
      return fail(
          INVALID,
          "%s: offset %zu: tensor \"%s\" should have %zu bytes from %zu + %llu, but the file ends at %zu; "
          "it is cut off, use another copy",
          file->path, file->map.length, tensor->name, tensor->bytes, file->data_start,
          (unsigned long long)offsets[i], file->map.length);
    tensor->data = (const unsigned char *)file->map.data + file->data_start + (size_t)offsets[i];
  }
  return OK;
}

static Status take_start(Cursor *c, GgufFile *file, uint64_t *tensors, uint64_t *values) {
  uint64_t magic = 0, version = 0;
  TRY(take_number(c, 4, &magic));
  if (magic != 0x46554747) {
    c->at = 0;
    return damaged(c, "it does not begin with GGUF");
  }
  TRY(take_number(c, 4, &version));
  if (version < 2 || version > 3)
    return fail(INVALID, "%s: offset 4: GGUF version %llu is not read; convert the file to version 3",
                file->path, (unsigned long long)version);
  file->version = (uint32_t)version;
  TRY(take_number(c, 8, tensors));
  TRY(take_number(c, 8, values));
  if (*tensors > left(c) / LEAST_TENSOR || *values > left(c) / LEAST_VALUE)
    return damaged(c, "more tensors or keys are announced than the file has room for");
  return OK;
}

static Status read_file(Arena *arena, GgufFile *file) {
  Cursor c = {arena, file, 0};
  uint64_t tensors = 0, values = 0;
  TRY(take_start(&c, file, &tensors, &values));
  file->values = NEW(arena, GgufValue, values + 1);
  while ((uint64_t)file->value_count < values) {
    TRY(take_value(&c, &file->values[file->value_count]));
    file->value_count++;
  }
  TRY(check_keys(&c));
  TRY(find_alignment(&c, file));
  file->tensors = NEW(arena, GgufTensor, tensors + 1);
  uint64_t *offsets = NEW(arena, uint64_t, tensors + 1);
  while ((uint64_t)file->count < tensors) {
    TRY(take_tensor(&c, &file->tensors[file->count], &offsets[file->count]));
    file->count++;
  }
  TRY(place_tensors(&c, file, offsets));
  return check_layout(arena, file);
}

Status gguf_open(Arena *arena, const char *path, GgufFile *out) {
  *out = (GgufFile){.path = arena_strdup(arena, path)};
  TRY(file_map(path, &out->map));
  Status status = read_file(arena, out);
  if (status != OK) gguf_close(out);
  return status;
}

void gguf_close(GgufFile *file) {
  if (file->path) file_unmap(&file->map);
  file->count = 0;
  file->value_count = 0;
}

const GgufValue *gguf_find(const GgufFile *file, const char *key) {
  for (int i = 0; i < file->value_count; i++)
    if (strcmp(file->values[i].key, key) == 0) return &file->values[i];
  return NULL;
}

const GgufTensor *gguf_tensor(const GgufFile *file, const char *name) {
  for (int i = 0; i < file->count; i++)
    if (strcmp(file->tensors[i].name, name) == 0) return &file->tensors[i];
  return NULL;
}

/* The GGUF container: magic, version, counts, keys with values, tensor descriptions, then the tensors, each
 * at a multiple of the alignment. Little-endian, versions 2 and 3. Nothing of a file is trusted: lengths,
 * counts, types, shapes and offsets are checked, and messages name the file, the offset and the reason. */
#ifndef POPALM_GGUF_H
#define POPALM_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/status.h"
#include "base/text.h"
#include "elements.h"

typedef enum GgufType {
  GGUF_U8,
  GGUF_I8,
  GGUF_U16,
  GGUF_I16,
  GGUF_U32,
  GGUF_I32,
  GGUF_F32,
  GGUF_BOOL,
  GGUF_STRING,
  GGUF_ARRAY,
  GGUF_U64,
  GGUF_I64,
  GGUF_F64,
  GGUF_TYPE_COUNT
} GgufType;

typedef struct GgufString {
  const char *text; /* in the map, not NUL-terminated; any bytes */
  size_t length;
} GgufString;

typedef struct GgufValue {
  const char *key; /* NUL-terminated */
  GgufType type;
  GgufType element;        /* of an array; strings and numbers only */
  uint64_t count;          /* elements of an array, else 1 */
  const unsigned char *at; /* the number, or the array's first element, in the map */
  GgufString string;       /* of GGUF_STRING */
} GgufValue;

enum { GGUF_MAX_RANK = 4 };

typedef struct GgufTensor {
  const char *name;
  ElementType type;
  int rank;
  int64_t
      shape[GGUF_MAX_RANK]; /* outermost first: [rows, cols] as everywhere here (the file has the reverse) */
  size_t bytes;
  const unsigned char *data; /* into the map */
} GgufTensor;

typedef struct GgufFile {
  const char *path;
  FileMap map;
  uint32_t version;
  size_t data_start, alignment;
  GgufValue *values;
  int value_count;
  GgufTensor *tensors;
  int count;
} GgufFile;

Status gguf_open(Arena *arena, const char *path, GgufFile *out) CHECKED;
void gguf_close(GgufFile *file);

/* NULL when there is none. */
const GgufValue *gguf_find(const GgufFile *file, const char *key);
const GgufTensor *gguf_tensor(const GgufFile *file, const char *name);
/* Number i of an array, or the number itself; i < count, not of strings. */
double gguf_number(const GgufValue *value, uint64_t i);
/* The next string of an array; *at begins as value->at. */
GgufString gguf_next_string(const unsigned char **at);

/* ---- writing ---- */

typedef struct GgufWriter GgufWriter;

/* A file in the making: values first, then tensors in order, then gguf_finish. Everything is kept in memory
 * but the tensors' data, which gguf_finish asks for piece by piece. */
GgufWriter *gguf_begin(Arena *arena);
void gguf_add_string(GgufWriter *writer, const char *key, const char *value);
void gguf_add_u32(GgufWriter *writer, const char *key, uint32_t value);
void gguf_add_f32(GgufWriter *writer, const char *key, float value);
void gguf_add_bool(GgufWriter *writer, const char *key, bool value);
void gguf_add_strings(GgufWriter *writer, const char *key, const GgufString *strings, uint64_t count);
void gguf_add_i32s(GgufWriter *writer, const char *key, const int32_t *numbers, uint64_t count);
/* A tensor of rank 1 (rows values, cols 0) or 2. Its rows are whole blocks of the type. */
void gguf_add_tensor(GgufWriter *writer, const char *name, ElementType type, int64_t rows, int64_t cols);
/* source is asked for the tensors in the order of gguf_add_tensor. */
Status gguf_finish(GgufWriter *writer, const char *path, RowSource source, void *context) CHECKED;

#endif

#include "models/reduce.h"

#include <math.h>
#include <string.h>

#include "base/arena.h"
#include "elements.h"

enum { WIDTH = 8 * INT8_BLOCK };               /* values of a row at once */
static const float int8_most = 127 * 65504.0f; /* of the largest fp16 scale */

/* Columns first .. of a row, with zeros behind its end. */
static bool reduce_part(unsigned char *to, const Element *target, const unsigned char *from,
                        const Element *source, size_t count) {
  float part[WIDTH] = {0};
  bool good = true;
  source->read(from, part, count);
  for (size_t i = 0; i < count; i++) good = good && fabsf(part[i]) <= int8_most;
  size_t blocks = (count + (size_t)target->elements - 1) / (size_t)target->elements;
  if (good || target->elements == 1) target->write(to, part, blocks);
  return good || target->elements == 1;
}

static bool reduce_row(unsigned char *to, const Element *target, const unsigned char *from,
                       const Element *source, int columns) {
  bool good = true;
  for (int c = 0; c < columns; c += WIDTH) {
    int count = columns - c < WIDTH ? columns - c : WIDTH;
    good = reduce_part(to + c / target->elements * target->bytes, target, from + (size_t)c * source->bytes,
                       source, (size_t)count) &&
           good;
  }
  return good;
}

bool reduce_matrix(Backend *backend, void *to, WeightType type, const void *values, DType values_type,
                   int rows, int columns) {
  const Element *target = &elements[type == WEIGHT_BF16 ? ELEMENT_BF16 : ELEMENT_Q8_0];
  const Element *source = &elements[values_type == BF16 ? ELEMENT_BF16 : ELEMENT_F32];
  size_t row_bytes = weight_row_bytes(type, backend->storage, columns);
  size_t source_bytes = (size_t)columns * (size_t)source->bytes;
  if (target == source) {
    backend->upload(backend, to, values, (size_t)rows * row_bytes);
    return true;
  }
  Arena scratch = {0};
  unsigned char *made = NEW(&scratch, unsigned char, (size_t)rows *row_bytes);
  bool good = true;
#pragma omp parallel for reduction(&& : good)
  for (int r = 0; r < rows; r++)
    good = reduce_row(made + (size_t)r * row_bytes, target,
                      (const unsigned char *)values + (size_t)r * source_bytes, source, columns) &&
           good;
  if (good) backend->upload(backend, to, made, (size_t)rows * row_bytes);
  arena_free(&scratch);
  return good;
}

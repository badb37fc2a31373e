/* The element types of weight files, by blocks: `elements` consecutive values of a row share `bytes` bytes.
 * Plain types are blocks of one. The quantised ones are GGUF's: a block holds its scale (fp16), perhaps an
 * offset, and small integers; the K types are blocks of 256 with scales of their own for every 16 or 32. */
#ifndef POPALM_ELEMENTS_H
#define POPALM_ELEMENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef enum ElementType {
  ELEMENT_F32,
  ELEMENT_F16,
  ELEMENT_BF16,
  ELEMENT_Q4_0,
  ELEMENT_Q4_1,
  ELEMENT_Q5_0,
  ELEMENT_Q5_1,
  ELEMENT_Q8_0,
  ELEMENT_Q4_K,
  ELEMENT_Q5_K,
  ELEMENT_Q6_K,
  ELEMENT_COUNT
} ElementType;

typedef struct Element {
  const char *name; /* "Q4_K" */
  int elements;     /* of a block */
  int bytes;        /* of a block */
  uint32_t gguf;    /* its number in GGUF files */
  void (*read)(const unsigned char *block, float *out, size_t blocks);
  void (*write)(unsigned char *block, const float *in, size_t blocks); /* NULL: only read */
} Element;

extern const Element elements[ELEMENT_COUNT];

/* bytes of count values; count is a multiple of the block's. */
size_t element_bytes(ElementType type, size_t count);

/* Gives rows first .. first + count - 1 of tensor `index` of a file that is being written, as floats, one row
 * behind the other. A vector is one row. */
typedef Status (*RowSource)(void *context, int index, int64_t first, int64_t count, float *out);

#endif

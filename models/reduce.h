/* Frozen matrices in bf16 or int8: made from the values of a file as they are read. The caller hands over a few
 * rows at a time, so that no more than those ever stand in memory twice. */
#ifndef POPALM_MODELS_REDUCE_H
#define POPALM_MODELS_REDUCE_H

#include "backend.h"

/* Writes values [rows, columns] (F32 or BF16) to `to` on the device as type, which is not WEIGHT_NATIVE.
 * False where int8 cannot hold them: not finite, or a block's scale beyond fp16. */
bool reduce_matrix(Backend *backend, void *to, WeightType type, const void *values, DType values_type,
                   int rows, int columns);

#endif

/* Scratch memory of the operations that take much, for them and for statements of memory before a run:
 * arithmetic that both C and C++ read. */
#ifndef POPALM_CUDA_SCRATCH_H
#define POPALM_CUDA_SCRATCH_H

#include <stddef.h>

enum {
  VOCAB_CHUNK_BYTES = 64 << 20,
  VOCAB_ROW_MULTIPLE = 128 /* a tile of the product */,
  VOCAB_MOST_ROWS = 65536
};
enum { COLUMN_ROWS = 256 /* rows of a slice of column sums */ };
enum { PRODUCT_SCRATCH_BYTES = 32 << 20 }; /* of cuBLASLt: what NVIDIA recommends for Hopper */

/* Elements between rows of logits. */
static inline int vocab_stride(int vocab) { return (vocab + 63) / 64 * 64; }

/* Rows whose logits stand in memory at once. */
static inline int vocab_chunk(int rows, int vocab) {
  size_t most =
      VOCAB_CHUNK_BYTES / ((size_t)(vocab_stride(vocab) > 0 ? vocab_stride(vocab) : 64) * sizeof(float));
  int chunk =
      (most < VOCAB_MOST_ROWS ? (int)most : VOCAB_MOST_ROWS) / VOCAB_ROW_MULTIPLE * VOCAB_ROW_MULTIPLE;
  if (chunk < VOCAB_ROW_MULTIPLE) chunk = VOCAB_ROW_MULTIPLE;
  return rows < chunk ? rows : chunk;
}

/* The fp32 sums of the weight's gradient over several chunks. */
static inline size_t vocab_sums_bytes(int rows, int hidden, int vocab) {
  return vocab_chunk(rows, vocab) < rows ? (size_t)vocab * (size_t)hidden * sizeof(float) : 0;
}

/* The gradient of a prefix is summed over slices of the tokens, by blocks that keep so many of its keys. */
static inline int prefix_tile(int prefix_len) { return prefix_len <= 64 ? 64 : 128; }
static inline int attention_step(int head_dim) { return head_dim > 64 ? 48 : 64; }

/* How many slices: as many as give every multiprocessor of a large GPU two blocks, whatever the GPU, and at
 * least a step of tokens each; a step for each of the query heads that share a key head. */
static inline int prefix_slices(int tokens, int heads, int kv_heads, int head_dim, int prefix_len) {
  const int wanted_blocks = 264;
  int tiles = (prefix_len + prefix_tile(prefix_len) - 1) / prefix_tile(prefix_len), blocks = tiles * kv_heads;
  int steps = (tokens + attention_step(head_dim) - 1) / attention_step(head_dim) * (heads / kv_heads);
  if (prefix_len == 0) return 0;
  int wanted = (wanted_blocks + blocks - 1) / blocks;
  return wanted < steps ? wanted : steps;
}

/* What the backend takes for scratch memory of this size. */
static inline size_t workspace_grown(size_t bytes) { return bytes + bytes / 4; }

#endif

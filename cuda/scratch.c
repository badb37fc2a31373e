/* The scratch memory of a pass on a GPU: that of its largest operation. Plain C, so that a program without
 * the CUDA backend can state it too. */
#include "scratch.h"

#include "backend.h"

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

size_t cuda_scratch(const PassShape *s) {
  bool int8 = s->weights == WEIGHT_INT8;
  size_t tokens = (size_t)s->tokens, widest = (size_t)(s->mlp_out > s->qkv ? s->mlp_out : s->qkv), most = 0;
  if (s->rows) {
    most = (size_t)vocab_chunk(s->rows, s->vocab) * (size_t)vocab_stride(s->vocab) * sizeof(float);
    if (s->trains_matrices) most += vocab_sums_bytes(s->rows, s->hidden, s->vocab);
  }
  if (int8) { /* the matrix that is dequantised: the vocabulary's stands beside the logits */
    size_t hidden = (size_t)s->hidden, vocab = s->rows || s->sampled_rows ? (size_t)s->vocab : 0;
    most += vocab * hidden * 2;
    most = larger(most, 2 * hidden * larger(widest, (size_t)s->mlp));
  }
  if (s->trains) { /* attention: a number a row and head, and the prefix's partial sums */
    int heads = s->attention / s->head_dim;
    int slices = prefix_slices(s->tokens, heads, s->kv_heads, s->head_dim, s->prefix_len);
    size_t prefix = (size_t)s->prefix_len * 2 * (size_t)s->kv_heads * (size_t)s->head_dim;
    most = larger(most, (tokens * (size_t)heads + (size_t)slices * prefix) * sizeof(float));
  }
  if (s->trains_matrices) {
    most = larger(most, (tokens + COLUMN_ROWS - 1) / COLUMN_ROWS * widest * sizeof(float));
    most = larger(most, tokens * (2 * sizeof(uint64_t)) + tokens / 16 * (size_t)s->hidden * sizeof(float));
  }
  return workspace_grown(most);
}

size_t cuda_fixed(void) { return PRODUCT_SCRATCH_BYTES + sizeof(uint32_t); }

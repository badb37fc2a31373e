/* The scratch memory of a pass: that of its largest operation. */
#include "cpu/cpu.h"

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

static size_t product_scratch(const PassShape *s, int in, int out) {
  return cpu_linear_backward_scratch(s->tokens, in, out, s->weights, true, s->trains_matrices);
}

size_t cpu_scratch(const PassShape *s) {
  size_t most = cpu_attention_scratch(s->prefix_len + s->max_len, s->head_dim, s->trains);
  if (s->trains)
    most += (size_t)PREFIX_SLICES * (size_t)s->prefix_len * 2 * (size_t)(s->kv_heads * s->head_dim) *
            sizeof(float);
  if (s->rows) most = larger(most, cpu_vocab_scratch(s->rows, s->hidden, s->vocab, s->weights, s->trains));
  if (s->sampled_rows) most = larger(most, cpu_threads() * (size_t)s->vocab * sizeof(int32_t));
  if (s->trains) {
    most = larger(most, product_scratch(s, s->hidden, s->qkv));
    most = larger(most, product_scratch(s, s->attention, s->hidden));
    most = larger(most, product_scratch(s, s->hidden, s->mlp_out));
    most = larger(most, product_scratch(s, s->mlp, s->hidden));
  }
  return cpu_grown(most);
}

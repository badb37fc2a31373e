/* Token and position embeddings. The backward pass sorts the rows by token (counting sort), so that
 * each row of the gradient is summed by one thread, over its rows in their order. */
#include <string.h>

#include "cpu/cpu.h"

void cpu_embedding(Backend *backend, const Embedding *op) {
  (void)backend;
  const float *token = op->token_table, *position = op->position_table;
  float *out = op->out;
  size_t hidden = (size_t)op->hidden;
#pragma omp parallel for schedule(static) if (op->rows * hidden >= PARALLEL_FROM)
  for (int r = 0; r < op->rows; r++) {
    const float *t = token + (size_t)op->tokens[r] * hidden;
    float *y = out + r * hidden;
    if (position) {
      const float *p = position + (size_t)op->positions[r] * hidden;
      for (size_t i = 0; i < hidden; i++) y[i] = t[i] + p[i];
    } else {
      for (size_t i = 0; i < hidden; i++) y[i] = t[i];
    }
  }
}

/* table[index[r]] += dout[r] */
static void add_rows(Backend *backend, float *table, int table_rows, const int32_t *index, const float *dout,
                     int rows, int hidden) {
  /* start[k] .. start[k+1]-1 of order are the rows with index k */
  int32_t *start = cpu_workspace(backend, ((size_t)table_rows + 2 + (size_t)rows) * sizeof *start);
  int32_t *order = start + table_rows + 2;
  memset(start, 0, ((size_t)table_rows + 2) * sizeof *start);
  for (int r = 0; r < rows; r++) start[index[r] + 2]++;
  for (int k = 2; k <= table_rows + 1; k++) start[k] += start[k - 1];
  for (int r = 0; r < rows; r++) order[start[index[r] + 1]++] = r;
#pragma omp parallel for schedule(dynamic, 32) if ((size_t)rows * hidden >= PARALLEL_FROM)
  for (int k = 0; k < table_rows; k++)
    for (int n = start[k]; n < start[k + 1]; n++) {
      const float *from = dout + (size_t)order[n] * hidden;
      float *to = table + (size_t)k * hidden;
#pragma omp simd
      for (int i = 0; i < hidden; i++) to[i] += from[i];
    }
}

void cpu_embedding_backward(Backend *backend, const EmbeddingBackward *op) {
  if (op->rows == 0) return;
  if (op->dtoken_table)
    add_rows(backend, op->dtoken_table, op->vocab, op->tokens, op->dout, op->rows, op->hidden);
  if (op->dposition_table)
    add_rows(backend, op->dposition_table, op->max_positions, op->positions, op->dout, op->rows, op->hidden);
}

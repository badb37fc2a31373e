/* Token and position embeddings. The backward pass sorts the rows by token (counting sort), so that
 * each row of the gradient is summed by one thread, over its rows in their order. */
#include <string.h>

#include "cpu/weights.h"

enum { WIDE_COLUMNS = 512 }; /* of a position, added to a token */

/* out += row, both of `hidden` elements */
static void add_row(const void *row, WeightType type, int hidden, float *out) {
  float wide[WIDE_COLUMNS];
  for (int first = 0; first < hidden; first += WIDE_COLUMNS) {
    int count = hidden - first < WIDE_COLUMNS ? hidden - first : WIDE_COLUMNS;
    widen_row(row, type, first, count, wide);
    for (int i = 0; i < count; i++) out[first + i] += wide[i];
  }
}

void cpu_embedding(Backend *backend, const Embedding *op) {
  (void)backend;
  float *out = op->out;
  int hidden = op->hidden;
#pragma omp parallel for schedule(static) if ((size_t)op->rows * hidden >= PARALLEL_FROM)
  for (int r = 0; r < op->rows; r++) {
    float *y = out + (size_t)r * hidden;
    widen_row(weight_row(op->token_table, op->table_type, hidden, (size_t)op->tokens[r]), op->table_type, 0,
              hidden, y);
    if (op->position_table)
      add_row(weight_row(op->position_table, op->table_type, hidden, (size_t)op->positions[r]),
              op->table_type, hidden, y);
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

/* Weights in bf16 and int8 on the CPU: every operation that reads them gives the bits that it gives for fp32
 * weights of the same values. */
/* clang-format off */
#include "gradcheck.h"
/* clang-format on */

#include "elements.h"

static const WeightType reduced[] = {WEIGHT_BF16, WEIGHT_INT8};
static const char *const names[] = {[WEIGHT_BF16] = "bf16", [WEIGHT_INT8] = "int8"};

typedef struct Matrix {
  void *reduced;
  float *values; /* what the reduced form says */
} Matrix;

/* A random matrix, a row at a time through the element types of files; the last block of a row is filled up.
 */
static Matrix random_matrix(Check *check, WeightType type, int rows, int columns) {
  const Element *element = &elements[type == WEIGHT_BF16 ? ELEMENT_BF16 : ELEMENT_Q8_0];
  size_t blocks = ((size_t)columns + (size_t)element->elements - 1) / (size_t)element->elements;
  size_t row_bytes = blocks * (size_t)element->bytes, count = (size_t)rows * (size_t)columns;
  assert_int_equal(row_bytes, weight_row_bytes(type, F32, columns));
  Matrix m = {NEW(&check->arena, unsigned char, (size_t)rows *row_bytes + 1),
              NEW(&check->arena, float, count + 1)};
  const float *given = check_random(check, count);
  float *padded = NEW(&check->arena, float, blocks *(size_t)element->elements + 1);
  for (int r = 0; r < rows; r++) {
    unsigned char *row = (unsigned char *)m.reduced + (size_t)r * row_bytes;
    float scale = ldexpf(1, r % 7 - 3);
    for (int c = 0; c < columns; c++) padded[c] = scale * given[(size_t)r * (size_t)columns + (size_t)c];
    element->write(row, padded, blocks);
    element->read(row, padded, blocks);
    memcpy(m.values + (size_t)r * (size_t)columns, padded, (size_t)columns * sizeof(float));
    for (int c = 0; c < columns; c++) padded[c] = 0;
  }
  return m;
}

/* rows, in, out: around the edges of blocks, panels, their depth and the rows that are widened at once */
static const int shapes[][3] = {{0, 40, 3},    {3, 0, 4},      {3, 4, 0},     {1, 1, 1},     {1, 31, 65},
                                {16, 32, 16},  {17, 33, 9},    {33, 64, 40},  {48, 511, 8},  {49, 513, 13},
                                {97, 1030, 7}, {300, 100, 71}, {5, 40, 2100}, {20, 800, 50}, {2, 576, 4099}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static void linear_equals_fp32(void **state) {
  (void)state;
  Check check;
  check_begin(&check, "linear weights");
  for (int i = 0; i < 2 * SHAPES; i++) {
    WeightType type = reduced[i % 2];
    int rows = shapes[i / 2][0], in = shapes[i / 2][1], out = shapes[i / 2][2];
    Matrix m = random_matrix(&check, type, out, in);
    size_t count = (size_t)rows * (size_t)out;
    float *want = check_random(&check, count + 1), *got = NEW(&check.arena, float, count + 1);
    memcpy(got, want, count * sizeof *got);
    Linear op = {.x = check_random(&check, (size_t)rows * (size_t)in),
                 .weight = m.values,
                 .bias = i % 3 ? check_random(&check, (size_t)out) : NULL,
                 .y = want,
                 .rows = rows,
                 .in = in,
                 .out = out,
                 .accumulate = i % 4 < 2,
                 .scale = i % 5 ? 0 : 0.7f};
    check.backend->linear(check.backend, &op);
    op.weight = m.reduced, op.weight_type = type, op.y = got;
    check.backend->linear(check.backend, &op);
    check_same(&check, names[type], got, want, count);
  }
  check_end(&check);
}

static void gradients_of_inputs_equal_fp32(void **state) {
  (void)state;
  Check check;
  check_begin(&check, "linear_backward weights");
  for (int i = 0; i < 2 * SHAPES; i++) {
    WeightType type = reduced[i % 2];
    int rows = shapes[i / 2][0], in = shapes[i / 2][1], out = shapes[i / 2][2], stride = out + i % 3;
    Matrix m = random_matrix(&check, type, out, in);
    size_t count = (size_t)rows * (size_t)in;
    float *want = check_random(&check, count + 1), *got = NEW(&check.arena, float, count + 1);
    memcpy(got, want, count * sizeof *got);
    LinearBackward op = {.weight = m.values,
                         .dy = check_random(&check, (size_t)rows * (size_t)stride + 1),
                         .dy_stride = stride,
                         .dx = want,
                         .rows = rows,
                         .in = in,
                         .out = out,
                         .accumulate = i % 4 < 2,
                         .scale = i % 5 ? 0 : 0.7f};
    check.backend->linear_backward(check.backend, &op);
    op.weight = m.reduced, op.weight_type = type, op.dx = got;
    check.backend->linear_backward(check.backend, &op);
    check_same(&check, names[type], got, want, count);
  }
  check_end(&check);
}

/* Rows of W beyond the first piece are added to the sum, not put in its place: against the plain product. */
static void long_sums_are_whole(void **state) {
  (void)state;
  Check check;
  check_begin(&check, "long sums");
  enum { ROWS = 3, IN = 40, OUT = 4100 };
  for (int k = 0; k < 2; k++) {
    Matrix m = random_matrix(&check, reduced[k], OUT, IN);
    double *dy = check_doubles(&check, ROWS * OUT, 1), want[ROWS * IN] = {0};
    float *dx = check_output(&check, ROWS * IN);
    for (int r = 0; r < ROWS; r++)
      for (int o = 0; o < OUT; o++)
        for (int c = 0; c < IN; c++) want[r * IN + c] += dy[r * OUT + o] * (double)m.values[o * IN + c];
    check.backend->linear_backward(check.backend,
                                   &(LinearBackward){.weight = m.reduced,
                                                     .weight_type = reduced[k],
                                                     .dy = check_floats(&check, dy, ROWS * OUT),
                                                     .dx = dx,
                                                     .rows = ROWS,
                                                     .in = IN,
                                                     .out = OUT});
    check_close(&check, names[reduced[k]], dx, want, ROWS * IN, 1e-5);
  }
  check_end(&check);
}

static void vocabulary_equals_fp32(void **state) {
  (void)state;
  static const int sizes[][3] = {{1, 31, 5}, {7, 33, 100}, {65, 160, 77}, {3, 8, 5000}, {80, 64, 66000}};
  Check check;
  check_begin(&check, "vocab weights");
  for (int i = 0; i < 10; i++) {
    WeightType type = reduced[i % 2];
    int rows = sizes[i / 2][0], size = sizes[i / 2][1], vocab = sizes[i / 2][2];
    Matrix m = random_matrix(&check, type, vocab, size);
    size_t n = (size_t)rows, h = n * (size_t)size, logits = n * (size_t)vocab;
    float *hidden = check_random(&check, h), *dlogprob = check_random(&check, n);
    int32_t *targets = NEW(&check.arena, int32_t, rows);
    for (int r = 0; r < rows; r++) targets[r] = check_size(&check, 0, vocab - 1);
    float *out[2][5]; /* logprob, entropy, logprob, dhidden, logits */
    for (int k = 0; k < 2; k++) {
      for (int j = 0; j < 3; j++) out[k][j] = check_output(&check, n);
      out[k][3] = check_output(&check, h);
      out[k][4] = check_output(&check, logits);
      const void *weight = k ? m.reduced : m.values;
      Backend *b = check.backend;
      WeightType used = k ? type : WEIGHT_NATIVE;
      b->vocab(b, &(Vocab){hidden, weight, targets, out[k][0], out[k][1], rows, size, vocab, used});
      b->vocab_backward(b, &(VocabBackward){.hidden = hidden,
                                            .weight = weight,
                                            .weight_type = used,
                                            .targets = targets,
                                            .dlogprob = dlogprob,
                                            .logprob = out[k][2],
                                            .dhidden = out[k][3],
                                            .rows = rows,
                                            .hidden_size = size,
                                            .vocab = vocab});
      b->vocab_logits(b, &(VocabLogits){hidden, weight, out[k][4], rows, size, vocab, used});
    }
    const size_t counts[] = {n, n, n, h, logits};
    for (int j = 0; j < 5; j++) check_same(&check, names[type], out[1][j], out[0][j], counts[j]);
  }
  check_end(&check);
}

static void embedding_equals_fp32(void **state) {
  (void)state;
  static const int widths[] = {1, 31, 32, 45, 511, 513, 1100};
  Check check;
  check_begin(&check, "embedding weights");
  for (int i = 0; i < 14; i++) {
    WeightType type = reduced[i % 2];
    int hidden = widths[i / 2], rows = 29, vocab = 17, places = 11;
    Matrix token = random_matrix(&check, type, vocab, hidden);
    Matrix position = random_matrix(&check, type, places, hidden);
    int32_t tokens[29], positions[29];
    for (int r = 0; r < rows; r++) tokens[r] = check_size(&check, 0, vocab - 1), positions[r] = r % places;
    size_t count = (size_t)rows * (size_t)hidden;
    float *want = check_output(&check, count), *got = check_output(&check, count);
    Embedding op = {.tokens = tokens,
                    .positions = positions,
                    .rows = rows,
                    .hidden = hidden,
                    .vocab = vocab,
                    .max_positions = places,
                    .token_table = token.values,
                    .position_table = i % 3 ? position.values : NULL,
                    .out = want};
    check.backend->embedding(check.backend, &op);
    op.token_table = token.reduced, op.table_type = type, op.out = got;
    if (op.position_table) op.position_table = position.reduced;
    check.backend->embedding(check.backend, &op);
    check_same(&check, names[type], got, want, count);
    for (size_t j = 0; j < count; j++) { /* and both are the formula */
      size_t r = j / (size_t)hidden, c = j % (size_t)hidden;
      float sum = token.values[(size_t)tokens[r] * (size_t)hidden + c];
      if (op.position_table) sum += position.values[(size_t)positions[r] * (size_t)hidden + c];
      assert_true(got[j] == sum);
    }
  }
  check_end(&check);
}

/* One thread and several, and rows alone or beside others. */
static void bits_do_not_depend_on_threads_or_other_rows(void **state) {
  (void)state;
  Check check;
  check_begin(&check, "weights and threads");
  int threads = omp_get_max_threads();
  for (int k = 0; k < 2; k++) {
    int rows = 130, in = 700, out = 300;
    Matrix m = random_matrix(&check, reduced[k], out, in);
    float *x = check_random(&check, (size_t)rows * (size_t)in), *y[3], *dx[2];
    for (int j = 0; j < 3; j++) y[j] = check_output(&check, (size_t)rows * (size_t)out);
    for (int j = 0; j < 2; j++) dx[j] = check_output(&check, (size_t)rows * (size_t)in);
    Linear op = {.x = x, .weight = m.reduced, .weight_type = reduced[k], .rows = rows, .in = in, .out = out};
    for (int j = 0; j < 2; j++) {
      omp_set_num_threads(j ? 3 : 1);
      op.y = y[j];
      check.backend->linear(check.backend, &op);
      check.backend->linear_backward(check.backend, &(LinearBackward){.weight = m.reduced,
                                                                      .weight_type = reduced[k],
                                                                      .dy = y[j],
                                                                      .dx = dx[j],
                                                                      .rows = rows,
                                                                      .in = in,
                                                                      .out = out});
    }
    for (int r = 0; r < rows; r++) {
      op.rows = 1, op.x = x + r * in, op.y = y[2] + r * out;
      check.backend->linear(check.backend, &op);
    }
    check_same(&check, "y by threads", y[1], y[0], (size_t)rows * (size_t)out);
    check_same(&check, "dx by threads", dx[1], dx[0], (size_t)rows * (size_t)in);
    check_same(&check, "y by row", y[2], y[0], (size_t)rows * (size_t)out);
  }
  omp_set_num_threads(threads);
  check_end(&check);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(linear_equals_fp32),    cmocka_unit_test(gradients_of_inputs_equal_fp32),
      cmocka_unit_test(long_sums_are_whole),   cmocka_unit_test(vocabulary_equals_fp32),
      cmocka_unit_test(embedding_equals_fp32), cmocka_unit_test(bits_do_not_depend_on_threads_or_other_rows),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

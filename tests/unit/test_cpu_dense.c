/* The element-wise and row operations of the CPU backend: embedding, rope, activations, row moves. */
#include "cpu/simd.h"
#include "gradcheck.h"

/* The sanitizers slow this down: steps of the argument, not every float. */
static void fast_exp_is_within_two_units_in_the_last_place(void **state) {
  (void)state;
  for (double x = -87; x < 88.7; x += 0.00173) {
    double want = exp((double)(float)x);
    if (!(fabs(fast_exp((float)x) - want) <= 2.4e-7 * want)) fail_msg("exp(%.9g)", x);
    double sigmoid = 1 / (1 + exp(-(double)(float)x));
    if (!(fabs(fast_sigmoid((float)x) - sigmoid) <= 4e-7 * sigmoid)) fail_msg("sigmoid(%.9g)", x);
  }
  assert_true(fast_exp(0) == 1 && fast_exp(-INFINITY) == 0 && fast_exp(-200) == 0);
  assert_true(isinf(fast_exp(INFINITY)) && isinf(fast_exp(90)) && isnan(fast_exp(NAN)));
  assert_true(fast_sigmoid(-INFINITY) == 0 && fast_sigmoid(INFINITY) == 1);
}

typedef struct EmbeddingCase {
  Check *check;
  Embedding forward;
  EmbeddingBackward backward;
  float *dtoken, *dposition, *dtoken0, *dposition0;
} EmbeddingCase;

static int32_t *random_indices(Check *check, int count, int below) {
  int32_t *out = NEW(&check->arena, int32_t, count);
  for (int i = 0; i < count; i++) out[i] = check_size(check, 0, below - 1);
  return out;
}

static EmbeddingCase new_embedding(Check *check, int rows, int hidden, int vocab, int positions) {
  EmbeddingCase c = {.check = check};
  c.forward = (Embedding){.tokens = random_indices(check, rows, vocab),
                          .positions = random_indices(check, rows, positions),
                          .rows = rows,
                          .hidden = hidden,
                          .vocab = vocab,
                          .max_positions = positions,
                          .token_table = check_random(check, (size_t)vocab * hidden),
                          .position_table = check_random(check, (size_t)positions * hidden),
                          .out = check_output(check, (size_t)rows * hidden)};
  c.dtoken0 = check_random(check, (size_t)vocab * hidden);
  c.dposition0 = check_random(check, (size_t)positions * hidden);
  c.dtoken = check_output(check, (size_t)vocab * hidden);
  c.dposition = check_output(check, (size_t)positions * hidden);
  c.backward = (EmbeddingBackward){.tokens = c.forward.tokens,
                                   .positions = c.forward.positions,
                                   .rows = rows,
                                   .hidden = hidden,
                                   .vocab = vocab,
                                   .max_positions = positions,
                                   .dout = check_random(check, (size_t)rows * hidden),
                                   .dtoken_table = c.dtoken,
                                   .dposition_table = c.dposition};
  return c;
}

static void reset_embedding(void *context) {
  EmbeddingCase *c = context;
  memcpy(c->dtoken, c->dtoken0, (size_t)c->forward.vocab * c->forward.hidden * sizeof(float));
  memcpy(c->dposition, c->dposition0, (size_t)c->forward.max_positions * c->forward.hidden * sizeof(float));
}

static void run_embedding_backward(void *context) {
  EmbeddingCase *c = context;
  c->check->backend->embedding_backward(c->check->backend, &c->backward);
}

static void check_table_gradient(const EmbeddingCase *c, const char *what, const int32_t *index, int entries,
                                 const float *before, const float *after) {
  size_t hidden = (size_t)c->forward.hidden;
  double *want = NEW(&c->check->arena, double, entries *hidden);
  const float *dout = c->backward.dout;
  for (size_t i = 0; i < entries * hidden; i++) want[i] = before[i];
  for (int r = 0; r < c->forward.rows; r++)
    for (size_t i = 0; i < hidden; i++) want[index[r] * hidden + i] += dout[r * hidden + i];
  check_close(c->check, what, after, want, entries * hidden, 1e-5);
}

static void embedding_adds_the_rows_of_both_tables(void **state) {
  (void)state;
  Check check;
  check_begin(&check, "embedding");
  for (int i = 0; i < 30; i++) {
    int rows = i < 2 ? i : check_size(&check, 0, 200), hidden = check_size(&check, 1, 60);
    EmbeddingCase c =
        new_embedding(&check, rows, hidden, check_size(&check, 1, 40), check_size(&check, 1, 30));
    Embedding op = c.forward;
    if (i % 3 == 0) op.position_table = NULL;
    check.backend->embedding(check.backend, &op);
    const float *token = op.token_table, *position = op.position_table, *out = op.out;
    for (int r = 0; r < rows; r++)
      for (int h = 0; h < hidden; h++) {
        float want = token[op.tokens[r] * hidden + h];
        if (position) want += position[op.positions[r] * hidden + h];
        assert_true(out[r * hidden + h] == want);
      }
    reset_embedding(&c);
    run_embedding_backward(&c);
    check_table_gradient(&c, "dtoken", op.tokens, op.vocab, c.dtoken0, c.dtoken);
    check_table_gradient(&c, "dposition", op.positions, op.max_positions, c.dposition0, c.dposition);
  }
  check_end(&check);
}

static void embedding_gradients_are_optional_and_repeatable(void **state) {
  (void)state;
  Check check;
  check_begin(&check, "embedding threads");
  EmbeddingCase c = new_embedding(&check, 1500, 40, 50, 60);
  size_t tokens = 50 * 40, positions = 60 * 40;
  check_threads(&check, "dtoken", run_embedding_backward, &c, reset_embedding, c.dtoken, tokens);
  check_threads(&check, "dposition", run_embedding_backward, &c, reset_embedding, c.dposition, positions);
  float *dtoken = check_floats(&check, check_doubles(&check, tokens, 0), tokens);
  memcpy(dtoken, c.dtoken, tokens * sizeof *dtoken);
  reset_embedding(&c);
  c.backward.dposition_table = NULL;
  run_embedding_backward(&c);
  check_same(&check, "dtoken", c.dtoken, dtoken, tokens);
  check_same(&check, "dposition", c.dposition, c.dposition0, positions);
  c.backward.dtoken_table = NULL;
  run_embedding_backward(&c);
  check_same(&check, "dtoken", c.dtoken, dtoken, tokens);
  check_end(&check);
}

/* Llama 3.1's scaling by wavelengths, as transformers writes it. */
static double scaled(const RopeScaling *s, double frequency) {
  double wavelength = 2 * M_PI / frequency, context = (double)s->context, low = (double)s->low,
         high = (double)s->high;
  if (s->factor == 0 || wavelength < context / high) return frequency;
  if (wavelength > context / low) return frequency / (double)s->factor;
  double smooth = (context / wavelength - low) / (high - low);
  return (1 - smooth) * frequency / (double)s->factor + smooth * frequency;
}

static void check_rope(Check *check, Rope op) {
  size_t stride = (size_t)(op.heads + 2 * op.kv_heads) * op.head_dim, count = op.rows * stride;
  double *before = check_doubles(check, count, 1), *want = NEW(&check->arena, double, count);
  memcpy(want, before, count * sizeof *want);
  int half = op.head_dim / 2;
  for (int r = 0; r < op.rows; r++)
    for (int h = 0; h < op.heads + op.kv_heads; h++)
      for (int i = 0; i < half; i++) {
        double angle = (op.first_position + op.positions[r]) * scaled(&op.scaling, pow((double)op.theta, -2.0 * i / op.head_dim));
        if (op.inverse) angle = -angle;
        size_t a = r * stride + (size_t)h * op.head_dim + i, b = a + half;
        want[a] = before[a] * cos(angle) - before[b] * sin(angle);
        want[b] = before[a] * sin(angle) + before[b] * cos(angle);
      }
  float *qkv = check_floats(check, before, count);
  op.qkv = qkv;
  check->backend->rope(check->backend, &op);
  check_close(check, "qkv", qkv, want, count, 1e-6);
  op.inverse = !op.inverse;
  check->backend->rope(check->backend, &op);
  check_close(check, "turned back", qkv, before, count, 1e-6);
}

static void rope_turns_queries_and_keys_but_not_values(void **state) {
  (void)state;
  Check check;
  check_begin(&check, "rope");
  for (int i = 0; i < 30; i++) {
    int rows = i < 2 ? i : check_size(&check, 0, 90), kv_heads = check_size(&check, 1, 3);
    /* few positions for many rows (a batch), or large ones for few rows (a decode step) */
    int32_t *positions = random_indices(&check, rows, i % 2 ? 20 : 5000);
    Rope op = {.positions = positions,
               .first_position = i % 3 * 11,
               .rows = rows,
               .heads = kv_heads * check_size(&check, 1, 3),
               .kv_heads = kv_heads,
               .head_dim = 2 * check_size(&check, 1, 33),
               .theta = i % 3 ? 10000 : 1000000,
               .inverse = check_size(&check, 0, 1)};
    check_rope(&check, op);
    op.scaling = (RopeScaling){.factor = 8, .low = 1, .high = 4, .context = i % 2 ? 32 : 8192};
    check_rope(&check, op);
  }
  check_end(&check);
}

typedef struct ActivationCase {
  Check *check;
  ActivationKind kind;
  int rows, width;
  size_t inputs, outputs;
  double *x, *dy, *y;
  float *xf, *dyf, *yf, *dx;
} ActivationCase;

static ActivationCase new_activation(Check *check, ActivationKind kind, int rows, int width) {
  ActivationCase c = {.check = check, .kind = kind, .rows = rows, .width = width};
  c.outputs = (size_t)rows * width;
  c.inputs = c.outputs * (kind == ACTIVATION_SWIGLU ? 2 : 1);
  c.x = check_doubles(check, c.inputs, 5), c.xf = check_floats(check, c.x, c.inputs);
  c.dy = check_doubles(check, c.outputs, 1), c.dyf = check_floats(check, c.dy, c.outputs);
  c.y = NEW(&check->arena, double, c.outputs);
  c.yf = check_output(check, c.outputs), c.dx = check_output(check, c.inputs);
  return c;
}

static double activation_reference(void *context) {
  ActivationCase *c = context;
  double loss = 0;
  for (int r = 0; r < c->rows; r++)
    for (int i = 0; i < c->width; i++) {
      size_t at = (size_t)r * c->width + i;
      if (c->kind == ACTIVATION_GELU) {
        double x = c->x[at];
        c->y[at] = 0.5 * x * (1 + tanh(sqrt(2 / 3.14159265358979324) * (x + 0.044715 * x * x * x)));
      } else {
        double gate = c->x[(size_t)r * 2 * c->width + i], up = c->x[(size_t)r * 2 * c->width + c->width + i];
        c->y[at] = gate / (1 + exp(-gate)) * up;
      }
      loss += c->y[at] * c->dy[at];
    }
  return loss;
}

static void run_activation(void *context) {
  ActivationCase *c = context;
  Activation op = {.kind = c->kind, .x = c->xf, .y = c->yf, .rows = c->rows, .width = c->width};
  c->check->backend->activation(c->check->backend, &op);
}

static void run_activation_backward(void *context) {
  ActivationCase *c = context;
  ActivationBackward op = {
      .kind = c->kind, .x = c->xf, .dy = c->dyf, .dx = c->dx, .rows = c->rows, .width = c->width};
  c->check->backend->activation_backward(c->check->backend, &op);
}

static void activations_and_their_gradients_equal_the_reference(void **state) {
  (void)state;
  Check check;
  check_begin(&check, "activation");
  for (int kind = ACTIVATION_GELU; kind <= ACTIVATION_SWIGLU; kind++)
    for (int i = 0; i < 20; i++) {
      ActivationCase c =
          new_activation(&check, kind, i < 2 ? i : check_size(&check, 0, 40), check_size(&check, 1, 70));
      run_activation(&c);
      activation_reference(&c);
      check_close(&check, "y", c.yf, c.y, c.outputs, 1e-6);
      run_activation_backward(&c);
      check_gradient(&check, "dx", activation_reference, &c, c.x, c.dx, c.inputs, 1e-5);
    }
  check_end(&check);
}

static void gelu_keeps_the_ends_of_the_range(void **state) {
  (void)state;
  Check check;
  check_begin(&check, "gelu range");
  ActivationCase c = new_activation(&check, ACTIVATION_GELU, 1, 4);
  const float ends[] = {-1e4f, 1e4f, -30, 30}, want[] = {0, 1e4f, 0, 30}, slope[] = {0, 1, 0, 1};
  memcpy(c.xf, ends, sizeof ends);
  run_activation(&c);
  for (int i = 0; i < 4; i++) c.dyf[i] = 1;
  run_activation_backward(&c);
  for (int i = 0; i < 4; i++) assert_true(c.yf[i] == want[i] && c.dx[i] == slope[i]);
  check_end(&check);
}

static void activations_have_the_same_bits_on_any_number_of_threads_and_in_place(void **state) {
  (void)state;
  Check check;
  check_begin(&check, "activation threads");
  for (int kind = ACTIVATION_GELU; kind <= ACTIVATION_SWIGLU; kind++) {
    ActivationCase c = new_activation(&check, kind, 211, 307);
    check_threads(&check, "y", run_activation, &c, NULL, c.yf, c.outputs);
    check_threads(&check, "dx", run_activation_backward, &c, NULL, c.dx, c.inputs);
    if (kind != ACTIVATION_GELU) continue;
    float *dx = c.dx;
    c.dx = c.dyf;
    run_activation_backward(&c);
    check_same(&check, "dx in place", c.dyf, dx, c.inputs);
  }
  check_end(&check);
}

static void gathered_rows_come_back_by_scatter(void **state) {
  (void)state;
  Check check;
  check_begin(&check, "rows");
  for (int i = 0; i < 30; i++) {
    int total = check_size(&check, 0, 900), rows = i == 0 ? 0 : check_size(&check, 0, total);
    int cols = check_size(&check, 1, 70);
    size_t all = (size_t)total * cols, some = (size_t)rows * cols;
    int32_t *index = check_permutation(&check, total);
    float *src = check_random(&check, all), *addend = i % 2 ? check_random(&check, all) : NULL;
    float *dst = check_output(&check, some), *back = check_output(&check, all);
    GatherRows gather = {
        .src = src, .addend = addend, .index = index, .dst = dst, .rows = rows, .cols = cols};
    check.backend->gather_rows(check.backend, &gather);
    ScatterRows scatter = {
        .src = dst, .index = index, .dst = back, .rows = rows, .dst_rows = total, .cols = cols};
    check.backend->scatter_rows(check.backend, &scatter);
    float *want = NEW(&check.arena, float, all);
    for (int r = 0; r < rows; r++)
      for (int c = 0; c < cols; c++) {
        size_t at = (size_t)index[r] * cols + c;
        want[at] = addend ? src[at] + addend[at] : src[at];
        assert_true(dst[(size_t)r * cols + c] == want[at]);
      }
    check_same(&check, "scattered", back, want, all);
  }
  check_end(&check);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(fast_exp_is_within_two_units_in_the_last_place),
      cmocka_unit_test(embedding_adds_the_rows_of_both_tables),
      cmocka_unit_test(embedding_gradients_are_optional_and_repeatable),
      cmocka_unit_test(rope_turns_queries_and_keys_but_not_values),
      cmocka_unit_test(activations_and_their_gradients_equal_the_reference),
      cmocka_unit_test(gelu_keeps_the_ends_of_the_range),
      cmocka_unit_test(activations_have_the_same_bits_on_any_number_of_threads_and_in_place),
      cmocka_unit_test(gathered_rows_come_back_by_scatter),
  };
  return cmocka_run_group_tests_name("cpu dense", tests, NULL, NULL);
}

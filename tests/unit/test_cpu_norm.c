#include "gradcheck.h"

enum { NORMS = 2 };

/* A norm and a random linear function of its outputs: loss = y . wy + sum . ws */
typedef struct Case {
  Check *check;
  NormKind kind;
  int rows, hidden;
  double *x, *residual, *gain, *bias, *wy, *ws; /* residual, bias may be NULL */
  double *y, *sum;                              /* of the reference */
  float *xf, *residualf, *gainf, *biasf, *wyf, *wsf;
  float *sumf, *yf, *mean, *rstd, *dx, *dgain, *dbias;
} Case;

static const double epsilon = 1e-5;

static Case new_case(Check *check, NormKind kind, int rows, int hidden, bool residual, bool bias) {
  Case c = {.check = check, .kind = kind, .rows = rows, .hidden = hidden};
  size_t count = (size_t)rows * hidden, h = (size_t)hidden;
  c.x = check_doubles(check, count, 2), c.xf = check_floats(check, c.x, count);
  c.residual = residual ? check_doubles(check, count, 1) : NULL;
  c.residualf = residual ? check_floats(check, c.residual, count) : NULL;
  c.gain = check_doubles(check, h, 1), c.gainf = check_floats(check, c.gain, h);
  c.bias = bias ? check_doubles(check, h, 1) : NULL;
  c.biasf = bias ? check_floats(check, c.bias, h) : NULL;
  c.wy = check_doubles(check, count, 1), c.wyf = check_floats(check, c.wy, count);
  c.ws = check_doubles(check, count, 1), c.wsf = check_floats(check, c.ws, count);
  c.y = NEW(&check->arena, double, count), c.sum = NEW(&check->arena, double, count);
  c.sumf = check_output(check, count), c.yf = check_output(check, count);
  c.mean = kind == NORM_LAYER ? check_output(check, rows) : NULL, c.rstd = check_output(check, rows);
  c.dx = check_output(check, count), c.dgain = check_output(check, h), c.dbias = check_output(check, h);
  return c;
}

static double reference(void *context) {
  Case *c = context;
  double loss = 0;
  for (int r = 0; r < c->rows; r++) {
    size_t at = (size_t)r * c->hidden;
    double mean = 0, variance = 0;
    for (int i = 0; i < c->hidden; i++) {
      c->sum[at + i] = c->x[at + i] + (c->residual ? c->residual[at + i] : 0);
      mean += c->sum[at + i] / c->hidden;
    }
    if (c->kind == NORM_RMS) mean = 0;
    for (int i = 0; i < c->hidden; i++) variance += pow(c->sum[at + i] - mean, 2) / c->hidden;
    for (int i = 0; i < c->hidden; i++) {
      double n = (c->sum[at + i] - mean) / sqrt(variance + epsilon);
      c->y[at + i] = n * c->gain[i] + (c->bias ? c->bias[i] : 0);
      loss += c->y[at + i] * c->wy[at + i] + c->sum[at + i] * c->ws[at + i];
    }
  }
  return loss;
}

static Norm forward_of(const Case *c) {
  return (Norm){.kind = c->kind,
                .x = c->xf,
                .residual = c->residualf,
                .sum = c->sumf,
                .y = c->yf,
                .mean = c->mean,
                .rstd = c->rstd,
                .gain = c->gainf,
                .bias = c->biasf,
                .rows = c->rows,
                .hidden = c->hidden,
                .epsilon = (float)epsilon};
}

static NormBackward backward_of(const Case *c) {
  return (NormBackward){.kind = c->kind,
                        .sum = c->sumf,
                        .dy = c->wyf,
                        .dresidual = c->wsf,
                        .mean = c->mean,
                        .rstd = c->rstd,
                        .gain = c->gainf,
                        .dx = c->dx,
                        .dgain = c->dgain,
                        .dbias = c->biasf ? c->dbias : NULL,
                        .rows = c->rows,
                        .hidden = c->hidden};
}

static void run_forward(void *context) {
  Norm op = forward_of(context);
  ((Case *)context)->check->backend->norm(((Case *)context)->check->backend, &op);
}

static void run_backward(void *context) {
  NormBackward op = backward_of(context);
  ((Case *)context)->check->backend->norm_backward(((Case *)context)->check->backend, &op);
}

static void clear_gradients(void *context) {
  Case *c = context;
  for (int i = 0; i < c->hidden; i++) c->dgain[i] = c->dbias[i] = 0;
}

static void check_case(Case *c) {
  size_t count = (size_t)c->rows * c->hidden;
  run_forward(c);
  reference(c);
  check_close(c->check, "sum", c->sumf, c->sum, count, 1e-6);
  check_close(c->check, "y", c->yf, c->y, count, 1e-5);
  clear_gradients(c);
  run_backward(c);
  check_gradient(c->check, "dx", reference, c, c->x, c->dx, count, 1e-4);
  check_gradient(c->check, "dgain", reference, c, c->gain, c->dgain, (size_t)c->hidden, 1e-4);
  if (c->bias) check_gradient(c->check, "dbias", reference, c, c->bias, c->dbias, (size_t)c->hidden, 1e-4);
}

static void norm_and_its_gradients_equal_the_reference(void **state) {
  (void)state;
  Check check;
  check_begin(&check, "norm");
  static const int edges[][2] = {{0, 8}, {1, 1}, {1, 2}, {64, 3}, {65, 17}, {2, 769}};
  for (int kind = 0; kind < NORMS; kind++) {
    for (size_t e = 0; e < sizeof edges / sizeof *edges; e++) {
      Case c = new_case(&check, kind, edges[e][0], edges[e][1], e & 1, kind == NORM_LAYER);
      check_case(&c);
    }
    for (int i = 0; i < 12; i++) {
      Case c = new_case(&check, kind, check_size(&check, 1, 70), check_size(&check, 1, 40),
                        check_size(&check, 0, 1), kind == NORM_LAYER && check_size(&check, 0, 1));
      check_case(&c);
    }
  }
  check_end(&check);
}

static void norm_does_not_need_its_optional_outputs(void **state) {
  (void)state;
  Check check;
  check_begin(&check, "norm outputs");
  for (int kind = 0; kind < NORMS; kind++) {
    Case c = new_case(&check, kind, 13, 37, false, false);
    size_t count = (size_t)c.rows * c.hidden;
    run_forward(&c);
    float *y = check_output(&check, count);
    Norm op = forward_of(&c);
    op.sum = NULL, op.mean = op.rstd = NULL, op.y = y;
    check.backend->norm(check.backend, &op);
    check_same(&check, "y", y, c.yf, count);

    clear_gradients(&c);
    run_backward(&c);
    float *dgain = NEW(&check.arena, float, c.hidden), *untouched = check_output(&check, count);
    NormBackward back = backward_of(&c);
    back.dx = NULL, back.dgain = dgain;
    check.backend->norm_backward(check.backend, &back);
    check_same(&check, "dgain", dgain, c.dgain, (size_t)c.hidden);
    back.dx = untouched, back.dgain = NULL;
    check.backend->norm_backward(check.backend, &back);
    check_same(&check, "dx", untouched, c.dx, count);
  }
  check_end(&check);
}

static void norm_may_work_in_place(void **state) {
  (void)state;
  Check check;
  check_begin(&check, "norm in place");
  for (int kind = 0; kind < NORMS; kind++) {
    Case c = new_case(&check, kind, 70, 33, true, false);
    size_t count = (size_t)c.rows * c.hidden;
    run_forward(&c);
    clear_gradients(&c);
    run_backward(&c);
    float *sum = check_floats(&check, c.x, count), *y = check_output(&check, count);
    Norm op = forward_of(&c);
    op.x = op.sum = sum, op.y = y;
    check.backend->norm(check.backend, &op);
    check_same(&check, "sum", sum, c.sumf, count);
    check_same(&check, "y", y, c.yf, count);
    float *dx = check_floats(&check, c.ws, count);
    NormBackward back = backward_of(&c);
    back.dx = dx, back.dresidual = dx;
    check.backend->norm_backward(check.backend, &back);
    check_same(&check, "dx", dx, c.dx, count);
    back.dresidual = NULL; /* none is the same as zeros */
    check.backend->norm_backward(check.backend, &back);
    double *want = NEW(&check.arena, double, count);
    for (size_t i = 0; i < count; i++) want[i] = c.dx[i] - c.ws[i];
    check_close(&check, "dx without dresidual", dx, want, count, 1e-5);
  }
  check_end(&check);
}

static void parameter_gradients_of_the_norm_accumulate(void **state) {
  (void)state;
  Check check;
  check_begin(&check, "norm accumulation");
  Case c = new_case(&check, NORM_LAYER, 9, 5, false, true);
  run_forward(&c);
  clear_gradients(&c);
  run_backward(&c);
  double dgain[5], dbias[5];
  for (int i = 0; i < 5; i++) dgain[i] = 2 * c.dgain[i], dbias[i] = 2 * c.dbias[i];
  run_backward(&c);
  check_close(&check, "dgain", c.dgain, dgain, 5, 1e-6);
  check_close(&check, "dbias", c.dbias, dbias, 5, 1e-6);
  check_end(&check);
}

/* mean(x^2) - mean^2 would have no digit left here */
static void layer_norm_keeps_its_digits_far_from_zero(void **state) {
  (void)state;
  Check check;
  check_begin(&check, "norm offset");
  Case c = new_case(&check, NORM_LAYER, 4, 128, false, false);
  for (size_t i = 0; i < 4 * 128; i++) c.xf[i] = (float)(c.x[i] + 10000), c.x[i] = c.xf[i];
  run_forward(&c);
  reference(&c);
  check_close(&check, "y", c.yf, c.y, 4 * 128, 2e-3);
  check_end(&check);
}

static void norm_has_the_same_bits_on_any_number_of_threads(void **state) {
  (void)state;
  Check check;
  check_begin(&check, "norm threads");
  for (int kind = 0; kind < NORMS; kind++) {
    Case c = new_case(&check, kind, 301, 191, true, true);
    size_t count = (size_t)c.rows * c.hidden;
    check_threads(&check, "y", run_forward, &c, NULL, c.yf, count);
    check_threads(&check, "dx", run_backward, &c, clear_gradients, c.dx, count);
    check_threads(&check, "dgain", run_backward, &c, clear_gradients, c.dgain, (size_t)c.hidden);
    check_threads(&check, "dbias", run_backward, &c, clear_gradients, c.dbias, (size_t)c.hidden);
  }
  check_end(&check);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(norm_and_its_gradients_equal_the_reference),
      cmocka_unit_test(norm_does_not_need_its_optional_outputs),
      cmocka_unit_test(norm_may_work_in_place),
      cmocka_unit_test(parameter_gradients_of_the_norm_accumulate),
      cmocka_unit_test(layer_norm_keeps_its_digits_far_from_zero),
      cmocka_unit_test(norm_has_the_same_bits_on_any_number_of_threads),
  };
  return cmocka_run_group_tests_name("cpu norm", tests, NULL, NULL);
}

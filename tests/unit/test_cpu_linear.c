#include "gradcheck.h"

typedef struct Case {
  Check *check;
  int rows, in, out;
  double *x, *w, *b, *y0, *dy; /* what the reference reads */
  float *xf, *wf, *bf, *y0f, *dyf;
  float *dx, *dw, *db; /* the backend's gradients */
  float *dx0, *dw0, *db0;
} Case;

static Case new_case(Check *check, int rows, int in, int out) {
  Case c = {.check = check, .rows = rows, .in = in, .out = out};
  size_t nx = (size_t)rows * in, nw = (size_t)out * in, ny = (size_t)rows * out;
  c.x = check_doubles(check, nx, 1), c.w = check_doubles(check, nw, 1);
  c.b = check_doubles(check, out, 1), c.y0 = check_doubles(check, ny, 1);
  c.dy = check_doubles(check, ny, 1);
  c.xf = check_floats(check, c.x, nx), c.wf = check_floats(check, c.w, nw);
  c.bf = check_floats(check, c.b, out), c.y0f = check_floats(check, c.y0, ny);
  c.dyf = check_floats(check, c.dy, ny);
  c.dx0 = check_random(check, nx);
  c.dw0 = check_random(check, nw);
  c.db0 = check_random(check, out);
  c.dx = check_output(check, nx), c.dw = check_output(check, nw), c.db = check_output(check, out);
  return c;
}

static Linear linear_of(const Case *c, bool bias, bool accumulate, float *y) {
  return (Linear){.x = c->xf,
                  .weight = c->wf,
                  .bias = bias ? c->bf : NULL,
                  .y = y,
                  .rows = c->rows,
                  .in = c->in,
                  .out = c->out,
                  .accumulate = accumulate};
}

static void check_forward(const Case *c, bool bias, bool accumulate) {
  size_t count = (size_t)c->rows * c->out;
  double *want = NEW(&c->check->arena, double, count);
  for (int r = 0; r < c->rows; r++)
    for (int o = 0; o < c->out; o++) {
      double sum = (bias ? c->b[o] : 0) + (accumulate ? c->y0[(size_t)r * c->out + o] : 0);
      for (int i = 0; i < c->in; i++) sum += c->x[(size_t)r * c->in + i] * c->w[(size_t)o * c->in + i];
      want[(size_t)r * c->out + o] = sum;
    }
  float *y = check_output(c->check, count);
  if (accumulate) memcpy(y, c->y0f, count * sizeof *y);
  Linear op = linear_of(c, bias, accumulate, y);
  c->check->backend->linear(c->check->backend, &op);
  check_close(c->check, "y", y, want, count, 1e-5);
}

/* Sizes around the edges of panels, blocks and the depth of a panel, and random ones. */
static void linear_equals_the_plain_product(void **state) {
  (void)state;
  static const int edges[][3] = {{0, 5, 3},     {3, 0, 4},    {3, 4, 0},     {1, 1, 1},      {1, 7, 65},
                                 {16, 16, 16},  {17, 31, 9},  {33, 64, 257}, {48, 511, 8},   {49, 513, 13},
                                 {97, 1030, 7}, {500, 3, 71}, {2, 64, 300},  {392, 20, 261}, {32, 512, 1}};
  Check check;
  check_begin(&check, "linear");
  for (size_t e = 0; e < sizeof edges / sizeof *edges; e++)
    for (int flags = 0; flags < 4; flags++) {
      Case c = new_case(&check, edges[e][0], edges[e][1], edges[e][2]);
      check_forward(&c, flags & 1, flags & 2);
    }
  for (int i = 0; i < 40; i++) {
    Case c =
        new_case(&check, check_size(&check, 1, 120), check_size(&check, 1, 90), check_size(&check, 1, 90));
    check_forward(&c, check_size(&check, 0, 1), check_size(&check, 0, 1));
  }
  check_end(&check);
}

/* Sampling is reproducible only if the other samples of a decode step cannot change a row's bits. */
static void linear_of_a_row_does_not_depend_on_the_other_rows(void **state) {
  (void)state;
  static const int shapes[][2] = {{64, 192}, {96, 7}, {768, 100}, {1100, 257}, {3, 1}};
  Check check;
  check_begin(&check, "linear rows");
  for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
    Case c = new_case(&check, 400, shapes[s][0], shapes[s][1]);
    float *all = check_output(&check, (size_t)c.rows * c.out);
    Linear op = linear_of(&c, true, false, all);
    check.backend->linear(check.backend, &op);
    for (int i = 0; i < 40; i++) {
      int rows = i < 20 ? i + 1 : check_size(&check, 1, 200), first = check_size(&check, 0, 400 - rows);
      float *some = check_output(&check, (size_t)rows * c.out);
      op.rows = rows;
      op.x = c.xf + (size_t)first * c.in;
      op.y = some;
      check.backend->linear(check.backend, &op);
      check_same(&check, "row", some, all + (size_t)first * c.out, (size_t)rows * c.out);
    }
  }
  check_end(&check);
}

static void reset_gradients(void *context) {
  Case *c = context;
  memcpy(c->dx, c->dx0, (size_t)c->rows * c->in * sizeof *c->dx);
  memcpy(c->dw, c->dw0, (size_t)c->out * c->in * sizeof *c->dw);
  memcpy(c->db, c->db0, (size_t)c->out * sizeof *c->db);
}

static LinearBackward backward_of(const Case *c, bool accumulate) {
  return (LinearBackward){.x = c->xf,
                          .weight = c->wf,
                          .dy = c->dyf,
                          .dx = c->dx,
                          .dweight = c->dw,
                          .dbias = c->db,
                          .rows = c->rows,
                          .in = c->in,
                          .out = c->out,
                          .accumulate = accumulate};
}

static void check_backward(Case *c, bool accumulate) {
  size_t nx = (size_t)c->rows * c->in, nw = (size_t)c->out * c->in;
  double *dx = NEW(&c->check->arena, double, nx), *dw = NEW(&c->check->arena, double, nw),
         *db = NEW(&c->check->arena, double, c->out);
  for (size_t i = 0; i < nx; i++) dx[i] = accumulate ? c->dx0[i] : 0;
  for (size_t i = 0; i < nw; i++) dw[i] = c->dw0[i];
  for (int o = 0; o < c->out; o++) db[o] = c->db0[o];
  for (int r = 0; r < c->rows; r++)
    for (int o = 0; o < c->out; o++) {
      double g = c->dy[(size_t)r * c->out + o];
      db[o] += g;
      for (int i = 0; i < c->in; i++) {
        dx[(size_t)r * c->in + i] += g * c->w[(size_t)o * c->in + i];
        dw[(size_t)o * c->in + i] += g * c->x[(size_t)r * c->in + i];
      }
    }
  reset_gradients(c);
  LinearBackward op = backward_of(c, accumulate);
  c->check->backend->linear_backward(c->check->backend, &op);
  check_close(c->check, "dx", c->dx, dx, nx, 1e-5);
  check_close(c->check, "dweight", c->dw, dw, nw, 1e-5);
  check_close(c->check, "dbias", c->db, db, (size_t)c->out, 1e-5);
}

static void linear_backward_equals_the_plain_products(void **state) {
  (void)state;
  static const int edges[][3] = {{0, 5, 3},     {3, 0, 4},     {3, 4, 0},     {1, 1, 1},     {1300, 9, 17},
                                 {257, 385, 5}, {5, 385, 257}, {513, 64, 64}, {700, 3, 130}, {2, 400, 300}};
  Check check;
  check_begin(&check, "linear backward");
  for (size_t e = 0; e < sizeof edges / sizeof *edges; e++)
    for (int accumulate = 0; accumulate < 2; accumulate++) {
      Case c = new_case(&check, edges[e][0], edges[e][1], edges[e][2]);
      check_backward(&c, accumulate);
    }
  for (int i = 0; i < 30; i++) {
    Case c =
        new_case(&check, check_size(&check, 1, 300), check_size(&check, 1, 70), check_size(&check, 1, 70));
    check_backward(&c, check_size(&check, 0, 1));
  }
  check_end(&check);
}

static void linear_backward_computes_only_what_is_asked(void **state) {
  (void)state;
  Check check;
  check_begin(&check, "linear backward outputs");
  Case c = new_case(&check, 700, 40, 30);
  size_t nx = (size_t)c.rows * c.in, nw = (size_t)c.out * c.in;
  LinearBackward all = backward_of(&c, false);
  reset_gradients(&c);
  check.backend->linear_backward(check.backend, &all);
  float *dx = NEW(&check.arena, float, nx), *dw = NEW(&check.arena, float, nw);
  float *db = NEW(&check.arena, float, c.out);
  memcpy(dx, c.dx, nx * sizeof *dx), memcpy(dw, c.dw, nw * sizeof *dw);
  memcpy(db, c.db, (size_t)c.out * sizeof *db);
  for (int which = 0; which < 8; which++) {
    LinearBackward op = all;
    if (!(which & 1)) op.dx = NULL, op.weight = NULL;
    if (!(which & 2)) op.dweight = NULL, op.x = NULL;
    if (!(which & 4)) op.dbias = NULL;
    reset_gradients(&c);
    check.backend->linear_backward(check.backend, &op);
    check_same(&check, "dx", c.dx, op.dx ? dx : c.dx0, nx);
    check_same(&check, "dweight", c.dw, op.dweight ? dw : c.dw0, nw);
    check_same(&check, "dbias", c.db, op.dbias ? db : c.db0, (size_t)c.out);
  }
  check_end(&check);
}

static void run_linear(void *context) {
  Case *c = context;
  Linear op = linear_of(c, true, false, c->y0f);
  c->check->backend->linear(c->check->backend, &op);
}

static void run_backward(void *context) {
  Case *c = context;
  LinearBackward op = backward_of(c, true);
  c->check->backend->linear_backward(c->check->backend, &op);
}

static void linear_has_the_same_bits_on_any_number_of_threads(void **state) {
  (void)state;
  Check check;
  check_begin(&check, "linear threads");
  static const int shapes[][3] = {{3000, 64, 64}, {700, 300, 500}, {5, 600, 700}};
  for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
    Case c = new_case(&check, shapes[s][0], shapes[s][1], shapes[s][2]);
    check_threads(&check, "y", run_linear, &c, NULL, c.y0f, (size_t)c.rows * c.out);
    check_threads(&check, "dx", run_backward, &c, reset_gradients, c.dx, (size_t)c.rows * c.in);
    check_threads(&check, "dweight", run_backward, &c, reset_gradients, c.dw, (size_t)c.out * c.in);
    check_threads(&check, "dbias", run_backward, &c, reset_gradients, c.db, (size_t)c.out);
  }
  check_end(&check);
}

/* A slice of wider rows, as an adapter of the query heads alone has. Halving is exact. */
static void strided_and_scaled_products_are_those_of_dense_rows(void **state) {
  (void)state;
  Check check;
  check_begin(&check, "strides");
  for (int round = 0; round < 20; round++) {
    int left = check_size(&check, 0, 5), right = check_size(&check, 0, 5);
    Case c =
        new_case(&check, check_size(&check, 1, 70), check_size(&check, 1, 40), check_size(&check, 1, 40));
    int stride = left + c.out + right;
    size_t count = (size_t)c.rows * c.out, wide_count = (size_t)c.rows * stride;
    float *dense = check_output(&check, count), *picked = check_output(&check, count);
    float *wide = check_output(&check, wide_count);
    Linear forward = linear_of(&c, false, false, dense);
    check.backend->linear(check.backend, &forward);
    forward.y = wide + left, forward.y_stride = stride, forward.scale = 0.5f;
    check.backend->linear(check.backend, &forward);
    for (int r = 0; r < c.rows; r++)
      for (int o = 0; o < stride; o++) {
        float y = wide[(size_t)r * stride + o];
        if (o < left || o >= left + c.out) {
          assert_true(isnan(y));
          wide[(size_t)r * stride + o] = 1e9f; /* what the backward pass must not read */
        } else {
          picked[(size_t)r * c.out + o - left] = 2 * y;
          wide[(size_t)r * stride + o] = c.dyf[(size_t)r * c.out + o - left];
        }
      }
    check_same(&check, "y", picked, dense, count);
    LinearBackward backward = backward_of(&c, false);
    for (int pass = 0; pass < 2; pass++) {
      memset(c.dw, 0, sizeof(float) * (size_t)c.out * c.in);
      memset(c.db, 0, sizeof(float) * (size_t)c.out);
      float *dx = check_output(&check, (size_t)c.rows * c.in),
            *dw = check_output(&check, (size_t)c.out * c.in);
      check.backend->linear_backward(check.backend, &backward);
      if (pass == 0) {
        memcpy(c.dx0, c.dx, sizeof(float) * (size_t)c.rows * c.in);
        memcpy(c.dw0, c.dw, sizeof(float) * (size_t)c.out * c.in);
        memcpy(c.db0, c.db, sizeof(float) * (size_t)c.out);
        backward.dy = wide + left, backward.dy_stride = stride, backward.scale = 0.5f;
        continue;
      }
      for (int i = 0; i < c.rows * c.in; i++) dx[i] = 2 * c.dx[i];
      for (int i = 0; i < c.out * c.in; i++) dw[i] = 2 * c.dw[i];
      check_same(&check, "dx", dx, c.dx0, (size_t)c.rows * c.in);
      check_same(&check, "dw", dw, c.dw0, (size_t)c.out * c.in);
      check_same(&check, "db", c.db, c.db0, c.out);
    }
  }
  check_end(&check);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(strided_and_scaled_products_are_those_of_dense_rows),
      cmocka_unit_test(linear_equals_the_plain_product),
      cmocka_unit_test(linear_of_a_row_does_not_depend_on_the_other_rows),
      cmocka_unit_test(linear_backward_equals_the_plain_products),
      cmocka_unit_test(linear_backward_computes_only_what_is_asked),
      cmocka_unit_test(linear_has_the_same_bits_on_any_number_of_threads),
  };
  return cmocka_run_group_tests_name("cpu linear", tests, NULL, NULL);
}

#include "gradcheck.h"

/* QkNorm and a random linear function of what it leaves: loss = qkv . w */
typedef struct Case {
  int rows, heads, kv_heads, dim;
  double *qkv, *w, *q_gain, *k_gain;
  double *out; /* of the reference */
  float *qkvf, *wf, *q_gainf, *k_gainf, *kept, *rstd, *dq_gain, *dk_gain;
} Case;

static const double epsilon = 1e-6;

static size_t width_of(const Case *c) { return (size_t)(c->heads + 2 * c->kv_heads) * (size_t)c->dim; }

static Case new_case(Check *check, int rows, int heads, int kv_heads, int dim) {
  Case c = {.rows = rows, .heads = heads, .kv_heads = kv_heads, .dim = dim};
  size_t d = (size_t)dim, normed = (size_t)rows * (size_t)(heads + kv_heads), count = rows * width_of(&c);
  c.qkv = check_doubles(check, count, 2), c.qkvf = check_floats(check, c.qkv, count);
  c.w = check_doubles(check, count, 1), c.wf = check_floats(check, c.w, count);
  c.q_gain = check_doubles(check, d, 1), c.q_gainf = check_floats(check, c.q_gain, d);
  c.k_gain = check_doubles(check, d, 1), c.k_gainf = check_floats(check, c.k_gain, d);
  c.out = NEW(&check->arena, double, count);
  c.kept = check_output(check, normed * d), c.rstd = check_output(check, normed);
  c.dq_gain = check_output(check, d), c.dk_gain = check_output(check, d);
  return c;
}

static double reference(void *context) {
  Case *c = context;
  double loss = 0;
  for (int r = 0; r < c->rows; r++)
    for (int h = 0; h < c->heads + 2 * c->kv_heads; h++) {
      size_t at = r * width_of(c) + (size_t)(h * c->dim);
      double square = 0;
      for (int i = 0; i < c->dim; i++) square += c->qkv[at + i] * c->qkv[at + i] / c->dim;
      for (int i = 0; i < c->dim; i++) {
        double gain = h < c->heads ? c->q_gain[i] : c->k_gain[i];
        bool value = h >= c->heads + c->kv_heads;
        c->out[at + i] = value ? c->qkv[at + i] : c->qkv[at + i] / sqrt(square + epsilon) * gain;
        loss += c->out[at + i] * c->w[at + i];
      }
    }
  return loss;
}

static QkNorm forward_of(const Case *c, bool training) {
  return (QkNorm){.qkv = c->qkvf,
                  .kept = training ? c->kept : NULL,
                  .rstd = training ? c->rstd : NULL,
                  .q_gain = c->q_gainf,
                  .k_gain = c->k_gainf,
                  .rows = c->rows,
                  .heads = c->heads,
                  .kv_heads = c->kv_heads,
                  .head_dim = c->dim,
                  .epsilon = (float)epsilon};
}

static QkNormBackward backward_of(const Case *c, bool gains) {
  return (QkNormBackward){.dqkv = c->wf,
                          .kept = c->kept,
                          .rstd = c->rstd,
                          .q_gain = c->q_gainf,
                          .k_gain = c->k_gainf,
                          .dq_gain = gains ? c->dq_gain : NULL,
                          .dk_gain = gains ? c->dk_gain : NULL,
                          .rows = c->rows,
                          .heads = c->heads,
                          .kv_heads = c->kv_heads,
                          .head_dim = c->dim};
}

static void each_head_has_its_own_norm_and_values_none(void **state) {
  (void)state;
  Check check;
  check_begin(&check, "qk_norm");
  for (int run = 0; run < 30; run++) {
    int kv = check_size(&check, 1, 3), dim = 8 * check_size(&check, 1, run % 5 == 0 ? 32 : 4);
    Case c =
        new_case(&check, check_size(&check, 0, run == 29 ? 300 : 9), kv * check_size(&check, 1, 4), kv, dim);
    size_t count = c.rows * width_of(&c), d = (size_t)dim;
    reference(&c);
    float *kept = NEW(&check.arena, float, count + 1), *twin = NEW(&check.arena, float, count + 1);
    memcpy(kept, c.qkvf, count * sizeof *kept), memcpy(twin, c.qkvf, count * sizeof *kept);
    check.backend->qk_norm(check.backend, &(QkNorm){.qkv = twin,
                                                    .q_gain = c.q_gainf,
                                                    .k_gain = c.k_gainf,
                                                    .rows = c.rows,
                                                    .heads = c.heads,
                                                    .kv_heads = c.kv_heads,
                                                    .head_dim = dim,
                                                    .epsilon = (float)epsilon});
    QkNorm forward = forward_of(&c, true);
    check.backend->qk_norm(check.backend, &forward);
    check_close(&check, "y", c.qkvf, c.out, count, 1e-6);
    check_same(&check, "without backward", twin, c.qkvf, count);
    for (int r = 0; r < c.rows; r++) /* what stood there is kept */
      check_same(&check, "kept", c.kept + (size_t)r * (size_t)(c.heads + kv) * d, kept + r * width_of(&c),
                 (size_t)(c.heads + kv) * d);
    for (size_t i = 0; i < d; i++) c.dq_gain[i] = c.dk_gain[i] = 3;
    QkNormBackward backward = backward_of(&c, true);
    check.backend->qk_norm_backward(check.backend, &backward);
    for (size_t i = 0; i < d; i++) c.dq_gain[i] -= 3, c.dk_gain[i] -= 3; /* they are accumulated */
    check_gradient(&check, "dqkv", reference, &c, c.qkv, c.wf, count, 1e-4);
    check_gradient(&check, "dq_gain", reference, &c, c.q_gain, c.dq_gain, d, 2e-4);
    check_gradient(&check, "dk_gain", reference, &c, c.k_gain, c.dk_gain, d, 2e-4);
  }
  check_end(&check);
}

typedef struct Run {
  Check *check;
  Case *c;
  float *w; /* the gradient before the backward pass */
} Run;

static void reset(void *context) {
  Run *run = context;
  memcpy(run->c->wf, run->w, run->c->rows * width_of(run->c) * sizeof(float));
  memset(run->c->dq_gain, 0, (size_t)run->c->dim * sizeof(float));
  memset(run->c->dk_gain, 0, (size_t)run->c->dim * sizeof(float));
}

static void run_backward(void *context) {
  Run *run = context;
  QkNormBackward backward = backward_of(run->c, true);
  run->check->backend->qk_norm_backward(run->check->backend, &backward);
}

static void threads_give_the_same_bits_and_frozen_gains_are_left_out(void **state) {
  (void)state;
  Check check;
  check_begin(&check, "qk_norm_threads");
  Case c = new_case(&check, 517, 6, 2, 64);
  size_t count = c.rows * width_of(&c);
  QkNorm forward = forward_of(&c, true);
  check.backend->qk_norm(check.backend, &forward);
  Run run = {&check, &c, NEW(&check.arena, float, count)};
  memcpy(run.w, c.wf, count * sizeof(float));
  check_threads(&check, "dk_gain", run_backward, &run, reset, c.dk_gain, (size_t)c.dim);
  check_threads(&check, "dqkv", run_backward, &run, reset, c.wf, count);
  float *with = NEW(&check.arena, float, count);
  memcpy(with, c.wf, count * sizeof(float));
  reset(&run);
  QkNormBackward frozen = backward_of(&c, false);
  check.backend->qk_norm_backward(check.backend, &frozen);
  check_same(&check, "dqkv", c.wf, with, count);
  check_end(&check);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(each_head_has_its_own_norm_and_values_none),
      cmocka_unit_test(threads_give_the_same_bits_and_frozen_gains_are_left_out),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

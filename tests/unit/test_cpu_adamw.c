/* AdamW and the gradient norm of the CPU backend. */
#include "gradcheck.h"

typedef struct Case {
  Check *check;
  size_t count;
  AdamW op;
  double *master, *m, *v, *grad; /* of the reference */
  float *masterf, *mf, *vf, *gradf, *copy, *master0;
  float norm;
} Case;

static Case new_case(Check *check, size_t count) {
  Case c = {.check = check, .count = count};
  c.master = check_doubles(check, count, 1), c.m = check_doubles(check, count, 0.1);
  c.v = check_doubles(check, count, 0.1), c.grad = check_doubles(check, count, 1);
  for (size_t i = 0; i < count; i++) c.v[i] = fabs(c.v[i]);
  c.masterf = check_floats(check, c.master, count), c.master0 = check_floats(check, c.master, count);
  c.mf = check_floats(check, c.m, count), c.vf = check_floats(check, c.v, count);
  c.gradf = check_floats(check, c.grad, count), c.copy = check_output(check, count);
  c.op = (AdamW){.master = c.masterf,
                 .m = c.mf,
                 .v = c.vf,
                 .grad = c.gradf,
                 .copy = c.copy,
                 .count = count,
                 .decay_count = count / 3,
                 .lr = 1e-2f,
                 .beta1 = 0.9f,
                 .beta2 = 0.999f,
                 .epsilon = 1e-8f,
                 .weight_decay = 0.1f,
                 .step = 3};
  return c;
}

/* The published form: bias corrections on their own, decay by lr * weight_decay. */
static void reference(Case *c) {
  const AdamW *op = &c->op;
  double beta1 = (double)op->beta1, beta2 = (double)op->beta2, clip = 1;
  if (op->norm && op->max_norm > 0) clip = fmin(1, op->max_norm / (*op->norm + 1e-6));
  for (size_t i = 0; i < c->count; i++) {
    double g = c->grad[i] * clip;
    c->m[i] = beta1 * c->m[i] + (1 - beta1) * g;
    c->v[i] = beta2 * c->v[i] + (1 - beta2) * g * g;
    double m_hat = c->m[i] / (1 - pow(beta1, op->step)), v_hat = c->v[i] / (1 - pow(beta2, op->step));
    double decay = i < op->decay_count ? op->weight_decay : 0;
    c->master[i] -= op->lr * (m_hat / (sqrt(v_hat) + op->epsilon) + decay * c->master[i]);
  }
}

static void run_adamw(void *context) {
  Case *c = context;
  c->check->backend->adamw(c->check->backend, &c->op);
}

static void check_update(Case *c) {
  run_adamw(c);
  reference(c);
  check_close(c->check, "master", c->masterf, c->master, c->count, 1e-6);
  check_close(c->check, "m", c->mf, c->m, c->count, 1e-6);
  check_close(c->check, "v", c->vf, c->v, c->count, 1e-6);
  check_same(c->check, "copy", c->copy, c->masterf, c->count);
}

static void adamw_equals_the_published_update(void **state) {
  (void)state;
  Check check;
  check_begin(&check, "adamw");
  static const size_t counts[] = {0, 1, 2, 17, 4096, 4097, 20011};
  for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
    for (int step = 1; step <= 1000; step *= 10) {
      Case c = new_case(&check, counts[i]);
      c.op.step = step;
      c.op.decay_count = step == 1    ? 0
                         : step == 10 ? counts[i]
                                      : (size_t)check_size(&check, 0, (int)counts[i]);
      check_update(&c);
    }
  check_end(&check);
}

static void gradients_are_scaled_down_to_the_largest_norm_but_never_up(void **state) {
  (void)state;
  Check check;
  check_begin(&check, "clipping");
  for (int i = 0; i < 4; i++) {
    Case c = new_case(&check, 999);
    c.norm = i < 2 ? 18.5f : 0.25f;
    c.op.norm = &c.norm;
    c.op.max_norm = i % 2; /* 0: no clipping */
    check_update(&c);
  }
  check_end(&check);
}

static void a_gradient_that_is_not_finite_changes_nothing(void **state) {
  (void)state;
  Check check;
  check_begin(&check, "not finite");
  const float norms[] = {NAN, INFINITY};
  for (int i = 0; i < 2; i++) {
    Case c = new_case(&check, 100);
    float *m = check_floats(&check, c.m, 100), *v = check_floats(&check, c.v, 100);
    c.norm = norms[i];
    c.op.norm = &c.norm;
    run_adamw(&c);
    check_same(&check, "master", c.masterf, c.master0, 100);
    check_same(&check, "m", c.mf, m, 100);
    check_same(&check, "v", c.vf, v, 100);
  }
  check_end(&check);
}

static void reset_adamw(void *context) {
  Case *c = context;
  memcpy(c->masterf, c->master0, c->count * sizeof *c->masterf);
  for (size_t i = 0; i < c->count; i++) c->mf[i] = (float)c->m[i], c->vf[i] = (float)c->v[i];
}

static void run_norm(void *context) {
  Case *c = context;
  GradNorm op = {.grad = c->gradf, .count = c->count, .norm = &c->norm};
  c->check->backend->grad_norm(c->check->backend, &op);
}

static void grad_norm_is_the_root_of_the_sum_of_squares(void **state) {
  (void)state;
  Check check;
  check_begin(&check, "grad norm");
  static const size_t counts[] = {0, 1, 31, 4095, 4097, 100003};
  for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
    Case c = new_case(&check, counts[i]);
    double sum = 0;
    for (size_t j = 0; j < c.count; j++) sum += c.grad[j] * c.grad[j];
    double want = sqrt(sum);
    run_norm(&c);
    check_close(&check, "norm", &c.norm, &want, 1, 1e-7);
  }
  Case c = new_case(&check, 3);
  const float others[] = {2, 3, 6};
  GradNorm op = {.norm = &c.norm, .others = others, .other_count = 3};
  check.backend->grad_norm(check.backend, &op);
  assert_true(c.norm == 7);
  c.gradf[0] = 24, c.gradf[1] = c.gradf[2] = 0;
  op.grad = c.gradf, op.count = 3;
  check.backend->grad_norm(check.backend, &op);
  assert_true(c.norm == 25);
  c.gradf[1] = 1e30f; /* its square is beyond fp32 */
  run_norm(&c);
  assert_true(c.norm == 1e30f);
  c.gradf[2] = NAN;
  run_norm(&c);
  assert_true(isnan(c.norm));
  check_end(&check);
}

static void optimizer_has_the_same_bits_on_any_number_of_threads(void **state) {
  (void)state;
  Check check;
  check_begin(&check, "optimizer threads");
  Case c = new_case(&check, 70001);
  check_threads(&check, "norm", run_norm, &c, NULL, &c.norm, 1);
  check_threads(&check, "master", run_adamw, &c, reset_adamw, c.masterf, c.count);
  check_end(&check);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(adamw_equals_the_published_update),
      cmocka_unit_test(gradients_are_scaled_down_to_the_largest_norm_but_never_up),
      cmocka_unit_test(a_gradient_that_is_not_finite_changes_nothing),
      cmocka_unit_test(grad_norm_is_the_root_of_the_sum_of_squares),
      cmocka_unit_test(optimizer_has_the_same_bits_on_any_number_of_threads),
  };
  return cmocka_run_group_tests_name("cpu adamw", tests, NULL, NULL);
}

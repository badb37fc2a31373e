/* The scalar head and the fused reward head on the CPU against double-precision references. */
#include "gradcheck.h"

typedef struct Case {
  int rows, size, all; /* rows of hidden in all */
  int32_t *row;
  double *hidden, *weight, *bias, *dout, *margin;
  float *hidden32, *weight32, *bias32, *dout32, *margin32;
  float *out, *loss, *dhidden, *dweight, *dbias, *before;
  double smoothing, scale;
  Backend *backend;
} Case;

static Case make_case(Check *c, int rows, int size, double scale) {
  Case k = {.rows = rows, .size = size, .all = rows + check_size(c, 0, 5), .backend = c->backend};
  size_t h = (size_t)k.all * size, r = (size_t)rows, s = (size_t)size;
  k.row = check_size(c, 0, 1) ? check_permutation(c, k.all) : NULL;
  k.hidden = check_doubles(c, h, scale), k.hidden32 = check_floats(c, k.hidden, h);
  k.weight = check_doubles(c, s, 1), k.weight32 = check_floats(c, k.weight, s);
  k.bias = check_doubles(c, 1, 1), k.bias32 = check_floats(c, k.bias, 1);
  k.dout = check_doubles(c, r, 1), k.dout32 = check_floats(c, k.dout, r);
  k.margin = check_size(c, 0, 1) ? check_doubles(c, r, 1) : NULL;
  k.margin32 = k.margin ? check_floats(c, k.margin, r) : NULL;
  k.out = check_output(c, r), k.loss = check_output(c, r), k.dhidden = check_output(c, h);
  k.dweight = check_output(c, s), k.dbias = check_output(c, 1);
  k.before = check_random(c, h + s + 1); /* what is added to */
  k.smoothing = (float)(check_uniform(c) * 0.3), k.scale = (float)(0.1 + check_uniform(c));
  return k;
}

static void reset(void *context) {
  Case *k = context;
  memcpy(k->dweight, k->before, (size_t)k->size * sizeof(float));
  memcpy(k->dbias, k->before + k->size, sizeof(float));
  memcpy(k->dhidden, k->before + k->size + 1, (size_t)k->all * k->size * sizeof(float));
}

static double head_of(const Case *k, int i) {
  double sum = k->bias[0];
  for (int c = 0; c < k->size; c++) sum += k->hidden[(k->row ? k->row[i] : i) * k->size + c] * k->weight[c];
  return sum;
}

static double scalar_loss(void *context) {
  Case *k = context;
  double loss = 0;
  for (int i = 0; i < k->rows; i++) loss += head_of(k, i) * k->dout[i];
  return loss;
}

static double log_sigmoid(double x) { return fmin(x, 0) - log1p(exp(-fabs(x))); }

static double pair_loss(const Case *k, int i) {
  double d = head_of(k, 2 * i) - head_of(k, 2 * i + 1) - (k->margin ? k->margin[i] : 0);
  return -(1 - k->smoothing) * log_sigmoid(d) - k->smoothing * log_sigmoid(-d);
}

static double reward_loss(void *context) {
  Case *k = context;
  double loss = 0;
  for (int i = 0; i < k->rows / 2; i++) loss += k->scale * pair_loss(k, i);
  return loss;
}

static ScalarHeadBackward backward_of(const Case *k, bool accumulate) {
  return (ScalarHeadBackward){.hidden = k->hidden32,
                              .row = k->row,
                              .weight = k->weight32,
                              .dout = k->dout32,
                              .dhidden = k->dhidden,
                              .accumulate = accumulate,
                              .dweight = k->dweight,
                              .dbias = k->dbias,
                              .rows = k->rows,
                              .hidden_size = k->size};
}

static void run_scalar(void *context) {
  Case *k = context;
  Backend *b = k->backend;
  b->scalar_head(b, &(ScalarHead){k->hidden32, k->row, k->weight32, k->bias32, k->out, k->rows, k->size});
  ScalarHeadBackward backward = backward_of(k, false);
  b->scalar_head_backward(b, &backward);
}

static void run_reward(void *context) {
  Case *k = context;
  k->backend->reward_head(k->backend, &(RewardHead){.hidden = k->hidden32,
                                                    .row = k->row,
                                                    .weight = k->weight32,
                                                    .bias = k->bias32,
                                                    .margin = k->margin32,
                                                    .smoothing = (float)k->smoothing,
                                                    .scale = (float)k->scale,
                                                    .reward = k->out,
                                                    .loss = k->loss,
                                                    .dhidden = k->dhidden,
                                                    .dweight = k->dweight,
                                                    .dbias = k->dbias,
                                                    .pairs = k->rows / 2,
                                                    .hidden_size = k->size});
}

/* dweight and dbias less what was there before; dhidden 0 where no row is named, and untouched there */
static void check_gradients(Check *c, Case *k, double (*loss)(void *)) {
  size_t h = (size_t)k->all * k->size;
  const float *hidden_before = k->before + k->size + 1;
  float *dweight = NEW(&c->arena, float, k->size), dbias = k->dbias[0] - k->before[k->size];
  float *dhidden = NEW(&c->arena, float, h);
  for (int i = 0; i < k->size; i++) dweight[i] = k->dweight[i] - k->before[i];
  bool *named = NEW(&c->arena, bool, k->all);
  for (int i = 0; i < k->rows; i++) named[k->row ? k->row[i] : i] = true;
  for (int i = 0; i < k->all; i++)
    if (named[i])
      memcpy(dhidden + (size_t)i * k->size, k->dhidden + (size_t)i * k->size,
             (size_t)k->size * sizeof(float));
    else
      check_same(c, "dhidden of other rows", k->dhidden + (size_t)i * k->size,
                 hidden_before + (size_t)i * k->size, (size_t)k->size);
  check_gradient(c, "dweight", loss, k, k->weight, dweight, (size_t)k->size, 1e-4);
  check_gradient(c, "dbias", loss, k, k->bias, &dbias, 1, 1e-4);
  check_gradient(c, "dhidden", loss, k, k->hidden, dhidden, h, 1e-4);
}

static void scalar_head_matches_the_reference_and_its_gradients(void **state) {
  (void)state;
  Check c;
  check_begin(&c, "scalar_head");
  for (int round = 0; round < 20; round++) {
    Case k = make_case(&c, check_size(&c, 0, 40), check_size(&c, 1, 131), 1);
    reset(&k);
    run_scalar(&k);
    double *want = NEW(&c.arena, double, k.rows);
    for (int i = 0; i < k.rows; i++) want[i] = head_of(&k, i);
    check_close(&c, "out", k.out, want, (size_t)k.rows, 1e-5);
    check_gradients(&c, &k, scalar_loss);
  }
  check_end(&c);
}

static void scalar_head_adds_to_dhidden_when_told(void **state) {
  (void)state;
  Check c;
  check_begin(&c, "scalar_head accumulate");
  Case k = make_case(&c, 17, 70, 1);
  reset(&k);
  ScalarHeadBackward backward = backward_of(&k, true);
  k.backend->scalar_head_backward(k.backend, &backward);
  const float *before = k.before + k.size + 1;
  for (int i = 0; i < k.rows; i++)
    for (int j = 0; j < k.size; j++) {
      size_t at = (size_t)(k.row ? k.row[i] : i) * k.size + j;
      assert_true(fabs(k.dhidden[at] - (before[at] + k.dout[i] * k.weight[j])) < 1e-6);
    }
  check_end(&c);
}

static void reward_head_matches_the_pairwise_loss_and_its_gradients(void **state) {
  (void)state;
  Check c;
  check_begin(&c, "reward_head");
  for (int round = 0; round < 20; round++) {
    Case k = make_case(&c, 2 * check_size(&c, 0, 20), check_size(&c, 1, 131), 1);
    reset(&k);
    run_reward(&k);
    double *reward = NEW(&c.arena, double, k.rows), *loss = NEW(&c.arena, double, k.rows);
    for (int i = 0; i < k.rows; i++) reward[i] = head_of(&k, i);
    for (int i = 0; i < k.rows / 2; i++) loss[i] = pair_loss(&k, i);
    check_close(&c, "reward", k.out, reward, (size_t)k.rows, 1e-5);
    check_close(&c, "loss", k.loss, loss, (size_t)k.rows / 2, 1e-5);
    check_gradients(&c, &k, reward_loss);
  }
  check_end(&c);
}

static void without_dhidden_nothing_but_reward_and_loss_is_written(void **state) {
  (void)state;
  Check c;
  check_begin(&c, "reward_head forward");
  Case k = make_case(&c, 8, 33, 1);
  reset(&k);
  k.dhidden = NULL;
  run_reward(&k);
  check_same(&c, "dweight", k.dweight, k.before, 33);
  check_same(&c, "dbias", k.dbias, k.before + 33, 1);
  assert_true(isfinite(k.loss[3]));
  check_end(&c);
}

static void large_differences_give_no_nan(void **state) {
  (void)state;
  Check c;
  check_begin(&c, "reward_head large");
  Case k = make_case(&c, 30, 16, 1e4);
  reset(&k);
  run_reward(&k);
  double *loss = NEW(&c.arena, double, 15);
  for (int i = 0; i < 15; i++) loss[i] = pair_loss(&k, i);
  check_close(&c, "loss", k.loss, loss, 15, 1e-5);
  for (int i = 0; i < 16; i++) assert_true(isfinite(k.dweight[i]));
  check_end(&c);
}

static void threads_change_no_bit(void **state) {
  (void)state;
  Check c;
  check_begin(&c, "heads threads");
  Case k = make_case(&c, 300, 200, 1);
  void (*const runs[])(void *) = {run_scalar, run_reward};
  for (int i = 0; i < 2; i++) {
    check_threads(&c, "out", runs[i], &k, reset, k.out, 300);
    check_threads(&c, "dweight", runs[i], &k, reset, k.dweight, 200);
    check_threads(&c, "dbias", runs[i], &k, reset, k.dbias, 1);
    check_threads(&c, "dhidden", runs[i], &k, reset, k.dhidden, (size_t)k.all * 200);
  }
  check_end(&c);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(scalar_head_matches_the_reference_and_its_gradients),
      cmocka_unit_test(scalar_head_adds_to_dhidden_when_told),
      cmocka_unit_test(reward_head_matches_the_pairwise_loss_and_its_gradients),
      cmocka_unit_test(without_dhidden_nothing_but_reward_and_loss_is_written),
      cmocka_unit_test(large_differences_give_no_nan),
      cmocka_unit_test(threads_change_no_bit),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

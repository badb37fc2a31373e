/* The vocabulary's softmax on the CPU against a double-precision reference. */
#include "gradcheck.h"

typedef struct Case {
  int rows, size, vocab;
  int32_t *targets;
  double *hidden, *weight, *dlogprob, *dentropy;
  float *hidden32, *weight32, *dlogprob32, *dentropy32, *before;
  float *logprob, *entropy, *logprob2, *dhidden, *dweight;
  Backend *backend;
} Case;

static Case make_case(Check *c, int rows, int size, int vocab, double scale) {
  Case k = {.rows = rows, .size = size, .vocab = vocab, .backend = c->backend};
  size_t h = (size_t)rows * size, w = (size_t)vocab * size, r = (size_t)rows;
  k.targets = NEW(&c->arena, int32_t, rows);
  for (int i = 0; i < rows; i++) k.targets[i] = check_size(c, 0, vocab - 1);
  k.hidden = check_doubles(c, h, scale), k.hidden32 = check_floats(c, k.hidden, h);
  k.weight = check_doubles(c, w, 1), k.weight32 = check_floats(c, k.weight, w);
  k.dlogprob = check_doubles(c, r, 1), k.dlogprob32 = check_floats(c, k.dlogprob, r);
  k.dentropy = check_doubles(c, r, 1), k.dentropy32 = check_floats(c, k.dentropy, r);
  k.logprob = check_output(c, r), k.entropy = check_output(c, r), k.logprob2 = check_output(c, r);
  k.dhidden = check_output(c, h), k.dweight = check_output(c, w);
  k.before = check_random(c, w); /* what dweight is added to */
  return k;
}

static void reset(void *context) {
  Case *k = context;
  memcpy(k->dweight, k->before, (size_t)k->vocab * k->size * sizeof *k->dweight);
}

static void run(void *context) {
  Case *k = context;
  Backend *b = k->backend;
  b->vocab(b, &(Vocab){k->hidden32, k->weight32, k->targets, k->logprob, k->entropy, k->rows, k->size,
                       k->vocab, WEIGHT_NATIVE});
  b->vocab_backward(b, &(VocabBackward){k->hidden32, k->weight32, k->targets, k->dlogprob32,
                                        k->dentropy ? k->dentropy32 : NULL, k->logprob2, k->dhidden,
                                        k->dweight, k->rows, k->size, k->vocab, WEIGHT_NATIVE});
}

static void reference_row(const Case *k, int r, double *logprob, double *entropy) {
  double *z = malloc((size_t)k->vocab * sizeof *z), top = -INFINITY, sum = 0, weighted = 0;
  for (int v = 0; v < k->vocab; v++) {
    z[v] = 0;
    for (int c = 0; c < k->size; c++) z[v] += k->hidden[r * k->size + c] * k->weight[v * k->size + c];
    top = fmax(top, z[v]);
  }
  for (int v = 0; v < k->vocab; v++) {
    sum += exp(z[v] - top);
    weighted += exp(z[v] - top) * (z[v] - top);
  }
  *logprob = z[k->targets[r]] - top - log(sum);
  *entropy = log(sum) - weighted / sum;
  free(z);
}

static double reference_loss(void *context) {
  Case *k = context;
  double loss = 0;
  for (int r = 0; r < k->rows; r++) {
    double logprob, entropy;
    reference_row(k, r, &logprob, &entropy);
    loss += k->dlogprob[r] * logprob + (k->dentropy ? k->dentropy[r] * entropy : 0);
  }
  return loss;
}

static void check_case(Check *c, Case *k) {
  reset(k);
  run(k);
  double *logprob = NEW(&c->arena, double, k->rows), *entropy = NEW(&c->arena, double, k->rows);
  for (int r = 0; r < k->rows; r++) reference_row(k, r, &logprob[r], &entropy[r]);
  check_close(c, "logprob", k->logprob, logprob, (size_t)k->rows, 1e-5);
  check_close(c, "logprob of the backward pass", k->logprob2, logprob, (size_t)k->rows, 1e-5);
  check_close(c, "entropy", k->entropy, entropy, (size_t)k->rows, 1e-5);
  size_t w = (size_t)k->vocab * k->size;
  float *added = NEW(&c->arena, float, w);
  for (size_t i = 0; i < w; i++) added[i] = k->dweight[i] - k->before[i];
  check_gradient(c, "dhidden", reference_loss, k, k->hidden, k->dhidden, (size_t)k->rows * k->size, 2e-4);
  check_gradient(c, "dweight", reference_loss, k, k->weight, added, w, 2e-4);
}

static void random_shapes_match_the_reference_and_its_gradients(void **state) {
  (void)state;
  Check c;
  check_begin(&c, "vocab");
  for (int round = 0; round < 10; round++) {
    Case k = make_case(&c, check_size(&c, 0, 23), check_size(&c, 1, 19), check_size(&c, 1, 300), 2);
    if (round % 2) k.dentropy = NULL;
    check_case(&c, &k);
  }
  check_end(&c);
}

/* More rows than a chunk holds: every chunk's part must arrive. */
static void many_chunks_equal_one_row_at_a_time(void **state) {
  (void)state;
  Check c;
  check_begin(&c, "vocab chunks");
  Case k = make_case(&c, 1000, 8, 4099, 1);
  reset(&k);
  run(&k);
  Case one = k;
  float *dhidden = check_output(&c, 1000 * 8), *logprob = check_output(&c, 1000);
  one.dweight = NEW(&c.arena, float, 4099 * 8);
  one.rows = 1;
  double *sum = NEW(&c.arena, double, 4099 * 8), *dhidden64 = NEW(&c.arena, double, 1000 * 8),
         *logprob64 = NEW(&c.arena, double, 1000);
  memcpy(one.dweight, k.before, (size_t)4099 * 8 * sizeof(float));
  for (int r = 0; r < 1000; r++) {
    one.hidden32 = k.hidden32 + r * 8, one.targets = k.targets + r, one.dlogprob32 = k.dlogprob32 + r;
    one.dentropy32 = k.dentropy32 + r, one.dhidden = dhidden + r * 8, one.logprob2 = logprob + r;
    if (r % 100 == 0 || (r > 940 && r < 980))
      run(&one); /* a chunk ends at 960 */
    else
      continue;
    for (int i = 0; i < 8; i++) dhidden64[r * 8 + i] = dhidden[r * 8 + i];
    logprob64[r] = logprob[r];
    check_close(&c, "dhidden", k.dhidden + r * 8, dhidden64 + r * 8, 8, 1e-4);
    check_close(&c, "logprob", k.logprob2 + r, logprob64 + r, 1, 1e-5);
  }
  /* dweight by its own sum: over all v, the columns of dlogits sum to dlogprob - dlogprob = 0 for each row */
  for (int i = 0; i < 8; i++)
    for (int v = 0; v < 4099; v++) sum[i] += (double)k.dweight[v * 8 + i] - k.before[v * 8 + i];
  for (int i = 0; i < 8; i++) assert_true(fabs(sum[i]) < 1e-2);
  check_end(&c);
}

static void large_logits_give_no_nan(void **state) {
  (void)state;
  Check c;
  check_begin(&c, "vocab large");
  Case k = make_case(&c, 13, 4, 517, 1e4);
  check_case(&c, &k);
  check_end(&c);
}

static void threads_change_no_bit(void **state) {
  (void)state;
  Check c;
  check_begin(&c, "vocab threads");
  Case k = make_case(&c, 600, 64, 1500, 1);
  check_threads(&c, "logprob", run, &k, reset, k.logprob, 600);
  check_threads(&c, "dhidden", run, &k, reset, k.dhidden, 600 * 64);
  check_threads(&c, "dweight", run, &k, reset, k.dweight, 1500 * 64);
  check_end(&c);
}

static void a_row_of_logits_has_the_same_bits_alone(void **state) {
  (void)state;
  Check c;
  check_begin(&c, "vocab_logits");
  static const int sizes[] = {64, 256, 768, 1000};
  for (int s = 0; s < 4; s++) {
    int size = sizes[s], vocab = 613, rows = 37;
    Case k = make_case(&c, rows, size, vocab, 1);
    float *logits = check_output(&c, (size_t)rows * vocab), *alone = check_output(&c, (size_t)vocab);
    Backend *b = c.backend;
    b->vocab_logits(b, &(VocabLogits){k.hidden32, k.weight32, logits, rows, size, vocab, WEIGHT_NATIVE});
    for (int r = 0; r < rows; r++) {
      b->vocab_logits(
          b, &(VocabLogits){k.hidden32 + (size_t)r * size, k.weight32, alone, 1, size, vocab, WEIGHT_NATIVE});
      check_same(&c, "logits", alone, logits + (size_t)r * vocab, (size_t)vocab);
    }
    for (int r = 0; r < rows; r++) {
      double z = 0;
      for (int i = 0; i < size; i++) z += k.hidden[r * size + i] * k.weight[k.targets[r] * size + i];
      assert_true(fabs(logits[(size_t)r * vocab + k.targets[r]] - z) < 1e-4);
    }
  }
  check_end(&c);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(random_shapes_match_the_reference_and_its_gradients),
      cmocka_unit_test(many_chunks_equal_one_row_at_a_time),
      cmocka_unit_test(large_logits_give_no_nan),
      cmocka_unit_test(threads_change_no_bit),
      cmocka_unit_test(a_row_of_logits_has_the_same_bits_alone),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

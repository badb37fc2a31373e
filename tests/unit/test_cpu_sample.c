/* Sampling on the CPU against a plain sort, and its statistics. */
#include "gradcheck.h"

typedef struct Draw {
  Sample op;
  Backend *backend;
  float *logits; /* kept; op.logits is overwritten */
} Draw;

static Draw make_draw(Check *c, int rows, int vocab, float temperature, float top_p, int top_k,
                      double scale) {
  Draw d = {.backend = c->backend};
  size_t n = (size_t)rows * vocab;
  d.logits = check_floats(c, check_doubles(c, n, scale), n);
  int32_t *sample = NEW(&c->arena, int32_t, rows), *position = NEW(&c->arena, int32_t, rows);
  RandomKey *key = NEW(&c->arena, RandomKey, 1);
  *key = (RandomKey){check_size(c, 0, 1 << 30), RANDOM_TEST, 3};
  for (int i = 0; i < rows; i++) sample[i] = i * 7 + 1, position[i] = i % 5;
  d.op = (Sample){.logits = check_output(c, n),
                  .rows = rows,
                  .vocab = vocab,
                  .temperature = temperature,
                  .top_p = top_p,
                  .top_k = top_k,
                  .key = key,
                  .sample = sample,
                  .position = position,
                  .token = NEW(&c->arena, int32_t, rows),
                  .logprob = check_output(c, (size_t)rows)};
  return d;
}

static void run(void *context) {
  Draw *d = context;
  memcpy(d->op.logits, d->logits, (size_t)d->op.rows * d->op.vocab * sizeof(float));
  d->backend->sample(d->backend, &d->op);
}

/* The distribution by sorting: p[vocab]; 0 outside of the nucleus. */
typedef struct Ranked {
  double p;
  int id;
} Ranked;

static int by_rank(const void *a, const void *b) {
  const Ranked *x = a, *y = b;
  return x->p != y->p ? (x->p < y->p ? 1 : -1) : x->id - y->id;
}

static void reference(const Sample *s, const float *logits, double *p) {
  Ranked *r = malloc((size_t)s->vocab * sizeof *r);
  double top = -INFINITY, total = 0, taken = 0, kept = 0;
  for (int j = 0; j < s->vocab; j++) top = fmax(top, logits[j]);
  for (int j = 0; j < s->vocab; j++) r[j] = (Ranked){exp((logits[j] - top) / s->temperature), j};
  qsort(r, (size_t)s->vocab, sizeof *r, by_rank);
  int count = s->top_k > 0 && s->top_k < s->vocab ? s->top_k : s->vocab;
  for (int i = 0; i < count; i++) total += r[i].p;
  for (int j = 0; j < s->vocab; j++) p[j] = 0;
  for (int i = 0; i < count && (s->top_p >= 1 || taken < total * s->top_p); i++) {
    p[r[i].id] = r[i].p;
    kept += r[i].p;
    taken += r[i].p;
  }
  for (int j = 0; j < s->vocab; j++) p[j] /= kept;
  free(r);
}

static void tokens_and_logprobs_follow_the_sorted_reference(void **state) {
  (void)state;
  static const float top_ps[] = {1, 0.7f, 0.95f, 0.1f};
  Check c;
  check_begin(&c, "sample");
  for (int round = 0; round < 60; round++) {
    int vocab = check_size(&c, 1, round % 2 ? 600 : 20);
    Draw d = make_draw(&c, check_size(&c, 0, 9), vocab, round % 3 ? 0.8f : 1.5f, top_ps[round % 4],
                       check_size(&c, 0, 1) ? check_size(&c, 1, vocab + 3) : 0, 6);
    run(&d);
    double *p = NEW(&c.arena, double, vocab);
    for (int i = 0; i < d.op.rows; i++) {
      reference(&d.op, d.logits + (size_t)i * vocab, p);
      Random4 r = philox(*d.op.key, (uint32_t)d.op.sample[i], (uint32_t)d.op.position[i]);
      double u = ((double)r.v[0] + (double)r.v[1] * 0x1p-32) * 0x1p-32, sum = 0;
      int want = -1;
      for (int j = 0; j < vocab && want < 0; j++)
        if (p[j] > 0 && (sum += p[j]) > u) want = j;
      assert_int_equal(d.op.token[i], want);
      assert_true(fabs(d.op.logprob[i] - log(p[want])) < 1e-5);
    }
  }
  check_end(&c);
}

/* Draws many times from one row of logits; returns the counts. */
static int *histogram(Check *c, const float *logits, int vocab, float temperature, float top_p, int top_k,
                      int draws) {
  Draw d = make_draw(c, draws, vocab, temperature, top_p, top_k, 1);
  int *count = NEW(&c->arena, int, vocab);
  for (int i = 0; i < draws; i++)
    memcpy(d.logits + (size_t)i * vocab, logits, (size_t)vocab * sizeof *logits);
  run(&d);
  for (int i = 0; i < draws; i++) count[d.op.token[i]]++;
  return count;
}

static void frequencies_pass_a_chi_square_test(void **state) {
  (void)state;
  enum { VOCAB = 12, DRAWS = 40000 };
  Check c;
  check_begin(&c, "sample frequencies");
  for (int round = 0; round < 3; round++) {
    double *x = check_doubles(&c, VOCAB, 2), p[VOCAB], chi = 0;
    float *logits = check_floats(&c, x, VOCAB);
    Sample s = {
        .vocab = VOCAB, .temperature = 1.3f, .top_p = round == 1 ? 0.8f : 1, .top_k = round == 2 ? 5 : 0};
    reference(&s, logits, p);
    int *count = histogram(&c, logits, VOCAB, s.temperature, s.top_p, s.top_k, DRAWS), freedom = -1;
    for (int j = 0; j < VOCAB; j++) {
      if (p[j] == 0) {
        assert_int_equal(count[j], 0);
        continue;
      }
      freedom++;
      chi += (count[j] - DRAWS * p[j]) * (count[j] - DRAWS * p[j]) / (DRAWS * p[j]);
    }
    assert_true(chi < freedom + 5 * sqrt(2.0 * freedom) + 5); /* about five standard deviations */
  }
  check_end(&c);
}

/* Probabilities in powers of two are exact, so the nucleus is known exactly, ties included. */
static void the_nucleus_is_the_smallest_set_and_ties_go_to_the_lower_id(void **state) {
  (void)state;
  Check c;
  check_begin(&c, "sample nucleus");
  const float quarter[] = {0, 0, 0, 0}; /* p = 1/4 each: top_p = 1/2 is exactly two of them */
  int *count = histogram(&c, quarter, 4, 1, 0.5f, 0, 2000);
  assert_true(count[0] > 800 && count[1] > 800 && count[2] == 0 && count[3] == 0);
  count = histogram(&c, quarter, 4, 1, 0.500001f, 0, 2000); /* a little more needs a third */
  assert_true(count[2] > 500 && count[3] == 0);
  const float mixed[] = {1, 3, 1, 3, 1};
  count = histogram(&c, mixed, 5, 1, 1, 3, 2000); /* the two largest and the first of the equals */
  assert_true(count[0] > 0 && count[1] > 0 && count[3] > 0 && count[2] == 0 && count[4] == 0);
  count = histogram(&c, mixed, 5, 1, 1e-9f, 0, 100); /* never empty */
  assert_int_equal(count[1], 100);
  count = histogram(&c, mixed, 5, 1, 0, 0, 100);
  assert_int_equal(count[1], 100);
  check_end(&c);
}

static void temperature_zero_takes_the_largest_and_the_lower_id_on_ties(void **state) {
  (void)state;
  Check c;
  check_begin(&c, "sample greedy");
  const float temperatures[] = {0, 1e-39f}; /* the reciprocal of the second is infinite */
  for (int k = 0; k < 2; k++) {
    Draw d = make_draw(&c, 9, 333, temperatures[k], 0.7f, 0, 5);
    for (int i = 0; i < 9; i++) d.logits[i * 333 + 40 + i] = d.logits[i * 333 + 300] = 9;
    run(&d);
    for (int i = 0; i < 9; i++) {
      assert_int_equal(d.op.token[i], 40 + i);
      assert_true(d.op.logprob[i] == 0);
    }
  }
  check_end(&c);
}

static void large_logits_and_banned_tokens_give_no_nan(void **state) {
  (void)state;
  Check c;
  check_begin(&c, "sample large");
  Draw d = make_draw(&c, 50, 101, 0.9f, 0.99f, 0, 1e4);
  for (int i = 0; i < 50; i++)
    for (int j = 0; j < 101; j += 2) d.logits[i * 101 + j] = -INFINITY;
  run(&d);
  for (int i = 0; i < 50; i++) {
    assert_int_equal(d.op.token[i] % 2, 1);
    assert_true(isfinite(d.op.logprob[i]) && d.op.logprob[i] <= 0);
  }
  for (int j = 0; j < 101; j++) d.logits[j] = NAN;
  run(&d);
  assert_true(isnan(d.op.logprob[0]) && isfinite(d.op.logprob[1]));
  assert_in_range(d.op.token[0], 0, 100);
  check_end(&c);
}

static void a_token_does_not_depend_on_the_other_rows_or_the_threads(void **state) {
  (void)state;
  Check c;
  check_begin(&c, "sample alone");
  Draw d = make_draw(&c, 31, 2001, 0.95f, 0.7f, 0, 3);
  check_threads(&c, "logprob", run, &d, NULL, d.op.logprob, 31);
  run(&d);
  for (int i = 0; i < 31; i++) {
    Draw one = d;
    int32_t token;
    float logprob;
    one.logits += (size_t)i * 2001, one.op.rows = 1, one.op.sample += i, one.op.position += i;
    one.op.token = &token, one.op.logprob = &logprob, one.op.logits = check_output(&c, 2001);
    run(&one);
    assert_int_equal(token, d.op.token[i]);
    check_same(&c, "logprob", &logprob, d.op.logprob + i, 1);
  }
  check_end(&c);
}

static void replies_grow_until_eos_or_full_and_then_stand_still(void **state) {
  (void)state;
  enum { ROWS = 3, SLOTS = 4, MOST = 3, EOS = 9 };
  static const int32_t drawn[5][ROWS] = {{5, 6, EOS}, {7, EOS, 8}, {4, 8, 8}, {3, 3, 3}, {2, 2, 2}};
  int32_t slot[ROWS] = {2, 0, 3}, reply[SLOTS * MOST], length[SLOTS] = {0}, finished[SLOTS] = {0};
  int32_t token[ROWS] = {0}, position[ROWS] = {10, 20, 30}, keys[ROWS] = {0}, cache[ROWS] = {0},
          index[ROWS] = {0};
  float logprob[ROWS] = {-1, -2, -3}, kept[SLOTS * MOST] = {0};
  Check c;
  check_begin(&c, "decode_advance");
  memset(reply, -1, sizeof reply);
  for (int step = 0; step < 5; step++) {
    DecodeAdvance a = {.slot = slot, .token = drawn[step], .logprob = logprob, .eos = EOS, .rows = ROWS};
    a.max_reply = MOST, a.reply = reply, a.reply_logprob = kept, a.length = length, a.finished = finished;
    a.next_token = token, a.next_position = position, a.next_reply_len = keys, a.next_cache_row = cache;
    a.next_index = index;
    c.backend->decode_advance(c.backend, &a);
    if (step) continue;
    const int32_t want[] = {2 * MOST, 0}; /* after one step the new key goes to the slot's first row */
    assert_memory_equal(cache, want, sizeof want);
    assert_int_equal(keys[0], 1);
    assert_int_equal(position[1], 21);
    assert_int_equal(index[0], 1);
    assert_int_equal(token[1], 6);
  }
  const int32_t want[] = {6, EOS, -1, -1, -1, -1, 5, 7, 4, EOS, -1, -1}, lengths[] = {2, 0, 3, 1},
                done[] = {1, 0, 1, 1};
  assert_memory_equal(reply, want, sizeof want);
  assert_memory_equal(length, lengths, sizeof lengths);
  assert_memory_equal(finished, done, sizeof done);
  assert_int_equal(position[2], 31);
  assert_true(kept[8] == -1 && kept[1] == -2 && kept[9] == -3);
  check_end(&c);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(tokens_and_logprobs_follow_the_sorted_reference),
      cmocka_unit_test(frequencies_pass_a_chi_square_test),
      cmocka_unit_test(the_nucleus_is_the_smallest_set_and_ties_go_to_the_lower_id),
      cmocka_unit_test(temperature_zero_takes_the_largest_and_the_lower_id_on_ties),
      cmocka_unit_test(large_logits_and_banned_tokens_give_no_nan),
      cmocka_unit_test(a_token_does_not_depend_on_the_other_rows_or_the_threads),
      cmocka_unit_test(replies_grow_until_eos_or_full_and_then_stand_still),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

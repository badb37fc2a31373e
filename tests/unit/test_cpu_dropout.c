/* Dropout: which positions stay, what they are multiplied by. */
#include <math.h>
#include <string.h>

#include "backend.h"
#include "base/dropout_mask.h"
#include "testing.h"

enum { ROWS = 37, COLS = 203, COUNT = ROWS * COLS };

typedef struct Fixture {
  Backend *backend;
  int32_t id[ROWS];
  float x[COUNT], y[COUNT];
} Fixture;

static const RandomKey key = {.seed = 5, .use = RANDOM_TEST, .step = 3};

static void open_fixture(Fixture *f) {
  assert_int_equal(cpu_backend_open(0, &f->backend), OK);
  for (int r = 0; r < ROWS; r++) f->id[r] = 1000 - 7 * r;
  for (int i = 0; i < COUNT; i++) {
    f->x[i] = (float)random_normal(key, (uint32_t)i, 9);
    f->y[i] = (float)random_normal(key, (uint32_t)i, 10);
  }
}

static Dropout op_of(Fixture *f, float rate) {
  return (Dropout){
      .x = f->x, .y = f->y, .id = f->id, .key = key, .site = 77, .rate = rate, .rows = ROWS, .cols = COLS};
}

static void rate_0_keeps_everything(void **state) {
  (void)state;
  Fixture f;
  open_fixture(&f);
  Dropout op = op_of(&f, 0);
  f.backend->dropout(f.backend, &op);
  assert_memory_equal(f.x, f.y, sizeof f.x);
  f.backend->close(f.backend);
}

/* The dropped share lies within five deviations of the rate; the rest is multiplied by 1 / (1 - rate). */
static void kept_values_are_scaled_up(void **state) {
  (void)state;
  Fixture f;
  open_fixture(&f);
  const float rates[] = {0.1f, 0.5f, 0.9f};
  for (int k = 0; k < 3; k++) {
    Dropout op = op_of(&f, rates[k]);
    double rate = (double)rates[k];
    f.backend->dropout(f.backend, &op);
    int dropped = 0;
    for (int i = 0; i < COUNT; i++) {
      if (f.y[i] == 0)
        dropped++;
      else
        assert_true(fabs((double)f.y[i] - (double)f.x[i] / (1 - rate)) <= 3e-4 * fabs((double)f.y[i]));
    }
    assert_true(fabs(dropped - rate * COUNT) < 5 * sqrt(rate * (1 - rate) * COUNT));
  }
  f.backend->close(f.backend);
}

static void the_threshold_is_exact(void **state) {
  (void)state;
  assert_int_equal(dropout_threshold(0.75f), 49152);
  Random4 numbers = {{0, 49152u << 16 | 49151, 0, 0}};
  assert_false(dropout_keeps(&numbers, 2, 49152));
  assert_true(dropout_keeps(&numbers, 3, 49152));
  assert_true(dropout_scale(49152) == 4);
}

/* Of 16 bits each, low half first: what base/dropout_mask.h promises. */
static void the_mask_is_a_function_of_token_site_and_column(void **state) {
  (void)state;
  Fixture f;
  open_fixture(&f);
  Dropout op = op_of(&f, 0.25f);
  f.backend->dropout(f.backend, &op);
  for (int r = 0; r < ROWS; r++)
    for (int c = 0; c < COLS; c++) {
      Random4 v = philox(key, (uint32_t)f.id[r], 77u * 16384 + (uint32_t)c / 8);
      uint32_t number = v.v[c % 8 / 2] >> (c % 2 ? 16 : 0) & 65535;
      assert_int_equal(f.y[r * COLS + c] != 0, number >= 16384);
    }
  f.backend->close(f.backend);
}

static void accumulating_adds_to_what_is_there(void **state) {
  (void)state;
  Fixture f;
  open_fixture(&f);
  float before[COUNT], alone[COUNT];
  memcpy(before, f.y, sizeof before);
  Dropout op = op_of(&f, 0.3f);
  op.y = alone;
  f.backend->dropout(f.backend, &op);
  op.y = f.y;
  op.accumulate = true;
  f.backend->dropout(f.backend, &op);
  for (int i = 0; i < COUNT; i++)
    assert_true(fabs((double)f.y[i] - ((double)before[i] + (double)alone[i])) < 1e-5);
  f.backend->close(f.backend);
}

static void no_rows_write_nothing(void **state) {
  (void)state;
  Fixture f;
  open_fixture(&f);
  float before = f.y[0];
  Dropout op = op_of(&f, 0.5f);
  op.rows = 0;
  f.backend->dropout(f.backend, &op);
  assert_true(f.y[0] == before);
  f.backend->close(f.backend);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(rate_0_keeps_everything),
      cmocka_unit_test(kept_values_are_scaled_up),
      cmocka_unit_test(the_threshold_is_exact),
      cmocka_unit_test(the_mask_is_a_function_of_token_site_and_column),
      cmocka_unit_test(accumulating_adds_to_what_is_there),
      cmocka_unit_test(no_rows_write_nothing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

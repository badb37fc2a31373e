/* How benchmarks measure, with a clock that the test turns: which calls a sample makes on which inputs, and
 * what becomes of the samples. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "testing.h"

enum { INPUT_BYTES = 256 << 10, MOST_INPUTS = 64 };

/* What the fake kernel and the fake clock know. */
static struct {
  double seconds_a_call; /* of the first samples */
  const double *samples; /* then these, a call; NULL: none */
  int sample;
  int calls; /* since the clock was started */
  int recording, in_recording, replays, freed;
  void *input[MOST_INPUTS];
  int third_calls; /* of the third baseline */
  int inputs, runs[MOST_INPUTS], dirty[MOST_INPUTS], found_dirty;
} fake;

static void make_input(BenchInputs *in, const BenchShape *shape, BenchCall *call) {
  (void)shape;
  assert_true(fake.inputs < MOST_INPUTS);
  call->op = fake.input[fake.inputs++] = bench_output(in, INPUT_BYTES);
  call->bytes = 100;
  call->operations = 300;
  call->size = "fake";
}

static int index_of(const void *op) {
  int i = 0;
  while (fake.input[i] != op) i++;
  return i;
}

static void run_input(Backend *backend, const void *op) {
  (void)backend;
  int i = index_of(op);
  fake.runs[i]++;
  fake.found_dirty += fake.dirty[i];
  fake.dirty[i] = 1;
  *(fake.recording ? &fake.in_recording : &fake.calls) += 1;
}

static void restore_input(Backend *backend, const void *op) {
  (void)backend;
  fake.dirty[index_of(op)] = 0;
}

static bool run_baseline(Backend *backend, const void *op, int which, Baseline *is) {
  if (which > 1) return false;
  *is = (Baseline){.name = which ? "second" : "first", .waits = which};
  run_input(backend, op);
  if (which) fake.calls++; /* takes twice the time */
  return true;
}

static void start(Backend *backend) {
  (void)backend;
  fake.calls = 0;
}

static Status stop(Backend *backend, double *seconds) {
  (void)backend;
  double a_call = fake.samples ? fake.samples[fake.sample++ % 5] : fake.seconds_a_call;
  *seconds = fake.calls * a_call;
  return OK;
}

static void record_begin(Backend *backend) {
  (void)backend;
  fake.recording = 1;
  fake.in_recording = 0;
}

static void *record_end(Backend *backend) {
  (void)backend;
  fake.recording = 0;
  return &fake;
}

static void replay(Backend *backend, void *recording) {
  (void)backend;
  assert_ptr_equal(recording, &fake);
  fake.replays++;
  fake.calls += fake.in_recording;
}

static void record_free(Backend *backend, void *recording) {
  (void)backend;
  (void)recording;
  fake.freed++;
}

/* 1 MiB of cache: 8 inputs make twice of it. */
static BenchResult measure(const BenchKernel *kernel, int repeat, bool records, double seconds_a_call,
                           const double *samples) {
  static const BenchCeilings ceilings = {.copy = 100, .matrix = 100, .cache_bytes = 1 << 20};
  Backend *backend;
  BenchInputs in;
  BenchResult result;
  memset(&fake, 0, sizeof fake);
  fake.seconds_a_call = seconds_a_call;
  fake.samples = samples;
  assert_int_equal(cpu_backend_open(0, &backend), OK);
  backend->timer_start = start;
  backend->timer_stop = stop;
  backend->records = records;
  backend->record_begin = record_begin;
  backend->record_end = record_end;
  backend->replay = replay;
  backend->record_free = record_free;
  assert_int_equal(bench_inputs_open(&in, backend), OK);
  assert_int_equal(bench_measure(&in, kernel, &bench_shapes[0], repeat, &ceilings, &result), OK);
  bench_inputs_close(&in);
  backend->close(backend);
  return result;
}

static const BenchKernel plain = {.name = "plain", .make = make_input, .run = run_input};

static void assert_near(double got, double want) { assert_true(fabs(got - want) <= 1e-9 * want); }

static void a_call_is_a_sample_divided_by_its_calls(void **state) {
  (void)state;
  BenchResult r = measure(&plain, 5, false, 10e-6, NULL);
  assert_int_equal(r.time.calls, 20); /* 0.2 ms */
  assert_int_equal(r.time.samples, 5);
  assert_near(r.time.median, 10e-6);
  assert_near(r.time.low, 10e-6);
  assert_near(r.time.high, 10e-6);
  assert_false(r.recorded);
}

static void samples_become_their_median_and_quartiles(void **state) {
  (void)state;
  static const double samples[] = {0.5, 0.1, 0.4, 0.2, 0.3}; /* slow ones: one call each */
  BenchResult r = measure(&plain, 5, false, 0, samples);
  assert_int_equal(r.time.calls, 1);
  assert_near(r.time.median, 0.3);
  assert_near(r.time.low, 0.2);
  assert_near(r.time.high, 0.4);
}

static void inputs_are_gone_through_in_turn_and_exceed_the_cache(void **state) {
  (void)state;
  BenchResult r = measure(&plain, 8, false, 10e-6, NULL);
  assert_int_equal(r.copies, 8);
  assert_int_equal(fake.inputs, 8);
  assert_near(r.working_bytes, 8 * INPUT_BYTES);
  for (int i = 1; i < 8; i++) assert_true(abs(fake.runs[i] - fake.runs[0]) <= 1);
}

static void short_calls_are_recorded_where_the_device_records(void **state) {
  (void)state;
  BenchResult r = measure(&plain, 5, true, 10e-6, NULL);
  assert_true(r.recorded);
  assert_int_equal(fake.in_recording, 20);
  assert_int_equal(fake.replays, 6); /* one to warm up */
  assert_int_equal(fake.freed, 1);
  assert_near(r.time.median, 10e-6);
  measure(&plain, 5, true, 45e-6, NULL);
  assert_int_equal(fake.in_recording, 8); /* no fewer than there are inputs */
  r = measure(&plain, 5, true, 60e-6, NULL);
  assert_false(r.recorded);
  assert_int_equal(fake.replays, 0);
}

static void overwritten_inputs_are_restored_before_each_use(void **state) {
  (void)state;
  BenchKernel kernel = plain;
  kernel.restore = restore_input;
  BenchResult r = measure(&kernel, 5, false, 10e-6, NULL);
  assert_int_equal(r.time.calls, 8); /* each copy once */
  assert_int_equal(fake.found_dirty, 0);
  measure(&kernel, 5, true, 10e-6, NULL);
  assert_int_equal(fake.in_recording, 8);
}

static void baselines_are_measured_until_there_are_no_more(void **state) {
  (void)state;
  BenchKernel kernel = plain;
  kernel.baseline = run_baseline;
  BenchResult r = measure(&kernel, 5, false, 60e-6, NULL);
  assert_int_equal(r.baselines, 2);
  assert_string_equal(r.baseline[0].name, "first");
  assert_near(r.baseline[0].time.median, 60e-6);
  assert_near(r.baseline[1].time.median, 120e-6);
}

/* The fake's second one waits for the device. */
static void baselines_are_recorded_but_for_those_that_wait(void **state) {
  (void)state;
  BenchKernel kernel = plain;
  kernel.baseline = run_baseline;
  BenchResult r = measure(&kernel, 5, true, 10e-6, NULL);
  assert_true(r.recorded && r.baseline[0].recorded && !r.baseline[1].recorded);
  assert_int_equal(fake.freed, 2);
  assert_near(r.baseline[0].time.median, 10e-6);
  assert_near(r.baseline[1].time.median, 20e-6);
}

/* The second refuses at once, the third at its tenth call, and both leave the others' numbers alone. */
static bool run_refusing(Backend *backend, const void *op, int which, Baseline *is) {
  static const char *const names[] = {"first", "at once", "later", "last"};
  if (which > 3) return false;
  *is = (Baseline){.name = names[which], .failed = which == 1 || (which == 2 && ++fake.third_calls == 10)};
  run_input(backend, op);
  return true;
}

static void a_baseline_that_refuses_is_left_out(void **state) {
  (void)state;
  BenchKernel kernel = plain;
  kernel.baseline = run_refusing;
  BenchResult r = measure(&kernel, 5, false, 10e-6, NULL);
  assert_int_equal(r.baselines, 4);
  for (int i = 0; i < 4; i++) assert_int_equal(r.baseline[i].failed, i == 1 || i == 2);
  assert_near(r.time.median, 10e-6);
  assert_near(r.baseline[0].time.median, 10e-6);
  assert_near(r.baseline[3].time.median, 10e-6);
}

static void the_limit_is_the_tighter_ceiling(void **state) {
  (void)state;
  const BenchCeilings ceilings = {.copy = 10, .matrix = 1000};
  BenchResult r = {.bytes = 100, .operations = 300};
  bool matrix;
  assert_near(bench_limit(&r, &ceilings, &matrix), 10);
  assert_false(matrix);
  r.operations = 20000;
  assert_near(bench_limit(&r, &ceilings, &matrix), 20);
  assert_true(matrix);
}

static void a_clock_that_stands_still_gives_no_number(void **state) {
  (void)state;
  BenchResult r = measure(&plain, 2, false, 0, NULL);
  assert_non_null(strstr(r.skipped, "no time"));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_call_is_a_sample_divided_by_its_calls),
      cmocka_unit_test(samples_become_their_median_and_quartiles),
      cmocka_unit_test(inputs_are_gone_through_in_turn_and_exceed_the_cache),
      cmocka_unit_test(short_calls_are_recorded_where_the_device_records),
      cmocka_unit_test(overwritten_inputs_are_restored_before_each_use),
      cmocka_unit_test(baselines_are_measured_until_there_are_no_more),
      cmocka_unit_test(baselines_are_recorded_but_for_those_that_wait),
      cmocka_unit_test(a_baseline_that_refuses_is_left_out),
      cmocka_unit_test(the_limit_is_the_tighter_ceiling),
      cmocka_unit_test(a_clock_that_stands_still_gives_no_number),
  };
  return cmocka_run_group_tests_name("measurements of benchmarks", tests, NULL, NULL);
}

/* Benchmarks: every operation of backend.h has a row, lower bounds are those of their formulas, and the
 * written numbers follow from each other. Times themselves are not tested. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "bench.h"
#include "commands.h"
#include "testing.h"

static char folder[] = "/tmp/popalm-bench-XXXXXX";

static int make_folder(void **state) {
  (void)state;
  return mkdtemp(folder) ? 0 : 1;
}

static int remove_folder(void **state) {
  (void)state;
  return rmdir(folder);
}

static const BenchShape *tiny_shape(void) {
  int i = 0;
  while (bench_shapes[i].set != SET_TINY) i++;
  return &bench_shapes[i];
}

/* The function pointers of struct Backend, from its source. */
static void every_operation_has_a_kernel(void **state) {
  (void)state;
  FILE *file = fopen("host/backend.h", "r");
  assert_non_null(file);
  char line[256], name[64];
  int operations = 0, inside = 0;
  while (fgets(line, sizeof line, file)) {
    if (strncmp(line, "struct Backend {", 16) == 0) inside = 1;
    if (!inside || sscanf(line, " void (*%63[a-z_])(Backend *, const %*[A-Z]", name) != 1 ||
        !strstr(line, "(Backend *, const "))
      continue;
    operations++;
    int found = 0;
    for (int i = 0; i < bench_kernel_count(); i++) found += strcmp(bench_kernel(i)->name, name) == 0;
    if (found != 1) fail_msg("operation %s has %d rows in the tables of benchmarks", name, found);
  }
  fclose(file);
  assert_true(operations >= 27);
}

static BenchCall bounds_of(BenchInputs *in, const char *name, const BenchShape *shape) {
  BenchCall call = {0};
  for (int i = 0; i < bench_kernel_count(); i++)
    if (strcmp(bench_kernel(i)->name, name) == 0) bench_kernel(i)->make(in, shape, &call);
  assert_non_null(call.op);
  return call;
}

/* Two sequences of 10 tokens, or the 9 before the last one shared by two; six replies of one token to three
 * posts, H 64, 4 query and 2 key-value heads of 32, F 96, V 101, fp32: by hand. */
static void lower_bounds_are_those_of_the_formulas(void **state) {
  (void)state;
  Arena arena = {0};
  Backend *backend;
  BenchInputs in;
  assert_int_equal(cpu_backend_open(0, &backend), OK);
  assert_int_equal(bench_inputs_open(&in, backend), OK);
  in.arena = &arena;
  BenchShape shape = *tiny_shape();
  shape.sequences = 2;
  shape.shortest = shape.longest = 10;
  shape.reply = 1;
  const struct {
    const char *name;
    double bytes, operations;
  } want[] = {
      {"attention", 4 * 20 * (8 + 4) * 32 + 4 * 20 * 4, 2 * 128 * 200},
      {"attention_backward", 4 * 20 * (2 * 8 + 2 * 4) * 32 + 4 * 20 * 4, 5 * 128 * 200},
      {"attention_full", 4 * 20 * (8 + 4) * 32 + 4 * 20 * 4, 4 * 128 * 200},
      {"full_backward", 4 * 20 * (2 * 8 + 2 * 4) * 32 + 4 * 20 * 4, 10 * 128 * 200},
      {"attention_branches", 4 * 11 * (8 + 4) * 32 + 4 * 11 * 4 + 4 * (11 + 1),
       2 * 128 * (81 + 2 * (2 * 9 + 1))},
      {"branches_backward", 4 * 11 * (2 * 8 + 2 * 4) * 32 + 4 * 11 * 4 + 4 * (11 + 1),
       5 * 128 * (81 + 2 * (2 * 9 + 1))},
      {"attention_prefix", 4 * (20 * (8 + 4) * 32 + 128 * 128) + 4 * 20 * 4, 2 * 128 * (200 + 2 * 128 * 20)},
      {"prefix_backward", 4 * (20 * (2 * 8 + 2 * 4) * 32 + 3 * 128 * 128) + 4 * 20 * 4,
       5 * 128 * (200 + 2 * 128 * 20)},
      {"kv_store", 2 * 4 * 20 * 128 + 4 * 20, 0},
      {"rope", 2 * 4 * 20 * 6 * 32 + 4 * 20, 0},
      {"qk_norm", 4 * (3 * 20 * 6 * 32 + 2 * 32) + 4 * 20 * 6, 0},
      {"qk_norm_backward", 4 * (3 * 20 * 6 * 32 + 6 * 32) + 4 * 20 * 6, 0},
      {"linear", 4 * (20 * 64 + 96 * 64 + 96 + 20 * 96), 2 * 20 * 64 * 96},
      {"linear_bf16", 4 * (20 * 64 + 96 + 20 * 96) + 2 * 96 * 64, 2 * 20 * 64 * 96},
      {"linear_int8", 4 * (20 * 64 + 96 + 20 * 96) + 34 * 2 * 96, 2 * 20 * 64 * 96},
      {"linear_backward", 4 * (20 * 64 + 20 * 96 + 96 * 64 + 20 * 64 + 2 * 96 * 64 + 2 * 96),
       4 * 20 * 64 * 96},
      {"norm", 4 * (4 * 20 * 64 + 64) + 4 * 20, 0},
      {"activation", 4 * 3 * 20 * 96, 0},
      {"activation_backward", 4 * 5 * 20 * 96, 0},
      {"vocab", 4 * 64 * (20 + 101) + 12 * 20, 2 * 20 * 64 * 101},
      {"vocab_backward", 4 * 64 * (40 + 303) + 12 * 20, 6 * 20 * 64 * 101},
      {"vocab_logits", 4 * 64 * (6 + 101) + 4 * 6 * 101, 2 * 6 * 64 * 101},
      {"attention_decode", 4 * (128 * 36 + 6 * (256 + 128)) + 12 * 6, 4 * 128 * 66},
      {"dropout", 4 * 2 * 20 * 64 + 4 * 20, 0},
      {"norm_backward", 4 * (4 * 20 * 64 + 3 * 64) + 4 * 20, 0},
      {"gather_rows", 4 * 3 * 20 * 64 + 4 * 20, 0},
      {"scatter_rows", 4 * 64 * (20 + 20) + 4 * 20, 0},
      {"convert", 6 * 20 * 64, 0},
      {"scalar_head", 4 * (20 * 64 + 64 + 1) + 4 * 20, 0},
      {"scalar_head_backward", 4 * (2 * 20 * 64 + 3 * 64 + 2) + 4 * 20, 0},
      {"reward_head", 4 * (2 * 2 * 64 + 3 * 64 + 3) + 4 * (2 + 2 + 1), 0},
      {"sample", 4 * 6 * 101 + 4 * 4 * 6, 0},
      {"decode_advance", 4 * (10 + 9) * 6, 0},
      {"ppo_advantage", 4 * 5 * 6 + 4 * 2 * 6, 0},
      {"ppo_loss", 4 * 8 * 6, 0},
      {"grad_norm", 4 * 1000, 0},
      {"adamw", 28 * 1000, 0},
  };
  for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
    BenchCall call = bounds_of(&in, want[i].name, &shape);
    if (call.bytes != want[i].bytes || call.operations != want[i].operations)
      fail_msg("%s: %g bytes, %g operations", want[i].name, call.bytes, call.operations);
  }
  assert_int_equal(in.status, OK);
  bench_inputs_close(&in);
  backend->close(backend);
  arena_free(&arena);
}

static double number(const cJSON *object, const char *key) {
  const cJSON *value = cJSON_GetObjectItemCaseSensitive(object, key);
  if (!cJSON_IsNumber(value)) fail_msg("%s should be a number", key);
  return value->valuedouble;
}

static void assert_near(double got, double want) {
  if (!(fabs(got - want) <= 1e-9 * fabs(want))) fail_msg("%.17g should be %.17g", got, want);
}

static void check_row(const cJSON *row, double copy, double matrix) {
  double median = number(row, "median_s"), bytes = number(row, "bytes"),
         operations = number(row, "operations");
  assert_true(median > 0 && number(row, "samples") == 2 && number(row, "copies") == 2);
  assert_true(number(row, "quartile_low_s") <= median && median <= number(row, "quartile_high_s"));
  double limit = fmax(bytes / copy, operations / matrix);
  assert_near(number(row, "limit_s"), limit);
  assert_near(number(row, "percent"), 100 * limit / median);
  const char *bound = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, "bound"));
  assert_string_equal(bound, operations / matrix > bytes / copy ? "operations" : "bytes");
  assert_near(number(row, "per_second"), number(row, bound) / median);
  const cJSON *baseline;
  cJSON_ArrayForEach(baseline, cJSON_GetObjectItemCaseSensitive(row, "baselines"))
      assert_near(number(baseline, "ratio"), number(baseline, "median_s") / median);
}

/* The command itself; its table goes to the test's output. */
static Status run_command(Arena *arena, int argc, const char **argv) {
  return command_bench(arena, argc, (char **)argv);
}

static void the_written_numbers_follow_from_each_other(void **state) {
  (void)state;
  Arena arena = {0};
  const char *path = arena_print(&arena, "%s/bench.json", folder);
  const char *names[] = {"attention", "vocab_backward", "adamw", "sample"};
  const char *argv[] = {"bench",    names[3], names[0],   names[2], names[1], "--shape", "tiny",
                        "--device", "cpu",    "--repeat", "2",      "--json", path,      NULL};
  assert_int_equal(run_command(&arena, 13, argv), OK);
  Json json;
  assert_int_equal(json_read(&arena, path, &json), OK);
  const cJSON *ceilings = cJSON_GetObjectItemCaseSensitive(json.root, "ceilings");
  double copy = number(ceilings, "copy_bytes_per_second"),
         matrix = number(ceilings, "matrix_operations_per_second");
  assert_true(copy > 0 && matrix > 0);
  const cJSON *rows = cJSON_GetObjectItemCaseSensitive(json.root, "rows"), *row;
  assert_int_equal(cJSON_GetArraySize(rows), 4);
  bool seen[4] = {false};
  cJSON_ArrayForEach(row, rows) {
    check_row(row, copy, matrix);
    const char *kernel = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, "kernel"));
    for (int i = 0; i < 4; i++) seen[i] |= strcmp(kernel, names[i]) == 0;
    if (strcmp(kernel, "attention") == 0)
      assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(row, "baselines")), 1);
  }
  for (int i = 0; i < 4; i++) assert_true(seen[i]);
  for (const char *const *key = (const char *[]){"date", "commit", "device", "backend", NULL}; *key; key++)
    assert_true(cJSON_IsString(cJSON_GetObjectItemCaseSensitive(json.root, *key)));
  json_free(&json);
  unlink(path);
  arena_free(&arena);
}

static void every_kernel_runs_on_the_tiny_shape(void **state) {
  (void)state;
  Backend *backend;
  BenchInputs in;
  BenchCeilings ceilings = {.copy = 1e9, .matrix = 1e9, .cache_bytes = 1 << 20};
  assert_int_equal(cpu_backend_open(0, &backend), OK);
  assert_int_equal(bench_inputs_open(&in, backend), OK);
  for (int i = 0; i < bench_kernel_count(); i++) {
    BenchResult result;
    assert_true(bench_kernel(i)->sets & SET_TINY);
    assert_int_equal(bench_measure(&in, bench_kernel(i), tiny_shape(), 1, &ceilings, &result), OK);
    assert_string_equal(result.skipped, "");
    assert_true(result.time.median > 0 && result.bytes > 0);
  }
  bench_inputs_close(&in);
  backend->close(backend);
}

static void a_shape_that_does_not_fit_is_skipped_and_says_why(void **state) {
  (void)state;
  Backend *backend;
  BenchInputs in;
  BenchResult result;
  BenchCeilings ceilings = {.copy = 1e9, .matrix = 1e9, .cache_bytes = 1 << 20};
  BenchShape shape = *tiny_shape();
  shape.parameters = (int64_t)1 << 50;
  int adamw = 0;
  while (strcmp(bench_kernel(adamw)->name, "adamw") != 0) adamw++;
  assert_int_equal(cpu_backend_open(0, &backend), OK);
  assert_int_equal(bench_inputs_open(&in, backend), OK);
  assert_int_equal(bench_measure(&in, bench_kernel(adamw), &shape, 1, &ceilings, &result), OK);
  assert_non_null(strstr(result.skipped, "out of memory"));
  assert_int_equal(result.time.samples, 0);
  bench_inputs_close(&in);
  backend->close(backend);
}

static void wrong_usage_names_the_nearest(void **state) {
  (void)state;
  Arena arena = {0};
  assert_int_equal(run_command(&arena, 2, (const char *[]){"bench", "atention", NULL}), INVALID);
  assert_non_null(strstr(error_message(), "unknown kernel atention; did you mean attention?"));
  assert_int_equal(run_command(&arena, 2, (const char *[]){"bench", "xyzzyxyzzy", NULL}), INVALID);
  assert_non_null(strstr(error_message(), "popalm bench --list"));
  assert_int_equal(run_command(&arena, 3, (const char *[]){"bench", "--shape", "lagre", NULL}), INVALID);
  assert_non_null(strstr(error_message(), "did you mean large?"));
  arena_free(&arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_operation_has_a_kernel),
      cmocka_unit_test(lower_bounds_are_those_of_the_formulas),
      cmocka_unit_test(the_written_numbers_follow_from_each_other),
      cmocka_unit_test(every_kernel_runs_on_the_tiny_shape),
      cmocka_unit_test(a_shape_that_does_not_fit_is_skipped_and_says_why),
      cmocka_unit_test(wrong_usage_names_the_nearest),
  };
  return cmocka_run_group_tests_name("bench", tests, make_folder, remove_folder);
}

/* popalm bench: how fast the backend's operations are, and how near to what the device allows. */
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "bench.h"
#include "commands.h"
#include "options.h"
#include "progress.h"

static const Option options[] = {
    {"--shape", "rlhf|long|large|tiny|all", "sets of shapes; all is the first three [all]"},
    {"--device", "auto|cpu|cuda[:n]", "what to measure [auto]"},
    {"--json", "FILE", "write the numbers there too"},
    {"--repeat", "N", "samples of each kernel, 1 to 1000 [as many as take 0.3 s, 5 to 50]"},
    {"--list", NULL, "print the kernels and the sets of shapes, and leave"},
};

static const CommandLine line = {
    .usage = "popalm bench [KERNEL...] [options]",
    .summary =
        "Measures the operations of a device, each against the ceilings that the same run measures: limit "
        "is\n"
        "the share of max(bytes / copy bandwidth, operations / matrix product) in the median time, +- half\n"
        "the distance of its quartiles. A baseline's x2.00 means that it takes twice the time. The CPU gets\n"
        "smaller shapes. docs/benchmarks.md explains the columns.",
    .options = options,
    .option_count = sizeof options / sizeof *options,
    .max_positional = -1};

typedef struct Chosen {
  unsigned sets;
  bool *kernel; /* [bench_kernel_count()] */
  int repeat;
  const char *json;
} Chosen;

static Status choose_sets(Arena *arena, const char *word, unsigned *out) {
  *out = SET_RLHF | SET_LONG | SET_LARGE;
  if (strcmp(word, "all") == 0) return OK;
  const char **names = NEW(arena, const char *, bench_set_count + 1);
  for (int i = 0; i < bench_set_count; i++) {
    names[i] = bench_sets[i].name;
    *out = bench_sets[i].bit;
    if (strcmp(word, names[i]) == 0) return OK;
  }
  names[bench_set_count] = "all";
  const char *near = nearest_name(word, names, bench_set_count + 1);
  if (near) return fail(INVALID, "popalm bench: --shape %s is not known; did you mean %s?", word, near);
  return fail(INVALID, "popalm bench: --shape %s is not known; take rlhf, long, large, tiny or all", word);
}

static Status choose_kernel(Arena *arena, const char *word, bool *chosen) {
  int count = bench_kernel_count();
  const char **names = NEW(arena, const char *, count);
  for (int i = 0; i < count; i++) {
    names[i] = bench_kernel(i)->name;
    if (strcmp(word, names[i]) != 0) continue;
    chosen[i] = true;
    return OK;
  }
  const char *near = nearest_name(word, names, count);
  if (near) return fail(INVALID, "popalm bench: unknown kernel %s; did you mean %s?", word, near);
  return fail(INVALID, "popalm bench: unknown kernel %s; popalm bench --list names them", word);
}

static Status choose(Arena *arena, const Arguments *arguments, Chosen *out) {
  int64_t repeat;
  TRY(choose_sets(arena, option_text(arguments, "--shape", "all"), &out->sets));
  TRY(option_int(arguments, "--repeat", 1, 1000, 0, &repeat));
  out->repeat = (int)repeat;
  out->json = option_text(arguments, "--json", NULL);
  out->kernel = NEW(arena, bool, bench_kernel_count());
  for (int i = 0; i < arguments->positional_count; i++)
    TRY(choose_kernel(arena, arguments->positional[i], out->kernel));
  for (int i = 0; i < bench_kernel_count() && arguments->positional_count == 0; i++) out->kernel[i] = true;
  return OK;
}

static bool is_measured(const Chosen *chosen, int kernel, const BenchShape *shape) {
  return chosen->kernel[kernel] && (chosen->sets & bench_kernel(kernel)->sets & shape->set);
}

static const BenchShape *first_shape(const Chosen *chosen) {
  int i = 0;
  while (!(bench_shapes[i].set & chosen->sets)) i++;
  return &bench_shapes[i];
}

enum { CEILINGS_EVERY = 10 }; /* seconds */

static int chosen_count(const Chosen *chosen) {
  int count = 0;
  for (int k = 0; k < bench_kernel_count(); k++)
    for (int s = 0; s < bench_shape_count; s++) count += is_measured(chosen, k, &bench_shapes[s]);
  return count;
}

static Status measure_chosen(const Chosen *chosen, BenchInputs *in, BenchCeilings *ceilings,
                             BenchResult *results, int *count) {
  Progress progress;
  double measured_at = seconds_now();
  progress_begin(&progress, "bench", chosen_count(chosen), 0);
  TRY(bench_measure_ceilings(in, first_shape(chosen), chosen->repeat, ceilings));
  for (int k = 0; k < bench_kernel_count(); k++)
    for (int s = 0; s < bench_shape_count; s++) {
      if (!is_measured(chosen, k, &bench_shapes[s])) continue;
      if (interrupted) return fail(INTERRUPTED, "popalm bench: interrupted; nothing was written");
      TRY(bench_measure(in, bench_kernel(k), &bench_shapes[s], chosen->repeat, ceilings,
                        &results[(*count)++]));
      progress_step(&progress, *count, 0, NULL, 0);
      if (seconds_now() - measured_at < CEILINGS_EVERY) continue;
      TRY(bench_measure_ceilings(in, first_shape(chosen), chosen->repeat, ceilings));
      measured_at = seconds_now();
    }
  progress_end(&progress, NULL);
  return OK;
}

static Status run_bench(Arena *arena, const Chosen *chosen, Backend *backend, BenchInputs *in) {
  BenchCeilings ceilings = {0};
  BenchResult *results = NEW(arena, BenchResult, chosen_count(chosen) + 1);
  int count = 0;
  TRY(measure_chosen(chosen, in, &ceilings, results, &count));
  bench_print_head(backend, &ceilings, chosen->sets);
  for (int i = 0; i < count; i++) bench_print_row(&results[i], &ceilings);
  return chosen->json ? bench_write_json(chosen->json, backend, &ceilings, results, count) : OK;
}

static void print_list(void) {
  for (int i = 0; i < bench_kernel_count(); i++) {
    const BenchKernel *kernel = bench_kernel(i);
    printf("  %-22s %s (", kernel->name, kernel->help);
    for (int s = 0, said = 0; s < bench_set_count; s++)
      if (kernel->sets & bench_sets[s].bit) printf("%s%s", said++ ? ", " : "", bench_sets[s].name);
    puts(")");
  }
  puts("\nsets of shapes");
  for (int s = 0; s < bench_set_count; s++) printf("  %-22s %s\n", bench_sets[s].name, bench_sets[s].help);
}

Status command_bench(Arena *arena, int argc, char **argv) {
  Arguments arguments;
  Chosen chosen;
  TRY(command_line_parse(arena, &line, argc, argv, &arguments));
  if (arguments.help) return OK;
  TRY(choose(arena, &arguments, &chosen));
  if (option_given(&arguments, "--list")) {
    print_list();
    return OK;
  }
  Backend *backend;
  BenchInputs inputs;
  TRY(backend_open(option_text(&arguments, "--device", "auto"), &backend));
  Status status = bench_inputs_open(&inputs, backend);
  if (status == OK) status = run_bench(arena, &chosen, backend, &inputs);
  bench_inputs_close(&inputs);
  backend->close(backend);
  return status;
}

/* Measures: warm-up, copies of the inputs gone through in turn so that they do not sit in the cache, samples
 * of a few calls each, their median and quartiles. */
#include "bench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "statistics.h"

enum { COPIES_MOST = 256, SAMPLES_LEAST = 5, SAMPLES_MOST = 50, SLOW_SAMPLES = 3, CALLS_MOST = 1000 };

static const double sample_seconds =
    200e-6; /* a sample lasts at least this long, far above the timer's resolution */
static const double kernel_seconds = 0.3; /* all samples of a kernel together, if they need not be fewer */
static const double slow_seconds = 0.1;   /* a sample beyond this needs fewer others and no second warm-up */
static const double record_below =
    50e-6; /* of a call: above this, launches are hidden behind the device's work */

static const BenchKernels *const tables[] = {&bench_attention_kernels, &bench_dense_kernels,
                                             &bench_vocab_kernels, &bench_ppo_kernels};
enum { TABLES = sizeof tables / sizeof *tables };

int bench_kernel_count(void) {
  int count = 0;
  for (int t = 0; t < TABLES; t++) count += tables[t]->count;
  return count;
}

const BenchKernel *bench_kernel(int i) {
  int t = 0;
  while (i >= tables[t]->count) i -= tables[t++]->count;
  return &tables[t]->row[i];
}

/* ---- samples ---- */

/* A kernel or, from 0 on, one of its baselines, on copies of its inputs. */
typedef struct Runner {
  Backend *backend;
  const BenchKernel *kernel;
  void *const *op; /* [copies] */
  int copies, baseline, next;
  bool failed; /* a baseline that has refused */
} Runner;

enum { ITSELF = -1 };

static void run_next(Runner *r) {
  const void *op = r->op[r->next];
  Baseline is = {0};
  r->next = (r->next + 1) % r->copies;
  if (r->baseline == ITSELF)
    r->kernel->run(r->backend, op);
  else
    r->kernel->baseline(r->backend, op, r->baseline, &is);
  r->failed = r->failed || is.failed;
}

static void restore_all(const Runner *r) {
  for (int i = 0; r->kernel->restore && i < r->copies; i++) r->kernel->restore(r->backend, r->op[i]);
}

/* Seconds of `calls` calls, or of one replay. */
static Status sample(Runner *r, int calls, void *recording, double *seconds) {
  Backend *backend = r->backend;
  restore_all(r);
  TRY(backend->synchronize(backend));
  backend->timer_start(backend);
  if (recording)
    backend->replay(backend, recording);
  else
    for (int i = 0; i < calls; i++) run_next(r);
  return backend->timer_stop(backend, seconds);
}

static void *record(Runner *r, int calls) {
  r->backend->record_begin(r->backend);
  for (int i = 0; i < calls; i++) run_next(r);
  return r->backend->record_end(r->backend);
}

/* Calls a sample. Where inputs have to be restored, each copy is used once. */
static int calls_of(const Runner *r, double estimate) {
  if (r->kernel->restore) return r->copies;
  if (estimate <= 0) return 1;
  double calls = ceil(sample_seconds / fmax(estimate, 200e-9));
  return calls > CALLS_MOST ? CALLS_MOST : (int)calls;
}

static int samples_of(int repeat, double estimate) {
  if (repeat) return repeat;
  double samples = kernel_seconds / fmax(estimate, 1e-9);
  int least = estimate > slow_seconds ? SLOW_SAMPLES : SAMPLES_LEAST;
  return samples < least ? least : samples > SAMPLES_MOST ? SAMPLES_MOST : (int)samples;
}

static Status measure(Runner *r, int repeat, BenchTime *out, bool *recorded) {
  enum { WARM = 3 };
  double once, seconds[1000];
  TRY(sample(r, 1, NULL, &once));
  for (int i = 0; i < WARM && once < slow_seconds; i++) TRY(sample(r, 1, NULL, &once));
  int calls = calls_of(r, once);
  void *recording = NULL;
  if (recorded && r->backend->records && once > 0 && once < record_below) {
    if (calls < r->copies) calls = r->copies;
    r->next = 0;
    recording = record(r, calls);
    *recorded = recording != NULL;
  }
  Status status = once < slow_seconds ? sample(r, calls, recording, &once) : OK;
  int samples = samples_of(repeat, once);
  for (int i = 0; status == OK && i < samples; i++) {
    status = sample(r, calls, recording, &seconds[i]);
    seconds[i] /= calls;
  }
  if (recording) r->backend->record_free(r->backend, recording);
  TRY(status);
  sort_rising(seconds, samples);
  *out = (BenchTime){quantile(seconds, samples, 0.5), quantile(seconds, samples, 0.25),
                     quantile(seconds, samples, 0.75), samples, calls};
  return OK;
}

/* ---- kernels ---- */

/* Copies whose bytes together are twice the cache, as far as memory allows. */
static int copies_of(const BenchInputs *in, const BenchShape *shape, double cache_bytes) {
  size_t used, total;
  in->backend->memory(in->backend, &used, &total);
  double one = (double)in->bytes, free_bytes = used < total ? (double)(total - used) : 0;
  if (one >= 4 * cache_bytes) return 1;
  if (shape->set == SET_TINY) return 2;
  double copies = fmax(2, fmin(COPIES_MOST, ceil(2 * cache_bytes / fmax(one, 1))));
  double room = 1 + floor(free_bytes / 2 / fmax(one, 1));
  return (int)fmax(1, fmin(copies, room));
}

static Status measure_baselines(Runner *runner, int repeat, BenchResult *out) {
  Baseline is = {0};
  while (runner->kernel->baseline && out->baselines < BENCH_BASELINES &&
         runner->kernel->baseline(runner->backend, runner->op[0], out->baselines, &is)) {
    BenchBaseline *baseline = &out->baseline[out->baselines];
    baseline->name = is.name;
    runner->baseline = out->baselines++;
    runner->failed = is.failed;
    if (!is.failed) TRY(measure(runner, repeat, &baseline->time, is.waits ? NULL : &baseline->recorded));
    baseline->failed = runner->failed;
  }
  return OK;
}

Status bench_measure(BenchInputs *in, const BenchKernel *kernel, const BenchShape *shape, int repeat,
                     const BenchCeilings *ceilings, BenchResult *out) {
  Arena arena = {0};
  void *op[COPIES_MOST];
  BenchCall call = {0};
  *out = (BenchResult){.kernel = kernel, .shape = shape};
  in->arena = &arena;
  in->status = OK;
  BenchShape sized = bench_shape_for(shape, in->backend);
  kernel->make(in, &sized, &call);
  op[0] = call.op;
  out->bytes = call.bytes;
  out->operations = call.operations;
  snprintf(out->size, sizeof out->size, "%s", call.size);
  out->copies = in->status == OK ? copies_of(in, shape, ceilings->cache_bytes) : 0;
  for (int i = 1; in->status == OK && i < out->copies; i++) {
    kernel->make(in, &sized, &call);
    op[i] = call.op;
  }
  out->working_bytes = (double)in->bytes;
  Status status = OK;
  if (in->status == OK) {
    Runner runner = {in->backend, kernel, op, out->copies, ITSELF, 0, false};
    status = measure(&runner, repeat, &out->time, &out->recorded);
    if (status == OK) status = measure_baselines(&runner, repeat, out);
    if (out->time.median <= 0)
      snprintf(out->skipped, sizeof out->skipped, "the device's timer gives no time");
  } else {
    snprintf(out->skipped, sizeof out->skipped, "%s", error_message());
  }
  bench_inputs_free(in);
  arena_free(&arena);
  return status;
}

/* ---- ceilings ---- */

/* Measured as a kernel that is in no table. */
typedef struct Copy {
  void *to, *from;
  size_t bytes;
} Copy;

static bool on_cpu(const Backend *backend) { return strcmp(backend->name, "cpu") == 0; }

static void make_copy(BenchInputs *in, const BenchShape *shape, BenchCall *call) {
  size_t bytes = shape->set == SET_TINY ? 1u << 20 : on_cpu(in->backend) ? 128u << 20 : 1u << 30;
  Copy *copy = NEW(in->arena, Copy, 1);
  *copy = (Copy){bench_output(in, bytes), bench_output(in, bytes), bytes};
  *call = (BenchCall){.op = copy, .bytes = 2 * (double)bytes, .size = "copy"};
}

static void run_copy(Backend *backend, const void *op) {
  const Copy *copy = op;
  backend->copy(backend, copy->to, copy->from, copy->bytes);
}

static void make_product(BenchInputs *in, const BenchShape *shape, BenchCall *call) {
  int n = shape->set == SET_TINY ? 64 : on_cpu(in->backend) ? 1024 : 8192;
  size_t count = (size_t)n * n;
  Linear *linear = NEW(in->arena, Linear, 1);
  *linear = (Linear){.x = bench_numbers(in, count, ACTIVATION),
                     .weight = bench_numbers(in, count, WEIGHT),
                     .y = bench_output(in, count * dtype_bytes(in->backend->storage)),
                     .rows = n,
                     .in = n,
                     .out = n};
  *call = (BenchCall){.op = linear, .operations = 2.0 * n * n * n, .size = "product"};
}

static void run_product(Backend *backend, const void *op) { backend->linear(backend, op); }

/* The processor's last cache; GPUs have up to 60 MB of L2. */
static double cache_of(const Backend *backend) {
  long bytes = on_cpu(backend) ? sysconf(_SC_LEVEL3_CACHE_SIZE) : 0;
  if (bytes > 0) return (double)bytes;
  return on_cpu(backend) ? 32 << 20 : 64 << 20;
}

Status bench_measure_ceilings(BenchInputs *in, const BenchShape *shape, int repeat, BenchCeilings *out) {
  const BenchKernel kernels[] = {{.name = "copy", .make = make_copy, .run = run_copy},
                                 {.name = "product", .make = make_product, .run = run_product}};
  double *const ceilings[] = {&out->copy, &out->matrix};
  out->cache_bytes = cache_of(in->backend);
  for (int i = 0; i < 2; i++) {
    BenchResult result;
    TRY(bench_measure(in, &kernels[i], shape, repeat, out, &result));
    if (result.time.median > 0)
      *ceilings[i] = fmax(*ceilings[i], (result.bytes + result.operations) / result.time.median);
    else if (result.time.samples == 0)
      return fail(FAILED, "popalm bench: no ceiling without the measurement of a %s: %s", kernels[i].name,
                  result.skipped);
  }
  return OK;
}

double bench_limit(const BenchResult *result, const BenchCeilings *ceilings, bool *matrix) {
  double bytes = result->bytes / ceilings->copy, operations = result->operations / ceilings->matrix;
  *matrix = operations > bytes;
  return *matrix ? operations : bytes;
}

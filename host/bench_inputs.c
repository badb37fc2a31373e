/* Random inputs for benchmarks, made on the device from a stock of normal numbers. */
#include <stdlib.h>
#include <string.h>

#include "base/philox.h"
#include "bench.h"

static const RandomKey key = {.seed = 2023, .use = RANDOM_TEST};

Status bench_inputs_open(BenchInputs *in, Backend *backend) {
  static const float deviation[] = {[ACTIVATION] = 1, [WEIGHT] = 0.02f};
  *in = (BenchInputs){.backend = backend};
  float *host = malloc(BENCH_NORMALS * sizeof *host);
  if (!host) return fail(FAILED, "out of memory for the benchmark's inputs; close other programs");
  for (int scale = 0; scale < 2; scale++) {
    void *device = NULL;
    in->status = backend->alloc(backend, BENCH_NORMALS * sizeof *host, "random numbers", &device);
    if (in->status != OK) break;
    for (uint32_t i = 0; i < BENCH_NORMALS; i++)
      host[i] = deviation[scale] * (float)random_normal(key, i, (uint32_t)scale);
    backend->upload(backend, device, host, BENCH_NORMALS * sizeof *host);
    in->normals[scale] = device;
  }
  free(host);
  return in->status;
}

void bench_inputs_free(BenchInputs *in) {
  while (in->count) in->backend->free(in->backend, in->memory[--in->count]);
  in->bytes = 0;
}

void bench_inputs_close(BenchInputs *in) {
  bench_inputs_free(in);
  free(in->memory);
  for (int i = 0; i < 2; i++) in->backend->free(in->backend, (void *)in->normals[i]);
}

static void *allocate(BenchInputs *in, size_t bytes) {
  if (in->status != OK) return NULL;
  if (in->count == in->capacity) {
    int capacity = in->capacity ? 2 * in->capacity : 64;
    void **grown = realloc(in->memory, sizeof *grown * (size_t)capacity);
    if (!grown) arena_exhausted(sizeof *grown * (size_t)capacity);
    in->memory = grown;
    in->capacity = capacity;
  }
  void *memory = NULL;
  in->status = in->backend->alloc(in->backend, bytes, "a benchmark's inputs", &memory);
  if (in->status != OK) return NULL;
  in->memory[in->count++] = memory;
  in->bytes += bytes;
  return memory;
}

void *bench_output(BenchInputs *in, size_t bytes) {
  void *memory = allocate(in, bytes);
  if (memory) in->backend->zero(in->backend, memory, bytes);
  return memory;
}

static void *numbers(BenchInputs *in, DType type, size_t count, BenchScale scale) {
  size_t width = dtype_bytes(type);
  char *memory = allocate(in, count * width);
  if (!memory) return NULL;
  /* Starting at another number each time, so that no two tensors are the same. */
  size_t from = random_below(key, in->drawn++, 1, BENCH_NORMALS);
  for (size_t at = 0; at < count; from = 0) {
    size_t left = count - at, length = BENCH_NORMALS - from < left ? BENCH_NORMALS - from : left;
    in->backend->convert(in->backend, memory + at * width, type, in->normals[scale] + from, F32, length);
    at += length;
  }
  return memory;
}

void *bench_numbers(BenchInputs *in, size_t count, BenchScale scale) {
  return numbers(in, in->backend->storage, count, scale);
}

float *bench_floats(BenchInputs *in, size_t count, BenchScale scale) {
  return numbers(in, F32, count, scale);
}

void *bench_upload(BenchInputs *in, const void *host, size_t bytes) {
  void *memory = allocate(in, bytes);
  if (memory) in->backend->upload(in->backend, memory, host, bytes);
  return memory;
}

int32_t *bench_integers(BenchInputs *in, int count, int least, int most, int32_t **host) {
  int32_t *values = NEW(in->arena, int32_t, count + 1);
  uint32_t stream = 2 + in->drawn++;
  for (int i = 0; i < count; i++)
    values[i] = least + (int32_t)random_below(key, (uint32_t)i, stream, (uint32_t)(most - least) + 1);
  if (host) *host = values;
  return bench_upload(in, values, (size_t)count * sizeof *values);
}

int32_t *bench_steps(BenchInputs *in, int count, int from, int step) {
  int32_t *values = NEW(in->arena, int32_t, count + 1);
  for (int i = 0; i < count; i++) values[i] = from + i * step;
  return bench_upload(in, values, (size_t)count * sizeof *values);
}

Sequences bench_sequences(BenchInputs *in, int count, int shortest, int longest, int32_t **cu_seqlens) {
  int32_t *cu = NEW(in->arena, int32_t, count + 1);
  Sequences out = {.count = count};
  for (int i = 0; i < count; i++) {
    int length = shortest + (int)random_below(key, (uint32_t)i, 1u << 31, (uint32_t)(longest - shortest) + 1);
    cu[i + 1] = cu[i] + length;
    if (length > out.max_len) out.max_len = length;
  }
  out.tokens = cu[count];
  out.cu_seqlens = bench_upload(in, cu, ((size_t)count + 1) * sizeof *cu);
  if (cu_seqlens) *cu_seqlens = cu;
  return out;
}

/* The CPU backend: memory, copies and conversions, and the table of its operations. */
#include "backend.h"

#include <cblas.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/bf16.h"
#include "cpu/cpu.h"

enum { ALIGNMENT = 64, COPY_BLOCK = 1 << 20 };

typedef struct CpuState {
  size_t used, total; /* bytes allocated by alloc; bytes this process may have */
  size_t peak;        /* the most of used and workspace together */
  void *workspace;
  size_t workspace_bytes;
  double timer_started; /* seconds of the monotonic clock */
} CpuState;

/* Stands before every allocation, so that free knows its size. */
typedef struct Header {
  _Alignas(ALIGNMENT) size_t bytes;
} Header;

static void count_peak(CpuState *state) {
  size_t now = state->used + state->workspace_bytes;
  if (now > state->peak) state->peak = now;
}

static Status cpu_alloc(Backend *backend, size_t bytes, const char *what, void **out) {
  CpuState *state = backend->state;
  Header *header = NULL;
  if (bytes <= state->total && state->used <= state->total - bytes) {
    size_t rounded = (sizeof(Header) + bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    header = aligned_alloc(ALIGNMENT, rounded);
  }
  if (!header)
    return fail(FAILED,
                "out of memory for %s: %.1f MiB wanted, %.1f of %.1f MiB in use; take a smaller model, fewer "
                "tokens_per_batch or fewer samples",
                what, (double)bytes / 0x1p20, (double)state->used / 0x1p20, (double)state->total / 0x1p20);
  header->bytes = bytes;
  state->used += bytes;
  count_peak(state);
  *out = header + 1;
  return OK;
}

static void cpu_free(Backend *backend, void *memory) {
  if (!memory) return;
  Header *header = (Header *)memory - 1;
  ((CpuState *)backend->state)->used -= header->bytes;
  free(header);
}

size_t cpu_grown(size_t bytes) { return (bytes + bytes / 4 + ALIGNMENT) / ALIGNMENT * ALIGNMENT; }

void *cpu_workspace(Backend *backend, size_t bytes) {
  CpuState *state = backend->state;
  if (bytes <= state->workspace_bytes && state->workspace) return state->workspace;
  free(state->workspace);
  size_t grown = cpu_grown(bytes);
  state->workspace = aligned_alloc(ALIGNMENT, grown);
  if (!state->workspace) arena_exhausted(grown);
  state->workspace_bytes = grown;
  count_peak(state);
  return state->workspace;
}

size_t cpu_threads(void) { return (size_t)omp_get_max_threads(); }
size_t cpu_thread(void) { return (size_t)omp_get_thread_num(); }

static void cpu_upload(Backend *backend, void *device, const void *host, size_t bytes) {
  (void)backend;
  if (bytes) memcpy(device, host, bytes);
}

static Status cpu_download(Backend *backend, void *host, const void *device, size_t bytes) {
  (void)backend;
  if (bytes) memcpy(host, device, bytes);
  return OK;
}

static void cpu_zero(Backend *backend, void *device, size_t bytes) {
  (void)backend;
  if (bytes) memset(device, 0, bytes);
}

/* One thread does not reach the memory's bandwidth, so large copies are shared out, unless the two overlap.
 */
static void cpu_copy(Backend *backend, void *to, const void *from, size_t bytes) {
  (void)backend;
  const char *source = from;
  char *target = to;
  if (bytes < COPY_BLOCK || (target < source + bytes && source < target + bytes)) {
    if (bytes) memmove(to, from, bytes);
    return;
  }
#pragma omp parallel for
  for (size_t start = 0; start < bytes; start += COPY_BLOCK)
    memcpy(target + start, source + start, bytes - start < COPY_BLOCK ? bytes - start : COPY_BLOCK);
}

/* Conversions go through a block of fp32, so that one reader and one writer a type are enough. */
enum { CONVERT_BLOCK = 512 };

static void read_f32(float *out, const void *in, size_t count) { memcpy(out, in, count * sizeof *out); }

static void read_bf16(float *out, const void *in, size_t count) {
  const uint16_t *x = in;
  for (size_t i = 0; i < count; i++) out[i] = bf16_to_float(x[i]);
}

static void read_i32(float *out, const void *in, size_t count) {
  const int32_t *x = in;
  for (size_t i = 0; i < count; i++) out[i] = (float)x[i];
}

static void read_u8(float *out, const void *in, size_t count) {
  const uint8_t *x = in;
  for (size_t i = 0; i < count; i++) out[i] = x[i];
}

static void write_f32(void *out, const float *in, size_t count) { memcpy(out, in, count * sizeof *in); }

static void write_bf16(void *out, const float *in, size_t count) {
  uint16_t *y = out;
  for (size_t i = 0; i < count; i++) y[i] = float_to_bf16(in[i]);
}

static void write_i32(void *out, const float *in, size_t count) {
  int32_t *y = out;
  for (size_t i = 0; i < count; i++) y[i] = (int32_t)in[i];
}

static void write_u8(void *out, const float *in, size_t count) {
  uint8_t *y = out;
  for (size_t i = 0; i < count; i++) y[i] = (uint8_t)in[i];
}

static void cpu_convert(Backend *backend, void *to, DType to_type, const void *from, DType from_type,
                        size_t count) {
  static void (*const readers[])(float *, const void *, size_t) = {
      [F32] = read_f32, [BF16] = read_bf16, [I32] = read_i32, [U8] = read_u8};
  static void (*const writers[])(void *, const float *, size_t) = {
      [F32] = write_f32, [BF16] = write_bf16, [I32] = write_i32, [U8] = write_u8};
  if (to_type == from_type) {
    cpu_copy(backend, to, from, count * dtype_bytes(to_type));
    return;
  }
  size_t to_bytes = dtype_bytes(to_type), from_bytes = dtype_bytes(from_type);
#pragma omp parallel for if (count >= PARALLEL_FROM)
  for (size_t start = 0; start < count; start += CONVERT_BLOCK) {
    float block[CONVERT_BLOCK];
    size_t length = count - start < CONVERT_BLOCK ? count - start : CONVERT_BLOCK;
    readers[from_type](block, (const char *)from + start * from_bytes, length);
    writers[to_type]((char *)to + start * to_bytes, block, length);
  }
}

static Status cpu_synchronize(Backend *backend) {
  (void)backend;
  return OK;
}

static void cpu_memory(Backend *backend, size_t *used, size_t *total) {
  const CpuState *state = backend->state;
  *used = state->used + state->workspace_bytes;
  *total = state->total;
}

static size_t cpu_peak(Backend *backend, bool reset) {
  CpuState *state = backend->state;
  size_t peak = state->peak;
  if (!reset) return peak;
  free(state->workspace);
  state->workspace = NULL;
  state->workspace_bytes = 0;
  state->peak = state->used;
  return peak;
}

static void cpu_close(Backend *backend) {
  CpuState *state = backend->state;
  free(state->workspace);
  free(state);
  free(backend);
}

static double monotonic_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void cpu_timer_start(Backend *backend) {
  ((CpuState *)backend->state)->timer_started = monotonic_seconds();
}

static Status cpu_timer_stop(Backend *backend, double *seconds) {
  *seconds = monotonic_seconds() - ((const CpuState *)backend->state)->timer_started;
  return OK;
}

/* The machine's memory, or the control group's limit if that is lower. */
static size_t memory_limit(void) {
  size_t total = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
  FILE *file = fopen("/sys/fs/cgroup/memory.max", "r");
  if (!file) return total;
  size_t limit;
  if (fscanf(file, "%zu", &limit) == 1 && limit < total) total = limit;
  fclose(file);
  return total;
}

static void describe_processor(char *out, size_t size) {
  char name[96] = "CPU", line[256];
  FILE *file = fopen("/proc/cpuinfo", "r");
  while (file && fgets(line, sizeof line, file))
    if (sscanf(line, "model name : %95[^\n]", name) == 1) break;
  if (file) fclose(file);
  int threads = omp_get_max_threads();
  snprintf(out, size, "%s, %d thread%s", name, threads, threads == 1 ? "" : "s");
}

static const Backend cpu_backend = {
    .name = "cpu",
    .storage = F32,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .upload = cpu_upload,
    .download = cpu_download,
    .zero = cpu_zero,
    .copy = cpu_copy,
    .convert = cpu_convert,
    .synchronize = cpu_synchronize,
    .memory = cpu_memory,
    .peak = cpu_peak,
    .host_memory = true,
    .close = cpu_close,
    .join = cpu_join,
    .timer_start = cpu_timer_start,
    .timer_stop = cpu_timer_stop,
    .embedding = cpu_embedding,
    .embedding_backward = cpu_embedding_backward,
    .linear = cpu_linear,
    .linear_backward = cpu_linear_backward,
    .norm = cpu_norm,
    .norm_backward = cpu_norm_backward,
    .qk_norm = cpu_qk_norm,
    .qk_norm_backward = cpu_qk_norm_backward,
    .rope = cpu_rope,
    .attention = cpu_attention,
    .attention_backward = cpu_attention_backward,
    .kv_store = cpu_kv_store,
    .attention_decode = cpu_attention_decode,
    .activation = cpu_activation,
    .activation_backward = cpu_activation_backward,
    .dropout = cpu_dropout,
    .gather_rows = cpu_gather_rows,
    .scatter_rows = cpu_scatter_rows,
    .vocab = cpu_vocab,
    .vocab_backward = cpu_vocab_backward,
    .vocab_logits = cpu_vocab_logits,
    .sample = cpu_sample,
    .decode_advance = cpu_decode_advance,
    .scalar_head = cpu_scalar_head,
    .scalar_head_backward = cpu_scalar_head_backward,
    .reward_head = cpu_reward_head,
    .ppo_advantage = cpu_ppo_advantage,
    .ppo_loss = cpu_ppo_loss,
    .grad_norm = cpu_grad_norm,
    .adamw = cpu_adamw,
    .attention_baseline = cpu_attention_baseline,
};

Status cpu_backend_open(int index, Backend **out) {
  (void)index;
  Backend *backend = malloc(sizeof *backend);
  CpuState *state = calloc(1, sizeof *state);
  if (!backend || !state) {
    free(backend);
    free(state);
    return fail(FAILED, "out of memory for the CPU backend; close other programs");
  }
  /* Threads are ours (OpenMP over fixed tiles): a product that OpenBLAS splits by itself would depend on
   * their number. */
  openblas_set_num_threads(1);
  *backend = cpu_backend;
  backend->state = state;
  state->total = memory_limit();
  describe_processor(backend->device, sizeof backend->device);
  *out = backend;
  return OK;
}

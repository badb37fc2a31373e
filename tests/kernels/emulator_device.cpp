/* The emulator as a device of the program: backend.h's memory, copies and recordings on the host, and the CUDA
 * backend's own table of operations. Linked with host/backend.c it answers to --device cuda, so that a whole
 * experiment runs through the kernels on a machine without a GPU. */
#include <stdio.h>
#include <stdlib.h>

#include <functional>
#include <vector>

#include "memory_count.h"
extern "C" {
#include "base/bf16.h"
#include "base/comm.h"
}
#include "operations.h"
#include "primitives.cuh"
#include "scratch.h"

namespace {

struct Recording {
  std::vector<std::function<void()>> work;
  std::vector<void *> workspaces; /* of its operations, in order */
};

Recording *recording; /* that submissions go to, instead of running */

MemoryCount counted;
size_t largest; /* scratch memory, which the GPU's backend would hold */

Status allocate(Backend *, size_t bytes, const char *, void **out) {
  *out = device_alloc(bytes);
  counted.add(*out, bytes);
  return OK;
}

void release(Backend *, void *of) {
  counted.remove(of);
  device_free(of);
}

size_t peak(Backend *, bool reset) {
  if (reset) counted.remove(&largest), largest = 0;
  return counted.most(reset);
}

/* Not part of a recording: the host's memory may be gone when it is replayed. */
void transfer(const char *what, void *to, const void *from, size_t bytes) {
  if (recording) {
    fprintf(stderr, "emulator: %s while operations are recorded\n", what);
    abort();
  }
  if (bytes) memcpy(to, from, bytes);
}

void upload(Backend *, void *to, const void *from, size_t bytes) { transfer("upload", to, from, bytes); }

Status download(Backend *, void *to, const void *from, size_t bytes) {
  transfer("download", to, from, bytes);
  return OK;
}

void zero(Backend *, void *memory, size_t bytes) {
  emulator_submit([=] {
    if (bytes) memset(memory, 0, bytes);
  });
}

void copy(Backend *, void *to, const void *from, size_t bytes) {
  emulator_submit([=] {
    if (bytes) memcpy(to, from, bytes);
  });
}

Status synchronize(Backend *) { return OK; }

void memory_of(Backend *, size_t *used, size_t *total) {
  *used = counted.used;
  *total = static_cast<size_t>(64) << 30;
}

void timer_start(Backend *) {}

Status timer_stop(Backend *, double *seconds) {
  *seconds = 0; /* the emulator's speed says nothing */
  return OK;
}

void record_begin(Backend *) { recording = new Recording(); }

void *record_end(Backend *) {
  Recording *done = recording;
  recording = nullptr;
  return done;
}

void replay(Backend *, void *of) {
  for (const std::function<void()> &work : static_cast<Recording *>(of)->work) work();
}

void record_free(Backend *, void *of) {
  Recording *done = static_cast<Recording *>(of);
  for (void *workspace : done->workspaces) device_free(workspace);
  delete done;
}

/* ---- between ranks: over the transport of the host ---- */

int64_t reduce_scatter(Backend *, const void *all, void *part, size_t count) {
  size_t total = count * static_cast<size_t>(comm.size);
  const uint16_t *from = static_cast<const uint16_t *>(all);
  std::vector<float> wide(total), sum(count);
  for (size_t i = 0; i < total; i++) wide[i] = bf16_to_float(from[i]);
  int64_t ticket = comm.transport->start_reduce_scatter(wide.data(), sum.data(), count);
  comm.transport->wait(ticket);
  for (size_t i = 0; i < count; i++) static_cast<uint16_t *>(part)[i] = float_to_bf16(sum[i]);
  return ticket;
}

int64_t all_gather(Backend *, const void *part, void *all, size_t count, DType type) {
  return comm.transport->start_all_gather(part, all, count * dtype_bytes(type));
}

void progress(Backend *) {}

void wait(Backend *, int64_t ticket) { comm.transport->wait(ticket); }

Status join(Backend *backend) {
  static Collectives collectives;
  collectives = {comm.rank, comm.size, reduce_scatter, all_gather, progress, wait};
  backend->collectives = &collectives;
  return OK;
}

void close_device(Backend *backend) {
  CudaState *state = cuda_state(backend);
  device_free(state->workspace);
  state->workspace = nullptr;
}

}  // namespace

void emulator_submit(std::function<void()> work) {
  if (recording)
    recording->work.push_back(std::move(work));
  else
    work();
}

/* A workspace of its own for every operation, so that what it left unwritten is poison. A recorded operation keeps
 * its workspace as long as the recording. */
void *cuda_workspace(Backend *backend, size_t bytes) {
  CudaState *state = cuda_state(backend);
  if (bytes > largest) {
    counted.remove(&largest);
    largest = workspace_grown(bytes);
    counted.add(&largest, largest);
  }
  if (recording) {
    recording->workspaces.push_back(device_alloc(bytes));
    return recording->workspaces.back();
  }
  device_free(state->workspace);
  state->workspace = device_alloc(bytes);
  return state->workspace;
}

/* Libraries for GPUs. */
bool cublas_takes(Backend *, const Attention &) { return false; }
bool cublas_takes(Backend *, const AttentionBackward &) { return false; }
bool cuda_attention_unfused(Backend *, const Attention *) { return false; }
bool cuda_attention_backward_unfused(Backend *, const AttentionBackward *) { return false; }
bool cudnn_takes(Backend *, const Attention &) { return false; }
bool cudnn_takes(Backend *, const AttentionBackward &) { return false; }
bool cuda_attention_cudnn(Backend *, const Attention *) { return false; }
bool cuda_attention_backward_cudnn(Backend *, const AttentionBackward *) { return false; }

void cuda_note(CudaState *, int error, const char *what) {
  fprintf(stderr, "emulator: %s: error %d\n", what, error);
  abort();
}

Backend *emulator_backend() {
  static uint32_t counter;
  static CudaState state;
  static Backend backend;
  if (!state.sm_count) state.hopper = true; /* a test may take it away */
  state.sm_count = 3;
  state.grid_counter = &counter;
  cuda_fill_operations(&backend);
  backend.name = "cuda:0";
  strcpy(backend.device, "the emulator of the tests");
  backend.state = &state;
  backend.alloc = allocate;
  backend.free = release;
  backend.upload = upload;
  backend.download = download;
  backend.zero = zero;
  backend.copy = copy;
  backend.synchronize = synchronize;
  backend.memory = memory_of;
  backend.peak = peak;
  backend.attention_baseline = cuda_attention_baseline;
  backend.attention_backward_baseline = cuda_attention_backward_baseline;
  backend.timer_start = timer_start;
  backend.timer_stop = timer_stop;
  backend.records = true;
  backend.record_begin = record_begin;
  backend.record_end = record_end;
  backend.replay = replay;
  backend.record_free = record_free;
  backend.close = close_device;
  backend.join = join;
  return &backend;
}

void device_wait() {}

int cuda_backend_devices(void) { return comm.local_size; } /* one a rank */
const char *cuda_backend_problem(void) { return ""; }

/* POPALM_EMULATOR_SCHEDULE: the number of the schedule under which the program's kernels run. */
Status cuda_backend_open(int, Backend **out) {
  const char *number = getenv("POPALM_EMULATOR_SCHEDULE");
  emulator_schedule(schedule_number(number ? atoi(number) % schedules : 0));
  *out = emulator_backend();
  return OK;
}

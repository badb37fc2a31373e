/* One NVIDIA GPU: memory, copies, recordings and errors. The operations stand in the files of their names.
 *
 * Everything runs in order on one stream. Uploads go through pinned segments, so that the host need not wait
 * for the device; it waits only in download, synchronize, timer_stop, and in alloc and free, which happen
 * between steps. Errors of launches and calls are kept (cuda_note) and reported by the next download or
 * synchronize. */
#include <cuda_runtime.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <new>
#include <vector>

#include "memory_count.h"
#include "operations.h"
#include "scratch.h"

namespace {

const int segments = 4;
const size_t segment_bytes = 4u << 20;

/* Pinned memory that uploads pass through, a segment after the other. */
struct Staging {
  unsigned char *memory;        /* [segments * segment_bytes] */
  cudaEvent_t copied[segments]; /* the segment's copies are done */
  int segment;                  /* the one being filled */
  size_t filled;                /* bytes of it */
};

struct Device : CudaState {
  Backend backend;
  char name[16];
  Staging staging;
  MemoryCount memory;
  cudaEvent_t timer[2];
  int recordings;              /* alive: their kernels use the workspaces of their time */
  std::vector<void *> retired; /* workspaces that were outgrown meanwhile */
};

Device *device_of(Backend *backend) { return static_cast<Device *>(cuda_state(backend)); }

void check(Backend *backend, cudaError_t error, const char *what) {
  if (error != cudaSuccess) cuda_note(cuda_state(backend), error, what);
}

/* ---- memory ---- */

void device_memory(Backend *, size_t *used, size_t *total) {
  size_t free_bytes = 0;
  *total = 0;
  if (cudaMemGetInfo(&free_bytes, total) != cudaSuccess) *total = free_bytes = 0;
  *used = *total - free_bytes;
}

Status allocate(Backend *backend, size_t bytes, const char *what, void **out) {
  cudaError_t error = cudaMalloc(out, bytes ? bytes : 1);
  if (error == cudaSuccess) {
    device_of(backend)->memory.add(*out, bytes);
    return OK;
  }
  cudaGetLastError(); /* a lack of memory does not last */
  size_t used, total;
  device_memory(backend, &used, &total);
  if (error != cudaErrorMemoryAllocation)
    return fail(FAILED, "%s: allocating memory for %s: %s; start again", backend->name, what,
                cudaGetErrorString(error));
  return fail(FAILED,
              "out of memory on %s for %s: %.1f MiB wanted, %.1f of %.1f MiB in use; take a smaller model, "
              "fewer tokens_per_batch or fewer samples",
              backend->name, what, static_cast<double>(bytes) / 0x1p20, static_cast<double>(used) / 0x1p20,
              static_cast<double>(total) / 0x1p20);
}

void release(Backend *backend, void *memory) {
  if (!memory) return;
  device_of(backend)->memory.remove(memory);
  check(backend, cudaFree(memory), "free");
}

size_t peak(Backend *backend, bool reset) {
  Device *device = device_of(backend);
  if (reset && device->recordings == 0) {
    release(backend, device->workspace);
    device->workspace = nullptr;
    device->workspace_bytes = 0;
  }
  return device->memory.most(reset);
}

/* ---- copies ---- */

void next_segment(Backend *backend) {
  Staging &s = device_of(backend)->staging;
  check(backend, cudaEventRecord(s.copied[s.segment], cuda_state(backend)->stream), "upload");
  s.segment = (s.segment + 1) % segments;
  s.filled = 0;
  check(backend, cudaEventSynchronize(s.copied[s.segment]), "upload");
}

void upload(Backend *backend, void *to, const void *from, size_t bytes) {
  Staging &s = device_of(backend)->staging;
  for (size_t done = 0; done < bytes;) {
    if (s.filled == segment_bytes) next_segment(backend);
    unsigned char *at = s.memory + static_cast<size_t>(s.segment) * segment_bytes + s.filled;
    size_t room = segment_bytes - s.filled, part = bytes - done < room ? bytes - done : room;
    memcpy(at, static_cast<const unsigned char *>(from) + done, part);
    check(backend,
          cudaMemcpyAsync(static_cast<unsigned char *>(to) + done, at, part, cudaMemcpyHostToDevice,
                          cuda_state(backend)->stream),
          "upload");
    done += part;
    s.filled += (part + 63) / 64 * 64; /* a multiple of 64 divides the segment */
  }
}

Status synchronize(Backend *backend) {
  CudaState *state = cuda_state(backend);
  check(backend, cudaStreamSynchronize(state->stream), "a kernel");
  if (!state->failed) return OK;
  cudaError_t error = static_cast<cudaError_t>(state->error);
  return fail(FAILED, "%s: %s: %s; nothing saved is lost, the same command goes on from the last checkpoint",
              backend->name, state->failed, cudaGetErrorString(error));
}

Status download(Backend *backend, void *to, const void *from, size_t bytes) {
  if (bytes)
    check(backend, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, cuda_state(backend)->stream),
          "download");
  return synchronize(backend);
}

void zero(Backend *backend, void *memory, size_t bytes) {
  if (bytes) check(backend, cudaMemsetAsync(memory, 0, bytes, cuda_state(backend)->stream), "zero");
}

void copy(Backend *backend, void *to, const void *from, size_t bytes) {
  if (bytes)
    check(backend, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, cuda_state(backend)->stream),
          "copy");
}

/* ---- time ---- */

void timer_start(Backend *backend) {
  check(backend, cudaEventRecord(device_of(backend)->timer[0], cuda_state(backend)->stream), "timer");
}

Status timer_stop(Backend *backend, double *seconds) {
  Device *device = device_of(backend);
  check(backend, cudaEventRecord(device->timer[1], device->stream), "timer");
  TRY(synchronize(backend));
  float milliseconds = 0;
  check(backend, cudaEventElapsedTime(&milliseconds, device->timer[0], device->timer[1]), "timer");
  *seconds = static_cast<double>(milliseconds) / 1000;
  return synchronize(backend);
}

/* ---- recordings ---- */

void record_begin(Backend *backend) {
  /* Relaxed: a workspace may grow while a graph is recorded. */
  check(backend, cudaStreamBeginCapture(cuda_state(backend)->stream, cudaStreamCaptureModeRelaxed),
        "recording");
}

void *record_end(Backend *backend) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t recording = nullptr;
  check(backend, cudaStreamEndCapture(cuda_state(backend)->stream, &graph), "recording");
  if (!graph) return nullptr;
  check(backend, cudaGraphInstantiate(&recording, graph, 0), "recording");
  check(backend, cudaGraphDestroy(graph), "recording");
  if (recording) device_of(backend)->recordings++;
  return recording;
}

void replay(Backend *backend, void *recording) {
  if (recording)
    check(backend, cudaGraphLaunch(static_cast<cudaGraphExec_t>(recording), cuda_state(backend)->stream),
          "replay");
}

void free_retired(Device *device) {
  for (void *memory : device->retired) release(&device->backend, memory);
  device->retired.clear();
}

void record_free(Backend *backend, void *recording) {
  if (!recording) return;
  Device *device = device_of(backend);
  check(backend, cudaStreamSynchronize(device->stream), "replay");
  check(backend, cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(recording)), "recording");
  if (--device->recordings == 0) free_retired(device);
}

/* ---- opening and closing ---- */

void close_device(Backend *backend) {
  Device *device = device_of(backend);
  cuda_leave(device);
  if (device->stream) cudaStreamSynchronize(device->stream);
  free_retired(device);
  cublaslt_close(device->library);
  cudaFree(device->workspace);
  cudaFree(device->grid_counter);
  cudaFreeHost(device->staging.memory);
  for (cudaEvent_t event : device->staging.copied)
    if (event) cudaEventDestroy(event);
  for (cudaEvent_t event : device->timer)
    if (event) cudaEventDestroy(event);
  if (device->stream) cudaStreamDestroy(device->stream);
  delete device;
}

cudaError_t make_streams(Device *device) {
  cudaError_t error = cudaStreamCreateWithFlags(&device->stream, cudaStreamNonBlocking);
  for (int i = 0; i < segments && error == cudaSuccess; i++)
    error = cudaEventCreateWithFlags(&device->staging.copied[i], cudaEventDisableTiming);
  for (int i = 0; i < 2 && error == cudaSuccess; i++) error = cudaEventCreate(&device->timer[i]);
  return error;
}

cudaError_t make_memory(Device *device) {
  void *counter = nullptr, *staging = nullptr;
  cudaError_t error = cudaMallocHost(&staging, segments * segment_bytes);
  device->staging.memory = static_cast<unsigned char *>(staging);
  if (error == cudaSuccess) error = cudaMalloc(&counter, sizeof(uint32_t));
  device->grid_counter = static_cast<uint32_t *>(counter);
  device->memory.add(counter, sizeof(uint32_t));
  if (error == cudaSuccess) error = cudaMemsetAsync(counter, 0, sizeof(uint32_t), device->stream);
  return error;
}

void describe(Device *device, const cudaDeviceProp &properties) {
  size_t library = cublaslt_version(device->library);
  char product[64] = "no cuBLASLt library: slow products";
  if (library) snprintf(product, sizeof product, "cuBLASLt %zu.%zu", library / 10000, library / 100 % 100);
  snprintf(device->backend.device, sizeof device->backend.device, "%.60s, compute capability %d.%d, %s",
           properties.name, properties.major, properties.minor, product);
}

/* Whether the kernels for compute capability 9.0 are in this build (they have no PTX for other GPUs) and wanted. */
bool uses_hopper(const cudaDeviceProp &properties) {
#ifdef POPALM_HOPPER
  /* Not the default until a GPU has run them. */
  const char *attention = getenv("POPALM_ATTENTION");
  return properties.major == 9 && properties.minor == 0 && attention && strcmp(attention, "hopper") == 0;
#else
  (void)properties;
  return false;
#endif
}

void fill_table(Device *device) {
  Backend &b = device->backend;
  cuda_fill_operations(&b);
  b.name = device->name;
  b.state = static_cast<CudaState *>(device);
  b.alloc = allocate;
  b.free = release;
  b.upload = upload;
  b.download = download;
  b.zero = zero;
  b.copy = copy;
  b.synchronize = synchronize;
  b.memory = device_memory;
  b.peak = peak;
  b.attention_baseline = cuda_attention_baseline;
  b.attention_backward_baseline = cuda_attention_backward_baseline;
  b.timer_start = timer_start;
  b.timer_stop = timer_stop;
  b.close = close_device;
  b.join = cuda_join;
  b.records = true;
  b.record_begin = record_begin;
  b.record_end = record_end;
  b.replay = replay;
  b.record_free = record_free;
}

}  // namespace

void cuda_note(CudaState *state, int error, const char *what) {
  if (state->failed) return;
  state->failed = what;
  state->error = error;
}

void *cuda_workspace(Backend *backend, size_t bytes) {
  Device *device = device_of(backend);
  if (bytes <= device->workspace_bytes && device->workspace) return device->workspace;
  if (device->recordings)
    device->retired.push_back(device->workspace);
  else
    release(backend, device->workspace);
  size_t grown = workspace_grown(bytes);
  device->workspace = nullptr;
  device->workspace_bytes = 0;
  cudaError_t error = cudaMalloc(&device->workspace, grown);
  if (error == cudaSuccess) {
    device->workspace_bytes = grown;
    device->memory.add(device->workspace, grown);
  } else {
    cudaGetLastError();
    cuda_note(device, error, "scratch memory of an operation");
    device->workspace = nullptr;
  }
  return device->workspace;
}

int cuda_backend_devices(void) {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

const char *cuda_backend_problem(void) {
  int count = 0;
  cudaError_t error = cudaGetDeviceCount(&count);
  return error == cudaSuccess ? "no GPU is visible" : cudaGetErrorString(error);
}

Status cuda_backend_open(int index, Backend **out) {
  cudaDeviceProp properties;
  cudaError_t error = cudaSetDevice(index);
  if (error == cudaSuccess) error = cudaGetDeviceProperties(&properties, index);
  if (error != cudaSuccess)
    return fail(FAILED, "cuda:%d: %s; try another device, or --device cpu", index, cudaGetErrorString(error));
  if (properties.major < 8)
    return fail(INVALID, "cuda:%d: %s has compute capability %d.%d and 8.0 is needed; use --device cpu",
                index, properties.name, properties.major, properties.minor);
  Device *device = new (std::nothrow) Device();
  if (!device) return fail(FAILED, "out of memory for the backend cuda:%d; close other programs", index);
  device->sm_count = properties.multiProcessorCount;
  device->hopper = uses_hopper(properties);
  snprintf(device->name, sizeof device->name, "cuda:%d", index);
  fill_table(device);
  error = make_streams(device);
  if (error == cudaSuccess) error = make_memory(device);
  if (error != cudaSuccess) {
    close_device(&device->backend);
    return fail(FAILED, "cuda:%d: %s; close other programs that use it, or use --device cpu", index,
                cudaGetErrorString(error));
  }
  device->library = cublaslt_open();
  if (device->library) device->memory.add(device->library, PRODUCT_SCRATCH_BYTES); /* of its own */
  describe(device, properties);
  *out = &device->backend;
  return OK;
}

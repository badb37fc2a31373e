/* Collectives between GPUs by NCCL. MPI (base/comm.h) only carries NCCL's unique id and starts the ranks. The
 * library is opened at run time, like cuBLASLt: a run of one process needs none.
 *
 * They run on a stream of their own, beside the backward pass: a collective waits for what the main stream
 * had to do when it was started, and the main stream, at wait, for those up to a ticket. The host never waits
 * here; a thread watches instead. It ends the process, and with it the job, when NCCL reports an error (a
 * rank or a network that is gone) or when nothing moves for too long. */
#include <cuda_runtime.h>
#include <stdio.h>
#include <unistd.h>

#if __has_include(<nccl.h>)
#include <nccl.h>
#define HAS_NCCL
#endif

#include <atomic>
#include <chrono>
#include <new>
#include <thread>

extern "C" {
#include "base/comm.h"
}
#include "cuda_backend.h"
#include "library.h"

#ifdef HAS_NCCL

namespace {

const int tickets = 256; /* beyond so many under way a wait is for a later one, which is right, too */
const double hang_seconds =
    1800; /* a checkpoint of a large model takes minutes, during which the others wait */
const auto look_every = std::chrono::milliseconds(500);

struct Nccl {
  void *file;
  decltype(&ncclGetUniqueId) unique_id;
  decltype(&ncclCommInitRank) init;
  decltype(&ncclCommDestroy) destroy;
  decltype(&ncclCommGetAsyncError) async_error;
  decltype(&ncclGetErrorString) error_string;
  decltype(&ncclReduceScatter) reduce_scatter;
  decltype(&ncclAllGather) all_gather;
};

}  // namespace

struct NcclGroup {
  Nccl nccl;
  ncclComm_t ranks;
  Collectives table;
  cudaStream_t stream;
  cudaEvent_t ready;
  cudaEvent_t done[tickets]; /* after the collective whose ticket leaves this remainder, and all before it */
  int device;
  std::atomic<int64_t> started; /* the last ticket */
  std::atomic<bool> closing;
  std::thread watch;
};

namespace {

NcclGroup *group_of(Backend *backend) { return cuda_state(backend)->ranks; }

bool open_functions(Nccl *n) {
  n->file = library_open({"libnccl.so.2"});
  return n->file && library_find(n->file, {{"ncclGetUniqueId", &n->unique_id},
                                           {"ncclCommInitRank", &n->init},
                                           {"ncclCommDestroy", &n->destroy},
                                           {"ncclCommGetAsyncError", &n->async_error},
                                           {"ncclGetErrorString", &n->error_string},
                                           {"ncclReduceScatter", &n->reduce_scatter},
                                           {"ncclAllGather", &n->all_gather}});
}

/* ---- the watch ---- */

/* The main thread may stand in a call that never returns, so no orderly end is possible from here. */
void end_process(const char *problem) {
  fprintf(stderr, "rank %d: NCCL: %s; the same command goes on from the last checkpoint\n", comm.rank,
          problem);
  fflush(stderr);
  _exit(FAILED);
}

void watch_group(NcclGroup *group) {
  typedef std::chrono::steady_clock Clock;
  Clock::time_point moved = Clock::now();
  int64_t seen = 0;
  cudaSetDevice(group->device);
  while (!group->closing) {
    std::this_thread::sleep_for(look_every);
    ncclResult_t error = ncclSuccess;
    if (group->nccl.async_error(group->ranks, &error) == ncclSuccess && error != ncclSuccess &&
        error != ncclInProgress && !group->closing)
      end_process(group->nccl.error_string(error));
    int64_t started = group->started;
    if (started != seen || cudaEventQuery(group->done[started % tickets]) == cudaSuccess)
      moved = Clock::now();
    seen = started;
    if (std::chrono::duration<double>(Clock::now() - moved).count() > hang_seconds)
      end_process("a collective has not ended for 30 minutes: a rank hangs or is gone");
  }
}

/* ---- the table ---- */

void check(Backend *backend, cudaError_t error) {
  if (error != cudaSuccess) cuda_note(cuda_state(backend), error, "a collective");
}

void check_nccl(Backend *backend, ncclResult_t result, const char *what) {
  if (result != ncclSuccess) cuda_note(cuda_state(backend), cudaErrorUnknown, what);
}

/* A ticket for what was just given to the side stream. */
int64_t ticket(Backend *backend) {
  NcclGroup *group = group_of(backend);
  int64_t number = group->started + 1;
  check(backend, cudaEventRecord(group->done[number % tickets], group->stream));
  group->started = number;
  return number;
}

/* What the main stream has been given so far comes first. */
void after_main(Backend *backend) {
  NcclGroup *group = group_of(backend);
  check(backend, cudaEventRecord(group->ready, cuda_state(backend)->stream));
  check(backend, cudaStreamWaitEvent(group->stream, group->ready, 0));
}

int64_t reduce_scatter(Backend *backend, const void *all, void *part, size_t count) {
  NcclGroup *group = group_of(backend);
  after_main(backend);
  check_nccl(backend,
             group->nccl.reduce_scatter(all, part, count, ncclBfloat16, ncclSum, group->ranks, group->stream),
             "NCCL's reduce-scatter");
  return ticket(backend);
}

int64_t all_gather(Backend *backend, const void *part, void *all, size_t count, DType type) {
  NcclGroup *group = group_of(backend);
  after_main(backend);
  check_nccl(backend,
             group->nccl.all_gather(part, all, count, type == BF16 ? ncclBfloat16 : ncclFloat32, group->ranks,
                                    group->stream),
             "NCCL's all-gather");
  return ticket(backend);
}

void progress(Backend *) {} /* the GPU moves them on */

void wait(Backend *backend, int64_t number) {
  check(backend,
        cudaStreamWaitEvent(cuda_state(backend)->stream, group_of(backend)->done[number % tickets], 0));
}

/* ---- joining and leaving ---- */

cudaError_t make_streams(NcclGroup *group) {
  int least, most;
  cudaError_t error = cudaGetDevice(&group->device);
  if (error == cudaSuccess) error = cudaDeviceGetStreamPriorityRange(&least, &most);
  /* First in line: what is to be sent holds up the other ranks. */
  if (error == cudaSuccess) error = cudaStreamCreateWithPriority(&group->stream, cudaStreamNonBlocking, most);
  if (error == cudaSuccess) error = cudaEventCreateWithFlags(&group->ready, cudaEventDisableTiming);
  for (int i = 0; i < tickets && error == cudaSuccess; i++)
    error = cudaEventCreateWithFlags(&group->done[i], cudaEventDisableTiming);
  return error;
}

Status meet(Backend *backend, NcclGroup *group) {
  ncclUniqueId id = {};
  ncclResult_t result = comm_is_first() ? group->nccl.unique_id(&id) : ncclSuccess;
  if (result == ncclSuccess) {
    comm_broadcast(&id, sizeof id);
    result = group->nccl.init(&group->ranks, comm.size, id, comm.rank);
  }
  if (result == ncclSuccess) return OK;
  return fail(FAILED, "%s: NCCL cannot connect the ranks: %s; NCCL_DEBUG=INFO says more", backend->name,
              group->nccl.error_string(result));
}

}  // namespace

Status cuda_join(Backend *backend) {
  NcclGroup *group = new (std::nothrow) NcclGroup();
  if (!group) return fail(FAILED, "%s: out of memory; close other programs", backend->name);
  cuda_state(backend)->ranks = group;
  if (!open_functions(&group->nccl))
    return fail(FAILED,
                "%s: several ranks need NCCL, and libnccl.so.2 cannot be opened; install libnccl2 or add its "
                "folder to LD_LIBRARY_PATH",
                backend->name);
  cudaError_t error = make_streams(group);
  if (error != cudaSuccess)
    return fail(FAILED, "%s: %s; start again", backend->name, cudaGetErrorString(error));
  TRY(meet(backend, group));
  group->table = {comm.rank, comm.size, reduce_scatter, all_gather, progress, wait};
  backend->collectives = &group->table;
  group->watch = std::thread(watch_group, group);
  return OK;
}

void cuda_leave(CudaState *state) {
  NcclGroup *group = state->ranks;
  if (!group) return;
  group->closing = true;
  if (group->watch.joinable()) group->watch.join();
  if (group->stream) cudaStreamSynchronize(group->stream);
  if (group->ranks) group->nccl.destroy(group->ranks);
  if (group->ready) cudaEventDestroy(group->ready);
  for (cudaEvent_t event : group->done)
    if (event) cudaEventDestroy(event);
  if (group->stream) cudaStreamDestroy(group->stream);
  delete group;
  state->ranks = nullptr;
}

#else

Status cuda_join(Backend *backend) {
  return fail(FAILED,
              "%s: this build has no NCCL, which several ranks need; install libnccl-dev, remove the build "
              "folder and build again",
              backend->name);
}

void cuda_leave(CudaState *) {}

#endif

/* Collectives between CPU processes: the transport's own (base/comm.h), on memory that the host reads anyway.
 */
#include "base/comm.h"
#include "cpu/cpu.h"

static int64_t reduce_scatter(Backend *backend, const void *all, void *part, size_t count) {
  (void)backend;
  return comm.transport->start_reduce_scatter(all, part, count);
}

static int64_t all_gather(Backend *backend, const void *part, void *all, size_t count, DType type) {
  (void)backend;
  return comm.transport->start_all_gather(part, all, count * dtype_bytes(type));
}

static void progress(Backend *backend) {
  (void)backend;
  comm.transport->progress();
}

static void wait(Backend *backend, int64_t ticket) {
  (void)backend;
  comm_wait(ticket);
}

Status cpu_join(Backend *backend) {
  static Collectives collectives;
  collectives = (Collectives){comm.rank, comm.size, reduce_scatter, all_gather, progress, wait};
  backend->collectives = &collectives;
  return OK;
}

#include "base/comm.h"

#include <dlfcn.h>
#include <limits.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

Comm comm = {.size = 1, .local_size = 1};

/* Variables that launchers set for each process that they start: Open MPI's, PMIx's (srun --mpi=pmix) and
 * PMI's (srun --mpi=pmi2, MPICH). */
static bool launched(void) {
  static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (getenv(names[i])) return true;
  return false;
}

/* The module beside the program. */
static void module_path(char path[PATH_MAX]) {
  static const char name[] = "popalm_mpi.so";
  ssize_t end = readlink("/proc/self/exe", path, PATH_MAX - sizeof name - 1);
  path[end > 0 ? end : 0] = 0;
  char *slash = strrchr(path, '/');
  strcpy(slash ? slash + 1 : path, name);
}

bool comm_available(void) {
  char path[PATH_MAX];
  module_path(path);
  return access(path, R_OK) == 0;
}

static const Transport *open_module(char *problem, size_t length) {
  char path[PATH_MAX];
  module_path(path);
  void *module =
      dlopen(path, RTLD_NOW | RTLD_GLOBAL); /* global: Open MPI's own modules look for its symbols */
  if (!module) {
    snprintf(problem, length, "%s", dlerror());
    return NULL;
  }
  TransportOpen open;
  void *symbol = dlsym(module, TRANSPORT_OPEN);
  memcpy(&open, &symbol, sizeof open);
  return open(problem, length);
}

/* Without a binding or a number given, the ranks of a machine share its processors. */
static void share_processors(void) {
  if (getenv("OMP_NUM_THREADS") || comm.local_size == 1) return;
  int mine = omp_get_num_procs();
  if (mine < (int)sysconf(_SC_NPROCESSORS_ONLN)) return; /* bound by the launcher */
  omp_set_num_threads(mine / comm.local_size > 0 ? mine / comm.local_size : 1);
}

Status comm_start(void) {
  char problem[512] = "";
  if (!launched()) return OK;
  const Transport *transport = open_module(problem, sizeof problem);
  if (!transport)
    return fail(
        FAILED,
        "popalm: started by an MPI launcher, but MPI cannot be used: %s; install libopenmpi-dev, remove "
        "the build folder and build again",
        problem);
  comm = (Comm){.rank = transport->rank,
                .size = transport->size,
                .local_rank = transport->local_rank,
                .local_size = transport->local_size,
                .transport = transport};
  share_processors();
  return OK;
}

bool comm_may_speak(void) {
  enum { LOOKS = 200 };
  for (int look = 0; look < LOOKS && !comm_is_first(); look++) {
    nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    if (interrupted) return false; /* rank 0 has ended the job */
  }
  return true;
}

void comm_end(Status status) {
  const Transport *transport = comm.transport;
  if (!transport) return;
  if (status == OK || status == INTERRUPTED) {
    transport->barrier();
    transport->finish();
    return;
  }
  transport->end_job(status);
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* A call of the transport, if there is one, whose time counts as waited. */
#define TIMED(call)                 \
  do {                              \
    if (!comm.transport) break;     \
    double started = now();         \
    comm.transport->call;           \
    comm.waited += now() - started; \
  } while (0)

void comm_sum(double *values, size_t count) { TIMED(all_reduce(values, count, COMM_DOUBLE, false)); }

void comm_sum_floats(float *values, size_t count) { TIMED(all_reduce(values, count, COMM_FLOAT, false)); }

int64_t comm_most(int64_t value) {
  TIMED(all_reduce(&value, 1, COMM_INT64, true));
  return value;
}

bool comm_any(bool value) { return comm_most(value) != 0; }

void comm_broadcast(void *data, size_t bytes) { TIMED(broadcast(data, bytes)); }

void comm_all_gather(void *items, size_t item_bytes, const int *first) {
  TIMED(all_gather(items, item_bytes, first));
}

void comm_collect(void *all, const void *part, size_t bytes) {
  if (!comm.transport) memcpy(all, part, bytes);
  TIMED(collect(all, part, bytes));
}

void comm_barrier(void) { TIMED(barrier()); }

void comm_wait(int64_t number) { TIMED(wait(number)); }

void comm_parts(int count, int *first) {
  for (int r = 0; r <= comm.size; r++) first[r] = (int)((int64_t)count * r / comm.size);
}

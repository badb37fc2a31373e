/* The ranks of a job: the processes that mpirun or Slurm started together and that run one experiment side by
 * side. Without a launcher there is one rank, every call here returns at once, and no MPI library is loaded.
 *
 * Calls that move data are collective: every rank makes the same calls in the same order, from its first
 * thread. Values here are in host memory; those of a device go through Backend.collectives. A rank that fails
 * ends the job (comm_end), so no call has a status: what a rank waits for comes, or the process ends. */
#ifndef POPALM_BASE_COMM_H
#define POPALM_BASE_COMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef enum CommType { COMM_INT64, COMM_FLOAT, COMM_DOUBLE } CommType;

/* What carries bytes between ranks: a module of its own, opened only under a launcher (host/mpi/transport.c).
 * Counts are elements of the type. */
typedef struct Transport {
  int rank, size;
  int local_rank, local_size; /* among the ranks on this machine */
  void (*all_reduce)(void *values, size_t count, CommType type, bool most); /* sum, or the largest */
  void (*broadcast)(void *data, size_t bytes);                              /* from rank 0 */
  void (*all_gather)(void *items, size_t item_bytes, const int *first);
  void (*collect)(void *all, const void *part, size_t bytes);
  /* These two only start, and count as they do: 1, 2, 3 ... Those up to a number are done after wait.
   * progress moves them on. */
  int64_t (*start_reduce_scatter)(const float *all, float *part, size_t count);
  int64_t (*start_all_gather)(const void *part, void *all, size_t bytes);
  void (*progress)(void);
  void (*wait)(int64_t number);
  void (*barrier)(void);
  void (*finish)(void);        /* orderly, all ranks together */
  void (*end_job)(int status); /* kills the other ranks and this one */
} Transport;

/* The name of the one function that a transport's module has: NULL, and why in `problem`, if it cannot work.
 */
#define TRANSPORT_OPEN "popalm_transport_open"
typedef const Transport *(*TransportOpen)(char *problem, size_t length);

typedef struct Comm {
  int rank, size, local_rank, local_size;
  const Transport *transport; /* NULL: started without a launcher */
  double waited;              /* seconds that this process has waited for others in host calls */
  double moved;               /* bytes of gradients and weights that it has sent */
} Comm;
extern Comm comm;

/* Whether this build can run on several ranks. */
bool comm_available(void);
/* Under a launcher: joins the other ranks. */
Status comm_start(void) CHECKED;
/* Whether this rank should say its error. One that all ranks meet, such as a wrong experiment file, is said
 * once: rank 0 says it and ends the job while the others wait here. */
bool comm_may_speak(void);
/* Leaves the job: after OK and INTERRUPTED together with the others, after an error by ending theirs, too. */
void comm_end(Status status);

/* Rank 0, which alone writes files and speaks. */
static inline bool comm_is_first(void) { return comm.rank == 0; }

/* Sums over the ranks, the same bits on each. */
void comm_sum(double *values, size_t count);
void comm_sum_floats(float *values, size_t count);
/* True when it is true for any rank. */
bool comm_any(bool value);
/* The largest of the ranks' values. */
int64_t comm_most(int64_t value);
/* Rank 0's bytes to all. */
void comm_broadcast(void *data, size_t bytes);
/* Rank r has items first[r] .. first[r+1]-1 of the array; afterwards every rank has all. first: [size+1] */
void comm_all_gather(void *items, size_t item_bytes, const int *first);
/* Every rank's `bytes` of part, one after the other, into all of rank 0 (NULL at the others). */
void comm_collect(void *all, const void *part, size_t bytes);
void comm_barrier(void);
/* The transport's wait. */
void comm_wait(int64_t number);

/* Cuts count items into a contiguous part a rank whose sizes differ by one at most; first: [size+1]. */
void comm_parts(int count, int *first);
/* The size of the largest part. */
static inline int comm_part_most(int count) { return (count + comm.size - 1) / comm.size; }

#endif

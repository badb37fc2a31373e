/* The transport over MPI (base/comm.h). A shared object of its own, so that a run without a launcher neither
 * loads nor needs an MPI library.
 *
 * Everything waits gently: a rank that waits for another one's long work (a tokenizer, a checkpoint) soon
 * sleeps between two looks instead of taking a processor from those that compute. */
#include <mpi.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/comm.h"

enum { LOOKS = 2000, SLEEP_NANOSECONDS = 50000, TAG = 1 };
static const size_t CHUNK = (size_t)1 << 30; /* MPI counts in int */

const Transport *popalm_transport_open(char *problem, size_t length);

static Transport transport;
static MPI_Request *pending; /* of the started collectives, from number completed + 1 on */
static int pending_count, pending_capacity;
static int64_t completed;

static void await_all(int count, MPI_Request *requests) {
  int done = 0;
  for (int look = 0;; look++) {
    MPI_Testall(count, requests, &done, MPI_STATUSES_IGNORE);
    if (done) return;
    if (look < LOOKS)
      sched_yield();
    else
      nanosleep(&(struct timespec){.tv_nsec = SLEEP_NANOSECONDS}, NULL);
  }
}

static void await_one(MPI_Request request) { await_all(1, &request); }

static MPI_Datatype type_of(CommType type) {
  return type == COMM_INT64 ? MPI_INT64_T : type == COMM_FLOAT ? MPI_FLOAT : MPI_DOUBLE;
}

/* Always up to rank 0 and down again: every rank gets the same bits, whatever way the library would choose.
 */
static void all_reduce(void *values, size_t count, CommType type, bool most) {
  size_t element = type == COMM_FLOAT ? 4 : 8;
  for (size_t done = 0; done < count;) {
    size_t part = count - done < CHUNK / element ? count - done : CHUNK / element;
    void *at = (char *)values + done * element;
    MPI_Op op = most ? MPI_MAX : MPI_SUM;
    MPI_Request request;
    MPI_Ireduce(transport.rank ? at : MPI_IN_PLACE, at, (int)part, type_of(type), op, 0, MPI_COMM_WORLD,
                &request);
    await_one(request);
    MPI_Ibcast(at, (int)part, type_of(type), 0, MPI_COMM_WORLD, &request);
    await_one(request);
    done += part;
  }
}

static void broadcast(void *data, size_t bytes) {
  for (size_t done = 0; done < bytes;) {
    size_t part = bytes - done < CHUNK ? bytes - done : CHUNK;
    MPI_Request request;
    MPI_Ibcast((char *)data + done, (int)part, MPI_BYTE, 0, MPI_COMM_WORLD, &request);
    await_one(request);
    done += part;
  }
}

static void all_gather(void *items, size_t item_bytes, const int *first) {
  int *counts = malloc(sizeof *counts * (size_t)transport.size);
  MPI_Datatype item;
  MPI_Request request;
  if (!counts) MPI_Abort(MPI_COMM_WORLD, FAILED);
  for (int r = 0; r < transport.size; r++) counts[r] = first[r + 1] - first[r];
  MPI_Type_contiguous((int)item_bytes, MPI_BYTE, &item);
  MPI_Type_commit(&item);
  MPI_Iallgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, items, counts, first, item, MPI_COMM_WORLD, &request);
  await_one(request);
  MPI_Type_free(&item);
  free(counts);
}

static void collect_from(char *all, const char *part, size_t bytes, int rank) {
  for (size_t done = 0; done < bytes;) {
    size_t piece = bytes - done < CHUNK ? bytes - done : CHUNK;
    MPI_Request request;
    if (transport.rank == 0)
      MPI_Irecv(all + done, (int)piece, MPI_BYTE, rank, TAG, MPI_COMM_WORLD, &request);
    else
      MPI_Isend(part + done, (int)piece, MPI_BYTE, 0, TAG, MPI_COMM_WORLD, &request);
    await_one(request);
    done += piece;
  }
}

static void collect(void *all, const void *part, size_t bytes) {
  if (transport.rank) {
    collect_from(NULL, part, bytes, 0);
    return;
  }
  memcpy(all, part, bytes);
  for (int r = 1; r < transport.size; r++) collect_from((char *)all + (size_t)r * bytes, NULL, bytes, r);
}

/* ---- started, then waited for ---- */

static MPI_Request *next_request(void) {
  if (pending_count == pending_capacity) {
    pending_capacity = pending_capacity ? 2 * pending_capacity : 64;
    pending = realloc(pending, sizeof *pending * (size_t)pending_capacity);
    if (!pending) MPI_Abort(MPI_COMM_WORLD, FAILED);
  }
  return &pending[pending_count++];
}

static int64_t start_reduce_scatter(const float *all, float *part, size_t count) {
  MPI_Ireduce_scatter_block(all, part, (int)count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD, next_request());
  return completed + pending_count;
}

static int64_t start_all_gather(const void *part, void *all, size_t bytes) {
  MPI_Datatype word = bytes % 4 ? MPI_BYTE : MPI_FLOAT; /* counts of 4 GiB and more would not fit bytes */
  int count = (int)(bytes % 4 ? bytes : bytes / 4);
  MPI_Iallgather(part, count, word, all, count, word, MPI_COMM_WORLD, next_request());
  return completed + pending_count;
}

static void progress(void) {
  int done;
  if (pending_count) MPI_Testall(pending_count, pending, &done, MPI_STATUSES_IGNORE);
}

static void wait_until(int64_t number) {
  int count = (int)(number - completed);
  if (count <= 0) return;
  await_all(count, pending);
  pending_count -= count;
  memmove(pending, pending + count, sizeof *pending * (size_t)pending_count);
  completed = number;
}

static void barrier(void) {
  MPI_Request request;
  MPI_Ibarrier(MPI_COMM_WORLD, &request);
  await_one(request);
}

static void finish(void) {
  free(pending);
  pending = NULL;
  MPI_Finalize();
}

static void end_job(int status) { MPI_Abort(MPI_COMM_WORLD, status); }

static void find_local(void) {
  MPI_Comm machine;
  MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &machine);
  MPI_Comm_rank(machine, &transport.local_rank);
  MPI_Comm_size(machine, &transport.local_size);
  MPI_Comm_free(&machine);
}

const Transport *popalm_transport_open(char *problem, size_t length) {
  int level;
  if (MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &level) != MPI_SUCCESS ||
      level < MPI_THREAD_FUNNELED) {
    snprintf(problem, length, "the MPI library does not work beside threads");
    return NULL;
  }
  transport = (Transport){.all_reduce = all_reduce,
                          .broadcast = broadcast,
                          .all_gather = all_gather,
                          .collect = collect,
                          .start_reduce_scatter = start_reduce_scatter,
                          .start_all_gather = start_all_gather,
                          .progress = progress,
                          .wait = wait_until,
                          .barrier = barrier,
                          .finish = finish,
                          .end_job = end_job};
  MPI_Comm_rank(MPI_COMM_WORLD, &transport.rank);
  MPI_Comm_size(MPI_COMM_WORLD, &transport.size);
  find_local();
  return &transport;
}

/* What the tables of kernels share. */
#ifndef POPALM_BENCH_KERNELS_H
#define POPALM_BENCH_KERNELS_H

#include "bench.h"

/* run_<operation>, for a row of a table */
#define BENCH_RUN(operation) \
  static void run_##operation(Backend *backend, const void *op) { backend->operation(backend, op); }

/* The operation's struct with the given fields, in the case's arena. */
#define BENCH_OP(in, Type, ...) memcpy(NEW((in)->arena, Type, 1), &(Type){__VA_ARGS__}, sizeof(Type))

#define BENCH_ROWS(table) \
  { table, sizeof table / sizeof *table }

/* Bytes of one stored element. */
static inline double width_of(const BenchInputs *in) { return (double)dtype_bytes(in->backend->storage); }

static inline double lesser(double a, double b) { return a < b ? a : b; }

/* Rows that have a loss: the replies' tokens of a training batch, or all tokens of other shapes. */
static inline int loss_rows(const BenchShape *shape) {
  return shape->sequences * (shape->set == SET_RLHF ? shape->reply : shape->longest);
}

#endif

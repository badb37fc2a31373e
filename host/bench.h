/* Benchmarks of the backend's operations: one row of a table a kernel, each measured on shapes of a few sets.
 *
 * A kernel makes inputs of random numbers for a shape through the backend's interface and knows the lower
 * bound of one call: the bytes that have to be read and written at least once, and the operations of its
 * matrix products. The limit of its time is max(bytes / copy ceiling, operations / matrix ceiling), both
 * ceilings measured in the same run. */
#ifndef POPALM_BENCH_H
#define POPALM_BENCH_H

#include "backend.h"
#include "base/arena.h"

/* ---- shapes ---- */

enum { SET_RLHF = 1, SET_LONG = 2, SET_LARGE = 4, SET_TINY = 8, SET_ALL = 15 };

typedef struct BenchSet {
  const char *name;
  unsigned bit;
  const char *help;      /* what its shapes are */
  const char *cpu_scale; /* how they are made smaller on the CPU; "": not at all */
} BenchSet;

extern const BenchSet bench_sets[];
extern const int bench_set_count;
const BenchSet *bench_set(unsigned bit);

/* A batch of a model: each kernel takes from it the sizes that it has. */
typedef struct BenchShape {
  unsigned set;
  const char *name;
  int sequences, shortest, longest; /* packed sequences and their lengths, drawn uniformly */
  int replies, reply;               /* rows that are generated; most tokens of one */
  int samples;                      /* rows that share a post */
  NormKind norm;
  ActivationKind activation;
  int hidden, heads, kv_heads, head_dim, mlp, vocab;
  int max_positions;
  int64_t parameters;
} BenchShape;

extern const BenchShape bench_shapes[];
extern const int bench_shape_count;
/* The shape as it is measured on a backend: the CPU's are smaller. */
BenchShape bench_shape_for(const BenchShape *shape, const Backend *backend);

/* ---- inputs ---- */

/* Device memory of one kernel's inputs. The first error is kept in status, and what comes after it does
 * nothing and returns NULL, so that it is looked at once. */
typedef struct BenchInputs {
  Backend *backend;
  Arena *arena;            /* host memory of the case */
  const float *normals[2]; /* [BENCH_NORMALS] device, by BenchScale */
  uint32_t drawn;          /* numbers drawn so far */
  Status status;
  size_t bytes; /* allocated and not freed */
  void **memory;
  int count, capacity;
} BenchInputs;

enum { BENCH_NORMALS = 1 << 18 };
typedef enum BenchScale { ACTIVATION, WEIGHT } BenchScale; /* standard deviations 1 and 0.02 */

Status bench_inputs_open(BenchInputs *in, Backend *backend) CHECKED;
void bench_inputs_close(BenchInputs *in);
/* Frees the inputs, not the stock of random numbers. */
void bench_inputs_free(BenchInputs *in);

void *bench_output(BenchInputs *in, size_t bytes); /* zeros */
/* count normal numbers of the storage type, or fp32 */
void *bench_numbers(BenchInputs *in, size_t count, BenchScale scale);
float *bench_floats(BenchInputs *in, size_t count, BenchScale scale);
void *bench_upload(BenchInputs *in, const void *host, size_t bytes);
/* count integers from least to most; on the host too if host is not NULL. */
int32_t *bench_integers(BenchInputs *in, int count, int least, int most, int32_t **host);
/* from, from + step ...: distinct row numbers */
int32_t *bench_steps(BenchInputs *in, int count, int from, int step);
/* count sequences of random lengths. */
Sequences bench_sequences(BenchInputs *in, int count, int shortest, int longest, int32_t **cu_seqlens);

/* ---- kernels ---- */

/* One operation with its inputs. */
typedef struct BenchCall {
  void *op;                 /* its struct of backend.h */
  double bytes, operations; /* lower bound of one call */
  const char *size;         /* for people: "1160 x 768" */
} BenchCall;

typedef struct BenchKernel {
  const char *name; /* as in backend.h */
  unsigned sets;    /* of shapes that it is measured on */
  const char *help;
  void (*make)(BenchInputs *in, const BenchShape *shape, BenchCall *call);
  void (*run)(Backend *backend, const void *op);
  /* Puts back what a run overwrites, where a second run would otherwise do other work; NULL: nothing. */
  void (*restore)(Backend *backend, const void *op);
  /* Another way to compute the same; false: there is no variant `which`. NULL: none. */
  bool (*baseline)(Backend *backend, const void *op, int which, Baseline *is);
} BenchKernel;

/* Tables of kernels, each in the file of its subject; bench_kernel(i) goes through all of them. */
typedef struct BenchKernels {
  const BenchKernel *row;
  int count;
} BenchKernels;

extern const BenchKernels bench_dense_kernels, bench_attention_kernels, bench_vocab_kernels,
    bench_ppo_kernels;

int bench_kernel_count(void);
const BenchKernel *bench_kernel(int i);

/* ---- measurements ---- */

enum { BENCH_BASELINES = 4 };

typedef struct BenchTime {
  double median, low, high; /* seconds a call; quartiles */
  int samples, calls;       /* calls a sample */
} BenchTime;

typedef struct BenchBaseline {
  const char *name;
  BenchTime time;
  bool recorded;
  bool failed; /* it refused: there is no time */
} BenchBaseline;

typedef struct BenchResult {
  const BenchKernel *kernel;
  const BenchShape *shape;
  char size[64];
  BenchTime time;
  int copies;           /* of the inputs, gone through in turn */
  bool recorded;        /* calls were replayed from a recording: without the cost of their launches */
  double working_bytes; /* of all copies */
  double bytes, operations;
  BenchBaseline baseline[BENCH_BASELINES];
  int baselines;
  char skipped[256]; /* why it was not measured; "": it was */
} BenchResult;

typedef struct BenchCeilings {
  double copy;   /* bytes a second, read and written, of backend->copy */
  double matrix; /* operations a second of backend->linear on a large square */
  double cache_bytes;
} BenchCeilings;

/* Seconds below which one call cannot be, and which of the two ceilings says so. */
double bench_limit(const BenchResult *result, const BenchCeilings *ceilings, bool *matrix);

/* Raises what is in out, {0} at first: other programs can lower a measurement, so it is taken several times
 * in a run. */
Status bench_measure_ceilings(BenchInputs *in, const BenchShape *shape, int repeat,
                              BenchCeilings *out) CHECKED;
/* repeat: samples; 0: as many as are useful. Errors of the device are returned; what does not fit is skipped.
 */
Status bench_measure(BenchInputs *in, const BenchKernel *kernel, const BenchShape *shape, int repeat,
                     const BenchCeilings *ceilings, BenchResult *out) CHECKED;

/* ---- output ---- */

void bench_print_head(const Backend *backend, const BenchCeilings *ceilings, unsigned sets);
void bench_print_row(const BenchResult *result, const BenchCeilings *ceilings);
Status bench_write_json(const char *path, const Backend *backend, const BenchCeilings *ceilings,
                        const BenchResult *results, int count) CHECKED;

#endif

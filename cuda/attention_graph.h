/* Attention as a graph of small operations, which is how cuDNN is asked for it (backend_cudnn.cu). Plain C
 * and without that library, so that a test can compute what a graph says.
 *
 * All tensors have four dimensions: B sequences (count), heads, T rows (max_len), columns. A matrix product
 * goes over the last two; with fewer heads in its second factor each serves a group of the first's, as in
 * Attention. Elsewhere a dimension of 1 stands for as many as the other operand has. */
#ifndef POPALM_ATTENTION_GRAPH_H
#define POPALM_ATTENTION_GRAPH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* All that a graph depends on. No padding: compared as bytes. */
typedef struct AttentionGraphShape {
  int32_t count, max_len, heads, kv_heads, head_dim;
  uint8_t backward, full;
  uint8_t ragged; /* lengths and offsets are read; else every sequence has max_len tokens */
  uint8_t unused; /* 0 */
} AttentionGraphShape;

typedef enum GraphType { GRAPH_BF16, GRAPH_F32, GRAPH_I32, GRAPH_I64, GRAPH_BOOL } GraphType;

/* What stands in memory, or is passed by value; from GRAPH_INNER on follows what only exists between
 * operations. */
enum {
  GRAPH_NONE,
  GRAPH_QUERIES,
  GRAPH_KEYS,   /* transposed: [B, Hkv, d, T] */
  GRAPH_VALUES, /* in the backward pass transposed, too */
  GRAPH_OUT,
  GRAPH_STATS, /* [B, Hq, T, 1] fp32, log of the softmax denominators */
  GRAPH_DOUT,
  GRAPH_DQUERIES,
  GRAPH_DKEYS,
  GRAPH_DVALUES,
  GRAPH_DELTA,         /* [B, Hq, T, 1] fp32, row sums of dout * out: scratch */
  GRAPH_DQUERIES_SUM,  /* [B, Hq, T, d] fp32: scratch */
  GRAPH_QUERY_LENGTHS, /* [B, 1, 1, 1] */
  GRAPH_KEY_LENGTHS,
  GRAPH_QKV_OFFSETS, /* [B + 1, 1, 1, 1] elements from the first query, key or value to each sequence's */
  GRAPH_OUT_OFFSETS,
  GRAPH_SCALE,  /* by value: 1 / sqrt(d) */
  GRAPH_HIDDEN, /* by value: -inf */
  GRAPH_ONE,    /* by value */
  GRAPH_INNER
};

typedef struct GraphTensor {
  int64_t size[4], stride[4]; /* elements */
  GraphType type;
  int offsets; /* the tensor that says where each sequence begins, in place of stride[0]; or GRAPH_NONE */
  bool used;
} GraphTensor;

typedef enum GraphKind {
  GRAPH_MATMUL,
  GRAPH_RESHAPE,  /* the last two dimensions change places */
  GRAPH_IDENTITY, /* from here on element by element */
  GRAPH_MUL,
  GRAPH_ADD,
  GRAPH_SUB,
  GRAPH_DIV,
  GRAPH_EXP,
  GRAPH_LOG,
  GRAPH_INDEX, /* of the element along `axis` */
  GRAPH_GE,    /* a >= b */
  GRAPH_LT,    /* a < b */
  GRAPH_AND,
  GRAPH_SELECT, /* c ? a : b */
  GRAPH_MAX,    /* reductions of the dimensions that out has not */
  GRAPH_SUM
} GraphKind;

typedef struct GraphOperation {
  GraphKind kind;
  int a, b, c, out; /* tensors; GRAPH_NONE: none */
  int axis;
  int m, n, k; /* of a product: lengths that bound its dimensions, or GRAPH_NONE */
} GraphOperation;

enum { GRAPH_TENSORS = 64, GRAPH_OPERATIONS = 48 };

typedef struct AttentionGraph {
  AttentionGraphShape shape;
  GraphTensor tensor[GRAPH_TENSORS];
  GraphOperation operation[GRAPH_OPERATIONS];
  int tensors, operations;
} AttentionGraph;

#ifdef __cplusplus
extern "C" {
#endif

void attention_graph(const AttentionGraphShape *shape, AttentionGraph *out);

/* Whether cuDNN has an engine for the graph on a device described in its JSON
 * (CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION), which need not be there. *installed: whether the library is.
 * why, of room bytes: its last error, or "". With the CUDA backend only. */
bool cudnn_takes_graph(const AttentionGraphShape *shape, const char *device, bool *installed, char *why,
                       size_t room);

#ifdef __cplusplus
}
#endif

#endif

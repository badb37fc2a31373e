/* cuDNN's attention, for `popalm bench` to compare with: the graphs of attention_graph.c as descriptors of
 * its backend interface, the engine that its heuristics put first, an execution plan that is kept for the
 * last shape of each pass. The backward pass takes the statistics as [B, Hq, T] and, where lengths differ,
 * lengths and offsets of the sequences; both passes keep what they need besides in the backend's scratch
 * memory. Not part of any run: the library is opened at the first use and stays open until the program ends.
 */
#include <dlfcn.h>
#include <math.h>
#include <string.h>

#include "attention_graph.h"
#include "primitives.cuh"

#if __has_include(<cudnn_graph.h>)
#include <cudnn_graph.h>
#endif

/* Before 9.8 a plan cannot be made without its device, and much of attention differs. */
#if defined(CUDNN_VERSION) && CUDNN_VERSION >= 90800

#include <vector>

namespace {

const int threads = 128;
const size_t oldest_version = 90800;

typedef cudnnBackendDescriptor_t Descriptor;

struct Cudnn {
  decltype(&cudnnGetVersion) version;
  decltype(&cudnnGetLastErrorString) last_error;
  decltype(&cudnnCreate) create_handle;
  decltype(&cudnnSetStream) set_stream;
  decltype(&cudnnBackendCreateDescriptor) create;
  decltype(&cudnnBackendDestroyDescriptor) destroy;
  decltype(&cudnnBackendSetAttribute) set;
  decltype(&cudnnBackendGetAttribute) get;
  decltype(&cudnnBackendFinalize) finalize;
  decltype(&cudnnBackendExecute) execute;
};

/* NULL where the library cannot be found or is too old. */
const Cudnn *open_cudnn() {
  static Cudnn library;
  static bool tried, good;
  if (tried) return good ? &library : nullptr;
  tried = true;
  void *file = nullptr;
  for (const char *name : {"libcudnn.so.9", "libcudnn_graph.so.9", "libcudnn.so"})
    if (!file) file = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (!file) return nullptr;
  const struct {
    const char *name;
    void *address;
  } functions[] = {{"cudnnGetVersion", &library.version},
                   {"cudnnGetLastErrorString", &library.last_error},
                   {"cudnnCreate", &library.create_handle},
                   {"cudnnSetStream", &library.set_stream},
                   {"cudnnBackendCreateDescriptor", &library.create},
                   {"cudnnBackendDestroyDescriptor", &library.destroy},
                   {"cudnnBackendSetAttribute", &library.set},
                   {"cudnnBackendGetAttribute", &library.get},
                   {"cudnnBackendFinalize", &library.finalize},
                   {"cudnnBackendExecute", &library.execute}};
  for (const auto &function : functions) {
    void *symbol = dlsym(file, function.name);
    if (!symbol) return nullptr;
    memcpy(function.address, &symbol, sizeof symbol);
  }
  good = library.version() >= oldest_version;
  return good ? &library : nullptr;
}

/* ---- plans ---- */

/* The device of a plan: that of the handle, or one that need not be there. */
struct Target {
  cudnnHandle_t handle;
  Descriptor device; /* without a handle */
};

struct Plan {
  AttentionGraph graph;
  bool made;       /* for graph.shape */
  Descriptor plan; /* NULL: the library has none */
  int64_t workspace_bytes;
  std::vector<Descriptor> all; /* that it was made of */
};

/* Makes descriptors. After the first error, which is kept, it does nothing. */
struct Maker {
  const Cudnn *cudnn;
  std::vector<Descriptor> *all;
  cudnnStatus_t status;

  bool good() const { return status == CUDNN_STATUS_SUCCESS; }

  Descriptor make(cudnnBackendDescriptorType_t type) {
    Descriptor made = nullptr;
    if (good()) status = cudnn->create(type, &made);
    if (made) all->push_back(made);
    return made;
  }

  void set(Descriptor d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t count,
           const void *values) {
    if (good()) status = cudnn->set(d, name, type, count, values);
  }
  void set_number(Descriptor d, cudnnBackendAttributeName_t name, int64_t value) {
    set(d, name, CUDNN_TYPE_INT64, 1, &value);
  }
  void set_type(Descriptor d, cudnnBackendAttributeName_t name, cudnnDataType_t value) {
    set(d, name, CUDNN_TYPE_DATA_TYPE, 1, &value);
  }
  void set_part(Descriptor d, cudnnBackendAttributeName_t name, Descriptor part) {
    set(d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &part);
  }
  void get(Descriptor d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t room,
           int64_t *count, void *values) {
    if (good()) status = cudnn->get(d, name, type, room, count, values);
  }

  Descriptor finish(Descriptor d) {
    if (good()) status = cudnn->finalize(d);
    return d;
  }
};

cudnnDataType_t type_of(GraphType type) {
  const cudnnDataType_t types[] = {CUDNN_DATA_BFLOAT16, CUDNN_DATA_FLOAT, CUDNN_DATA_INT32, CUDNN_DATA_INT64,
                                   CUDNN_DATA_BOOLEAN};
  return types[type];
}

bool by_value(int tensor) { return tensor == GRAPH_SCALE || tensor == GRAPH_HIDDEN || tensor == GRAPH_ONE; }

/* Tensors whose offsets are others come behind those. */
Descriptor make_tensor(Maker *m, const GraphTensor &t, int id, Descriptor offsets) {
  Descriptor d = m->make(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  bool is_virtual = id >= GRAPH_INNER, value = by_value(id);
  m->set_type(d, CUDNN_ATTR_TENSOR_DATA_TYPE, type_of(t.type));
  m->set(d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, t.size);
  m->set(d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, t.stride);
  m->set_number(d, CUDNN_ATTR_TENSOR_UNIQUE_ID, id);
  m->set_number(d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, 16);
  m->set(d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &is_virtual);
  m->set(d, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &value);
  if (offsets) m->set_part(d, CUDNN_ATTR_TENSOR_RAGGED_OFFSET_DESC, offsets);
  return m->finish(d);
}

Descriptor make_matmul(Maker *m, const GraphOperation &o, const Descriptor *tensors) {
  Descriptor product = m->make(CUDNN_BACKEND_MATMUL_DESCRIPTOR);
  m->set_type(product, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_DATA_FLOAT);
  m->finish(product);
  Descriptor d = m->make(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
  m->set_part(d, CUDNN_ATTR_OPERATION_MATMUL_ADESC, tensors[o.a]);
  m->set_part(d, CUDNN_ATTR_OPERATION_MATMUL_BDESC, tensors[o.b]);
  m->set_part(d, CUDNN_ATTR_OPERATION_MATMUL_CDESC, tensors[o.out]);
  m->set_part(d, CUDNN_ATTR_OPERATION_MATMUL_DESC, product);
  if (o.m) m->set_part(d, CUDNN_ATTR_OPERATION_MATMUL_GEMM_M_OVERRIDE_DESC, tensors[o.m]);
  if (o.n) m->set_part(d, CUDNN_ATTR_OPERATION_MATMUL_GEMM_N_OVERRIDE_DESC, tensors[o.n]);
  if (o.k) m->set_part(d, CUDNN_ATTR_OPERATION_MATMUL_GEMM_K_OVERRIDE_DESC, tensors[o.k]);
  return m->finish(d);
}

Descriptor make_reduction(Maker *m, const GraphOperation &o, const Descriptor *tensors) {
  cudnnReduceTensorOp_t mode = o.kind == GRAPH_MAX ? CUDNN_REDUCE_TENSOR_MAX : CUDNN_REDUCE_TENSOR_ADD;
  Descriptor reduction = m->make(CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
  m->set_type(reduction, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_DATA_FLOAT);
  m->set(reduction, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &mode);
  m->finish(reduction);
  Descriptor d = m->make(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
  m->set_part(d, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, tensors[o.a]);
  m->set_part(d, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, tensors[o.out]);
  m->set_part(d, CUDNN_ATTR_OPERATION_REDUCTION_DESC, reduction);
  return m->finish(d);
}

Descriptor make_reshape(Maker *m, const GraphOperation &o, const Descriptor *tensors) {
  Descriptor d = m->make(CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
  m->set_part(d, CUDNN_ATTR_OPERATION_RESHAPE_XDESC, tensors[o.a]);
  m->set_part(d, CUDNN_ATTR_OPERATION_RESHAPE_YDESC, tensors[o.out]);
  return m->finish(d);
}

cudnnPointwiseMode_t mode_of(GraphKind kind) {
  switch (kind) {
    case GRAPH_MUL:
      return CUDNN_POINTWISE_MUL;
    case GRAPH_ADD:
      return CUDNN_POINTWISE_ADD;
    case GRAPH_SUB:
      return CUDNN_POINTWISE_SUB;
    case GRAPH_DIV:
      return CUDNN_POINTWISE_DIV;
    case GRAPH_EXP:
      return CUDNN_POINTWISE_EXP;
    case GRAPH_LOG:
      return CUDNN_POINTWISE_LOG;
    case GRAPH_INDEX:
      return CUDNN_POINTWISE_GEN_INDEX;
    case GRAPH_GE:
      return CUDNN_POINTWISE_CMP_GE;
    case GRAPH_LT:
      return CUDNN_POINTWISE_CMP_LT;
    case GRAPH_AND:
      return CUDNN_POINTWISE_LOGICAL_AND;
    case GRAPH_SELECT:
      return CUDNN_POINTWISE_BINARY_SELECT;
    default:
      return CUDNN_POINTWISE_IDENTITY;
  }
}

/* Computed in the type of the result; numbers in fp32, whatever is stored. */
Descriptor make_pointwise(Maker *m, const GraphOperation &o, GraphType type, const Descriptor *tensors) {
  cudnnPointwiseMode_t mode = mode_of(o.kind);
  Descriptor pointwise = m->make(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
  m->set(pointwise, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
  m->set_type(pointwise, CUDNN_ATTR_POINTWISE_MATH_PREC, type_of(type == GRAPH_BF16 ? GRAPH_F32 : type));
  if (o.kind == GRAPH_INDEX) m->set_number(pointwise, CUDNN_ATTR_POINTWISE_AXIS, o.axis);
  m->finish(pointwise);
  Descriptor d = m->make(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
  m->set_part(d, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, pointwise);
  m->set_part(d, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, tensors[o.a]);
  if (o.b) m->set_part(d, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, tensors[o.b]);
  if (o.c) m->set_part(d, CUDNN_ATTR_OPERATION_POINTWISE_TDESC, tensors[o.c]);
  m->set_part(d, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, tensors[o.out]);
  return m->finish(d);
}

Descriptor make_operation(Maker *m, const GraphOperation &o, GraphType type, const Descriptor *tensors) {
  switch (o.kind) {
    case GRAPH_MATMUL:
      return make_matmul(m, o, tensors);
    case GRAPH_RESHAPE:
      return make_reshape(m, o, tensors);
    case GRAPH_MAX:
    case GRAPH_SUM:
      return make_reduction(m, o, tensors);
    default:
      return make_pointwise(m, o, type, tensors);
  }
}

Descriptor make_graph(Maker *m, const AttentionGraph &g, const Target &target) {
  Descriptor tensors[GRAPH_TENSORS] = {}, operations[GRAPH_OPERATIONS] = {};
  for (int with_offsets = 0; with_offsets < 2; with_offsets++)
    for (int i = 0; i < g.tensors; i++) {
      const GraphTensor &t = g.tensor[i];
      if (t.used && (t.offsets != GRAPH_NONE) == with_offsets)
        tensors[i] = make_tensor(m, t, i, tensors[t.offsets]);
    }
  for (int i = 0; i < g.operations; i++)
    operations[i] = make_operation(m, g.operation[i], g.tensor[g.operation[i].out].type, tensors);
  Descriptor graph = m->make(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  m->set(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, g.operations, operations);
  if (target.handle) m->set(graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &target.handle);
  return m->finish(graph);
}

/* The engines that the library suggests, the one that it takes for the fastest first. */
std::vector<Descriptor> suggested_engines(Maker *m, Descriptor graph, const Target &target) {
  const int64_t most = 8;
  cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A;
  Descriptor suggestions = m->make(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR), engines[most];
  m->set_part(suggestions, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
  m->set(suggestions, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
  if (!target.handle) m->set_part(suggestions, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, target.device);
  m->finish(suggestions);
  for (Descriptor &engine : engines) engine = m->make(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
  int64_t count = 0;
  m->get(suggestions, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, most, &count, engines);
  if (!m->good()) count = 0;
  return std::vector<Descriptor>(engines, engines + (count < most ? count : most));
}

Descriptor make_plan(Maker *m, Descriptor engine, const Target &target) {
  Descriptor plan = m->make(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
  m->set_part(plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, engine);
  if (target.handle)
    m->set(plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &target.handle);
  else
    m->set_part(plan, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, target.device);
  return m->finish(plan);
}

void free_plan(const Cudnn *cudnn, Plan *plan) {
  for (size_t i = plan->all.size(); i-- > 0;) cudnn->destroy(plan->all[i]);
  *plan = Plan();
}

/* What hinders the plan of the engine that was suggested first, if there is no other. */
cudnnStatus_t build_plan(const Cudnn *cudnn, const Target &target, const AttentionGraphShape &shape,
                         Plan *plan) {
  free_plan(cudnn, plan);
  attention_graph(&shape, &plan->graph);
  plan->made = true;
  Maker m = {cudnn, &plan->all, CUDNN_STATUS_SUCCESS};
  Descriptor graph = make_graph(&m, plan->graph, target);
  std::vector<Descriptor> engines = suggested_engines(&m, graph, target);
  cudnnStatus_t hindrance = m.good() ? CUDNN_STATUS_NOT_SUPPORTED : m.status;
  for (size_t i = 0; i < engines.size() && !plan->plan; i++) {
    m.status = CUDNN_STATUS_SUCCESS;
    Descriptor made = make_plan(&m, engines[i], target);
    m.get(made, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, nullptr,
          &plan->workspace_bytes);
    if (m.good()) plan->plan = made;
    if (i == 0 || m.good()) hindrance = m.status;
  }
  return hindrance;
}

/* ---- running ---- */

/* Attention and its gradient in one; out to the plan as GRAPH_OUT, whose values only the forward pass writes.
 */
struct Pass {
  AttentionGraphShape shape;
  const Sequences *sequences;
  const void *qkv, *out, *dout;
  void *dqkv;
  const float *lse; /* read by the backward pass */
};

struct Scratch {
  float *stats, *delta, *dqueries_sum;
  int32_t *lengths;
  int64_t *qkv_offsets, *out_offsets;
  void *workspace;
  size_t bytes;
};

/* Blocks of `base`, which may be NULL to learn how many bytes they take. */
Scratch lay_out(char *base, const AttentionGraphShape &s, size_t workspace_bytes) {
  Scratch out = {};
  auto take = [&](size_t bytes) {
    char *at = base + out.bytes;
    out.bytes += (bytes + 255) / 256 * 256;
    return base ? at : nullptr;
  };
  size_t count = static_cast<size_t>(s.count), rows = count * static_cast<size_t>(s.heads * s.max_len);
  out.stats = reinterpret_cast<float *>(take(rows * sizeof(float)));
  if (s.backward) {
    out.delta = reinterpret_cast<float *>(take(rows * sizeof(float)));
    out.dqueries_sum =
        reinterpret_cast<float *>(take(rows * static_cast<size_t>(s.head_dim) * sizeof(float)));
  }
  if (s.ragged) {
    out.lengths = reinterpret_cast<int32_t *>(take(count * sizeof(int32_t)));
    out.qkv_offsets = reinterpret_cast<int64_t *>(take((count + 1) * sizeof(int64_t)));
    out.out_offsets = reinterpret_cast<int64_t *>(take((count + 1) * sizeof(int64_t)));
  }
  out.workspace = take(workspace_bytes);
  return out;
}

/* What the plan reads in another form than ours. */
struct Rows {
  const int32_t *cu_seqlens;
  const float *lse;     /* [heads, tokens]; NULL: no statistics are wanted */
  float *stats;         /* [count, heads, max_len], zeros behind a sequence's end */
  int32_t *lengths;     /* [count]; NULL: nor the other two */
  int64_t *qkv_offsets; /* [count + 1] */
  int64_t *out_offsets;
  int count, heads, tokens, max_len, qkv_width, out_width;
};

/* Sequence blockIdx.x, head blockIdx.y. */
__global__ void __launch_bounds__(threads) unpack_rows(Rows r) {
  int b = static_cast<int>(blockIdx.x), h = static_cast<int>(blockIdx.y),
      thread = static_cast<int>(threadIdx.x);
  int begin = r.cu_seqlens[b], end = r.cu_seqlens[b + 1];
  if (r.lengths && h == 0 && thread == 0) {
    r.lengths[b] = end - begin;
    for (int i = b; i <= b + (b + 1 == r.count); i++) {
      r.qkv_offsets[i] = static_cast<int64_t>(r.cu_seqlens[i]) * r.qkv_width;
      r.out_offsets[i] = static_cast<int64_t>(r.cu_seqlens[i]) * r.out_width;
    }
  }
  if (!r.lse) return;
  const float *lse = r.lse + static_cast<size_t>(h) * static_cast<size_t>(r.tokens) + begin;
  float *stats = r.stats + (static_cast<size_t>(b) * gridDim.y + blockIdx.y) * static_cast<size_t>(r.max_len);
  for (int t = thread; t < r.max_len; t += threads) stats[t] = t < end - begin ? lse[t] : 0.0f;
}

void unpack(Backend *backend, const Pass &p, const Scratch &scratch) {
  const AttentionGraphShape &s = p.shape;
  if (!s.ragged && !p.lse) return;
  int out_width = s.heads * s.head_dim;
  Rows rows = {p.sequences->cu_seqlens,
               p.lse,
               scratch.stats,
               scratch.lengths,
               scratch.qkv_offsets,
               scratch.out_offsets,
               s.count,
               s.heads,
               p.sequences->tokens,
               s.max_len,
               out_width + 2 * s.kv_heads * s.head_dim,
               out_width};
  dim3 grid(static_cast<unsigned>(s.count), p.lse ? static_cast<unsigned>(s.heads) : 1u);
  launch(cuda_state(backend), {"unpack_rows", grid, threads, 0}, unpack_rows, rows);
}

/* Where each of the plan's tensors is, by GRAPH_...; values are the host's. */
struct Pointers {
  const void *at[GRAPH_INNER];
  float scale, hidden, one;
};

void find_pointers(const Pass &p, const Scratch &scratch, Pointers *out) {
  const AttentionGraphShape &s = p.shape;
  size_t keys = static_cast<size_t>(s.heads * s.head_dim),
         values = keys + static_cast<size_t>(s.kv_heads * s.head_dim);
  const bf16 *qkv = static_cast<const bf16 *>(p.qkv), *dqkv = static_cast<const bf16 *>(p.dqkv);
  *out = Pointers();
  out->scale = 1.0f / sqrtf(static_cast<float>(s.head_dim));
  out->hidden = -INFINITY;
  out->one = 1.0f;
  const void **at = out->at;
  at[GRAPH_QUERIES] = qkv;
  at[GRAPH_KEYS] = qkv + keys;
  at[GRAPH_VALUES] = qkv + values;
  at[GRAPH_OUT] = p.out;
  at[GRAPH_STATS] = scratch.stats;
  at[GRAPH_QUERY_LENGTHS] = at[GRAPH_KEY_LENGTHS] = scratch.lengths;
  at[GRAPH_QKV_OFFSETS] = scratch.qkv_offsets;
  at[GRAPH_OUT_OFFSETS] = scratch.out_offsets;
  at[GRAPH_SCALE] = &out->scale;
  at[GRAPH_HIDDEN] = &out->hidden;
  at[GRAPH_ONE] = &out->one;
  if (!s.backward) return;
  at[GRAPH_DOUT] = p.dout;
  at[GRAPH_DQUERIES] = dqkv;
  at[GRAPH_DKEYS] = dqkv + keys;
  at[GRAPH_DVALUES] = dqkv + values;
  at[GRAPH_DELTA] = scratch.delta;
  at[GRAPH_DQUERIES_SUM] = scratch.dqueries_sum;
}

bool execute(const Cudnn *cudnn, cudnnHandle_t handle, const Plan &plan, const Pointers &pointers,
             const void *workspace) {
  int64_t ids[GRAPH_INNER], count = 0;
  const void *at[GRAPH_INNER];
  for (int i = 0; i < GRAPH_INNER; i++)
    if (plan.graph.tensor[i].used) {
      ids[count] = i;
      at[count++] = pointers.at[i];
    }
  std::vector<Descriptor> made;
  Maker m = {cudnn, &made, CUDNN_STATUS_SUCCESS};
  Descriptor pack = m.make(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  m.set(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, count, ids);
  m.set(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, count, at);
  m.set(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace);
  m.finish(pack);
  bool done = m.good() && cudnn->execute(handle, plan.plan, pack) == CUDNN_STATUS_SUCCESS;
  for (Descriptor d : made) cudnn->destroy(d);
  return done;
}

/* One a program, for its device, or NULL. */
cudnnHandle_t open_handle(const Cudnn *cudnn) {
  static cudnnHandle_t handle;
  static bool tried;
  if (!tried && cudnn->create_handle(&handle) != CUDNN_STATUS_SUCCESS) handle = nullptr;
  tried = true;
  return handle;
}

/* The plan for a shape, or NULL. The last one of each pass is kept, so that measurements do not make any. */
const Plan *plan_for(const Cudnn *cudnn, cudnnHandle_t handle, const AttentionGraphShape &shape) {
  static Plan plans[2];
  Plan *plan = &plans[shape.backward];
  bool same = plan->made && memcmp(&plan->graph.shape, &shape, sizeof shape) == 0;
  if (!same) build_plan(cudnn, {handle, nullptr}, shape, plan);
  return plan->plan ? plan : nullptr;
}

bool run_pass(Backend *backend, const Pass &p) {
  const Cudnn *cudnn = open_cudnn();
  cudnnHandle_t handle = cudnn ? open_handle(cudnn) : nullptr;
  const Plan *plan = handle ? plan_for(cudnn, handle, p.shape) : nullptr;
  if (!plan) return false;
  size_t workspace = static_cast<size_t>(plan->workspace_bytes);
  char *base = static_cast<char *>(cuda_workspace(backend, lay_out(nullptr, p.shape, workspace).bytes));
  if (!base || cudnn->set_stream(handle, cuda_state(backend)->stream) != CUDNN_STATUS_SUCCESS) return false;
  Scratch scratch = lay_out(base, p.shape, workspace);
  Pointers pointers;
  find_pointers(p, scratch, &pointers);
  unpack(backend, p, scratch);
  return execute(cudnn, handle, *plan, pointers, scratch.workspace);
}

/* Sequences of one length are strided tensors; but the gradient of versions up to 9.15 errs where that length
 * is no multiple of a tile, and is told the lengths. */
AttentionGraphShape shape_of(const Sequences &s, int heads, int kv_heads, int head_dim, bool full,
                             bool backward) {
  AttentionGraphShape out = {};
  out.count = s.count, out.max_len = s.max_len;
  out.heads = heads, out.kv_heads = kv_heads, out.head_dim = head_dim;
  out.full = full, out.backward = backward;
  out.ragged = static_cast<int64_t>(s.count) * s.max_len != s.tokens || s.max_len % 128 != 0;
  return out;
}

}  // namespace

bool cuda_attention_cudnn(Backend *backend, const Attention *a) {
  const Sequences &s = a->sequences;
  if (a->prefix_len || s.branch || s.tokens == 0) return false;
  AttentionGraphShape shape = shape_of(s, a->heads, a->kv_heads, a->head_dim, a->full, false);
  return run_pass(backend, {shape, &s, a->qkv, a->out, nullptr, nullptr, nullptr});
}

bool cuda_attention_backward_cudnn(Backend *backend, const AttentionBackward *a) {
  const Sequences &s = a->sequences;
  if (a->prefix_len || s.branch || s.tokens == 0) return false;
  AttentionGraphShape shape = shape_of(s, a->heads, a->kv_heads, a->head_dim, a->full, true);
  return run_pass(backend, {shape, &s, a->qkv, a->out, a->dout, a->dqkv, a->lse});
}

/* Kernels are compiled when a plan is made. Without a driver the library says so once it has chosen an
 * engine; with one that has no such device, loading them fails. */
bool cudnn_takes(const AttentionGraphShape *shape, const char *device, bool *installed, char *why,
                 size_t room) {
  const Cudnn *cudnn = open_cudnn();
  *installed = cudnn != nullptr;
  why[0] = '\0';
  if (!cudnn) return false;
  Plan plan = {};
  std::vector<Descriptor> made;
  Maker m = {cudnn, &made, CUDNN_STATUS_SUCCESS};
  Descriptor properties = m.make(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
  m.set(properties, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
        static_cast<int64_t>(strlen(device)) + 1, device);
  m.finish(properties);
  if (m.good()) m.status = build_plan(cudnn, {nullptr, properties}, *shape, &plan);
  if (!m.good()) cudnn->last_error(why, room);
  free_plan(cudnn, &plan);
  for (Descriptor d : made) cudnn->destroy(d);
  return m.good() || CUDNN_STATUS_CATEGORY(m.status) == CUDNN_STATUS_EXECUTION_FAILED ||
         strstr(why, "RUNTIME_PREREQUISITE_MISSING");
}

#else

bool cuda_attention_cudnn(Backend *, const Attention *) { return false; }
bool cuda_attention_backward_cudnn(Backend *, const AttentionBackward *) { return false; }

bool cudnn_takes(const AttentionGraphShape *, const char *, bool *installed, char *, size_t) {
  return *installed = false;
}

#endif

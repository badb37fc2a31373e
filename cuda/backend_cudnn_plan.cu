/* Plans of attention by cuDNN: the graphs of attention_graph.c as descriptors of its backend interface, the
 * engine that its heuristics put first, an execution plan. Needs no device but to run a plan. */
#include <string.h>

#include "cudnn_plan.h"
#include "library.h"

#ifdef POPALM_CUDNN

const Cudnn *open_cudnn() {
  static Cudnn library;
  static bool tried, good;
  if (tried) return good ? &library : nullptr;
  tried = true;
  void *file = library_open({"libcudnn.so.9", "libcudnn_graph.so.9", "libcudnn.so"});
  good = file &&
         library_find(file, {{"cudnnGetVersion", &library.version},
                             {"cudnnGetLastErrorString", &library.last_error},
                             {"cudnnCreate", &library.create_handle},
                             {"cudnnSetStream", &library.set_stream},
                             {"cudnnBackendCreateDescriptor", &library.create},
                             {"cudnnBackendDestroyDescriptor", &library.destroy},
                             {"cudnnBackendSetAttribute", &library.set},
                             {"cudnnBackendGetAttribute", &library.get},
                             {"cudnnBackendFinalize", &library.finalize},
                             {"cudnnBackendExecute", &library.execute}}) &&
         library.version() >= 90800;
  return good ? &library : nullptr;
}

namespace {

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
  const cudnnPointwiseMode_t modes[] = {
      CUDNN_POINTWISE_IDENTITY, CUDNN_POINTWISE_MUL,         CUDNN_POINTWISE_ADD,
      CUDNN_POINTWISE_SUB,      CUDNN_POINTWISE_DIV,         CUDNN_POINTWISE_EXP,
      CUDNN_POINTWISE_LOG,      CUDNN_POINTWISE_GEN_INDEX,   CUDNN_POINTWISE_CMP_GE,
      CUDNN_POINTWISE_CMP_LT,   CUDNN_POINTWISE_LOGICAL_AND, CUDNN_POINTWISE_BINARY_SELECT};
  return modes[kind - GRAPH_IDENTITY];
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

}  // namespace

void free_plan(const Cudnn *cudnn, Plan *plan) {
  for (size_t i = plan->all.size(); i-- > 0;) cudnn->destroy(plan->all[i]);
  *plan = Plan();
}

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
    int64_t count = 0;
    m.get(made, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &count,
          &plan->workspace_bytes);
    if (m.good()) plan->plan = made;
    if (i == 0 || m.good()) hindrance = m.status;
  }
  return hindrance;
}

/* Kernels are compiled when a plan is made. Without a driver the library says so once it has chosen an
 * engine; with one that has no such device, loading them fails. */
bool cudnn_takes_graph(const AttentionGraphShape *shape, const char *device, bool *installed, char *why,
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

bool cudnn_takes_graph(const AttentionGraphShape *, const char *, bool *installed, char *, size_t) {
  return *installed = false;
}

#endif

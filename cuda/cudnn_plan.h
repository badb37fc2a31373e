/* cuDNN's backend interface, opened at run time, and plans of attention made through it: what
 * backend_cudnn_plan.cu gives to backend_cudnn.cu. POPALM_CUDNN is defined where the library's headers were
 * found when this was compiled. */
#ifndef POPALM_CUDNN_PLAN_H
#define POPALM_CUDNN_PLAN_H

#include <vector>

#include "attention_graph.h"

#if __has_include(<cudnn_graph.h>)
#include <cudnn_graph.h>
#endif

/* Before 9.8 a plan cannot be made without its device, and much of attention differs. */
#if defined(CUDNN_VERSION) && CUDNN_VERSION >= 90800
#define POPALM_CUDNN

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

/* NULL where the library cannot be found or is too old. Stays open until the program ends. */
const Cudnn *open_cudnn();

/* Frees what the plan was, if anything. Returns what hinders the plan of the engine that was suggested first,
 * if no other has one. */
cudnnStatus_t build_plan(const Cudnn *cudnn, const Target &target, const AttentionGraphShape &shape,
                         Plan *plan);
void free_plan(const Cudnn *cudnn, Plan *plan);

#endif
#endif

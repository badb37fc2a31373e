/* cuDNN's attention, for `popalm bench` to compare with. The plan of the last shape is kept for each pass
 * (backend_cudnn_plan.cu), so that no measurement makes one. The backward pass takes the statistics as [B,
 * Hq, T] and, where lengths differ, both passes the lengths and offsets of the sequences; these and the
 * plan's own workspace are in the backend's scratch memory. */
#include <math.h>
#include <string.h>

#include "cudnn_plan.h"
#include "primitives.cuh"

#ifdef POPALM_CUDNN

namespace {

/* Attention or its gradient. The forward pass writes out. */
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

void unpack(Backend *backend, const Pass &p, const Scratch &scratch) {
  const AttentionGraphShape &s = p.shape;
  int out_width = s.heads * s.head_dim;
  UnpackRows rows = {p.sequences->cu_seqlens,
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
  if (s.ragged || p.lse) cuda_unpack_rows(backend, rows);
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

/* The plan for a shape, or NULL. The last one of each pass is kept; another is made when the device has done
 * with it.
 */
const Plan *plan_for(Backend *backend, const AttentionGraphShape &shape) {
  static Plan plans[2];
  const Cudnn *cudnn = open_cudnn();
  cudnnHandle_t handle = cudnn ? open_handle(cudnn) : nullptr;
  if (!handle) return nullptr;
  Plan *plan = &plans[shape.backward];
  bool same = plan->made && memcmp(&plan->graph.shape, &shape, sizeof shape) == 0;
  if (!same && backend->synchronize(backend) != OK) return nullptr;
  if (!same) build_plan(cudnn, {handle, nullptr}, shape, plan);
  return plan->plan ? plan : nullptr;
}

bool run_pass(Backend *backend, const Pass &p) {
  const Cudnn *cudnn = open_cudnn();
  cudnnHandle_t handle = open_handle(cudnn);
  const Plan *plan = plan_for(backend, p.shape);
  size_t workspace = static_cast<size_t>(plan->workspace_bytes);
  char *base = static_cast<char *>(cuda_workspace(backend, lay_out(nullptr, p.shape, workspace).bytes));
  if (!base) return false;
  Scratch scratch = lay_out(base, p.shape, workspace);
  Pointers pointers;
  find_pointers(p, scratch, &pointers);
  unpack(backend, p, scratch);
  return cudnn->set_stream(handle, cuda_state(backend)->stream) == CUDNN_STATUS_SUCCESS &&
         execute(cudnn, handle, *plan, pointers, scratch.workspace);
}

/* Sequences of one length are strided tensors; but the gradient of versions up to 9.15 errs where that length
 * is no multiple of a tile, and is told the lengths. */
template <typename Operation>
AttentionGraphShape shape_of(const Operation &op, bool backward) {
  const Sequences &s = op.sequences;
  AttentionGraphShape out = {};
  out.count = s.count, out.max_len = s.max_len;
  out.heads = op.heads, out.kv_heads = op.kv_heads, out.head_dim = op.head_dim;
  out.full = op.full, out.backward = backward;
  out.ragged = static_cast<int64_t>(s.count) * s.max_len != s.tokens || s.max_len % 128 != 0;
  return out;
}

template <typename Operation>
bool takes(Backend *backend, const Operation &op, bool backward) {
  return !op.prefix_len && !op.sequences.branch && op.sequences.tokens &&
         plan_for(backend, shape_of(op, backward));
}

}  // namespace

bool cudnn_takes(Backend *backend, const Attention &op) { return takes(backend, op, false); }

bool cudnn_takes(Backend *backend, const AttentionBackward &op) { return takes(backend, op, true); }

bool cuda_attention_cudnn(Backend *backend, const Attention *a) {
  return run_pass(backend, {shape_of(*a, false), &a->sequences, a->qkv, a->out, nullptr, nullptr, nullptr});
}

bool cuda_attention_backward_cudnn(Backend *backend, const AttentionBackward *a) {
  return run_pass(backend, {shape_of(*a, true), &a->sequences, a->qkv, a->out, a->dout, a->dqkv, a->lse});
}

#else

bool cudnn_takes(Backend *, const Attention &) { return false; }
bool cudnn_takes(Backend *, const AttentionBackward &) { return false; }
bool cuda_attention_cudnn(Backend *, const Attention *) { return false; }
bool cuda_attention_backward_cudnn(Backend *, const AttentionBackward *) { return false; }

#endif

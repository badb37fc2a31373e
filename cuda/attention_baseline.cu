/* What `popalm bench` compares attention with: the portable kernel where another one is used, and attention
 * without fusion (backend_baseline.cu). */
#include "primitives.cuh"

namespace {

const char *const portable = "portable kernel";

/* Whether the kernels for compute capability 9.0 are the ones that are measured. */
bool hopper_fits(Backend *backend, int head_dim, int prefix_len, bool backward) {
  return cuda_state(backend)->hopper && (head_dim == 64 || head_dim == 128) && !(backward && prefix_len);
}

}  // namespace

bool cuda_attention_baseline(Backend *backend, const Attention *op, int which, const char **name) {
  bool fits = hopper_fits(backend, op->head_dim, op->prefix_len, false);
  if (which == 0 && fits) {
    *name = portable;
    cuda_attention_portable(backend, op);
    return true;
  }
  return which == fits && cuda_attention_unfused(backend, op, name);
}

bool cuda_attention_backward_baseline(Backend *backend, const AttentionBackward *op, int which,
                                      const char **name) {
  if (which != 0 || !hopper_fits(backend, op->head_dim, op->prefix_len, true)) return false;
  *name = portable;
  cuda_attention_backward_portable(backend, op);
  return true;
}

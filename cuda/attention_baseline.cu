/* What `popalm bench` compares attention with: the portable kernel where another one is used, and attention
 * without fusion (backend_baseline.cu). */
#include "attention_tile.cuh"

namespace {

const char *const portable = "portable kernel";

}  // namespace

bool cuda_attention_baseline(Backend *backend, const Attention *op, int which, const char **name) {
  bool fits = hopper_fits(backend, *op);
  if (which == 0 && fits) {
    *name = portable;
    cuda_attention_portable(backend, op);
    return true;
  }
  return which == fits && cuda_attention_unfused(backend, op, name);
}

bool cuda_attention_backward_baseline(Backend *backend, const AttentionBackward *op, int which,
                                      const char **name) {
  if (which != 0 || !hopper_fits(backend, *op)) return false;
  *name = portable;
  cuda_attention_backward_portable(backend, op);
  return true;
}

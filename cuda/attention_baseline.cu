/* What `popalm bench` compares attention with: the portable kernel where another one is used, attention
 * without fusion (backend_baseline.cu), and cuDNN's (backend_cudnn.cu). */
#include "attention_tile.cuh"

namespace {

template <typename Operation>
struct Candidate {
  Baseline is;
  bool (*fits)(Backend *, const Operation &);
  bool (*run)(Backend *, const Operation *); /* false: it failed */
};

bool run_portable(Backend *backend, const Attention *op) {
  cuda_attention_portable(backend, op);
  return true;
}

bool run_portable(Backend *backend, const AttentionBackward *op) {
  cuda_attention_backward_portable(backend, op);
  return true;
}

const Candidate<Attention> forward[] = {
    {{"portable kernel", false, false}, hopper_fits, run_portable},
    {{"cuBLAS, scores stored", true, false}, cublas_takes, cuda_attention_unfused},
    {{"cuDNN", false, false}, cudnn_takes, cuda_attention_cudnn},
};

const Candidate<AttentionBackward> backward[] = {
    {{"portable kernel", false, false}, hopper_fits, run_portable},
    {{"cuBLAS, scores stored", true, false}, cublas_takes, cuda_attention_backward_unfused},
    {{"cuDNN", false, false}, cudnn_takes, cuda_attention_backward_cudnn},
};

/* Of the candidates that fit, number `which`. */
template <typename Operation, size_t count>
bool run_candidate(const Candidate<Operation> (&candidates)[count], Backend *backend, const Operation *op,
                   int which, Baseline *is) {
  for (const Candidate<Operation> &candidate : candidates) {
    if (!candidate.fits(backend, *op) || which-- > 0) continue;
    *is = candidate.is;
    is->failed = !candidate.run(backend, op);
    return true;
  }
  return false;
}

}  // namespace

bool cuda_attention_baseline(Backend *backend, const Attention *op, int which, Baseline *is) {
  return run_candidate(forward, backend, op, which, is);
}

bool cuda_attention_backward_baseline(Backend *backend, const AttentionBackward *op, int which,
                                      Baseline *is) {
  return run_candidate(backward, backend, op, which, is);
}

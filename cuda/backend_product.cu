/* cuda_product by cuBLASLt: d = scale a b (+ bias) (+ d), the epilogue fused. The library is opened at run
 * time: it is half a gigabyte, which a run on the CPU need not load, and a machine without it still has the
 * kernel of product.cu. cuBLASLt knows column-major matrices; a row-major matrix is its transposed, so it
 * computes d^T [n, m] = b^T a^T.
 *
 * What the library suggests for a shape is kept, one suggestion a slot of a hash table: asking costs it tens
 * of microseconds. The same shape gets the same algorithm in every run, so results are reproducible. */
#include <cublasLt.h>
#include <cuda_runtime.h>
#include <dlfcn.h>
#include <string.h>

#include <new>

extern "C" {
#include "base/hash.h"
}
#include "cuda_backend.h"
#include "library.h"
#include "scratch.h"

namespace {

const size_t workspace_bytes = PRODUCT_SCRATCH_BYTES;
const int slots = 2048;

/* Everything that a suggestion depends on. No padding: compared as bytes. */
struct Shape {
  int32_t m, n, k, lda, ldb, ldd;
  uint8_t a_transposed, b_transposed, wide, bias; /* wide: d is fp32 */
  uint8_t align_a, align_b, align_d, accumulate;  /* alignments in bytes, at most 128 */
};

struct Plan {
  Shape shape;
  bool filled, usable; /* usable: the library has an algorithm */
  cublasLtMatmulDesc_t product;
  cublasLtMatrixLayout_t a, b, d;
  cublasLtMatmulAlgo_t algorithm;
};

}  // namespace

struct CublasLt {
  void *file;
  decltype(&cublasLtCreate) create;
  decltype(&cublasLtDestroy) destroy;
  decltype(&cublasLtGetVersion) version;
  decltype(&cublasLtMatmul) matmul;
  decltype(&cublasLtMatmulDescCreate) product_create;
  decltype(&cublasLtMatmulDescDestroy) product_destroy;
  decltype(&cublasLtMatmulDescSetAttribute) product_set;
  decltype(&cublasLtMatrixLayoutCreate) layout_create;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set;
  decltype(&cublasLtMatmulAlgoGetHeuristic) suggest;
  cublasLtHandle_t handle;
  void *workspace;
  Plan plans[slots];
};

namespace {

bool open_functions(CublasLt *l) {
  l->file = library_open({"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"});
  return l->file && library_find(l->file, {{"cublasLtCreate", &l->create},
                                           {"cublasLtDestroy", &l->destroy},
                                           {"cublasLtGetVersion", &l->version},
                                           {"cublasLtMatmul", &l->matmul},
                                           {"cublasLtMatmulDescCreate", &l->product_create},
                                           {"cublasLtMatmulDescDestroy", &l->product_destroy},
                                           {"cublasLtMatmulDescSetAttribute", &l->product_set},
                                           {"cublasLtMatrixLayoutCreate", &l->layout_create},
                                           {"cublasLtMatrixLayoutDestroy", &l->layout_destroy},
                                           {"cublasLtMatmulPreferenceCreate", &l->preference_create},
                                           {"cublasLtMatmulPreferenceDestroy", &l->preference_destroy},
                                           {"cublasLtMatmulPreferenceSetAttribute", &l->preference_set},
                                           {"cublasLtMatmulAlgoGetHeuristic", &l->suggest}});
}

uint8_t alignment(const void *pointer, int ld, size_t element) {
  uintptr_t bits = reinterpret_cast<uintptr_t>(pointer) | static_cast<uintptr_t>(ld) * element | 128u;
  return static_cast<uint8_t>(bits & (~bits + 1));
}

Shape shape_of(const Product &p) {
  Shape s = {};
  s.m = p.m, s.n = p.n, s.k = p.k;
  s.lda = p.lda, s.ldb = p.ldb, s.ldd = p.ldd;
  s.a_transposed = p.a_transposed, s.b_transposed = p.b_transposed;
  s.wide = p.out == F32, s.bias = p.bias != nullptr, s.accumulate = p.accumulate;
  s.align_a = alignment(p.a, p.lda, 2);
  s.align_b = alignment(p.b, p.ldb, 2);
  s.align_d = alignment(p.d, p.ldd, p.out == F32 ? 4 : 2);
  return s;
}

void clear_plan(CublasLt *l, Plan *plan) {
  if (plan->product) l->product_destroy(plan->product);
  for (cublasLtMatrixLayout_t layout : {plan->a, plan->b, plan->d})
    if (layout) l->layout_destroy(layout);
  *plan = Plan();
}

/* In the library's names a is our b and b our a. */
bool describe_product(CublasLt *l, Plan *plan) {
  const Shape &s = plan->shape;
  cudaDataType_t d_type = s.wide ? CUDA_R_32F : CUDA_R_16BF;
  uint64_t m = static_cast<uint64_t>(s.m), n = static_cast<uint64_t>(s.n), k = static_cast<uint64_t>(s.k);
  cublasOperation_t of_a = s.b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
  cublasOperation_t of_b = s.a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
  cublasLtEpilogue_t epilogue = s.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
  return !l->product_create(&plan->product, CUBLAS_COMPUTE_32F, CUDA_R_32F) &&
         !l->product_set(plan->product, CUBLASLT_MATMUL_DESC_TRANSA, &of_a, sizeof of_a) &&
         !l->product_set(plan->product, CUBLASLT_MATMUL_DESC_TRANSB, &of_b, sizeof of_b) &&
         !l->product_set(plan->product, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue) &&
         !l->layout_create(&plan->a, CUDA_R_16BF, s.b_transposed ? k : n, s.b_transposed ? n : k, s.ldb) &&
         !l->layout_create(&plan->b, CUDA_R_16BF, s.a_transposed ? m : k, s.a_transposed ? k : m, s.lda) &&
         !l->layout_create(&plan->d, d_type, n, m, s.ldd);
}

bool ask_for_algorithm(CublasLt *l, Plan *plan) {
  const Shape &s = plan->shape;
  const struct {
    cublasLtMatmulPreferenceAttributes_t name;
    uint32_t bytes;
  } alignments[] = {{CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, s.align_b},
                    {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, s.align_a},
                    {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, s.align_d},
                    {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, s.align_d}};
  cublasLtMatmulPreference_t preference = nullptr;
  cublasLtMatmulHeuristicResult_t result = {};
  size_t scratch = workspace_bytes;
  int found = 0;
  bool good =
      !l->preference_create(&preference) &&
      !l->preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &scratch, sizeof scratch);
  for (const auto &alignment : alignments)
    good = good && !l->preference_set(preference, alignment.name, &alignment.bytes, sizeof alignment.bytes);
  good = good && !l->suggest(l->handle, plan->product, plan->a, plan->b, plan->d, plan->d, preference, 1,
                             &result, &found);
  if (preference) l->preference_destroy(preference);
  if (!good || found == 0 || result.state != CUBLAS_STATUS_SUCCESS) return false;
  plan->algorithm = result.algo;
  return true;
}

Plan *plan_for(CublasLt *l, const Shape &shape) {
  Plan *plan = &l->plans[hash64(&shape, sizeof shape) % slots];
  if (plan->filled && memcmp(&plan->shape, &shape, sizeof shape) == 0) return plan;
  clear_plan(l, plan);
  plan->shape = shape;
  plan->filled = true;
  plan->usable = describe_product(l, plan) && ask_for_algorithm(l, plan);
  return plan;
}

bool library_product(Backend *backend, const Product &p) {
  CublasLt *l = cuda_state(backend)->library;
  Plan *plan = plan_for(l, shape_of(p));
  if (!plan->usable) return false;
  if (p.bias && l->product_set(plan->product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &p.bias, sizeof p.bias))
    return false;
  const float alpha = p.scale != 0.0f ? p.scale : 1.0f, beta = p.accumulate ? 1.0f : 0.0f;
  return !l->matmul(l->handle, plan->product, &alpha, p.b, plan->a, p.a, plan->b, &beta, p.d, plan->d, p.d,
                    plan->d, &plan->algorithm, l->workspace, workspace_bytes, cuda_state(backend)->stream);
}

}  // namespace

CublasLt *cublaslt_open(void) {
  CublasLt *l = new (std::nothrow) CublasLt();
  if (!l) return nullptr;
  if (open_functions(l) && !l->create(&l->handle) && !cudaMalloc(&l->workspace, workspace_bytes)) return l;
  cudaGetLastError();
  cublaslt_close(l);
  return nullptr;
}

void cublaslt_close(CublasLt *l) {
  if (!l) return;
  for (Plan &plan : l->plans)
    if (plan.filled) clear_plan(l, &plan);
  cudaFree(l->workspace);
  if (l->handle) l->destroy(l->handle);
  if (l->file) dlclose(l->file);
  delete l;
}

size_t cublaslt_version(const CublasLt *l) { return l ? l->version() : 0; }

void cuda_product(Backend *backend, const Product *p) {
  if (p->m == 0 || p->n == 0) return;
  /* The library takes no empty sum, and a bias only of d's type. */
  bool known = cuda_state(backend)->library && p->k > 0 && !(p->bias && p->out == F32);
  if (!known || !library_product(backend, *p)) cuda_product_plain(backend, p);
}

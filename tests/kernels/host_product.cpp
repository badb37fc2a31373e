/* cuda_product in the host-run tests: plain loops instead of cuBLASLt. */
#include <vector>

#include "primitives.cuh"

static void multiply(const Product *p) {
  const bf16 *a = static_cast<const bf16 *>(p->a), *b = static_cast<const bf16 *>(p->b);
  size_t m = static_cast<size_t>(p->m), n = static_cast<size_t>(p->n), k = static_cast<size_t>(p->k);
  size_t lda = static_cast<size_t>(p->lda), ldb = static_cast<size_t>(p->ldb),
         ldd = static_cast<size_t>(p->ldd);
  float scale = p->scale != 0 ? p->scale : 1;
  std::vector<float> row(n);
  for (size_t i = 0; i < m; i++) {
    row.assign(n, 0.0f);
    for (size_t l = 0; l < k; l++) {
      float x = to_float(p->a_transposed ? a[l * lda + i] : a[i * lda + l]);
      for (size_t j = 0; j < n; j++)
        row[j] += x * to_float(p->b_transposed ? b[j * ldb + l] : b[l * ldb + j]);
    }
    for (size_t j = 0; j < n; j++) {
      row[j] = row[j] * scale + (p->bias ? to_float(static_cast<const bf16 *>(p->bias)[j]) : 0.0f);
      float *wide = static_cast<float *>(p->d) + i * ldd + j;
      bf16 *narrow = static_cast<bf16 *>(p->d) + i * ldd + j;
      if (p->out == F32)
        *wide = p->accumulate ? *wide + row[j] : row[j];
      else
        *narrow = to_bf16(p->accumulate ? to_float(*narrow) + row[j] : row[j]);
    }
  }
}

void cuda_product(Backend *, const Product *p) {
  Product product = *p;
  emulator_submit([product] { multiply(&product); });
}

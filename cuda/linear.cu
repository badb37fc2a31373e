/* y = scale x Wt + bias;  dx = scale dy W;  dW += scale dyt x;  dbias += column sums of dy
 *
 * Shapes: x [rows, in], W [out, in], y [rows, out]. The products are cuda_product's: 2 rows in out operations
 * each. The column sums are kernels of our own, since an epilogue of the product could write them but not add
 * to them. Weights in int8 are dequantised into the workspace first. The column sums read dy once more, 2
 * rows out bytes: slices of 256 rows into fp32 partial sums, then the slices in their order. */
#include "primitives.cuh"
#include "scratch.h"

namespace {

const int slice_rows = COLUMN_ROWS;
const int threads = 256, warps = threads / 32;
const int block_columns = 32 * 8; /* 8 a lane */

/* partial[slice][column] = sum of the slice's rows */
__global__ void __launch_bounds__(threads)
    column_sums(const bf16 *dy, int stride, int rows, int columns, float *partial) {
  SHARED(float, sums, [warps][block_columns]);
  int column = static_cast<int>(blockIdx.x) * block_columns + lane_index() * 8;
  int first = static_cast<int>(blockIdx.y) * slice_rows;
  int end = first + slice_rows < rows ? first + slice_rows : rows;
  bool whole = columns % 8 == 0 && stride % 8 == 0 && column < columns;
  float sum[8] = {};
  for (int row = first + warp_index(); row < end; row += warps) {
    const bf16 *from = dy + static_cast<size_t>(row) * static_cast<size_t>(stride) + column;
    float x[8] = {};
    if (whole) {
      load8(from, x);
    } else {
#pragma unroll
      for (int i = 0; i < 8; i++)
        if (column + i < columns) x[i] = to_float(from[i]);
    }
#pragma unroll
    for (int i = 0; i < 8; i++) sum[i] += x[i];
  }
#pragma unroll
  for (int i = 0; i < 8; i++) sums[warp_index()][lane_index() * 8 + i] = sum[i];
  block_sync();
  int own = static_cast<int>(threadIdx.x), out = static_cast<int>(blockIdx.x) * block_columns + own;
  if (out >= columns) return;
  float total = 0.0f;
  for (int w = 0; w < warps; w++) total += sums[w][own];
  partial[static_cast<size_t>(blockIdx.y) * static_cast<size_t>(columns) + static_cast<size_t>(out)] = total;
}

int stride_of(const LinearBackward &op) { return op.dy_stride ? op.dy_stride : op.out; }

void add_column_sums(Backend *backend, const LinearBackward &op) {
  unsigned slices = static_cast<unsigned>(ceil_div<int>(op.rows, slice_rows));
  unsigned column_blocks = static_cast<unsigned>(ceil_div<int>(op.out, block_columns));
  float *partial = static_cast<float *>(
      cuda_workspace(backend, static_cast<size_t>(slices) * static_cast<size_t>(op.out) * sizeof(float)));
  if (!partial) return;
  launch(cuda_state(backend), {"column_sums", dim3(column_blocks, slices), threads, 0}, column_sums,
         static_cast<const bf16 *>(op.dy), stride_of(op), op.rows, op.out, partial);
  cuda_add_slices(backend, partial, static_cast<int>(slices), op.dbias, op.out, nullptr, 0);
}

}  // namespace

void cuda_linear(Backend *backend, const Linear *op) {
  Product product = {};
  if (op->rows == 0 || !cuda_find_weight(backend, op->weight, op->weight_type, op->out, op->in, &product.b))
    return;
  product.a = op->x;
  product.d = op->y;
  product.m = op->rows;
  product.n = op->out;
  product.k = op->in;
  product.b_transposed = true;
  product.lda = product.ldb = op->in;
  product.ldd = op->y_stride ? op->y_stride : op->out;
  product.scale = op->scale;
  product.out = BF16;
  product.bias = op->bias;
  product.accumulate = op->accumulate;
  cuda_product(backend, &product);
}

void cuda_linear_backward(Backend *backend, const LinearBackward *op) {
  if (op->rows == 0) return;
  Product product = {};
  product.a = op->dy;
  product.lda = stride_of(*op);
  product.scale = op->scale;
  product.ldb = product.ldd = op->in;
  product.n = op->in;
  product.out = BF16;
  if (op->dx) {
    if (!cuda_find_weight(backend, op->weight, op->weight_type, op->out, op->in, &product.b)) return;
    product.d = op->dx;
    product.m = op->rows;
    product.k = op->out;
    product.accumulate = op->accumulate;
    cuda_product(backend, &product);
  }
  if (op->dweight) {
    product.a_transposed = true;
    product.b = op->x;
    product.d = op->dweight;
    product.m = op->out;
    product.k = op->rows;
    product.accumulate = true;
    cuda_product(backend, &product);
  }
  if (op->dbias) add_column_sums(backend, *op);
}

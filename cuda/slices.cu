/* The second step of sums over many rows, of which each slice of rows left one partial sum a column:
 *   into[c] += partial[0][c] + partial[1][c] + ...
 * Shapes: partial [slices, columns] fp32, into [columns] bf16. A warp takes a contiguous range of the slices,
 * a lane a column; the warps' sums are added in their order, so the bits depend on the shapes alone. Lower
 * bound: 4 slices columns bytes, from the L2, where the first step has just left them. */
#include "primitives.cuh"

namespace {

const int warps = 8, threads = warps * 32;

/* Columns below split go to first, the others to second. */
struct Targets {
  bf16 *first, *second;
  int split, columns;
};

__global__ void __launch_bounds__(threads) add_slices(const float *partial, int slices, Targets to) {
  SHARED(float, sums, [warps][32]);
  int column = static_cast<int>(blockIdx.x) * 32 + lane_index(), range = ceil_div(slices, warps);
  int begin = warp_index() * range, end = begin + range < slices ? begin + range : slices;
  float total = 0.0f;
  if (column < to.columns)
    for (int s = begin; s < end; s++)
      total +=
          partial[static_cast<size_t>(s) * static_cast<size_t>(to.columns) + static_cast<size_t>(column)];
  sums[warp_index()][lane_index()] = total;
  block_sync();
  if (warp_index() != 0 || column >= to.columns) return;
  bf16 *into = column < to.split ? to.first : to.second;
  if (!into) return;
  for (int w = 1; w < warps; w++) total += sums[w][lane_index()];
  into += column < to.split ? column : column - to.split;
  *into = to_bf16(to_float(*into) + total);
}

}  // namespace

void cuda_add_slices(Backend *backend, const float *partial, int slices, void *first, int split, void *second,
                     int others) {
  if (!first && !second) return;
  Targets to = {static_cast<bf16 *>(first), static_cast<bf16 *>(second), split, split + others};
  unsigned blocks = static_cast<unsigned>(ceil_div(to.columns, 32));
  launch(cuda_state(backend), {"add_slices", blocks, threads, 0}, add_slices, partial, slices, to);
}

/* The emulator under the thread sanitizer: races are reported with their lines, though every result here is
 * right in the order in which the threads run, and kernels without a race are not. Each kernel runs in a
 * child process. */
#include <sys/wait.h>
#include <unistd.h>

#include <string>

#include "kernel_test.h"

namespace {

/* What the sanitizer writes while a child runs body; "" if it has nothing to say. */
template <typename Body>
std::string report_of(Body body) {
  int ends[2];
  assert_int_equal(pipe(ends), 0);
  fflush(nullptr);
  pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    dup2(ends[1], 2);
    close(ends[0]);
    close(ends[1]);
    emulator_schedule(schedule_number(0));
    body();
    exit(0);
  }
  close(ends[1]);
  std::string text;
  char part[4096];
  for (ssize_t n; (n = read(ends[0], part, sizeof part)) > 0;) text.append(part, static_cast<size_t>(n));
  close(ends[0]);
  int status = 0;
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_true(WIFEXITED(status));
  if (text.empty() != (WEXITSTATUS(status) == 0))
    fail_msg("exit status %d with the words \"%s\"", WEXITSTATUS(status), text.c_str());
  return text;
}

struct Line {
  int number;
};

/* A race is reported, between the two lines. */
void expect_race(const std::string &report, Line first, Line second) {
  if (report.find("data race") == std::string::npos) fail_msg("no race in the report \"%s\"", report.c_str());
  for (Line line : {first, second})
    if (report.find("test_races.cpp:" + std::to_string(line.number)) == std::string::npos)
      fail_msg("line %d is not in the report\n%s", line.number, report.c_str());
}

void expect_none(const std::string &report) {
  if (!report.empty()) fail_msg("a report on a kernel without a race:\n%s", report.c_str());
}

template <typename... Parameters, typename... Arguments>
std::string report_of_launch(unsigned blocks, unsigned threads, bool cooperative,
                             void (*kernel)(Parameters...), Arguments... arguments) {
  return report_of([&] {
    Launch shape = {"racing", blocks, threads, 16384 + 8};
    if (cooperative)
      launch_cooperative(cuda_state(emulator_backend()), shape, kernel, arguments...);
    else
      launch(cuda_state(emulator_backend()), shape, kernel, arguments...);
  });
}

const Line neighbour_writes = {__LINE__ + 3}, neighbour_reads = {__LINE__ + 6};
void neighbour(int *out, unsigned distance, bool block, bool warp) {
  SHARED(int, slot, [64]);
  slot[threadIdx.x] = static_cast<int>(threadIdx.x);
  if (block) block_sync();
  if (warp) warp_sync();
  out[threadIdx.x] = slot[threadIdx.x ^ distance];
}

void two_barriers_apart(int *out) {
  SHARED(int, slot, [64]);
  for (unsigned i = 0; i < 4; i++) {
    slot[(threadIdx.x + i) % 64] = static_cast<int>(i);
    block_sync();
    out[threadIdx.x] = slot[(threadIdx.x + i * 7) % 64];
    block_sync();
  }
}

const Line reuse_reads = {__LINE__ + 6}, reuse_writes = {__LINE__ + 4};
void reuses_too_early(int *out) {
  SHARED(int, slot, [64]);
  for (unsigned i = 0; i < 2; i++) {
    slot[threadIdx.x] = static_cast<int>(i);
    block_sync();
    out[threadIdx.x] = slot[63 - threadIdx.x];
  }
}

const Line shuffled_writes = {__LINE__ + 3}, shuffled_reads = {__LINE__ + 5};
void shuffle_is_no_barrier(int *out) {
  SHARED(int, slot, [32]);
  slot[threadIdx.x] = static_cast<int>(threadIdx.x);
  int sum = warp_sum(1);
  out[threadIdx.x] = slot[31 - threadIdx.x] + sum;
}

const Line blocks_write = {__LINE__ + 2};
void blocks_write_one_word(int *out, bool own) {
  if (threadIdx.x == 3) out[own ? blockIdx.x : 0] = 7;
}

const Line next_writes = {__LINE__ + 3}, next_reads = {__LINE__ + 4};
void reads_what_another_block_writes(int *values, int *out) {
  if (threadIdx.x == 0) {
    values[blockIdx.x] = 1;
    out[blockIdx.x] = values[(blockIdx.x + gridDim.x - 1) % gridDim.x];
  }
}

const Line matrix_writes = {__LINE__ + 3}, matrix_reads = {__LINE__ + 6};
void matrix_of_other_lanes(const int *from, uint32_t *out, bool sync) {
  SHARED(int, rows, [128]);
  for (int i = 0; i < 4; i++) rows[lane_index() * 4 + i] = from[lane_index() * 4 + i];
  if (sync) warp_sync();
  uint32_t r[4];
  load_matrix_x4(r, rows + 4 * lane_index());
  for (int i = 0; i < 4; i++) out[lane_index() * 4 + i] = r[i];
}

const Line copy_writes = {__LINE__ + 3}, copy_reads = {__LINE__ + 7};
void copied_by_another_thread(const int *from, int *out, bool barrier) {
  SHARED(int, buffer, [256]);
  copy_async16(buffer + 4 * threadIdx.x, from + 4 * threadIdx.x);
  copy_async_commit();
  copy_async_wait<0>();
  if (barrier) block_sync();
  out[threadIdx.x] = buffer[255 - 4 * threadIdx.x];
}

/* The thread that waits for the mbarrier may read the copy, others may not. */
const Line engine_writes = {__LINE__ + 8}, engine_reads = {__LINE__ + 12};
void copied_by_the_engine(const TensorMap map, int *out, bool all_wait) {
  DYNAMIC_SHARED(shared);
  MBarrier *full = reinterpret_cast<MBarrier *>(shared + 16384);
  if (threadIdx.x == 0) {
    mbarrier_init(full, 1);
    mbarrier_init_fence();
    mbarrier_arrive_expect(full, 8192);
    tensor_load(shared, map, 0, 0, full);
  }
  block_sync();
  if (all_wait || threadIdx.x == 0) mbarrier_wait(full, 0);
  out[threadIdx.x] = shared[threadIdx.x * 128];
}

/* The operands of a product may be overwritten after the wait of all warps only. */
const Line product_reads = {__LINE__ + 11}, product_overwrites = {__LINE__ + 14};
void overwrites_an_operand(float *out, bool barrier) {
  DYNAMIC_SHARED(shared);
  for (unsigned i = 0; i < 128; i++) shared[threadIdx.x * 128 + i] = 0;
  async_proxy_fence();
  block_sync();
  float acc[8][4];
  wgmma_fence();
  wgmma_shared<64, false, false>(acc, wgmma_descriptor(shared, 0, 1024),
                                 wgmma_descriptor(shared + 8192, 0, 1024), false);
  wgmma_commit();
  wgmma_wait<0>();
  if (barrier) block_sync();
  out[threadIdx.x] = acc[0][0];
  shared[threadIdx.x * 128] = 1;
}

/* The last block adds up what all have written. */
const Line ticket_writes = {__LINE__ + 4}, ticket_reads = {__LINE__ + 10};
void last_block_sums(int *partial, uint32_t *tickets, int *total, bool before, bool after) {
  SHARED(int, last, );
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = 1;
    if (before) memory_fence();
    last = atomic_add(tickets, 1) == gridDim.x - 1;
    if (after) memory_fence();
    if (last) {
      int sum = 0;
      for (unsigned i = 0; i < gridDim.x; i++) sum += partial[i];
      total[0] = sum;
    }
  }
}

const Line grid_writes = {__LINE__ + 2}, grid_reads = {__LINE__ + 4};
void across_the_grid(int *partial, int *out, uint32_t *counter, bool barrier) {
  if (threadIdx.x == 0) partial[blockIdx.x] = 1;
  if (barrier) grid_barrier(counter);
  out[blockIdx.x * blockDim.x + threadIdx.x] = partial[(blockIdx.x + 1) % gridDim.x];
}

void producer_and_consumer(int *out) {
  SHARED(int, slot, [32]);
  if (warp_index() == 0) {
    slot[lane_index()] = lane_index();
    named_arrive(1, 64);
  } else {
    named_sync(1, 64);
    out[lane_index()] = slot[31 - lane_index()];
  }
}

void a_missing_block_sync_is_reported(void **) {
  DeviceArray<int> out(64);
  expect_race(report_of_launch(1, 64, false, neighbour, out.get(), 32, false, true), neighbour_writes,
              neighbour_reads);
  expect_none(report_of_launch(1, 64, false, neighbour, out.get(), 32, true, false));
  expect_race(report_of_launch(1, 64, false, reuses_too_early, out.get()), reuse_reads, reuse_writes);
  expect_none(report_of_launch(1, 64, false, two_barriers_apart, out.get()));
}

void a_missing_warp_sync_is_reported(void **) {
  DeviceArray<int> out(64);
  expect_race(report_of_launch(1, 32, false, neighbour, out.get(), 1, false, false), neighbour_writes,
              neighbour_reads);
  expect_none(report_of_launch(1, 32, false, neighbour, out.get(), 1, false, true));
  expect_race(report_of_launch(1, 32, false, shuffle_is_no_barrier, out.get()), shuffled_writes,
              shuffled_reads);
}

void fragments_come_from_other_lanes(void **) {
  DeviceArray<int> from(std::vector<int>(128, 1));
  DeviceArray<uint32_t> out(128);
  const int *source = from.get();
  expect_race(report_of_launch(1, 32, false, matrix_of_other_lanes, source, out.get(), false), matrix_writes,
              matrix_reads);
  expect_none(report_of_launch(1, 32, false, matrix_of_other_lanes, source, out.get(), true));
}

void races_between_blocks_are_reported(void **) {
  DeviceArray<int> out(64), values(64);
  expect_race(report_of_launch(2, 32, false, blocks_write_one_word, out.get(), false), blocks_write,
              blocks_write);
  expect_none(report_of_launch(2, 32, false, blocks_write_one_word, out.get(), true));
  /* More blocks than the sanitizer has fibers for. */
  expect_race(report_of_launch(40, 256, false, blocks_write_one_word, out.get(), false), blocks_write,
              blocks_write);
  expect_none(report_of_launch(40, 256, false, blocks_write_one_word, out.get(), true));
  for (int *value = values.get(); value < values.get() + 64; value++) *value = 0;
  expect_race(report_of_launch(2, 32, false, reads_what_another_block_writes, values.get(), out.get()),
              next_writes, next_reads);
}

void one_launch_follows_another(void **) {
  DeviceArray<int> out(64);
  expect_none(report_of([&] {
    for (int i = 0; i < 3; i++) {
      launch(cuda_state(emulator_backend()), {"one", 1, 32, 0}, blocks_write_one_word, out.get(), false);
      out[0]++;
      launch(cuda_state(emulator_backend()), {"two", 1, 64, 0}, neighbour, out.get(), 32, true, false);
    }
  }));
}

void a_wait_is_for_the_copies_of_its_thread_only(void **) {
  DeviceArray<int> from(std::vector<int>(256, 1)), out(64);
  const int *source = from.get();
  expect_race(report_of_launch(1, 64, false, copied_by_another_thread, source, out.get(), false), copy_writes,
              copy_reads);
  expect_none(report_of_launch(1, 64, false, copied_by_another_thread, source, out.get(), true));
}

void a_tensor_copy_is_for_those_who_wait(void **) {
  DeviceArray<bf16> from(std::vector<bf16>(64 * 64));
  DeviceArray<int> out(64);
  TensorMap map;
  assert_true(make_tensor_map(cuda_state(emulator_backend()), &map, from.get(), 64, 64, 128, 64, 64));
  expect_race(report_of_launch(1, 64, false, copied_by_the_engine, map, out.get(), false), engine_writes,
              engine_reads);
  expect_none(report_of_launch(1, 64, false, copied_by_the_engine, map, out.get(), true));
}

void operands_belong_to_the_products_until_all_have_waited(void **) {
  DeviceArray<float> out(128);
  expect_race(report_of_launch(1, 128, false, overwrites_an_operand, out.get(), false), product_reads,
              product_overwrites);
  expect_none(report_of_launch(1, 128, false, overwrites_an_operand, out.get(), true));
}

void atomics_order_nothing_without_fences(void **) {
  DeviceArray<int> partial(4), total(1);
  DeviceArray<uint32_t> tickets(std::vector<uint32_t>(1, 0));
  for (int fences = 0; fences < 4; fences++) {
    std::string report = report_of_launch(4, 32, false, last_block_sums, partial.get(), tickets.get(),
                                          total.get(), (fences & 1) != 0, (fences & 2) != 0);
    if (fences == 3)
      expect_none(report);
    else
      expect_race(report, ticket_writes, ticket_reads);
  }
}

void the_grid_barrier_orders_blocks(void **) {
  DeviceArray<int> partial(3), out(96);
  DeviceArray<uint32_t> counter(std::vector<uint32_t>(1, 0));
  expect_race(report_of_launch(3, 32, true, across_the_grid, partial.get(), out.get(), counter.get(), false),
              grid_writes, grid_reads);
  expect_none(report_of_launch(3, 32, true, across_the_grid, partial.get(), out.get(), counter.get(), true));
}

void named_barriers_order_producer_and_consumer(void **) {
  DeviceArray<int> out(32);
  expect_none(report_of_launch(1, 64, false, producer_and_consumer, out.get()));
}

}  // namespace

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(a_missing_block_sync_is_reported),
      cmocka_unit_test(a_missing_warp_sync_is_reported),
      cmocka_unit_test(fragments_come_from_other_lanes),
      cmocka_unit_test(races_between_blocks_are_reported),
      cmocka_unit_test(one_launch_follows_another),
      cmocka_unit_test(a_wait_is_for_the_copies_of_its_thread_only),
      cmocka_unit_test(a_tensor_copy_is_for_those_who_wait),
      cmocka_unit_test(operands_belong_to_the_products_until_all_have_waited),
      cmocka_unit_test(atomics_order_nothing_without_fences),
      cmocka_unit_test(the_grid_barrier_orders_blocks),
      cmocka_unit_test(named_barriers_order_producer_and_consumer),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}

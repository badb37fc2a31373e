/* The host meaning of mbarriers and tensor copies. PTX ISA: "Parallel Synchronization and Communication
 * Instructions: mbarrier", "cp.async.bulk.tensor", "Swizzling modes".
 *
 * A phase is complete when all arrivals and all bytes that were announced are there. A copy's box is written
 * row after row; of every 128 bytes the 16-byte pieces are permuted by bits 7 to 9 of the shared address;
 * what lies outside of the array is zero and counts as bytes too. */
#include "emulator_block.h"

using namespace emulator;

namespace {

const uint64_t alive = 0x6d62617272696572; /* in the word of an mbarrier that was initialised */

MBarrierState &state_of(const char *word, MBarrier *barrier, Site site) {
  if (!emulator_is_shared(barrier, sizeof *barrier))
    emulator_error(site, "%s: %p is not in shared memory", word, static_cast<void *>(barrier));
  uint64_t content;
  {
    RacesIgnored own;
    content = barrier->word;
  }
  if (content != alive) emulator_error(site, "%s on an mbarrier that was not initialised", word);
  races_read(barrier, sizeof *barrier); /* orders nothing; the initialisation must come before */
  return self()->block->mbarriers[barrier];
}

void complete_if_done(MBarrierState &state) {
  if (state.pending || state.bytes) return;
  state.phase++;
  state.pending = state.arrivals;
  for (Thread *thread : state.waiting) wake(thread);
  state.waiting.clear();
}

void arrive(const char *word, MBarrier *barrier, int bytes, Site site) {
  MBarrierState &state = state_of(word, barrier, site);
  races_release(&state.places[state.phase % 4]);
  RacesIgnored own;
  if (state.pending == 0)
    emulator_error(site, "%s: all %d arrivals of the phase are there", word, state.arrivals);
  state.bytes += bytes;
  state.pending--;
  complete_if_done(state);
}

/* In random schedules copies land at any time. */
void land_some() {
  ScheduleKind kind = schedule_kind();
  if ((kind == SCHEDULE_ROUND || kind == SCHEDULE_RANDOM) && schedule_random() % 4 == 0)
    land_copy(self()->block);
}

int box_bytes(const TensorMap &map) { return map.box_columns * map.box_rows * 2; }

/* One box, to memory and to the asynchronous proxy's view of it. */
void land(Block *block, const TensorCopy &copy) {
  unsigned char *base = block->arrays[0].memory;
  const TensorMap &map = copy.map;
  for (int r = 0; r < map.box_rows; r++)
    for (int c = 0; c < map.box_columns; c += 8) {
      uint16_t piece[8] = {};
      for (int i = 0; i < 8; i++) {
        int row = copy.row + r, column = copy.column + c + i;
        if (row < 0 || row >= map.rows || column < 0 || column >= map.columns) continue;
        memcpy(&piece[i],
               static_cast<const unsigned char *>(map.base) + static_cast<size_t>(row) * map.row_bytes +
                   static_cast<size_t>(column) * 2,
               2);
      }
      size_t address = static_cast<size_t>(copy.to - base) + shared_window +
                       static_cast<size_t>(r * map.box_columns + c) * 2;
      size_t at = (address ^ (address >> 7 & 7) << 4) - shared_window;
      memcpy(base + at, piece, 16);
      memcpy(block->async_view.data() + at, piece, 16);
    }
}

/* Registers a thread of a block that has a multiprocessor for itself. */
int launch_registers(const Block *block) {
  int most = 65536 / static_cast<int>(block->threads.size()) / 8 * 8;
  return most < 255 ? most : 255;
}

#ifdef EMULATOR_RACES
/* For the thread sanitizer the copy engine is a thread of its own: what it writes is ordered before those
 * only who wait for the mbarrier, not before those who meet the thread that issued the copy. */
const Fiber *copy_engine() {
  static Fiber engine;
  if (!engine.race_fiber) {
    fiber_prepare(&engine, [] {});
    fiber_name(&engine, "copy engine");
  }
  return &engine;
}
#endif

void note_accesses(void *caller, unsigned char *to, const TensorMap &map, int column, int row,
                   MBarrierState &state) {
#ifdef EMULATOR_RACES
  static uint64_t issued;
  races_release(&issued);
  fiber_pose(copy_engine());
  races_acquire(&issued);
  {
    RacesFrame frame(caller);
    for (int r = 0; r < map.box_rows; r++) {
      if (row + r < 0 || row + r >= map.rows || column < 0 || column + map.box_columns > map.columns)
        continue;
      size_t at = static_cast<size_t>(row + r) * map.row_bytes + static_cast<size_t>(column) * 2;
      races_read(static_cast<const unsigned char *>(map.base) + at, static_cast<size_t>(map.box_columns) * 2);
    }
    races_write(to, static_cast<size_t>(box_bytes(map))); /* the swizzle permutes within 128 bytes */
  }
  races_release(&state.places[state.phase % 4]);
  races_release(&self()->block->ended[self()->block->run % 2]); /* the launch's end is for all copies */
  fiber_pose(&self()->fiber);
#else
  (void)caller, (void)to, (void)map, (void)column, (void)row, (void)state;
#endif
}

}  // namespace

uint32_t shared_address(const void *pointer, Site site) {
  SharedArray &dynamic = self()->block->arrays[0];
  const unsigned char *p = static_cast<const unsigned char *>(pointer);
  if (p < dynamic.memory || p >= dynamic.memory + dynamic.bytes)
    emulator_error(site, "shared_address of %p, which is not in dynamic shared memory", pointer);
  return static_cast<uint32_t>(p - dynamic.memory) + shared_window;
}

void mbarrier_init(MBarrier *barrier, int arrivals, Site site) {
  if (!emulator_is_shared(barrier, sizeof *barrier))
    emulator_error(site, "mbarrier_init: %p is not in shared memory", static_cast<void *>(barrier));
  emulator_check_aligned(barrier, sizeof *barrier, site);
  if (arrivals < 1) emulator_error(site, "mbarrier_init for %d arrivals", arrivals);
  races_write(barrier, sizeof *barrier);
  RacesIgnored own;
  barrier->word = alive;
  MBarrierState &state = self()->block->mbarriers[barrier];
  state = MBarrierState();
  state.arrivals = state.pending = arrivals;
}

void mbarrier_init_fence(Site) {
  RacesIgnored own;
  for (auto &entry : self()->block->mbarriers) entry.second.fenced = true;
}

void mbarrier_arrive(MBarrier *barrier, Site site) {
  land_some();
  arrive("mbarrier_arrive", barrier, 0, site);
}

void mbarrier_arrive_expect(MBarrier *barrier, int bytes, Site site) {
  arrive("mbarrier_arrive_expect", barrier, bytes, site);
}

void mbarrier_wait(MBarrier *barrier, int parity, Site site) {
  land_some();
  MBarrierState &state = state_of("mbarrier_wait", barrier, site);
  while ((state.phase & 1) == static_cast<unsigned>(parity)) {
    {
      RacesIgnored own;
      state.waiting.push_back(self());
    }
    sleep_in("mbarrier_wait", site);
  }
  races_acquire(&state.places[(state.phase - 1) % 4]);
}

void tensor_load(void *shared, const TensorMap &map, int column, int row, MBarrier *barrier, Site site) {
  size_t bytes = static_cast<size_t>(box_bytes(map));
  unsigned char *to = static_cast<unsigned char *>(shared);
  Block *block = self()->block;
  SharedArray &dynamic = block->arrays[0];
  if (to < dynamic.memory || to + bytes > dynamic.memory + dynamic.bytes)
    emulator_error(site, "tensor_load to %p, which is not in dynamic shared memory", shared);
  emulator_check_aligned(shared, 128, site);
  MBarrierState &state = state_of("tensor_load", barrier, site);
  if (!state.fenced) emulator_error(site, "tensor_load on an mbarrier without mbarrier_init_fence");
  note_accesses(__builtin_return_address(0), to, map, column, row, state);
  RacesIgnored own;
  memset(shared, 0xFF, bytes);
  memset(block->async_view.data() + (to - dynamic.memory), 0xFF, bytes);
  block->tensor_copies.push_back({to, map, column, row, barrier});
  if (schedule_kind() == SCHEDULE_REVERSE) land_copy(block);
}

bool emulator::land_copy(Block *block) {
  std::vector<TensorCopy> &copies = block->tensor_copies;
  if (copies.empty()) return false;
  RacesIgnored own;
  size_t which = 0; /* the oldest, the newest or any */
  if (schedule_kind() == SCHEDULE_PRIORITY) which = copies.size() - 1;
  if (schedule_kind() == SCHEDULE_RANDOM) which = schedule_random() % copies.size();
  TensorCopy copy = copies[which];
  copies.erase(copies.begin() + static_cast<ptrdiff_t>(which));
  land(block, copy);
  MBarrierState &state = block->mbarriers[copy.barrier];
  state.bytes -= box_bytes(copy.map);
  if (state.bytes < 0)
    emulator_error({"(copy engine)", 0}, "%d bytes arrive at an mbarrier that does not expect them",
                   -state.bytes);
  complete_if_done(state);
  return true;
}

/* What the running thread has written by itself: all of shared memory is taken, which is generous to those
 * that have not called this yet. */
void async_proxy_fence(Site) {
  RacesIgnored own;
  Block *block = self()->block;
  memcpy(block->async_view.data(), block->arrays[0].memory, block->arrays[0].bytes);
}

/* The registers of a block are those that it was launched with, as many as fit of 64k; a warp that wants more
 * than are free waits until others have given theirs. By all warps of a warpgroup; here each is looked at by
 * itself. */
void emulator_registers(int count, bool take, Site site) {
  const char *word = take ? "registers_take" : "registers_give";
  if (count < 24 || count > 256 || count % 8)
    emulator_error(site, "%s: %d; multiples of 8 from 24 to 256 are possible", word, count);
  Block *block = self()->block;
  int &mine = block->registers[static_cast<size_t>(self()->number) / 32];
  int had = mine;
  emulator_collective(word, site, nullptr, [](void *const *) {});
  if (take ? count < had : count > had) emulator_error(site, "%s: %d, but a thread has %d", word, count, had);
  RacesIgnored own;
  int pool = launch_registers(block) * static_cast<int>(block->registers.size());
  for (;;) {
    int all = count - mine;
    for (int warp : block->registers) all += warp;
    if (all <= pool) break;
    block->want_registers.push_back(self());
    sleep_in(word, site);
  }
  mine = count;
  for (Thread *thread : block->want_registers) wake(thread);
  block->want_registers.clear();
}

void emulator::hopper_prepare(Block *block) {
  RacesIgnored own;
  block->registers.assign(block->threads.size() / 32, launch_registers(block));
  block->want_registers.clear();
  block->mbarriers.clear();
  block->tensor_copies.clear();
  block->issued.clear();
  block->async_view.assign(block->arrays[0].bytes, 0xFF);
}

void emulator::check_finished(Thread *thread) {
  Site end = {"(end of kernel)", 0};
  Block *block = thread->block;
  if (!block->warps[static_cast<size_t>(thread->number) / 32].products.empty())
    emulator_error(end, "products of the warpgroup were never waited for");
  if (static_cast<size_t>(block->exited) + 1 == block->threads.size() && !block->tensor_copies.empty())
    emulator_error(end, "%zu tensor copies were never waited for", block->tensor_copies.size());
}

bool make_tensor_map(CudaState *, TensorMap *map, const void *base, int columns, int rows, size_t row_bytes,
                     int box_columns, int box_rows) {
  *map = {base, columns, rows, row_bytes, box_columns, box_rows};
  return reinterpret_cast<uintptr_t>(base) % 16 == 0 && row_bytes % 16 == 0 && columns > 0 && rows > 0 &&
         box_columns == 64 && box_rows > 0 && box_rows <= 256;
}

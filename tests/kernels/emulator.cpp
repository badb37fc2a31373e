#include <stdio.h>
#include <stdlib.h>

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "emulator_block.h"

using namespace emulator;

namespace {

/* The blocks that run together: one, or all of a cooperative launch. */
struct Gang {
  const Launch *launch = nullptr;
  const std::function<void()> *body = nullptr;
  bool cooperative = false, given_up = false;
  std::vector<std::unique_ptr<Block>> slots; /* of the launch, see slots_of */
  std::vector<Block *> blocks;
  std::vector<Thread *> by_rank;
  std::vector<uint64_t> ready; /* one bit a rank */
  int alive = 0, last = 0;
  long spins = 0; /* yields since something last happened */
  Barrier grid;
};

const size_t shared_limit = 227 * 1024;
const int guard_bytes = 64;
const long spin_limit = 2000000;

Gang gang;
Fiber program;
std::vector<std::unique_ptr<Thread>> pool;
Schedule schedule = {SCHEDULE_IN_ORDER, 0};
uint64_t random_state;
bool expecting;
std::string kept;

const char *schedule_name() {
  static const char *const names[] = {"in order", "reverse", "round", "random", "priority"};
  return names[schedule.kind];
}

std::string format_list(const char *format, va_list list) {
  char text[1024];
  vsnprintf(text, sizeof text, format, list);
  return text;
}

__attribute__((format(printf, 1, 2))) std::string print(const char *format, ...) {
  va_list list;
  va_start(list, format);
  std::string text = format_list(format, list);
  va_end(list);
  return text;
}

void report(const std::string &message) {
  std::string text =
      print("kernel %s: ", gang.launch ? gang.launch->name : "(none)") + message +
      print(" [schedule: %s, seed %llu]", schedule_name(), static_cast<unsigned long long>(schedule.seed));
  if (!expecting) {
    fprintf(stderr, "emulator: %s\n", text.c_str());
    abort();
  }
  if (kept.empty()) kept = text;
}

/* Back to the program; the fibers of this launch are left where they are. */
[[noreturn]] void give_up() {
  gang.given_up = true;
  for (Thread *thread : gang.by_rank) { /* what they did until now the program may see */
    fiber_pose(&thread->fiber);
    races_release(&thread->block->ended[thread->block->run % 2]);
  }
  fiber_pose(&self()->fiber);
  fiber_switch(&self()->fiber, &program);
  abort();
}

/* Words and files are literals, mostly the very same one. */
bool same(const char *a, const char *b) { return a == b || !strcmp(a, b); }

void set_ready(Thread *thread) {
  thread->waits = nullptr;
  gang.ready[static_cast<size_t>(thread->rank) / 64] |= 1ull << (thread->rank % 64);
}

void clear_ready(Thread *thread) {
  gang.ready[static_cast<size_t>(thread->rank) / 64] &= ~(1ull << (thread->rank % 64));
}

/* The first ready rank from start on, cyclically, or -1. */
int find_ready(int start) {
  size_t words = gang.ready.size(), first = static_cast<size_t>(start) / 64;
  uint64_t bits = gang.ready[first] & (~0ull << (start % 64));
  for (size_t i = 0; i <= words; i++) {
    size_t word = first + i < words ? first + i : first + i - words;
    if (i) bits = gang.ready[word];
    if (bits) return static_cast<int>(word * 64) + __builtin_ctzll(bits);
  }
  return -1;
}

void report_deadlock() {
  std::map<std::string, std::vector<Thread *>> where;
  int returned = 0;
  for (Thread *thread : gang.by_rank) {
    if (thread->done)
      returned++;
    else
      where[print("%s at %s:%d", thread->waits, thread->site.file, thread->site.line)].push_back(thread);
  }
  std::string text = print("deadlock: %d threads have returned", returned);
  for (auto &entry : where) {
    Thread *first = *std::min_element(entry.second.begin(), entry.second.end(),
                                      [](Thread *a, Thread *b) { return a->number < b->number; });
    text += print("; %zu wait in %s (block %u thread %d the first)", entry.second.size(), entry.first.c_str(),
                  first->position->block_index.x, first->number);
  }
  report(text);
}

/* When nobody can go on, one of the copies that are late. */
bool copies_land() {
  for (Block *block : gang.blocks)
    if (land_copy(block)) return true;
  return false;
}

/* Goes on in another thread that is ready, or in the program when all have returned. */
void switch_away(bool yielding) {
  Thread *from = self();
  int start = 0;
  if (yielding)
    start = (from->rank + 1) % static_cast<int>(gang.by_rank.size());
  else if (schedule.kind == SCHEDULE_ROUND)
    start = (gang.last + 1) % static_cast<int>(gang.by_rank.size());
  else if (schedule.kind == SCHEDULE_RANDOM)
    start = static_cast<int>(schedule_random() % gang.by_rank.size());
  int rank = find_ready(start);
  while (rank < 0 && copies_land()) rank = find_ready(0);
  if (rank < 0) {
    if (gang.alive) {
      report_deadlock();
      give_up();
    }
    fiber_switch(&from->fiber, &program);
    abort();
  }
  gang.last = rank;
  Thread *to = gang.by_rank[static_cast<size_t>(rank)];
  if (to == from) return;
  emulator_thread = to;
  fiber_switch(&from->fiber, &to->fiber);
}

std::string where(const Thread *thread, Site site) {
  const uint3 &b = thread->position->block_index, &t = thread->thread_index;
  return print("%s:%d: block (%u,%u,%u) thread (%u,%u,%u): ", site.file, site.line, b.x, b.y, b.z, t.x, t.y,
               t.z);
}

void thread_main() {
  fiber_started();
  Thread *thread = self();
  Block *block = thread->block;
  races_acquire(&block->begun);
  races_acquire(&block->ended[(block->run + 1) % 2]); /* of the block before in this slot */
  (*gang.body)();
  Warp &warp = block->warps[static_cast<size_t>(thread->number) / 32];
  Site end = {"(end of kernel)", 0};
  if (warp.arrived)
    emulator_error(warp.site, "returned from the kernel while lanes of its warp wait in %s", warp.word);
  if (block->barriers[0].arrived)
    emulator_error(block->barriers[0].site, "returned from the kernel while %d threads wait in block_sync",
                   block->barriers[0].arrived);
  if (!thread->copies.empty())
    emulator_error(end, "%zu asynchronous copies were never waited for", thread->copies.size());
  check_finished(thread);
  warp.exited++;
  block->exited++;
  thread->done = true;
  gang.alive--;
  gang.spins = 0;
  clear_ready(thread);
  races_release(&block->ended[block->run % 2]);
  switch_away(false);
}

unsigned char *poisoned(size_t bytes) {
  void *memory = nullptr;
  if (posix_memalign(&memory, 1024, bytes + guard_bytes + (bytes == 0))) abort();
  memset(memory, 0xFF, bytes + guard_bytes);
#if defined(__SANITIZE_ADDRESS__)
  void *exact = nullptr; /* so that the sanitizer knows the end */
  free(memory);
  if (posix_memalign(&exact, 1024, bytes ? bytes : 1)) abort();
  memset(exact, 0xFF, bytes);
  memory = exact;
#endif
  return static_cast<unsigned char *>(memory);
}

bool guard_intact(const unsigned char *memory, size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  (void)memory, (void)bytes;
#else
  for (int i = 0; i < guard_bytes; i++)
    if (memory[bytes + static_cast<size_t>(i)] != 0xFF) return false;
#endif
  return true;
}

/* How many blocks have threads of their own in the pool. One is enough to run a launch whose blocks follow
 * one another; for the thread sanitizer, blocks in different slots run at the same time, and those in one
 * slot one after another. Its fibers are expensive (about a megabyte each), so that large launches share a
 * few slots. */
size_t slots_of(const Launch &launch, bool cooperative) {
  size_t count = static_cast<size_t>(launch.grid.x) * launch.grid.y * launch.grid.z;
  if (cooperative) return count;
#ifdef EMULATOR_RACES
  size_t threads = static_cast<size_t>(launch.block.x) * launch.block.y * launch.block.z;
  return std::min(count, std::max<size_t>(2, 512 / threads));
#else
  return 1;
#endif
}

/* For the reports of the thread sanitizer. */
void name_fiber(const Thread *thread) {
#ifdef EMULATOR_RACES
  const uint3 &b = thread->position->block_index, &t = thread->thread_index;
  fiber_name(&thread->fiber,
             print("%s block (%u,%u,%u) thread (%u,%u,%u)", gang.launch->name, b.x, b.y, b.z, t.x, t.y, t.z)
                 .c_str());
#else
  (void)thread;
#endif
}

void prepare_block(Block *block, size_t slot, uint3 index) {
  const Launch &launch = *gang.launch;
  block->position = {index, launch.block, launch.grid};
  int threads = static_cast<int>(launch.block.x * launch.block.y * launch.block.z);
  block->warps.assign(static_cast<size_t>(threads) / 32, Warp());
  block->exited = 0;
  for (Barrier &barrier : block->barriers) barrier = Barrier();
  if (block->arrays.empty())
    block->arrays.push_back({"dynamic", {"", 0}, launch.shared_bytes, poisoned(launch.shared_bytes)});
  {
    RacesIgnored own;
    for (SharedArray &array : block->arrays) memset(array.memory, 0xFF, array.bytes);
  }
  block->threads.clear();
  for (int i = 0; i < threads; i++) {
    size_t place = slot * static_cast<size_t>(threads) + static_cast<size_t>(i);
    while (pool.size() <= place) pool.push_back(std::make_unique<Thread>());
    Thread *thread = pool[place].get();
    unsigned n = static_cast<unsigned>(i), x = launch.block.x, y = launch.block.y;
    thread->thread_index = {n % x, n / x % y, n / (x * y)};
    thread->position = &block->position;
    thread->block = block;
    thread->number = i;
    thread->done = false;
    thread->waits = nullptr;
    thread->group = 0;
    thread->copies.clear();
    thread->fenced = false;
    thread->observed.clear();
    fiber_prepare(&thread->fiber, thread_main);
    name_fiber(thread);
    block->threads.push_back(thread);
    gang.by_rank.push_back(thread);
  }
  hopper_prepare(block);
  block->run++;
  gang.blocks.push_back(block);
  races_release(&block->begun);
}

/* Gives every thread its rank and makes all ready. */
void rank_threads() {
  size_t count = gang.by_rank.size();
  if (schedule.kind == SCHEDULE_REVERSE) std::reverse(gang.by_rank.begin(), gang.by_rank.end());
  if (schedule.kind == SCHEDULE_PRIORITY)
    for (size_t i = count - 1; i > 0; i--)
      std::swap(gang.by_rank[i], gang.by_rank[schedule_random() % (i + 1)]);
  gang.ready.assign((count + 63) / 64, 0);
  for (size_t i = 0; i < count; i++) {
    gang.by_rank[i]->rank = static_cast<int>(i);
    set_ready(gang.by_rank[i]);
  }
  gang.alive = static_cast<int>(count);
}

void check_guards() {
  for (Block *block : gang.blocks)
    for (SharedArray &array : block->arrays)
      if (!guard_intact(array.memory, array.bytes))
        report(print("%s:%d: written past the end of shared array %s", array.site.file, array.site.line,
                     array.name));
}

/* Runs the blocks of the gang to their end; false if an error stopped them. */
bool run_gang() {
  rank_threads();
  gang.grid = Barrier();
  gang.spins = 0;
  gang.given_up = false;
  int start =
      schedule.kind == SCHEDULE_RANDOM ? static_cast<int>(schedule_random() % gang.by_rank.size()) : 0;
  gang.last = start;
  Thread *first = gang.by_rank[static_cast<size_t>(start)];
  emulator_thread = first;
  fiber_switch(&program, &first->fiber);
  emulator_thread = nullptr;
  if (!gang.given_up) check_guards();
  return !gang.given_up;
}

void free_slots() {
  for (auto &block : gang.slots) {
    for (uint64_t &ended : block->ended) races_acquire(&ended);
    for (SharedArray &array : block->arrays) free(array.memory);
  }
  gang.slots.clear();
}

bool launch_is_legal(const Launch &launch) {
  unsigned threads = launch.block.x * launch.block.y * launch.block.z;
  if (threads == 0 || threads > 1024 || threads % 32)
    report(print("launched with blocks of %u threads; a multiple of 32 up to 1024 is possible", threads));
  else if (launch.shared_bytes > shared_limit)
    report(print("launched with %zu bytes of dynamic shared memory; the limit is %zu", launch.shared_bytes,
                 shared_limit));
  else if (launch.grid.y > 65535 || launch.grid.z > 65535 || launch.grid.x > 0x7fffffffu)
    report("launched with a grid that is too large");
  else
    return true;
  return false;
}

}  // namespace

EmulatorThread *emulator_thread;

void emulator::sleep_in(const char *word, Site site) {
  Thread *thread = self();
  thread->waits = word;
  thread->site = site;
  clear_ready(thread);
  switch_away(false);
}

void emulator::wake(Thread *thread) {
  gang.spins = 0;
  set_ready(thread);
}

uint32_t emulator::schedule_random() { /* xorshift64*: Vigna 2016 */
  random_state ^= random_state >> 12;
  random_state ^= random_state << 25;
  random_state ^= random_state >> 27;
  return static_cast<uint32_t>((random_state * 0x2545F4914F6CDD1Dull) >> 32);
}

ScheduleKind emulator::schedule_kind() { return schedule.kind; }

void emulator_error(Site site, const char *format, ...) {
  va_list list;
  va_start(list, format);
  report(where(self(), site) +
         format_list(format, list)); /* no object outlives this line: give_up unwinds nothing */
  va_end(list);
  give_up();
}

static void run_launch(const Launch &launch, bool cooperative, const std::function<void()> &body) {
  size_t count = static_cast<size_t>(launch.grid.x) * launch.grid.y * launch.grid.z;
  if (count == 0) return;
  gang.launch = &launch;
  gang.body = &body;
  gang.cooperative = cooperative;
  random_state = schedule.seed * 0x9E3779B97F4A7C15ull + 0x1234567;
  if (!launch_is_legal(launch)) {
    gang.launch = nullptr;
    return;
  }
  std::vector<size_t> order(count);
  for (size_t i = 0; i < count; i++) order[i] = schedule.kind == SCHEDULE_REVERSE ? count - 1 - i : i;
  if (schedule.kind >= SCHEDULE_RANDOM)
    for (size_t i = count - 1; i > 0; i--) std::swap(order[i], order[schedule_random() % (i + 1)]);
  size_t slots = slots_of(launch, cooperative), together = cooperative ? count : 1;
  for (size_t i = 0; i < slots; i++) gang.slots.push_back(std::make_unique<Block>());
  for (size_t done = 0; done < count; done += together) {
    gang.by_rank.clear();
    gang.blocks.clear();
    for (size_t i = done; i < done + together; i++) {
      size_t n = order[i], slot = i < slots ? i : (i * 0x9E3779B1u >> 8) % slots;
      uint3 index = {static_cast<unsigned>(n % launch.grid.x),
                     static_cast<unsigned>(n / launch.grid.x % launch.grid.y),
                     static_cast<unsigned>(n / (static_cast<size_t>(launch.grid.x) * launch.grid.y))};
      prepare_block(gang.slots[slot].get(), slot, index);
    }
    if (!run_gang()) break;
  }
  free_slots();
  gang.launch = nullptr;
}

void emulator_run(const Launch &launch, bool cooperative, const std::function<void()> &body) {
  emulator_submit([=] { run_launch(launch, cooperative, body); });
}

void *emulator_shared(const char *name, size_t bytes, Site site) {
  Block *block = self()->block;
  for (size_t i = 1; i < block->arrays.size(); i++) {
    SharedArray &array = block->arrays[i];
    if (array.site.line == site.line && array.bytes == bytes && same(array.name, name) &&
        same(array.site.file, site.file))
      return array.memory;
  }
  RacesIgnored own;
  block->arrays.push_back({name, site, bytes, poisoned(bytes)});
  return block->arrays.back().memory;
}

unsigned char *emulator_dynamic_shared() { return self()->block->arrays[0].memory; }

bool emulator_is_shared(const void *pointer, size_t bytes) {
  const unsigned char *p = static_cast<const unsigned char *>(pointer);
  for (SharedArray &array : self()->block->arrays)
    if (p >= array.memory && p + bytes <= array.memory + array.bytes) return true;
  return false;
}

void emulator_collective(const char *word, Site site, void *argument, void (*compute)(void *const *arguments),
                         bool orders_memory) {
  Thread *thread = self();
  Block *block = thread->block;
  size_t warp_number = static_cast<size_t>(thread->number) / 32;
  Warp &warp = block->warps[warp_number];
  if (warp.exited) emulator_error(site, "%s, but %d lanes of the warp have returned", word, warp.exited);
  if (warp.arrived == 0) {
    warp.word = word;
    warp.site = site;
  } else if (!same(warp.word, word) || warp.site.line != site.line || !same(warp.site.file, site.file)) {
    emulator_error(site, "%s, but other lanes of the warp are in %s at %s:%d", word, warp.word,
                   warp.site.file, warp.site.line);
  }
  warp.arguments[thread->number % 32] = argument;
  const void *round = orders_memory ? warp.meeting.arrive() : nullptr;
  if (++warp.arrived < 32) {
    sleep_in(word, site);
    if (round) races_acquire(round);
    return;
  }
  {
    RacesIgnored own;
    compute(warp.arguments);
  }
  warp.arrived = 0;
  if (round) {
    warp.meeting.complete();
    races_acquire(round);
  }
  gang.spins = 0;
  for (size_t i = 0; i < 32; i++) set_ready(block->threads[warp_number * 32 + i]);
  /* The last lane is not always the one that runs ahead. */
  if (schedule.kind != SCHEDULE_ROUND) switch_away(false);
}

static void arrive(Barrier &barrier, int threads, bool wait, const char *word, Site site) {
  Thread *thread = self();
  if (barrier.arrived == 0) {
    barrier.threads = threads;
    barrier.site = site;
  }
  const void *round = barrier.meeting.arrive();
  if (wait) {
    RacesIgnored own;
    barrier.waiting.push_back(thread);
  }
  if (++barrier.arrived < barrier.threads) {
    if (wait) {
      sleep_in(word, site);
      races_acquire(round);
    }
    return;
  }
  barrier.meeting.complete();
  for (Thread *other : barrier.waiting) set_ready(other);
  barrier.waiting.clear();
  barrier.arrived = 0;
  gang.spins = 0;
  if (wait) {
    races_acquire(round);
    switch_away(false);
  }
}

void emulator_barrier(const char *word, int id, int threads, bool wait, Site site) {
  Block *block = self()->block;
  if (id < 0 || id > 15) emulator_error(site, "%s on barrier %d; 1 to 15 exist", word, id);
  Barrier &barrier = block->barriers[id];
  if (id == 0) {
    threads = static_cast<int>(block->threads.size());
    if (block->exited) emulator_error(site, "block_sync, but %d threads have returned", block->exited);
    if (barrier.arrived && (barrier.site.line != site.line || !same(barrier.site.file, site.file)))
      emulator_error(site, "block_sync, but other threads are in the one at %s:%d", barrier.site.file,
                     barrier.site.line);
  } else if (threads <= 0 || threads % 32 || static_cast<size_t>(threads) > block->threads.size()) {
    emulator_error(site, "%s for %d threads; a multiple of 32 up to the block's is possible", word, threads);
  } else if (barrier.arrived && barrier.threads != threads) {
    emulator_error(site, "%s on barrier %d for %d threads; others wait there for %d", word, id, threads,
                   barrier.threads);
  }
  arrive(barrier, threads, wait, word, site);
}

void emulator_grid_barrier(uint32_t *counter, Site site) {
  if (!gang.cooperative) emulator_error(site, "grid_barrier in a launch that is not cooperative");
  if (!counter || *counter & 0x7fffffffu) emulator_error(site, "grid_barrier: its counter is not at rest");
  int threads = static_cast<int>(gang.by_rank.size());
  if (gang.grid.arrived == threads - 1) *counter ^= 0x80000000u; /* as the device leaves it */
  arrive(gang.grid, threads, true, "grid_barrier", site);
}

void emulator_yield(Site site) {
  if (++gang.spins > spin_limit)
    emulator_error(site, "waits forever: %ld reads and nothing else happened", spin_limit);
  switch_away(true);
}

void emulator_schedule(Schedule next) { schedule = next; }

Schedule schedule_number(int i) {
  static const Schedule all[] = {{SCHEDULE_IN_ORDER, 0}, {SCHEDULE_REVERSE, 0}, {SCHEDULE_ROUND, 0},
                                 {SCHEDULE_RANDOM, 1},   {SCHEDULE_RANDOM, 2},  {SCHEDULE_PRIORITY, 3},
                                 {SCHEDULE_PRIORITY, 4}};
  return all[i];
}

void emulator_expect_begin() {
  expecting = true;
  kept.clear();
}

const char *emulator_expect_end() {
  expecting = false;
  return kept.c_str();
}

static std::map<void *, size_t> allocations;

void *device_alloc(size_t bytes) {
  void *memory = poisoned(bytes);
  allocations[memory] = bytes;
  return memory;
}

void device_free(void *memory) {
  if (!memory) return;
  auto found = allocations.find(memory);
  if (found == allocations.end()) {
    fprintf(stderr, "emulator: device_free of %p, which is not allocated\n", memory);
    abort();
  }
  if (!guard_intact(static_cast<unsigned char *>(memory), found->second)) {
    fprintf(stderr, "emulator: written past the end of a device allocation of %zu bytes\n", found->second);
    abort();
  }
  allocations.erase(found);
  free(memory);
}

/* The host meaning of wgmma.mma_async m64nNk16 with bf16 operands. PTX ISA: "Asynchronous warpgroup level
 * matrix instructions". Warp w of the warpgroup has rows 16 w .. 16 w + 15 of A and of the result, in the
 * fragments of mma m16n8k16 (emulator_matrix.cpp): column 8 j + c of the result in accumulator j.
 *
 * A matrix descriptor: bits 0-13 start address / 16, 16-29 leading and 32-45 stride byte offset / 16, 49-51
 * base offset, 62-63 swizzle (1: 128 bytes, the only one here). Element (i, k), i the row of A or the column
 * of B, lies at K-major   start + i / 8 stride + i % 8 128 + 2 k                        (the leading offset
 * is not used) MN-major  start + i / 64 leading + k / 8 stride + k % 8 128 + i % 64 2 and then bits 4 to 6 of
 * the address are exclusive-ored with bits 7 to 9. */
#include "emulator_block.h"

using namespace emulator;

namespace {

const int depth = 16;

struct Operand {
  uint64_t descriptor;
  bool mn_major;
};

/* Offset in dynamic shared memory of the 8 elements from (i, k) on, in the direction that is contiguous. */
size_t piece_offset(const Operand &operand, int i, int k) {
  uint64_t d = operand.descriptor;
  size_t start = (d & 0x3fff) << 4, leading = (d >> 16 & 0x3fff) << 4, stride = (d >> 32 & 0x3fff) << 4;
  size_t row = static_cast<size_t>(i), depth_at = static_cast<size_t>(k);
  size_t at = operand.mn_major
                  ? start + row / 64 * leading + depth_at / 8 * stride + depth_at % 8 * 128 + row % 64 * 2
                  : start + row / 8 * stride + row % 8 * 128 + depth_at * 2;
  return (at ^ (at >> 7 & 7) << 4) - shared_window;
}

float number_at(const unsigned char *memory) {
  uint16_t bits;
  memcpy(&bits, memory, 2);
  return bits_to_float(static_cast<uint32_t>(bits) << 16);
}

/* to[k][i - first] for rows first .. first + count of the operand, as the asynchronous proxy sees them. */
void read_operand(Block *block, Warp &warp, const Operand &operand, int first, int count, float *to, int ld) {
  for (int i = 0; i < count; i += operand.mn_major ? 8 : 1)
    for (int k = 0; k < depth; k += operand.mn_major ? 1 : 8) {
      size_t at = piece_offset(operand, first + i, k);
      warp.read.push_back(block->arrays[0].memory + at);
      for (int e = 0; e < 8; e++) {
        float x = number_at(block->async_view.data() + at + 2 * e);
        if (operand.mn_major)
          to[k * ld + i + e] = x;
        else
          to[(k + e) * ld + i] = x;
      }
    }
}

/* The descriptor is legal and all that it names lies in dynamic shared memory. */
void check_operand(const char *which, const Operand &operand, int count, Site site) {
  uint64_t d = operand.descriptor;
  size_t bytes = self()->block->arrays[0].bytes;
  if (d >> 62 != 1)
    emulator_error(site, "wgmma: %s's descriptor has swizzle mode %d; 1 is 128 bytes", which,
                   static_cast<int>(d >> 62));
  if (d >> 49 & 7) emulator_error(site, "wgmma: %s's descriptor has a base offset", which);
  for (int i = 0; i < count; i++)
    for (int k = 0; k < depth; k += 8)
      if (size_t at = piece_offset(operand, operand.mn_major ? i & ~7 : i, k); at + 16 > bytes)
        emulator_error(site, "wgmma: %s's descriptor leads out of dynamic shared memory", which);
}

void read_registers(const WarpProduct &product, float (&a)[depth][16]) {
  for (int lane = 0; lane < 32; lane++)
    for (int i = 0; i < 4; i++) {
      uint32_t pair = product.a[lane][i];
      int row = lane / 4 + (i & 1) * 8, k = lane % 4 * 2 + i / 2 * 8;
      a[k][row] = bits_to_float(pair << 16);
      a[k + 1][row] = bits_to_float(pair & 0xffff0000u);
    }
}

void compute(Block *block, Warp &warp, int warp_number, WarpProduct &product) {
  const int most = 256;
  static float a[depth][16], b[depth][most];
  const WgmmaArgument &x = product.argument;
  if (product.a_from[0])
    read_registers(product, a);
  else
    read_operand(block, warp, {x.a_descriptor, x.a_mn_major}, warp_number % 4 * 16, 16, &a[0][0], 16);
  read_operand(block, warp, {x.b_descriptor, x.b_mn_major}, 0, x.n, &b[0][0], most);
  std::vector<float> &value = warp.accumulators[product.accumulators].value;
  if (!x.accumulate) value.assign(value.size(), 0.0f);
  for (int row = 0; row < 16; row++) {
    float *c = value.data() + row * x.n;
    for (int k = 0; k < depth; k++) {
      float factor = a[k][row];
      const float *from = b[k];
      for (int n = 0; n < x.n; n++) c[n] += factor * from[n];
    }
  }
  product.computed = true;
}

/* Calls body(number of the accumulators, their value) for every lane. */
template <typename Body>
void each_number(Accumulators &acc, Body body) {
  for (int lane = 0; lane < 32; lane++)
    for (int j = 0; j < acc.columns / 8; j++)
      for (int i = 0; i < 4; i++)
        body(acc.lanes[lane][j * 4 + i], acc.value[static_cast<size_t>((lane / 4 + i / 2 * 8) * acc.columns +
                                                                       j * 8 + lane % 4 * 2 + i % 2)]);
}

int warp_number() { return self()->number / 32; }

Warp &warp_of_self() { return self()->block->warps[static_cast<size_t>(warp_number())]; }

/* What a lane brings to a word of the warp, and the fault that was found there. */
struct IssueArgument {
  WgmmaArgument product;
  const char *fault;
};

const char *agree(Block *block, Warp &warp, size_t warpgroup, const WgmmaArgument &x) {
  std::vector<IssuedProduct> &issued = block->issued[warpgroup];
  IssuedProduct mine = {x.a_descriptor, x.b_descriptor, x.n};
  if (warp.issued < issued.size()) {
    const IssuedProduct &other = issued[warp.issued];
    if (other.a != mine.a || other.b != mine.b || other.n != mine.n)
      return "the warps of the warpgroup give different descriptors";
  } else {
    issued.push_back(mine);
  }
  warp.issued++;
  return nullptr;
}

size_t accumulators_of(Warp &warp, void *const *arguments, int n) {
  float *first = static_cast<IssueArgument *>(arguments[0])->product.acc;
  for (size_t i = 0; i < warp.accumulators.size(); i++)
    if (warp.accumulators[i].lanes[0] == first) return i;
  Accumulators acc = {{}, n, std::vector<float>(static_cast<size_t>(16 * n))};
  for (int lane = 0; lane < 32; lane++)
    acc.lanes[lane] = static_cast<IssueArgument *>(arguments[lane])->product.acc;
  each_number(acc, [](float &number, float &value) { value = number; });
  warp.accumulators.push_back(std::move(acc));
  return warp.accumulators.size() - 1;
}

void issue(void *const *arguments) {
  int number = warp_number();
  Warp &warp = warp_of_self();
  Block *block = self()->block;
  const WgmmaArgument &x = static_cast<IssueArgument *>(arguments[0])->product;
  const char *fault = warp.fenced ? nullptr : "no wgmma_fence since the last wgmma_wait";
  for (int lane = 1; lane < 32 && !fault; lane++) {
    const WgmmaArgument &other = static_cast<IssueArgument *>(arguments[lane])->product;
    if (other.a_descriptor != x.a_descriptor || other.b_descriptor != x.b_descriptor)
      fault = "the lanes of the warp give different descriptors";
  }
  if (!fault) fault = agree(block, warp, static_cast<size_t>(number) / 4, x);
  if (fault) {
    for (int lane = 0; lane < 32; lane++) static_cast<IssueArgument *>(arguments[lane])->fault = fault;
    return;
  }
  WarpProduct product = {x, {}, {}, accumulators_of(warp, arguments, x.n), warp.group, false};
  for (int lane = 0; lane < 32; lane++) {
    product.a_from[lane] = static_cast<IssueArgument *>(arguments[lane])->product.a;
    if (product.a_from[lane]) memcpy(product.a[lane], product.a_from[lane], sizeof product.a[lane]);
  }
  each_number(warp.accumulators[product.accumulators],
              [](float &accumulator, float &) { memset(&accumulator, 0xFF, 4); });
  warp.read.clear();
  if (schedule_kind() == SCHEDULE_REVERSE || (schedule_kind() == SCHEDULE_RANDOM && schedule_random() % 2))
    for (WarpProduct *earlier = warp.products.data(); earlier < warp.products.data() + warp.products.size();
         earlier++)
      if (!earlier->computed) compute(block, warp, number, *earlier);
  warp.products.push_back(product);
  if (schedule_kind() == SCHEDULE_REVERSE) compute(block, warp, number, warp.products.back());
}

struct WaitArgument {
  int in_flight;
  const char *fault;
};

/* The results of accumulators that no product in flight adds to go to their registers. */
const char *deliver(Warp &warp) {
  const char *fault = nullptr;
  for (size_t i = 0; i < warp.accumulators.size(); i++) {
    bool busy = false;
    for (const WarpProduct &product : warp.products) busy |= product.accumulators == i;
    Accumulators &acc = warp.accumulators[i];
    if (busy || !acc.columns) continue;
    each_number(acc, [&](float &number, float &value) {
      if (float_to_bits(number) != 0xffffffffu)
        fault = "accumulators were written while products were in flight";
      number = value;
    });
    acc.columns = 0;
    acc.lanes[0] = nullptr;
  }
  if (warp.products.empty()) warp.accumulators.clear();
  return fault;
}

void finish(void *const *arguments) {
  Warp &warp = warp_of_self();
  WaitArgument *first = static_cast<WaitArgument *>(arguments[0]);
  const char *fault = nullptr;
  warp.read.clear();
  size_t done = 0;
  for (; done < warp.products.size() && warp.products[done].group < warp.group - first->in_flight; done++) {
    WarpProduct &product = warp.products[done];
    if (!product.computed) compute(self()->block, warp, warp_number(), product);
    for (int lane = 0; lane < 32 && product.a_from[0]; lane++)
      if (memcmp(product.a_from[lane], product.a[lane], sizeof product.a[lane]))
        fault = "registers of A were written while a product was in flight";
  }
  warp.products.erase(warp.products.begin(), warp.products.begin() + static_cast<ptrdiff_t>(done));
  if (const char *written = deliver(warp)) fault = written;
  warp.fenced = false;
  for (int lane = 0; lane < 32; lane++) static_cast<WaitArgument *>(arguments[lane])->fault = fault;
}

/* The tensor cores read on behalf of the lanes, which share what was read among them. */
void note_reads(const Warp &warp) {
  for (size_t i = static_cast<size_t>(self()->number % 32); i < warp.read.size(); i += 32)
    races_read(warp.read[i], 16);
}

}  // namespace

void wgmma_fence(Site site) {
  emulator_collective("wgmma_fence", site, nullptr, [](void *const *) { warp_of_self().fenced = true; });
}

void wgmma_commit(Site site) {
  emulator_collective("wgmma_commit", site, nullptr, [](void *const *) { warp_of_self().group++; });
}

void emulator_wgmma(const WgmmaArgument &argument, Site site) {
  RacesFrame frame(__builtin_return_address(0));
  if (self()->number % 32 == 0) {
    if (!argument.a) check_operand("A", {argument.a_descriptor, argument.a_mn_major}, 64, site);
    check_operand("B", {argument.b_descriptor, argument.b_mn_major}, argument.n, site);
  }
  IssueArgument mine = {argument, nullptr};
  emulator_collective("wgmma", site, &mine, issue);
  if (mine.fault) emulator_error(site, "wgmma: %s", mine.fault);
  note_reads(warp_of_self());
}

void emulator_wgmma_wait(int in_flight, Site site) {
  RacesFrame frame(__builtin_return_address(0));
  WaitArgument mine = {in_flight, nullptr};
  emulator_collective("wgmma_wait", site, &mine, finish);
  if (mine.fault) emulator_error(site, "wgmma_wait: %s", mine.fault);
  note_reads(warp_of_self());
}

void emulator_wgmma_settle(const void *registers, size_t bytes, Site site) {
  int lane = self()->number % 32;
  const Warp &warp = warp_of_self();
  const unsigned char *first = static_cast<const unsigned char *>(registers);
  for (const WarpProduct &product : warp.products) {
    const void *uses[] = {warp.accumulators[product.accumulators].lanes[lane], product.a_from[lane]};
    for (const void *use : uses)
      if (use >= first && use < first + bytes)
        emulator_error(site, "wgmma_settle: a product that uses these registers is in flight");
  }
}

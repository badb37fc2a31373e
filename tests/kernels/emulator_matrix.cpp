/* The host meaning of ldmatrix and mma. Fragment layouts: PTX ISA, "Matrix fragments for mma.m16n8k16 with
 * floating point type" and "ldmatrix". With g = lane / 4 and t = lane % 4, two values a register:
 *   A  a0 (g, 2t) a1 (g+8, 2t) a2 (g, 2t+8) a3 (g+8, 2t+8)      [16 rows, 16 k]
 *   B  b0 (2t, g) b1 (2t+8, g)                                  [16 k, 8 columns]
 *   C  c0 (g, 2t) c1 (g, 2t+1) c2 (g+8, 2t) c3 (g+8, 2t+1)      [16 rows, 8 columns] */
#include "primitives.cuh"
#include "races.h"

namespace {

struct LoadArgument {
  uint32_t *r;
  const unsigned char *row;
  const unsigned char *from[4][2]; /* the two halves of every register */
};

uint16_t half_at(const unsigned char *memory) {
  uint16_t value;
  memcpy(&value, memory, 2);
  return value;
}

template <bool trans>
void load_all(void *const *arguments) {
  const unsigned char *rows[32];
  for (int i = 0; i < 32; i++) rows[i] = static_cast<LoadArgument *>(arguments[i])->row;
  for (int lane = 0; lane < 32; lane++) {
    LoadArgument *argument = static_cast<LoadArgument *>(arguments[lane]);
    int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; i++) {
      const unsigned char *const *matrix = rows + 8 * i;
      argument->from[i][0] = trans ? matrix[2 * t] + 2 * g : matrix[g] + 4 * t;
      argument->from[i][1] = trans ? matrix[2 * t + 1] + 2 * g : matrix[g] + 4 * t + 2;
      argument->r[i] = half_at(argument->from[i][0]) | static_cast<uint32_t>(half_at(argument->from[i][1]))
                                                           << 16;
    }
  }
}

void check_row(const void *row, Site site) {
  emulator_check_aligned(row, 16, site);
  if (!emulator_is_shared(row, 16))
    emulator_error(site, "load_matrix from %p, which is not in shared memory", row);
}

struct MmaArgument {
  float *c;
  const uint32_t *a;
  uint32_t b0, b1;
};

float low_of(uint32_t pair) { return bits_to_float(pair << 16); }
float high_of(uint32_t pair) { return bits_to_float(pair & 0xffff0000u); }

/* Without the sanitizers: it is where most time goes, and all that it touches is its own and the lanes'
 * registers. */
__attribute__((no_sanitize_address, no_sanitize_undefined)) void mma_all(void *const *arguments) {
  typedef float Row __attribute__((vector_size(32)));
  float a[16][16];
  Row b[16], c[16];
  for (int lane = 0; lane < 32; lane++) {
    const MmaArgument *x = static_cast<MmaArgument *>(arguments[lane]);
    int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; i++) {
      int row = g + (i & 1) * 8, k = 2 * t + (i / 2) * 8;
      a[row][k] = low_of(x->a[i]);
      a[row][k + 1] = high_of(x->a[i]);
      c[g + (i / 2) * 8][2 * t + (i & 1)] = x->c[i];
    }
    b[2 * t][g] = low_of(x->b0);
    b[2 * t + 1][g] = high_of(x->b0);
    b[2 * t + 8][g] = low_of(x->b1);
    b[2 * t + 9][g] = high_of(x->b1);
  }
  for (int row = 0; row < 16; row++) {
    Row sum = c[row];
    for (int k = 0; k < 16; k++) sum += a[row][k] * b[k];
    c[row] = sum;
  }
  for (int lane = 0; lane < 32; lane++) {
    MmaArgument *x = static_cast<MmaArgument *>(arguments[lane]);
    for (int i = 0; i < 4; i++) x->c[i] = c[lane / 4 + (i / 2) * 8][2 * (lane % 4) + (i & 1)];
  }
}

}  // namespace

/* A lane reads what it gets, wherever the address came from. */
static void load_matrix(const char *word, uint32_t (&r)[4], const void *row, Site site,
                        void (*load)(void *const *)) {
  check_row(row, site);
  LoadArgument argument = {r, static_cast<const unsigned char *>(row), {}};
  emulator_collective(word, site, &argument, load);
  for (const auto &pair : argument.from)
    for (const unsigned char *half : pair) races_read(half, 2);
}

void load_matrix_x4(uint32_t (&r)[4], const void *row, Site site) {
  RacesFrame frame(__builtin_return_address(0));
  load_matrix("load_matrix_x4", r, row, site, load_all<false>);
}

void load_matrix_x4_trans(uint32_t (&r)[4], const void *row, Site site) {
  RacesFrame frame(__builtin_return_address(0));
  load_matrix("load_matrix_x4_trans", r, row, site, load_all<true>);
}

void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Site site) {
  MmaArgument argument = {c, a, b0, b1};
  emulator_collective("mma_bf16", site, &argument, mma_all);
}

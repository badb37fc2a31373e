/* Reading and writing of blocks. Of a quantised value x:
 *   Q4_0  x = d (q - 8)          32 values: d, 16 bytes; byte i holds q of value i (low) and i + 16 (high)
 *   Q4_1  x = d q + m            32 values: d, m, 16 bytes
 *   Q5_0  x = d (q - 16)         32 values: d, 4 bytes with the fifth bits, 16 bytes
 *   Q5_1  x = d q + m            32 values: d, m, 4 bytes, 16 bytes
 *   Q8_0  x = d q                32 values: d, 32 signed bytes
 *   Q4_K  x = (d s) q - (e t)    256 values: d, e, 12 bytes with 8 six-bit s and t, 128 bytes
 *   Q5_K  the same with a fifth bit: d, e, 12 bytes, 32 bytes with the fifth bits, 128 bytes
 *   Q6_K  x = (d s) (q - 32)     256 values: 128 bytes (low 4 bits), 64 bytes (high 2), 16 signed s, d
 * d, e and m are fp16. The products are exact in fp32 (at most 11 + 7 + 6 bits), so that each value is
 * rounded at most once and every reader gets the same bits.
 */
#include "elements.h"

#include <math.h>
#include <string.h>

#include "base/bf16.h"
#include "base/fp16.h"

/* ---- 16-bit floats ---- */

static uint16_t get16(const unsigned char *at) { return (uint16_t)(at[0] | at[1] << 8); }

static void put16(unsigned char *at, uint16_t value) {
  at[0] = (unsigned char)value;
  at[1] = (unsigned char)(value >> 8);
}

static float get_half(const unsigned char *at) { return half_to_float(get16(at)); }

/* ---- plain types ---- */

static void read_f32(const unsigned char *block, float *out, size_t blocks) {
  memcpy(out, block, blocks * sizeof *out);
}

static void write_f32(unsigned char *block, const float *in, size_t blocks) {
  memcpy(block, in, blocks * sizeof *in);
}

static void read_f16(const unsigned char *block, float *out, size_t blocks) {
  for (size_t i = 0; i < blocks; i++) out[i] = get_half(block + 2 * i);
}

static void write_f16(unsigned char *block, const float *in, size_t blocks) {
  for (size_t i = 0; i < blocks; i++) put16(block + 2 * i, float_to_half(in[i]));
}

static void read_bf16(const unsigned char *block, float *out, size_t blocks) {
  for (size_t i = 0; i < blocks; i++) out[i] = bf16_to_float(get16(block + 2 * i));
}

static void write_bf16(unsigned char *block, const float *in, size_t blocks) {
  for (size_t i = 0; i < blocks; i++) put16(block + 2 * i, float_to_bf16(in[i]));
}

/* ---- blocks of 32 ---- */

enum { BLOCK = 32, K_BLOCK = 256 };

static void read_q4(const unsigned char *nibbles, float d, float offset, float *out) {
  for (int i = 0; i < BLOCK / 2; i++) {
    out[i] = d * (float)(nibbles[i] & 15) + offset;
    out[i + BLOCK / 2] = d * (float)(nibbles[i] >> 4) + offset;
  }
}

static void read_q4_0(const unsigned char *block, float *out, size_t blocks) {
  for (size_t b = 0; b < blocks; b++, block += 18, out += BLOCK) {
    float d = get_half(block);
    read_q4(block + 2, d, -8 * d, out);
  }
}

static void read_q4_1(const unsigned char *block, float *out, size_t blocks) {
  for (size_t b = 0; b < blocks; b++, block += 20, out += BLOCK)
    read_q4(block + 4, get_half(block), get_half(block + 2), out);
}

/* high: 32 fifth bits, the lowest that of value 0 */
static void read_q5(const unsigned char *high, const unsigned char *nibbles, float d, float offset,
                    float *out) {
  uint32_t fifth = (uint32_t)get16(high) | (uint32_t)get16(high + 2) << 16;
  for (int i = 0; i < BLOCK / 2; i++) {
    unsigned low = (nibbles[i] & 15u) | (fifth >> i & 1u) << 4;
    unsigned up = (unsigned)(nibbles[i] >> 4) | (fifth >> (i + BLOCK / 2) & 1u) << 4;
    out[i] = d * (float)low + offset;
    out[i + BLOCK / 2] = d * (float)up + offset;
  }
}

static void read_q5_0(const unsigned char *block, float *out, size_t blocks) {
  for (size_t b = 0; b < blocks; b++, block += 22, out += BLOCK) {
    float d = get_half(block);
    read_q5(block + 2, block + 6, d, -16 * d, out);
  }
}

static void read_q5_1(const unsigned char *block, float *out, size_t blocks) {
  for (size_t b = 0; b < blocks; b++, block += 24, out += BLOCK)
    read_q5(block + 4, block + 8, get_half(block), get_half(block + 2), out);
}

static void read_q8_0(const unsigned char *block, float *out, size_t blocks) {
  for (size_t b = 0; b < blocks; b++, block += 34, out += BLOCK) {
    float d = get_half(block);
    for (int i = 0; i < BLOCK; i++) out[i] = d * (float)(signed char)block[2 + i];
  }
}

/* d = largest magnitude / 127; q to the nearest, halves away from zero. */
static void write_q8_0(unsigned char *block, const float *in, size_t blocks) {
  for (size_t b = 0; b < blocks; b++, block += 34, in += BLOCK) {
    float largest = 0;
    for (int i = 0; i < BLOCK; i++) largest = fmaxf(largest, fabsf(in[i]));
    float d = largest / 127, inverse = d != 0 ? 1 / d : 0;
    put16(block, float_to_half(d));
    for (int i = 0; i < BLOCK; i++) block[2 + i] = (unsigned char)(signed char)roundf(in[i] * inverse);
  }
}

/* ---- blocks of 256 ---- */

/* The six-bit scale s and offset t of part j (0 .. 7) of a Q4_K or Q5_K block: the first four stand in the
 * low bits of bytes 0-3 and 4-7, the others in nibbles of bytes 8-11 and the top bits of 0-7. */
static void get_scale(const unsigned char *packed, int j, float *s, float *t) {
  unsigned scale, offset;
  if (j < 4) {
    scale = packed[j] & 63u;
    offset = packed[j + 4] & 63u;
  } else {
    scale = (packed[j + 4] & 15u) | (unsigned)(packed[j - 4] >> 6) << 4;
    offset = (unsigned)(packed[j + 4] >> 4) | (unsigned)(packed[j] >> 6) << 4;
  }
  *s = (float)scale;
  *t = (float)offset;
}

/* Parts 2k and 2k + 1 of 32 values are the low and high nibbles of 32 bytes. fifth: 32 bytes whose bit j
 * belongs to part j, or NULL. */
static void read_k(const unsigned char *block, const unsigned char *fifth, const unsigned char *nibbles,
                   float *out) {
  float d = get_half(block), e = get_half(block + 2);
  for (int j = 0; j < 8; j++, out += BLOCK) {
    float s, t;
    get_scale(block + 4, j, &s, &t);
    const unsigned char *bytes = nibbles + BLOCK * (j / 2);
    for (int i = 0; i < BLOCK; i++) {
      unsigned q = j % 2 ? bytes[i] >> 4u : bytes[i] & 15u;
      if (fifth) q |= (fifth[i] >> j & 1u) << 4;
      out[i] = d * s * (float)q - e * t;
    }
  }
}

static void read_q4_k(const unsigned char *block, float *out, size_t blocks) {
  for (size_t b = 0; b < blocks; b++, block += 144, out += K_BLOCK) read_k(block, NULL, block + 16, out);
}

static void read_q5_k(const unsigned char *block, float *out, size_t blocks) {
  for (size_t b = 0; b < blocks; b++, block += 176, out += K_BLOCK)
    read_k(block, block + 16, block + 48, out);
}

/* Each half of 128 values: 64 bytes of low bits, 32 of high ones, 8 scales for 16 values each. Value
 * i = 32 k + l has its low bits in byte l + 32 (k % 2), nibble k / 2, and its high bits in byte l, pair k. */
static void read_q6_half(const unsigned char *low, const unsigned char *high, const unsigned char *scales,
                         float d, float *out) {
  for (int i = 0; i < K_BLOCK / 2; i++) {
    int k = i / BLOCK, l = i % BLOCK;
    int nibble = low[l + BLOCK * (k % 2)] >> (4 * (k / 2)) & 15, pair = high[l] >> (2 * k) & 3;
    out[i] = d * (float)(signed char)scales[i / 16] * (float)((nibble | pair << 4) - 32);
  }
}

static void read_q6_k(const unsigned char *block, float *out, size_t blocks) {
  for (size_t b = 0; b < blocks; b++, block += 210, out += K_BLOCK) {
    float d = get_half(block + 208);
    read_q6_half(block, block + 128, block + 192, d, out);
    read_q6_half(block + 64, block + 160, block + 200, d, out + K_BLOCK / 2);
  }
}

const Element elements[ELEMENT_COUNT] = {
    [ELEMENT_F32] = {"F32", 1, 4, 0, read_f32, write_f32},
    [ELEMENT_F16] = {"F16", 1, 2, 1, read_f16, write_f16},
    [ELEMENT_BF16] = {"BF16", 1, 2, 30, read_bf16, write_bf16},
    [ELEMENT_Q4_0] = {"Q4_0", BLOCK, 18, 2, read_q4_0, NULL},
    [ELEMENT_Q4_1] = {"Q4_1", BLOCK, 20, 3, read_q4_1, NULL},
    [ELEMENT_Q5_0] = {"Q5_0", BLOCK, 22, 6, read_q5_0, NULL},
    [ELEMENT_Q5_1] = {"Q5_1", BLOCK, 24, 7, read_q5_1, NULL},
    [ELEMENT_Q8_0] = {"Q8_0", BLOCK, 34, 8, read_q8_0, write_q8_0},
    [ELEMENT_Q4_K] = {"Q4_K", K_BLOCK, 144, 12, read_q4_k, NULL},
    [ELEMENT_Q5_K] = {"Q5_K", K_BLOCK, 176, 13, read_q5_k, NULL},
    [ELEMENT_Q6_K] = {"Q6_K", K_BLOCK, 210, 14, read_q6_k, NULL},
};

size_t element_bytes(ElementType type, size_t count) {
  return count / (size_t)elements[type].elements * (size_t)elements[type].bytes;
}

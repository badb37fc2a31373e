/* fp16: to nearest, ties to even; beyond 65504 infinity. */
#ifndef POPALM_BASE_FP16_H
#define POPALM_BASE_FP16_H

#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__ /* the same code on the device */
#define FP16_INLINE static __host__ __device__ inline
#else
#define FP16_INLINE static inline
#endif

FP16_INLINE uint32_t fp16_bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

FP16_INLINE float fp16_of_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

FP16_INLINE float half_to_float(uint16_t half) {
  uint32_t sign = (uint32_t)(half & 0x8000u) << 16, exponent = (half >> 10) & 31u, fraction = half & 0x3ffu;
  if (exponent == 31) return fp16_of_bits(sign | 0x7f800000u | fraction << 13);
  if (exponent == 0) { /* zero and subnormals: fraction * 2^-24 */
    float value = (float)fraction * 0x1p-24f;
    return sign ? -value : value;
  }
  return fp16_of_bits(sign | (exponent + 112) << 23 | fraction << 13);
}

FP16_INLINE uint16_t float_to_half(float value) {
  uint32_t bits = fp16_bits_of(value), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | (magnitude >> 13 & 0x1ffu)); /* NaN */
  if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* rounds to more than 65504 */
  if (magnitude < 0x38800000u) /* below 2^-14: the sum's last bit is 2^-24 */
    return (uint16_t)(sign | (fp16_bits_of(fp16_of_bits(magnitude) + 0.5f) - fp16_bits_of(0.5f)));
  return (uint16_t)(sign | (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13);
}

#endif

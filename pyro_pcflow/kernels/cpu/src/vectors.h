// Vectors of floats, functions of them, and blocks of them.
#pragma once

#include <cmath>
#include <cstdint>

namespace {

// LANES floats in a register; ROWS x VECTORS registers of sums, so that these, a row of factors and one broadcast fill
// the register file.
#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 8, VECTORS = 3;
#elif defined(__AVX2__)
constexpr int LANES = 8, ROWS = 4, VECTORS = 3;
#elif defined(__aarch64__)
constexpr int LANES = 4, ROWS = 8, VECTORS = 3;
#else
constexpr int LANES = 4, ROWS = 4, VECTORS = 3;
#endif
constexpr int TILE = 96;  // points
static_assert(TILE % (LANES * VECTORS) == 0, "a tile is whole groups of vectors");

using Vec = float __attribute__((vector_size(4 * LANES)));
using IVec = int32_t __attribute__((vector_size(4 * LANES)));
using UVec = uint32_t __attribute__((vector_size(4 * LANES)));
using Double = double __attribute__((vector_size(4 * LANES)));  // half as many lanes
using Half = float __attribute__((vector_size(2 * LANES)));
using UnalignedHalf = float __attribute__((vector_size(2 * LANES), aligned(4), may_alias));
using Unaligned = float __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define PCF_INLINE inline __attribute__((always_inline))
#define PCF_UNROLL _Pragma("GCC unroll 16")

PCF_INLINE Vec load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }
PCF_INLINE void store(float* p, Vec v) { *reinterpret_cast<Unaligned*>(p) = v; }
PCF_INLINE Double load_double(const float* p) {
  Half half = *reinterpret_cast<const UnalignedHalf*>(p);
  return __builtin_convertvector(half, Double);
}
PCF_INLINE void store_single(float* p, Double v) {
  *reinterpret_cast<UnalignedHalf*>(p) = __builtin_convertvector(v, Half);
}
PCF_INLINE Vec splat(float x) { return x - Vec{}; }
PCF_INLINE float sum(Vec v) {
  float total = 0;
  for (int i = 0; i < LANES; ++i) total += v[i];
  return total;
}
PCF_INLINE Vec absolute(Vec x) { return x < 0.0f ? -x : x; }
PCF_INLINE IVec to_int(Vec x) { return __builtin_convertvector(x, IVec); }
PCF_INLINE Vec power_of_two(IVec n) { return (Vec)(((UVec)(n + 127)) << 23); }
// To the nearest integer, for |x| < 2^22.
PCF_INLINE Vec nearest(Vec x) {
  const Vec magic = splat(12582912.0f);
  Vec shifted = x + magic;
  return shifted - magic;
}

// exp(r) - 1 = r + r^2 p(r) by the series, |r| <= log(2) / 2.
PCF_INLINE Vec expm1_reduced(Vec r) {
  Vec p = splat(1.0f / 5040);
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  return r * r * p + r;
}

struct Reduced {
  Vec rest;
  IVec exponent;
};

// x = exponent * log(2) + rest; log(2) in two parts, the first with trailing zeros.
PCF_INLINE Reduced reduce_exp(Vec x) {
  Vec n = nearest(x * 1.44269504f);
  Vec r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  return {r, to_int(n)};
}

PCF_INLINE Vec exponential(Vec x) {
  x = x > 89.0f ? splat(89.0f) : x;
  x = x < -104.0f ? splat(-104.0f) : x;
  Reduced reduced = reduce_exp(x);
  Vec y = expm1_reduced(reduced.rest) + 1.0f;
  IVec half = reduced.exponent >> 1;  // in two factors, since 2^128 and 2^-149 are no normal numbers
  return y * power_of_two(half) * power_of_two(reduced.exponent - half);
}

PCF_INLINE Vec hyperbolic_tangent(Vec x) {
  Vec twice = 2.0f * absolute(x);
  twice = twice > 40.0f ? splat(40.0f) : twice;
  Reduced reduced = reduce_exp(twice);
  Vec scale = power_of_two(reduced.exponent);
  Vec expm1 = scale * expm1_reduced(reduced.rest) + (scale - 1.0f);
  Vec y = expm1 / (expm1 + 2.0f);
  return x < 0.0f ? -y : y;
}

PCF_INLINE Vec sigmoid(Vec x) { return 1.0f / (1.0f + exponential(-x)); }

PCF_INLINE void sine_and_cosine(Vec x, Vec& sine, Vec& cosine) {
  constexpr float LIMIT = 8000.0f;  // up to which multiples of the first two parts of pi / 2 are exact
  Vec n = nearest(x * 0.636619772f);
  Vec r = x - n * 1.5703125f;
  r = r - n * 4.837512969970703e-4f;
  r = r - n * 7.54978995489188e-8f;
  Vec r2 = r * r;
  Vec s = splat(1.0f / 362880);
  s = s * r2 - 1.0f / 5040;
  s = s * r2 + 1.0f / 120;
  s = s * r2 - 1.0f / 6;
  s = s * r2 * r + r;
  Vec c = splat(-1.0f / 3628800);
  c = c * r2 + 1.0f / 40320;
  c = c * r2 - 1.0f / 720;
  c = c * r2 + 1.0f / 24;
  c = c * r2 - 0.5f;
  c = c * r2 + 1.0f;
  IVec quadrant = to_int(n);
  sine = (quadrant & 1) != 0 ? c : s;
  cosine = (quadrant & 1) != 0 ? s : c;
  sine = (quadrant & 2) != 0 ? -sine : sine;
  cosine = ((quadrant + 1) & 2) != 0 ? -cosine : cosine;
  IVec far = ~(absolute(x) < LIMIT);
  bool any = false;
  for (int i = 0; i < LANES; ++i) any |= far[i] != 0;
  if (__builtin_expect(any, 0)) {
    for (int i = 0; i < LANES; ++i) {
      if (far[i] != 0) {
        sine[i] = std::sin(x[i]);
        cosine[i] = std::cos(x[i]);
      }
    }
  }
}

// The share of a standard normal below x, whose density is proportional to bell = exp(-x^2 / 2). A tail is t p(t) bell
// with t = 1 / (1 + 0.38 |x| / sqrt(2)), as in Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26, but
// to half a unit in the last place: p was fitted to the relative error of t p(t) = erfc(z) exp(z^2) / 2.
PCF_INLINE Vec normal_distribution(Vec x, Vec bell) {
  Vec t = 1.0f / (1.0f + 0.268700577f * absolute(x));
  Vec p = splat(0.02952428f);
  p = p * t - 0.131346717f;
  p = p * t + 0.182374609f;
  p = p * t - 0.081260903f;
  p = p * t + 0.115398346f;
  p = p * t + 0.069151356f;
  p = p * t + 0.102000519f;
  p = p * t + 0.106952592f;
  p = p * t + 0.107205929f;
  Vec tail = p * t * bell;
  return x < 0.0f ? tail : 1.0f - tail;
}

// Two vectors exchange lanes: `first` gets those of `a` and of `b` whose number has no bit STEP, `second` the others.
template <int STEP>
PCF_INLINE void mix(Vec a, Vec b, Vec& first, Vec& second) {
#if defined(__clang__)
  PCF_UNROLL for (int l = 0; l < LANES; ++l) {
    first[l] = (l & STEP) == 0 ? a[l] : b[l - STEP];
    second[l] = (l & STEP) == 0 ? a[l + STEP] : b[l];
  }
#else
  IVec low, high;
  PCF_UNROLL for (int l = 0; l < LANES; ++l) {
    low[l] = (l & STEP) == 0 ? l : LANES + l - STEP;
    high[l] = (l & STEP) == 0 ? l + STEP : LANES + l;
  }
  first = __builtin_shuffle(a, b, low);
  second = __builtin_shuffle(a, b, high);
#endif
}

// One stage of a transposition: rows that are STEP apart exchange blocks of STEP lanes; then the next stages.
template <int STEP>
PCF_INLINE void exchange(Vec (&block)[LANES]) {
  if constexpr (STEP < LANES) {
    PCF_UNROLL for (int i = 0; i < LANES; ++i) {
      if ((i & STEP) == 0) mix<STEP>(block[i], block[i + STEP], block[i], block[i + STEP]);
    }
    exchange<2 * STEP>(block);
  }
}

// The sum of each of LANES vectors; they are overwritten.
template <int STEP = LANES / 2>
PCF_INLINE Vec sum_each(Vec (&block)[LANES]) {
  PCF_UNROLL for (int i = 0; i < STEP; ++i) {
    Vec first, second;
    mix<STEP>(block[i], block[i + STEP], first, second);
    block[i] = first + second;
  }
  if constexpr (STEP > 1) sum_each<STEP / 2>(block);
  return block[0];
}

PCF_INLINE void accumulate(float* total, Vec v) { store(total, load(total) + v); }

}  // namespace

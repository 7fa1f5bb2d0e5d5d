// Activations.
#pragma once

#include <cstdint>

#include "vectors.h"

namespace {

// build.py passes these numbers, so that they are those of program.py.
enum class Activation : int32_t {
  Relu = PCF_RELU,
  Silu = PCF_SILU,
  Tanh = PCF_TANH,
  Gelu = PCF_GELU,
  LeakyRelu = PCF_LEAKY_RELU,
};
constexpr float LEAKY_SLOPE = PCF_LEAKY_SLOPE;

constexpr bool is_piecewise_linear(Activation activation) {
  return activation == Activation::Relu || activation == Activation::LeakyRelu;
}

// Each has a value, or a value and its slope. A value that is not a number stays one.

struct Relu {
  static PCF_INLINE Vec value(Vec x) { return x < 0.0f ? splat(0.0f) : x; }
  static PCF_INLINE Vec with_slope(Vec x, Vec& slope) {
    slope = x > 0.0f ? splat(1.0f) : splat(0.0f);
    return value(x);
  }
};

struct LeakyRelu {
  static PCF_INLINE Vec value(Vec x) { return x < 0.0f ? LEAKY_SLOPE * x : x; }
  static PCF_INLINE Vec with_slope(Vec x, Vec& slope) {
    slope = x > 0.0f ? splat(1.0f) : splat(LEAKY_SLOPE);
    return value(x);
  }
};

struct Tanh {
  static PCF_INLINE Vec value(Vec x) { return hyperbolic_tangent(x); }
  static PCF_INLINE Vec with_slope(Vec x, Vec& slope) {
    Vec y = value(x);
    slope = 1.0f - y * y;
    return y;
  }
};

struct Silu {
  static PCF_INLINE Vec value(Vec x) { return x / (1.0f + exponential(-x)); }
  static PCF_INLINE Vec with_slope(Vec x, Vec& slope) {
    Vec s = sigmoid(x);
    slope = s * (1.0f + x * (1.0f - s));
    return x * s;
  }
};

struct Gelu {
  static PCF_INLINE Vec value(Vec x) { return x * normal_distribution(x, exponential(-0.5f * x * x)); }
  static PCF_INLINE Vec with_slope(Vec x, Vec& slope) {
    Vec bell = exponential(-0.5f * x * x);
    Vec share = normal_distribution(x, bell);
    slope = share + 0.39894228f * x * bell;
    return x * share;
  }
};

}  // namespace

// What the kernel is made of, callable one by one: test_sources.py compiles this file in seconds.

#include "activations.h"
#include "arena.h"
#include "networks.h"
#include "products.h"

namespace {

template <class Function>
void apply(const float* x, int64_t count, float* y, Function&& function) {
  for (int64_t i = 0; i < count; i += LANES) store(y + i, function(load(x + i)));
}

template <class Activation>
void activate(const float* x, int64_t count, float* y, float* slopes) {
  for (int64_t i = 0; i < count; i += LANES) {
    Vec slope;
    store(y + i, Activation::with_slope(load(x + i), slope));
    store(slopes + i, slope);
  }
}

}  // namespace

extern "C" {

// `count` is a multiple of 16.
void exponential_of(const float* x, int64_t count, float* y) { apply(x, count, y, [](Vec v) { return exponential(v); }); }
void tanh_of(const float* x, int64_t count, float* y) { apply(x, count, y, [](Vec v) { return Tanh::value(v); }); }
void silu_of(const float* x, int64_t count, float* y) { apply(x, count, y, [](Vec v) { return Silu::value(v); }); }
void gelu_of(const float* x, int64_t count, float* y) { apply(x, count, y, [](Vec v) { return Gelu::value(v); }); }
void tanh_with_slope(const float* x, int64_t count, float* y, float* slopes) { activate<Tanh>(x, count, y, slopes); }
void silu_with_slope(const float* x, int64_t count, float* y, float* slopes) { activate<Silu>(x, count, y, slopes); }
void gelu_with_slope(const float* x, int64_t count, float* y, float* slopes) { activate<Gelu>(x, count, y, slopes); }
void sine_and_cosine_of(const float* x, int64_t count, float* sines, float* cosines) {
  for (int64_t i = 0; i < count; i += LANES) {
    Vec sine, cosine;
    sine_and_cosine(load(x + i), sine, cosine);
    store(sines + i, sine);
    store(cosines + i, cosine);
  }
}

// matrix (rows, depth) times x (depth, TILE).
void product_of(const float* matrix, int rows, int depth, const float* x, float* y) {
  Arena arena(round_up(size_t(rows) * depth));
  float* packed = arena.take(size_t(rows) * depth);
  pack(matrix, rows, depth, depth, 1, packed);
  product<PART>(packed, rows, depth, x, TILE, [&](int row, int column, Vec v) { store(y + row * TILE + column, v); });
}
int tile() { return TILE; }

// Whether an arena of some room refuses to give away more; a first arena leaves its memory to the second.
int refuses(int64_t left, int64_t room, int64_t taken) {
  { Arena before(left); }
  Arena arena(room);
  try {
    arena.take(taken);
  } catch (const TooLittleRoom&) {
    return 1;
  }
  return 0;
}

// Whether scratch memory fits into as many floats as it counts, less some.
int scratch_fits(const int32_t* code, const float* limits, int64_t points, int tiles, int backward, int64_t less) {
  Program program(code, limits, points);
  Arena arena(Scratch::size(program, tiles, backward) - less);
  try {
    Scratch scratch(arena, program, tiles, backward);
  } catch (const TooLittleRoom&) {
    return 0;
  }
  return 1;
}

}  // extern "C"

// A whole stack of couplings, tile by tile.
//
// A tile of points goes through all layers while its hidden units stay in the cache. Units are rows and points are
// columns of every matrix, so that vectors run over points: widths need not fit the vectors, and one column of a
// network's outputs is a coordinate of many points. The backward pass starts from the result and the moved coordinates
// that each layer overwrote, and evaluates hidden layers once more.
//
// Plain C++17 with the vector types of GCC and Clang; compiled for one instruction set at a time, see compiler.py.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <type_traits>
#include <vector>

namespace {

// ---------------------------------------------------------------------------------------------------------------------
// Vectors

// LANES floats in a register; ROWS x COLUMNS registers of sums, so that these, a row of factors and one broadcast fill
// the register file.
#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 8, COLUMNS = 3;
#elif defined(__AVX2__)
constexpr int LANES = 8, ROWS = 4, COLUMNS = 3;
#elif defined(__aarch64__)
constexpr int LANES = 4, ROWS = 8, COLUMNS = 3;
#else
constexpr int LANES = 4, ROWS = 4, COLUMNS = 3;
#endif
constexpr int TILE = 96;  // points
static_assert(TILE % (LANES * COLUMNS) == 0, "a tile is whole groups of columns");

using Vec = float __attribute__((vector_size(4 * LANES)));
using IVec = int32_t __attribute__((vector_size(4 * LANES)));
using UVec = uint32_t __attribute__((vector_size(4 * LANES)));
using Unaligned = float __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define PCF_INLINE inline __attribute__((always_inline))
#define PCF_UNROLL _Pragma("GCC unroll 16")

PCF_INLINE Vec load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }
PCF_INLINE void store(float* p, Vec v) { *reinterpret_cast<Unaligned*>(p) = v; }
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

// Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: to 1.5e-7.
PCF_INLINE Vec normal_distribution(Vec x, Vec bell) {
  Vec t = 1.0f / (1.0f + 0.3275911f * 0.70710678f * absolute(x));
  Vec p = splat(1.061405429f);
  p = p * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  Vec tail = 0.5f * p * t * bell;
  return x < 0.0f ? tail : 1.0f - tail;
}

// ---------------------------------------------------------------------------------------------------------------------
// Activations: a value, or a value and its slope. A value that is not a number stays one.

struct Relu {
  static PCF_INLINE Vec value(Vec x) { return x < 0.0f ? splat(0.0f) : x; }
  static PCF_INLINE Vec with_slope(Vec x, Vec& slope) {
    slope = x > 0.0f ? splat(1.0f) : splat(0.0f);
    return value(x);
  }
};

struct LeakyRelu {
  static PCF_INLINE Vec value(Vec x) { return x < 0.0f ? 0.1f * x : x; }
  static PCF_INLINE Vec with_slope(Vec x, Vec& slope) {
    slope = x > 0.0f ? splat(1.0f) : splat(0.1f);
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

// ---------------------------------------------------------------------------------------------------------------------
// Memory that one call leaves to the next

class Arena {
 public:
  explicit Arena(size_t floats) : floats_(floats) {
    if (lock_.try_lock()) {  // a lock that a fork has left closed is no reason to wait
      for (auto& kept : kept_) {
        if (kept.data != nullptr && kept.floats >= floats) {
          data_ = kept.data;
          floats_ = kept.floats;
          kept.data = nullptr;
          break;
        }
      }
      lock_.unlock();
    }
    if (data_ == nullptr) data_ = allocate(floats_);
  }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena() {
    if (lock_.try_lock()) {
      auto* smallest = &kept_[0];
      for (auto& kept : kept_) {
        if (kept.data == nullptr || (smallest->data != nullptr && kept.floats < smallest->floats)) smallest = &kept;
      }
      if (smallest->data == nullptr || smallest->floats < floats_) {
        std::swap(smallest->data, data_);
        std::swap(smallest->floats, floats_);
      }
      lock_.unlock();
    }
    std::free(data_);
  }
  float* take(size_t floats) {
    float* piece = data_ + used_;
    used_ += round_up(floats);
    return piece;
  }
  // A piece of memory starts at a cache line, and not a whole number of pages after the last one.
  static size_t round_up(size_t floats) { return (floats + 15) / 16 * 16 + 16; }

 private:
  struct Kept {
    float* data = nullptr;
    size_t floats = 0;
  };
  static float* allocate(size_t floats) {
    void* data = nullptr;
    if (posix_memalign(&data, 64, floats * sizeof(float) + 64) != 0) throw std::bad_alloc();
    return static_cast<float*>(data);
  }
  static std::mutex lock_;
  static Kept kept_[4];
  float* data_ = nullptr;
  size_t floats_;
  size_t used_ = 0;
};

std::mutex Arena::lock_;
Arena::Kept Arena::kept_[4];

// ---------------------------------------------------------------------------------------------------------------------
// The program: what program.py writes, read once a call

struct Layer {
  int inputs, outputs;
  bool scaled, skip;
  int64_t weight;         // of the first weight, among all
  int64_t scale, offset;  // among what a group of points has of its own
  int64_t row;            // of its inputs, among the rows of its network: its features, then its hidden layers
  int64_t gradient;       // of the first weight's gradient, in rows of whole vectors
  int stride() const { return (inputs + LANES - 1) / LANES * LANES; }
};

struct Network {
  int frequencies, activation, outputs;
  int64_t row;                // of its features, among the rows of its coupling
  std::vector<Layer> layers;  // the hidden ones, and the last
};

struct Coupling {
  std::vector<int> kept, moved;
  bool affine;
  float limit;
  std::vector<Network> networks;
  int64_t saved;  // coordinates that couplings before it overwrite
};

struct Program {
  int point_dim;
  std::vector<Coupling> couplings;
  int64_t weights = 0, offsets = 0, gradients = 0, saved = 0;
  int64_t rows = 0;  // of the widest coupling: features and hidden layers of its networks
  int widest = 0, outputs = 0;

  Program(const int32_t* code, const float* limits) {
    point_dim = *code++;
    couplings.resize(*code++);
    for (auto& coupling : couplings) {
      int mask = *code++;
      for (int i = 0; i < point_dim; ++i) (mask >> i & 1 ? coupling.kept : coupling.moved).push_back(i);
      coupling.affine = *code++ != 0;
      coupling.limit = *limits++;
      coupling.saved = saved;
      saved += coupling.moved.size();
      coupling.networks.resize(*code++);
      int64_t rows = 0;
      int outputs_here = 0;
      for (auto& network : coupling.networks) {
        network.frequencies = *code++;
        network.activation = *code++;
        network.outputs = *code++;
        network.layers.resize(1 + *code++);
        network.row = rows;
        int inputs = coupling.kept.size() * (1 + 2 * network.frequencies);
        for (size_t i = 0; i < network.layers.size(); ++i) {
          auto& layer = network.layers[i];
          bool last = i + 1 == network.layers.size();
          layer.inputs = inputs;
          layer.row = rows - network.row;
          rows += inputs;
          widest = std::max(widest, inputs);
          layer.outputs = last ? network.outputs : *code++;
          layer.scaled = last ? false : *code++ != 0;
          layer.skip = last ? false : *code++ != 0;
          layer.weight = weights;
          weights += int64_t(layer.inputs) * layer.outputs;
          layer.gradient = gradients;
          gradients += int64_t(layer.stride()) * layer.outputs;
          layer.scale = offsets;
          if (layer.scaled) offsets += layer.outputs;
          layer.offset = offsets;
          offsets += layer.outputs;
          inputs = layer.outputs;
        }
        outputs_here += network.outputs;
      }
      this->rows = std::max(this->rows, rows);
      outputs = std::max(outputs, outputs_here);
    }
  }
};

// ---------------------------------------------------------------------------------------------------------------------
// Matrix products

// Blocks of ROWS rows and then of 4, 2 and 1, each with its rows beside each other for every column.
template <class Block>
PCF_INLINE void in_blocks(int rows, Block&& block) {
  int row = 0;
  for (; row + ROWS <= rows; row += ROWS) block(std::integral_constant<int, ROWS>(), row);
  if (ROWS > 4 && row + 4 <= rows) { block(std::integral_constant<int, 4>(), row); row += 4; }
  if (row + 2 <= rows) { block(std::integral_constant<int, 2>(), row); row += 2; }
  if (row < rows) block(std::integral_constant<int, 1>(), row);
}

// matrix[row * row_step + column * column_step], packed.
void pack(const float* matrix, int rows, int columns, int row_step, int column_step, float* packed) {
  in_blocks(rows, [&](auto height, int row) {
    for (int column = 0; column < columns; ++column)
      for (int r = 0; r < height; ++r) *packed++ = matrix[int64_t(row + r) * row_step + int64_t(column) * column_step];
  });
}

// For every vector of packed (rows, depth) times x (depth, TILE): done(row, first column, vector).
template <class Done>
PCF_INLINE void product(const float* packed, int rows, int depth, const float* x, int columns, Done&& done) {
  auto go = [&](auto width, int first) __attribute__((always_inline)) {
    constexpr int C = width;
    in_blocks(rows, [&](auto height, int row) __attribute__((always_inline)) {
      constexpr int R = height;
      const float* factors = packed + int64_t(row) * depth;
      const float* from = x + first;
      Vec sums[R][C] = {};
      for (int k = 0; k < depth; ++k) {
        Vec values[C];
        PCF_UNROLL for (int c = 0; c < C; ++c) values[c] = load(from + c * LANES);
        PCF_UNROLL for (int r = 0; r < R; ++r) {
          Vec factor = splat(factors[r]);
          PCF_UNROLL for (int c = 0; c < C; ++c) sums[r][c] += factor * values[c];
        }
        factors += R;
        from += TILE;
      }
      PCF_UNROLL for (int r = 0; r < R; ++r) {
        PCF_UNROLL for (int c = 0; c < C; ++c) done(row + r, first + c * LANES, sums[r][c]);
      }
    });
  };
  int first = 0;
  for (; first + COLUMNS * LANES <= columns; first += COLUMNS * LANES)
    go(std::integral_constant<int, COLUMNS>(), first);
  if (columns - first > LANES)
    go(std::integral_constant<int, 2>(), first);
  else if (columns > first)
    go(std::integral_constant<int, 1>(), first);
}

// total (rows, stride) += g (rows, TILE) times x (depth, TILE) transposed, which comes as (TILE, stride).
void add_outer_product(const float* g, int rows, const float* transposed, int stride, int columns, float* total) {
  auto go = [&](auto width, int first) __attribute__((always_inline)) {
    constexpr int C = width;
    in_blocks(rows, [&](auto height, int row) __attribute__((always_inline)) {
      constexpr int R = height;
      float* to = total + int64_t(row) * stride + first;
      Vec sums[R][C];
      PCF_UNROLL for (int r = 0; r < R; ++r) {
        PCF_UNROLL for (int c = 0; c < C; ++c) sums[r][c] = load(to + int64_t(r) * stride + c * LANES);
      }
      const float* factors = g + int64_t(row) * TILE;
      const float* from = transposed + first;
      for (int t = 0; t < columns; ++t) {
        Vec values[C];
        PCF_UNROLL for (int c = 0; c < C; ++c) values[c] = load(from + c * LANES);
        PCF_UNROLL for (int r = 0; r < R; ++r) {
          Vec factor = splat(factors[r * TILE + t]);
          PCF_UNROLL for (int c = 0; c < C; ++c) sums[r][c] += factor * values[c];
        }
        from += stride;
      }
      PCF_UNROLL for (int r = 0; r < R; ++r) {
        PCF_UNROLL for (int c = 0; c < C; ++c) store(to + int64_t(r) * stride + c * LANES, sums[r][c]);
      }
    });
  };
  int first = 0;
  for (; first + COLUMNS * LANES <= stride; first += COLUMNS * LANES)
    go(std::integral_constant<int, COLUMNS>(), first);
  if (stride - first == 2 * LANES)
    go(std::integral_constant<int, 2>(), first);
  else if (stride - first == LANES)
    go(std::integral_constant<int, 1>(), first);
}

// One stage of a transposition: rows that are STEP apart exchange blocks of STEP lanes; then the next stages.
template <int STEP>
PCF_INLINE void exchange(Vec (&block)[LANES]) {
  if constexpr (STEP < LANES) {
    PCF_UNROLL for (int i = 0; i < LANES; ++i) {
      if ((i & STEP) == 0) {
        Vec a = block[i], b = block[i + STEP];
        IVec low, high;
        PCF_UNROLL for (int l = 0; l < LANES; ++l) {
          low[l] = (l & STEP) == 0 ? l : LANES + l - STEP;
          high[l] = (l & STEP) == 0 ? l + STEP : LANES + l;
        }
#if defined(__clang__)
        Vec first, second;
        PCF_UNROLL for (int l = 0; l < LANES; ++l) {
          first[l] = (l & STEP) == 0 ? a[l] : b[l - STEP];
          second[l] = (l & STEP) == 0 ? a[l + STEP] : b[l];
        }
        block[i] = first;
        block[i + STEP] = second;
#else
        block[i] = __builtin_shuffle(a, b, low);
        block[i + STEP] = __builtin_shuffle(a, b, high);
#endif
      }
    }
    exchange<2 * STEP>(block);
  }
}

// x (rows, TILE) as (TILE, stride), with zeros from the last row to the stride.
void transpose(const float* x, int rows, int columns, int stride, float* transposed) {
  for (int row = 0; row < stride; row += LANES) {
    for (int column = 0; column < columns; column += LANES) {
      Vec block[LANES];
      PCF_UNROLL for (int i = 0; i < LANES; ++i)
        block[i] = row + i < rows ? load(x + int64_t(row + i) * TILE + column) : splat(0.0f);
      exchange<1>(block);
      PCF_UNROLL for (int i = 0; i < LANES; ++i) store(transposed + int64_t(column + i) * stride + row, block[i]);
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// One tile

// What all threads read.
struct Weights {
  const Program& program;
  const float* packed;      // as factors of a layer's inputs
  const float* packed_back; // as factors of its outputs' gradients
  bool inverse;
};

// What one thread writes.
struct Scratch {
  float *points, *gradients, *log_det_gradient;  // (D, TILE), and one row
  float *outputs, *output_gradients;             // (outputs, TILE)
  float *values, *slopes, *raws;                 // hidden layers of a coupling, from the first network's features on
  float* transposed;                             // (TILE, widest)
  float* weight_gradients;
  float* offset_gradients;  // a vector for each
  float* shared_groups;     // sums of the first group and of the last, if other threads have points of them, too

  static size_t size(const Program& program, bool backward) {
    size_t rows = Arena::round_up(size_t(program.rows) * TILE);
    size_t total = 2 * Arena::round_up(size_t(program.point_dim) * TILE) + Arena::round_up(TILE) +
                   2 * Arena::round_up(size_t(program.outputs) * TILE) + rows;
    if (backward) {
      total += 2 * rows + Arena::round_up(size_t(TILE) * (program.widest + LANES)) +
               Arena::round_up(program.gradients) + Arena::round_up(program.offsets * LANES) +
               Arena::round_up(2 * program.offsets);
    }
    return total;
  }
  Scratch(Arena& arena, const Program& program, bool backward) {
    size_t rows = size_t(program.rows) * TILE;
    points = arena.take(size_t(program.point_dim) * TILE);
    gradients = arena.take(size_t(program.point_dim) * TILE);
    log_det_gradient = arena.take(TILE);
    outputs = arena.take(size_t(program.outputs) * TILE);
    output_gradients = arena.take(size_t(program.outputs) * TILE);
    values = arena.take(rows);
    if (!backward) return;
    slopes = arena.take(rows);
    raws = arena.take(rows);
    transposed = arena.take(size_t(TILE) * (program.widest + LANES));
    weight_gradients = arena.take(program.gradients);
    offset_gradients = arena.take(program.offsets * LANES);
    shared_groups = arena.take(2 * program.offsets);
  }
};

template <class Use>
PCF_INLINE void with_activation(int activation, Use&& use) {
  switch (activation) {
    case 0: return use(Relu());
    case 1: return use(Silu());
    case 2: return use(Tanh());
    case 3: return use(Gelu());
    default: return use(LeakyRelu());
  }
}

void fourier_features(const Coupling& coupling, int frequencies, const float* points, int columns, float* features) {
  int kept = coupling.kept.size();
  for (int k = 0; k < kept; ++k) {
    const float* x = points + coupling.kept[k] * TILE;
    for (int c = 0; c < columns; c += LANES) {
      Vec value = load(x + c);
      store(features + k * TILE + c, value);
      float octave = 1.0f;
      for (int f = 0; f < frequencies; ++f, octave *= 2) {
        Vec sine, cosine;
        sine_and_cosine(octave * value, sine, cosine);
        store(features + (kept * (1 + f) + k) * TILE + c, sine);
        store(features + (kept * (1 + frequencies + f) + k) * TILE + c, cosine);
      }
    }
  }
}

void fourier_gradient(
    const Coupling& coupling, int frequencies, const float* features, const float* g, int columns, float* gradients) {
  int kept = coupling.kept.size();
  for (int k = 0; k < kept; ++k) {
    float* to = gradients + coupling.kept[k] * TILE;
    for (int c = 0; c < columns; c += LANES) {
      Vec total = load(to + c) + load(g + k * TILE + c);
      float octave = 1.0f;
      for (int f = 0; f < frequencies; ++f, octave *= 2) {
        int sine = (kept * (1 + f) + k) * TILE + c, cosine = (kept * (1 + frequencies + f) + k) * TILE + c;
        total += octave * (load(g + sine) * load(features + cosine) - load(g + cosine) * load(features + sine));
      }
      store(to + c, total);
    }
  }
}

template <bool KEEP>
void evaluate_network(const Coupling& coupling, const Network& network, const Weights& weights, const float* offsets,
                      const float* points, int columns, const Scratch& scratch, float* outputs) {
  fourier_features(coupling, network.frequencies, points, columns, scratch.values + network.row * TILE);
  const float* before = nullptr;
  for (size_t i = 0; i < network.layers.size(); ++i) {
    const Layer& layer = network.layers[i];
    const float* packed = weights.packed + layer.weight;
    const float* offset = offsets + layer.offset;
    const float* inputs = scratch.values + (network.row + layer.row) * TILE;
    if (i + 1 == network.layers.size()) {
      product(packed, layer.outputs, layer.inputs, inputs, columns,
              [&](int row, int c, Vec v) __attribute__((always_inline)) { store(outputs + row * TILE + c, v + offset[row]); });
      return;
    }
    int64_t place = (network.row + network.layers[i + 1].row) * TILE;
    float* values = scratch.values + place;
    float *slopes = KEEP ? scratch.slopes + place : nullptr, *raws = KEEP ? scratch.raws + place : nullptr;
    const float* scale = layer.scaled ? offsets + layer.scale : nullptr;
    const float* skipped = layer.skip ? before : nullptr;
    with_activation(network.activation, [&](auto activation) __attribute__((always_inline)) {
      product(packed, layer.outputs, layer.inputs, inputs, columns,
              [&](int row, int c, Vec v) __attribute__((always_inline)) {
                int64_t at = int64_t(row) * TILE + c;
                if (scale != nullptr) {
                  if (KEEP) store(raws + at, v);
                  v = v * scale[row];
                }
                v += offset[row];
                if (skipped != nullptr) v += load(skipped + at);
                if (KEEP) {
                  Vec slope;
                  v = activation.with_slope(v, slope);
                  store(slopes + at, slope);
                } else {
                  v = activation.value(v);
                }
                store(values + at, v);
              });
    });
    before = inputs;
  }
}

template <bool KEEP>
void evaluate_networks(const Coupling& coupling, const Weights& weights, const float* offsets, const float* points,
                       int columns, const Scratch& scratch) {
  float* outputs = scratch.outputs;
  for (const auto& network : coupling.networks) {
    evaluate_network<KEEP>(coupling, network, weights, offsets, points, columns, scratch, outputs);
    outputs += network.outputs * TILE;
  }
}

// Move a tile through one coupling; log_det is added to.
void move(const Coupling& coupling, bool inverse, const float* outputs, int columns, float* points, float* log_det) {
  int moved = coupling.moved.size();
  for (int m = 0; m < moved; ++m) {
    float* x = points + coupling.moved[m] * TILE;
    for (int c = 0; c < columns; c += LANES) {
      Vec shift = load(outputs + m * TILE + c);
      Vec value = load(x + c);
      if (coupling.affine) {
        Vec log_scale = coupling.limit * hyperbolic_tangent(load(outputs + (moved + m) * TILE + c) / coupling.limit);
        value = inverse ? value * exponential(log_scale) + shift : (value - shift) * exponential(-log_scale);
        store(log_det + c, load(log_det + c) + (inverse ? log_scale : -log_scale));
      } else {
        value = inverse ? value + shift : value - shift;
      }
      store(x + c, value);
    }
  }
}

// The gradient through `move`: of the outputs, and of the moved coordinates, in place. `points` are those before it.
void move_back(const Coupling& coupling, bool inverse, const float* points, int columns, const Scratch& scratch) {
  int moved = coupling.moved.size();
  for (int m = 0; m < moved; ++m) {
    const float* x = points + coupling.moved[m] * TILE;
    float* g = scratch.gradients + coupling.moved[m] * TILE;
    float* g_shift = scratch.output_gradients + m * TILE;
    for (int c = 0; c < columns; c += LANES) {
      Vec gradient = load(g + c);
      if (!coupling.affine) {
        store(g_shift + c, inverse ? gradient : -gradient);
        continue;
      }
      Vec tangent = hyperbolic_tangent(load(scratch.outputs + (moved + m) * TILE + c) / coupling.limit);
      Vec log_scale = coupling.limit * tangent;
      Vec scale = exponential(inverse ? log_scale : -log_scale);
      Vec scaled = gradient * scale;
      Vec of_log_det = load(scratch.log_det_gradient + c);
      Vec value = load(x + c);
      Vec g_log_scale;
      if (inverse) {
        store(g_shift + c, gradient);
        g_log_scale = scaled * value + of_log_det;
      } else {
        store(g_shift + c, -scaled);
        g_log_scale = -scaled * (value - load(scratch.outputs + m * TILE + c)) - of_log_det;
      }
      store(scratch.output_gradients + (moved + m) * TILE + c, g_log_scale * (1.0f - tangent * tangent));
      store(g + c, scaled);
    }
  }
}

PCF_INLINE void accumulate(float* total, Vec v) { store(total, load(total) + v); }

// The gradient through one network: of its weights and offsets, added to those of the tiles before, and of its kept
// coordinates, added to scratch.gradients. Slopes and raw values are overwritten by gradients.
void differentiate_network(const Coupling& coupling, const Network& network, const Weights& weights,
                           const float* offsets, int columns, bool of_weights,
                           const Scratch& scratch, const float* output_gradients) {
  int depth = network.layers.size();
  auto place = [&](int i) { return (network.row + network.layers[i].row) * TILE; };  // of the inputs of a layer
  const float* g = output_gradients;
  {
    float* total = scratch.offset_gradients + network.layers[depth - 1].offset * LANES;
    for (int r = 0; r < network.outputs; ++r)
      for (int c = 0; c < columns; c += LANES) accumulate(total + r * LANES, load(g + r * TILE + c));
  }
  for (int i = depth - 1; i >= 0; --i) {
    const Layer& layer = network.layers[i];
    if (of_weights) {
      transpose(scratch.values + place(i), layer.inputs, columns, layer.stride(), scratch.transposed);
      add_outer_product(g, layer.outputs, scratch.transposed, layer.stride(), columns,
                        scratch.weight_gradients + layer.gradient);
    }
    const float* packed = weights.packed_back + layer.weight;
    float* slopes = scratch.slopes + place(i);
    if (i == 0) {
      // Nothing has a slope here, and its place takes the gradient of the features.
      product(packed, layer.inputs, layer.outputs, g, columns,
              [&](int r, int c, Vec v) __attribute__((always_inline)) { store(slopes + r * TILE + c, v); });
      fourier_gradient(coupling, network.frequencies, scratch.values + place(0), slopes, columns,
                       scratch.gradients);
      return;
    }
    const Layer& below = network.layers[i - 1];
    float* raws = scratch.raws + place(i);
    const float* scale = below.scaled ? offsets + below.scale : nullptr;
    float* of_scale = scratch.offset_gradients + below.scale * LANES;
    float* of_offset = scratch.offset_gradients + below.offset * LANES;
    // A skip connection that ends two layers above has left its gradient in the place of that layer's slopes.
    const float* skipped = i + 1 < depth && network.layers[i + 1].skip ? scratch.slopes + place(i + 2) : nullptr;
    product(packed, layer.inputs, layer.outputs, g, columns, [&](int r, int c, Vec v) __attribute__((always_inline)) {
      int64_t at = int64_t(r) * TILE + c;
      if (skipped != nullptr) v += load(skipped + at);
      v *= load(slopes + at);
      store(slopes + at, v);
      accumulate(of_offset + r * LANES, v);
      if (scale != nullptr) {
        accumulate(of_scale + r * LANES, v * load(raws + at));
        store(raws + at, v * scale[r]);
      }
    });
    g = below.scaled ? raws : slopes;
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// All tiles

struct Tile {
  int64_t group, first;  // the first point, among all
  int count, columns;    // points, and these rounded up to whole vectors
};

struct Tiles {
  int64_t points, per_group, count;
  Tiles(int64_t groups, int64_t points) : points(points), per_group((points + TILE - 1) / TILE), count(groups * per_group) {}
  Tile operator[](int64_t i) const {
    int64_t group = i / per_group, start = i % per_group * TILE;
    int n = int(std::min<int64_t>(TILE, points - start));
    return {group, group * points + start, n, (n + LANES - 1) / LANES * LANES};
  }
};

void read_points(const float* from, int dims, const Tile& tile, float* rows) {
  for (int d = 0; d < dims; ++d) {
    for (int t = 0; t < tile.count; ++t) rows[d * TILE + t] = from[(tile.first + t) * dims + d];
    for (int t = tile.count; t < tile.columns; ++t) rows[d * TILE + t] = 0.0f;
  }
}

void write_points(const float* rows, int dims, const Tile& tile, float* to) {
  for (int d = 0; d < dims; ++d)
    for (int t = 0; t < tile.count; ++t) to[(tile.first + t) * dims + d] = rows[d * TILE + t];
}

// Run a function of the thread's number on each of some threads, of which the caller is the first.
template <class Work>
void on_threads(int threads, Work&& work) {
  std::vector<std::thread> others;
  std::exception_ptr failure;
  try {
    for (int i = 1; i < threads; ++i) others.emplace_back([&work, i] { work(i); });
  } catch (...) {
    failure = std::current_exception();
  }
  if (!failure) work(0);
  for (auto& other : others) other.join();
  if (failure) std::rethrow_exception(failure);
}

std::unique_ptr<Arena> pack_weights(const Program& program, const float* weights, bool backward, float** forward,
                                    float** back) {
  auto arena = std::make_unique<Arena>((backward ? 2 : 1) * Arena::round_up(program.weights));
  *forward = arena->take(program.weights);
  *back = backward ? arena->take(program.weights) : nullptr;
  for (const auto& coupling : program.couplings)
    for (const auto& network : coupling.networks)
      for (const auto& layer : network.layers) {
        pack(weights + layer.weight, layer.outputs, layer.inputs, layer.inputs, 1, *forward + layer.weight);
        if (backward) pack(weights + layer.weight, layer.inputs, layer.outputs, 1, layer.inputs, *back + layer.weight);
      }
  return arena;
}

const Coupling& nth(const Program& program, size_t i, bool inverse) {
  return inverse ? program.couplings[program.couplings.size() - 1 - i] : program.couplings[i];
}

void run(const Program& program, bool inverse, int64_t groups, int64_t points_per_group, const float* points,
         const float* weights, const float* offsets, float* out, float* log_det, float* saved, int threads) {
  float *forward, *back;
  auto packed = pack_weights(program, weights, false, &forward, &back);
  Weights shared{program, forward, back, inverse};
  Tiles tiles(groups, points_per_group);
  int64_t total = groups * points_per_group;
  std::atomic<int64_t> next{0};
  std::vector<std::unique_ptr<Arena>> arenas;
  for (int i = 0; i < threads; ++i) arenas.push_back(std::make_unique<Arena>(Scratch::size(program, false)));
  on_threads(threads, [&](int thread) {
    Scratch scratch(*arenas[thread], program, false);
    float* logs = scratch.log_det_gradient;
    for (int64_t i = next++; i < tiles.count; i = next++) {
      Tile tile = tiles[i];
      const float* own = offsets + tile.group * program.offsets;
      read_points(points, program.point_dim, tile, scratch.points);
      for (int c = 0; c < tile.columns; c += LANES) store(logs + c, splat(0.0f));
      for (size_t k = 0; k < program.couplings.size(); ++k) {
        const Coupling& coupling = nth(program, k, inverse);
        if (saved != nullptr) {
          for (size_t m = 0; m < coupling.moved.size(); ++m)
            std::memcpy(saved + (coupling.saved + m) * total + tile.first,
                        scratch.points + coupling.moved[m] * TILE, tile.count * sizeof(float));
        }
        evaluate_networks<false>(coupling, shared, own, scratch.points, tile.columns, scratch);
        move(coupling, inverse, scratch.outputs, tile.columns, scratch.points, logs);
      }
      write_points(scratch.points, program.point_dim, tile, out);
      std::memcpy(log_det + tile.first, logs, tile.count * sizeof(float));
    }
  });
}

// The sums of the vectors of one group, to its row or to a part of it.
void finish_group(const Program& program, const Scratch& scratch, float* to) {
  for (int64_t i = 0; i < program.offsets; ++i) to[i] = sum(load(scratch.offset_gradients + i * LANES));
}

void run_backward(const Program& program, bool inverse, int64_t groups, int64_t points_per_group, const float* out,
                  const float* saved, const float* weights, const float* offsets, const float* grad_out,
                  const float* grad_log_det, float* grad_points, float* grad_weights, float* grad_offsets,
                  int threads) {
  float *forward, *back;
  auto packed = pack_weights(program, weights, true, &forward, &back);
  Weights shared{program, forward, back, inverse};
  Tiles tiles(groups, points_per_group);
  int64_t total = groups * points_per_group;
  bool of_weights = grad_weights != nullptr;
  std::vector<std::unique_ptr<Arena>> arenas;
  std::vector<Scratch> scratches;
  for (int i = 0; i < threads; ++i) {
    arenas.push_back(std::make_unique<Arena>(Scratch::size(program, true)));
    scratches.emplace_back(*arenas.back(), program, true);
  }
  std::vector<std::vector<int64_t>> shared_groups(threads);
  for (auto& of_thread : shared_groups) of_thread.reserve(2);

  on_threads(threads, [&](int thread) {
    // A fixed share for each thread, so that sums are added in the same order each time.
    int64_t begin = tiles.count * thread / threads, end = tiles.count * (thread + 1) / threads;
    const Scratch& scratch = scratches[thread];
    if (of_weights) std::memset(scratch.weight_gradients, 0, program.gradients * sizeof(float));
    for (int64_t i = begin; i < end; ++i) {
      Tile tile = tiles[i];
      const float* own = offsets + tile.group * program.offsets;
      if (i == begin || i % tiles.per_group == 0)
        std::memset(scratch.offset_gradients, 0, program.offsets * LANES * sizeof(float));
      read_points(out, program.point_dim, tile, scratch.points);
      read_points(grad_out, program.point_dim, tile, scratch.gradients);
      read_points(grad_log_det, 1, tile, scratch.log_det_gradient);
      for (size_t k = program.couplings.size(); k-- > 0;) {
        const Coupling& coupling = nth(program, k, inverse);
        for (size_t m = 0; m < coupling.moved.size(); ++m)
          std::memcpy(scratch.points + coupling.moved[m] * TILE, saved + (coupling.saved + m) * total + tile.first,
                      tile.count * sizeof(float));
        evaluate_networks<true>(coupling, shared, own, scratch.points, tile.columns, scratch);
        move_back(coupling, inverse, scratch.points, tile.columns, scratch);
        const float* g = scratch.output_gradients;
        for (const auto& network : coupling.networks) {
          differentiate_network(coupling, network, shared, own, tile.columns, of_weights, scratch, g);
          g += network.outputs * TILE;
        }
      }
      write_points(scratch.gradients, program.point_dim, tile, grad_points);
      if (i + 1 == end || (i + 1) % tiles.per_group == 0) {
        int64_t start = tile.group * tiles.per_group;
        if (begin <= start && start + tiles.per_group <= end) {
          finish_group(program, scratch, grad_offsets + tile.group * program.offsets);
        } else {
          finish_group(program, scratch, scratch.shared_groups + shared_groups[thread].size() * program.offsets);
          shared_groups[thread].push_back(tile.group);
        }
      }
    }
  });

  int64_t last = -1;
  for (int thread = 0; thread < threads; ++thread) {
    const float* sums = scratches[thread].shared_groups;
    for (int64_t group : shared_groups[thread]) {
      float* to = grad_offsets + group * program.offsets;
      for (int64_t i = 0; i < program.offsets; ++i) to[i] = (group == last ? to[i] : 0.0f) + *sums++;
      last = group;
    }
  }
  if (!of_weights) return;
  for (const auto& coupling : program.couplings)
    for (const auto& network : coupling.networks)
      for (const auto& layer : network.layers)
        for (int r = 0; r < layer.outputs; ++r) {
          float* to = grad_weights + layer.weight + int64_t(r) * layer.inputs;
          for (int c = 0; c < layer.inputs; ++c) {
            float total_gradient = 0;
            for (const auto& scratch : scratches)
              total_gradient += scratch.weight_gradients[layer.gradient + int64_t(r) * layer.stride() + c];
            to[c] = total_gradient;
          }
        }
}

template <class Work>
int guarded(Work&& work) {
  try {
    work();
    return 0;
  } catch (...) {
    return 1;
  }
}

int useful_threads(int threads, int64_t groups, int64_t points_per_group) {
  return int(std::max<int64_t>(1, std::min<int64_t>(threads, Tiles(groups, points_per_group).count)));
}

}  // namespace

extern "C" {

// All arrays are contiguous. points, out: (groups, points, D); log_det: (groups, points); offsets: a row for each group;
// saved: a row of all points for each coordinate that a coupling overwrites, or null. Returns 0, or 1 without memory.
int pcf_run(const int32_t* code, const float* limits, int inverse, int64_t groups, int64_t points_per_group,
            const float* points, const float* weights, const float* offsets, float* out, float* log_det, float* saved,
            int threads) {
  return guarded([&] {
    run(Program(code, limits), inverse != 0, groups, points_per_group, points, weights, offsets, out, log_det, saved,
        useful_threads(threads, groups, points_per_group));
  });
}

// grad_weights may be null. The others as for pcf_run, of which `out` and `saved` come.
int pcf_run_backward(const int32_t* code, const float* limits, int inverse, int64_t groups, int64_t points_per_group,
                     const float* out, const float* saved, const float* weights, const float* offsets,
                     const float* grad_out, const float* grad_log_det, float* grad_points, float* grad_weights,
                     float* grad_offsets, int threads) {
  return guarded([&] {
    run_backward(Program(code, limits), inverse != 0, groups, points_per_group, out, saved, weights, offsets, grad_out,
                 grad_log_det, grad_points, grad_weights, grad_offsets,
                 useful_threads(threads, groups, points_per_group));
  });
}

}  // extern "C"

// Couplings and their networks over one tile of points: `padded` are its points, rounded up to whole vectors.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "activations.h"
#include "arena.h"
#include "piecewise.h"
#include "products.h"
#include "program.h"

namespace {

constexpr int FEW = 4;  // rows that are not worth a transposition of the others

// What all threads read.
struct Weights {
  const Program& program;
  const float* plain;
  const float* packed;       // as factors of a layer's inputs
  const float* packed_back;  // as factors of its outputs' gradients
  const float* transposed;   // second matrices of tabulated networks
  bool inverse;
};

// What one thread writes.
struct Scratch {
  float *points, *gradients;                     // (tiles, D, TILE)
  float* log_dets;                               // (tiles, TILE), or their gradients
  float *outputs, *output_gradients;             // (outputs, TILE)
  float *values, *slopes, *raws;                 // hidden layers of a coupling, from the first network's features on
  float* transposed;                             // (TILE, widest)
  float* weight_gradients;
  float* offset_gradients;  // a vector for each
  std::vector<Table> tables;  // of the tabulated networks of a coupling
  float* shared_groups;     // sums of the first group and of the last, if other threads have points of them, too

  static size_t size(const Program& program, int tiles, bool backward) {
    CountingArena counting;
    Scratch(counting, program, tiles, backward);
    return counting.floats();
  }
  template <class Memory>
  Scratch(Memory& arena, const Program& program, int tiles, bool backward) {
    size_t rows = size_t(program.rows) * TILE;
    points = arena.take(size_t(tiles) * program.point_dim * TILE);
    gradients = arena.take(size_t(tiles) * program.point_dim * TILE);
    log_dets = arena.take(size_t(tiles) * TILE);
    for (int i = 0; i < program.tables; ++i) tables.emplace_back(arena, program, backward);
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
PCF_INLINE void with_activation(Activation activation, Use&& use) {
  switch (activation) {
    case Activation::Relu: return use(Relu());
    case Activation::Silu: return use(Silu());
    case Activation::Tanh: return use(Tanh());
    case Activation::Gelu: return use(Gelu());
    default: return use(LeakyRelu());
  }
}

void fourier_features(const Coupling& coupling, int frequencies, const float* points, int padded, float* features) {
  int kept = coupling.kept.size();
  for (int k = 0; k < kept; ++k) {
    const float* x = points + coupling.kept[k] * TILE;
    for (int c = 0; c < padded; c += LANES) {
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
    const Coupling& coupling, int frequencies, const float* features, const float* g, int padded, float* gradients) {
  int kept = coupling.kept.size();
  for (int k = 0; k < kept; ++k) {
    float* to = gradients + coupling.kept[k] * TILE;
    for (int c = 0; c < padded; c += LANES) {
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
                      const float* points, int padded, const Scratch& scratch, float* outputs) {
  fourier_features(coupling, network.frequencies, points, padded, scratch.values + network.row * TILE);
  const float* before = nullptr;
  for (size_t i = 0; i < network.layers.size(); ++i) {
    const Layer& layer = network.layers[i];
    const float* packed = weights.packed + layer.weight;
    const float* offset = offsets + layer.offset;
    const float* inputs = scratch.values + (network.row + layer.row) * TILE;
    if (i + 1 == network.layers.size()) {
      product<PART>(packed, layer.outputs, layer.inputs, inputs, padded,
              [&](int row, int c, Vec v) __attribute__((always_inline)) {
                store(outputs + row * TILE + c, v + offset[row]);
              });
      return;
    }
    int64_t place = (network.row + network.layers[i + 1].row) * TILE;
    float* values = scratch.values + place;
    float *slopes = KEEP ? scratch.slopes + place : nullptr, *raws = KEEP ? scratch.raws + place : nullptr;
    const float* scale = layer.scaled ? offsets + layer.scale : nullptr;
    const float* skipped = layer.skip ? before : nullptr;
    with_activation(network.activation, [&](auto activation) __attribute__((always_inline)) {
      product<PART>(packed, layer.outputs, layer.inputs, inputs, padded,
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
                       int padded, Scratch& scratch) {
  float* outputs = scratch.outputs;
  auto table = scratch.tables.begin();
  for (const auto& network : coupling.networks) {
    if (network.tabulated)
      (table++)->evaluate(points + coupling.kept[0] * TILE, offsets, padded, outputs);
    else
      evaluate_network<KEEP>(coupling, network, weights, offsets, points, padded, scratch, outputs);
    outputs += network.outputs * TILE;
  }
}

// Move a tile through one coupling; log_det is added to.
void move(const Coupling& coupling, bool inverse, const float* outputs, int padded, float* points, float* log_det) {
  int moved = coupling.moved.size();
  for (int m = 0; m < moved; ++m) {
    float* x = points + coupling.moved[m] * TILE;
    for (int c = 0; c < padded; c += LANES) {
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
void move_back(const Coupling& coupling, bool inverse, const float* points, int padded, float* gradients,
               const float* log_det_gradient, const Scratch& scratch) {
  int moved = coupling.moved.size();
  for (int m = 0; m < moved; ++m) {
    const float* x = points + coupling.moved[m] * TILE;
    float* g = gradients + coupling.moved[m] * TILE;
    float* g_shift = scratch.output_gradients + m * TILE;
    for (int c = 0; c < padded; c += LANES) {
      Vec gradient = load(g + c);
      if (!coupling.affine) {
        store(g_shift + c, inverse ? gradient : -gradient);
        continue;
      }
      Vec tangent = hyperbolic_tangent(load(scratch.outputs + (moved + m) * TILE + c) / coupling.limit);
      Vec log_scale = coupling.limit * tangent;
      Vec scale = exponential(inverse ? log_scale : -log_scale);
      Vec scaled = gradient * scale;
      Vec of_log_det = load(log_det_gradient + c);
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

// The gradient through one network: of its weights and offsets, added to those of the tiles before, and of its kept
// coordinates, added to `gradients`. Slopes and raw values are overwritten by gradients.
void differentiate_network(const Coupling& coupling, const Network& network, const Weights& weights,
                           const float* offsets, int padded, bool of_weights,
                           const Scratch& scratch, const float* output_gradients, float* gradients) {
  int depth = network.layers.size();
  auto place = [&](int i) { return (network.row + network.layers[i].row) * TILE; };  // of the inputs of a layer
  const float* g = output_gradients;
  {
    float* total = scratch.offset_gradients + network.layers[depth - 1].offset * LANES;
    for (int r = 0; r < network.outputs; ++r)
      for (int c = 0; c < padded; c += LANES) accumulate(total + r * LANES, load(g + r * TILE + c));
  }
  for (int i = depth - 1; i >= 0; --i) {
    const Layer& layer = network.layers[i];
    if (of_weights) {
      const float* inputs = scratch.values + place(i);
      float* total = scratch.weight_gradients + layer.gradient;
      if (layer.outputs <= FEW) {
        add_few_rows(g, layer.outputs, inputs, layer.inputs, padded, total, layer.stride(), 1);
      } else if (layer.inputs <= FEW) {
        add_few_rows(inputs, layer.inputs, g, layer.outputs, padded, total, 1, layer.stride());
      } else {
        transpose(inputs, layer.inputs, padded, layer.stride(), scratch.transposed);
        add_outer_product(g, layer.outputs, scratch.transposed, layer.stride(), padded, total);
      }
    }
    const float* packed = weights.packed_back + layer.weight;
    float* slopes = scratch.slopes + place(i);
    if (i == 0) {
      // Nothing has a slope here, and its place takes the gradient of the features.
      product<WHOLE>(packed, layer.inputs, layer.outputs, g, padded,
              [&](int r, int c, Vec v) __attribute__((always_inline)) { store(slopes + r * TILE + c, v); });
      fourier_gradient(coupling, network.frequencies, scratch.values + place(0), slopes, padded, gradients);
      return;
    }
    const Layer& below = network.layers[i - 1];
    float* raws = scratch.raws + place(i);
    const float* scale = below.scaled ? offsets + below.scale : nullptr;
    float* of_scale = scratch.offset_gradients + below.scale * LANES;
    float* of_offset = scratch.offset_gradients + below.offset * LANES;
    // A skip connection that ends two layers above has left its gradient in the place of that layer's slopes.
    const float* skipped = i + 1 < depth && network.layers[i + 1].skip ? scratch.slopes + place(i + 2) : nullptr;
    auto through = [&](int r, int c, Vec v) __attribute__((always_inline)) {
      int64_t at = int64_t(r) * TILE + c;
      if (skipped != nullptr) v += load(skipped + at);
      v *= load(slopes + at);
      store(slopes + at, v);
      accumulate(of_offset + r * LANES, v);
      if (scale != nullptr) {
        accumulate(of_scale + r * LANES, v * load(raws + at));
        store(raws + at, v * scale[r]);
      }
    };
    product<WHOLE>(packed, layer.inputs, layer.outputs, g, padded, through);
    g = below.scaled ? raws : slopes;
  }
}

void differentiate_networks(const Coupling& coupling, const Weights& weights, const float* offsets, int count,
                            int padded, bool of_weights, Scratch& scratch, float* gradients) {
  const float* g = scratch.output_gradients;
  auto table = scratch.tables.begin();
  for (const auto& network : coupling.networks) {
    if (network.tabulated)
      (table++)->differentiate(g, count, padded, scratch.weight_gradients, scratch.offset_gradients,
                               gradients + coupling.kept[0] * TILE);
    else
      differentiate_network(coupling, network, weights, offsets, padded, of_weights, scratch, g, gradients);
    g += network.outputs * TILE;
  }
}

// Make the tables of a coupling, for inputs from `low` to `high`.
void fill_tables(const Coupling& coupling, const Weights& weights, const float* offsets, float low, float high,
                 bool backward, Scratch& scratch) {
  auto table = scratch.tables.begin();
  for (const auto& network : coupling.networks)
    if (network.tabulated)
      (table++)->fill(network, weights.plain, weights.transposed + network.transposed, offsets, low, high, backward);
}

void finish_tables(const Coupling& coupling, const Weights& weights, const float* offsets, Scratch& scratch) {
  auto table = scratch.tables.begin();
  for (const auto& network : coupling.networks)
    if (network.tabulated)
      (table++)->finish(weights.plain, offsets, scratch.weight_gradients, scratch.offset_gradients);
}

}  // namespace

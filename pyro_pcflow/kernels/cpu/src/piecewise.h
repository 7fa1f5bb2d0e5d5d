// Two hidden layers of one input, with activations that are linear on either side of zero, as a table.
//
// Before its activation, the second layer is a piecewise linear function of the input: it bends at the knots, where a
// unit of the first layer switches. The table has a row for the inputs between two knots, with value and slope of every
// unit of the second layer. A point then costs as many products as that layer has units, instead of its whole matrix;
// and the gradients of both layers are those of the rows, which sum over their points.
//
// Within, units are columns, and vectors run over them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "activations.h"
#include "arena.h"
#include "products.h"
#include "program.h"

namespace {

class Table {
 public:
  template <class Memory>
  Table(Memory& arena, const Program& program, bool backward) {
    size_t inner = program.table_inner, outer = program.table_outer, rows = (inner + 1) * outer;
    units_ = arena.template take<Unit>(inner);
    knots_ = arena.template take<Knot>(inner);
    centres_ = arena.take(inner + 1);
    values_ = arena.take(rows);
    slopes_ = arena.take(rows);
    last_ = arena.take(program.outputs * outer);
    offset_ = arena.take(outer);
    scale_ = arena.take(outer);
    for (auto& sums : running_) sums = arena.template take<double>(outer);
    hidden_ = arena.take(TILE * outer);
    raws_ = arena.take(TILE * outer);
    row_ = arena.template take<int32_t>(TILE);
    beyond_ = arena.take(TILE);
    of_offset_ = arena.take(outer);
    of_scale_ = arena.take(outer);
    if (!backward) return;
    sums_ = arena.take(rows);
    moments_ = arena.take(rows);
    along_ = arena.take(TILE * LANES);
  }

  // Make the table of a network for inputs from `low` to `high`. `transposed` is the second matrix, transposed.
  void fill(const Network& network, const float* weights, const float* transposed, const float* offsets, float low,
            float high, bool backward) {
    network_ = &network;
    transposed_ = transposed;
    inner_ = first().outputs;
    stride_ = whole(second().outputs);
    leak_ = network.activation == Activation::Relu ? 0.0f : LEAKY_SLOPE;
    knot_count_ = 0;
    for (int j = 0; j < inner_; ++j) {
      float slope = weights[first().weight + j], offset = offsets[first().offset + j];
      if (first().scaled) slope *= offsets[first().scale + j];
      float at = -offset / slope;
      bool switches = low < at && at < high;
      // On the left of its knot, if it has one here.
      bool active = slope == 0 ? offset > 0 : switches || at >= high ? slope < 0 : at <= low ? slope > 0 : offset > 0;
      units_[j] = {slope, offset, active ? 1.0f : leak_, switches};
      if (switches) knots_[knot_count_++] = {at, j};
    }
    std::sort(knots_, knots_ + knot_count_, [](const Knot& a, const Knot& b) { return a.at < b.at; });
    pad(offset_, offsets + second().offset, second().outputs);
    if (second().scaled) pad(scale_, offsets + second().scale, second().outputs);
    for (int o = 0; o < third().outputs; ++o)
      pad(last_ + o * stride_, weights + third().weight + int64_t(o) * third().inputs, third().inputs);
    fill_rows(low);
    if (!backward) return;
    std::memset(sums_, 0, (knot_count_ + 1) * stride_ * sizeof(float));
    std::memset(moments_, 0, (knot_count_ + 1) * stride_ * sizeof(float));
    std::memset(of_offset_, 0, stride_ * sizeof(float));
    std::memset(of_scale_, 0, stride_ * sizeof(float));
  }

  // The outputs (outputs, TILE) of a tile of inputs; its hidden units are kept for `differentiate`.
  void evaluate(const float* x, const float* offsets, int padded, float* outputs) {
    if (leak_ == 0.0f) return evaluate<Relu>(x, offsets, padded, outputs);
    evaluate<LeakyRelu>(x, offsets, padded, outputs);
  }

  // Add the gradients of a tile that has been evaluated: `g` (outputs, TILE) are those of its outputs.
  void differentiate(const float* g, int count, int padded, float* weight_gradients, float* offset_gradients,
                     float* x_gradient) {
    if (leak_ == 0.0f) return differentiate<Relu>(g, count, padded, weight_gradients, offset_gradients, x_gradient);
    differentiate<LeakyRelu>(g, count, padded, weight_gradients, offset_gradients, x_gradient);
  }

  // Add the gradients of the first and the second layer, of all tiles since `fill`.
  void finish(const float* weights, const float* offsets, float* weight_gradients, float* offset_gradients) {
    for (int i = 0; i < second().outputs; ++i) {
      offset_gradients[(second().offset + i) * LANES] += of_offset_[i];
      if (second().scaled) offset_gradients[(second().scale + i) * LANES] += of_scale_[i];
    }
    for (auto& sums : running_) std::memset(sums, 0, stride_ * sizeof(double));
    for (int row = 0; row <= knot_count_; ++row) add_row(row, 1.0, Right);
    for (int j = 0; j < inner_; ++j) {
      if (!units_[j].switches)
        finish_unit(j, units_[j].left, 0.0f, weights, offsets, weight_gradients, offset_gradients);
    }
    for (int k = 0; k < knot_count_; ++k) {
      add_row(k, 1.0, Left);
      add_row(k, -1.0, Right);
      int j = knots_[k].unit;
      finish_unit(j, 1.0f + leak_ - units_[j].left, units_[j].left, weights, offsets, weight_gradients,
                  offset_gradients);
    }
  }

 private:
  struct Unit {
    float slope, offset;  // of a unit of the first layer, before its activation
    float left;           // the slope of its activation, on the left of its knot if it has one
    int32_t switches;
  };
  struct Knot {
    float at;
    int32_t unit;
  };
  enum Side { Right = 0, Left = 2 };  // of a knot: where running sums of gradients and of moments start
  static constexpr int HALF = LANES / 2;

  const Layer& first() const { return network_->layers[0]; }
  const Layer& second() const { return network_->layers[1]; }
  const Layer& third() const { return network_->layers[2]; }

  void pad(float* to, const float* from, int size) const {
    std::memcpy(to, from, size * sizeof(float));
    for (int i = size; i < stride_; ++i) to[i] = 0.0f;
  }

  void fill_rows(float low) {
    double *value = running_[0], *slope = running_[1];
    std::memset(value, 0, stride_ * sizeof(double));
    std::memset(slope, 0, stride_ * sizeof(double));
    for (int j = 0; j < inner_; ++j) {
      const Unit& unit = units_[j];
      double own_slope = double(unit.left) * unit.slope;
      double own_value = unit.left * (double(unit.slope) * low + unit.offset);
      for (int i = 0; i < stride_; i += HALF) {
        Double column = load_double(transposed_ + int64_t(j) * stride_ + i);
        at(value, i) += column * own_value;
        at(slope, i) += column * own_slope;
      }
    }
    store_row(0, low);
    for (int k = 0; k < knot_count_; ++k) {
      const Unit& unit = units_[knots_[k].unit];
      const float* column = transposed_ + int64_t(knots_[k].unit) * stride_;
      double step = double(knots_[k].at) - centres_[k], bend = std::fabs(double(unit.slope)) * (1.0 - leak_);
      for (int i = 0; i < stride_; i += HALF) {
        at(value, i) += at(slope, i) * step;
        at(slope, i) += load_double(column + i) * bend;
      }
      store_row(k + 1, knots_[k].at);
    }
  }

  static PCF_INLINE Double& at(double* p, int i) { return *reinterpret_cast<Double*>(p + i); }

  void store_row(int row, float centre) {
    centres_[row] = centre;
    for (int i = 0; i < stride_; i += HALF) {
      store_single(values_ + int64_t(row) * stride_ + i, at(running_[0], i));
      store_single(slopes_ + int64_t(row) * stride_ + i, at(running_[1], i));
    }
  }

  // The row of every input, and how far it is from the row's centre.
  void locate(const float* x, int padded) {
    for (int c = 0; c < padded; c += LANES) {
      Vec value = load(x + c);
      IVec row = {};
      for (int k = 0; k < knot_count_; ++k) row -= value >= splat(knots_[k].at);
      std::memcpy(row_ + c, &row, sizeof(row));
    }
    for (int p = 0; p < padded; ++p) beyond_[p] = x[p] - centres_[row_[p]];
  }

  template <class Activation>
  void evaluate(const float* x, const float* offsets, int padded, float* outputs) {
    inputs_ = x;
    locate(x, padded);
    bool scaled = second().scaled;
    for (int c = 0; c < padded; c += LANES) {
      for (int p = c; p < c + LANES; ++p) {
        const float *values = values_ + int64_t(row_[p]) * stride_, *slopes = slopes_ + int64_t(row_[p]) * stride_;
        Vec beyond = splat(beyond_[p]);
        for (int i = 0; i < stride_; i += LANES) {
          Vec v = load(values + i) + beyond * load(slopes + i);
          if (scaled) {
            store(raws_ + p * stride_ + i, v);
            v = v * load(scale_ + i);
          }
          store(hidden_ + p * stride_ + i, Activation::value(v + load(offset_ + i)));
        }
      }
      for (int o = 0; o < third().outputs; ++o) {
        Vec block[LANES] = {};
        for (int i = 0; i < stride_; i += LANES) {
          Vec weight = load(last_ + o * stride_ + i);
          PCF_UNROLL for (int p = 0; p < LANES; ++p) block[p] += weight * load(hidden_ + (c + p) * stride_ + i);
        }
        store(outputs + o * TILE + c, sum_each(block) + offsets[third().offset + o]);
      }
    }
  }

  template <class Activation>
  void differentiate(const float* g, int count, int padded, float* weight_gradients, float* offset_gradients,
                     float* x_gradient) {
    int outputs = third().outputs;
    bool scaled = second().scaled;
    for (int o = 0; o < outputs; ++o)
      for (int c = 0; c < padded; c += LANES)
        accumulate(offset_gradients + (third().offset + o) * LANES, load(g + o * TILE + c));
    std::memset(along_, 0, TILE * LANES * sizeof(float));
    for (int i = 0; i < stride_; i += LANES) {
      Vec of_hidden[TILE] = {};
      in_blocks(outputs, [&](auto height, int o) __attribute__((always_inline)) {
        constexpr int R = height;
        Vec weight[R], total[R] = {};
        PCF_UNROLL for (int r = 0; r < R; ++r) weight[r] = load(last_ + (o + r) * stride_ + i);
        for (int p = 0; p < count; ++p) {
          Vec hidden = load(hidden_ + p * stride_ + i), sum = of_hidden[p];
          PCF_UNROLL for (int r = 0; r < R; ++r) {
            Vec factor = splat(g[(o + r) * TILE + p]);
            sum += factor * weight[r];
            total[r] += factor * hidden;
          }
          of_hidden[p] = sum;
        }
        float* to = weight_gradients + third().gradient + int64_t(o) * third().stride() + i;
        PCF_UNROLL for (int r = 0; r < R; ++r) accumulate(to + r * third().stride(), total[r]);
      });
      Vec of_offset = splat(0.0f), of_scale = splat(0.0f), scale = scaled ? load(scale_ + i) : splat(1.0f);
      for (int p = 0; p < count; ++p) {
        Vec slope;
        Activation::with_slope(load(hidden_ + p * stride_ + i), slope);
        Vec v = of_hidden[p] * slope;
        of_offset += v;
        if (scaled) {
          of_scale += v * load(raws_ + p * stride_ + i);
          v *= scale;
        }
        int64_t place = int64_t(row_[p]) * stride_ + i;
        accumulate(sums_ + place, v);
        accumulate(moments_ + place, v * inputs_[p]);
        accumulate(along_ + p * LANES, v * load(slopes_ + place));
      }
      accumulate(of_offset_ + i, of_offset);
      accumulate(of_scale_ + i, of_scale);
    }
    for (int c = 0; c < padded; c += LANES) {
      Vec block[LANES];
      PCF_UNROLL for (int p = 0; p < LANES; ++p) block[p] = load(along_ + (c + p) * LANES);
      accumulate(x_gradient + c, sum_each(block));
    }
  }

  // Add the gradients of a row, and their moments, to the running sums of a side.
  void add_row(int row, double sign, Side side) {
    for (int i = 0; i < stride_; i += HALF) {
      Double sum = load_double(sums_ + int64_t(row) * stride_ + i);
      Double moment = load_double(moments_ + int64_t(row) * stride_ + i);
      at(running_[side], i) += sign * sum;
      at(running_[side + 1], i) += sign * moment;
    }
  }

  void finish_unit(int j, double right, double left, const float* weights, const float* offsets,
                   float* weight_gradients, float* offset_gradients) {
    double slope = units_[j].slope, offset = units_[j].offset;
    const float* column = transposed_ + int64_t(j) * stride_;
    float* of_column = weight_gradients + second().gradient + int64_t(j) * stride_;
    Double of_slope = {}, of_offset = {};
    for (int i = 0; i < stride_; i += HALF) {
      Double sum = right * at(running_[Right], i) + left * at(running_[Left], i);
      Double moment = right * at(running_[Right + 1], i) + left * at(running_[Left + 1], i);
      Double weight = load_double(column + i);
      of_slope += weight * moment;
      of_offset += weight * sum;
      store_single(of_column + i, load_double(of_column + i) + slope * moment + offset * sum);
    }
    double total_slope = 0, total_offset = 0;
    for (int l = 0; l < HALF; ++l) {
      total_slope += of_slope[l];
      total_offset += of_offset[l];
    }
    float scale = first().scaled ? offsets[first().scale + j] : 1.0f;
    weight_gradients[first().gradient + int64_t(j) * first().stride()] += float(scale * total_slope);
    offset_gradients[(first().offset + j) * LANES] += float(total_offset);
    if (first().scaled)
      offset_gradients[(first().scale + j) * LANES] += float(weights[first().weight + j] * total_slope);
  }

  const Network* network_;
  const float* transposed_;                    // the second matrix
  int inner_, stride_, knot_count_;
  float leak_;
  Unit* units_;
  Knot* knots_;                                // in their order
  float* centres_;                             // of the rows
  float *values_, *slopes_;                    // (rows, stride), of the second layer at a row's centre
  float *sums_, *moments_;                     // (rows, stride), of gradients, and of these times the inputs
  float *last_, *offset_, *scale_;             // (outputs, stride), and (stride) of the second layer
  float *of_offset_, *of_scale_;               // their gradients
  double* running_[4];                         // (stride) each
  float *hidden_, *raws_;                      // (TILE, stride), of a tile after the activation, and before the scale
  int32_t* row_;                               // of each point of a tile
  float *beyond_, *along_;                     // its way from the centre, and (TILE, LANES) the gradient of that
  const float* inputs_;                        // of the tile
};

}  // namespace

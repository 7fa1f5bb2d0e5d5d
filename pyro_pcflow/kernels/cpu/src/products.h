// Matrix products.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include "vectors.h"

namespace {

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

// Terms that are summed in registers before they are added to a total. A rounding error is as large as the sum that it
// rounds, so that short sums lose less; but totals do not fit into the registers, and shorter parts take longer. Only
// values are summed in parts: gradients are noisy anyway, and theirs would cost 4% to 8% of a training step.
constexpr int PART = 32, WHOLE = 1 << 30;

// For every vector of packed (rows, depth) times x (depth, TILE), summed in parts of TERMS: done(row, first column,
// vector).
template <int TERMS, class Done>
PCF_INLINE void product(const float* packed, int rows, int depth, const float* x, int padded, Done&& done) {
  auto go = [&](auto width, int first) __attribute__((always_inline)) {
    constexpr int C = width;
    in_blocks(rows, [&](auto height, int row) __attribute__((always_inline)) {
      constexpr int R = height;
      const float* factors = packed + int64_t(row) * depth;
      const float* from = x + first;
      Vec sums[R][C];
      auto sum = [&](int terms) __attribute__((always_inline)) {
        PCF_UNROLL for (int r = 0; r < R; ++r) {
          PCF_UNROLL for (int c = 0; c < C; ++c) sums[r][c] = splat(0.0f);
        }
        for (int k = 0; k < terms; ++k) {
          Vec values[C];
          PCF_UNROLL for (int c = 0; c < C; ++c) values[c] = load(from + c * LANES);
          PCF_UNROLL for (int r = 0; r < R; ++r) {
            Vec factor = splat(factors[r]);
            PCF_UNROLL for (int c = 0; c < C; ++c) sums[r][c] += factor * values[c];
          }
          factors += R;
          from += TILE;
        }
      };
      auto finish = [&](Vec (&results)[R][C]) __attribute__((always_inline)) {
        PCF_UNROLL for (int r = 0; r < R; ++r) {
          PCF_UNROLL for (int c = 0; c < C; ++c) done(row + r, first + c * LANES, results[r][c]);
        }
      };
      if constexpr (TERMS == WHOLE) {
        sum(depth);
        finish(sums);
      } else {
        Vec totals[R][C] = {};
        // One loop for whole parts and the rest: a second copy of it doubles the time to compile.
        for (int rest = depth; rest > 0; rest -= TERMS) {
          sum(rest < TERMS ? rest : TERMS);
          PCF_UNROLL for (int r = 0; r < R; ++r) {
            PCF_UNROLL for (int c = 0; c < C; ++c) totals[r][c] += sums[r][c];
          }
        }
        finish(totals);
      }
    });
  };
  int first = 0;
  for (; first + VECTORS * LANES <= padded; first += VECTORS * LANES)
    go(std::integral_constant<int, VECTORS>(), first);
  if (padded - first > LANES)
    go(std::integral_constant<int, 2>(), first);
  else if (padded > first)
    go(std::integral_constant<int, 1>(), first);
}

// total (rows, stride) += g (rows, TILE) times x (depth, TILE) transposed, which comes as (TILE, stride).
void add_outer_product(const float* g, int rows, const float* transposed, int stride, int padded, float* total) {
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
      for (int t = 0; t < padded; ++t) {
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
  for (; first + VECTORS * LANES <= stride; first += VECTORS * LANES)
    go(std::integral_constant<int, VECTORS>(), first);
  if (stride - first == 2 * LANES)
    go(std::integral_constant<int, 2>(), first);
  else if (stride - first == LANES)
    go(std::integral_constant<int, 1>(), first);
}

// total[row * row_step + k * column_step] += the sum over points of g (rows, TILE) times x (depth, TILE): for few rows,
// without a transposed copy.
void add_few_rows(const float* g, int rows, const float* x, int depth, int padded, float* total, int row_step,
                  int column_step) {
  for (int row = 0; row < rows; ++row) {
    for (int first = 0; first < depth; first += LANES) {
      int height = std::min(LANES, depth - first);
      Vec block[LANES] = {};
      for (int c = 0; c < padded; c += LANES) {
        Vec factor = load(g + row * TILE + c);
        const float* from = x + int64_t(first) * TILE + c;
        if (height == LANES) {
          PCF_UNROLL for (int l = 0; l < LANES; ++l) block[l] += factor * load(from + l * TILE);
        } else {
          for (int l = 0; l < height; ++l) block[l] += factor * load(from + l * TILE);
        }
      }
      float sums[LANES];
      store(sums, sum_each(block));
      float* to = total + int64_t(row) * row_step + int64_t(first) * column_step;
      for (int l = 0; l < height; ++l) to[int64_t(l) * column_step] += sums[l];
    }
  }
}

// x (rows, TILE) as (TILE, stride), with zeros from the last row to the stride.
void transpose(const float* x, int rows, int padded, int stride, float* transposed) {
  for (int row = 0; row < stride; row += LANES) {
    for (int column = 0; column < padded; column += LANES) {
      Vec block[LANES];
      PCF_UNROLL for (int i = 0; i < LANES; ++i)
        block[i] = row + i < rows ? load(x + int64_t(row + i) * TILE + column) : splat(0.0f);
      exchange<1>(block);
      PCF_UNROLL for (int i = 0; i < LANES; ++i) store(transposed + int64_t(column + i) * stride + row, block[i]);
    }
  }
}

}  // namespace

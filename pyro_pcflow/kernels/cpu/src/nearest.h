// Nearest points by all distances.
#pragma once

#include "points.h"

namespace {

// Squared distances from each point of a cloud to the nearest of another, and from each point of that to the nearest of
// the first. `back` has room for whole steps.
template <int D>
void nearest_both_ways(const double* points, int64_t count, const Rows& others, double* there, double* back) {
  constexpr int TOGETHER = 8;  // points, so that the others are read and `back` is written once for all of them
  const int64_t end = whole_steps(others.count);
  for (int64_t j = 0; j < end; ++j) back[j] = INF;
  int64_t i = 0;
  auto some = [&](auto number) {
    constexpr int POINTS = number;
    Double low[POINTS];
    for (int p = 0; p < POINTS; ++p) low[p] = spread_out(INF);
    for (int64_t j = 0; j < end; j += DOUBLES) {
      Double nearest = vector_at(back + j);
      PCF_UNROLL for (int p = 0; p < POINTS; ++p) {
        Double squared = squared_distances<D>(points + (i + p) * others.dims, others, j);
        low[p] = smaller(squared, low[p]);
        nearest = smaller(squared, nearest);
      }
      vector_at(back + j) = nearest;
    }
    for (int p = 0; p < POINTS; ++p) there[i + p] = smallest(low[p]);
    i += POINTS;
  };
  while (i + TOGETHER <= count) some(std::integral_constant<int, TOGETHER>());
  while (i < count) some(std::integral_constant<int, 1>());
}

// The number of the nearest point of another cloud to each point, the first of equal ones.
template <int D>
void nearest_numbers(const double* points, int64_t count, const Rows& others, int64_t* numbers) {
  const int64_t end = whole_steps(others.count);
  for (int64_t i = 0; i < count; ++i) {
    Double low[2] = {spread_out(INF), spread_out(INF)};
    Long number[2] = {}, at = first_numbers();
    for (int64_t j = 0; j < end; j += STEP) {
      PCF_UNROLL for (int k = 0; k < 2; ++k) {
        Double squared = squared_distances<D>(points + i * others.dims, others, j + k * DOUBLES);
        auto less = squared < low[k];
        low[k] = less ? squared : low[k];
        number[k] = less ? at + k * DOUBLES : number[k];
      }
      at += STEP;
    }
    double lowest = INF;
    numbers[i] = 0;
    for (int k = 0; k < 2; ++k) {
      for (int l = 0; l < DOUBLES; ++l) {
        if (low[k][l] < lowest || (low[k][l] == lowest && number[k][l] < numbers[i])) {
          lowest = low[k][l];
          numbers[i] = number[k][l];
        }
      }
    }
  }
}

}  // namespace

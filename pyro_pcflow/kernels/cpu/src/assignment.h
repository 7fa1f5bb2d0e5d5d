// The best matching of the points of two clouds, by shortest augmenting paths.
//
// Prices v of columns and u of rows with u_i + v_j <= c_ij bound the cost of any matching from below by their sum, and
// one whose pairs all have u_i + v_j = c_ij is the best: Kuhn, The Hungarian method for the assignment problem, 1955.
// Rows that are free take columns along the path on which prices rise least, found as by Dijkstra: Jonker and
// Volgenant, A shortest augmenting path algorithm for dense and sparse linear assignment problems, 1987, here without
// their augmenting row reduction, which on clouds costs more scans of rows than it saves.
#pragma once

#include <vector>

#include "points.h"

namespace {

class Assignment {
 public:
  explicit Assignment(int64_t most)
      : most_(most),
        memory_(size_t(whole_steps(most) * (most + 6))),
        row_of_(most),
        column_of_(most),
        tree_(most),
        reached_(most) {}

  // False where a cost is not finite.
  template <int D>
  bool set_costs(const double* points, const Rows& others, bool squared) {
    count_ = others.count;
    stride_ = whole_steps(count_);
    double* next = memory_.get();
    for (double** piece : {&costs_, &column_prices_, &open_prices_, &distances_, &row_prices_, &joined_at_, &starts_}) {
      *piece = next;
      next += piece == &costs_ ? stride_ * count_ : stride_;
    }
    Double sums{};
    for (int64_t j = 0; j < stride_; ++j) column_prices_[j] = INF;
    for (int64_t i = 0; i < count_; ++i) {
      double* row = costs_ + i * stride_;
      for (int64_t j = 0; j < stride_; j += DOUBLES)
        vector_at(row + j) = squared_distances<D>(points + i * others.dims, others, j);
      if (!squared)
        for (int64_t j = 0; j < stride_; ++j) row[j] = std::sqrt(row[j]);
      for (int64_t j = 0; j < stride_; j += DOUBLES)
        vector_at(column_prices_ + j) = smaller(vector_at(row + j), vector_at(column_prices_ + j));
      Double total{};
      for (int64_t j = 0; j + DOUBLES <= count_; j += DOUBLES) total += vector_at(row + j);
      sums += total;
      for (int64_t j = count_ / DOUBLES * DOUBLES; j < count_; ++j) sums[0] += row[j];
    }
    for (int64_t j = count_; j < stride_; ++j) column_prices_[j] = 0;
    double sum = 0;
    for (int l = 0; l < DOUBLES; ++l) sum += sums[l];
    return sum < INF;
  }

  // True once the best matching is found, or false as soon as its mean cost is known to be above a limit.
  bool solve(double limit) {
    std::fill(row_of_.begin(), row_of_.end(), -1);
    std::fill(column_of_.begin(), column_of_.end(), -1);
    std::vector<int64_t> free;
    for (int64_t i = 0; i < count_; ++i) {
      int64_t column = cheapest(i);
      if (row_of_[column] < 0) {
        row_of_[column] = i;
        column_of_[i] = column;
      } else {
        free.push_back(i);
      }
    }
    // The price of a free row is too low once others have changed those of columns, which the bound suffers from.
    const size_t refresh = free.size() / REFRESHED + 1;
    for (size_t k = 0; k < free.size(); ++k) {
      if (limit < INF && k % refresh == 0) {
        for (size_t other = k; k > 0 && other < free.size(); ++other) cheapest(free[other]);
        if (bound() > limit) return false;
      }
      augment(free[k]);
    }
    return true;
  }

  // A mean cost that no matching is below; that of the matching itself once it is found.
  double bound() const {
    double sum = 0;
    for (int64_t i = 0; i < count_; ++i) sum += row_prices_[i] + column_prices_[i];
    return sum / double(count_);
  }

  int64_t column_of(int64_t row) const { return column_of_[row]; }

 private:
  static constexpr int REFRESHED = 16;

  // The lowest of two vectors, and its number.
  struct Lowest {
    Double low[2] = {spread_out(INF), spread_out(INF)};
    Long number[2] = {}, at = first_numbers();

    PCF_INLINE void see(int k, Double values) {
      auto less = values < low[k];
      low[k] = less ? values : low[k];
      number[k] = less ? at + k * DOUBLES : number[k];
    }
    PCF_INLINE int64_t find(double& value) const {
      int64_t found = -1;
      value = INF;
      for (int k = 0; k < 2; ++k) {
        for (int l = 0; l < DOUBLES; ++l) {
          if (low[k][l] < value) {
            value = low[k][l];
            found = number[k][l];
          }
        }
      }
      return found;
    }
  };

  // The column that a row likes best at the present prices; the row's price becomes what it would pay.
  int64_t cheapest(int64_t row) {
    const double* costs = costs_ + row * stride_;
    Lowest lowest;
    for (int64_t j = 0; j < stride_; j += STEP) {
      PCF_UNROLL for (int k = 0; k < 2; ++k) {
        int64_t at = j + k * DOUBLES;
        lowest.see(k, vector_at(costs + at) - vector_at(column_prices_ + at));
      }
      lowest.at += STEP;
    }
    return lowest.find(row_prices_[row]);
  }

  // Distances of columns that a row of the tree makes shorter, and the nearest column that has not joined yet. Columns
  // that have joined are infinitely far, and stay so by a price that no cost comes below.
  PCF_INLINE int64_t reach(int64_t row, double start, double& distance) {
    const double* costs = costs_ + row * stride_;
    Lowest lowest;
    for (int64_t j = 0; j < stride_; j += STEP) {
      PCF_UNROLL for (int k = 0; k < 2; ++k) {
        int64_t at = j + k * DOUBLES;
        Double through = vector_at(costs + at) - vector_at(open_prices_ + at) + start;
        through = smaller(through, vector_at(distances_ + at));
        vector_at(distances_ + at) = through;
        lowest.see(k, through);
      }
      lowest.at += STEP;
    }
    return lowest.find(distance);
  }

  void augment(int64_t free_row) {
    for (int64_t j = 0; j < stride_; ++j) {
      distances_[j] = INF;
      open_prices_[j] = column_prices_[j];
    }
    int64_t size = 0, row = free_row;
    double distance = 0;
    for (;;) {
      tree_[size] = row;
      starts_[size] = distance - row_prices_[row];
      int64_t column = reach(row, starts_[size], distance);
      reached_[size] = column;
      joined_at_[size++] = distance;
      if (row_of_[column] < 0) break;
      distances_[column] = INF;
      open_prices_[column] = -INF;
      row = row_of_[column];
    }
    // The path is found backwards: which of the rows that had joined before made a column so near?
    int64_t last = size - 1;
    while (last >= 0) {
      int64_t column = reached_[last], best = 0;
      double low = INF;
      for (int64_t k = 0; k <= last; ++k) {
        double through = costs_[tree_[k] * stride_ + column] - column_prices_[column] + starts_[k];
        if (through < low) {
          low = through;
          best = k;
        }
      }
      row_of_[column] = tree_[best];
      column_of_[tree_[best]] = column;
      last = best - 1;
    }
    row_prices_[free_row] += distance;
    for (int64_t k = 0; k + 1 < size; ++k) {
      double change = distance - joined_at_[k];
      column_prices_[reached_[k]] -= change;
      row_prices_[tree_[k + 1]] += change;
    }
  }

  int64_t most_, count_ = 0, stride_ = 0;
  Doubles memory_;
  double *costs_, *column_prices_, *open_prices_, *distances_, *row_prices_, *joined_at_, *starts_;
  std::vector<int64_t> row_of_, column_of_, tree_, reached_;
};

}  // namespace

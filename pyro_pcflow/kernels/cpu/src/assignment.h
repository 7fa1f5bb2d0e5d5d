// The best matching of the points of two clouds, by shortest augmenting paths.
//
// Prices v of columns and u of rows with u_i + v_j <= c_ij bound the cost of any matching from below by their sum, and
// one whose pairs all have u_i + v_j = c_ij is the best: Kuhn, The Hungarian method for the assignment problem, 1955.
// Rows that are free take columns along the path on which prices rise least, found as by Dijkstra: Jonker and
// Volgenant, A shortest augmenting path algorithm for dense and sparse linear assignment problems, 1987, here without
// their augmenting row reduction, which on clouds costs more scans of rows than it saves.
#pragma once

#include <algorithm>
#include <vector>

#include "points.h"

namespace {

template <class T>
struct Kind;
template <>
struct Kind<double> {
  using Values = Double;
  using Numbers = Long;
};
template <>
struct Kind<float> {
  using Values = Vec;
  using Numbers = IVec;
};

template <class T>
class Assignment {
 public:
  explicit Assignment(int64_t most)
      : memory_(size_t(whole(most) * (most + 7)) * sizeof(T) / sizeof(double) + 1),
        row_of_(most),
        column_of_(most),
        tree_(most),
        reached_(most) {}

  // Start over with clouds of `count` points; then give all rows their costs.
  void start(int64_t count) {
    count_ = count;
    stride_ = whole(count);
    T* next = reinterpret_cast<T*>(memory_.get());
    for (T** piece : {&costs_, &column_prices_, &open_prices_, &distances_, &row_prices_, &joined_at_, &starts_}) {
      *piece = next;
      next += piece == &costs_ ? stride_ * count_ : stride_;
    }
    std::fill_n(column_prices_, stride_, T(INF));
  }
  T* costs(int64_t row) { return costs_ + row * stride_; }
  // A column starts with its lowest cost as its price.
  void finish_row(int64_t row) {
    T* costs_of_row = costs(row);
    std::fill(costs_of_row + count_, costs_of_row + stride_, T(INF));
    for (int64_t j = 0; j < stride_; j += WIDTH)
      at(column_prices_ + j) = smaller(at(costs_of_row + j), at(column_prices_ + j));
  }

  // True once the best matching is found, or false as soon as its mean cost is known to be above a limit.
  bool solve(double limit) {
    std::fill(column_prices_ + count_, column_prices_ + stride_, T(0));
    std::fill_n(row_of_.begin(), count_, -1);
    std::fill_n(column_of_.begin(), count_, -1);
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
    for (int64_t i = 0; i < count_; ++i) sum += double(row_prices_[i]) + double(column_prices_[i]);
    return sum / double(count_);
  }
  // What a pair costs above its prices.
  T excess(int64_t row, int64_t column) const {
    return costs_[row * stride_ + column] - column_prices_[column] - row_prices_[row];
  }
  T column_price(int64_t column) const { return column_prices_[column]; }
  int64_t column_of(int64_t row) const { return column_of_[row]; }

 private:
  using Values = typename Kind<T>::Values;
  using Numbers = typename Kind<T>::Numbers;
  static constexpr int WIDTH = sizeof(Values) / sizeof(T);
  static constexpr int STEP = 2 * WIDTH;  // of a loop, whose two vectors hide each other's latency
  static constexpr int REFRESHED = 16;

  static constexpr int64_t whole(int64_t count) { return (count + STEP - 1) / STEP * STEP; }
  static PCF_INLINE Values& at(T* p) { return *reinterpret_cast<Values*>(p); }
  static PCF_INLINE const Values& at(const T* p) { return *reinterpret_cast<const Values*>(p); }
  static PCF_INLINE Values smaller(Values a, Values b) { return a < b ? a : b; }

  // The lowest of many values, and its number.
  struct Lowest {
    Values low[2];
    Numbers number[2] = {}, next{};

    PCF_INLINE Lowest() {
      for (auto& one : low) one = T(INF) - Values{};
      for (int l = 0; l < WIDTH; ++l) next[l] = l;
    }
    PCF_INLINE void see(int k, Values values) {
      auto less = values < low[k];
      low[k] = less ? values : low[k];
      number[k] = less ? next : number[k];
      next += WIDTH;
    }
    PCF_INLINE int64_t find(T& value) const {
      int64_t found = 0;
      value = T(INF);
      for (int k = 0; k < 2; ++k) {
        for (int l = 0; l < WIDTH; ++l) {
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
    const T* costs_of_row = costs(row);
    Lowest lowest;
    for (int64_t j = 0; j < stride_; j += STEP) {
      PCF_UNROLL for (int k = 0; k < 2; ++k) {
        int64_t here = j + k * WIDTH;
        lowest.see(k, at(costs_of_row + here) - at(column_prices_ + here));
      }
    }
    return lowest.find(row_prices_[row]);
  }

  // Distances of columns that a row of the tree makes shorter, and the nearest column that has not joined yet. Columns
  // that have joined are infinitely far, and stay so by a price that no cost comes below.
  PCF_INLINE int64_t reach(int64_t row, T start, T& distance) {
    const T* costs_of_row = costs(row);
    Lowest lowest;
    for (int64_t j = 0; j < stride_; j += STEP) {
      PCF_UNROLL for (int k = 0; k < 2; ++k) {
        int64_t here = j + k * WIDTH;
        Values through = at(costs_of_row + here) - at(open_prices_ + here) + start;
        through = smaller(through, at(distances_ + here));
        at(distances_ + here) = through;
        lowest.see(k, through);
      }
    }
    return lowest.find(distance);
  }

  void augment(int64_t free_row) {
    for (int64_t j = 0; j < stride_; ++j) {
      distances_[j] = T(INF);
      open_prices_[j] = column_prices_[j];
    }
    int64_t size = 0, row = free_row;
    T distance = 0;
    for (;;) {
      tree_[size] = row;
      starts_[size] = distance - row_prices_[row];
      int64_t column = reach(row, starts_[size], distance);
      reached_[size] = column;
      joined_at_[size++] = distance;
      if (row_of_[column] < 0) break;
      distances_[column] = T(INF);
      open_prices_[column] = -T(INF);
      row = row_of_[column];
    }
    // The path is found backwards: which of the rows that had joined before made a column so near?
    int64_t last = size - 1;
    while (last >= 0) {
      int64_t column = reached_[last], best = 0;
      T low = T(INF);
      for (int64_t k = 0; k <= last; ++k) {
        T through = costs_[tree_[k] * stride_ + column] - column_prices_[column] + starts_[k];
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
      T change = distance - joined_at_[k];
      column_prices_[reached_[k]] -= change;
      row_prices_[tree_[k + 1]] += change;
    }
  }

  int64_t count_ = 0, stride_ = 0;
  Doubles memory_;
  T *costs_, *column_prices_, *open_prices_, *distances_, *row_prices_, *joined_at_, *starts_;
  std::vector<int64_t> row_of_, column_of_, tree_, reached_;
};

}  // namespace

// The best matching of two clouds in double precision, most of whose work is done in single precision.
//
// Costs are rounded to whole quanta, of which single precision holds 2^22 and adds them exactly. The best matching for
// these is as a rule the best one: it is, if prices can be shifted so that no pair costs less than its prices in double
// precision. Shifts of a few quanta matter between pairs that cost a few quanta more than their prices, of which there
// are few; they are the shortest paths along these pairs, found as by Bellman and Ford. Where there are none, since a
// circle has a negative length, points change their partners along it, which makes the matching cheaper: Klein, A primal
// method for minimal cost flows, 1967. Where there are too many such pairs, or shifts do not end within a few quanta,
// all is done once more in double precision.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "assignment.h"

namespace {

constexpr float QUANTUM = 1.0f / (1 << 22);  // of the largest cost
constexpr float ROUNDING = 3.0f;             // 3 * 2^22 quanta: adding it leaves no parts of them

class Matching {
 public:
  Matching(int dims, int64_t most)
      : others_(dims, most),
        most_(most),
        squares_(size_t(most + STEP)),
        quick_(most),
        partners_(most),
        through_(most),
        prices_(most),
        shifts_(most) {}

  // True if the best matching is found, or false if its mean cost is above a limit.
  template <int D>
  bool find(const double* points, const double* others, int64_t count, bool squared, double limit) {
    points_ = points;
    count_ = count;
    squared_ = squared;
    others_.read(others, count);
    double most = largest_cost();
    in_double_ = true;
    if (most == INF) return infinite();
    if (most > 1e-250 && most < 1e250) {
      in_double_ = false;
      // Prices are exact but for a few quanta, by which costs were rounded.
      double slack = 4 * double(QUANTUM);
      set_quick_costs<D>(1 / most);
      if (!quick_.solve(limit / most + slack)) {
        bound_ = (quick_.bound() - slack) * most;
        return false;
      }
      if (is_best(most)) return true;
      in_double_ = true;
    }
    if (exact_ == nullptr) exact_ = std::make_unique<Assignment<double>>(most_);
    exact_->start(count);
    for (int64_t i = 0; i < count; ++i) {
      double* row = exact_->costs(i);
      set_squares<D>(i, row);
      if (!squared)
        for (int64_t j = 0; j < count; ++j) row[j] = std::sqrt(row[j]);
      exact_->finish_row(i);
    }
    bool found = exact_->solve(limit);
    bound_ = exact_->bound();
    return found;
  }

  // A mean cost that no matching is below; that of the best one if it was found.
  double bound() const { return bound_; }
  int64_t partner(int64_t i) const {
    if (bound_ == INF) return i;
    return in_double_ ? exact_->column_of(i) : partners_[i];
  }

 private:
  static constexpr int REACH = 64;  // quanta
  static constexpr int ROUNDS = 256, CHANGES = 32;
  static constexpr int PAIRS = 16;  // for each point, whose costs are near their prices
  static constexpr double TOLERANCE = 1e-11;

  // A pair of points that may become partners, and what it costs above its prices.
  struct Near {
    int64_t row, column;
    double excess;
  };

  // Not below any cost: the diagonal of the box around both clouds.
  double largest_cost() const {
    double total = 0;
    for (int d = 0; d < others_.dims; ++d) {
      double low = INF, high = -INF;
      for (int64_t i = 0; i < count_; ++i) {
        for (double x : {points_[i * others_.dims + d], others_.row(d)[i]}) {
          low = std::min(low, x);
          high = std::max(high, x);
        }
      }
      total += (high - low) * (high - low);
    }
    return squared_ ? total : std::sqrt(total);
  }

  bool infinite() {
    bound_ = INF;
    return true;
  }

  template <int D>
  void set_squares(int64_t i, double* to) const {
    for (int64_t j = 0; j < whole_steps(count_); j += DOUBLES)
      vector_at(to + j) = squared_distances<D>(points_ + i * others_.dims, others_, j);
  }

  template <int D>
  void set_quick_costs(double scale) {
    quick_.start(count_);
    double* squares = squares_.get();
    const double factor = squared_ ? scale : scale * scale;
    for (int64_t i = 0; i < count_; ++i) {
      set_squares<D>(i, squares);
      float* row = quick_.costs(i);
      for (int64_t j = 0; j < count_; ++j) row[j] = float(squares[j] * factor);
      if (!squared_)
        for (int64_t j = 0; j < count_; ++j) row[j] = std::sqrt(row[j]);
      for (int64_t j = 0; j < count_; ++j) row[j] = (row[j] + ROUNDING) - ROUNDING;
      quick_.finish_row(i);
    }
  }

  double cost(int64_t i, int64_t j) const {
    double total = 0;
    for (int d = 0; d < others_.dims; ++d) {
      double difference = points_[i * others_.dims + d] - others_.row(d)[j];
      total += difference * difference;
    }
    return squared_ ? total : std::sqrt(total);
  }

  // Whether the matching of the first search is the best, or becomes it by a few changes.
  bool is_best(double most) {
    near_.clear();
    for (int64_t i = 0; i < count_; ++i) {
      partners_[i] = quick_.column_of(i);
      for (int64_t j = 0; j < count_; ++j) {
        if (quick_.excess(i, j) > REACH * QUANTUM) continue;
        near_.push_back({i, j, cost(i, j) - most * double(quick_.column_price(j))});
      }
      if (int64_t(near_.size()) > PAIRS * count_) return false;
    }
    for (int change = 0; change < CHANGES; ++change) {
      double total = 0;
      for (int64_t i = 0; i < count_; ++i) {
        double own = cost(i, partners_[i]);
        total += own;
        prices_[i] = own - most * double(quick_.column_price(partners_[i]));
        if (quick_.excess(i, partners_[i]) > REACH / 4 * QUANTUM) return false;
      }
      bound_ = total / double(count_);
      // Other pairs cost at least so many quanta more than their prices, but for roundings.
      if (find_shifts(TOLERANCE * bound_, -most * double(REACH / 2 * QUANTUM))) return true;
      if (!change_partners()) return false;
    }
    return false;
  }

  // Shortest paths to columns, from rows that have others as their partners; false if there are none above a limit.
  bool find_shifts(double tolerance, double lowest) {
    std::fill(shifts_.begin(), shifts_.end(), 0.0);
    std::fill(through_.begin(), through_.end(), -1);
    for (int round = 0; round < ROUNDS; ++round) {
      bool changed = false;
      for (const Near& one : near_) {
        double shift = shifts_[partners_[one.row]] + one.excess - prices_[one.row];
        if (one.column != partners_[one.row] && shift < shifts_[one.column] - tolerance) {
          if (shift < lowest) return false;
          shifts_[one.column] = shift;
          through_[one.column] = one.row;
          changed = true;
        }
      }
      if (!changed) return true;
    }
    return false;
  }

  // Along a circle of the paths that were found; false if there is none.
  bool change_partners() {
    std::vector<int64_t> seen(size_t(count_), -1);
    for (int64_t start = 0; start < count_; ++start) {
      int64_t column = start;
      while (through_[column] >= 0 && seen[column] < 0) {
        seen[column] = start;
        column = partners_[through_[column]];
      }
      if (through_[column] < 0 || seen[column] != start) continue;
      int64_t next = column;
      do {
        int64_t row = through_[next], before = partners_[row];
        partners_[row] = next;
        next = before;
      } while (next != column);
      return true;
    }
    return false;
  }

  Rows others_;
  int64_t most_, count_ = 0;
  const double* points_ = nullptr;
  bool squared_ = false, in_double_ = true;
  double bound_ = 0;
  Doubles squares_;
  Assignment<float> quick_;
  std::vector<int64_t> partners_, through_;  // of rows a column; of columns the row that a path comes through
  std::vector<double> prices_, shifts_;      // of rows; of columns
  std::vector<Near> near_;
  std::unique_ptr<Assignment<double>> exact_;
};

}  // namespace

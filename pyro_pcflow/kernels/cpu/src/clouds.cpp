// Distances between clouds: nearest points, and best matchings, in double precision.
//
// A set of clouds is an array (clouds, width, D), in which each cloud has its points first, as many as its count says.
// Pairs of clouds are two lists of numbers, of a cloud of the first set and one of the second. Each pair is the work of
// one thread.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "matching.h"
#include "nearest.h"
#include "threads.h"

namespace {

struct Set {
  const double* points;
  const int64_t* counts;
  int64_t width;
  int dims;
  const double* cloud(int64_t number) const { return points + number * width * dims; }
};

// For each pair a function of its number, by as many workers as there are threads, each made by `make`.
template <class Make>
int for_pairs(int64_t pairs, int threads, Team team, Make&& make) {
  try {
    std::atomic<int64_t> next{0};
    int workers = int(std::clamp<int64_t>(pairs, 1, std::max(threads, 1)));
    on_threads<AsItIs>(team, workers, [&](int) {
      auto work = make();
      for (int64_t pair = next++; pair < pairs; pair = next++) work(pair);
    });
    return 0;
  } catch (...) {
    return 1;
  }
}

}  // namespace

// All return 0, or 1 without memory.
extern "C" {

// Squared distances to nearest points, there (pairs, first width) and back (pairs, second width), zero beyond counts.
int pcf_nearest_both_ways(int dims, int64_t pairs, const int64_t* first, const int64_t* second, const double* x,
                          const int64_t* x_counts, int64_t x_width, const double* y, const int64_t* y_counts,
                          int64_t y_width, double* there, double* back, int threads, Team team) {
  Set xs{x, x_counts, x_width, dims}, ys{y, y_counts, y_width, dims};
  return for_pairs(pairs, threads, team, [&] {
    return [&, others = Rows(dims, y_width), nearest = Doubles(size_t(whole_steps(y_width)))](int64_t pair) mutable {
      int64_t ours = xs.counts[first[pair]], theirs = ys.counts[second[pair]];
      double *to = there + pair * x_width, *from = back + pair * y_width;
      others.read(ys.cloud(second[pair]), theirs);
      with_dims(dims, [&](auto D) {
        nearest_both_ways<D>(xs.cloud(first[pair]), ours, others, to, nearest.get());
      });
      std::copy_n(nearest.get(), theirs, from);
      std::fill(to + ours, to + x_width, 0.0);
      std::fill(from + theirs, from + y_width, 0.0);
    };
  });
}

// Numbers (pairs, first width) of nearest points of the second cloud, 0 beyond the count.
int pcf_nearest_numbers(int dims, int64_t pairs, const int64_t* first, const int64_t* second, const double* x,
                        const int64_t* x_counts, int64_t x_width, const double* y, const int64_t* y_counts,
                        int64_t y_width, int64_t* numbers, int threads, Team team) {
  Set xs{x, x_counts, x_width, dims}, ys{y, y_counts, y_width, dims};
  return for_pairs(pairs, threads, team, [&] {
    return [&, others = Rows(dims, y_width)](int64_t pair) mutable {
      int64_t ours = xs.counts[first[pair]];
      others.read(ys.cloud(second[pair]), ys.counts[second[pair]]);
      with_dims(dims, [&](auto D) {
        nearest_numbers<D>(xs.cloud(first[pair]), ours, others, numbers + pair * x_width);
      });
      std::fill(numbers + pair * x_width + ours, numbers + (pair + 1) * x_width, 0);
    };
  });
}

// The best matchings: numbers (pairs, first width) of partners in the second cloud, 0 beyond the count, and a mean cost
// for each pair that no matching is below. Where that is above the pair's limit, the search is given up, and the first
// number is -1. Clouds of a pair are of one count. Where costs overflow, the cost is infinite and points are matched in
// their order.
int pcf_match(int dims, int64_t pairs, const int64_t* first, const int64_t* second, const double* x,
              const int64_t* x_counts, int64_t x_width, const double* y, const int64_t* y_counts, int64_t y_width,
              int squared, const double* limits, double* bounds, int64_t* numbers, int threads, Team team) {
  Set xs{x, x_counts, x_width, dims}, ys{y, y_counts, y_width, dims};
  int64_t most = 0;
  for (int64_t pair = 0; pair < pairs; ++pair) most = std::max(most, xs.counts[first[pair]]);
  return for_pairs(pairs, threads, team, [&] {
    return [&, matching = Matching(dims, most)](int64_t pair) mutable {
      int64_t count = xs.counts[first[pair]], *to = numbers + pair * x_width;
      bool found = false;
      with_dims(dims, [&](auto D) {
        found = matching.template find<D>(xs.cloud(first[pair]), ys.cloud(second[pair]), count, squared != 0,
                                          limits[pair]);
      });
      bounds[pair] = matching.bound();
      std::fill(to, to + x_width, 0);
      for (int64_t i = 0; i < count && found; ++i) to[i] = matching.partner(i);
      if (!found) to[0] = -1;
    };
  });
}

}  // extern "C"

// Clouds of points as rows of coordinates in double precision, and loops over all pairs of their points.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <new>

#include "vectors.h"

namespace {

constexpr int DOUBLES = LANES / 2;
constexpr int STEP = 2 * DOUBLES;
constexpr double INF = std::numeric_limits<double>::infinity();
using Long = int64_t __attribute__((vector_size(4 * LANES)));

PCF_INLINE Double spread_out(double x) { return x - Double{}; }
PCF_INLINE Double& vector_at(double* p) { return *reinterpret_cast<Double*>(p); }
PCF_INLINE const Double& vector_at(const double* p) { return *reinterpret_cast<const Double*>(p); }
PCF_INLINE Double smaller(Double a, Double b) { return a < b ? a : b; }
PCF_INLINE double smallest(Double a) {
  double low = a[0];
  for (int l = 1; l < DOUBLES; ++l) low = a[l] < low ? a[l] : low;
  return low;
}
PCF_INLINE Long first_numbers() {
  Long numbers{};
  for (int l = 0; l < DOUBLES; ++l) numbers[l] = l;
  return numbers;
}

constexpr int64_t whole_steps(int64_t count) { return (count + STEP - 1) / STEP * STEP; }

// Memory that starts at a cache line.
class Doubles {
 public:
  explicit Doubles(size_t count) {
    void* data = nullptr;
    if (posix_memalign(&data, 64, (count + 8) * sizeof(double)) != 0) throw std::bad_alloc();
    data_.reset(static_cast<double*>(data));
  }
  double* get() const { return data_.get(); }

 private:
  struct Free {
    void operator()(double* data) const { std::free(data); }
  };
  std::unique_ptr<double, Free> data_;
};

// One cloud: a row for each coordinate, padded to whole steps by points at infinity.
struct Rows {
  int dims;
  int64_t count = 0, stride;
  Doubles memory;

  Rows(int dims, int64_t most) : dims(dims), stride(whole_steps(most)), memory(size_t(dims * stride)) {}
  void read(const double* points, int64_t number) {
    count = number;
    for (int d = 0; d < dims; ++d) {
      double* to = memory.get() + d * stride;
      for (int64_t j = 0; j < count; ++j) to[j] = points[j * dims + d];
      for (int64_t j = count; j < whole_steps(count); ++j) to[j] = INF;
    }
  }
  const double* row(int d) const { return memory.get() + d * stride; }
};

// The squared distances of one point to a vector of points; D is the number of coordinates, or 0 for any.
template <int D>
PCF_INLINE Double squared_distances(const double* point, const Rows& others, int64_t j) {
  Double total{};
  const int dims = D > 0 ? D : others.dims;
  for (int d = 0; d < dims; ++d) {
    Double difference = point[d] - vector_at(others.row(d) + j);
    total += difference * difference;
  }
  return total;
}

// Call a function with the number of coordinates as a constant, where it is a common one.
template <class Work>
void with_dims(int dims, Work&& work) {
  switch (dims) {
    case 2: return work(std::integral_constant<int, 2>());
    case 3: return work(std::integral_constant<int, 3>());
    default: return work(std::integral_constant<int, 0>());
  }
}

}  // namespace

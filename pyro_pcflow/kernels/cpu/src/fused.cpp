// A whole stack of couplings, tile by tile.
//
// A tile of points goes through all layers of a coupling while its hidden units stay in the cache. Units are rows and
// points are columns of every matrix, so that vectors run over points: widths need not fit the vectors, and one row of
// a network's outputs belongs to a coordinate of many points. The backward pass starts from the result and the moved
// coordinates that each coupling overwrote, and evaluates hidden layers once more.
//
// Plain C++17 with the vector types of GCC and Clang; compiled for one instruction set at a time, see build.py.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "networks.h"
#include "threads.h"

namespace {

constexpr int TILES_TOGETHER = 22;  // about 2048 points

struct Tile {
  int64_t first;       // point, among all
  int count, padded;  // points, and these rounded up to whole vectors
};

// Tiles of one group of points that go through a coupling one after the other, while its weights stay in the cache.
struct Chunk {
  int64_t group, first, count;  // the first point, among all, and points
  bool last;                    // of its group
  int tiles() const { return int((count + TILE - 1) / TILE); }
  Tile operator[](int i) const {
    int n = int(std::min<int64_t>(TILE, count - int64_t(i) * TILE));
    return {first + int64_t(i) * TILE, n, whole(n)};
  }
};

struct Chunks {
  int64_t points, size, per_group, count;
  // Several for each thread, so that all end at about the same time.
  Chunks(int64_t groups, int64_t points, int threads) : points(points) {
    int64_t tiles = (points + TILE - 1) / TILE;
    size = TILE * std::clamp<int64_t>(groups * tiles / (4 * threads), 1, std::min<int64_t>(TILES_TOGETHER, tiles));
    per_group = (points + size - 1) / size;
    count = groups * per_group;
  }
  int tiles() const { return int(size / TILE); }
  Chunk operator[](int64_t i) const {
    int64_t group = i / per_group, start = i % per_group * size;
    return {group, group * points + start, std::min(size, points - start), (i + 1) % per_group == 0};
  }
};

void read_points(const float* from, int dims, const Tile& tile, float* rows) {
  for (int d = 0; d < dims; ++d) {
    for (int t = 0; t < tile.count; ++t) rows[d * TILE + t] = from[(tile.first + t) * dims + d];
    for (int t = tile.count; t < tile.padded; ++t) rows[d * TILE + t] = 0.0f;
  }
}

void write_points(const float* rows, int dims, const Tile& tile, float* to) {
  for (int d = 0; d < dims; ++d)
    for (int t = 0; t < tile.count; ++t) to[(tile.first + t) * dims + d] = rows[d * TILE + t];
}

// All weights in the orders that threads want them.
struct Packed {
  float *forward, *back = nullptr, *transposed;

  static size_t size(const Program& program, bool backward) {
    CountingArena counting;
    Packed(counting, program, backward);
    return counting.floats();
  }
  template <class Memory>
  Packed(Memory& arena, const Program& program, bool backward) {
    forward = arena.take(program.weights);
    if (backward) back = arena.take(program.weights);
    transposed = arena.take(program.transposed);
  }
};

Weights pack_weights(const Packed& packed, const Program& program, const float* weights, bool inverse) {
  auto [forward, back, transposed] = packed;
  for (const auto& coupling : program.couplings)
    for (const auto& network : coupling.networks) {
      if (network.tabulated) {
        const Layer& second = network.layers[1];
        int stride = whole(second.outputs);
        for (int i = 0; i < second.inputs; ++i)
          for (int o = 0; o < stride; ++o)
            transposed[network.transposed + int64_t(i) * stride + o] =
                o < second.outputs ? weights[second.weight + int64_t(o) * second.inputs + i] : 0.0f;
        continue;
      }
      for (const auto& layer : network.layers) {
        pack(weights + layer.weight, layer.outputs, layer.inputs, layer.inputs, 1, forward + layer.weight);
        if (back == nullptr) continue;
        pack(weights + layer.weight, layer.inputs, layer.outputs, 1, layer.inputs, back + layer.weight);
      }
    }
  return {program, weights, forward, back, transposed, inverse};
}

const Coupling& nth(const Program& program, size_t i, bool inverse) {
  return inverse ? program.couplings[program.couplings.size() - 1 - i] : program.couplings[i];
}

// Make the tables of a coupling for the finite inputs of a chunk.
void fill_tables(const Coupling& coupling, const Weights& weights, const float* offsets, const Chunk& chunk,
                 bool backward, Scratch& scratch) {
  if (scratch.tables.empty()) return;
  float low = INFINITY, high = -INFINITY;
  for (int t = 0; t < chunk.tiles(); ++t) {
    const float* x = scratch.points + (t * weights.program.point_dim + coupling.kept[0]) * TILE;
    for (int p = 0; p < chunk[t].count; ++p) {
      if (!std::isfinite(x[p])) continue;
      low = std::min(low, x[p]);
      high = std::max(high, x[p]);
    }
  }
  if (low > high) low = high = 0.0f;
  fill_tables(coupling, weights, offsets, low, high, backward, scratch);
}

void run(const Program& program, bool inverse, int64_t groups, int64_t points_per_group, const float* points,
         const float* weights, const float* offsets, float* out, float* log_det, float* saved, int threads, Team team) {
  Arena packed(Packed::size(program, false));
  Weights shared = pack_weights(Packed(packed, program, false), program, weights, inverse);
  Chunks chunks(groups, points_per_group, threads);
  int64_t total = groups * points_per_group;
  int tile_size = program.point_dim * TILE;
  std::atomic<int64_t> next{0};
  std::vector<std::unique_ptr<Arena>> arenas;
  for (int i = 0; i < threads; ++i)
    arenas.push_back(std::make_unique<Arena>(Scratch::size(program, chunks.tiles(), false)));
  on_threads(team, threads, [&](int thread) {
    Scratch scratch(*arenas[thread], program, chunks.tiles(), false);
    for (int64_t i = next++; i < chunks.count; i = next++) {
      Chunk chunk = chunks[i];
      const float* group_offsets = offsets + chunk.group * program.offsets;
      for (int t = 0; t < chunk.tiles(); ++t)
        read_points(points, program.point_dim, chunk[t], scratch.points + t * tile_size);
      std::memset(scratch.log_dets, 0, chunk.tiles() * TILE * sizeof(float));
      for (size_t k = 0; k < program.couplings.size(); ++k) {
        const Coupling& coupling = nth(program, k, inverse);
        fill_tables(coupling, shared, group_offsets, chunk, false, scratch);
        for (int t = 0; t < chunk.tiles(); ++t) {
          Tile tile = chunk[t];
          float* x = scratch.points + t * tile_size;
          if (saved != nullptr) {
            for (size_t m = 0; m < coupling.moved.size(); ++m)
              std::memcpy(saved + (coupling.saved + m) * total + tile.first, x + coupling.moved[m] * TILE,
                          tile.count * sizeof(float));
          }
          evaluate_networks<false>(coupling, shared, group_offsets, x, tile.padded, scratch);
          move(coupling, inverse, scratch.outputs, tile.padded, x, scratch.log_dets + t * TILE);
        }
      }
      for (int t = 0; t < chunk.tiles(); ++t) {
        write_points(scratch.points + t * tile_size, program.point_dim, chunk[t], out);
        write_points(scratch.log_dets + t * TILE, 1, chunk[t], log_det);
      }
    }
  });
}

// The sums of the vectors of one group, to its row or to a part of it.
void finish_group(const Program& program, const Scratch& scratch, float* to) {
  for (int64_t i = 0; i < program.offsets; ++i) to[i] = sum(load(scratch.offset_gradients + i * LANES));
}

// The gradient through one coupling of a chunk whose points are those after it.
void differentiate_chunk(const Coupling& coupling, const Weights& weights, const float* group_offsets,
                         const Chunk& chunk, const float* saved, int64_t total, bool of_weights, Scratch& scratch) {
  int tile_size = weights.program.point_dim * TILE;
  fill_tables(coupling, weights, group_offsets, chunk, true, scratch);
  for (int t = 0; t < chunk.tiles(); ++t) {
    Tile tile = chunk[t];
    float *x = scratch.points + t * tile_size, *gradients = scratch.gradients + t * tile_size;
    for (size_t m = 0; m < coupling.moved.size(); ++m)
      std::memcpy(x + coupling.moved[m] * TILE, saved + (coupling.saved + m) * total + tile.first,
                  tile.count * sizeof(float));
    evaluate_networks<true>(coupling, weights, group_offsets, x, tile.padded, scratch);
    move_back(coupling, weights.inverse, x, tile.padded, gradients, scratch.log_dets + t * TILE, scratch);
    differentiate_networks(coupling, weights, group_offsets, tile.count, tile.padded, of_weights, scratch, gradients);
  }
  finish_tables(coupling, weights, group_offsets, scratch);
}

// The sum over all threads of the gradients of the weights, in their own order.
void write_weight_gradients(const Program& program, const std::vector<Scratch>& scratches, float* grad_weights) {
  for (const auto& coupling : program.couplings)
    for (const auto& network : coupling.networks)
      for (const auto& layer : network.layers)
        for (int r = 0; r < layer.outputs; ++r)
          for (int c = 0; c < layer.inputs; ++c) {
            int64_t row = layer.transposed ? c : r, column = layer.transposed ? r : c;
            int64_t place = layer.gradient + row * layer.stride() + column;
            float total = 0;
            for (const auto& scratch : scratches) total += scratch.weight_gradients[place];
            grad_weights[layer.weight + int64_t(r) * layer.inputs + c] = total;
          }
}

void run_backward(const Program& program, bool inverse, int64_t groups, int64_t points_per_group, const float* out,
                  const float* saved, const float* weights, const float* offsets, const float* grad_out,
                  const float* grad_log_det, float* grad_points, float* grad_weights, float* grad_offsets,
                  int threads, Team team) {
  Arena packed(Packed::size(program, true));
  Weights shared = pack_weights(Packed(packed, program, true), program, weights, inverse);
  Chunks chunks(groups, points_per_group, threads);
  int64_t total = groups * points_per_group;
  int tile_size = program.point_dim * TILE;
  bool of_weights = grad_weights != nullptr;
  std::vector<std::unique_ptr<Arena>> arenas;
  std::vector<Scratch> scratches;
  for (int i = 0; i < threads; ++i) {
    arenas.push_back(std::make_unique<Arena>(Scratch::size(program, chunks.tiles(), true)));
    scratches.emplace_back(*arenas.back(), program, chunks.tiles(), true);
  }
  std::vector<std::vector<int64_t>> shared_groups(threads);
  for (auto& of_thread : shared_groups) of_thread.reserve(2);

  on_threads(team, threads, [&](int thread) {
    // A fixed share for each thread, so that sums are added in the same order each time.
    int64_t begin = chunks.count * thread / threads, end = chunks.count * (thread + 1) / threads;
    Scratch& scratch = scratches[thread];
    std::memset(scratch.weight_gradients, 0, program.gradients * sizeof(float));
    for (int64_t i = begin; i < end; ++i) {
      Chunk chunk = chunks[i];
      const float* group_offsets = offsets + chunk.group * program.offsets;
      if (i == begin || i % chunks.per_group == 0)
        std::memset(scratch.offset_gradients, 0, program.offsets * LANES * sizeof(float));
      for (int t = 0; t < chunk.tiles(); ++t) {
        read_points(out, program.point_dim, chunk[t], scratch.points + t * tile_size);
        read_points(grad_out, program.point_dim, chunk[t], scratch.gradients + t * tile_size);
        read_points(grad_log_det, 1, chunk[t], scratch.log_dets + t * TILE);
      }
      for (size_t k = program.couplings.size(); k-- > 0;)
        differentiate_chunk(nth(program, k, inverse), shared, group_offsets, chunk, saved, total, of_weights, scratch);
      for (int t = 0; t < chunk.tiles(); ++t)
        write_points(scratch.gradients + t * tile_size, program.point_dim, chunk[t], grad_points);
      if (i + 1 == end || chunk.last) {
        int64_t start = chunk.group * chunks.per_group;
        if (begin <= start && start + chunks.per_group <= end) {
          finish_group(program, scratch, grad_offsets + chunk.group * program.offsets);
        } else {
          finish_group(program, scratch, scratch.shared_groups + shared_groups[thread].size() * program.offsets);
          shared_groups[thread].push_back(chunk.group);
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
  if (of_weights) write_weight_gradients(program, scratches, grad_weights);
}

template <class Work>
int guarded(Work&& work) {
  try {
    work();
    return 0;
  } catch (const TooLittleRoom&) {
    return 2;
  } catch (...) {
    return 1;
  }
}

int useful_threads(int threads, int64_t groups, int64_t points_per_group) {
  return int(std::max<int64_t>(1, std::min<int64_t>(threads, groups * ((points_per_group + TILE - 1) / TILE))));
}

}  // namespace

extern "C" {

// All arrays are contiguous. points, out: (groups, points, D); log_det: (groups, points); offsets: a row for each
// group; saved: a row of all points for each coordinate that a coupling overwrites, or null. Returns 0, 1 without
// memory, or 2 if an arena was too small, which is a fault of this file.
int pcf_run(const int32_t* code, const float* limits, int inverse, int64_t groups, int64_t points_per_group,
            const float* points, const float* weights, const float* offsets, float* out, float* log_det, float* saved,
            int threads, Team team) {
  return guarded([&] {
    Program program(code, limits, points_per_group);
    run(program, inverse != 0, groups, points_per_group, points, weights, offsets, out, log_det, saved,
        useful_threads(threads, groups, points_per_group), team);
  });
}

// grad_weights may be null. The others as for pcf_run, of which `out` and `saved` come.
int pcf_run_backward(const int32_t* code, const float* limits, int inverse, int64_t groups, int64_t points_per_group,
                     const float* out, const float* saved, const float* weights, const float* offsets,
                     const float* grad_out, const float* grad_log_det, float* grad_points, float* grad_weights,
                     float* grad_offsets, int threads, Team team) {
  return guarded([&] {
    Program program(code, limits, points_per_group);
    run_backward(program, inverse != 0, groups, points_per_group, out, saved, weights, offsets, grad_out, grad_log_det,
                 grad_points, grad_weights, grad_offsets,
                 useful_threads(threads, groups, points_per_group), team);
  });
}

}  // extern "C"

// The program: what program.py writes, read once a call.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "activations.h"
#include "vectors.h"

namespace {

constexpr int whole(int size) { return (size + LANES - 1) / LANES * LANES; }

struct Layer {
  int inputs, outputs;
  bool scaled, skip;
  int64_t weight;         // of the first weight, among all
  int64_t scale, offset;  // among what a group of points has of its own
  int64_t row;            // of its inputs, among the rows of its network: its features, then its hidden layers
  bool transposed;        // whether the gradient of the weights has a row for each input, not for each output
  int64_t gradient;       // of the first weight's gradient, in rows of whole vectors
  int stride() const { return whole(transposed ? outputs : inputs); }
};

struct Network {
  int frequencies, outputs;
  Activation activation;
  int64_t row;                // of its features, among the rows of its coupling
  std::vector<Layer> layers;  // the hidden ones, and the last
  bool tabulated;             // whether its hidden layers are a table, see piecewise.h
  int64_t transposed;         // of its second matrix, among the transposed ones of all tabulated networks
};

struct Coupling {
  std::vector<int> kept, moved;
  bool affine;
  float limit;
  std::vector<Network> networks;
  int64_t saved;  // coordinates that couplings before it overwrite
};

struct Program {
  int point_dim;
  std::vector<Coupling> couplings;
  int64_t weights = 0, offsets = 0, gradients = 0, saved = 0;
  int64_t rows = 0;  // of the widest coupling: features and hidden layers of its networks
  int widest = 0, outputs = 0;
  int64_t transposed = 0;                            // size of the second matrices of tabulated networks
  int tables = 0, table_inner = 0, table_outer = 0;  // most of one coupling, and their largest layers

  Program(const int32_t* code, const float* limits, int64_t points_per_group) {
    point_dim = *code++;
    couplings.resize(*code++);
    for (auto& coupling : couplings) {
      int mask = *code++;
      for (int i = 0; i < point_dim; ++i) (mask >> i & 1 ? coupling.kept : coupling.moved).push_back(i);
      coupling.affine = *code++ != 0;
      coupling.limit = *limits++;
      coupling.saved = saved;
      saved += coupling.moved.size();
      coupling.networks.resize(*code++);
      int64_t rows = 0;
      int outputs_here = 0, tables_here = 0;
      for (auto& network : coupling.networks) {
        network.frequencies = *code++;
        network.activation = Activation(*code++);
        network.outputs = *code++;
        network.layers.resize(1 + *code++);
        network.row = rows;
        int inputs = coupling.kept.size() * (1 + 2 * network.frequencies);
        for (size_t i = 0; i < network.layers.size(); ++i) {
          auto& layer = network.layers[i];
          bool last = i + 1 == network.layers.size();
          layer.inputs = inputs;
          layer.row = rows - network.row;
          rows += inputs;
          widest = std::max(widest, inputs);
          layer.outputs = last ? network.outputs : *code++;
          layer.scaled = last ? false : *code++ != 0;
          layer.skip = last ? false : *code++ != 0;
          layer.weight = weights;
          weights += int64_t(layer.inputs) * layer.outputs;
          layer.scale = offsets;
          if (layer.scaled) offsets += layer.outputs;
          layer.offset = offsets;
          offsets += layer.outputs;
          inputs = layer.outputs;
        }
        outputs_here += network.outputs;
        decide(network, coupling.kept.size(), points_per_group);
        tables_here += network.tabulated;
      }
      this->rows = std::max(this->rows, rows);
      outputs = std::max(outputs, outputs_here);
      tables = std::max(tables, tables_here);
    }
  }

 private:
  // Whether a network has a table, and where its gradients are.
  void decide(Network& network, int kept, int64_t points_per_group) {
    auto& layers = network.layers;
    // A table costs about as much as one point for each unit of the first layer.
    network.tabulated = kept == 1 && network.frequencies == 0 && is_piecewise_linear(network.activation) &&
                        layers.size() == 3 && !layers[0].skip && !layers[1].skip &&
                        points_per_group >= layers[0].outputs;
    if (network.tabulated) {
      network.transposed = transposed;
      transposed += int64_t(layers[1].inputs) * whole(layers[1].outputs);
      table_inner = std::max(table_inner, layers[1].inputs);
      table_outer = std::max(table_outer, whole(layers[1].outputs));
    }
    for (auto& layer : layers) {
      layer.transposed = network.tabulated && &layer == &layers[1];
      layer.gradient = gradients;
      gradients += int64_t(layer.stride()) * (layer.transposed ? layer.inputs : layer.outputs);
    }
  }
};

}  // namespace

// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "codebook/source.h"
#include "nfloat/codebook_errors.h"

namespace nfloat {
namespace {

// Levels in ascending order with the interval of normalised values that each takes, clipped to [-1, 1].
struct Cell {
  uint8_t code;
  double level;
  double begin;
  double end;
};

std::vector<Cell> make_cells(const Codebook& codebook) {
  std::vector<Cell> cells;
  const auto clip = [](double y) { return std::min(1.0, std::max(-1.0, y)); };
  const size_t count = codebook.levels.size();
  for (size_t rank = 0; rank < count; ++rank) {
    const uint8_t code = codebook.code_of_rank[rank];
    cells.push_back({code, codebook.levels[code], rank == 0 ? -1.0 : clip(codebook.thresholds[rank - 1]),
                     rank + 1 == count ? 1.0 : clip(codebook.thresholds[rank])});
  }
  return cells;
}

// Where the largest weight of a block lands: always at 1 when the scale carries its sign, else at both ends.
struct Extreme {
  float value;
  double probability;
};

std::vector<Extreme> extremes(const Codebook& codebook) {
  if (codebook.signed_scale) return {{1.0f, 1.0}};
  return {{-1.0f, 0.5}, {1.0f, 0.5}};
}

}  // namespace

double CodebookErrors::sqnr_db() const noexcept {
  return -10 * std::log10(mse);
}

std::vector<double> code_frequencies(const Codebook& codebook, int64_t block_size,
                                     const SourceDistribution& distribution) {
  const Source source(distribution);
  const double share_of_largest = 1.0 / static_cast<double>(block_size);
  std::vector<double> frequencies(codebook.levels.size(), 0.0);
  const std::vector<Cell> cells = make_cells(codebook);
  for (const MaximumNode& node : block_maximum_nodes(source, block_size)) {
    const double weight = (1 - share_of_largest) * node.weight / node.inside;
    double below = source.moments(-node.maximum).zeroth;
    for (const Cell& cell : cells) {
      const double up_to = source.moments(cell.end * node.maximum).zeroth;
      frequencies[cell.code] += weight * (up_to - below);
      below = up_to;
    }
  }
  for (const Extreme& extreme : extremes(codebook)) {
    frequencies[codebook.encode(extreme.value)] += share_of_largest * extreme.probability;
  }
  return frequencies;
}

CodebookErrors codebook_errors(const Codebook& codebook, int64_t block_size,
                               const SourceDistribution& distribution) {
  const Source source(distribution);
  const std::vector<Cell> cells = make_cells(codebook);
  double end_error = 0;
  double end_squared_error = 0;
  for (const Extreme& extreme : extremes(codebook)) {
    const double error = std::fabs(extreme.value - codebook.levels[codebook.encode(extreme.value)]);
    end_error += extreme.probability * error;
    end_squared_error += extreme.probability * error * error;
  }
  const double share_of_largest = 1.0 / static_cast<double>(block_size);
  double squared = 0;
  double absolute = 0;
  for (const MaximumNode& node : block_maximum_nodes(source, block_size)) {
    const double m = node.maximum;
    double node_squared = 0;
    double node_absolute = 0;
    Moments begin = source.moments(-m);
    for (const Cell& cell : cells) {
      if (cell.end <= cell.begin) continue;
      const Moments end = source.moments(cell.end * m);
      const double q = cell.level * m;
      const double zeroth = end.zeroth - begin.zeroth;
      const double first = end.first - begin.first;
      node_squared += end.second - begin.second - 2 * q * first + q * q * zeroth;
      if (cell.level <= cell.begin || cell.level >= cell.end) {
        node_absolute += std::fabs(first - q * zeroth);
      } else {
        const Moments middle = source.moments(q);
        node_absolute +=
            end.first + begin.first - 2 * middle.first - q * (end.zeroth + begin.zeroth - 2 * middle.zeroth);
      }
      begin = end;
    }
    const double others = (1 - share_of_largest) / node.inside;
    squared += node.weight * (others * node_squared + share_of_largest * m * m * end_squared_error);
    absolute += node.weight * (others * node_absolute + share_of_largest * m * end_error);
  }
  CodebookErrors errors;
  errors.mse = squared / source.variance();
  errors.mae = absolute / std::sqrt(source.variance());
  for (double frequency : code_frequencies(codebook, block_size, distribution)) {
    if (frequency > 0) errors.entropy -= frequency * std::log2(frequency);
  }
  return errors;
}

double expected_block_maximum(int64_t block_size, const SourceDistribution& distribution) {
  const Source source(distribution);
  double sum = 0;
  for (const MaximumNode& node : block_maximum_nodes(source, block_size)) sum += node.weight * node.maximum;
  return sum / std::sqrt(source.variance());
}

}  // namespace nfloat

// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TESTS_REFERENCE_STEPS_H_
#define NFLOAT_TESTS_REFERENCE_STEPS_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

// The steps of a layer, one row at a time, in double precision and as plainly as they can be written: the
// oracle of the engine room.
namespace nfloat::reference {

using Row = std::vector<double>;

// (x - mean) / sqrt(variance + epsilon) * weight + bias; without `centred`, mean is 0 and there is no bias.
inline Row normalized(const Row& x, const Row& weight, const Row& bias, double epsilon, bool centred) {
  const double count = static_cast<double>(x.size());
  double mean = 0, squares = 0;
  if (centred)
    for (const double value : x) mean += value / count;
  for (const double value : x) squares += (value - mean) * (value - mean) / count;
  Row y(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    y[i] = (x[i] - mean) / std::sqrt(squares + epsilon) * weight[i];
    if (centred) y[i] += bias[i];
  }
  return y;
}

// A head whose first pairs turn by the angles: element i with element i + pairs.
inline Row turned(Row head, const Row& angles) {
  const size_t pairs = angles.size();
  for (size_t i = 0; i < pairs; ++i) {
    const double c = std::cos(angles[i]), s = std::sin(angles[i]), a = head[i], b = head[i + pairs];
    head[i] = a * c - b * s;
    head[i + pairs] = b * c + a * s;
  }
  return head;
}

struct Attended {
  Row values;
  Row magnitudes;    // the same sums of absolute terms
  double reach = 0;  // the largest sum of absolute terms of a score
};

// Softmax attention of one query over the keys [first, last].
inline Attended attended(const Row& query, const std::vector<Row>& keys, const std::vector<Row>& values,
                         size_t first, size_t last, double scale, double softcap, const double* sink) {
  Row scores;
  Attended result{Row(values[0].size(), 0.0), Row(values[0].size(), 0.0)};
  double largest = sink != nullptr ? *sink : -INFINITY;
  for (size_t p = first; p <= last; ++p) {
    double score = 0, reach = 0;
    for (size_t d = 0; d < query.size(); ++d) {
      score += query[d] * keys[p][d] * scale;
      reach += std::fabs(query[d] * keys[p][d] * scale);
    }
    if (softcap > 0) score = softcap * std::tanh(score / softcap);
    result.reach = std::max(result.reach, reach);
    scores.push_back(score);
    largest = std::max(largest, score);
  }
  double total = sink != nullptr ? std::exp(*sink - largest) : 0;
  for (double& score : scores) total += score = std::exp(score - largest);
  for (size_t p = first; p <= last; ++p)
    for (size_t d = 0; d < values[p].size(); ++d) {
      result.values[d] += scores[p - first] / total * values[p][d];
      result.magnitudes[d] += scores[p - first] / total * std::fabs(values[p][d]);
    }
  return result;
}

// The experts with the largest logits, of equal ones the first, in ascending order.
inline std::vector<size_t> chosen_experts(const Row& logits, size_t count) {
  std::vector<size_t> order(logits.size());
  for (size_t e = 0; e < order.size(); ++e) order[e] = e;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  order.resize(count);
  std::sort(order.begin(), order.end());
  return order;
}

}  // namespace nfloat::reference

#endif  // NFLOAT_TESTS_REFERENCE_STEPS_H_

// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "base/json.h"
#include "compare_job.h"
#include "model_options.h"
#include "nfloat/analyze.h"
#include "nfloat/codebook_errors.h"
#include "nfloat/report.h"

namespace nfloat::cli {
namespace {

constexpr int64_t kBlock = 64;
constexpr size_t kMostWeights = 4'000'000;

// Weights of all measured matrices, each tensor in units of its own deviation, evenly thinned.
std::vector<float> normalised_weights(const Comparison& comparison) {
  const Checkpoint checkpoint(resolve_model_path(comparison.model));
  const FormatMeasurement* any = nullptr;
  for (const FormatMeasurement& m : comparison.measurements)
    if (m.refused.empty()) any = &m;
  std::vector<float> all;
  if (any == nullptr) return all;
  const uint64_t step = std::max<uint64_t>(1, any->weights / kMostWeights);
  for (const TensorError& tensor : any->tensors) {
    const TensorView view = checkpoint.view(tensor.name);
    std::vector<float> values(static_cast<size_t>(view.elements()));
    convert_elements(view, DType::kF32, std::as_writable_bytes(std::span(values)));
    double sum = 0, squares = 0;
    for (const float v : values) {
      sum += static_cast<double>(v);
      squares += static_cast<double>(v) * static_cast<double>(v);
    }
    const auto count = static_cast<double>(values.size());
    const double mean = sum / count, deviation = std::sqrt(std::max(0.0, squares / count - mean * mean));
    for (size_t i = 0; i < values.size(); i += step)
      all.push_back(
          static_cast<float>(deviation > 0 ? (static_cast<double>(values[i]) - mean) / deviation : 0));
    checkpoint.release(view);
  }
  return all;
}

Json weights_json(const Comparison& comparison) {
  std::vector<float> all = normalised_weights(comparison);
  const TensorView view{DType::kF32, Shape{static_cast<int64_t>(all.size())}, std::as_bytes(std::span(all))};
  const WeightStatistics statistics = analyze_weights(view);
  const WeightHistogram histogram = weight_histogram(view, statistics);
  Json json = {{"limit", histogram.limit},
               {"counts", histogram.counts},
               {"beyond", histogram.beyond},
               {"excess_kurtosis", statistics.plain.excess_kurtosis},
               {"degrees_of_freedom", statistics.plain.student.degrees_of_freedom},
               {"normal_distance", statistics.plain.normal_distance},
               {"student_distance", statistics.plain.student.distance},
               {"sample", statistics.plain.sample},
               {"block_maximum", expected_block_maximum(kBlock)},
               {"quantiles", Json::array()},
               {"codes", Json::array()}};
  std::sort(all.begin(), all.end());
  // Dense in the tails: even steps of the normal quantile.
  for (int i = -40; i <= 40; ++i) {
    const double z = i / 10.0, p = std::erfc(-z / std::sqrt(2.0)) / 2;
    const auto place = static_cast<size_t>(p * static_cast<double>(all.size() - 1));
    json["quantiles"].push_back(Json::array({z, all[place]}));
  }
  for (const char* name : {"nf4", "fp4", "int4", "sf4", "bof4"})
    json["codes"].push_back({{"name", name}, {"levels", make_codebook(name, kBlock).levels}});
  return json;
}

Json nf4_json() {
  Json json = Json::array();
  const Codebook nf4 = make_codebook("nf4");
  const double largest = normal_quantile(kNormalFloatOffset);
  for (const double level : nf4.exact)
    json.push_back({{"probability", std::erfc(-level * largest / std::sqrt(2.0)) / 2},
                    {"z", level * largest},
                    {"level", level}});
  return json;
}

Json sweep_json() {
  Json json = {{"best", best_offset({}, kBlock).offset}, {"points", Json::array()}};
  for (int i = 0; i <= 60; ++i) {
    const double offset = 0.91 + 0.00125 * i;
    const CodebookErrors errors = codebook_errors(make_normal_float(4, offset), kBlock);
    json["points"].push_back(Json::array({offset, errors.mse, errors.mae}));
  }
  return json;
}

}  // namespace

std::string comparison_report(const Comparison& comparison) {
  Json json = comparison_json(comparison);
  json["weights"] = weights_json(comparison);
  json["nf4"] = nf4_json();
  json["sweep"] = sweep_json();
  return report_page(json.dump());
}

}  // namespace nfloat::cli

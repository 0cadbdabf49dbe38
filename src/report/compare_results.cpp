// SPDX-License-Identifier: Apache-2.0
// Comparisons as documents and pages.
#include <algorithm>
#include <cmath>

#include "base/fail.h"
#include "nfloat/analyze.h"
#include "nfloat/checkpoint.h"
#include "nfloat/codebook_errors.h"
#include "nfloat/comparison.h"
#include "nfloat/report.h"
#include "report/document.h"
#include "report/score_documents.h"
#include "tensor/floats.h"

namespace nfloat {
namespace {

Json comparison_document(const Comparison& c) {
  Json json = {{"model", c.model},
               {"text", c.text_name},
               {"protocol", c.protocol},
               {"context", c.context},
               {"precision", c.precision},
               {"tokens", c.tokens},
               {"plain_bytes", c.plain_bytes},
               {"plain", perplexity_document(c.reference)},
               {"seconds", c.seconds},
               {"adapters", Json::array()},
               {"plain_tasks", Json::array()},
               {"formats", Json::array()}};
  add_device(json, c.device);
  for (const AdapterChoice& adapter : c.adapters)
    json["adapters"].push_back({{"adapter", adapter.folder}, {"weight", adapter.weight}});
  for (const TaskResult& task : c.plain_tasks) json["plain_tasks"].push_back(task_document(task));
  for (size_t i = 0; i < c.measurements.size(); ++i) {
    Json format = measurement_document(c.measurements[i]);
    format["pareto"] = static_cast<bool>(c.front[i]);
    const std::string command = how_to_make(c.model, c.measurements[i].name, c.reader, c.calibration);
    format["command"] = command.empty() ? Json() : Json(command);
    json["formats"].push_back(std::move(format));
  }
  const auto name = [&](int index) { return index < 0 ? Json() : Json(measurement_at(c, index).name); };
  json["recommendation"] = {
      {"format", name(c.choice.best)},
      {"runner_up", name(c.choice.runner_up)},
      {"separable", c.choice.separable},
      {"smaller", name(c.choice.smaller)},
      {"better", name(c.choice.better)},
      {"out_of_reach", name(c.choice.out_of_reach)},
      {"for", reader_name(c.reader)},
      {"command", c.choice.best < 0 ? Json()
                                    : Json(how_to_make(c.model, measurement_at(c, c.choice.best).name,
                                                       c.reader, c.calibration))}};
  json["halves"] = {{"rank_correlation", c.agreement.spearman},
                    {"pairs", c.agreement.pairs},
                    {"pairs_in_another_order", c.agreement.swapped.size()}};
  json["findings"] = comparison_findings(c);
  return json;
}

constexpr int64_t kBlock = 64;
constexpr size_t kMostWeights = 4'000'000;

// Weights of all measured matrices, each tensor in units of its own deviation, evenly thinned.
std::vector<float> normalised_weights(const Checkpoint& checkpoint, const FormatMeasurement& any) {
  std::vector<float> all;
  const uint64_t step = std::max<uint64_t>(1, any.weights / kMostWeights);
  for (const TensorError& tensor : any.tensors) {
    const TensorView view = checkpoint.view(tensor.name);
    std::vector<float> values = floats_of(view);
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

Json weights_json(const Checkpoint& checkpoint, const FormatMeasurement& any) {
  std::vector<float> all = normalised_weights(checkpoint, any);
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

std::string comparison_json(const Comparison& comparison) {
  return to_text(comparison_document(comparison));
}

std::string measurement_json(const FormatMeasurement& measurement) {
  return measurement_document(measurement).dump();
}

FormatMeasurement parse_measurement(std::string_view json) {
  return measurement_of(Json::parse(json));
}

std::string comparison_page(std::string_view document) {
  Json json = parse_json_object(document, "the document of a comparison");
  if (!json.contains("weights")) {
    const Json* measured = nullptr;
    for (const Json& format : json.at("formats"))
      if (!format.contains("refused")) measured = &format;
    if (measured == nullptr)
      fail(ErrorCode::kInvalidArgument, "nothing to report: no format of the comparison was measured");
    const Checkpoint checkpoint(resolve_model_path(json.at("model").text()));
    Json weights = weights_json(checkpoint, measurement_of(*measured));
    json["weights"] = std::move(weights);
  }
  json["nf4"] = nf4_json();
  json["sweep"] = sweep_json();
  return report_page(json.dump());
}

}  // namespace nfloat

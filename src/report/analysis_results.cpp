// SPDX-License-Identifier: Apache-2.0
// Documents of how weights are distributed.
#include <fmt/format.h>

#include <cmath>

#include "nfloat/results.h"
#include "report/document.h"

namespace nfloat {
namespace {

Json distribution_json(const DistributionStatistics& d) {
  return {{"excess_kurtosis", d.excess_kurtosis},
          {"normal_distance", d.normal_distance},
          {"normal_accepted", d.normal_accepted()},
          {"student_degrees_of_freedom", d.student.degrees_of_freedom},
          {"student_scale", d.student.scale},
          {"student_distance", d.student.distance},
          {"student_accepted", d.student_accepted()},
          {"sample", d.sample}};
}

Json row_json(const AnalyzedWeight& row, bool total) {
  const WeightStatistics& s = row.statistics;
  Json json = {{"name", row.name},   {"elements", s.elements},
               {"mean", s.mean},     {"deviation", s.deviation},
               {"skew", s.skew},     {"excess_kurtosis", s.plain.excess_kurtosis},
               {"absmax", s.absmax}, {"outlier_share", s.outlier_share},
               {"zeros", s.zeros}};
  if (!total) {
    json["shape"] = row.shape.dims();
    json["has_outliers"] = s.has_outliers();
    json["weights"] = distribution_json(s.plain);
    json["within_blocks"] = distribution_json(s.normalised);
    json["fit"] = {{"distribution", source_distribution_name(row.codes.fit.source)},
                   {"within_blocks", row.codes.fit.within_blocks},
                   {"peak_ratio", row.codes.fit.peak_ratio},
                   {"accepted", row.codes.fit.accepted}};
  }
  json["codes"] = Json::array();
  for (const CodeError& code : row.codes.codes)
    json["codes"].push_back(
        {{"name", code.code}, {"predicted", code.predicted}, {"measured", code.measured}});
  json["nf4_signed"] = row.codes.signed_nf4;
  json["best_code"] = row.codes.best().code;
  json["best_offset"] = row.codes.best_offset.offset;
  json["error_sample"] = row.codes.sample;
  return json;
}

}  // namespace

double AnalyzedWeight::power() const noexcept {
  return static_cast<double>(statistics.elements) *
         (statistics.deviation * statistics.deviation + statistics.mean * statistics.mean);
}

std::vector<std::string> analyzed_codes() {
  return {"nf4", "fp4", "int4", "af4", "sf4", "bof4-s"};
}

AnalyzedWeight analysis_total(const std::vector<AnalyzedWeight>& rows) {
  AnalyzedWeight total;
  total.name = rows.size() == 1 ? std::string("the tensor") : fmt::format("all {} tensors", rows.size());
  WeightStatistics& all = total.statistics;
  double m1 = 0, m2 = 0, m3 = 0, m4 = 0, outliers = 0, best = 0, power = 0;
  total.codes = rows[0].codes;
  for (CodeError& code : total.codes.codes) code = {code.code, 0, 0};
  total.codes.signed_nf4 = 0;
  total.codes.sample = 0;
  for (const AnalyzedWeight& row : rows) {
    const WeightStatistics& s = row.statistics;
    const auto n = static_cast<double>(s.elements);
    const double v = s.deviation * s.deviation, m = s.mean;
    const double third = s.skew * v * s.deviation, fourth = (s.plain.excess_kurtosis + 3) * v * v;
    m1 += n * m;
    m2 += n * (v + m * m);
    m3 += n * (third + 3 * m * v + m * m * m);
    m4 += n * (fourth + 4 * m * third + 6 * m * m * v + m * m * m * m);
    outliers += n * s.outlier_share;
    all.elements += s.elements;
    all.zeros += s.zeros;
    all.absmax = std::max(all.absmax, s.absmax);
    power += row.power();
    for (size_t i = 0; i < row.codes.codes.size(); ++i) {
      total.codes.codes[i].predicted += row.power() * row.codes.codes[i].predicted;
      total.codes.codes[i].measured += row.power() * row.codes.codes[i].measured;
    }
    total.codes.signed_nf4 += row.power() * row.codes.signed_nf4;
    total.codes.sample += row.codes.sample;
    best += n * row.codes.best_offset.offset;
  }
  const auto n = static_cast<double>(all.elements);
  m1 /= n, m2 /= n, m3 /= n, m4 /= n;
  const double v = std::max(0.0, m2 - m1 * m1);
  all.mean = m1;
  all.deviation = std::sqrt(v);
  all.outlier_share = outliers / n;
  if (v > 0) {
    all.skew = (m3 - 3 * m1 * m2 + 2 * m1 * m1 * m1) / (v * all.deviation);
    all.plain.excess_kurtosis = (m4 - 4 * m1 * m3 + 6 * m1 * m1 * m2 - 3 * m1 * m1 * m1 * m1) / (v * v) - 3;
  }
  total.codes.best_offset.offset = best / n;
  if (power > 0) {
    for (CodeError& code : total.codes.codes) {
      code.predicted /= power;
      code.measured /= power;
    }
    total.codes.signed_nf4 /= power;
  }
  return total;
}

std::string weight_analysis_json(const AnalyzedWeight& weight) {
  return to_text(row_json(weight, false));
}

std::string analysis_json(const std::string& model, const std::vector<AnalyzedWeight>& weights,
                          int64_t block_size, uint64_t bytes, double seconds) {
  Json json = {{"model", model},
               {"block_size", block_size},
               {"seconds", seconds},
               {"bytes", bytes},
               {"tensors", Json::array()}};
  for (const AnalyzedWeight& weight : weights) json["tensors"].push_back(row_json(weight, false));
  json["total"] = row_json(analysis_total(weights), true);
  return to_text(json);
}

}  // namespace nfloat

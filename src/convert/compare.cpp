// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "architecture/tensor_roles.h"
#include "base/fail.h"
#include "base/json.h"
#include "convert/compare.h"
#include "convert/output.h"
#include "convert/weights.h"
#include "nfloat/convert.h"

namespace nfloat {
namespace {

class CompareJob : public StreamJob {
 public:
  CompareJob(const Checkpoint& checkpoint, const Checkpoint& original, const std::string& name,
             bool transpose, const LoraDelta* delta, TensorError* result)
      : approximate_(checkpoint, name), exact_(original, name, transpose, delta), result_(result) {
    if (delta != nullptr) before_.emplace(original, name, transpose);
    if (approximate_.shape() != exact_.shape()) {
      fail(ErrorCode::kMalformedFile, "tensor '{}' is {} in {} and {} in {}", name,
           approximate_.shape().to_string(), checkpoint.path(), exact_.shape().to_string(), original.path());
    }
    exact_.align_chunks(approximate_.chunk_elements());
    if (before_) before_->align_chunks(approximate_.chunk_elements());
    parts_.resize(static_cast<size_t>(exact_.chunks()));
    result_->name = name;
    result_->elements = exact_.elements();
  }

  int64_t next_stage() override {
    if (started_++ == 0) return exact_.chunks();
    for (const TensorError& part : parts_) {  // in order: the same sums for any number of threads
      result_->squared_error += part.squared_error;
      result_->squared_original += part.squared_original;
      result_->max_error = std::max(result_->max_error, part.max_error);
      result_->zeros += part.zeros;
      result_->zeros_kept += part.zeros_kept;
      result_->squared_change += part.squared_change;
      result_->change_product += part.change_product;
    }
    return 0;
  }

  uint64_t run(int64_t chunk, Scratch& scratch) override {
    const auto count = static_cast<size_t>(exact_.count(chunk));
    const auto read_floats = [&](const WeightReader& reader, std::span<float> values) {
      const auto bytes = reader.read_as(chunk, DType::kF32, scratch);
      std::memcpy(values.data(), bytes.data(), bytes.size());
    };
    const std::span<float> x = scratch.get<float>(2, count), y = scratch.get<float>(3, count);
    read_floats(exact_, x);
    read_floats(approximate_, y);
    TensorError& part = parts_[static_cast<size_t>(chunk)];
    for (size_t i = 0; i < count; ++i) {
      const double error = static_cast<double>(y[i]) - static_cast<double>(x[i]);
      part.squared_error += error * error;
      part.squared_original += static_cast<double>(x[i]) * static_cast<double>(x[i]);
      part.max_error = std::max(part.max_error, std::fabs(error));
      part.zeros += x[i] == 0 ? 1 : 0;
      part.zeros_kept += x[i] == 0 && y[i] == 0 ? 1 : 0;
    }
    if (before_) {
      const std::span<float> z = scratch.get<float>(4, count);
      read_floats(*before_, z);
      for (size_t i = 0; i < count; ++i) {
        const double wanted = double{x[i]} - double{z[i]};
        part.squared_change += wanted * wanted;
        part.change_product += wanted * (double{y[i]} - double{z[i]});
      }
    }
    return approximate_.input_bytes(chunk);
  }

 private:
  const WeightReader approximate_;
  WeightReader exact_;
  std::optional<WeightReader> before_;  // the original without the adapter
  TensorError* const result_;
  std::vector<TensorError> parts_;
  int started_ = 0;
};

bool is_floating(const Checkpoint& checkpoint, const std::string& name) {
  return checkpoint.is_quantized(name) || is_quantizable(checkpoint.find(name)->dtype) ||
         checkpoint.find(name)->dtype == DType::kF64;
}

}  // namespace

TensorError total_error(const std::vector<TensorError>& errors, bool inexact_only) {
  TensorError total;
  total.name = inexact_only ? "all that differ" : "all";
  for (const TensorError& error : errors) {
    if (inexact_only && error.squared_error == 0) continue;
    total.elements += error.elements;
    total.squared_error += error.squared_error;
    total.squared_original += error.squared_original;
    total.max_error = std::max(total.max_error, error.max_error);
    total.zeros += error.zeros;
    total.zeros_kept += error.zeros_kept;
  }
  return total;
}

bool TensorError::measurable() const noexcept {
  return std::isfinite(squared_error) && std::isfinite(squared_original);
}

double TensorError::sqnr_db() const noexcept {
  if (!measurable()) return -std::numeric_limits<double>::infinity();
  if (squared_error == 0) return std::numeric_limits<double>::infinity();
  return 10 * std::log10(squared_original / squared_error);
}

std::vector<TensorError> compare_checkpoints(const Checkpoint& checkpoint, const Checkpoint& original,
                                             const ConvertControl& control) {
  std::vector<std::string> names;
  for (const std::string& name : checkpoint.weight_names()) {
    if (original.find(name) == nullptr) {
      fail(ErrorCode::kMalformedFile, "tensor '{}' of {} is not in {}", name, checkpoint.path(),
           original.path());
    }
    if (!is_floating(checkpoint, name) || !is_floating(original, name)) continue;
    names.push_back(name);
  }
  for (const std::string& name : original.weight_names()) {
    if (checkpoint.find(name) == nullptr) {
      fail(ErrorCode::kMalformedFile, "tensor '{}' of {} is not in {}", name, original.path(),
           checkpoint.path());
    }
  }
  std::vector<TensorError> errors = compare_weights(checkpoint, original, names, nullptr, control);
  std::stable_sort(errors.begin(), errors.end(),
                   [](const TensorError& a, const TensorError& b) { return a.sqnr_db() < b.sqnr_db(); });
  return errors;
}

std::vector<TensorError> compare_weights(const Checkpoint& checkpoint, const Checkpoint& original,
                                         const std::vector<std::string>& names, const LoraAdapter* lora,
                                         const ConvertControl& control) {
  ConvertProgress progress;
  progress.tensors_total = names.size();
  for (const std::string& name : names) progress.input_bytes_total += checkpoint.find(name)->bytes;
  const TensorRoles roles(parse_config(original));
  std::vector<TensorError> errors(names.size());
  run_stream(
      names.size(),
      [&](size_t i) -> std::unique_ptr<StreamJob> {
        const bool transpose = checkpoint.is_quantized(names[i]) && !original.is_quantized(names[i]) &&
                               roles.is_conv1d(names[i]);
        return std::make_unique<CompareJob>(checkpoint, original, names[i], transpose,
                                            lora != nullptr ? lora->find(names[i]) : nullptr, &errors[i]);
      },
      progress, control);
  return errors;
}

}  // namespace nfloat

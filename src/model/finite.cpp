// SPDX-License-Identifier: Apache-2.0
#include "model/finite.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <functional>
#include <initializer_list>
#include <optional>
#include <string>

#include "base/fail.h"

namespace nfloat {
namespace {

// The layer that a tensor's name counts first ("model.layers.3.mlp.up_proj.weight": 3), -1 without one.
int64_t layer_in(std::string_view name) noexcept {
  while (!name.empty()) {
    const std::string_view part = name.substr(0, name.find('.'));
    int64_t number = 0;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), number);
    if (error == std::errc() && end == part.data() + part.size()) return number;
    name.remove_prefix(std::min(name.size(), part.size() + 1));
  }
  return -1;
}

// What is wrong with a tensor, if anything: read in pieces as float32. Types that are no numbers of their own
// (codes of other formats) have nothing wrong.
std::optional<std::string> fault_of(const Checkpoint& checkpoint, const TensorInfo& info) {
  if (info.dtype != DType::kF32 && info.dtype != DType::kF16 && info.dtype != DType::kBF16 &&
      info.dtype != DType::kF64)
    return std::nullopt;
  constexpr int64_t kPiece = 1 << 16;
  std::vector<float> values;
  const TensorView view = checkpoint.view(info.name);
  const size_t element = dtype_bytes(view.dtype);
  for (int64_t at = 0; at < view.elements(); at += kPiece) {
    const int64_t count = std::min(kPiece, view.elements() - at);
    values.resize(static_cast<size_t>(count));
    const TensorView piece{
        view.dtype, Shape({count}),
        view.bytes.subspan(static_cast<size_t>(at) * element, static_cast<size_t>(count) * element)};
    convert_elements(piece, DType::kF32, std::as_writable_bytes(std::span(values)));
    const int64_t bad = first_not_finite(values);
    if (bad >= 0)
      return fmt::format(
          "tensor '{}' holds {} at index {}{}", info.name,
          std::isnan(values[static_cast<size_t>(bad)]) ? "NaN" : "an infinity", at + bad,
          view.shape.rank() == 2 ? fmt::format(", in row {}", (at + bad) / view.shape[1]) : "");
  }
  return std::nullopt;
}

// In the tensors of the layers that `looked_at` takes, one choice after the other.
std::string cause_in(const Checkpoint& checkpoint,
                     std::initializer_list<std::function<bool(int64_t layer)>> looked_at) {
  if (checkpoint.is_gguf()) return "";
  for (const auto& is_looked_at : looked_at)
    for (const TensorInfo& info : checkpoint.tensors()) {
      if (!is_looked_at(layer_in(info.name))) continue;
      try {
        if (const auto fault = fault_of(checkpoint, info)) return ": " + *fault;
      } catch (const Error&) {
        continue;
      }
    }
  return ": the tensors it is computed from are finite, the numbers got too large for float32";
}

}  // namespace

int64_t first_not_finite(std::span<const float> values) noexcept {
  // The exponent of all ones, gathered without a branch first: almost always there is none.
  constexpr uint32_t kExponent = 0x7f800000;
  uint32_t any = 0;
  for (const float value : values) any |= (std::bit_cast<uint32_t>(value) & kExponent) == kExponent;
  if (any == 0) return -1;
  return std::find_if(values.begin(), values.end(), [](float value) { return !std::isfinite(value); }) -
         values.begin();
}

std::string not_finite_cause(const Checkpoint& checkpoint, int64_t layer) {
  // The layer's own, then those outside of all layers: embeddings, final norm, head.
  return cause_in(checkpoint,
                  {[=](int64_t at) { return at >= 0 && at == layer; }, [](int64_t at) { return at < 0; }});
}

std::string not_finite_cause(const Checkpoint& checkpoint) {
  return cause_in(checkpoint, {[](int64_t) { return true; }});
}

void expect_finite_embeddings(const Model::State& model, std::span<const int32_t> tokens,
                              std::string_view where) {
  const auto width = static_cast<size_t>(model.config.embedding_size > 0 ? model.config.embedding_size
                                                                         : model.config.hidden);
  std::vector<float> row(width);
  for (size_t i = 0; i < tokens.size(); ++i) {
    model.embedding.row(tokens[i], row.data());
    if (first_not_finite(row) >= 0)
      fail(ErrorCode::kNotFinite, "{}: the embedding of its token {}, which is {}, is not finite{}", where,
           i + 1, tokens[i], model.checkpoint == nullptr ? "" : not_finite_cause(*model.checkpoint, -1));
  }
  model.embedding.release();
}

void fail_not_finite(const Model::State& model, int64_t layer, std::string_view what) {
  const std::string place = layer < 0                     ? "before the first layer"
                            : layer < model.config.layers ? fmt::format("in layer {}", layer)
                                                          : "after the last layer";
  const std::string file = model.checkpoint == nullptr ? "the model" : model.checkpoint->path();
  fail(ErrorCode::kNotFinite, "{}: {} is not finite {}{}", file, what, place,
       model.checkpoint == nullptr ? "" : not_finite_cause(*model.checkpoint, layer));
}

}  // namespace nfloat

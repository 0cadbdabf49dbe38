// SPDX-License-Identifier: Apache-2.0
#include "llama_cpp/keys.h"

#include <charconv>
#include <cmath>

#include "base/fail.h"

namespace nfloat {

double shortest(double value) {
  const std::string text = fmt::format("{}", static_cast<float>(value));
  double result = value;
  std::from_chars(text.data(), text.data() + text.size(), result);
  return result;
}

double ModelKeys::number(std::string_view name, double otherwise) const {
  if (!has(name)) return otherwise;
  const double value = shortest(file_.number_or(key(name), otherwise));
  if (!std::isfinite(value))
    fail(ErrorCode::kMalformedFile, "{}: metadata \"{}\" is {}, expected a finite number", source(),
         key(name), find(name)->to_string());
  return value;
}

int64_t ModelKeys::required(std::string_view name) const {
  if (!has(name)) fail(ErrorCode::kMalformedFile, "{}: metadata \"{}\" is missing", source(), key(name));
  const int64_t value = integer(name, 0);
  if (value < 1) fail(ErrorCode::kMalformedFile, "{}: metadata \"{}\" is {}", source(), key(name), value);
  return value;
}

void ModelKeyWriter::refuse(const std::string& what) const {
  fail(ErrorCode::kUnsupported, "llama.cpp's {} models have no {}", architecture_, what);
}

}  // namespace nfloat

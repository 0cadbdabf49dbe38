// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/quant_state.h"

#include <cmath>
#include <limits>

#include "base/fail.h"
#include "base/json.h"

namespace nfloat {
namespace {

constexpr size_t kMaxStateBytes = 1 << 16;
constexpr int kMaxDepth = 8;
constexpr int64_t kMaxBlockSize = int64_t{1} << 40;

std::string python_float(double value) {
  std::string text = fmt::format("{}", value);
  if (text.find_first_of(".en") == std::string::npos) text += ".0";
  return text;
}

const Json& member(const Json& object, const char* key, const std::string& where) {
  const auto found = object.find(key);
  if (found == nullptr) fail(ErrorCode::kMalformedFile, "{}: no '{}'", where, key);
  return *found;
}

int64_t positive_integer(const Json& object, const char* key, const std::string& where) {
  const Json& value = member(object, key, where);
  if (!value.is_number_unsigned() || value.get<uint64_t>() < 1 || value.get<uint64_t>() > kMaxBlockSize) {
    fail(ErrorCode::kMalformedFile, "{}: '{}' is {}, expected a positive integer", where, key, value.dump());
  }
  return value.get<int64_t>();
}

}  // namespace

std::string format_quant_state(const QuantState& state) {
  std::string text =
      fmt::format(R"({{"quant_type": "{}", "blocksize": {}, "dtype": "{}", "shape": {})", state.quant_type,
                  state.block_size, dtype_torch_name(state.dtype), state.shape.to_string());
  if (state.nested) {
    text += fmt::format(R"(, "nested_blocksize": {}, "nested_dtype": "float32", "nested_offset": {})",
                        state.nested_block_size, python_float(state.nested_offset));
  }
  return text + "}";
}

QuantState parse_quant_state(std::string_view json, const std::string& where) {
  const Json state = parse_json_object(json, where, {.depth = kMaxDepth, .bytes = kMaxStateBytes});
  QuantState result;
  const Json& type = member(state, "quant_type", where);
  if (!type.is_string() || (type != "nf4" && type != "fp4")) {
    fail(ErrorCode::kMalformedFile, "{}: quant_type is {}, expected \"nf4\" or \"fp4\"", where,
         type.dump(-1, Json::Invalid::kReplace));
  }
  result.quant_type = type.get<std::string>();
  result.block_size = positive_integer(state, "blocksize", where);
  const Json& dtype = member(state, "dtype", where);
  if (!dtype.is_string() || !parse_dtype(dtype.text(), &result.dtype) || !is_quantizable(result.dtype)) {
    fail(ErrorCode::kMalformedFile, "{}: dtype is {}, expected float32, float16 or bfloat16", where,
         dtype.dump(-1, Json::Invalid::kReplace));
  }
  const Json& shape = member(state, "shape", where);
  std::vector<int64_t> dims;
  int64_t elements = 1;
  for (const Json& dim : shape.is_array() ? shape : Json::array()) {
    if (!dim.is_number_unsigned() || dim.get<uint64_t>() > uint64_t{std::numeric_limits<int64_t>::max()} ||
        __builtin_mul_overflow(elements, dim.get<int64_t>(), &elements) || elements > (int64_t{1} << 60)) {
      fail(ErrorCode::kMalformedFile, "{}: a dimension of the shape is not a size or the shape overflows",
           where);
    }
    dims.push_back(dim.get<int64_t>());
  }
  if (dims.empty() || dims.size() > 8) {
    fail(ErrorCode::kMalformedFile, "{}: shape is not a list of 1 to 8 sizes", where);
  }
  result.shape = Shape(std::move(dims));
  result.nested = state.contains("nested_blocksize") || state.contains("nested_offset");
  if (result.nested) {
    result.nested_block_size = positive_integer(state, "nested_blocksize", where);
    const Json& offset = member(state, "nested_offset", where);
    if (!offset.is_number() || !std::isfinite(static_cast<float>(offset.get<double>()))) {
      fail(ErrorCode::kMalformedFile, "{}: nested_offset is not a finite number", where);
    }
    result.nested_offset = static_cast<float>(offset.get<double>());
    if (const auto found = state.find("nested_dtype"); found != nullptr && *found != "float32") {
      fail(ErrorCode::kUnsupported, "{}: nested_dtype is {}, only \"float32\" is known", where,
           found->dump(-1, Json::Invalid::kReplace));
    }
  }
  return result;
}

}  // namespace nfloat

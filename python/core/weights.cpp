// SPDX-License-Identifier: Apache-2.0
// Codebooks, quantize, dequantize.
#include <algorithm>
#include <cstring>

#include "base/fail.h"
#include "core.h"
#include "nfloat/codebook_errors.h"
#include "nfloat/quantize.h"
#include "options.h"
#include "quantize/blocks.h"

namespace nfloat::python {

ScaleMethod scale_argument(const std::string& name) {
  if (name == "absmax") return ScaleMethod::kAbsmax;
  if (name == "search") return ScaleMethod::kSearch;
  if (name == "signed") return ScaleMethod::kSigned;
  fail(ErrorCode::kInvalidArgument, "scale '{}': absmax, search or signed", name);
}

namespace {

Ref codebook_handle(Codebook codebook) {
  return make_handle<const Codebook>(std::make_shared<const Codebook>(std::move(codebook)));
}

Ref make_codebook(Args& args) {
  const std::string name = args.text();
  const int64_t block_size = args.integer();
  return codebook_handle(unlocked([&] { return nfloat::make_codebook(name, block_size); }));
}
Ref make_normal_float(Args& args) {
  const int64_t bits = args.integer();
  const double offset = args.real();
  if (bits < 2 || bits > 8) fail(ErrorCode::kInvalidArgument, "{} bits: 2 to 8", bits);
  return codebook_handle(nfloat::make_normal_float(static_cast<int>(bits), offset));
}
Ref codebook_from_levels(Args& args) {
  const std::string name = args.text();
  const Array levels = args.array();
  const auto items = levels.items<double>("levels");
  return codebook_handle(nfloat::codebook_from_levels(name, {items.begin(), items.end()}));
}
Ref load_codebook(Args& args) {
  const std::string path = args.text();
  return codebook_handle(unlocked([&] { return nfloat::load_codebook(path); }));
}
Ref dynamic_codebook(Args&) {
  return codebook_handle(nfloat::dynamic_codebook());
}
// name, bits, levels, exact, thresholds, code_of_rank, signed_scale, zero_code
Ref codebook_parts(Args& args) {
  const std::shared_ptr<const Codebook> book = args.handle<const Codebook>();
  const auto part = [&](const auto& values) {
    return make_memory(book, values.data(), values.size() * sizeof values[0], false);
  };
  return tuple(text(book->name), integer(book->bits), part(book->levels), part(book->exact),
               part(book->thresholds), part(book->code_of_rank), boolean(book->signed_scale),
               integer(book->zero_code()));
}
Ref codebook_names(Args&) {
  return list(nfloat::codebook_names(), [](const std::string& name) { return text(name); });
}
Ref codebook_summary(Args& args) {
  return text(nfloat::codebook_summary(args.text()));
}
Ref codebook_is_fitted(Args& args) {
  return boolean(nfloat::codebook_is_fitted(args.text()));
}
Ref generalised_offset(Args& args) {
  const int64_t bits = args.integer();
  if (bits < 2 || bits > 8) fail(ErrorCode::kInvalidArgument, "{} bits: 2 to 8", bits);
  return real(nfloat::generalised_offset(static_cast<int>(bits)));
}
Ref normal_quantile(Args& args) {
  const double probability = args.real();
  if (!(probability > 0 && probability < 1))
    fail(ErrorCode::kInvalidArgument, "the probability is {}: between 0 and 1", probability);
  return real(nfloat::normal_quantile(probability));
}
Ref codebook_errors(Args& args) {
  const std::shared_ptr<const Codebook> book = args.handle<const Codebook>();
  const int64_t block_size = args.integer();
  const SourceDistribution source = parse_source_distribution(args.text());
  const CodebookErrors errors = unlocked([&] { return nfloat::codebook_errors(*book, block_size, source); });
  return tuple(real(errors.mse), real(errors.mae), real(errors.entropy));
}
Ref code_frequencies(Args& args) {
  const std::shared_ptr<const Codebook> book = args.handle<const Codebook>();
  const int64_t block_size = args.integer();
  const SourceDistribution source = parse_source_distribution(args.text());
  return copied_memory<double>(unlocked([&] { return nfloat::code_frequencies(*book, block_size, source); }));
}
Ref expected_block_maximum(Args& args) {
  const int64_t block_size = args.integer();
  const SourceDistribution source = parse_source_distribution(args.text());
  return real(unlocked([&] { return nfloat::expected_block_maximum(block_size, source); }));
}

void check_count(size_t given, size_t wanted, const char* name) {
  if (given != wanted)
    fail(ErrorCode::kInvalidArgument, "{} has {} elements, {} are needed", name, given, wanted);
}

// weights, dtype said, codebook, block_size, scale, double_quantization, allow_nonfinite, threads; outputs:
// codes, scales or None, nested codes or None, nested absmax or None. Gives the offset of the scales.
Ref quantize(Args& args) {
  PyObject* given = args.object();
  const Array weights = Array::of(given, args.maybe_text().value_or(""));
  const std::shared_ptr<const Codebook> book = args.handle<const Codebook>();
  QuantizeOptions options;
  options.block_size = args.integer();
  options.scale = scale_argument(args.text());
  options.double_quantization = args.flag();
  options.allow_nonfinite = args.flag();
  options.threads = thread_argument(args.integer());
  const Array codes = args.array("", true), scales = args.maybe_array(true),
              nested_codes = args.maybe_array(true), nested_absmax = args.maybe_array(true);
  const auto code_bytes = codes.items<uint8_t>("codes");
  const auto scale_floats = scales.items<float>("scales"),
             absmax = nested_absmax.items<float>("nested.absmax");
  const auto scale_codes = nested_codes.items<uint8_t>("nested.codes");
  const TensorView& view = weights.view();
  if (view.dtype == DType::kU16)
    raise(PyExc_TypeError, "weights are uint16: say dtype=\"bfloat16\" where these are the bits of bfloat16");
  if (reinterpret_cast<uintptr_t>(view.data()) % dtype_bytes(view.dtype) != 0)
    fail(ErrorCode::kInvalidArgument, "weights are not aligned to their elements");
  float offset = 0;
  const auto work = [&] {
    if (!options.double_quantization)
      return quantize_blockwise(view, *book, options, code_bytes, scale_floats);
    if (options.block_size < kMinBlockSize)
      fail(ErrorCode::kInvalidArgument, "block_size is {}: at least {}", options.block_size, kMinBlockSize);
    const auto elements = static_cast<size_t>(view.elements()),
               block = static_cast<size_t>(options.block_size);
    const size_t blocks = elements / block + (elements % block != 0 ? 1 : 0);
    check_count(scale_codes.size(), blocks, "nested.codes");
    check_count(absmax.size(), (blocks + 255) / 256, "nested.absmax");
    const NestedScales nested = quantize_blockwise(view, *book, options, code_bytes);
    std::copy(nested.codes.begin(), nested.codes.end(), scale_codes.begin());
    std::copy(nested.absmax.begin(), nested.absmax.end(), absmax.begin());
    offset = nested.offset;
  };
  over_memory(weights.bytes(), work, options.scale == ScaleMethod::kAbsmax ? kLongBytes : kLongSlowBytes);
  return real(static_cast<double>(offset));
}

// codes, levels, block_size, elements, scales, dtype, output, threads.
Ref dequantize(Args& args) {
  const Array codes = args.array(), levels = args.array();
  const int64_t block_size = args.integer(), elements = args.integer();
  const Array scales = args.array();
  const DType dtype = dtype_argument(args.text());
  const Array output = args.array("", true);
  const int threads = thread_argument(args.integer());
  const auto code_bytes = codes.items<uint8_t>("codes");
  const auto table_levels = levels.items<float>("levels"), floats = scales.items<float>("scales");
  if (!is_quantizable(dtype))
    fail(ErrorCode::kInvalidArgument, "dtype {}: float32, float16 or bfloat16", dtype_torch_name(dtype));
  if (block_size < 1 || elements < 0)
    fail(ErrorCode::kInvalidArgument, "{} elements in blocks of {}", elements, block_size);
  if (table_levels.empty() || table_levels.size() > 16)
    fail(ErrorCode::kInvalidArgument, "{} levels, 1 to 16 are needed", table_levels.size());
  check_count(code_bytes.size(), static_cast<size_t>(elements / 2 + elements % 2), "codes");
  check_count(floats.size(),
              static_cast<size_t>(elements / block_size + (elements % block_size != 0 ? 1 : 0)), "scales");
  check_count(output.bytes(), static_cast<size_t>(elements) * dtype_bytes(dtype), "bytes of the output");
  // Decoding looks at the levels alone.
  kernels::CodeTable table{};
  std::copy(table_levels.begin(), table_levels.end(), table.levels);
  over_memory(output.bytes(), [&] {
    decode_tensor(code_bytes.data(), floats.data(), table, elements, block_size, dtype, output.data(),
                  threads);
  });
  return none();
}

// scales, codes, absmax, threads: the offset.
Ref quantize_scales(Args& args) {
  const Array scales = args.array(), codes = args.array("", true), absmax = args.array("", true);
  const int threads = thread_argument(args.integer());
  const auto floats = scales.items<float>("scales"), to_absmax = absmax.items<float>("absmax");
  const auto to_codes = codes.items<uint8_t>("codes");
  check_count(to_codes.size(), floats.size(), "codes");
  check_count(to_absmax.size(), (floats.size() + 255) / 256, "absmax");
  NestedScales nested;
  over_memory(scales.bytes(), [&] { nested = nfloat::quantize_scales(floats, threads); });
  std::copy(nested.codes.begin(), nested.codes.end(), to_codes.begin());
  std::copy(nested.absmax.begin(), nested.absmax.end(), to_absmax.begin());
  return real(static_cast<double>(nested.offset));
}

// codes, map, absmax, offset, block, output: map[code] * absmax + offset, each step rounded to float32.
Ref dequantize_scales(Args& args) {
  const Array codes = args.array(), map = args.array(), absmax = args.array();
  const auto offset = static_cast<float>(args.real());
  const int64_t block = args.integer();
  const Array output = args.array("", true);
  const auto from = codes.items<uint8_t>("nested.codes");
  const auto values = map.items<float>("the map of the scales"),
             seconds = absmax.items<float>("nested.absmax"), to = output.items<float>("output");
  if (block < 1) fail(ErrorCode::kInvalidArgument, "scales in blocks of {}", block);
  const auto size = static_cast<size_t>(block);
  check_count(values.size(), 256, "the map of the scales");
  check_count(seconds.size(), from.size() / size + (from.size() % size != 0 ? 1 : 0), "nested.absmax");
  check_count(to.size(), from.size(), "output");
  unlocked(output.bytes() >= kGilBytes, [&] {
    for (size_t i = 0; i < from.size(); ++i) {
      const float product = values[from[i]] * seconds[i / size];
      to[i] = product + offset;
    }
  });
  return none();
}

// values, dtype said, dtype, output.
Ref convert_elements(Args& args) {
  PyObject* given = args.object();
  const Array values = Array::of(given, args.maybe_text().value_or(""));
  const DType dtype = dtype_argument(args.text());
  const Array output = args.array("", true);
  if (values.view().dtype == DType::kU16)
    raise(PyExc_TypeError,
          "values are uint16: say source_dtype=\"bfloat16\" where these are the bits of bfloat16");
  over_memory(values.bytes(), [&] {
    nfloat::convert_elements(values.view(), dtype, {output.data(), output.bytes()});
  });
  return none();
}

// Of an array: dtype and shape, as the library sees them.
Ref describe_array(Args& args) {
  PyObject* given = args.object();
  const Array values = Array::of(given, args.maybe_text().value_or(""));
  return tuple(text(dtype_torch_name(values.view().dtype)), shape_tuple(values.view().shape));
}

}  // namespace

std::vector<PyMethodDef> weight_methods() {
  return {method<make_codebook>("make_codebook"),
          method<make_normal_float>("make_normal_float"),
          method<codebook_from_levels>("codebook_from_levels"),
          method<load_codebook>("load_codebook"),
          method<dynamic_codebook>("dynamic_codebook"),
          method<codebook_parts>("codebook_parts"),
          method<codebook_names>("codebook_names"),
          method<codebook_summary>("codebook_summary"),
          method<codebook_is_fitted>("codebook_is_fitted"),
          method<generalised_offset>("generalised_offset"),
          method<normal_quantile>("normal_quantile"),
          method<codebook_errors>("codebook_errors"),
          method<code_frequencies>("code_frequencies"),
          method<expected_block_maximum>("expected_block_maximum"),
          method<quantize>("quantize"),
          method<dequantize>("dequantize"),
          method<python::quantize_scales>("quantize_scales"),
          method<python::dequantize_scales>("dequantize_scales"),
          method<python::convert_elements>("convert_elements"),
          method<describe_array>("describe_array")};
}

}  // namespace nfloat::python

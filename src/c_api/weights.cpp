// SPDX-License-Identifier: Apache-2.0
// Codebooks, 4-bit tensors and products.
#include <new>
#include <span>
#include <vector>

#include "base/json.h"
#include "c_api/c_api.h"
#include "nfloat/codebook_errors.h"
#include "nfloat/linear.h"

using nfloat::Codebook;
using nfloat::DType;
using nfloat::ErrorCode;
using nfloat::fail;
using namespace nfloat::c_api;

struct nfloat_quantized_tensor {
  nfloat::QuantizedTensor value;
};
struct nfloat_packed_matrix {
  nfloat::PackedMatrix value;
};
struct nfloat_activations {
  nfloat::Activations value;
  std::vector<float> converted;  // of 16-bit activations
  int64_t rows = 0;
};

namespace {

template <typename T>
std::vector<T> copied(const T* from, size_t count, const char* name) {
  std::vector<T> values(count);
  if (count != 0) std::memcpy(values.data(), needed(from, name), count * sizeof(T));
  return values;
}

// What a view borrows, aligned, its scales in float32.
struct Parts {
  nfloat::Shape shape;
  int64_t block_size = 0, blocks = 0, elements = 0;
  std::vector<float> levels, scales;
};

Parts parts_of(const nfloat_quantized_view* given) {
  needed(given, "view");
  const auto view = read_options(given, "nfloat_quantized_view");
  Parts parts;
  parts.shape = shape_of(view.rank, view.shape, "view");
  parts.elements = parts.shape.elements();
  parts.block_size = view.block_size;
  if (view.block_size < nfloat::kMinBlockSize)
    fail(ErrorCode::kInvalidArgument, "block_size of the view is {}: at least {}", view.block_size,
         nfloat::kMinBlockSize);
  if (view.level_count < 1 || view.level_count > 16)
    fail(ErrorCode::kInvalidArgument, "level_count of the view is {}, not 1 to 16", view.level_count);
  if (parts.elements != 0) needed(view.codes, "view->codes");
  parts.blocks = parts.elements / view.block_size + (parts.elements % view.block_size != 0 ? 1 : 0);
  const auto blocks = static_cast<size_t>(parts.blocks);
  parts.levels = copied(view.levels, static_cast<size_t>(view.level_count), "view->levels");
  if (!flag(view.nested, "nested")) {
    parts.scales = copied(view.scales, blocks, "view->scales");
    return parts;
  }
  if (view.nested_block_size < 1)
    fail(ErrorCode::kInvalidArgument, "nested_block_size of the view is {}", view.nested_block_size);
  const auto nested = static_cast<size_t>(view.nested_block_size);
  const auto absmax =
      copied(view.nested_absmax, blocks / nested + (blocks % nested != 0 ? 1 : 0), "view->nested_absmax");
  const auto map = copied(view.nested_map, 256, "view->nested_map");
  if (blocks != 0) needed(view.nested_codes, "view->nested_codes");
  parts.scales.resize(blocks);
  for (size_t i = 0; i < blocks; ++i) {
    const float product = map[view.nested_codes[i]] * absmax[i / nested];
    parts.scales[i] = product + view.nested_offset;
  }
  return parts;
}

void check_count(size_t given, size_t wanted, const char* name) {
  if (given != wanted) fail(ErrorCode::kInvalidArgument, "{} has {}, expected {}", name, given, wanted);
}

nfloat_status make(nfloat_codebook** place, nfloat_error** error, const auto& maker) {
  return guard(error, [&] {
    needed_result(place, "codebook");
    *place = new nfloat_codebook{maker()};
  });
}

}  // namespace

nfloat_status nfloat_make_codebook(const char* name, int64_t block_size, nfloat_codebook** codebook,
                                   nfloat_error** error) {
  return make(codebook, error,
              [&] { return nfloat::make_codebook(needed(name, "name"), block_size == 0 ? 64 : block_size); });
}
nfloat_status nfloat_make_normal_float(int32_t bits, double offset, nfloat_codebook** codebook,
                                       nfloat_error** error) {
  return make(codebook, error, [&] {
    return nfloat::make_normal_float(bits, offset == 0 ? nfloat::kNormalFloatOffset : offset);
  });
}
nfloat_status nfloat_codebook_from_levels(const char* name, const double* levels, size_t count,
                                          nfloat_codebook** codebook, nfloat_error** error) {
  return make(codebook, error, [&] {
    if (count > 256) fail(ErrorCode::kInvalidArgument, "{} levels: at most 256", count);
    return nfloat::codebook_from_levels(needed(name, "name"), copied(levels, count, "levels"));
  });
}
nfloat_status nfloat_load_codebook(const char* path, nfloat_codebook** codebook, nfloat_error** error) {
  return make(codebook, error, [&] { return nfloat::load_codebook(needed(path, "path")); });
}
void nfloat_codebook_free(nfloat_codebook* codebook) {
  delete codebook;
}
const char* nfloat_codebook_name(const nfloat_codebook* codebook) {
  return codebook == nullptr ? nullptr : codebook->value.name.c_str();
}
size_t nfloat_codebook_size(const nfloat_codebook* codebook) {
  return codebook == nullptr ? 0 : codebook->value.levels.size();
}
const float* nfloat_codebook_levels(const nfloat_codebook* codebook) {
  return codebook == nullptr ? nullptr : codebook->value.levels.data();
}
const double* nfloat_codebook_exact(const nfloat_codebook* codebook) {
  return codebook == nullptr ? nullptr : codebook->value.exact.data();
}
const float* nfloat_codebook_thresholds(const nfloat_codebook* codebook) {
  return codebook == nullptr ? nullptr : codebook->value.thresholds.data();
}
const uint8_t* nfloat_codebook_code_of_rank(const nfloat_codebook* codebook) {
  return codebook == nullptr ? nullptr : codebook->value.code_of_rank.data();
}
int32_t nfloat_codebook_signed_scale(const nfloat_codebook* codebook) {
  return codebook != nullptr && codebook->value.signed_scale ? 1 : 0;
}
nfloat_status nfloat_codebook_names(nfloat_buffer** json, nfloat_error** error) {
  return guard(error, [&] {
    needed_result(json, "json");
    nfloat::Json list = nfloat::Json::array();
    for (const std::string& name : nfloat::codebook_names()) {
      nfloat::Json entry = nfloat::Json::object();
      entry["name"] = name;
      entry["summary"] = std::string(nfloat::codebook_summary(name));
      entry["fitted"] = nfloat::codebook_is_fitted(name);
      list.push_back(std::move(entry));
    }
    *json = make_buffer(list.dump());
  });
}
nfloat_status nfloat_codebook_errors(const nfloat_codebook* codebook, int64_t block_size, const char* source,
                                     nfloat_codebook_error_result* result, nfloat_error** error) {
  return guard(error, [&] {
    needed(result, "result");
    const auto errors =
        nfloat::codebook_errors(needed(codebook, "codebook")->value, block_size == 0 ? 64 : block_size,
                                nfloat::parse_source_distribution(source == nullptr ? "normal" : source));
    write_result({0, errors.mse, errors.mae, errors.entropy}, result, "nfloat_codebook_error_result");
  });
}

nfloat_status nfloat_quantize_blockwise(const nfloat_tensor* weights, const nfloat_codebook* codebook,
                                        const nfloat_quantize_options* options,
                                        nfloat_quantized_tensor** tensor, nfloat_error** error) {
  return guard(error, [&] {
    needed_result(tensor, "tensor");
    *tensor = new nfloat_quantized_tensor{nfloat::quantize_blockwise(
        view_of(weights, "weights"), needed(codebook, "codebook")->value, quantize_options_of(options))};
  });
}

nfloat_status nfloat_quantize_blockwise_into(const nfloat_tensor* weights, const nfloat_codebook* codebook,
                                             const nfloat_quantize_options* given, uint8_t* codes,
                                             size_t codes_bytes, float* scales, size_t scale_count,
                                             uint8_t* nested_codes, size_t nested_count, float* nested_absmax,
                                             size_t nested_absmax_count, float* nested_offset,
                                             nfloat_error** error) {
  return guard(error, [&] {
    const nfloat::TensorView view = view_of(weights, "weights");
    const Codebook& book = needed(codebook, "codebook")->value;
    const nfloat::QuantizeOptions options = quantize_options_of(given);
    if (codes_bytes != 0) needed(codes, "codes");
    if (!options.double_quantization) {
      if (scale_count != 0) needed(scales, "scales");
      if (nested_codes != nullptr || nested_absmax != nullptr || nested_offset != nullptr)
        fail(ErrorCode::kInvalidArgument, "nested outputs without double_quantization");
      nfloat::quantize_blockwise(view, book, options, {codes, codes_bytes}, {scales, scale_count});
      return;
    }
    if (scales != nullptr)
      fail(ErrorCode::kInvalidArgument, "scales with double_quantization: they are null then");
    if (options.block_size < nfloat::kMinBlockSize)
      fail(ErrorCode::kInvalidArgument, "block_size is {}: at least {}", options.block_size,
           nfloat::kMinBlockSize);
    const auto elements = static_cast<size_t>(view.elements());
    const auto block = static_cast<size_t>(options.block_size);
    const size_t blocks = elements / block + (elements % block != 0 ? 1 : 0);
    check_count(nested_count, blocks, "nested_codes");
    check_count(nested_absmax_count, (blocks + 255) / 256, "nested_absmax");
    needed(nested_offset, "nested_offset");
    if (blocks != 0) {
      needed(nested_codes, "nested_codes");
      needed(nested_absmax, "nested_absmax");
    }
    const nfloat::NestedScales nested = nfloat::quantize_blockwise(view, book, options, {codes, codes_bytes});
    if (blocks != 0) {
      std::memcpy(nested_codes, nested.codes.data(), blocks);
      std::memcpy(nested_absmax, nested.absmax.data(), nested_absmax_count * sizeof(float));
    }
    *nested_offset = nested.offset;
  });
}
void nfloat_quantized_tensor_free(nfloat_quantized_tensor* tensor) {
  delete tensor;
}
nfloat_status nfloat_quantized_tensor_view(const nfloat_quantized_tensor* tensor, nfloat_quantized_view* view,
                                           nfloat_error** error) {
  return guard(error, [&] {
    const nfloat::QuantizedTensor& from = needed(tensor, "tensor")->value;
    needed(view, "view");
    nfloat_quantized_view result;
    std::memset(&result, 0, sizeof result);
    result.dtype = dtype_number(from.dtype);
    result.rank = static_cast<int32_t>(from.shape.rank());
    std::copy(from.shape.dims().begin(), from.shape.dims().end(), result.shape);
    result.block_size = from.block_size;
    result.codes = from.codes.data();
    result.levels = from.codebook.levels.data();
    result.level_count = static_cast<int32_t>(from.codebook.levels.size());
    if (from.double_quantized()) {
      result.nested = 1;
      result.nested_codes = from.nested.codes.data();
      result.nested_absmax = from.nested.absmax.data();
      result.nested_map = nfloat::dynamic_codebook().levels.data();
      result.nested_block_size = nfloat::kNestedBlockSize;
      result.nested_offset = from.nested.offset;
    } else {
      result.scales = from.scales.data();
    }
    const std::string& name = from.codebook.name;
    if (name == "nf4" || name == "fp4") std::memcpy(result.quant_type, name.c_str(), name.size());
    write_result(result, view, "nfloat_quantized_view");
  });
}

nfloat_status nfloat_dequantize_blockwise(const nfloat_quantized_view* view, nfloat_dtype dtype, void* output,
                                          size_t output_bytes, int32_t threads, nfloat_error** error) {
  return guard(error, [&] {
    Parts parts = parts_of(view);
    if (output_bytes != 0) needed(output, "output");
    nfloat::QuantizedTensor tensor;
    tensor.codebook.levels = std::move(parts.levels);
    // Only encoding looks at these; a table of a file may have equal levels, which no codebook has.
    tensor.codebook.thresholds.assign(tensor.codebook.levels.size(), 0.0f);
    tensor.codebook.code_of_rank.assign(tensor.codebook.levels.size(), 0);
    tensor.shape = parts.shape;
    tensor.block_size = parts.block_size;
    tensor.codes = copied(view->codes, static_cast<size_t>((parts.elements + 1) / 2), "view->codes");
    tensor.scales = std::move(parts.scales);
    nfloat::dequantize_blockwise(tensor, dtype_of(dtype, "output"),
                                 {static_cast<std::byte*>(output), output_bytes}, thread_count(threads));
  });
}

nfloat_status nfloat_packed_matrix_pack(const nfloat_quantized_view* view, int32_t threads,
                                        nfloat_packed_matrix** matrix, nfloat_error** error) {
  return guard(error, [&] {
    needed_result(matrix, "matrix");
    const Parts parts = parts_of(view);
    if (parts.shape.rank() != 2)
      fail(ErrorCode::kInvalidArgument, "a matrix has the shape [out, in], not {}", parts.shape.to_string());
    nfloat::PackSource source;
    source.codes = {view->codes, static_cast<size_t>((parts.elements + 1) / 2)};
    source.levels = parts.levels;
    source.rows = parts.shape[0];
    source.cols = parts.shape[1];
    source.block_size = parts.block_size;
    // Double-quantized scales stay in 8 bits: the floats are copies, since the view's may be unaligned.
    std::vector<float> absmax, map;
    if (view->nested == 1) {
      const auto blocks = static_cast<size_t>(parts.blocks);
      const auto nested = static_cast<size_t>(view->nested_block_size);
      absmax = copied(view->nested_absmax, blocks / nested + (blocks % nested != 0 ? 1 : 0),
                      "view->nested_absmax");
      map = copied(view->nested_map, 256, "view->nested_map");
      source.nested_codes = {view->nested_codes, blocks};
      source.nested_absmax = absmax;
      source.nested_map = map;
      source.nested_offset = view->nested_offset;
      source.nested_block_size = view->nested_block_size;
    } else {
      source.scales = parts.scales;
    }
    *matrix = new nfloat_packed_matrix{nfloat::PackedMatrix::pack(source, thread_count(threads))};
  });
}
void nfloat_packed_matrix_free(nfloat_packed_matrix* matrix) {
  delete matrix;
}
int64_t nfloat_packed_matrix_rows(const nfloat_packed_matrix* matrix) {
  return matrix == nullptr ? 0 : matrix->value.rows();
}
int64_t nfloat_packed_matrix_cols(const nfloat_packed_matrix* matrix) {
  return matrix == nullptr ? 0 : matrix->value.cols();
}
uint64_t nfloat_packed_matrix_bytes(const nfloat_packed_matrix* matrix) {
  return matrix == nullptr ? 0 : matrix->value.bytes();
}
nfloat_status nfloat_packed_matrix_dequantize_row(const nfloat_packed_matrix* matrix, int64_t row,
                                                  float* output, size_t count, nfloat_error** error) {
  return guard(error, [&] {
    const nfloat::PackedMatrix& from = needed(matrix, "matrix")->value;
    if (row < 0 || row >= from.rows())
      fail(ErrorCode::kInvalidArgument, "row {} of a matrix of {} rows", row, from.rows());
    check_count(count, static_cast<size_t>(from.cols()), "output");
    if (count != 0) from.dequantize_row(row, needed(output, "output"));
  });
}

nfloat_activations* nfloat_activations_create() {
  try {
    return new nfloat_activations;
  } catch (...) {
    return nullptr;
  }
}
void nfloat_activations_free(nfloat_activations* activations) {
  delete activations;
}
nfloat_status nfloat_activations_assign(nfloat_activations* activations, const nfloat_tensor* x,
                                        nfloat_error** error) {
  return guard(error, [&] {
    needed(activations, "activations");
    const nfloat::TensorView view = view_of(x, "x");
    if (view.shape.rank() == 0 || !nfloat::is_quantizable(view.dtype))
      fail(ErrorCode::kInvalidArgument, "x is {} {}: float32, float16 or bfloat16 of [..., k]",
           nfloat::dtype_torch_name(view.dtype), view.shape.to_string());
    const int64_t k = view.shape[view.shape.rank() - 1];
    const int64_t rows = k == 0 ? 0 : view.elements() / k;
    const float* data = static_cast<const float*>(view.data());
    if (view.dtype != DType::kF32) {
      activations->converted.resize(static_cast<size_t>(view.elements()));
      nfloat::convert_elements(view, DType::kF32, std::as_writable_bytes(std::span(activations->converted)));
      data = activations->converted.data();
    }
    activations->value.assign(data, k, rows, k);
    activations->rows = rows;
  });
}

nfloat_status nfloat_packed_matrix_unpack(const nfloat_packed_matrix* matrix, uint8_t* codes,
                                          size_t codes_bytes, nfloat_error** error) {
  return guard(error, [&] {
    if (codes_bytes != 0) needed(codes, "codes");
    needed(matrix, "matrix")->value.unpack({codes, codes_bytes});
  });
}

namespace {

using Product = void (*)(const nfloat::PackedMatrix&, const nfloat::Activations&, float*,
                         const nfloat::LinearOptions&);

// `columns`: of y.
nfloat_status multiply(const nfloat_packed_matrix* matrix, nfloat_activations* x,
                       const nfloat_linear_options* given, void* y, size_t y_bytes, nfloat_error** error,
                       Product product, int64_t (nfloat::PackedMatrix::*columns)() const noexcept) {
  return guard(error, [&] {
    const nfloat::PackedMatrix& weights = needed(matrix, "matrix")->value;
    needed(x, "x");
    const auto from = read_options(given, "nfloat_linear_options");
    if (from.reserved != 0)
      fail(ErrorCode::kUnsupported, "nfloat_linear_options.reserved is {}", from.reserved);
    nfloat::LinearOptions options;
    options.precision = precision_of(from.precision).value_or(nfloat::Precision::kBF16);
    options.threads = thread_count(from.threads);
    options.bias = from.bias;
    const DType output = from.output == 0 ? DType::kF32 : dtype_of(from.output, "y");
    if (!nfloat::is_quantizable(output))
      fail(ErrorCode::kInvalidArgument, "y is {}: float32, float16 or bfloat16",
           nfloat::dtype_torch_name(output));
    const auto count = static_cast<size_t>(x->rows) * static_cast<size_t>((weights.*columns)());
    check_count(y_bytes, count * nfloat::dtype_bytes(output), "y");
    if (count == 0) return;
    needed(y, "y");
    if (output == DType::kF32) {
      product(weights, x->value, static_cast<float*>(y), options);
      return;
    }
    std::vector<float> plain(count);
    product(weights, x->value, plain.data(), options);
    nfloat::convert_elements({DType::kF32, {static_cast<int64_t>(count)}, std::as_bytes(std::span(plain))},
                             output, {static_cast<std::byte*>(y), y_bytes});
  });
}

}  // namespace

nfloat_status nfloat_linear(const nfloat_packed_matrix* matrix, nfloat_activations* x,
                            const nfloat_linear_options* options, void* y, size_t y_bytes,
                            nfloat_error** error) {
  return multiply(matrix, x, options, y, y_bytes, error, &nfloat::linear, &nfloat::PackedMatrix::rows);
}
nfloat_status nfloat_linear_transposed(const nfloat_packed_matrix* matrix, nfloat_activations* x,
                                       const nfloat_linear_options* options, void* y, size_t y_bytes,
                                       nfloat_error** error) {
  return multiply(matrix, x, options, y, y_bytes, error, &nfloat::linear_transposed,
                  &nfloat::PackedMatrix::cols);
}

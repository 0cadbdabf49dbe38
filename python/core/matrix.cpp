// SPDX-License-Identifier: Apache-2.0
// Packed matrices and products with them.
#include <algorithm>

#include "base/fail.h"
#include "core.h"
#include "linear/transposed.h"
#include "options.h"

namespace nfloat::python {

template <>
inline constexpr const char* kTypeName<const PackedMatrix> = "nfloat.PackedMatrix";

Precision precision_argument(const std::string& name) {
  if (name == "f32") return Precision::kF32;
  if (name == "bf16") return Precision::kBF16;
  if (name == "int8") return Precision::kInt8;
  fail(ErrorCode::kInvalidArgument, "precision '{}': f32, bf16 or int8", name);
}

namespace {

// codes, levels, rows, cols, block_size, scales or None, nested codes, nested absmax, map, offset,
// nested_block_size, threads.
Ref pack(Args& args) {
  const Array codes = args.array(), levels = args.array();
  PackSource source;
  source.codes = codes.items<uint8_t>("codes");
  source.levels = levels.items<float>("levels");
  source.rows = args.integer();
  source.cols = args.integer();
  source.block_size = args.integer();
  const Array scales = args.maybe_array(), nested_codes = args.maybe_array(),
              nested_absmax = args.maybe_array(), map = args.maybe_array();
  source.scales = scales.items<float>("scales");
  source.nested_codes = nested_codes.items<uint8_t>("nested.codes");
  source.nested_absmax = nested_absmax.items<float>("nested.absmax");
  source.nested_map = map.items<float>("the map of the scales");
  source.nested_offset = static_cast<float>(args.real());
  source.nested_block_size = args.integer();
  const int threads = thread_argument(args.integer());
  std::shared_ptr<const PackedMatrix> matrix;
  over_memory(source.codes.size(),
              [&] { matrix = std::make_shared<const PackedMatrix>(PackedMatrix::pack(source, threads)); });
  return make_handle(std::move(matrix));
}
Ref matrix_shape(Args& args) {
  const PackedMatrix& matrix = *args.handle<const PackedMatrix>();
  return tuple(integer(matrix.rows()), integer(matrix.cols()), integer(static_cast<int64_t>(matrix.bytes())));
}
Ref dequantize_row(Args& args) {
  const PackedMatrix& matrix = *args.handle<const PackedMatrix>();
  const int64_t row = args.integer();
  const Array output = args.array("", true);
  const auto to = output.items<float>("output");
  if (row < 0 || row >= matrix.rows())
    fail(ErrorCode::kInvalidArgument, "row {} of a matrix of {} rows", row, matrix.rows());
  if (static_cast<int64_t>(to.size()) != matrix.cols())
    fail(ErrorCode::kInvalidArgument, "output has {} elements, {} are needed", to.size(), matrix.cols());
  matrix.dequantize_row(row, to.data());
  return none();
}

// The codes in the order of the tensor that was packed.
Ref unpack(Args& args) {
  const std::shared_ptr<const PackedMatrix> matrix = args.handle<const PackedMatrix>();
  const Array output = args.array("", true);
  const auto to = output.items<uint8_t>("codes");
  unlocked(to.size() >= kGilBytes, [&] { matrix->unpack(to); });
  return none();
}

// Rows of x, which must outlive them.
struct Rows {
  Rows(const Array& x, int64_t columns) : view(x.view()) {
    if (view.dtype == DType::kU16)
      raise(PyExc_TypeError, "x is uint16: say x_dtype=\"bfloat16\" where these are the bits of bfloat16");
    if (view.shape.rank() == 0 || !is_quantizable(view.dtype))
      fail(ErrorCode::kInvalidArgument, "x is {} {}: float32, float16 or bfloat16 of [..., {}]",
           dtype_torch_name(view.dtype), view.shape.to_string(), columns);
    const int64_t k = view.shape[view.shape.rank() - 1];
    if (k != columns)
      fail(ErrorCode::kInvalidArgument, "x is {}: its last dimension is {}, the matrix wants {}",
           view.shape.to_string(), k, columns);
    count = k == 0 ? 0 : view.elements() / k;
  }
  // In float32, x's own where it has them. Needs nothing of Python.
  const float* floats() {
    const auto* data = static_cast<const float*>(view.data());
    if (view.dtype == DType::kF32 && reinterpret_cast<uintptr_t>(data) % sizeof(float) == 0) return data;
    converted = Buffer(static_cast<size_t>(view.elements()) * sizeof(float));
    convert_elements(view, DType::kF32, converted.span());
    return reinterpret_cast<const float*>(converted.data());
  }
  const TensorView& view;
  Buffer converted;
  int64_t count;
};

// A product without the lock where it takes longer than giving that away; Ctrl-C ends one that takes long.
void run_product(const Rows& rows, const PackedMatrix& matrix, const std::function<void()>& work) {
  const double products = static_cast<double>(rows.count) * static_cast<double>(matrix.rows()) *
                          static_cast<double>(matrix.cols());
  run_endable(products >= 1 << 29, products >= 1 << 17, work);
}

// Of so many rows that are left, those of one product: a loop over panels of the matrix looks at its end
// between panels, and one of them goes over all rows. Many enough for each row to take the same kernels as
// among all.
int64_t rows_at_once(int64_t left) {
  constexpr int64_t kRows = 1024;
  return left < 2 * kRows ? left : kRows;
}

template <typename Product>
void write_product(const Array& output, DType dtype, int64_t elements, const Product& product) {
  if (!is_quantizable(dtype))
    fail(ErrorCode::kInvalidArgument, "y is {}: float32, float16 or bfloat16", dtype_torch_name(dtype));
  if (output.bytes() != static_cast<size_t>(elements) * dtype_bytes(dtype))
    fail(ErrorCode::kInvalidArgument, "y has {} bytes, {} elements of {} are needed", output.bytes(),
         elements, dtype_torch_name(dtype));
  if (elements == 0) return;
  if (dtype == DType::kF32) return product(reinterpret_cast<float*>(output.data()));
  Buffer plain(static_cast<size_t>(elements) * sizeof(float));
  product(reinterpret_cast<float*>(plain.data()));
  convert_elements({DType::kF32, {elements}, plain.span()}, dtype, {output.data(), output.bytes()});
}

// matrix, x, dtype said of x, bias or None, precision, dtype of y, y, threads.
Ref linear(Args& args) {
  const std::shared_ptr<const PackedMatrix> matrix = args.handle<const PackedMatrix>();
  PyObject* given = args.object();
  const Array x = Array::of(given, args.maybe_text().value_or(""));
  const Array bias = args.maybe_array();
  LinearOptions options;
  options.precision = precision_argument(args.text());
  const DType dtype = dtype_argument(args.text());
  const Array y = args.array("", true);
  options.threads = thread_argument(args.integer());
  const auto biases = bias.items<float>("bias");
  if (bias.given()) {
    if (static_cast<int64_t>(biases.size()) != matrix->rows())
      fail(ErrorCode::kInvalidArgument, "bias has {} elements, the matrix {} rows", biases.size(),
           matrix->rows());
    options.bias = biases.data();
  }
  Rows rows(x, matrix->cols());
  run_product(rows, *matrix, [&] {
    write_product(y, dtype, rows.count * matrix->rows(), [&](float* to) {
      thread_local Activations activations;
      const float* from = rows.floats();
      for (int64_t begin = 0; begin < rows.count;) {
        const int64_t count = rows_at_once(rows.count - begin);
        activations.assign(from + begin * matrix->cols(), matrix->cols(), count, matrix->cols());
        nfloat::linear(*matrix, activations, to + begin * matrix->rows(), options);
        begin += count;
      }
    });
  });
  return none();
}

// matrix, x, dtype said of x, precision, dtype of y, y, threads.
Ref linear_transposed(Args& args) {
  const std::shared_ptr<const PackedMatrix> matrix = args.handle<const PackedMatrix>();
  PyObject* given = args.object();
  const Array x = Array::of(given, args.maybe_text().value_or(""));
  const Precision precision = precision_argument(args.text());
  const DType dtype = dtype_argument(args.text());
  const Array y = args.array("", true);
  const int threads = thread_argument(args.integer());
  Rows rows(x, matrix->rows());
  run_product(rows, *matrix, [&] {
    write_product(y, dtype, rows.count * matrix->cols(), [&](float* to) {
      multiply_transposed(*matrix, rows.floats(), matrix->rows(), rows.count, to, matrix->cols(),
                          precision != Precision::kF32, threads);
    });
  });
  return none();
}

}  // namespace

std::vector<PyMethodDef> matrix_methods() {
  return {method<pack>("pack"),
          method<matrix_shape>("matrix_shape"),
          method<dequantize_row>("dequantize_row"),
          method<unpack>("unpack"),
          method<python::linear>("linear"),
          method<linear_transposed>("linear_transposed")};
}

}  // namespace nfloat::python

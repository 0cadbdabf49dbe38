// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_LINEAR_H_
#define NFLOAT_LINEAR_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "nfloat/api.h"
#include "nfloat/quantize.h"
#include "nfloat/tensor.h"

// Activations times weights: y[m, n] = sum over k of x[m, k] * w[n, k] (+ bias[n]), float32 in and out.
namespace nfloat {

struct StateAccess;  // of the library itself

// Number types of the factors; sums are float32 (int8: exact integers inside a block, float32 between).
enum class Precision : uint8_t {
  kF32,   // levels, activations and scales in float32
  kBF16,  // levels and activations rounded to bf16
  kInt8,  // activations int8 by blocks of at most 64, levels rounded to int8 once
};

// "f32", "bf16", "int8".
NFLOAT_API const char* precision_name(Precision precision) noexcept;

// The faster one of kBF16 and kInt8 here: kBF16 where the processor (or NFLOAT_TARGET) multiplies pairs of
// bf16, which costs less accuracy; kInt8, about twice as fast, elsewhere.
NFLOAT_API Precision fast_precision() noexcept;

// One precision for products of one row (generation), one for those of more (prompts).
struct PrecisionChoice {
  Precision one_row = Precision::kBF16, many_rows = Precision::kBF16;
  bool operator==(const PrecisionChoice&) const = default;
};

// Products of 4-bit weights with one and with 64 rows as this machine does them now, 10^9 multiply-adds a
// second.
struct PrecisionRates {
  double one_row_bf16 = 0, one_row_int8 = 0, many_rows_bf16 = 0, many_rows_int8 = 0;
};

// Measures them with NF4 in blocks of 64, scales of both kinds, 32 MiB of codes, by turns: about a quarter of
// a second (more where a round of all four takes longer). Threads 0: the default (nfloat/threads.h). Throws
// kOutOfMemory.
NFLOAT_API PrecisionRates measure_precisions(int threads = 0);
// The faster one for either number of rows; kBF16, which costs less accuracy, where it loses no more than 3
// %.
NFLOAT_API PrecisionChoice faster_precisions(const PrecisionRates& rates) noexcept;

// A 4-bit matrix [rows, cols] as a bitsandbytes file holds it: element i = row * cols + column has its code
// in the high (i even) or low nibble of codes[i / 2] and belongs to block i / block_size, which may cross
// rows. Borrowed while pack() runs.
struct PackSource {
  std::span<const uint8_t> codes;  // (rows * cols + 1) / 2 bytes
  std::span<const float> levels;   // by code, 1 to 16 of them
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t block_size = 64;  // at least 16

  std::span<const float> scales;  // one a block; empty when the scales are double-quantized:
  // scale[i] = nested_map[nested_codes[i]] * nested_absmax[(nested_first + i) / nested_block_size] +
  // nested_offset
  std::span<const uint8_t> nested_codes;
  std::span<const float> nested_absmax;
  std::span<const float> nested_map;  // 256
  float nested_offset = 0;
  int64_t nested_block_size = 256;
  int64_t nested_first =
      0;  // of a part of a matrix: scale i is scale nested_first + i of its second-level blocks

  // Called at intervals from the packing thread with a range of `codes` that will not be read again, so that
  // the pages of a mapped file can be dropped. May be empty.
  std::function<void(std::span<const uint8_t>)> release;
};

// A quantized matrix [out, in] as pack() takes it; borrows from `tensor`. Throws kInvalidArgument when the
// tensor has another number of dimensions.
NFLOAT_API PackSource pack_source(const QuantizedTensor& tensor);

// Activations [m, k] converted for the kernels: to the form that a matrix needs when it is first needed, kept
// for the matrices that follow (query, key and value; gate and up). Reuses its memory, so that repeated use
// does not allocate. Not safe for use by two threads at a time.
class NFLOAT_API Activations {
 public:
  Activations();
  Activations(Activations&&) noexcept;
  Activations& operator=(Activations&&) noexcept;
  ~Activations();

  // Points at x, row m at x + m * x_stride; x is read by the linear() calls that follow.
  void assign(const float* x, int64_t x_stride, int64_t m, int64_t k) noexcept;

  struct State;

 private:
  friend struct StateAccess;
  std::unique_ptr<State> state_;
};

// An [out, in] matrix of 4-bit codes, laid out for the kernels. The scales stay as they were stored (8 bits a
// block when double-quantized). The codes take as many bytes as in the file, rows rounded up to 16.
class NFLOAT_API PackedMatrix {
 public:
  PackedMatrix() noexcept;
  PackedMatrix(PackedMatrix&&) noexcept;
  PackedMatrix& operator=(PackedMatrix&&) noexcept;
  ~PackedMatrix();

  // Throws kInvalidArgument when a span has another length than the shape asks for.
  static PackedMatrix pack(const PackSource& source, int threads = 0);

  int64_t rows() const noexcept;
  int64_t cols() const noexcept;
  uint64_t bytes() const noexcept;  // of memory held: codes, scales and tables
  // One row as level * scale in float32 (the value bitsandbytes dequantizes to): an embedding. output:
  // cols().
  void dequantize_row(int64_t row, float* output) const noexcept;
  // The codes in the order of the source: packing loses nothing. Throws kInvalidArgument when `codes` is not
  // (rows * cols + 1) / 2 bytes.
  void unpack(std::span<uint8_t> codes) const;

  struct State;

 private:
  friend struct StateAccess;
  std::unique_ptr<State> state_;
};

// A plain [out, in] matrix, laid out for the same kernels: weights that are not quantized, an output head.
class NFLOAT_API DenseMatrix {
 public:
  enum class Storage : uint8_t {
    kF32,
    kF16,
    kBF16,
    kInt8,  // one float32 scale for 64 elements of a row (fewer when 64 does not divide the columns)
  };
  DenseMatrix() noexcept;
  DenseMatrix(DenseMatrix&&) noexcept;
  DenseMatrix& operator=(DenseMatrix&&) noexcept;
  ~DenseMatrix();

  // Rounds `weights` (F32, F16 or BF16, [rows, cols]) to `storage`. Throws kInvalidArgument for others.
  // `release`: as PackSource's, of the bytes of `weights`.
  static DenseMatrix pack(const TensorView& weights, Storage storage, int threads = 0,
                          const std::function<void(std::span<const uint8_t>)>& release = nullptr);

  int64_t rows() const noexcept;
  int64_t cols() const noexcept;
  uint64_t bytes() const noexcept;
  void dequantize_row(int64_t row, float* output) const noexcept;

  struct State;

 private:
  friend struct StateAccess;
  std::unique_ptr<State> state_;
};

struct LinearOptions {
  Precision precision = Precision::kInt8;
  int threads = 0;              // 0: the default (nfloat/threads.h)
  const float* bias = nullptr;  // one a row of the matrix
  int64_t y_stride = 0;         // floats between rows of y; 0: the matrix's rows
};

// y[m][n] for every row m of the activations, whose columns are the matrix's. Throws kInvalidArgument when
// they are not. Accuracy: kF32 within 1e-6 of the sum of absolute products; kBF16 and kInt8 0.4 % and 1 %
// relative root mean square on the weights of language models. A result does not depend on the number of
// threads; nor does a row's result depend on the other rows: of a PackedMatrix in kInt8, of a DenseMatrix in
// every precision but, on AMX, kBF16. A block size or a width that is not a multiple of 8 where blocks meet
// rows takes a slow path in float32. DenseMatrix: the storage bounds the precision from below: F32 and F16
// always compute in float32, BF16 in bf16 or float32, int8 in int8 or float32. An activation far above the
// others of its block of 64 costs kInt8 more: at ten times theirs up to 2 %. On a processor with AMX (target
// `amx`), products with many rows run on its tiles within the same bounds: of a PackedMatrix kBF16 and kF32
// from 16 rows on, kF32 with three bf16 for each factor, and kInt8 from 5 rows on where blocks and width have
// a multiple of 64 in common; of a DenseMatrix in BF16 kBF16 from 16 rows on. On tiles of bf16 an infinite
// product may become NaN, and numbers below 1e-33 have fewer significant digits.
NFLOAT_API void linear(const PackedMatrix& matrix, const Activations& x, float* y,
                       const LinearOptions& options = {});
NFLOAT_API void linear(const DenseMatrix& matrix, const Activations& x, float* y,
                       const LinearOptions& options = {});

// y[m][k] = sum over n of x[m][n] * w[n][k] for activations with a column for each row of the matrix: the
// gradient of linear() with respect to its inputs. Options: kF32 in float32, within 1e-6 of the sum of
// absolute products; kBF16 and kInt8 with both factors rounded to bf16, or up to four rows as kF32; no bias;
// y_stride 0: the matrix's columns. The same for every number of threads. Nothing of the matrix's size is
// made. Throws kInvalidArgument for another number of columns, or a bias.
NFLOAT_API void linear_transposed(const PackedMatrix& matrix, const Activations& x, float* y,
                                  const LinearOptions& options = {});

}  // namespace nfloat

#endif  // NFLOAT_LINEAR_H_

// SPDX-License-Identifier: Apache-2.0
// The kernels of an engine's steps, as the engine launches them, but for attention: products in float32,
// operations on rows.
#ifndef NFLOAT_TESTS_CUDA_LAYERS_H_
#define NFLOAT_TESTS_CUDA_LAYERS_H_

#include <algorithm>
#include <memory>

#include "cuda/product.h"
#include "cuda/steps.h"
#include "cuda/transposed.h"
#include "rows_of.h"

namespace conformance {

inline void check_norm(bool centred, int64_t rows, int64_t width, Random& random, Report& report) {
  const RowsOf x(rows, width, 3, &random), y(rows, width, 1, nullptr);
  const std::vector<float> weight = random.normals(size(width)), bias = random.normals(size(width));
  const Buffer<float> d_weight(weight), d_bias(bias);
  gpu::NormArguments a;
  a.from = x.device->get();
  a.to = y.device->get();
  a.weight = d_weight.get();
  a.bias = centred ? d_bias.get() : nullptr;
  a.centred = centred;
  a.rows = rows;
  a.parts = 1;
  a.width = width;
  a.from_stride = x.stride;
  a.to_stride = y.stride;
  a.epsilon = 1e-5f;
  gpu::launch_norm(a);
  synchronize();
  const std::vector<float> got = y.device->read();
  Errors errors;
  for (int64_t row = 0; row < rows; ++row) {
    double mean = 0, squares = 0;
    for (int64_t i = 0; centred && i < width; ++i) mean += x.at(row, i) / static_cast<double>(width);
    for (int64_t i = 0; i < width; ++i)
      squares += (x.at(row, i) - mean) * (x.at(row, i) - mean) / static_cast<double>(width);
    for (int64_t i = 0; i < width; ++i) {
      const double inverse = double{weight[size(i)]} / std::sqrt(squares + 1e-5);
      const double b = centred ? double{bias[size(i)]} : 0;
      errors.take(double{got[size(row * y.stride + i)]}, (x.at(row, i) - mean) * inverse + b,
                  (std::fabs(x.at(row, i)) + std::fabs(mean)) * std::fabs(inverse) + std::fabs(b));
    }
  }
  char name[96];
  std::snprintf(name, sizeof name, "%s %lldx%lld", centred ? "layer norm" : "rms norm",
                static_cast<long long>(rows), static_cast<long long>(width));
  report.add(name, errors.within(2e-6, 1e-6) && y.whole(got), errors.text());
}

template <gpu::RowsOperation kOperation>
void check_rows(const char* name, int64_t rows, int64_t width, Random& random, Report& report) {
  using gpu::RowsOperation;
  constexpr bool kLists = kOperation == RowsOperation::kGather || kOperation == RowsOperation::kScatterAdd;
  const RowsOf from(rows, width, 3, &random), to(rows, width, 2, &random);
  std::vector<int32_t> list(size(rows));
  for (int64_t i = 0; i < rows; ++i) list[size(i)] = static_cast<int32_t>(rows - 1 - i);
  const std::vector<float> shares = random.normals(size(rows));
  const Buffer<int32_t> d_list(list);
  const Buffer<float> d_shares(shares);
  gpu::RowsArguments a;
  a.from = from.device->get();
  a.to = to.device->get();
  if (kLists) a.list = d_list.get();
  a.shares = d_shares.get();
  a.rows = rows;
  a.width = width;
  a.from_stride = from.stride;
  a.to_stride = to.stride;
  a.scale = 0.75f;
  a.cap = 1.5f;
  gpu::launch_rows<kOperation>(a);
  synchronize();
  const std::vector<float> got = to.device->read();
  Errors errors;
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t i = 0; i < width; ++i) {
      const double own = from.at(row, i), before = to.at(row, i);
      int64_t at = row;
      double expected = 0, magnitude = std::fabs(own) + std::fabs(before);
      if (kOperation == RowsOperation::kCopy) expected = own;
      if (kOperation == RowsOperation::kGather) expected = from.at(rows - 1 - row, i);
      if (kOperation == RowsOperation::kScatterAdd) {
        at = rows - 1 - row;
        expected = to.at(at, i) + double{shares[size(row)]} * own;
        magnitude = std::fabs(to.at(at, i)) + std::fabs(double{shares[size(row)]} * own);
      }
      if (kOperation == RowsOperation::kAdd) expected = before + 0.75 * own;
      if (kOperation == RowsOperation::kAddToAll) {
        expected = before + from.at(0, i);
        magnitude = std::fabs(before) + std::fabs(from.at(0, i));
      }
      if (kOperation == RowsOperation::kEmbed) expected = 0.75 * before + own;
      if (kOperation == RowsOperation::kSoftcap) expected = 1.5 * std::tanh(0.75 * before / 1.5);
      errors.take(double{got[size(at * to.stride + i)]}, expected, magnitude);
    }
  report.add(name, errors.within(1e-6, 1e-6) && to.whole(got), errors.text());
}

inline void check_broken_and_rounded(Random& random, Report& report) {
  RowsOf x(5, 1025, 2, &random);
  const Buffer<int32_t> flags(std::vector<int32_t>(3, 0));
  const Buffer<uint16_t> rounded(size(5 * 1025));
  gpu::RowsArguments a;
  a.from = x.device->get();
  a.to = flags.get() + 1;
  a.rows = 5;
  a.width = 1025;
  a.from_stride = x.stride;
  gpu::launch_rows<gpu::RowsOperation::kFindBroken>(a);
  synchronize();
  const bool quiet = flags.read() == std::vector<int32_t>(3, 0);
  a.to = rounded.get();
  gpu::launch_rows<gpu::RowsOperation::kRound>(a);
  synchronize();
  const std::vector<uint16_t> bits = rounded.read();
  bool same = rounded.guards_whole();
  for (int64_t row = 0; row < 5; ++row)
    for (int64_t i = 0; i < 1025; ++i)
      same = same && bits[size(row * 1025 + i)] == to_bf16(x.values[size(row * x.stride + i)]);
  x.values.back() = -INFINITY;
  const Buffer<float> with(x.values);
  a.from = with.get();
  a.to = flags.get() + 1;
  gpu::launch_rows<gpu::RowsOperation::kFindBroken>(a);
  synchronize();
  const bool told = flags.read() == std::vector<int32_t>{0, 1, 0} && flags.guards_whole();
  report.add("what is not finite", quiet && told,
             quiet ? told ? "told" : "not told" : "told of finite numbers");
  report.add("rounds to bf16", same, same ? "equal" : "differs");
}

inline void check_activate(gpu::Gate kind, bool gated, float limit, int64_t rows, int64_t width,
                           Random& random, Report& report) {
  const RowsOf x(rows, gated ? 2 * width : width, 1, &random, 3);
  gpu::ActivateArguments a;
  a.at = x.device->get();
  a.rows = rows;
  a.width = width;
  a.stride = x.stride;
  a.kind = kind;
  a.gated = gated;
  a.limit = limit;
  gpu::launch_activate(a);
  synchronize();
  const std::vector<float> got = x.device->read();
  Errors errors;
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t i = 0; i < width; ++i) {
      double gate = x.at(row, limit > 0 ? 2 * i : i), up = 1, slope = 1;
      if (gated) up = x.at(row, limit > 0 ? 2 * i + 1 : width + i);
      if (limit > 0) {
        gate = std::min(gate, double{limit});
        up = std::clamp(up, -double{limit}, double{limit}) + 1;
        slope = 1.702;
      }
      if (kind == gpu::Gate::kQuickGelu) slope = 1.702;
      double expected = gate / (1 + std::exp(-slope * gate));
      if (kind == gpu::Gate::kGelu) expected = 0.5 * gate * std::erfc(-gate / std::sqrt(2.0));
      if (kind == gpu::Gate::kGeluTanh)
        expected =
            gate / 2 *
            (1 + std::tanh(std::sqrt(2 / 3.14159265358979323846) * (gate + 0.044715 * gate * gate * gate)));
      if (kind == gpu::Gate::kRelu) expected = std::max(gate, 0.0);
      errors.take(double{got[size(row * x.stride + i)]}, expected * up, std::fabs(expected * up) + 1e-2);
    }
  char name[96];
  std::snprintf(name, sizeof name, "activation %d%s%s", static_cast<int>(kind), gated ? ", gated" : "",
                limit > 0 ? ", clamped" : "");
  report.add(name, errors.within(4e-6, 4e-6) && x.whole(got), errors.text());
}

// Of zero and of numbers that a normal half holds.
inline uint16_t f16_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  return static_cast<uint16_t>(magnitude == 0 ? sign : sign | ((magnitude - 0x38000000u) >> 13));
}

inline void check_float_product(gpu::Storage storage, int64_t rows, int64_t cols, int64_t block,
                                int64_t x_rows, Random& random, Report& report) {
  const int64_t padded = (cols + 7) / 8 * 8;
  const bool codes = storage == gpu::Storage::kCodes || storage == gpu::Storage::kNestedCodes;
  std::vector<double> w(size(rows * cols));
  gpu::Weights weights;
  weights.storage = storage;
  weights.rows = rows;
  weights.cols = cols;
  weights.block = block;
  weights.nested_block = 4;
  const int64_t blocks = ((codes ? rows * cols : rows * padded) + block - 1) / block;
  const std::vector<float> scales = random.normals(size(blocks)),
                           absmax = random.normals(size((blocks + 3) / 4)),
                           tables = random.normals(size(gpu::kTableFloats));
  std::vector<uint8_t> bytes = random.bytes(size(codes ? (rows * cols + 1) / 2 : rows * padded * 4)),
                       nested = random.bytes(size(blocks));
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t i = 0; i < (codes ? cols : padded); ++i) {
      double value = 0;
      if (codes) {
        const int64_t at = row * cols + i, own = at / block;
        const uint8_t byte = bytes[size(at / 2)];
        const double scale =
            storage == gpu::Storage::kCodes
                ? double{scales[size(own)]}
                : double{tables[size(gpu::kMapAt + nested[size(own)])]} * double{absmax[size(own / 4)]} +
                      double{tables[size(gpu::kOffsetAt)]};
        value = double{tables[size(at % 2 == 0 ? byte >> 4 : byte & 15)]} * scale;
      } else if (storage == gpu::Storage::kInt8) {
        const size_t at = size(row * padded + i);
        if (i >= cols) bytes[at] = 0;
        value = double{scales[at / size(block)]} * static_cast<int8_t>(bytes[at]);
      } else {
        const float plain = i < cols ? bf16(to_bf16(random.normal())) : 0.0f;
        const size_t at = size(row * padded + i);
        uint16_t bits = to_bf16(plain);
        if (storage == gpu::Storage::kF16) {  // a sixteenth of a small integer: exact
          const float rounded = std::round(plain * 16) / 16;
          bits = f16_bits(rounded);
          value = double{rounded};
        } else {
          value = double{plain};
        }
        if (storage == gpu::Storage::kF32) {
          std::memcpy(bytes.data() + at * 4, &plain, 4);
        } else {
          std::memcpy(bytes.data() + at * 2, &bits, 2);
        }
      }
      if (i < cols) w[size(row * cols + i)] = value;
    }
  if (!codes)
    bytes.resize(size(rows * padded) * (storage == gpu::Storage::kF32    ? 4
                                        : storage == gpu::Storage::kInt8 ? 1
                                                                         : 2));
  const Buffer<uint8_t> d_bytes(bytes), d_nested(nested);
  const Buffer<float> d_scales(scales), d_absmax(absmax), d_tables(tables);
  weights.elements = d_bytes.get();
  weights.scales = storage == gpu::Storage::kNestedCodes ? static_cast<const void*>(d_nested.get())
                                                         : static_cast<const void*>(d_scales.get());
  weights.nested_absmax = d_absmax.get();
  weights.tables = d_tables.get();
  const RowsOf x(x_rows, cols, 1, &random), y(x_rows, rows, 2, nullptr);
  // Without one where a neighbour's, which is not there, would hide an output too many.
  const bool biased = x_rows != 3;
  const std::vector<float> bias = biased ? random.normals(size(rows)) : std::vector<float>(size(rows));
  const Buffer<float> d_bias(bias);
  gpu::ProductArguments a;
  a.weights = weights;
  a.bias = biased ? d_bias.get() : nullptr;
  a.x = x.device->get();
  a.y = y.device->get();
  a.x_rows = x_rows;
  a.x_stride = x.stride;
  a.y_stride = y.stride;
  gpu::launch_product(a, 1);
  synchronize();
  const std::vector<float> got = y.device->read();
  Errors errors;
  for (int64_t m = 0; m < x_rows; ++m)
    for (int64_t row = 0; row < rows; ++row) {
      double sum = double{bias[size(row)]}, magnitudes = std::fabs(sum);
      for (int64_t i = 0; i < cols; ++i) {
        const double term = w[size(row * cols + i)] * x.at(m, i);
        sum += term;
        magnitudes += std::fabs(term);
      }
      errors.take(double{got[size(m * y.stride + row)]}, sum, magnitudes);
    }
  static const char* const kNames[] = {"f32", "f16", "bf16", "int8", "codes", "codes, 8-bit scales"};
  char name[128];
  std::snprintf(name, sizeof name, "float32 product, %s %lldx%lld, blocks of %lld, by %lld",
                kNames[static_cast<int>(storage)], static_cast<long long>(rows), static_cast<long long>(cols),
                static_cast<long long>(block), static_cast<long long>(x_rows));
  report.add(name, errors.within(1e-6, 1e-6) && y.whole(got), errors.text());

  // With the same weights transposed, and once more on top of that.
  const RowsOf dy(x_rows, rows, 3, &random), dx(x_rows, cols, 1, nullptr);
  a.bias = nullptr;
  a.x = dy.device->get();
  a.y = dx.device->get();
  a.x_stride = dy.stride;
  a.y_stride = dx.stride;
  for (const bool again : {false, true}) {
    a.accumulate = again;
    gpu::launch_transposed(a);
  }
  synchronize();
  const std::vector<float> back = dx.device->read();
  Errors transposed;
  for (int64_t m = 0; m < x_rows; ++m)
    for (int64_t i = 0; i < cols; ++i) {
      double sum = 0, magnitudes = 0;
      for (int64_t row = 0; row < rows; ++row) {
        const double term = 2 * w[size(row * cols + i)] * dy.at(m, row);
        sum += term;
        magnitudes += std::fabs(term);
      }
      transposed.take(double{back[size(m * dx.stride + i)]}, sum, magnitudes);
    }
  std::snprintf(name, sizeof name, "float32 transposed, %s %lldx%lld, blocks of %lld, by %lld",
                kNames[static_cast<int>(storage)], static_cast<long long>(rows), static_cast<long long>(cols),
                static_cast<long long>(block), static_cast<long long>(x_rows));
  report.add(name, transposed.within(1e-6, 1e-6) && dx.whole(back), transposed.text());
}

// More batches of rows than a launch may have blocks, in parts that follow one another.
inline void check_batches(Report& report) {
  constexpr int64_t kBatch = 4, kMost = 65535 * kBatch;
  bool good = true;
  for (const int64_t rows : {int64_t{1}, kMost, kMost + 1, 2 * kMost + 7}) {
    const std::vector<float> x(size(2 * rows));
    std::vector<float> y(size(rows));
    gpu::ProductArguments a;
    a.x = x.data();
    a.y = y.data();
    a.x_rows = rows;
    a.x_stride = 2;
    a.y_stride = 1;
    int64_t done = 0;
    gpu::over_batches(a, kBatch, [&](const gpu::ProductArguments& part, int batches) {
      good = good && part.x_rows >= 1 && part.x_rows <= kMost && part.x_rows <= rows - done &&
             batches == (part.x_rows + kBatch - 1) / kBatch && part.x == a.x + 2 * done &&
             part.y == a.y + done;
      done += part.x_rows;
    });
    good = good && done == rows;
  }
  report.add("batches of many rows", good, good ? "all once" : "left out or twice");
}

inline void check_layers(bool large, Random& random, Report& report) {
  using gpu::Gate;
  using gpu::RowsOperation;
  using gpu::Storage;
  for (const bool centred : {false, true})
    for (const int64_t width : {1, 65, 1100}) check_norm(centred, 3, width, random, report);
  check_rows<RowsOperation::kCopy>("copies rows", 3, 1025, random, report);
  check_rows<RowsOperation::kGather>("gathers rows", 4, 33, random, report);
  check_rows<RowsOperation::kScatterAdd>("scatters rows", 4, 40, random, report);
  check_rows<RowsOperation::kZero>("zeros", 2, 31, random, report);
  check_rows<RowsOperation::kAdd>("adds rows", 3, 65, random, report);
  check_rows<RowsOperation::kAddToAll>("adds one row to all", 3, 65, random, report);
  check_rows<RowsOperation::kEmbed>("places embeddings", 2, 19, random, report);
  check_rows<RowsOperation::kSoftcap>("caps", 2, 77, random, report);
  check_broken_and_rounded(random, report);
  for (const Gate kind : {Gate::kSilu, Gate::kGelu, Gate::kGeluTanh, Gate::kQuickGelu, Gate::kRelu})
    check_activate(kind, kind != Gate::kRelu, 0, 3, 77, random, report);
  check_activate(Gate::kSilu, true, 7, 2, 100, random, report);
  for (const float limit : {0.0f, 7.0f}) check_activate(Gate::kSilu, true, limit, 2, 1025, random, report);
  check_batches(report);
  for (const Storage storage : {Storage::kF32, Storage::kF16, Storage::kBF16})
    check_float_product(storage, 21, 257, 264, 3, random, report);
  check_float_product(Storage::kInt8, 40, 264, 8, 9, random, report);
  for (const Storage storage : {Storage::kCodes, Storage::kNestedCodes}) {
    check_float_product(storage, 11, 33, 20, 1, random, report);
    check_float_product(storage, 37, 320, 64, 6, random, report);
  }
  if (!large) return;
  check_norm(false, 5, 4096, random, report);
  for (const Storage storage : {Storage::kBF16, Storage::kInt8, Storage::kNestedCodes})
    check_float_product(storage, 1000, 4096, 64, 17, random, report);
}

}  // namespace conformance

#endif  // NFLOAT_TESTS_CUDA_LAYERS_H_

// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TESTS_CUDA_PRODUCTS_H_
#define NFLOAT_TESTS_CUDA_PRODUCTS_H_

#include "conformance.h"
#include "cuda/gemm.h"
#include "cuda/multiply.h"
#include "cuda/plain_gemm.h"

namespace conformance {

enum class Product { kFew, kExact, kMany, kTransposed };

struct Judged {
  Errors errors;
  bool beside;  // nothing was written beside the output
};

// What a product gave, `times` over, beside sums in double of W [rows, columns] and x, [count][depth].
template <typename Number>
Judged judge(const std::vector<double>& w, const std::vector<Number>& x, int64_t rows, int64_t columns,
             int count, bool transposed, double times, const Buffer<float>& y,
             const std::vector<float>& got) {
  const int64_t depth = transposed ? rows : columns, outputs = transposed ? columns : rows;
  const int64_t stride = static_cast<int64_t>(got.size()) / count;
  Judged judged{{}, y.guards_whole()};
  for (int m = 0; m < count; ++m) {
    for (int64_t o = 0; o < outputs; ++o) {
      double sum = 0, magnitudes = 0;
      for (int64_t k = 0; k < depth; ++k) {
        const double product = times *
                               w[static_cast<size_t>(transposed ? k * columns + o : o * columns + k)] *
                               static_cast<double>(x[static_cast<size_t>(m * depth + k)]);
        sum += product;
        magnitudes += std::fabs(product);
      }
      judged.errors.take(double{got[static_cast<size_t>(m * stride + o)]}, sum, magnitudes);
    }
    for (int64_t o = outputs; o < stride; ++o)
      judged.beside = judged.beside && std::isnan(got[static_cast<size_t>(m * stride + o)]);
  }
  return judged;
}

// A number that is not finite in one place: a level and a scale that one code and one block of all have, an
// element of plain weights or of x. What does not depend on it stays right.
enum class Place { kNowhere, kLevel, kScale, kWeight, kInput };
struct Planted {
  Place place = Place::kNowhere;
  bool last = false;  // the last one of them, and infinite; else the first one, and NaN
  float value() const { return last ? INFINITY : NAN; }
  uint16_t bf16() const { return last ? 0x7f80 : 0x7fc0; }
  template <typename T>
  void into(std::vector<T>& all, T broken) const {
    (last ? all.back() : all.front()) = broken;
  }
  std::string text() const {
    static const char* const kNames[] = {"", "level", "scale", "weight", "input"};
    return place == Place::kNowhere
               ? ""
               : std::string(last ? ", last " : ", first ") + kNames[static_cast<int>(place)] + " broken";
  }
};

inline void plant(const Planted& planted, bool nested, MatrixParts& parts) {
  if (planted.place == Place::kLevel) {
    for (uint8_t& pair : parts.codes)
      for (const int one : {0x10, 0x01})
        if ((pair & 15 * one) == 0) pair = static_cast<uint8_t>(pair | one);
    planted.into(parts.codes, static_cast<uint8_t>(planted.last ? 0x10 : 0x01));
    parts.levels[0] = planted.value();
  } else if (planted.place == Place::kScale && nested) {
    for (uint8_t& code : parts.nested_codes) code = std::max<uint8_t>(code, 1);
    planted.into(parts.nested_codes, uint8_t{0});
    parts.map[0] = planted.value();
  } else if (planted.place == Place::kScale) {
    planted.into(parts.scales, planted.value());
  }
}

// The product of `count` rows with a random matrix; y's rows lie `stride` apart and nothing between them may
// change.
inline void check_product(Product kind, int64_t rows, int64_t columns, int count, int shift, bool nested,
                          Random& random, Report& report, const Planted& planted = {}) {
  MatrixParts parts(rows, columns, shift, random);
  plant(planted, nested, parts);
  const Matrix matrix(rows, columns, shift, nested, parts);
  const int64_t depth = kind == Product::kTransposed ? rows : columns;
  const int64_t outputs = kind == Product::kTransposed ? columns : rows, stride = outputs + 3;
  std::vector<uint16_t> x = random.bf16s(static_cast<size_t>(count * depth));
  std::vector<float> exact(x.size());
  for (size_t i = 0; i < x.size(); ++i) exact[i] = kind == Product::kExact ? random.normal() : bf16(x[i]);
  if (planted.place == Place::kInput) {
    planted.into(exact, planted.value());
    planted.into(x, planted.bf16());
  }
  const Buffer<uint16_t> device_x(x);
  const Buffer<float> device_exact(exact);
  const Buffer<float> y(static_cast<size_t>(count * stride));
  const gpu::Nf4 view = matrix.view();
  if (kind == Product::kFew) gpu::multiply_few(view, device_x.get(), count, y.get(), stride, 2);
  if (kind == Product::kExact) {
    if (count == 1) gpu::multiply_exact<1>(view, device_exact.get(), y.get(), stride);
    if (count == 4) gpu::multiply_exact<4>(view, device_exact.get(), y.get(), stride);
  }
  if (kind == Product::kMany)
    gpu::multiply_many<false>(view, device_x.get(), depth, count, y.get(), stride, true, 2);
  if (kind == Product::kTransposed)
    gpu::multiply_many<true>(view, device_x.get(), depth, count, y.get(), stride, true, 2);
  synchronize();
  const std::vector<float> got = y.read();
  std::vector<double> w(static_cast<size_t>(rows * columns));
  for (size_t i = 0; i < w.size(); ++i) w[i] = matrix.at(static_cast<int64_t>(i));
  const Judged judged = judge(w, exact, rows, columns, count, kind == Product::kTransposed, 1, y, got);
  const bool exactly = kind == Product::kExact;
  static const char* const kNames[] = {"few rows", "few rows, float32", "many rows", "transposed"};
  char name[160];
  std::snprintf(name, sizeof name, "%s %lldx%lld by %d, blocks of %d%s%s", kNames[static_cast<int>(kind)],
                static_cast<long long>(rows), static_cast<long long>(columns), count, 1 << shift,
                nested ? ", 8-bit scales" : "", planted.text().c_str());
  report.add(name, judged.beside && judged.errors.within(exactly ? 1e-6 : 2.5e-3, exactly ? 1e-5 : 4e-3),
             judged.errors.text() + (judged.beside ? "" : ", wrote beside its output"));
}

// Plain bf16 weights, there or back; `again`: once more on top of it.
inline void check_plain_product(bool transposed, int64_t rows, int64_t columns, int count, bool again,
                                Random& random, Report& report, const Planted& planted = {}) {
  const int64_t depth = transposed ? rows : columns, outputs = transposed ? columns : rows,
                stride = outputs + 3;
  std::vector<uint16_t> w = random.bf16s(static_cast<size_t>(rows * columns)),
                        x = random.bf16s(static_cast<size_t>(count * depth));
  if (planted.place == Place::kWeight) planted.into(w, planted.bf16());
  if (planted.place == Place::kInput) planted.into(x, planted.bf16());
  const Buffer<uint16_t> device_w(w), device_x(x);
  const Buffer<float> y(static_cast<size_t>(count * stride));
  gpu::Weights weights;
  weights.storage = gpu::Storage::kBF16;
  weights.elements = device_w.get();
  weights.rows = rows;
  weights.cols = columns;
  for (const bool more : {false, true}) {
    if (more && !again) continue;
    if (transposed)
      gpu::multiply_plain<true>(weights, device_x.get(), depth, count, y.get(), stride, more);
    else
      gpu::multiply_plain<false>(weights, device_x.get(), depth, count, y.get(), stride, more);
  }
  synchronize();
  const std::vector<float> got = y.read();
  const auto widened = [](const std::vector<uint16_t>& halves) {
    std::vector<double> all;
    for (const uint16_t half : halves) all.push_back(double{bf16(half)});
    return all;
  };
  const Judged judged =
      judge(widened(w), widened(x), rows, columns, count, transposed, again ? 2 : 1, y, got);
  char name[160];
  std::snprintf(name, sizeof name, "plain%s %lldx%lld by %d%s%s", transposed ? " transposed" : "",
                static_cast<long long>(rows), static_cast<long long>(columns), count, again ? ", twice" : "",
                planted.text().c_str());
  report.add(name, judged.beside && judged.errors.within(1e-6, 1e-5),
             judged.errors.text() + (judged.beside ? "" : ", wrote beside its output"));
}

// Shapes that end inside of tiles and of a warp's turns: what lies behind the end is not 0 times another
// number.
inline void check_broken_numbers(Random& random, Report& report) {
  using P = Product;
  for (const bool last : {false, true}) {
    for (const bool nested : {false, true}) {
      for (const Place place : {Place::kLevel, Place::kScale, Place::kInput}) {
        const Planted planted{place, last};
        check_product(P::kFew, 35, 320, 3, 6, nested, random, report, planted);
        check_product(P::kExact, 35, 320, 4, 6, nested, random, report, planted);
        check_product(P::kMany, 70, 192, 9, 6, nested, random, report, planted);
        check_product(P::kMany, 30, 64, 130, 6, nested, random, report, planted);
        check_product(P::kTransposed, 72, 192, 9, 6, nested, random, report, planted);
      }
    }
    for (const Place place : {Place::kWeight, Place::kInput})
      for (const bool transposed : {false, true})
        check_plain_product(transposed, 72, 136, 9, false, random, report, {place, last});
  }
}

// `large`: shapes that only a device computes in reasonable time.
inline void check_products(bool large, Random& random, Report& report) {
  using P = Product;
  for (const bool nested : {false, true}) {
    check_product(P::kFew, 64, 256, 1, 6, nested, random, report);
    check_product(P::kFew, 67, 1088, 1, 6, nested, random, report);
    check_product(P::kFew, 33, 64, 3, 6, nested, random, report);
    check_product(P::kFew, 48, 1152, 8, 7, nested, random, report);
    check_product(P::kExact, 35, 320, 1, 6, nested, random, report);
    check_product(P::kExact, 9, 1088, 4, 7, nested, random, report);
  }
  check_product(P::kFew, 17, 8320, 5, 6, true, random, report);
  // More tiles than a launch has blocks.
  check_product(P::kFew, 600, 64, 3, 6, false, random, report);
  check_product(P::kFew, 150, 2112, 7, 6, true, random, report);
  check_product(P::kMany, 129, 320, 70, 6, true, random, report);
  check_product(P::kMany, 64, 64, 9, 6, false, random, report);
  // Blocks of 112 outputs and of 128, two of each.
  check_product(P::kMany, 220, 192, 129, 6, false, random, report);
  check_product(P::kMany, 230, 192, 260, 6, true, random, report);
  check_product(P::kTransposed, 136, 192, 70, 6, true, random, report);
  check_product(P::kTransposed, 64, 64, 9, 6, false, random, report);
  check_plain_product(false, 129, 200, 9, false, random, report);
  check_plain_product(false, 30, 64, 130, true, random, report);
  check_plain_product(true, 136, 72, 12, false, random, report);
  check_plain_product(true, 64, 136, 129, true, random, report);
  check_broken_numbers(random, report);
  if (!large) return;
  check_plain_product(false, 1000, 2056, 300, false, random, report);
  check_plain_product(true, 1000, 2056, 300, true, random, report);
  for (int count : {1, 2, 7, 8}) check_product(P::kFew, 1031, 4096, count, 6, count % 2 == 0, random, report);
  check_product(P::kFew, 272, 14336, 8, 6, true, random, report);
  check_product(P::kExact, 1031, 4096, 4, 6, true, random, report);
  check_product(P::kMany, 1000, 2112, 300, 6, true, random, report);
  check_product(P::kMany, 300, 1024, 200, 8, true, random, report);
  check_product(P::kTransposed, 1000, 2112, 300, 6, true, random, report);
}

}  // namespace conformance

#endif  // NFLOAT_TESTS_CUDA_PRODUCTS_H_

// SPDX-License-Identifier: Apache-2.0
#include "tune/loftq.h"

#include <algorithm>
#include <cmath>

#include "architecture/families.h"
#include "base/fail.h"
#include "base/parallel.h"
#include "convert/adapter_names.h"
#include "kernels/dispatch.h"
#include "tensor/floats.h"
#include "tensor/orthonormal.h"
#include "tune/frozen.h"
#include "tune/random.h"

namespace nfloat {
namespace {

constexpr int64_t kExtra = 8;  // vectors beyond the rank, which make those of the rank exact sooner
constexpr int kIterations = 8;

// [rows][columns]
struct Matrix {
  Matrix(int64_t r, int64_t c) : rows(r), columns(c), values(static_cast<size_t>(r * c)) {}
  float& at(int64_t row, int64_t column) { return values[static_cast<size_t>(row * columns + column)]; }
  float at(int64_t row, int64_t column) const { return values[static_cast<size_t>(row * columns + column)]; }
  int64_t rows, columns;
  std::vector<float> values;
};

// c = a b, or a^T b; rows of c shared out.
Matrix multiply(const Matrix& a, bool transposed, const Matrix& b, int threads) {
  Matrix c(transposed ? a.columns : a.rows, b.columns);
  constexpr int64_t kGrain = 48;
  const int64_t a_row = transposed ? 1 : a.columns, a_column = transposed ? a.columns : 1;
  parallel_for(c.rows, kGrain, threads, [&](int64_t begin, int64_t end) {
    kernels::table().train.product({.a = a.values.data() + begin * a_row,
                                    .a_row = a_row,
                                    .a_column = a_column,
                                    .b = b.values.data(),
                                    .b_stride = b.columns,
                                    .c = c.values.data() + begin * c.columns,
                                    .c_stride = c.columns,
                                    .m = end - begin,
                                    .n = c.columns,
                                    .k = b.rows});
  });
  return c;
}

// Columns made orthonormal; columns that depend on earlier ones become zero.
void orthonormalize(Matrix& m) {
  std::vector<double> columns(m.values.size());  // [column][row]
  for (int64_t i = 0; i < m.rows; ++i)
    for (int64_t j = 0; j < m.columns; ++j)
      columns[static_cast<size_t>(j * m.rows + i)] = static_cast<double>(m.at(i, j));
  orthonormalize_rows(columns, m.rows);
  for (int64_t i = 0; i < m.rows; ++i)
    for (int64_t j = 0; j < m.columns; ++j)
      m.at(i, j) = static_cast<float>(columns[static_cast<size_t>(j * m.rows + i)]);
}

// Eigenvectors of a symmetric matrix, as columns, the largest eigenvalue first; Jacobi's rotations.
std::vector<double> eigenvectors(std::vector<double> a, size_t n, std::vector<double>& eigenvalues) {
  std::vector<double> v(n * n, 0.0);
  for (size_t i = 0; i < n; ++i) v[i * n + i] = 1;
  for (int sweep = 0; sweep < 30; ++sweep)
    for (size_t p = 0; p < n; ++p)
      for (size_t q = p + 1; q < n; ++q) {
        const double off = a[p * n + q];
        if (std::abs(off) <= 1e-15 * std::sqrt(std::abs(a[p * n + p] * a[q * n + q]))) continue;
        const double theta = (a[q * n + q] - a[p * n + p]) / (2 * off);
        const double t = (theta >= 0 ? 1 : -1) / (std::abs(theta) + std::sqrt(theta * theta + 1));
        const double c = 1 / std::sqrt(t * t + 1), s = t * c;
        const auto rotate = [&](double& x, double& y) {
          const double old = x;
          x = c * old - s * y;
          y = s * old + c * y;
        };
        for (size_t k = 0; k < n; ++k) rotate(a[k * n + p], a[k * n + q]);
        for (size_t k = 0; k < n; ++k) rotate(a[p * n + k], a[q * n + k]);
        for (size_t k = 0; k < n; ++k) rotate(v[k * n + p], v[k * n + q]);
      }
  std::vector<size_t> order(n);
  for (size_t i = 0; i < n; ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](size_t x, size_t y) { return a[x * n + x] > a[y * n + y]; });
  std::vector<double> sorted(n * n);
  eigenvalues.resize(n);
  for (size_t j = 0; j < n; ++j) {
    eigenvalues[j] = a[order[j] * n + order[j]];
    for (size_t i = 0; i < n; ++i) sorted[i * n + j] = v[i * n + order[j]];
  }
  return sorted;
}

// W - Q.
Matrix residual(const LinearModule& at, const Model::State& model, FrozenProducts& products,
                const Checkpoint& original, const std::string& name) {
  const TensorInfo& info = *original.find(name);
  const bool transposed = find_family(model.config.family)->stored_transposed;
  const Shape expected = transposed ? Shape({at.in, at.out}) : Shape({at.out, at.in});
  if (!is_quantizable(info.dtype) || info.shape != expected)
    fail(ErrorCode::kMalformedFile, "{}: tensor '{}' is {} {}, expected {} of F32, F16 or BF16",
         original.path(), name, dtype_name(info.dtype), info.shape.to_string(), expected.to_string());
  std::vector<float> stored = floats_of(original.view(info));
  const LinearGroup& group = group_at(model.layers[static_cast<size_t>(at.layer)], at.place);
  Matrix result(at.out, at.in);
  over_decoded_rows(products, group, at.part, [&](int64_t o, const float* row) {
    for (int64_t i = 0; i < at.in; ++i)
      result.at(o, i) = stored[static_cast<size_t>(transposed ? i * at.out + o : o * at.in + i)] - row[i];
  });
  return result;
}

}  // namespace

void start_from_residual(Adapter& adapter, const Model::State& model, const Checkpoint& original,
                         uint64_t seed, int threads) {
  const BaseNames names(original);
  FrozenProducts products(*model.device, false, Precision::kF32, threads);
  double lost = 0;
  for (size_t number = 0; number < adapter.modules.size(); ++number) {
    LoraModule& module = adapter.modules[number];
    const LinearModule& at = module.at();
    const std::string name = names.find(at.name + ".weight");
    if (name.empty()) fail(ErrorCode::kMalformedFile, "{}: no tensor '{}.weight'", original.path(), at.name);
    const Matrix error = residual(at, model, products, original, name);
    double power = 0;
    for (const float value : error.values) power += static_cast<double>(value) * static_cast<double>(value);
    if (!std::isfinite(power))
      fail(ErrorCode::kNotFinite, "{}: tensor '{}' is not finite", original.path(), name);
    lost += power;

    const int64_t rank = module.rank(), width = std::min({rank + kExtra, at.in, at.out});
    Matrix right(at.in, width);
    for (size_t i = 0; i < right.values.size(); ++i)
      right.values[i] = static_cast<float>(uniform(seed, RandomUse::kStart, number, i) - 0.5);
    Matrix left(0, 0);
    for (int i = 0; i < kIterations; ++i) {
      left = multiply(error, false, right, threads);
      orthonormalize(left);
      right = multiply(error, true, left, threads);
      if (i + 1 < kIterations) orthonormalize(right);
    }
    // error is nearly left right^T: the small product's eigenvectors make the pairs of singular vectors.
    const auto n = static_cast<size_t>(width);
    std::vector<double> gram(n * n, 0.0), squares;
    for (int64_t i = 0; i < at.in; ++i)
      for (int64_t p = 0; p < width; ++p)
        for (int64_t q = 0; q < width; ++q)
          gram[static_cast<size_t>(p * width + q)] +=
              static_cast<double>(right.at(i, p)) * static_cast<double>(right.at(i, q));
    const std::vector<double> rotation = eigenvectors(std::move(gram), n, squares);
    const auto combined = [&](const Matrix& m, int64_t row, int64_t j) {
      double sum = 0;
      for (int64_t p = 0; p < width; ++p)
        sum += static_cast<double>(m.at(row, p)) * rotation[static_cast<size_t>(p * width + j)];
      return sum;
    };
    const auto scale = static_cast<double>(module.scale());
    for (int64_t j = 0; j < std::min(rank, width); ++j) {
      const double s = std::sqrt(std::max(squares[static_cast<size_t>(j)], 0.0));
      if (s <= 0) continue;  // A keeps its start, B is zero
      const double up = std::sqrt(s / std::abs(scale)), down = 1 / std::sqrt(s * std::abs(scale));
      for (int64_t o = 0; o < at.out; ++o)
        module.b[static_cast<size_t>(o * rank + j)] =
            static_cast<float>(combined(left, o, j) * std::copysign(up, scale));
      for (int64_t i = 0; i < at.in; ++i)
        module.a[static_cast<size_t>(j * at.in + i)] = static_cast<float>(combined(right, i, j) * down);
    }
    module.refresh();
  }
  if (lost == 0)
    fail(ErrorCode::kInvalidArgument, "{}: the model's weights are these: quantization lost nothing of them",
         original.path());
  ++adapter.version;
}

}  // namespace nfloat

// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TESTS_UNIT_ENGINE_ENGINE_TEST_H_
#define NFLOAT_TESTS_UNIT_ENGINE_ENGINE_TEST_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "engine/layer_engine.h"
#include "kernels/dispatch.h"
#include "reference/steps.h"

namespace nfloat::testing {

inline constexpr double kUlp = 0x1p-24;  // of a float32 near 1, half of it
inline constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

inline size_t index(int64_t i) {
  return static_cast<size_t>(i);
}

// How the inputs are distributed.
enum class Inputs { kNormal, kHeavyTailed, kZero };

// Rows of width floats in a buffer of the engine that ends with the last row; the floats between rows are not
// a number, and stay so.
class Table {
 public:
  Table(LayerEngine& engine, int64_t rows, int64_t width, int64_t gap = 0)
      : engine_(engine), count_(rows), width_(width), gap_(gap) {
    at_ = {engine.make((rows - 1) * (width + gap) + width), 0, width + gap};
    fill(std::vector<float>(index(rows * width), kNaN));
  }
  Table(const Table&) = delete;
  Table& operator=(const Table&) = delete;
  ~Table() { engine_.drop(at_.buffer); }

  const BufferRows& at() const { return at_; }
  int64_t rows() const { return count_; }

  void fill(const std::vector<float>& values) {
    for (int64_t row = 0; row < count_; ++row) {
      const int64_t wide = row + 1 < count_ ? width_ + gap_ : width_;
      float* to = engine_.host(at_.from(row), 1, wide);
      for (int64_t i = 0; i < wide; ++i) to[i] = i < width_ ? values[index(row * width_ + i)] : kNaN;
      engine_.write(at_.from(row), 1, wide);
    }
  }
  std::vector<float> values() {
    std::vector<float> all;
    for (int64_t row = 0; row < count_; ++row) {
      const int64_t wide = row + 1 < count_ ? width_ + gap_ : width_;
      const float* from = engine_.read(at_.from(row), 1, wide);
      all.insert(all.end(), from, from + width_);
      for (int64_t i = width_; i < wide; ++i) EXPECT_TRUE(std::isnan(from[i])) << "beside row " << row;
    }
    return all;
  }

 private:
  LayerEngine& engine_;
  BufferRows at_;
  int64_t count_, width_, gap_;
};

// Every test runs on every device that is there.
class EngineTest : public ::testing::TestWithParam<size_t> {
 protected:
  void SetUp() override {
    if (std::getenv("NFLOAT_TARGET") != nullptr && kernels::forced_target_error() != nullptr)
      GTEST_SKIP() << "needs a processor that can run the target NFLOAT_TARGET names";
    device_ = devices()[GetParam()];
    engine_ = device_->engine();
    engine_->use_threads(3);
  }

  std::vector<float> random(int64_t count, Inputs inputs = Inputs::kNormal, float size = 1) {
    std::normal_distribution<float> normal;
    std::vector<float> values(index(count));
    if (inputs == Inputs::kZero) return values;
    for (float& value : values) {
      value = normal(generator_) * size;
      // A few thousand times the rest, as the hidden states of trained models have them.
      if (inputs == Inputs::kHeavyTailed && generator_() % 61 == 0) value *= 3000;
    }
    return values;
  }
  Constant constant(std::vector<float> values) {
    Constant made(std::move(values));
    device_->place(made);
    return made;
  }
  Table& table(int64_t rows, int64_t width, int64_t gap = 0) {
    return *tables_.emplace_back(std::make_unique<Table>(*engine_, rows, width, gap));
  }

  static reference::Row row_of(const std::vector<float>& values, int64_t row, int64_t width) {
    return reference::Row(values.begin() + row * width, values.begin() + (row + 1) * width);
  }
  static reference::Row widened(std::span<const float> values) {
    return reference::Row(values.begin(), values.end());
  }

  std::shared_ptr<Device> device_;
  std::unique_ptr<LayerEngine> engine_;
  std::vector<std::unique_ptr<Table>> tables_;
  std::mt19937 generator_{12345};
};

#define NFLOAT_ON_EVERY_DEVICE(suite)                                                     \
  INSTANTIATE_TEST_SUITE_P(Devices, suite, ::testing::Range(size_t{0}, devices().size()), \
                           [](const ::testing::TestParamInfo<size_t>& device) {           \
                             std::string name(devices()[device.param]->name());           \
                             std::replace(name.begin(), name.end(), ':', '_');            \
                             return name;                                                 \
                           })

}  // namespace nfloat::testing

#endif  // NFLOAT_TESTS_UNIT_ENGINE_ENGINE_TEST_H_

// SPDX-License-Identifier: Apache-2.0
// The steps of every engine that is there, apart from attention and mixtures, against double precision: odd
// sizes, rows with gaps between them, buffers that end with the last row, heavy tails, rows of zeros and of
// what is not a number. Bounds follow from the data.
#include <cstring>
#include <functional>

#include "engine_test.h"
#include "nfloat/error.h"
#include "nfloat/quantize.h"
#include "reference/gemm.h"
#include "reference/transformer.h"

namespace nfloat::testing {
namespace {

constexpr int64_t kWidths[] = {1, 3, 15, 16, 17, 33, 100, 257};
constexpr int64_t kRowCounts[] = {1, 2, 7, 19};
constexpr Inputs kInputs[] = {Inputs::kNormal, Inputs::kHeavyTailed, Inputs::kZero};

class EngineConformance : public EngineTest {
 protected:
  NormWeights norm_weights(int64_t width, NormKind kind) {
    NormWeights weights{constant(random(width)), {}};
    if (kind == NormKind::kLayer) weights.bias = constant(random(width));
    return weights;
  }

  // y = the norm of x, each within a few roundings of its terms; a mean is rounded by as much as its largest
  // number.
  static void expect_norm(const reference::Row& x, const NormStep& step, const float* y) {
    const reference::Row weight = widened(step.weights->weight), bias = widened(step.weights->bias);
    const bool centred = step.kind == NormKind::kLayer;
    const double epsilon = static_cast<double>(step.epsilon);
    const reference::Row expected = reference::normalized(x, weight, bias, epsilon, centred);
    double largest = 0, squares = 0, mean = 0;
    for (const double value : x) mean += centred ? value / static_cast<double>(x.size()) : 0;
    for (const double value : x) {
      largest = std::max(largest, std::fabs(value));
      squares += (value - mean) * (value - mean) / static_cast<double>(x.size());
    }
    const double inverse = 1 / std::sqrt(squares + epsilon);
    const double sums = 16 + std::sqrt(static_cast<double>(x.size()));
    for (size_t i = 0; i < x.size(); ++i) {
      double bound = sums * std::fabs((x[i] - mean) * inverse * weight[i]);
      if (centred) bound += sums * largest * inverse * std::fabs(weight[i]) + std::fabs(expected[i]);
      ASSERT_NEAR(static_cast<double>(y[i]), expected[i], bound * kUlp + 1e-37) << "column " << i;
    }
  }

  void check_norm(NormKind kind, int64_t rows, int64_t width, int64_t parts, Inputs inputs) {
    const int64_t part_stride = width + 2, all = (parts - 1) * part_stride + width;
    const NormWeights weights = norm_weights(width, kind);
    const NormStep step{&weights, kind, 1e-5f, width, parts, part_stride};
    const std::vector<float> x = random(rows * all, inputs);
    Table &from = table(rows, all, 3), &to = table(rows, all, 5);
    from.fill(x);
    to.fill(x);
    engine_->norm(step, from.at(), to.at(), rows);
    engine_->norm(step, from.at(), from.at(), rows);  // in place
    const std::vector<float> y = to.values();
    ASSERT_EQ(std::memcmp(y.data(), from.values().data(), y.size() * sizeof(float)), 0);
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t i = 0; i < all; ++i) {
        const int64_t at = row * all + i;
        if (i % part_stride >= width)
          ASSERT_EQ(y[index(at)], x[index(at)]) << "between parts";
        else if (i % part_stride == 0)
          expect_norm(row_of({x.begin() + at, x.begin() + at + width}, 0, width), step, y.data() + at);
      }
  }

  // A 4-bit matrix as the device has it, and in float32.
  struct Weights {
    LinearGroup group;
    std::vector<float> values;  // [outputs][inputs]
    std::vector<float> bias;
  };
  void add_quantized(Weights& weights, int64_t rows, int64_t cols, bool nested, bool with_bias) {
    const std::vector<float> plain = random(rows * cols);
    const TensorView view{DType::kF32, Shape({rows, cols}), std::as_bytes(std::span(plain))};
    const QuantizedTensor tensor =
        quantize_blockwise(view, make_codebook("nf4"), {.double_quantization = nested, .threads = 1});
    const std::vector<float> bias = with_bias ? random(rows) : std::vector<float>();
    const PackSource source = pack_source(tensor);
    weights.group.add(*device_, source, bias, 2);
    std::vector<float> decoded(plain.size());
    dequantize_blockwise(tensor, DType::kF32, std::as_writable_bytes(std::span(decoded)));
    weights.values.insert(weights.values.end(), decoded.begin(), decoded.end());
    for (int64_t i = 0; i < rows; ++i) weights.bias.push_back(with_bias ? bias[index(i)] : 0.0f);
  }
  void add_plain(Weights& weights, int64_t rows, int64_t cols) {
    const std::vector<float> plain = random(rows * cols);
    weights.group.add(*device_, {DType::kF32, Shape({rows, cols}), std::as_bytes(std::span(plain))},
                      DenseMatrix::Storage::kF32, {}, 2);
    weights.values.insert(weights.values.end(), plain.begin(), plain.end());
    weights.bias.resize(weights.bias.size() + index(rows));
  }
};
NFLOAT_ON_EVERY_DEVICE(EngineConformance);

TEST_P(EngineConformance, Norms) {
  for (const NormKind kind : {NormKind::kRms, NormKind::kLayer})
    for (const int64_t width : kWidths)
      for (const Inputs inputs : kInputs)
        for (const int64_t rows : kRowCounts) {
          SCOPED_TRACE(::testing::Message() << "kind " << static_cast<int>(kind) << " width " << width
                                            << " rows " << rows << " inputs " << static_cast<int>(inputs));
          check_norm(kind, rows, width, rows % 3 + 1, inputs);
        }
}

TEST_P(EngineConformance, Products) {
  for (const auto& [cols, counts] : {std::pair<int64_t, std::vector<int64_t>>{64, {48, 16, 16}},
                                     {192, {33}},
                                     {128, {17, 16}},
                                     {96, {1, 17}},
                                     {320, {70, 70}}})
    for (const bool nested : {false, true}) {
      Weights weights;
      for (size_t i = 0; i < counts.size(); ++i) add_quantized(weights, counts[i], cols, nested, i % 2 == 0);
      if (nested) add_plain(weights, 5, cols);
      const int64_t outputs = weights.group.outputs();
      ASSERT_EQ(weights.group.inputs(), cols);
      for (const int64_t rows : {1, 2, 9, 33, 70})
        for (const Inputs inputs : kInputs) {
          const std::vector<float> x = random(rows * cols, inputs);
          const reference::Product expected =
              reference::multiply(x, weights.values, weights.bias, rows, outputs, cols);
          Table& from = table(rows, cols, 4);
          from.fill(x);
          for (const Precision precision : {Precision::kF32, Precision::kBF16, Precision::kInt8}) {
            SCOPED_TRACE(::testing::Message()
                         << outputs << " x " << cols << " rows " << rows << " nested " << nested << " inputs "
                         << static_cast<int>(inputs) << " precision " << static_cast<int>(precision));
            Table& to = table(rows, outputs, 3);
            engine_->multiply(weights.group, from.at(), to.at(), rows, precision);
            const std::vector<float> y = to.values();
            // One rounding of each factor in bf16; in int8, steps of a 127th of the largest at most. Where
            // one term is far above the others, every later addition rounds by its size: a random walk.
            const double walk = 2 * kUlp * (4 + std::sqrt(static_cast<double>(cols)));
            const double share = (precision == Precision::kBF16 ? 1.01 * 0x1p-7 : 1e-6) +
                                 (inputs == Inputs::kHeavyTailed ? walk : 0);
            double largest = 0, heaviest = 0;
            for (const float value : x) largest = std::max(largest, std::fabs(double{value}));
            for (const float value : weights.values) heaviest = std::max(heaviest, std::fabs(double{value}));
            for (int64_t row = 0; row < rows; ++row)
              for (int64_t o = 0; o < outputs; ++o) {
                const size_t at = index(row * outputs + o);
                double bound = share * expected.magnitude[at];
                if (precision == Precision::kInt8)
                  for (int64_t i = 0; i < cols; ++i)
                    bound += (largest * std::fabs(double{weights.values[index(o * cols + i)]}) +
                              heaviest * std::fabs(double{x[index(row * cols + i)]})) /
                             127;
                ASSERT_NEAR(double{y[at]}, expected.y[at], bound + 1e-37) << "row " << row << " output " << o;
              }
          }
        }
    }
}

// Gradients of inputs: the same matrices, transposed in the oracle, of one to several parts side by side.
TEST_P(EngineConformance, TransposedProducts) {
  for (const auto& [cols, counts] : {std::pair<int64_t, std::vector<int64_t>>{64, {48, 16, 16}},
                                     {192, {33}},
                                     {128, {17, 16}},
                                     {96, {1, 17}},
                                     {320, {72, 200}}})
    for (const bool nested : {false, true}) {
      Weights weights;
      for (size_t i = 0; i < counts.size(); ++i) add_quantized(weights, counts[i], cols, nested, i % 2 == 0);
      if (nested && cols != 320) add_plain(weights, 5, cols);
      const int64_t outputs = weights.group.outputs();
      std::vector<float> transposed(weights.values.size());
      for (int64_t o = 0; o < outputs; ++o)
        for (int64_t i = 0; i < cols; ++i)
          transposed[index(i * outputs + o)] = weights.values[index(o * cols + i)];
      const std::vector<float> no_bias(index(cols));
      for (const int64_t rows : {1, 2, 9, 33, 130})
        for (const Inputs inputs : kInputs) {
          const std::vector<float> dy = random(rows * outputs, inputs);
          const reference::Product expected =
              reference::multiply(dy, transposed, no_bias, rows, cols, outputs);
          Table& from = table(rows, outputs, 5);
          from.fill(dy);
          for (const Precision precision : {Precision::kF32, Precision::kBF16}) {
            SCOPED_TRACE(::testing::Message()
                         << outputs << " x " << cols << " rows " << rows << " nested " << nested << " inputs "
                         << static_cast<int>(inputs) << " precision " << static_cast<int>(precision));
            Table& to = table(rows, cols, 3);
            engine_->multiply_transposed(weights.group, from.at(), to.at(), rows, precision);
            const std::vector<float> dx = to.values();
            const double walk = 2 * kUlp * (4 + std::sqrt(static_cast<double>(outputs)));
            const double share = (precision == Precision::kBF16 ? 1.01 * 0x1p-7 : 1e-6) +
                                 (inputs == Inputs::kHeavyTailed ? walk : 0);
            for (size_t at = 0; at < dx.size(); ++at)
              ASSERT_NEAR(double{dx[at]}, expected.y[at], share * expected.magnitude[at] + 1e-37)
                  << "row " << at / index(cols) << " column " << at % index(cols);
          }
        }
    }
}

TEST_P(EngineConformance, Activations) {
  for (const Activation kind : {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh,
                                Activation::kQuickGelu, Activation::kRelu})
    for (const int64_t width : kWidths)
      for (const bool gated : {false, true})
        for (const float limit : {0.0f, 7.0f}) {
          if (limit > 0 && (!gated || kind != Activation::kSilu)) continue;
          const int64_t rows = width % 4 + 1, wide = gated ? 2 * width : width;
          const std::vector<float> x = random(rows * wide, Inputs::kNormal, 4);
          Table& both = table(rows, wide, 1);
          both.fill(x);
          engine_->activate({kind, gated, limit, width}, both.at(), rows);
          const std::vector<float> y = both.values();
          for (int64_t row = 0; row < rows; ++row)
            for (int64_t i = 0; i < width; ++i) {
              const float* own = x.data() + row * wide;
              double expected = 0;
              if (limit > 0) {
                const double gate = std::min(double{own[2 * i]}, 7.0),
                             up = std::clamp(double{own[2 * i + 1]}, -7.0, 7.0);
                expected = (up + 1) * gate / (1 + std::exp(-1.702 * gate));
              } else {
                const double gate = double{own[i]};
                expected = kind == Activation::kSilu        ? gate / (1 + std::exp(-gate))
                           : kind == Activation::kGelu      ? 0.5 * gate * std::erfc(-gate / std::sqrt(2.0))
                           : kind == Activation::kGeluTanh  ? reference::gelu_tanh(gate)
                           : kind == Activation::kQuickGelu ? gate / (1 + std::exp(-1.702 * gate))
                                                            : std::max(gate, 0.0);
                if (gated) expected *= double{own[width + i]};
              }
              // The argument of tanh is rounded: relative 1e-6 of what is far below zero is lost with it.
              ASSERT_NEAR(double{y[index(row * wide + i)]}, expected, 4e-6 * std::fabs(expected) + 1e-6)
                  << static_cast<int>(kind) << " width " << width << " row " << row << " column " << i;
            }
        }
}

TEST_P(EngineConformance, AddsToTheResidualStream) {
  for (const int64_t width : kWidths)
    for (const int64_t rows : kRowCounts)
      for (const int kind : {0, 1, 2}) {  // plain, normalized before, normalized after
        const NormWeights weights = norm_weights(width, NormKind::kRms);
        const NormStep norm{&weights, NormKind::kRms, 1e-6f, width};
        const float scale = kind == 0 ? 0.22f : 1.0f;
        const std::vector<float> x = random(rows * width), added = random(rows * width, Inputs::kHeavyTailed);
        Table &stream = table(rows, width, 2), &block = table(rows, width, 1);
        stream.fill(x);
        block.fill(added);
        engine_->add(kind == 1 ? norm : NormStep{}, scale, kind == 2 ? norm : NormStep{}, block.at(),
                     stream.at(), rows, width);
        const std::vector<float> y = stream.values();
        for (int64_t row = 0; row < rows; ++row) {
          const reference::Row own = row_of(x, row, width), weight = widened(weights.weight);
          reference::Row sum = row_of(added, row, width);
          if (kind == 1) sum = reference::normalized(sum, weight, {}, double{norm.epsilon}, false);
          double size = 0;
          for (size_t i = 0; i < sum.size(); ++i) {
            size = std::max(size, std::fabs(own[i]) + std::fabs(sum[i]));
            sum[i] = own[i] + double{scale} * sum[i];
          }
          double factor = 1;
          if (kind == 2) {
            double squares = 0;
            for (const double value : sum) squares += value * value / static_cast<double>(sum.size());
            factor = 1 / std::sqrt(squares + double{norm.epsilon});
            sum = reference::normalized(sum, weight, {}, double{norm.epsilon}, false);
          }
          for (size_t i = 0; i < sum.size(); ++i)
            ASSERT_NEAR(double{y[index(row * width) + i]}, sum[i],
                        (16 + std::sqrt(static_cast<double>(width))) * kUlp *
                            (std::fabs(sum[i]) + size * factor * std::max(1.0, std::fabs(weight[i]))))
                << "kind " << kind << " row " << row << " column " << i;
        }
      }
}

TEST_P(EngineConformance, CopiesAndTellsWhatIsNotFinite) {
  for (const auto& [width, gap] : {std::pair<int64_t, int64_t>{33, 3}, {132, 4}}) {
    const std::vector<float> x = random(7 * width);
    Table &from = table(7, width, gap), &to = table(4, width, gap + 4);
    from.fill(x);
    engine_->copy(from.at().from(2), to.at(), 4, width);
    EXPECT_EQ(to.values(), std::vector<float>(x.begin() + 2 * width, x.begin() + 6 * width));
    const int64_t own_width = width;
    const auto finite = [&](const BufferRows& rows, int64_t count) {
      const bool at_once = engine_->finite(rows, count, own_width);
      return at_once && engine_->first_broken() < 0;
    };
    EXPECT_TRUE(finite(from.at(), 7)) << "what lies between rows does not count";
    for (const float bad : {kNaN, INFINITY, -INFINITY})
      for (const int64_t place : {int64_t{0}, 6 * width + 1, 6 * width + width - 2, 7 * width - 1}) {
        std::vector<float> with = x;
        with[index(place)] = bad;
        from.fill(with);
        EXPECT_FALSE(finite(from.at(), 7));
        EXPECT_TRUE(finite(from.at().from(1), 5));
      }
  }
  EXPECT_EQ(engine_->first_broken(), -1) << "nothing was asked";
}

// What is found late is counted from the first question on, and questions that were given up answer nothing.
TEST_P(EngineConformance, TellsTheFirstPlaceThatIsNotFinite) {
  std::vector<float> with = random(4 * 33);
  with[2 * 33 + 5] = kNaN;
  Table& x = table(4, 33, 2);
  x.fill(with);
  if (!engine_->finite(x.at(), 4, 33))
    GTEST_SKIP() << "needs an engine whose steps run later; this one's finite() answers at once";
  EXPECT_EQ(engine_->first_broken(), 0);
  for (const int64_t before : {0, 1, 5, 1500}) {  // more than the engine keeps answers for
    for (int64_t i = 0; i < before; ++i) EXPECT_TRUE(engine_->finite(x.at(), 2, 33));
    for (int i = 0; i < 3; ++i) EXPECT_TRUE(engine_->finite(x.at().from(2), 1, 33));
    x.values();  // waits, too
    EXPECT_EQ(engine_->first_broken(), before);
    for (int64_t i = 0; i < before; ++i) engine_->finite(x.at().from(1), 2, 33);
    engine_->forget_looks();
    EXPECT_EQ(engine_->first_broken(), -1);
    engine_->finite(x.at(), 1, 33);
    engine_->finite(x.at(), 4, 33);
    EXPECT_EQ(engine_->first_broken(), 1);
  }
}

TEST_P(EngineConformance, PlacesEmbeddings) {
  const int64_t rows = 5, width = 19;
  const std::vector<float> x = random(rows * width), learned = random(30 * width);
  const Constant positions = constant(learned);
  const EmbeddingStep::Run runs[] = {{2, 4}, {3, 27}};
  for (const bool placed : {false, true}) {
    Table& states = table(rows, width, 2);
    states.fill(x);
    engine_->embed({width, 3.5f, placed ? &positions : nullptr, runs}, states.at());
    const std::vector<float> y = states.values();
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t i = 0; i < width; ++i) {
        const int64_t position = row < 2 ? 4 + row : 27 + row - 2;
        const double scaled = 3.5 * double{x[index(row * width + i)]},
                     own = placed ? double{learned[index(position * width + i)]} : 0.0;
        ASSERT_NEAR(double{y[index(row * width + i)]}, scaled + own,
                    2 * kUlp * (std::fabs(scaled) + std::fabs(own)));
      }
  }
}

TEST_P(EngineConformance, FinishesLogits) {
  for (const int64_t width : kWidths) {
    const std::vector<float> x = random(3 * width, Inputs::kHeavyTailed, 20);
    Table& logits = table(3, width);
    logits.fill(x);
    engine_->finish(0.5f, 30, logits.at(), 3, width);
    const std::vector<float> y = logits.values();
    for (size_t i = 0; i < x.size(); ++i) {
      const double expected = 30 * std::tanh(double{x[i]} * 0.5 / 30);
      ASSERT_NEAR(double{y[i]}, expected, 1e-6 * std::fabs(expected)) << x[i];
    }
  }
}

// What is not a number in one row changes no other.
TEST_P(EngineConformance, RowsDoNotDependOnOneAnother) {
  for (const int64_t rows : {6, 40}) {  // 40: in tiles, on a device that has them
    const int64_t width = 64, bad = 3;
    const std::vector<float> x = random(rows * width);
    std::vector<float> with = x;
    with[index(bad * width + 5)] = kNaN;
    const NormWeights norm = norm_weights(width, NormKind::kRms);
    Weights weights, across;
    add_quantized(weights, 20, width, true, true);
    add_quantized(across, width, 20, true, false);
    const std::pair<int64_t, std::function<void(Table&, Table&)>> steps[] = {
        {width,
         [&](Table& from, Table& to) {
           engine_->norm({&norm, NormKind::kRms, 1e-6f, width}, from.at(), to.at(), rows);
         }},
        {20, [&](Table& from,
                 Table& to) { engine_->multiply(weights.group, from.at(), to.at(), rows, Precision::kF32); }},
        {20,
         [&](Table& from, Table& to) {
           engine_->multiply_transposed(across.group, from.at(), to.at(), rows, Precision::kF32);
         }},
        {width, [&](Table& from, Table& to) {
           engine_->copy(from.at(), to.at(), rows, width);
           engine_->activate({Activation::kSilu, true, 0, width / 2}, to.at(), rows);
         }}};
    for (const auto& step : steps) {
      Table &from = table(rows, width, 1), &clean = table(rows, step.first, 2),
            &dirty = table(rows, step.first, 2);
      from.fill(x);
      step.second(from, clean);
      from.fill(with);
      step.second(from, dirty);
      const std::vector<float> y = clean.values(), z = dirty.values();
      bool seen = false;
      for (int64_t row = 0; row < rows; ++row)
        for (int64_t i = 0; i < step.first; ++i) {
          const size_t at = index(row * step.first + i);
          if (row == bad)
            seen = seen || std::isnan(z[at]);
          else
            ASSERT_EQ(y[at], z[at]) << "row " << row << " column " << i;
        }
      EXPECT_TRUE(seen);
    }
  }
}

// The numbers of dropped buffers are given again; what the others hold stays.
TEST_P(EngineConformance, BuffersAreMadeAndDropped) {
  std::vector<BufferId> ids;
  for (int i = 0; i < 20; ++i) {
    const BufferRows rows{engine_->make(8), 0, 8};
    ids.push_back(rows.buffer);
    std::fill_n(engine_->host(rows, 1, 8), 8, static_cast<float>(i));
    engine_->write(rows, 1, 8);
  }
  for (size_t i = 0; i < ids.size(); i += 2) engine_->drop(ids[i]);
  const BufferId again = engine_->make(100);
  EXPECT_NE(std::find(ids.begin(), ids.end(), again), ids.end());
  for (size_t i = 1; i < ids.size(); i += 2)
    EXPECT_EQ(engine_->read({ids[i], 0, 8}, 1, 8)[7], static_cast<float>(i));
  engine_->drop(BufferId::kNone);
}

TEST(Devices, TheEnvironmentNamesOne) {
  const char* before = std::getenv("NFLOAT_DEVICE");
  const std::string kept = before != nullptr ? before : "";
  for (const std::shared_ptr<Device>& device : devices()) {
    setenv("NFLOAT_DEVICE", std::string(device->name()).c_str(), 1);
    EXPECT_EQ(default_device()->name(), device->name());
  }
  for (const char* wrong :
       {"abacus", "vulkan:", "vulkan:x", "vulkan:99", "vulkan0", "cuda:", "cuda:x", "cuda:99", "CPU"}) {
    setenv("NFLOAT_DEVICE", wrong, 1);
    try {
      default_device();
      ADD_FAILURE() << wrong;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(),
                std::string(wrong).ends_with(":99") ? ErrorCode::kNotFound : ErrorCode::kInvalidArgument);
      EXPECT_NE(std::string(error.what()).find(wrong), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find("cpu ("), std::string::npos) << error.what();
    }
  }
  unsetenv("NFLOAT_DEVICE");
  EXPECT_EQ(default_device()->name(), "cpu");
  EXPECT_EQ(find_device("cpu")->name(), "cpu");
  const std::shared_ptr<Device> automatic = find_device("auto");
  EXPECT_TRUE(automatic->name() == "cpu" || automatic->accelerator()) << "a processor taken for a card";
  if (before != nullptr) setenv("NFLOAT_DEVICE", kept.c_str(), 1);
}

}  // namespace
}  // namespace nfloat::testing

// SPDX-License-Identifier: Apache-2.0
// What the steps of the other files do not reach on a device of CUDA, emulated or real: products on tensor
// cores, a card that fails.
#include <tuple>
#include <utility>

#include "base/float16.h"
#include "base/json.h"
#include "card_test.h"
#include "cuda/warp.h"
#include "cuda/why_none.h"
#include "nfloat/error.h"
#include "nfloat/results.h"
#include "support/emulated_card.h"

namespace nfloat::testing {
namespace {

constexpr double kBf16Factors =
    1.02 * 0x1p-8;  // each of two factors is rounded by a 2^-9th of itself at most

std::vector<std::shared_ptr<Device>> cuda_devices() {
  std::vector<std::shared_ptr<Device>> found;
  for (std::shared_ptr<Device>& device : devices())
    if (device->name().starts_with("cuda")) found.push_back(device);
  return found;
}

class Cuda : public CardTest, public ::testing::WithParamInterface<size_t> {
 protected:
  void SetUp() override { device_ = cuda_devices()[GetParam()]; }

  // With the transposed matrix, too.
  std::vector<float> product(const LinearGroup& group, const std::vector<float>& x, int64_t rows,
                             Precision precision, bool back = false) {
    if (!back) return CardTest::product(group, x, rows, precision);
    const std::unique_ptr<LayerEngine> engine = device_->engine();
    Table from(*engine, rows, group.outputs(), 3), to(*engine, rows, group.inputs(), 2);
    from.fill(x);
    engine->multiply_transposed(group, from.at(), to.at(), rows, precision);
    return to.values();
  }
  // What product() should give of W, [rows, cols].
  static reference::Product expected_product(const std::vector<float>& weights, int64_t rows, int64_t cols,
                                             const std::vector<float>& x, int64_t count, bool back) {
    if (!back) return reference::multiply(x, weights, {}, count, rows, cols);
    std::vector<float> across(weights.size());
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t i = 0; i < cols; ++i) across[index(i * rows + row)] = weights[index(row * cols + i)];
    return reference::multiply(x, across, {}, count, cols, rows);
  }
};
INSTANTIATE_TEST_SUITE_P(Devices, Cuda, ::testing::Range(size_t{0}, cuda_devices().size()),
                         [](const ::testing::TestParamInfo<size_t>& device) {
                           std::string name(cuda_devices()[device.param]->name());
                           std::replace(name.begin(), name.end(), ':', '_');
                           return name;
                         });

// What no kernel of tensor cores takes is computed in float32.
TEST_P(Cuda, OtherShapesAreComputedInFloat32) {
  for (const auto& [rows, cols, block] : {std::tuple<int64_t, int64_t, int64_t>{9, 24, 24},
                                          {3, 7, 16},
                                          {11, 33, 20},
                                          {33, 100, 64},
                                          {40, 72, 17},
                                          {6, 520, 64}})
    for (const int64_t batch : {1, 20})
      expect_product(coded(rows, cols, block, 4), batch, Precision::kBF16, 1e-6);
}

// Few rows, tiles of 128 and of 256 rows, rows and columns that fill no tile.
TEST_P(Cuda, ProductsOnTensorCores) {
  struct Shape {
    int64_t rows, cols, block;
  };
  for (const Shape& shape : {Shape{130, 64, 64}, {17, 320, 64}, {70, 256, 128}, {48, 512, 4096}})
    for (const int64_t nested : {0, 256})
      for (const int64_t rows : {1, 5, 8, 9, 131}) {
        SCOPED_TRACE(::testing::Message() << shape.rows << " x " << shape.cols << " in blocks of "
                                          << shape.block << " nested " << nested << " rows " << rows);
        const Coded made = coded(shape.rows, shape.cols, shape.block, nested);
        expect_product(made, rows, Precision::kBF16, kBf16Factors);
        if (HasFatalFailure()) return;
      }
  LinearGroup group;
  const Coded made = coded(40, 128, 64, 256);
  group.add(*device_, made.source, {}, 1);
  const std::vector<float> x = random(3 * 128);
  EXPECT_NE(product(group, x, 3, Precision::kF32), product(group, x, 3, Precision::kBF16));
  EXPECT_EQ(product(group, x, 3, Precision::kInt8), product(group, x, 3, Precision::kBF16));
}

// Plain bf16: many rows in pieces of 16 bytes take tensor cores, what else there is float32; there and back.
TEST_P(Cuda, PlainProductsOnTensorCores) {
  for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{136, 200}, {72, 64}, {9, 40}, {40, 33}}) {
    const std::vector<float> drawn = random(rows * cols);
    std::vector<uint16_t> stored(drawn.size());
    std::vector<float> weights(drawn.size());
    for (size_t i = 0; i < drawn.size(); ++i) {
      stored[i] = float_to_bf16(drawn[i]);
      weights[i] = bf16_to_float(stored[i]);
    }
    LinearGroup group;
    group.add(*device_, {DType::kBF16, Shape({rows, cols}), std::as_bytes(std::span(stored))},
              DenseMatrix::Storage::kBF16, {}, 1);
    for (const int64_t count : {8, 9, 130})
      for (const bool back : {false, true}) {
        SCOPED_TRACE(::testing::Message() << rows << " x " << cols << " by " << count << " back " << back);
        const std::vector<float> x = random(count * (back ? rows : cols)),
                                 y = product(group, x, count, Precision::kBF16, back);
        const reference::Product expected = expected_product(weights, rows, cols, x, count, back);
        const bool units = count > 8 && cols % 8 == 0 && (!back || rows % 8 == 0);
        bool rounded = false;
        for (size_t i = 0; i < y.size(); ++i) {
          const double error = std::fabs(double{y[i]} - expected.y[i]);
          ASSERT_LE(error, (units ? kBf16Factors : 1e-6) * expected.magnitude[i] + 1e-37) << i;
          rounded = rounded || error > 1e-5 * expected.magnitude[i];
        }
        EXPECT_EQ(rounded, units);
      }
  }
}

// A number that is not finite makes those results so that depend on it and no others, whatever is read behind
// the ends of a matrix: of few rows and many, in float32 and on tensor cores, there and back.
TEST_P(Cuda, ABrokenNumberBreaksWhatDependsOnItAlone) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const auto expect_rows = [&](const LinearGroup& group, const std::vector<float>& weights, int64_t rows,
                               int64_t cols, bool in_x, bool last) {
    for (const int64_t count : {1, 3, 9, 20})
      for (const bool back : {false, true})
        for (const Precision precision : {Precision::kF32, Precision::kBF16}) {
          SCOPED_TRACE(::testing::Message()
                       << rows << " x " << cols << " by " << count << " back " << back << " in x " << in_x
                       << " last " << last << " precision " << static_cast<int>(precision));
          std::vector<float> x = random(count * (back ? rows : cols));
          if (in_x) (last ? x.back() : x.front()) = last ? kInfinity : kNaN;
          const std::vector<float> y = product(group, x, count, precision, back);
          const reference::Product expected = expected_product(weights, rows, cols, x, count, back);
          const double share = precision == Precision::kF32 ? 1e-6 : kBf16Factors;
          for (size_t i = 0; i < y.size(); ++i) {
            ASSERT_EQ(std::isfinite(y[i]), std::isfinite(expected.magnitude[i])) << i;
            if (!std::isfinite(y[i])) continue;
            ASSERT_NEAR(double{y[i]}, expected.y[i], share * expected.magnitude[i] + 1e-37) << i;
          }
        }
  };
  for (const bool in_x : {false, true})
    for (const bool last : {false, true}) {
      for (const auto& [rows, cols, block] :
           {std::tuple<int64_t, int64_t, int64_t>{72, 192, 64}, {9, 320, 64}, {33, 100, 64}, {9, 24, 24}}) {
        Coded made = coded(rows, cols, block, 0);
        if (!in_x) (last ? made.scales.back() : made.scales.front()) = last ? kInfinity : kNaN;
        LinearGroup group;
        group.add(*device_, made.source, {}, 1);
        expect_rows(group, decoded(made.source), rows, cols, in_x, last);
        if (HasFatalFailure()) return;
      }
      for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{72, 136}, {9, 33}})
        for (const DenseMatrix::Storage storage :
             {DenseMatrix::Storage::kF32, DenseMatrix::Storage::kF16, DenseMatrix::Storage::kBF16}) {
          std::vector<float> weights = random(rows * cols);
          for (float& value : weights) value = bf16_to_float(float_to_bf16(value));  // a half holds them, too
          if (!in_x) (last ? weights.back() : weights.front()) = last ? kInfinity : kNaN;
          LinearGroup group;
          group.add(*device_, {DType::kF32, Shape({rows, cols}), std::as_bytes(std::span(weights))}, storage,
                    {}, 1);
          expect_rows(group, weights, rows, cols, in_x, last);
          if (HasFatalFailure()) return;
        }
    }
}

// Served answers and guesses of a draft rest on it: in float32 the bits of a row are the same in any company;
// on tensor cores among up to eight rows, and among more.
TEST_P(Cuda, RowsAreTheSameInTheirCompany) {
  for (const int64_t cols : {64, 320, 100}) {
    const Coded made = coded(50, cols, 64, 256);
    LinearGroup group;
    group.add(*device_, made.source, random(50), 1);
    const int64_t most = 70;
    const std::vector<float> x = random(most * cols);
    for (const Precision precision : {Precision::kF32, Precision::kBF16}) {
      const auto rows_from = [&](int64_t first, int64_t rows) {
        return product(group, {x.begin() + first * cols, x.begin() + (first + rows) * cols}, rows, precision);
      };
      const auto expect_part = [&](const std::vector<float>& all, int64_t first, int64_t rows) {
        const std::vector<float> some = rows_from(first, rows);
        for (size_t i = 0; i < some.size(); ++i)
          ASSERT_EQ(some[i], all[index(first * 50) + i])
              << cols << " columns, " << rows << " rows from " << first;
      };
      const std::vector<float> all = rows_from(0, most);
      for (const int64_t rows : {9, 31, 64})
        for (const int64_t first : {0, 5}) expect_part(all, first, rows);
      const bool alike = precision == Precision::kF32 || cols % 64 != 0;
      const std::vector<float> few = alike ? all : rows_from(0, 8);
      for (const int64_t rows : {1, 2, 3, 5, 7})
        for (const int64_t first : {0, 1}) expect_part(few, first, rows);
    }
  }
}

TEST_P(Cuda, ScalesThatBeginInsideABlockAreRefused) {
  Coded made = coded(4, 64, 64, 256);
  made.source.nested_first = 3;
  LinearGroup group;
  EXPECT_THROW(group.add(*device_, made.source, {}, 1), Error);
}

TEST_P(Cuda, HeadsOfTooManyNumbersAreNamed) {
  const std::unique_ptr<LayerEngine> engine = device_->engine();
  const HeadLayout heads{1, 1, 513};
  Table projected(*engine, 1, heads.row()), attended(*engine, 1, heads.query_size());
  std::byte* pages[] = {nullptr};
  const SequenceRows rows[] = {{.cache = {kernels::KvType::kF32, pages}, .rows = 1}};
  try {
    engine->attend({.heads = heads, .sequences = rows, .rope = LayerRope::kNone}, projected.at(),
                   attended.at());
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    EXPECT_NE(std::string(error.what()).find("heads of 513 numbers"), std::string::npos) << error.what();
  }
}

// Ranks of one machine share its cards out; a number names one.
TEST(EmulatedCard, EachRankOfAMachineTakesACard) {
  std::vector<std::shared_ptr<Device>> all{cpu_device()};
  for (const char* name : {"cuda:0", "cuda:1", "cuda:2", "vulkan:0", "cuda:emulated"})
    all.push_back(emulated_device(100000, name));
  const auto chosen = [&](std::string_view name, int rank) {
    const std::shared_ptr<Device> found = choose_device(all, name, rank);
    return found == nullptr ? "none" : std::string(found->name());
  };
  for (const char* name : {"cuda", "auto"}) {
    EXPECT_EQ(chosen(name, 0), "cuda:0");
    EXPECT_EQ(chosen(name, 2), "cuda:2");
    EXPECT_EQ(chosen(name, 4), "cuda:1");
  }
  EXPECT_EQ(chosen("cuda:1", 2), "cuda:1");
  EXPECT_EQ(chosen("cuda:emulated", 2), "cuda:emulated");
  EXPECT_EQ(chosen("vulkan", 1), "vulkan:0");
  EXPECT_EQ(chosen("cpu", 1), "cpu");
  for (const char* name : {"cud", "cuda:", "cuda:3", "cuda:1x", "", ":"}) EXPECT_EQ(chosen(name, 0), "none");
}

TEST(Cards, WhyThereIsNoneIsSaid) {
  using gpu::DriverReport;
  EXPECT_EQ(gpu::why_none(
                DriverReport{0, 13000, "CUDA driver version is insufficient for CUDA runtime version", {}}),
            "no driver of NVIDIA was found");
  EXPECT_EQ(gpu::why_none(DriverReport{
                12040, 13000, "CUDA driver version is insufficient for CUDA runtime version", {}}),
            "the driver of NVIDIA is for CUDA 12.4, and one for CUDA 13 or later is needed");
  EXPECT_EQ(gpu::why_none(DriverReport{13010, 13020, "", {}}), "the driver of NVIDIA finds no card");
  EXPECT_EQ(gpu::why_none(DriverReport{14000, 13020, "system not yet initialized", {}}),
            "the driver of NVIDIA fails: system not yet initialized");
  EXPECT_EQ(gpu::why_none(DriverReport{13010, 13020, "", {"Tesla T4 (7.5)", "A card (6.1)"}}),
            "no card is of compute capability 8.0 or later: Tesla T4 (7.5), A card (6.1)");
  for (const char* kind : {"cuda", "vulkan"}) {
    bool there = false;
    for (const std::shared_ptr<Device>& device : devices())
      there = there || device->name() == kind + std::string(":0");
    EXPECT_EQ(why_none(kind).empty(), there) << why_none(kind);
  }
}

// What was made before memory ran out is given back, and the device goes on.
TEST(EmulatedCard, RunsOutOfMemory) {
  const std::shared_ptr<Device> small = emulated_device(100000);
  const std::unique_ptr<LayerEngine> engine = small->engine();
  const BufferRows kept{engine->make(100), 0, 100};
  const uint64_t free = *small->free_bytes();
  EXPECT_THROW(engine->make(25000), Error);
  LinearGroup group;
  const std::vector<float> plain(200 * 200);
  EXPECT_THROW(group.add(*small, {DType::kF32, Shape({200, 200}), std::as_bytes(std::span(plain))},
                         DenseMatrix::Storage::kF32, {}, 1),
               Error);
  EXPECT_EQ(*small->free_bytes(), free);
  std::fill_n(engine->host(kept, 1, 100), 100, 7.0f);
  engine->write(kept, 1, 100);
  EXPECT_EQ(engine->read(kept, 1, 100)[99], 7.0f);
}

// The host's rows are copied when the card comes to it: who changes them before has to wait.
TEST(EmulatedCard, RowsThatWereWrittenAreNotChangedBehindTheCopy) {
  const std::unique_ptr<LayerEngine> engine = emulated_device()->engine();
  const BufferRows x{engine->make(4), 0, 4}, y{engine->make(4), 0, 4};
  std::fill_n(engine->host(x, 1, 4), 4, 1.0f);
  engine->write(x, 1, 4);
  engine->copy(x, y, 1, 4);
  std::fill_n(engine->host(x, 1, 4), 4, 2.0f);
  EXPECT_EQ(engine->read(y, 1, 4)[0], 1.0f);
}

// A pass of few rows that comes again runs as it was recorded, with the numbers of its own time; one that
// differs anywhere does not.
TEST(EmulatedCard, PassesThatComeAgainRunAsGraphs) {
  const std::shared_ptr<Device> device = emulated_device();
  const std::unique_ptr<LayerEngine> engine = device->engine(), cpu = cpu_device()->engine();
  constexpr int64_t kWidth = 40;
  std::mt19937 generator(3);
  std::normal_distribution<float> normal;
  std::vector<float> weight(kWidth);
  for (float& value : weight) value = normal(generator);
  NormWeights norms{Constant(weight), {}};
  device->place(norms.weight);
  const auto pass = [&](LayerEngine& on, const BufferRows& x, const BufferRows& y,
                        const std::vector<float>& from, int64_t rows, int64_t layers) {
    std::copy_n(from.begin(), rows * kWidth, on.host(x, rows, kWidth));
    on.write(x, rows, kWidth);
    for (int64_t layer = 0; layer < layers; ++layer) {
      on.norm({&norms, NormKind::kRms, 1e-5f, kWidth}, x, y, rows);
      on.activate({Activation::kSilu, false, 0, kWidth}, y, rows);
      on.add({}, 0.5f, {}, y, x, rows, kWidth);
    }
    EXPECT_TRUE(on.finite(x, rows, kWidth));
    const float* const found = on.read(x, rows, kWidth);
    std::vector<float> values(found, found + rows * kWidth);
    EXPECT_EQ(on.first_broken(), -1);
    return values;
  };
  struct Place {
    BufferRows x, y;
  };
  const auto place = [&](LayerEngine& on) {
    return Place{{on.make(8 * kWidth), 0, kWidth}, {on.make(8 * kWidth), 0, kWidth}};
  };
  const Place card = place(*engine), host = place(*cpu);
  uint64_t before = emulated_graphs();
  for (int round = 0; round < 30; ++round) {
    // Three kinds of passes by turns: the third time that one comes it is a graph.
    const int64_t rows = round % 3 == 2 ? 2 : 1, layers = round % 3 == 1 ? 5 : 4;
    std::vector<float> from(8 * kWidth);
    for (float& value : from) value = normal(generator);
    const std::vector<float> expected = pass(*cpu, host.x, host.y, from, rows, layers),
                             found = pass(*engine, card.x, card.y, from, rows, layers);
    for (size_t i = 0; i < expected.size(); ++i)
      ASSERT_NEAR(expected[i], found[i], 1e-5f * (1 + std::fabs(expected[i]))) << "round " << round;
    ASSERT_EQ(emulated_graphs() - before, std::max(0, round - 2)) << "round " << round;
  }
}

// Where none can be recorded the steps run on their own, and whoever looks at the device is told why.
TEST(EmulatedCard, GraphsThatFailAreNamed) {
  add_device(
      emulated_device(uint64_t{1} << 20, "cuda:without_graphs", "cudaGraphInstantiate: out of memory"));
  for (const std::string name : {"cuda:emulated", "cuda:without_graphs"}) {
    const bool works = name == "cuda:emulated";
    const std::shared_ptr<Device> device = find_device(name);
    const std::string before = device->graphs();
    EXPECT_TRUE(before == "none yet" || (works && before == "in use")) << before;
    const std::unique_ptr<LayerEngine> engine = device->engine();
    const BufferRows x{engine->make(16), 0, 16};
    for (int round = 0; round < 3; ++round) {
      std::fill_n(engine->host(x, 1, 16), 16, 1.0f);
      engine->write(x, 1, 16);
      for (int step = 0; step < 10; ++step) engine->add({}, 1.0f, {}, x, x, 1, 16);
      EXPECT_EQ(engine->read(x, 1, 16)[15], 1024.0f) << name << " round " << round;
    }
    const std::string graphs = works ? "in use" : "failed (cudaGraphInstantiate: out of memory)";
    EXPECT_EQ(device->graphs(), graphs);
    const DeviceInfo info = device_info(name);
    EXPECT_EQ(info.graphs, graphs);
    EXPECT_EQ(Json::parse(device_json(name))["graphs"], graphs);
    EXPECT_EQ(device_summary(info), name + " (" + info.model + (works ? ")" : ", graphs " + graphs + ")"));
  }
  EXPECT_EQ(device_info("cpu").graphs, "");
}

// What is fused in a graph gives the bits of the steps that it replaces.
TEST_P(Cuda, GraphsGiveTheBitsOfTheirSteps) {
  constexpr int64_t kWidth = 128, kInner = 64, kRows = 3;
  LinearGroup across, wide, back;
  const Coded first = coded(kWidth, kWidth, 64, 256), gate = coded(2 * kInner, kWidth, 64, 4),
              down = coded(kWidth, kInner, 64, 256);
  across.add(*device_, first.source, random(kWidth), 1);
  wide.add(*device_, gate.source, {}, 1);
  wide.add(*device_, gate.source, {}, 1);
  back.add(*device_, down.source, {}, 1);
  NormWeights norms{Constant(random(kWidth)), Constant(random(kWidth))};
  device_->place(norms.weight);
  device_->place(norms.bias);
  for (const NormKind kind : {NormKind::kRms, NormKind::kLayer})
    for (const float limit : {0.0f, 7.0f}) {
      const std::unique_ptr<LayerEngine> engine = device_->engine();
      const auto rows_of = [&](int64_t width) {
        return BufferRows{engine->make(kRows * (width + 4)), 0, width + 4};
      };
      const BufferRows x = rows_of(kWidth), normed = rows_of(kWidth), inner = rows_of(4 * kInner);
      const std::vector<float> start = random(kRows * kWidth);
      std::vector<float> before;
      for (int round = 0; round < 4; ++round) {
        for (int64_t row = 0; row < kRows; ++row) {
          std::copy_n(start.data() + row * kWidth, kWidth, engine->host(x.from(row), 1, kWidth));
          engine->write(x.from(row), 1, kWidth);
        }
        const NormStep norm{&norms, kind, 1e-5f, kWidth};
        engine->norm(norm, x, normed, kRows);
        engine->multiply(across, normed, inner, kRows, Precision::kBF16);
        engine->add({}, 0.25f, {}, inner, x, kRows, kWidth);
        engine->norm(norm, x, normed, kRows);
        engine->multiply(wide, normed, inner, kRows, Precision::kBF16);
        engine->activate({Activation::kSilu, true, limit, kInner}, inner, kRows);
        engine->multiply(back, inner, normed, kRows, Precision::kBF16);
        engine->add({}, 1.0f, norm, normed, x, kRows, kWidth);  // a norm in place
        std::vector<float> found;
        for (int64_t row = 0; row < kRows; ++row) {
          const float* const from = engine->read(x.from(row), 1, kWidth);
          found.insert(found.end(), from, from + kWidth);
        }
        if (round == 0) before = found;
        ASSERT_EQ(before, found) << "round " << round;
      }
    }
}

// What a processor would do and a card does not.
void read_pair(const float* from) {
  gpu::load_cached(reinterpret_cast<const float2*>(from));
}

TEST(EmulatedCard, LaunchesAndAddressesThatACardRefusesAreFaults) {
  alignas(16) const float numbers[4] = {};
  const auto fault_of = [&](int blocks_x, int blocks_y, int threads, size_t shared_bytes, int first) {
    gpu::launch(read_pair, blocks_x, blocks_y, threads, shared_bytes, numbers + first);
    return std::exchange(gpu::machine().fault, {});
  };
  EXPECT_EQ(fault_of(2, 3, 64, 16, 2), "");
  EXPECT_EQ(fault_of(1, 1, 32, 0, 1), "8 bytes that do not begin at a multiple of them");
  for (const auto& [x, y, threads, shared] : {std::tuple<int, int, int, size_t>{0, 1, 32, 0},
                                              {1, 0, 32, 0},
                                              {1, 65536, 32, 0},
                                              {1, 1, 0, 0},
                                              {1, 1, 48, 0},
                                              {1, 1, 1056, 0},
                                              {1, 1, 32, 240000}})
    EXPECT_TRUE(fault_of(x, y, threads, shared, 0).starts_with("no launch: "))
        << x << " " << y << " " << threads;
}

TEST(EmulatedCard, ACardThatFailsIsNamed) {
  const std::shared_ptr<Device> device = emulated_device();
  const std::unique_ptr<LayerEngine> engine = device->engine();
  const BufferRows x{engine->make(4), 0, 4};
  gpu::machine().fault = "the bus is gone";
  try {
    engine->read(x, 1, 4);
    ADD_FAILURE() << "the failure is not told";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kIo);
    EXPECT_NE(std::string(error.what()).find("cuda:emulated"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("the bus is gone"), std::string::npos) << error.what();
  }
  gpu::machine().fault.clear();
}

}  // namespace
}  // namespace nfloat::testing

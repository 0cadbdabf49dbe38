// SPDX-License-Identifier: Apache-2.0
// What the steps of the other files do not reach on a device of Vulkan: matrices in parts, every storage and
// odd block against the CPU's own decoding, pages copied while steps wait, memory given back.
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <tuple>

#include "base/float16.h"
#include "engine/vulkan/open.h"
#include "engine_test.h"
#include "nfloat/error.h"
#include "reference/gemm.h"

namespace nfloat::testing {
namespace {

class Vulkan : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::vector<std::shared_ptr<Device>> found = vulkan::open();
    if (found.empty()) GTEST_SKIP() << "no device of Vulkan here: no driver, or a build without it";
    // A card before a processor.
    const auto card =
        std::find_if(found.begin(), found.end(), [](const auto& own) { return own->accelerator(); });
    place_ = card == found.end() ? 0 : static_cast<size_t>(card - found.begin());
    device_ = found[place_];
  }

  std::vector<float> random(int64_t count) {
    std::normal_distribution<float> normal;
    std::vector<float> values(index(count));
    for (float& value : values) value = normal(generator_);
    return values;
  }

  // Codes of a matrix with scales of any kind, as a file has them.
  struct Coded {
    std::vector<uint8_t> codes, nested;
    std::vector<float> levels, scales, absmax, map;
    PackSource source;
  };
  Coded coded(int64_t rows, int64_t cols, int64_t block, bool nested) {
    Coded made;
    const int64_t blocks = (rows * cols + block - 1) / block, nested_block = 4;
    made.codes.resize(index((rows * cols + 1) / 2));
    for (uint8_t& code : made.codes) code = static_cast<uint8_t>(generator_());
    made.levels = random(16);
    made.source.codes = made.codes;
    made.source.levels = made.levels;
    made.source.rows = rows;
    made.source.cols = cols;
    made.source.block_size = block;
    if (nested) {
      made.nested.resize(index(blocks));
      for (uint8_t& code : made.nested) code = static_cast<uint8_t>(generator_());
      made.absmax = random((blocks + nested_block - 1) / nested_block);
      made.map = random(256);
      made.source.nested_codes = made.nested;
      made.source.nested_absmax = made.absmax;
      made.source.nested_map = made.map;
      made.source.nested_offset = 0.25f;
      made.source.nested_block_size = nested_block;
    } else {
      made.scales = random(blocks);
      made.source.scales = made.scales;
    }
    return made;
  }

  // The product against double precision, of weights as the CPU decodes them.
  void expect_product(Device& device, const LinearGroup& group, const std::vector<float>& weights,
                      int64_t outputs, int64_t inputs, int64_t rows) {
    const std::unique_ptr<LayerEngine> engine = device.engine();
    const std::vector<float> x = random(rows * inputs);
    Table from(*engine, rows, inputs, 1), to(*engine, rows, outputs, 2);
    from.fill(x);
    engine->multiply(group, from.at(), to.at(), rows, Precision::kF32);
    const std::vector<float> y = to.values();
    const std::vector<float> none(index(outputs));
    const reference::Product expected = reference::multiply(x, weights, none, rows, outputs, inputs);
    for (size_t i = 0; i < y.size(); ++i)
      ASSERT_NEAR(double{y[i]}, expected.y[i], 1e-6 * expected.magnitude[i] + 1e-37)
          << "row " << i / index(outputs) << " output " << i % index(outputs);
  }
  static std::vector<float> decoded(const PackSource& source) {
    const PackedMatrix packed = PackedMatrix::pack(source, 1);
    std::vector<float> values(index(source.rows * source.cols));
    for (int64_t row = 0; row < source.rows; ++row)
      packed.dequantize_row(row, values.data() + row * source.cols);
    return values;
  }

  std::shared_ptr<Device> device_;
  size_t place_ = 0;
  std::mt19937 generator_{99};
};

TEST_F(Vulkan, CodesInEveryOrder) {
  struct Shape {
    int64_t rows, cols, block;
  };
  // Words in one row and one block, rows that begin in the middle of a byte, blocks that cross rows.
  for (const Shape& shape : {Shape{5, 64, 64},
                             {9, 24, 24},
                             {3, 7, 16},
                             {11, 33, 20},
                             {33, 100, 64},
                             {1, 1, 16},
                             {40, 72, 17},
                             {70, 256, 128},
                             {6, 520, 64}})
    for (const bool nested : {false, true})
      for (const int64_t rows : {1, 20, 70}) {
        SCOPED_TRACE(::testing::Message() << shape.rows << " x " << shape.cols << " in blocks of "
                                          << shape.block << " nested " << nested << " rows " << rows);
        const Coded made = coded(shape.rows, shape.cols, shape.block, nested);
        LinearGroup group;
        group.add(*device_, made.source, {}, 1);
        expect_product(*device_, group, decoded(made.source), shape.rows, shape.cols, rows);
        if (HasFatalFailure()) return;
      }
}

TEST_F(Vulkan, MatricesInParts) {
  const std::shared_ptr<Device> small = vulkan::open(8192)[place_];
  struct Shape {
    int64_t rows, cols, block;
  };
  for (const Shape& shape : {Shape{70, 256, 64}, {300, 96, 64}, {100, 513, 16}})
    for (const bool nested : {false, true}) {
      SCOPED_TRACE(::testing::Message() << shape.rows << " x " << shape.cols << " nested " << nested);
      const Coded made = coded(shape.rows, shape.cols, shape.block, nested);
      LinearGroup group;
      if (shape.cols == 513 && nested) {  // 64 rows begin with a block of its scales
        EXPECT_THROW(group.add(*small, made.source, {}, 1), Error);
        continue;
      }
      const std::vector<float> bias = random(shape.rows);
      group.add(*small, made.source, bias, 1);
      EXPECT_GT(group.bytes(), index(shape.rows * shape.cols / 2));
      LinearGroup plain;
      plain.add(*small, made.source, {}, 1);
      expect_product(*small, plain, decoded(made.source), shape.rows, shape.cols, 3);
      // The biases of a part are its own.
      const std::unique_ptr<LayerEngine> engine = small->engine();
      Table x(*engine, 1, shape.cols), y(*engine, 1, shape.rows);
      x.fill(std::vector<float>(index(shape.cols)));
      engine->multiply(group, x.at(), y.at(), 1, Precision::kF32);
      EXPECT_EQ(y.values(), bias);
    }
}

// Prompts: levels rounded to halves, at most half of 2^-11 of each product; none where halves hold them.
TEST_F(Vulkan, ManyRowsWithLevelsInHalves) {
  for (const auto& [outputs, cols] : {std::pair<int64_t, int64_t>{70, 64}, {64, 320}, {1, 96}, {129, 128}})
    for (const bool nested : {false, true})
      for (const bool exact : {false, true})
        for (const int64_t rows : {33, 64, 130}) {
          SCOPED_TRACE(::testing::Message() << outputs << " x " << cols << " nested " << nested << " exact "
                                            << exact << " rows " << rows);
          Coded made = coded(outputs, cols, cols % 64 == 0 ? 64 : 32, nested);
          if (exact)
            for (float& level : made.levels) level = std::round(level * 64) / 64;
          const std::vector<float> bias = random(outputs);
          LinearGroup group;
          group.add(*device_, made.source, bias, 1);
          const std::unique_ptr<LayerEngine> engine = device_->engine();
          const std::vector<float> x = random(rows * cols);
          Table from(*engine, rows, cols, 1), to(*engine, rows, outputs, 2);
          from.fill(x);
          engine->multiply(group, from.at(), to.at(), rows, Precision::kBF16);
          const std::vector<float> y = to.values();
          const reference::Product expected =
              reference::multiply(x, decoded(made.source), bias, rows, outputs, cols);
          double largest = 0;
          for (size_t i = 0; i < y.size(); ++i) {
            const double error = std::fabs(double{y[i]} - expected.y[i]);
            ASSERT_LE(error, (exact ? 1e-6 : 0x1p-12 + 1e-6) * expected.magnitude[i] + 1e-37)
                << "row " << i / index(outputs) << " output " << i % index(outputs);
            largest = std::max(largest, error / expected.magnitude[i]);
          }
          EXPECT_TRUE(exact || largest > 1e-6) << "these are not halves";
        }
}

// Levels that no half holds stay as they are.
TEST_F(Vulkan, LevelsBeyondHalvesStay) {
  for (const float scale : {1e5f, 1e-5f}) {
    Coded made = coded(40, 64, 64, false);
    for (float& level : made.levels) level *= scale;
    LinearGroup group;
    group.add(*device_, made.source, {}, 1);
    const std::unique_ptr<LayerEngine> engine = device_->engine();
    const int64_t rows = 40;
    const std::vector<float> x = random(rows * 64), none(40);
    Table from(*engine, rows, 64), to(*engine, rows, 40);
    from.fill(x);
    engine->multiply(group, from.at(), to.at(), rows, Precision::kInt8);
    const std::vector<float> y = to.values();
    const reference::Product expected = reference::multiply(x, decoded(made.source), none, rows, 40, 64);
    for (size_t i = 0; i < y.size(); ++i)
      ASSERT_NEAR(double{y[i]}, expected.y[i], 1e-6 * expected.magnitude[i]) << i;
  }
}

// What is read together does not change a bit: served answers and guesses of a draft rest on it. More than 32
// rows go in tiles, whose bits are their own.
TEST_F(Vulkan, RowsAreTheSameInAnyCompany) {
  for (const int64_t cols : {64, 320, 100}) {
    const Coded made = coded(50, cols, 64, true);
    LinearGroup group;
    group.add(*device_, made.source, random(50), 1);
    const std::unique_ptr<LayerEngine> engine = device_->engine();
    const int64_t most = 70;
    const std::vector<float> x = random(most * cols);
    const auto product = [&](int64_t first, int64_t rows) {
      Table from(*engine, rows, cols), to(*engine, rows, 50, 1);
      from.fill({x.begin() + first * cols, x.begin() + (first + rows) * cols});
      engine->multiply(group, from.at(), to.at(), rows, Precision::kF32);
      return to.values();
    };
    const std::vector<float> all = product(0, most);
    const std::vector<float> few = product(0, 32);
    const auto expect_part_of = [&](const std::vector<float>& whole, int64_t first, int64_t rows) {
      const std::vector<float> some = product(first, rows);
      for (size_t i = 0; i < some.size(); ++i)
        ASSERT_EQ(some[i], whole[index(first * 50) + i])
            << cols << " columns, " << rows << " rows from " << first;
    };
    for (const int64_t rows : {1, 2, 3, 4, 7, 8, 9, 27})
      for (const int64_t first : {0, 5}) expect_part_of(few, first, rows);
    for (const int64_t rows : {33, 40, 64, 65})  // in tiles
      for (const int64_t first : {0, 5, 33})
        if (first + rows <= most) expect_part_of(all, first, rows);
  }
}

// A product with one row of the unit matrix is a column of the weights, to the last bit.
TEST_F(Vulkan, PlainWeightsAreThoseOfTheCpu) {
  for (const DenseMatrix::Storage storage : {DenseMatrix::Storage::kF32, DenseMatrix::Storage::kF16,
                                             DenseMatrix::Storage::kBF16, DenseMatrix::Storage::kInt8})
    for (const auto& [rows, cols, dtype] : {std::tuple<int64_t, int64_t, DType>{5, 9, DType::kF32},
                                            {13, 64, DType::kF32},
                                            {3, 130, DType::kF32},
                                            {5, 9, DType::kF16},
                                            {7, 33, DType::kBF16}}) {
      SCOPED_TRACE(::testing::Message() << "storage " << static_cast<int>(storage) << " of "
                                        << dtype_name(dtype) << " cols " << cols);
      std::vector<float> values = random(rows * cols);
      values[1] = 3e-6f;  // a subnormal half
      values[2] = 0;
      std::vector<std::byte> bytes(values.size() * dtype_bytes(dtype));
      convert_elements({DType::kF32, Shape({rows, cols}), std::as_bytes(std::span(values))}, dtype, bytes);
      const TensorView view{dtype, Shape({rows, cols}), bytes};
      const DenseMatrix packed = DenseMatrix::pack(view, storage, 1);
      LinearGroup group;
      group.add(*device_, view, storage, {}, 2);
      const std::unique_ptr<LayerEngine> engine = device_->engine();
      Table x(*engine, cols, cols, 3), y(*engine, cols, rows, 1);
      std::vector<float> unit(index(cols * cols));
      for (int64_t i = 0; i < cols; ++i) unit[index(i * cols + i)] = 1;
      x.fill(unit);
      engine->multiply(group, x.at(), y.at(), cols, Precision::kF32);
      const std::vector<float> columns = y.values();
      std::vector<float> row(index(cols));
      for (int64_t r = 0; r < rows; ++r) {
        packed.dequantize_row(r, row.data());
        for (int64_t i = 0; i < cols; ++i)
          ASSERT_EQ(columns[index(i * rows + r)], row[index(i)]) << "row " << r << " column " << i;
      }
    }
}

TEST_F(Vulkan, WrongSourcesAreRefused) {
  Coded made = coded(8, 64, 64, true);
  const auto refused = [&](const char* what, const std::function<void(PackSource&)>& change) {
    PackSource source = made.source;
    change(source);
    EXPECT_THROW(device_->matrix(source, 1), Error) << what;
  };
  refused("codes", [](PackSource& s) { s.codes = s.codes.first(s.codes.size() - 1); });
  refused("levels", [](PackSource& s) { s.levels = {}; });
  refused("nested codes", [](PackSource& s) { s.nested_codes = s.nested_codes.first(3); });
  refused("absmax", [](PackSource& s) { s.nested_absmax = s.nested_absmax.first(1); });
  refused("map", [](PackSource& s) { s.nested_map = s.nested_map.first(255); });
  refused("block", [](PackSource& s) { s.block_size = 0; });
  const std::vector<int32_t> integers(64);
  EXPECT_THROW(device_->matrix({DType::kI32, Shape({8, 8}), std::as_bytes(std::span(integers))},
                               DenseMatrix::Storage::kF32, 1, nullptr),
               Error);
  // Weights of another device.
  LinearGroup group;
  group.add(*cpu_device(), made.source, {}, 1);
  const std::unique_ptr<LayerEngine> engine = device_->engine();
  Table x(*engine, 1, 64), y(*engine, 1, 8);
  EXPECT_THROW(engine->multiply(group, x.at(), y.at(), 1, Precision::kF32), Error);
}

// A few queries of a long context share its pages out, many do not: the bits are the same.
TEST_F(Vulkan, AttentionInPartsHasTheSameBits) {
  const int64_t width = 24, positions = 1250;
  struct Kind {
    kernels::KvType type;
    int64_t window;
    bool with_sinks;
  };
  for (const Kind& kind : {Kind{kernels::KvType::kF16, 0, false},
                           {kernels::KvType::kInt8, 1100, true},
                           {kernels::KvType::kF32, 1100, false}}) {
    const kernels::KvType type = kind.type;
    const int64_t window = kind.window;
    const bool with_sinks = kind.with_sinks;
    const HeadLayout heads{2, 1, width};
    const auto bytes = index(device_->page_bytes({1, 1, width, type}));
    std::vector<std::shared_ptr<std::byte>> owners;
    std::vector<std::byte*> pages;
    for (int i = 0; i < 10; ++i) pages.push_back(owners.emplace_back(device_->page(bytes)).get());
    Constant sinks(with_sinks ? random(2) : std::vector<float>());
    device_->place(sinks);
    const std::unique_ptr<LayerEngine> engine = device_->engine();
    const std::vector<float> x = random(positions * heads.row());
    const auto attended = [&](int64_t first, int64_t rows) {
      Table projected(*engine, rows, heads.row()), found(*engine, rows, heads.query_size(), 1);
      projected.fill({x.begin() + first * heads.row(), x.begin() + (first + rows) * heads.row()});
      const SequenceRows own[] = {{.cache = {type, pages.data()}, .rows = rows, .position = first}};
      engine->attend({.heads = heads,
                      .sequences = own,
                      .rope = LayerRope::kNone,
                      .scale = 0.3f,
                      .window = window,
                      .sinks = with_sinks ? &sinks : nullptr},
                     projected.at(), found.at());
      return found.values();
    };
    const std::vector<float> whole = attended(0, positions);
    for (const auto& [first, rows] : {std::pair<int64_t, int64_t>{1023, 2}, {1024, 1}, {1190, 60}}) {
      const std::vector<float> some = attended(first, rows);
      for (size_t i = 0; i < some.size(); ++i)
        ASSERT_EQ(some[i], whole[index(first * heads.query_size()) + i])
            << "cache " << static_cast<int>(type) << " window " << window << " sinks " << with_sinks
            << " from " << first;
    }
  }
}

// Steps that wait in one engine come before the copy, and what comes after it sees it.
TEST_F(Vulkan, PagesAreCopiedBehindWaitingSteps) {
  const CacheShape shape{1, 1, 8, kernels::KvType::kF32};
  const auto bytes = index(device_->page_bytes(shape));
  const std::shared_ptr<std::byte> first = device_->page(bytes), second = device_->page(bytes);
  const std::unique_ptr<LayerEngine> writer = device_->engine(), reader = device_->engine();
  const HeadLayout heads{1, 1, 8};
  const auto attend = [&](LayerEngine& engine, const std::shared_ptr<std::byte>& page, int64_t position,
                          Table& projected, Table& attended) {
    std::byte* pages[] = {page.get()};
    const SequenceRows rows[] = {{.cache = {kernels::KvType::kF32, pages}, .rows = 1, .position = position}};
    engine.attend({.heads = heads, .sequences = rows, .rope = LayerRope::kNone}, projected.at(),
                  attended.at());
  };
  for (int round = 0; round < 20; ++round) {
    Table projected(*writer, 1, heads.row()), attended(*writer, 1, 8);
    std::vector<float> x(index(heads.row()));
    for (int64_t i = 0; i < 8; ++i) x[index(16 + i)] = static_cast<float>(round + i);  // the value
    projected.fill(x);
    attend(*writer, first, 0, projected, attended);
    device_->copy_page(second.get(), first.get(), bytes);
    // The key of the second token is zero, too: the mean of both values.
    Table own(*reader, 1, heads.row()), seen(*reader, 1, 8);
    own.fill(std::vector<float>(index(heads.row())));
    attend(*reader, second, 1, own, seen);
    const std::vector<float> y = seen.values();
    for (int64_t i = 0; i < 8; ++i) ASSERT_EQ(y[index(i)], static_cast<float>(round + i) / 2) << round;
  }
}

// What one token attends to is its own value as the cache keeps it: to the nearest half, ties to even, the
// largest half for what is beyond; the nearest of 255 steps.
TEST_F(Vulkan, ValuesAreRoundedToTheNearest) {
  for (const kernels::KvType type : {kernels::KvType::kF16, kernels::KvType::kInt8}) {
    const int64_t width = 64;
    const HeadLayout heads{1, 1, width};
    const std::shared_ptr<std::byte> page = device_->page(index(device_->page_bytes({1, 1, width, type})));
    const std::unique_ptr<LayerEngine> engine = device_->engine();
    for (int round = 0; round < 20; ++round) {
      std::vector<float> x = random(heads.row());
      float* const values = x.data() + 2 * width;
      for (int64_t i = 0; i < width; ++i)
        values[i] = std::ldexp(values[i], static_cast<int>(generator_() % 40) - 30);
      values[0] = 1 + 0x1p-11f, values[1] = 1 + 0x3p-11f, values[2] = 0x1.8p-24f, values[3] = -0x1p-25f;
      if (type == kernels::KvType::kF16) values[4] = 7e4f, values[5] = -INFINITY, values[6] = 65519;
      Table projected(*engine, 1, heads.row()), attended(*engine, 1, width);
      projected.fill(x);
      std::byte* pages[] = {page.get()};
      const SequenceRows rows[] = {{.cache = {type, pages}, .rows = 1}};
      engine->attend({.heads = heads, .sequences = rows, .rope = LayerRope::kNone}, projected.at(),
                     attended.at());
      const std::vector<float> y = attended.values();
      float largest = 0;
      for (int64_t i = 0; i < width; ++i) largest = std::max(largest, std::fabs(values[i]));
      for (int64_t i = 0; i < width; ++i) {
        if (type == kernels::KvType::kF16) {
          ASSERT_EQ(y[index(i)], f16_to_float(float_to_f16(std::clamp(values[i], -65504.0f, 65504.0f))))
              << values[i];
        } else {
          ASSERT_NEAR(y[index(i)], values[i], largest / 254 * 1.00001f) << largest;
        }
      }
    }
  }
}

TEST_F(Vulkan, MemoryIsGivenBackAndUsedAgain) {
  const std::unique_ptr<LayerEngine> engine = device_->engine();
  std::vector<std::pair<BufferRows, float>> all;
  const auto check = [&](size_t i) {
    const float* values = engine->read(all[i].first, 1, all[i].first.stride);
    for (int64_t k = 0; k < all[i].first.stride; ++k) ASSERT_EQ(values[k], all[i].second) << i;
  };
  for (int i = 0; i < 400; ++i) {
    const int64_t floats = 1 + static_cast<int64_t>(generator_() % 5000);
    all.push_back({{engine->make(floats), 0, floats}, static_cast<float>(i)});
    std::fill_n(engine->host(all.back().first, 1, floats), floats, static_cast<float>(i));
    engine->write(all.back().first, 1, floats);
    if (i % 3 == 0) {
      const size_t gone = generator_() % all.size();
      check(gone);
      engine->drop(all[gone].first.buffer);
      all.erase(all.begin() + static_cast<std::ptrdiff_t>(gone));
    }
  }
  for (size_t i = 0; i < all.size(); ++i) check(i);
}

// A child of fork() has neither the driver's threads nor its queues: every call says so, and nothing waits.
TEST_F(Vulkan, AChildProcessIsRefused) {
  const std::unique_ptr<LayerEngine> engine = device_->engine();
  Table x(*engine, 2, 8);
  x.fill(random(16));
  std::shared_ptr<std::byte> kept = device_->page(4096);
  std::unique_ptr<LayerEngine> own = device_->engine();
  const BufferRows rows{own->make(32), 0, 8}, other = rows.from(2);
  own->copy(rows, other, 2, 8);  // recorded, not handed over
  const std::vector<std::function<void()>> calls{
      [&] { find_device("vulkan"); },
      [&] { device_->engine(); },
      [&] { device_->page(64); },
      [&] { device_->copy_page(kept.get(), kept.get() + 64, 64); },
      [&] {
        Constant constant(std::vector<float>{1, 2});
        device_->place(constant);
      },
      [&] { device_->matrix(coded(4, 64, 64, false).source, 1); },
      [&] { x.values(); },
      [&] { own->copy(rows, other, 2, 8); },
      [&] { own->read(rows, 1, 8); },
      [&] { own->finite(rows, 1, 8); },
      [&] { own->make(100); },
  };
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::alarm(60);  // ends a child that waits
    int status = find_device("cpu")->name() == "cpu" && devices().size() > 1 ? 0 : 100;
    for (size_t i = 0; i < calls.size() && status == 0; ++i) {
      status = static_cast<int>(i) + 1;
      try {
        calls[i]();
      } catch (const Error& error) {
        const std::string text = error.what();
        if (error.code() == ErrorCode::kUnsupported && text.find("was forked") != std::string::npos)
          status = 0;
      }
    }
    kept.reset();
    own.reset();
    ::_exit(status);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status)) << "the child was ended by signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 0) << "this call was not refused";
  EXPECT_EQ(x.values().size(), 16u);  // the parent goes on
}

TEST_F(Vulkan, MoreThanThereIsNamesTheNumbers) {
  try {
    device_->page(size_t{1} << 46);
    ADD_FAILURE() << "64 TiB were given";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kOutOfMemory);
    EXPECT_NE(std::string(error.what()).find("MiB are free"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find(device_->name()), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace nfloat::testing

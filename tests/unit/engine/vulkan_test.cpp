// SPDX-License-Identifier: Apache-2.0
// What the steps of the other files do not reach on a device of Vulkan: matrices in parts, prompts in tiles,
// attention in parts.
#include <numeric>

#include "card_test.h"
#include "engine/vulkan/open.h"
#include "engine/vulkan/shaders.h"
#include "nfloat/error.h"

namespace nfloat::testing {
namespace {

class Vulkan : public CardTest {
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

  bool on_units() const { return device_->matrix_units().starts_with("in use"); }

  size_t place_ = 0;
};

TEST_F(Vulkan, MatricesInParts) {
  device_ = vulkan::open(8192)[place_];
  struct Shape {
    int64_t rows, cols, block;
  };
  for (const Shape& shape : {Shape{70, 256, 64}, {300, 96, 64}, {100, 513, 16}})
    for (const int64_t nested : {0, 4}) {
      SCOPED_TRACE(::testing::Message() << shape.rows << " x " << shape.cols << " nested " << nested);
      const Coded made = coded(shape.rows, shape.cols, shape.block, nested);
      LinearGroup group;
      if (shape.cols == 513 && nested > 0) {  // 64 rows begin with a block of its scales
        EXPECT_THROW(group.add(*device_, made.source, {}, 1), Error);
        continue;
      }
      const std::vector<float> bias = random(shape.rows);
      group.add(*device_, made.source, bias, 1);
      EXPECT_GT(group.bytes(), index(shape.rows * shape.cols / 2));
      EXPECT_LT(group.bytes(), index(shape.rows * shape.cols * 4 + 65536));
      expect_product(made, 3, Precision::kF32, 1e-6);
      // The biases of a part are its own.
      const std::unique_ptr<LayerEngine> engine = device_->engine();
      Table x(*engine, 1, shape.cols), y(*engine, 1, shape.rows);
      x.fill(std::vector<float>(index(shape.cols)));
      engine->multiply(group, x.at(), y.at(), 1, Precision::kF32);
      EXPECT_EQ(y.values(), bias);
    }
}

// Each part of a plain matrix has its own rows, whatever they are stored as.
TEST_F(Vulkan, PlainMatricesInParts) {
  const std::shared_ptr<Device> whole = device_, cut = vulkan::open(8192)[place_];
  const int64_t rows = 150, cols = 100;
  const std::vector<float> values = random(rows * cols), bias = random(rows), x = random(3 * cols);
  const TensorView view{DType::kF32, Shape({rows, cols}), std::as_bytes(std::span(values))};
  for (const DenseMatrix::Storage storage : {DenseMatrix::Storage::kF32, DenseMatrix::Storage::kF16,
                                             DenseMatrix::Storage::kBF16, DenseMatrix::Storage::kInt8}) {
    std::vector<float> y[2];
    for (const bool in_parts : {false, true}) {
      device_ = in_parts ? cut : whole;
      LinearGroup group;
      group.add(*device_, view, storage, bias, 1);
      y[in_parts] = product(group, x, 3, Precision::kF32);
    }
    EXPECT_EQ(y[0], y[1]) << "storage " << static_cast<int>(storage);
  }
}

// Pieces that lay beside each other become one again, whichever is given back first.
TEST_F(Vulkan, NeighboursThatAreGivenBackBecomeOnePiece) {
  if (std::getenv("NFLOAT_VULKAN_PIECES") != nullptr)
    GTEST_SKIP() << "each piece is an allocation of its own";
  constexpr size_t kBytes = size_t{20} << 20;
  for (const bool first_goes_first : {false, true}) {
    std::shared_ptr<std::byte> first = device_->page(kBytes), second = device_->page(kBytes);
    const std::shared_ptr<std::byte> third = device_->page(kBytes / 2);
    const std::byte* const before = first.get();
    ASSERT_EQ(second.get(), before + kBytes);
    (first_goes_first ? first : second).reset();
    (first_goes_first ? second : first).reset();
    EXPECT_EQ(device_->page(2 * kBytes).get(), before);
  }
}

// Prompts: levels rounded to halves, at most half of 2^-11 of each product; none where halves hold them.
TEST_F(Vulkan, ManyRowsWithLevelsInHalves) {
  if (on_units()) GTEST_SKIP() << "its matrix units are in use: units_test.cpp";
  for (const auto& [outputs, cols] : {std::pair<int64_t, int64_t>{70, 64}, {64, 320}, {1, 96}, {129, 128}})
    for (const int64_t nested : {0, 4})
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
  if (on_units()) GTEST_SKIP() << "its matrix units are in use: units_test.cpp";
  for (const float scale : {1e5f, 1e-5f}) {
    Coded made = coded(40, 64, 64, 0);
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
    const Coded made = coded(50, cols, 64, 4);
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

// A few queries of a long context share its pages out, many do not: the bits are the same.
TEST_F(Vulkan, AttentionInPartsHasTheSameBits) {
  const int64_t positions = 1250;
  struct Kind {
    kernels::KvType type;
    int64_t width, window;
    bool with_sinks;
  };
  for (const Kind& kind : {Kind{kernels::KvType::kF16, 150, 0, false},  // more numbers than invocations
                           {kernels::KvType::kInt8, 24, 1100, true},
                           {kernels::KvType::kF32, 24, 1100, false}}) {
    const kernels::KvType type = kind.type;
    const int64_t width = kind.width, window = kind.window;
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

// A prompt in tiles and in pieces too short for them: the bits are the same, and what is no number stays
// where it is seen.
struct TileCase {
  HeadLayout heads;
  kernels::KvType type;
  int64_t rows, window;
  float softcap;
  bool sinks;
  int64_t no_number;  // the row whose key and value are that; -1: none
};
// Few rows see what is no number, and most of them can be compared.
constexpr TileCase kTileCases[] = {
    {{6, 2, 16}, kernels::KvType::kF32, 45, 0, 0, false, 42},      // tiles end inside a row
    {{4, 4, 5}, kernels::KvType::kInt8, 270, 1, 0, false, 135},    // a query sees itself
    {{5, 1, 80}, kernels::KvType::kF16, 140, 131, 20, true, 138},  // two pages, of which a part is seen
    {{2, 2, 33}, kernels::KvType::kF16, 1100, 70, 0, true, 1096},  // two parts, of which some see the second
    {{2, 1, 128}, kernels::KvType::kInt8, 33, 7, 30, false, -1},
    {{2, 1, 130}, kernels::KvType::kF32, 131, 0, 0, true, 128},
    {{1, 1, 300}, kernels::KvType::kF16, 19, 0, 0, false, 17},
};

class VulkanTiles : public Vulkan, public ::testing::WithParamInterface<TileCase> {};

TEST_P(VulkanTiles, HaveTheBitsOfRows) {
  const TileCase& c = GetParam();
  const HeadLayout& h = c.heads;
  const auto bytes = index(device_->page_bytes({1, h.kv_heads, h.head_dim, c.type}));
  std::vector<std::shared_ptr<std::byte>> owners;
  std::vector<std::byte*> pages;
  for (int64_t at = 0; at < c.rows; at += kernels::kAttentionBlock)
    pages.push_back(owners.emplace_back(device_->page(bytes)).get());
  std::reverse(pages.begin(), pages.end());
  Constant sinks(c.sinks ? random(h.heads) : std::vector<float>());
  device_->place(sinks);
  const std::unique_ptr<LayerEngine> engine = device_->engine();
  std::vector<float> x = random(c.rows * h.row());
  for (int64_t kv = 0; c.no_number >= 0 && kv < h.kv_heads; ++kv) {
    float* const key = x.data() + c.no_number * h.row() + h.key_at() + kv * h.key_stride();
    std::fill_n(key, h.head_dim, kNaN);
    std::fill_n(key + h.value_after_key(), h.head_dim, kNaN);
  }
  const auto attended = [&](int64_t piece) {
    std::vector<float> all;
    for (int64_t first = 0; first < c.rows; first += piece) {
      const int64_t rows = std::min(piece, c.rows - first);
      Table projected(*engine, rows, h.row(), 3), found(*engine, rows, h.query_size(), 1);
      projected.fill({x.begin() + first * h.row(), x.begin() + (first + rows) * h.row()});
      const SequenceRows own[] = {{.cache = {c.type, pages.data()}, .rows = rows, .position = first}};
      engine->attend({.heads = h,
                      .sequences = own,
                      .rope = LayerRope::kNone,
                      .scale = 0.3f,
                      .softcap = c.softcap,
                      .window = c.window,
                      .sinks = c.sinks ? &sinks : nullptr},
                     projected.at(), found.at());
      const std::vector<float> values = found.values();
      all.insert(all.end(), values.begin(), values.end());
    }
    return all;
  };
  // Tiles first: shared memory and outputs hold nothing that would be right.
  const std::vector<float> tiles = attended(c.rows), rows = attended(vulkan::kPromptRows - 1);
  const std::vector<float> continued = attended(c.rows * 11 / 12);  // parts begin inside of a tile, too
  for (size_t i = 0; i < tiles.size(); ++i) {
    const int64_t row = static_cast<int64_t>(i) / h.query_size();
    const bool sees_it =
        c.no_number >= 0 && row >= c.no_number && (c.window == 0 || row < c.no_number + c.window);
    for (const float found : {tiles[i], continued[i]}) {
      ASSERT_EQ(std::isnan(found), sees_it) << "row " << row << " element " << i % index(h.query_size());
      if (sees_it) continue;
      ASSERT_EQ(found, rows[i]) << "row " << row << " element " << i % index(h.query_size());
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Cases, VulkanTiles, ::testing::ValuesIn(kTileCases), [](const auto& of) {
  return std::to_string(of.param.heads.head_dim) + "_of_type_" +
         std::to_string(static_cast<int>(of.param.type));
});

// Prompts between tokens of other sequences: each takes its own rows.
TEST_F(Vulkan, LongAndShortSequencesOfOneStep) {
  const HeadLayout h{4, 2, 16};
  const auto bytes = index(device_->page_bytes({1, 2, 16, kernels::KvType::kF16}));
  const std::unique_ptr<LayerEngine> engine = device_->engine();
  const std::vector<int64_t> counts{1, 40, 3, 15, 16, 1, 33};
  std::vector<std::shared_ptr<std::byte>> owners;
  std::vector<std::byte*> pages;
  for (size_t i = 0; i < 2 * counts.size(); ++i)
    pages.push_back(owners.emplace_back(device_->page(bytes)).get());
  const int64_t all = std::accumulate(counts.begin(), counts.end(), int64_t{0});
  const std::vector<float> x = random(all * h.row());
  const auto attended = [&](const std::vector<SequenceRows>& sequences, int64_t first, int64_t rows) {
    Table projected(*engine, rows, h.row(), 1), found(*engine, rows, h.query_size(), 2);
    projected.fill({x.begin() + first * h.row(), x.begin() + (first + rows) * h.row()});
    engine->attend({.heads = h, .sequences = sequences, .rope = LayerRope::kNone, .scale = 0.3f},
                   projected.at(), found.at());
    return found.values();
  };
  std::vector<SequenceRows> together;
  std::vector<float> alone;
  int64_t row = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    SequenceRows own{.cache = {kernels::KvType::kF16, pages.data() + 2 * i}, .row = row, .rows = counts[i]};
    together.push_back(own);
    for (int64_t at = 0; at < counts[i]; ++at) {  // row by row, whose numbers the tests of steps judge
      const std::vector<float> one = attended({{.cache = own.cache, .rows = 1, .position = at}}, row + at, 1);
      alone.insert(alone.end(), one.begin(), one.end());
    }
    row += counts[i];
  }
  EXPECT_EQ(attended(together, 0, all), alone);
}

// What a device promises at least holds a tile of any head.
TEST(VulkanTileSizes, FitIntoSharedMemory) {
  for (int64_t head = 1; head <= vulkan::kMostHeadDim; ++head) {
    for (const uint32_t shared : {16384u, 32768u}) {
      const uint32_t queries = vulkan::attend_tile_queries(head, shared);
      ASSERT_GE(queries, 4u) << head;
      EXPECT_LE(vulkan::attend_tile_bytes(queries, head), shared) << head;
      EXPECT_LE(queries * head, vulkan::kMostTileNumbers) << head;
    }
    EXPECT_EQ(vulkan::attend_tile_queries(head, 2048), 0u) << head;
  }
}

}  // namespace
}  // namespace nfloat::testing

// SPDX-License-Identifier: Apache-2.0
// What the steps of the other files do not reach on a device of CUDA, emulated or real: products on tensor
// cores, every storage and odd block, memory, a card that fails, a child process.
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <tuple>

#include "cuda/warp.h"
#include "engine_test.h"
#include "nfloat/error.h"
#include "reference/gemm.h"
#include "support/emulated_card.h"

namespace nfloat::testing {
namespace {

constexpr double kBf16Factors =
    1.02 * 0x1p-8;  // each of two factors is rounded by a 2^-9th of itself at most

class Cuda : public ::testing::TestWithParam<size_t> {
 protected:
  void SetUp() override { device_ = all()[GetParam()]; }

 public:
  static std::vector<std::shared_ptr<Device>> all() {
    std::vector<std::shared_ptr<Device>> found;
    for (std::shared_ptr<Device>& device : devices())
      if (device->name().starts_with("cuda")) found.push_back(device);
    return found;
  }

 protected:
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
  Coded coded(int64_t rows, int64_t cols, int64_t block, int64_t nested_block) {
    Coded made;
    const int64_t blocks = (rows * cols + block - 1) / block;
    made.codes.resize(index((rows * cols + 1) / 2));
    for (uint8_t& code : made.codes) code = static_cast<uint8_t>(generator_());
    made.levels = random(16);
    made.source.codes = made.codes;
    made.source.levels = made.levels;
    made.source.rows = rows;
    made.source.cols = cols;
    made.source.block_size = block;
    if (nested_block > 0) {
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
  // As the CPU decodes them.
  static std::vector<float> decoded(const PackSource& source) {
    const PackedMatrix packed = PackedMatrix::pack(source, 1);
    std::vector<float> values(index(source.rows * source.cols));
    for (int64_t row = 0; row < source.rows; ++row)
      packed.dequantize_row(row, values.data() + row * source.cols);
    return values;
  }

  std::vector<float> product(const LinearGroup& group, const std::vector<float>& x, int64_t rows,
                             Precision precision) {
    const std::unique_ptr<LayerEngine> engine = device_->engine();
    Table from(*engine, rows, group.inputs(), 3), to(*engine, rows, group.outputs(), 2);
    from.fill(x);
    engine->multiply(group, from.at(), to.at(), rows, precision);
    return to.values();
  }
  // The product against double precision, each sum within a share of its absolute terms.
  void expect_product(const Coded& made, int64_t rows, Precision precision, double share) {
    LinearGroup group;
    const std::vector<float> bias = random(made.source.rows);
    group.add(*device_, made.source, bias, 1);
    const std::vector<float> x = random(rows * made.source.cols), y = product(group, x, rows, precision);
    const reference::Product expected =
        reference::multiply(x, decoded(made.source), bias, rows, made.source.rows, made.source.cols);
    for (size_t i = 0; i < y.size(); ++i)
      ASSERT_NEAR(double{y[i]}, expected.y[i], share * expected.magnitude[i] + 1e-37)
          << "row " << i / index(made.source.rows) << " output " << i % index(made.source.rows);
  }

  std::shared_ptr<Device> device_;
  std::mt19937 generator_{99};
};
INSTANTIATE_TEST_SUITE_P(Devices, Cuda, ::testing::Range(size_t{0}, Cuda::all().size()),
                         [](const ::testing::TestParamInfo<size_t>& device) {
                           std::string name(Cuda::all()[device.param]->name());
                           std::replace(name.begin(), name.end(), ':', '_');
                           return name;
                         });

TEST_P(Cuda, CodesInEveryOrder) {
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
    for (const int64_t nested : {0, 4})
      for (const int64_t rows : {1, 20}) {
        SCOPED_TRACE(::testing::Message() << shape.rows << " x " << shape.cols << " in blocks of "
                                          << shape.block << " nested " << nested << " rows " << rows);
        expect_product(coded(shape.rows, shape.cols, shape.block, nested), rows, Precision::kF32, 1e-6);
        // What no kernel of tensor cores takes is computed in float32.
        expect_product(coded(shape.rows, shape.cols, shape.block, nested), rows, Precision::kBF16,
                       shape.cols % 64 == 0 ? kBf16Factors : 1e-6);
        if (HasFatalFailure()) return;
      }
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

// A product with one row of the unit matrix is a column of the weights, to the last bit.
TEST_P(Cuda, PlainWeightsAreThoseOfTheCpu) {
  for (const DenseMatrix::Storage storage : {DenseMatrix::Storage::kF32, DenseMatrix::Storage::kF16,
                                             DenseMatrix::Storage::kBF16, DenseMatrix::Storage::kInt8})
    for (const auto& [rows, cols, dtype] : {std::tuple<int64_t, int64_t, DType>{5, 9, DType::kF32},
                                            {17, 64, DType::kF32},
                                            {3, 100, DType::kBF16},
                                            {4, 33, DType::kF16}}) {
      SCOPED_TRACE(::testing::Message() << "storage " << static_cast<int>(storage) << " " << rows << " x "
                                        << cols << " of " << dtype_name(dtype));
      const std::vector<float> plain = random(rows * cols);
      std::vector<std::byte> bytes(index(rows * cols) * dtype_bytes(dtype));
      convert_elements({DType::kF32, Shape({rows, cols}), std::as_bytes(std::span(plain))}, dtype, bytes);
      const TensorView view{dtype, Shape({rows, cols}), bytes};
      LinearGroup group;
      group.add(*device_, view, storage, {}, 2);
      const DenseMatrix here = DenseMatrix::pack(view, storage, 1);
      std::vector<float> unit(index(cols * cols)), row(index(cols));
      for (int64_t i = 0; i < cols; ++i) unit[index(i * cols + i)] = 1;
      const std::vector<float> columns = product(group, unit, cols, Precision::kF32);
      for (int64_t r = 0; r < rows; ++r) {
        here.dequantize_row(r, row.data());
        for (int64_t c = 0; c < cols; ++c) ASSERT_EQ(columns[index(c * rows + r)], row[index(c)]);
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

TEST_P(Cuda, MemoryIsGivenBackAndUsedAgain) {
  const uint64_t before = *device_->free_bytes();
  {
    const std::unique_ptr<LayerEngine> engine = device_->engine();
    std::vector<std::pair<BufferRows, float>> all;
    const auto check = [&](size_t i) {
      const float* values = engine->read(all[i].first, 1, all[i].first.stride);
      for (int64_t k = 0; k < all[i].first.stride; ++k) ASSERT_EQ(values[k], all[i].second) << i;
    };
    for (int i = 0; i < 200; ++i) {
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
  if (device_->name() == "cuda:emulated") {  // others share a real one
    EXPECT_EQ(*device_->free_bytes(), before);
  }
}

TEST_P(Cuda, MoreThanThereIsNamesTheNumbers) {
  try {
    device_->page(size_t{1} << 46);
    ADD_FAILURE() << "64 TiB were given";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kOutOfMemory);
    EXPECT_NE(std::string(error.what()).find("MiB are free"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find(device_->name()), std::string::npos) << error.what();
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

// A child of fork() has no driver: every call says so, and nothing waits.
TEST_P(Cuda, AChildProcessIsRefused) {
  const std::unique_ptr<LayerEngine> engine = device_->engine();
  Table x(*engine, 2, 8);
  x.fill(random(16));
  std::shared_ptr<std::byte> kept = device_->page(4096);
  std::unique_ptr<LayerEngine> own = device_->engine();
  const BufferRows rows{own->make(32), 0, 8}, other = rows.from(2);
  own->copy(rows, other, 2, 8);
  const std::string name(device_->name());
  const std::vector<std::function<void()>> calls{
      [&] { find_device(name); },
      [&] { device_->engine(); },
      [&] { device_->page(64); },
      [&] { device_->copy_page(kept.get(), kept.get() + 64, 64); },
      [&] {
        Constant constant(std::vector<float>{1, 2});
        device_->place(constant);
      },
      [&] { device_->matrix(coded(4, 64, 64, 0).source, 1); },
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

}  // namespace
}  // namespace nfloat::testing

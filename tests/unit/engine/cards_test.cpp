// SPDX-License-Identifier: Apache-2.0
// What the steps of the other files do not reach on a device that is not the CPU: every storage and odd block
// against the CPU's own decoding, pages copied while steps wait, memory given back, a child process.
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <optional>
#include <tuple>

#include "base/float16.h"
#include "card_test.h"
#include "nfloat/error.h"

namespace nfloat::testing {
namespace {

// The emulated card is always among them.
std::vector<std::shared_ptr<Device>> cards() {
  std::vector<std::shared_ptr<Device>> found = devices();
  found.erase(found.begin());  // the CPU
  return found;
}

class Cards : public CardTest, public ::testing::WithParamInterface<size_t> {
 protected:
  void SetUp() override { device_ = cards()[GetParam()]; }
};
INSTANTIATE_TEST_SUITE_P(Devices, Cards, ::testing::Range(size_t{0}, cards().size()),
                         [](const ::testing::TestParamInfo<size_t>& device) {
                           std::string name(cards()[device.param]->name());
                           std::replace(name.begin(), name.end(), ':', '_');
                           return name;
                         });

TEST_P(Cards, CodesInEveryOrder) {
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
      for (const int64_t rows : {1, 20, 70}) {
        SCOPED_TRACE(::testing::Message() << shape.rows << " x " << shape.cols << " in blocks of "
                                          << shape.block << " nested " << nested << " rows " << rows);
        expect_product(coded(shape.rows, shape.cols, shape.block, nested), rows, Precision::kF32, 1e-6);
        if (HasFatalFailure()) return;
      }
}

// A product with one row of the unit matrix is a column of the weights, to the last bit.
TEST_P(Cards, PlainWeightsAreThoseOfTheCpu) {
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
      std::vector<float> unit(index(cols * cols));
      for (int64_t i = 0; i < cols; ++i) unit[index(i * cols + i)] = 1;
      const std::vector<float> columns = product(group, unit, cols, Precision::kF32);
      std::vector<float> row(index(cols));
      for (int64_t r = 0; r < rows; ++r) {
        packed.dequantize_row(r, row.data());
        for (int64_t i = 0; i < cols; ++i)
          ASSERT_EQ(columns[index(i * rows + r)], row[index(i)]) << "row " << r << " column " << i;
      }
    }
}

// As much as a shader copies in one row, and more than is read or staged at once.
TEST_P(Cards, UploadsOfManyBytes) {
  for (const int64_t rows : {64, 8200}) {
    const int64_t cols = 1024;
    const std::vector<float> values = random(rows * cols), bias(index(rows)), x = random(cols);
    LinearGroup group;
    group.add(*device_, {DType::kF32, Shape({rows, cols}), std::as_bytes(std::span(values))},
              DenseMatrix::Storage::kF32, {}, 1);
    const std::vector<float> y = product(group, x, 1, Precision::kF32);
    const reference::Product expected = reference::multiply(x, values, bias, 1, rows, cols);
    for (size_t i = 0; i < y.size(); ++i)
      ASSERT_NEAR(double{y[i]}, expected.y[i], 1e-6 * expected.magnitude[i]) << i;
  }
}

TEST_P(Cards, WrongSourcesAreRefused) {
  Coded made = coded(8, 64, 64, 4);
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
  // A constant that was not placed.
  const NormWeights norm{Constant(std::vector<float>(8, 1.0f)), {}};
  EXPECT_THROW(engine->norm({&norm, NormKind::kRms, 1e-5f, 8}, y.at(), y.at(), 1), Error);
}

// Steps that wait in one engine come before the copy, and what comes after it sees it.
TEST_P(Cards, PagesAreCopiedBehindWaitingSteps) {
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
TEST_P(Cards, ValuesAreRoundedToTheNearest) {
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

TEST_P(Cards, MemoryIsGivenBackAndUsedAgain) {
  const std::optional<uint64_t> before = device_->free_bytes();
  EXPECT_GT(before.value_or(0), 0u);
  {
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
  if (device_->name() == "cuda:emulated") {  // others share the rest
    EXPECT_EQ(device_->free_bytes(), before);
  }
}

// A child of fork() has neither the driver's threads nor its queues: every call says so, and nothing waits.
TEST_P(Cards, AChildProcessIsRefused) {
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

TEST_P(Cards, MoreThanThereIsNamesTheNumbers) {
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

// SPDX-License-Identifier: Apache-2.0
#include "nfloat/device_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <random>

#include "base/fail.h"
#include "engine/layer_engine.h"
#include "nfloat/codebook.h"

namespace nfloat {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kBlock = 64, kNestedBlock = 256;
constexpr int64_t kWidth = 16384, kMostRows = 65535;  // that are copied and read

struct ProductShape {
  int64_t outputs, inputs;
};
constexpr ProductShape kShapes[] = {{14336, 4096}, {4096, 14336}};
constexpr int64_t kRowCounts[] = {1, 8, 512};

double since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// A matrix of random codes, as a file has it.
struct Source {
  explicit Source(const ProductShape& shape) : shape_(shape), codebook_(make_codebook("nf4")) {
    std::mt19937 random(1);
    const auto blocks = static_cast<size_t>(shape.outputs * shape.inputs / kBlock);
    codes_.resize(blocks * kBlock / 2);
    for (uint8_t& code : codes_) code = static_cast<uint8_t>(random());
    nested_.assign(codes_.begin(), codes_.begin() + static_cast<std::ptrdiff_t>(blocks));
    for (size_t i = 0; i < blocks; ++i) scales_.push_back(0.01f + static_cast<float>(i % 97) * 1e-4f);
    absmax_.assign((blocks + kNestedBlock - 1) / kNestedBlock, 0.02f);
    for (int i = 0; i < 256; ++i) map_.push_back(static_cast<float>(i) / 256);
  }

  PackSource source(bool nested) const {
    PackSource made;
    made.codes = codes_;
    made.levels = codebook_.levels;
    made.rows = shape_.outputs;
    made.cols = shape_.inputs;
    made.block_size = kBlock;
    if (!nested) {
      made.scales = scales_;
      return made;
    }
    made.nested_codes = nested_;
    made.nested_absmax = absmax_;
    made.nested_map = map_;
    made.nested_offset = 0.01f;
    made.nested_block_size = kNestedBlock;
    return made;
  }

 private:
  ProductShape shape_;
  Codebook codebook_;
  std::vector<uint8_t> codes_, nested_;
  std::vector<float> scales_, absmax_, map_;
};

class DeviceJob {
 public:
  explicit DeviceJob(const DeviceBenchOptions& options)
      : options_(options), device_(find_device(options.device)), engine_(device_->engine()) {
    found_.device = device_->name();
    found_.model = device_->model();
    found_.accelerator = device_->accelerator();
    found_.matrix_units = device_->matrix_units();
    found_.memory = options.memory;
    if (const auto free = device_->free_bytes()) found_.memory = std::min(found_.memory, *free / 2);
  }

  DeviceBench run() {
    const size_t wanted = each_row([](const ProductShape&, bool, int64_t, const std::string&) {});
    if (wanted == 0) fail(ErrorCode::kInvalidArgument, "no row's name contains '{}'", options_.only);
    count_ = wanted + 2;
    seconds_ = options_.seconds / static_cast<double>(count_);
    measure_limits();
    each_row([this](const ProductShape& shape, bool nested, int64_t rows, const std::string& name) {
      measure_product(shape, nested, rows, name);
    });
    found_.graphs = device_->graphs();
    return std::move(found_);
  }

 private:
  template <typename Call>
  size_t each_row(const Call& call) {
    size_t count = 0;
    for (const ProductShape& shape : kShapes)
      for (const bool nested : {false, true})
        for (const int64_t rows : kRowCounts) {
          const std::string name = fmt::format("{}x{} by {} row{}, {} scales", shape.outputs, shape.inputs,
                                               rows, rows == 1 ? "" : "s", nested ? "8-bit" : "f32");
          if (name.find(options_.only) == std::string::npos) continue;
          ++count;
          call(shape, nested, rows, name);
        }
    return count;
  }

  struct Times {
    double median = 0, spread = 0;
  };
  // Of one step, queued so many times that the wait at the end is a small part; at least three rounds, after
  // one that does not count.
  template <typename Step>
  Times times_of(const std::string& name, const Step& step) {
    if (options_.progress) options_.progress(done_, count_, name);
    ++done_;
    constexpr double kRound = 5e-3;
    constexpr size_t kRounds = 3;
    const auto round = [&](int64_t times) {
      const Clock::time_point begin = Clock::now();
      for (int64_t i = 0; i < times; ++i) step();
      wait();
      return since(begin);
    };
    int64_t times = 1;
    while (round(times) < kRound) times *= 2;
    std::vector<double> all;
    const Clock::time_point begin = Clock::now();
    while (all.size() < kRounds || since(begin) < seconds_) {
      all.push_back(round(times) / static_cast<double>(times));
      if (options_.progress) options_.progress(done_ - 1, count_, name);
    }
    std::sort(all.begin(), all.end());
    const double median = all[all.size() / 2];
    return {median, (all[all.size() * 3 / 4] - all[all.size() / 4]) / median};
  }

  void wait() { engine_->read({flag(), 0, 1}, 1, 1); }
  BufferId flag() {
    if (flag_ == BufferId::kNone) flag_ = engine_->make(1);
    return flag_;
  }

  // Random numbers, so that no memory that is compressed or not yet there looks fast.
  BufferId random_rows(int64_t rows, int64_t width) {
    const BufferRows all{engine_->make(rows * width), 0, width};
    std::mt19937 random(2);
    float* const values = engine_->host(all, 1, width);
    for (int64_t i = 0; i < width; ++i) values[i] = static_cast<float>(random() % 2048) / 1024.0f - 1.0f;
    engine_->write(all, 1, width);
    for (int64_t row = 1; row < rows; ++row) engine_->copy(all, all.from(row), 1, width);
    wait();
    return all.buffer;
  }

  void measure_limits() {
    const int64_t row_bytes = kWidth * static_cast<int64_t>(sizeof(float));
    const int64_t rows = std::clamp<int64_t>(static_cast<int64_t>(found_.memory) / row_bytes, 2, kMostRows);
    {
      const auto bytes = static_cast<size_t>(rows / 2 * row_bytes);
      const std::shared_ptr<std::byte> from = device_->page(bytes), to = device_->page(bytes);
      device_->copy_page(to.get(), from.get(), bytes);  // the memory is there
      const Times times = times_of("copy", [&] { device_->copy_page(to.get(), from.get(), bytes); });
      found_.copy = 2 * static_cast<double>(bytes) / 1e9 / times.median;
    }
    const BufferId all = random_rows(rows, kWidth);
    const Times times = times_of("read", [&] {
      engine_->finite({all, 0, kWidth}, rows, kWidth);
      engine_->forget_looks();
    });
    found_.read = static_cast<double>(rows * row_bytes) / 1e9 / times.median;
    engine_->drop(all);
  }

  // One product after another over matrices that together fill the memory: none is in a cache when its turn
  // comes.
  void measure_product(const ProductShape& shape, bool nested, int64_t rows, const std::string& name) {
    if (!source_ || shape.outputs != source_shape_.outputs) {
      source_ = std::make_unique<Source>(shape);
      source_shape_ = shape;
      matrices_.clear();
    }
    if (matrices_.empty() || nested != nested_) {
      matrices_.clear();
      nested_ = nested;
      uint64_t bytes = 0;
      do {
        matrices_.emplace_back();
        matrices_.back().add(*device_, source_->source(nested), {}, 1);
        bytes += matrices_.back().bytes();
      } while (bytes < found_.memory);
    }
    const BufferRows x{random_rows(rows, shape.inputs), 0, shape.inputs},
        y{engine_->make(rows * shape.outputs), 0, shape.outputs};
    size_t next = 0;
    const Times times = times_of(name, [&] {
      engine_->multiply(matrices_[next], x, y, rows, Precision::kBF16);
      next = (next + 1) % matrices_.size();
    });
    engine_->drop(x.buffer);
    engine_->drop(y.buffer);
    const double gigabytes = static_cast<double>(matrices_[0].bytes()) / 1e9;
    found_.rows.push_back({name, times.median, times.spread, gigabytes,
                           2e-9 * static_cast<double>(rows * shape.outputs * shape.inputs),
                           gigabytes / times.median / found_.read});
  }

  const DeviceBenchOptions& options_;
  const std::shared_ptr<Device> device_;
  const std::unique_ptr<LayerEngine> engine_;
  DeviceBench found_;
  double seconds_ = 0;
  size_t count_ = 0, done_ = 0;
  BufferId flag_ = BufferId::kNone;
  std::unique_ptr<Source> source_;
  ProductShape source_shape_{};
  bool nested_ = false;
  std::vector<LinearGroup> matrices_;
};

}  // namespace

DeviceBench bench_device(const DeviceBenchOptions& options) {
  return DeviceJob(options).run();
}

}  // namespace nfloat

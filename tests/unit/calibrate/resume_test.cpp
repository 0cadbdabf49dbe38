// SPDX-License-Identifier: Apache-2.0
// A calibration that is cut short and goes on, and the file that its layers stand in.
#include <gtest/gtest.h>

#include <sys/resource.h>

#include <atomic>
#include <csignal>
#include <filesystem>
#include <functional>
#include <random>

#include "base/parallel.h"
#include "nfloat/calibrate.h"
#include "nfloat/error.h"
#include "support/files.h"
#include "support/paths.h"

namespace nfloat {
namespace {

namespace fs = std::filesystem;

class Resume : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string folder = testing::source_path("/models/nfloat-tiny");
    checkpoint_ = std::make_shared<const Checkpoint>(folder);
    config_ = parse_model_config(checkpoint_->text_file("config.json"), folder);
    std::mt19937 generator(1);
    for (int window = 0; window < 3; ++window) {
      std::vector<int32_t>& ids = windows_.emplace_back();
      for (int i = 0; i < 30; ++i)
        ids.push_back(static_cast<int32_t>(generator() % static_cast<uint32_t>(config_.vocabulary)));
    }
    quantize_.quantize.double_quantization = true;
    quantize_.quantize.scale = ScaleMethod::kSigned;
    path_ = (fs::temp_directory_path() / ("nfloat-resume-" + std::to_string(::getpid()))).string();
    fs::remove(path_);
  }
  void TearDown() override { fs::remove(path_); }

  Calibration run(const CalibrationOptions& options) {
    return calibrate(checkpoint_, config_, windows_, quantize_, options);
  }
  static CalibrationOptions of_level(int level) {
    CalibrationOptions options;
    options.level = level;
    options.fast = true;
    options.threads = 2;
    return options;
  }

  std::shared_ptr<const Checkpoint> checkpoint_;
  ModelConfig config_;
  std::vector<std::vector<int32_t>> windows_;
  QuantizeCheckpointOptions quantize_;
  std::string path_;
};

void expect_equal(const Calibration& a, const Calibration& b) {
  ASSERT_EQ(a.tensors.size(), b.tensors.size());
  for (const auto& [name, tensor] : a.tensors) {
    const QuantizedTensor& other = b.tensors.at(name);
    EXPECT_EQ(tensor.codes, other.codes) << name;
    EXPECT_EQ(tensor.nested.codes, other.nested.codes) << name;
    EXPECT_EQ(tensor.nested.absmax, other.nested.absmax) << name;
    EXPECT_EQ(tensor.dtype, other.dtype) << name;
  }
  EXPECT_EQ(a.report.kl, b.report.kl);
  EXPECT_EQ(a.report.plain_kl, b.report.plain_kl);
  EXPECT_EQ(a.report.tensors, b.report.tensors);
  EXPECT_EQ(a.report.loss, b.report.loss);
}

// `beside` is calibrated on and never judged by: of another generator, so that it counts.
TEST_F(Resume, WhatStandsBesideIsNotHeldBack) {
  std::mt19937 generator(2);
  std::vector<std::vector<int32_t>> beside(4);
  for (std::vector<int32_t>& ids : beside)
    for (int i = 0; i < 20; ++i)
      ids.push_back(static_cast<int32_t>(generator() % static_cast<uint32_t>(config_.vocabulary)));
  const Calibration alone = run(of_level(1));
  CalibrationOptions options = of_level(1);
  options.beside = beside;
  const Calibration both = run(options);
  EXPECT_EQ(alone.report.beside_tokens, 0);
  EXPECT_EQ(both.report.beside_tokens, 80);
  EXPECT_EQ(both.report.tokens, alone.report.tokens);
  EXPECT_EQ(both.report.held_tokens, alone.report.held_tokens);
  EXPECT_EQ(both.report.plain_kl, alone.report.plain_kl);
  // The sums over the inputs are those of all windows: as though these had been among the trained ones.
  EXPECT_NE(both.report.plain_loss, alone.report.plain_loss);
  windows_.insert(windows_.end(), beside.begin(), beside.end());  // the second one alone is held back of ten
  const Calibration among = run(of_level(1));
  ASSERT_EQ(among.report.held_tokens, both.report.held_tokens);
  EXPECT_EQ(among.report.plain_loss, both.report.plain_loss);
  EXPECT_EQ(among.report.kl, both.report.kl);
}

TEST_F(Resume, GivesTheSameResult) {
  for (const int level : {1, 2}) {
    SCOPED_TRACE(level);
    fs::remove(path_);
    const Calibration whole = run(of_level(level));
    EXPECT_GT(whole.report.tensors, 0);
    {
      CalibrationFile file(path_, "key", quantize_);
      CalibrationOptions options = of_level(level);
      options.finished = [&](const CalibratedLayer& layer) { file.append(layer); };
      options.progress = [](int64_t layer, int64_t) {
        if (layer == 2) throw Error(ErrorCode::kInterrupted, "enough");
      };
      EXPECT_THROW(run(options), Error);
    }
    const CalibrationFile file(path_, "key", quantize_);
    ASSERT_EQ(file.layers(), 2);
    CalibrationOptions options = of_level(level);
    options.earlier_layers = file.layers();
    options.earlier = [&](int64_t layer) { return file.layer(layer); };
    int64_t layers = 0;
    options.finished = [&](const CalibratedLayer&) { ++layers; };
    bool estimated = false;
    options.estimated = [&](const CalibrationEstimate& estimate) {
      estimated = estimate.operations > 0 && estimate.seconds > 0 && estimate.memory_bytes > 1000000;
    };
    expect_equal(run(options), whole);
    EXPECT_EQ(layers, config_.layers - 2);
    EXPECT_TRUE(estimated);
  }
}

TEST_F(Resume, PassesOverWhatIsHalfWritten) {
  std::vector<CalibratedLayer> layers;
  {
    CalibrationFile file(path_, "key", quantize_);
    CalibrationOptions options = of_level(1);
    options.finished = [&](const CalibratedLayer& layer) {
      file.append(layer);
      layers.push_back(layer);
    };
    options.progress = [](int64_t layer, int64_t) {
      if (layer == 2) throw Error(ErrorCode::kInterrupted, "enough");
    };
    EXPECT_THROW(run(options), Error);
  }
  const std::string bytes = testing::read_file(path_);
  for (const size_t cut :
       {bytes.size() - 1, bytes.size() * 3 / 4, bytes.size() / 4, size_t{60}, size_t{27}}) {
    testing::write_file(path_, bytes.substr(0, cut));
    {
      CalibrationFile file(path_, "key", quantize_);
      ASSERT_LT(file.layers(), 2) << cut;
      file.append(layers[0]);
    }
    CalibrationFile file(path_, "key", quantize_);
    ASSERT_GE(file.layers(), 1) << cut;
    EXPECT_EQ(file.layer(file.layers() - 1).tensors.size(), layers[0].tensors.size());
  }
  std::string other = bytes;
  other[bytes.size() - 5] = static_cast<char>(other[bytes.size() - 5] ^ 1);
  testing::write_file(path_, other);
  EXPECT_EQ(CalibrationFile(path_, "key", quantize_).layers(), 1);
}

// What is not kept in memory is in the file, tensor by tensor in any order, and while layers are added.
TEST_F(Resume, TensorsAreReadFromTheFile) {
  const Calibration whole = run(of_level(1));
  CalibrationFile file(path_, "key", quantize_);
  CalibrationOptions options = of_level(1);
  options.keep_tensors = false;
  options.finished = [&](const CalibratedLayer& layer) {
    file.append(layer);
    const std::string& name = layer.tensors.begin()->first;
    EXPECT_EQ(file.tensor(name)->codes, layer.tensors.begin()->second.codes);
  };
  const Calibration found = run(options);
  EXPECT_TRUE(found.tensors.empty());
  EXPECT_EQ(found.report.kl, whole.report.kl);
  for (auto tensor = whole.tensors.rbegin(); tensor != whole.tensors.rend(); ++tensor) {
    const auto read = file.tensor(tensor->first);
    ASSERT_NE(read, nullptr) << tensor->first;
    EXPECT_EQ(read->codes, tensor->second.codes);
    EXPECT_EQ(read->nested.codes, tensor->second.nested.codes);
    EXPECT_EQ(read->dtype, tensor->second.dtype);
  }
  // By several threads, from layer to layer.
  parallel_for(64, 1, 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto& [name, tensor] = *std::next(whole.tensors.begin(), i * 5 % std::ssize(whole.tensors));
      EXPECT_TRUE(file.tensor(name)->codes == tensor.codes);
    }
  });
  EXPECT_EQ(file.tensor("nothing"), nullptr);
  EXPECT_EQ(CalibrationFile(path_ + "2", "key", quantize_).tensor("nothing"), nullptr);
  CalibrationFile::discard(path_ + "2");
  fs::resize_file(path_, 100);
  EXPECT_THROW(file.layer(0), Error);
}

// As a full disk does: writes beyond a size fail.
class LimitedFiles {
 public:
  explicit LimitedFiles(uint64_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit now{bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &now);
  }
  LimitedFiles(const LimitedFiles&) = delete;
  LimitedFiles& operator=(const LimitedFiles&) = delete;
  ~LimitedFiles() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit before_{};
  void (*handler_)(int);
};

TEST_F(Resume, AFullDiskLeavesWholeRecordsAndNoEmptyFile) {
  const auto fails = [](const std::function<void()>& act) {
    try {
      act();
      return false;
    } catch (const Error& error) {
      return error.code() == ErrorCode::kIo;
    }
  };
  {
    const LimitedFiles limited(20);  // less than the first line
    EXPECT_TRUE(fails([&] { CalibrationFile(path_, "key", quantize_); }));
    EXPECT_FALSE(fs::exists(path_));
  }
  CalibratedLayer layer;
  CalibrationOptions options = of_level(1);
  options.finished = [&](const CalibratedLayer& found) {
    layer = found;
    throw Error(ErrorCode::kInterrupted, "enough");
  };
  EXPECT_THROW(run(options), Error);
  ASSERT_FALSE(layer.tensors.empty());
  CalibrationFile file(path_, "key", quantize_);
  file.append(layer);
  const std::string bytes = testing::read_file(path_);
  {
    const LimitedFiles limited(bytes.size() + 1000);
    EXPECT_TRUE(fails([&] { file.append(layer); }));
  }
  EXPECT_TRUE(testing::read_file(path_) == bytes);
  // Another file that has the name by now is not what remove() means.
  fs::remove(path_);
  testing::write_file(path_, "another's");
  file.remove();
  EXPECT_EQ(testing::read_file(path_), "another's");
}

TEST_F(Resume, EndsSoonWhenAskedTo) {
  for (const int level : {1, 2}) {
    SCOPED_TRACE(level);
    CalibrationOptions options = of_level(level);
    options.threads = 2;
    std::atomic<int64_t> asked = 0;
    options.cancelled = [&] {
      ++asked;
      return false;
    };
    const Calibration whole = run(options);
    const int64_t all = asked;
    EXPECT_GT(all, 100 * config_.layers);
    for (const int64_t share : {1, 57, 99}) {  // the last when the result is judged
      asked = 0;
      // True once, and false to whoever asks then.
      options.cancelled = [&] { return ++asked == all * share / 100; };
      try {
        run(options);
        ADD_FAILURE() << share;
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kInterrupted) << error.what();
      }
      EXPECT_LT(asked, all * share / 100 + 200);
    }
    asked = 0;
    options.cancelled = nullptr;
    expect_equal(run(options), whole);
    EXPECT_EQ(asked, 0);
  }
}

TEST_F(Resume, BelongsToOneAtATime) {
  const auto refused = [&](const std::function<void()>& act) {
    try {
      act();
      return false;
    } catch (const Error& error) {
      return error.code() == ErrorCode::kAlreadyExists &&
             std::string(error.what()).find("another calibration to the same output") != std::string::npos;
    }
  };
  {
    CalibrationFile file(path_, "key", quantize_);
    const std::string bytes = testing::read_file(path_);
    EXPECT_TRUE(refused([&] { CalibrationFile(path_, "key", quantize_); }));
    EXPECT_TRUE(refused([&] { CalibrationFile::discard(path_); }));
    EXPECT_EQ(testing::read_file(path_), bytes);
    file.remove();
    const CalibrationFile next(path_, "other", quantize_);  // of a name that is free again
  }
  CalibrationFile::discard(path_);
  CalibrationFile::discard(path_);
  // What a run left that was killed at its start.
  for (const char* torn : {"", "nfloat", "nfloat calibration 1: k"}) {
    testing::write_file(path_, torn);
    CalibrationFile::discard(path_);
    EXPECT_FALSE(fs::exists(path_));
    testing::write_file(path_, torn);
    EXPECT_EQ(CalibrationFile(path_, "key", quantize_).layers(), 0);
    EXPECT_EQ(testing::read_file(path_), "nfloat calibration 1: key\n");
  }
}

TEST_F(Resume, RefusesWhatIsNotItsOwn) {
  CalibrationFile(path_, "one text", quantize_);
  try {
    CalibrationFile(path_, "another text", quantize_);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kAlreadyExists);
    EXPECT_NE(std::string(error.what()).find("one text"), std::string::npos);
  }
  testing::write_file(path_, "a file of somebody else\n");
  EXPECT_THROW(CalibrationFile(path_, "one text", quantize_), Error);
  EXPECT_EQ(testing::read_file(path_), "a file of somebody else\n");
  CalibrationOptions options = of_level(1);
  options.earlier_layers = 1;
  options.earlier = [](int64_t) {
    CalibratedLayer layer;
    layer.tensors["model.layers.0.nothing"] = {};
    return layer;
  };
  EXPECT_THROW(run(options), Error);
}

TEST_F(Resume, FingerprintsTellModelsApart) {
  EXPECT_EQ(checkpoint_fingerprint(*checkpoint_).size(), 16u);
  EXPECT_EQ(checkpoint_fingerprint(*checkpoint_),
            checkpoint_fingerprint(Checkpoint(testing::source_path("/models/nfloat-tiny"))));
}

}  // namespace
}  // namespace nfloat

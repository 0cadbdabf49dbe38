// SPDX-License-Identifier: Apache-2.0
// Formats measured in one pass over the layers, against each on the whole model.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <numeric>
#include <optional>

#include "evaluate/hidden_states.h"
#include "nfloat/comparison.h"
#include "nfloat/error.h"
#include "nfloat/tokenizer.h"
#include "support/files.h"
#include "support/paths.h"

namespace nfloat {
namespace {

const std::string kEmbedded = testing::source_path("/models/nfloat-tiny");

// Of more tokens than go through a layer at once.
std::vector<int32_t> story() {
  const std::string text = testing::read_file(kEmbedded + "/stories.txt").substr(0, 2600);
  return Tokenizer::load(kEmbedded).encode(text, false);
}

// What a format is not: it fails at one of the matrices, or leaves what grows beyond float32.
class Broken : public Format {
 public:
  Broken(std::string name, int64_t fails_at, float factor)
      : Format(std::move(name), "for a test"), fails_at_(fails_at), factor_(factor) {}
  StoredWeights round_trip(std::span<float> weights, int64_t, int64_t, int) const override {
    if (++seen_ == fails_at_) throw Error(ErrorCode::kInvalidArgument, "does not fit");
    for (float& weight : weights) weight *= factor_;
    return {.bytes = weights.size(), .code_counts = {}};
  }
  double bits_per_weight() const noexcept override { return 8; }
  int64_t block_size() const noexcept override { return 1; }

 private:
  const int64_t fails_at_;
  const float factor_;
  mutable int64_t seen_ = 0;
};

// As a format whose matrices depend on the model.
class Inseparable : public Format {
 public:
  Inseparable() : Format("inseparable", "for a test") {}
  StoredWeights round_trip(std::span<float> weights, int64_t rows, int64_t cols, int threads) const override {
    return own_->round_trip(weights, rows, cols, threads);
  }
  double bits_per_weight() const noexcept override { return own_->bits_per_weight(); }
  int64_t block_size() const noexcept override { return own_->block_size(); }
  bool separable() const noexcept override { return false; }

 private:
  const std::unique_ptr<Format> own_ = make_format("nf4:64");
};

std::unique_ptr<Format> make(const std::string& name) {
  if (name == "unfit") return std::make_unique<Broken>("unfit", 10, 1.0f);
  if (name == "grows") return std::make_unique<Broken>("grows", 0, std::numeric_limits<float>::infinity());
  if (name == "inseparable") return std::make_unique<Inseparable>();
  return make_format(name);
}

CompareOptions short_options() {
  CompareOptions options;
  options.formats = {"nf4:64", "unfit", "q8_0", "grows", "inseparable"};
  options.make = make;
  options.measure.scoring = {.protocol = PerplexityProtocol::kBos, .context = 100};
  options.measure.generate_tokens = 0;
  return options;
}

std::string without_time(FormatMeasurement measurement) {
  measurement.coding_seconds = 0;
  return measurement_json(measurement);
}

void expect_as_alone(const CompareOptions& options, const Comparison& found,
                     std::span<const int32_t> tokens) {
  const std::string path = ::testing::TempDir() + "/together_reference." + std::to_string(::getpid());
  ModelOptions load;
  load.precision = options.measure.precision;
  PerplexityOptions scoring = options.measure.scoring;
  scoring.precision = load.precision;
  ReferenceDistributions::write(path, "", Model::load(kEmbedded, load), tokens, scoring);
  const ReferenceDistributions reference(path);
  std::filesystem::remove(path);  // from here on a file without a name
  ASSERT_EQ(found.measurements.size(), options.formats.size());
  for (size_t i = 0; i < options.formats.size(); ++i) {
    const FormatMeasurement alone =
        measure_format(kEmbedded, *make(options.formats[i]), reference, tokens, options.measure);
    EXPECT_EQ(without_time(found.measurements[i]), without_time(alone)) << options.formats[i];
  }
}

TEST(FormatsTogether, GiveTheNumbersOfEachAlone) {
  const std::vector<int32_t> tokens = story();
  for (const Precision precision : {Precision::kF32, Precision::kBF16}) {
    CompareOptions options = short_options();
    options.measure.precision = precision;
    ComparePlan plan;
    options.planned = [&](const ComparePlan& made) { plan = made; };
    double share = 0;
    options.progress = [&](const CompareProgress& progress) {
      EXPECT_GE(progress.share, share) << progress.format;
      share = progress.share;
    };
    const Comparison found = compare_formats(kEmbedded, tokens, options);
    EXPECT_EQ(plan.together, 4u);
    ASSERT_EQ(plan.alone.size(), 1u);
    EXPECT_NE(plan.alone[0].find("inseparable: "), std::string::npos);
    EXPECT_FALSE(plan.states_in_file);
    EXPECT_GT(plan.peak_bytes, plan.state_bytes);
    EXPECT_DOUBLE_EQ(share, 1);
    EXPECT_NE(found.measurements[1].refused.find("does not fit"), std::string::npos);
    EXPECT_NE(found.measurements[3].refused, "");
    EXPECT_EQ(found.measurements[4].refused, "");
    expect_as_alone(options, found, tokens);
  }
}

TEST(FormatsTogether, GiveTheSameFromAFileOfHiddenStates) {
  const std::vector<int32_t> tokens = story();
  CompareOptions options = short_options();
  options.formats = {"nf4:64", "q8_0"};
  options.measure.scoring.protocol = PerplexityProtocol::kLlamaCpp;
  options.measure.state_memory_bytes = 1000;
  bool in_file = false;
  options.planned = [&](const ComparePlan& made) { in_file = made.states_in_file; };
  const Comparison found = compare_formats(kEmbedded, tokens, options);
  EXPECT_TRUE(in_file);
  expect_as_alone(options, found, tokens);
}

TEST(FormatsTogether, GoOnWithWhatIsLeft) {
  const std::vector<int32_t> tokens = story();
  CompareOptions options = short_options();
  options.formats = {"nf4:64", "q8_0"};
  options.reference_path = ::testing::TempDir() + "/together_kept.bin";
  std::filesystem::remove(options.reference_path);
  options.identity = "this one";
  std::map<std::string, FormatMeasurement> kept;
  options.find = [&](const std::string& name, FormatMeasurement& measurement) {
    const auto found = kept.find(name);
    if (found != kept.end()) measurement = found->second;
    return found != kept.end();
  };
  options.finished = [&](const FormatMeasurement& measurement) { kept[measurement.name] = measurement; };
  // Cancelled when the first format is there.
  options.progress = [&](const CompareProgress&) {
    if (kept.size() == 1) throw Error(ErrorCode::kInterrupted, "enough");
  };
  EXPECT_THROW(compare_formats(kEmbedded, tokens, options), Error);
  ASSERT_EQ(kept.size(), 1u);
  std::string at_work;
  options.progress = [&](const CompareProgress& progress) {
    if (at_work.find(progress.format) == std::string::npos) at_work += progress.format;
  };
  const Comparison found = compare_formats(kEmbedded, tokens, options);
  EXPECT_EQ(at_work, "q8_0");
  options.progress = nullptr;
  expect_as_alone(options, found, tokens);
  // Nothing is left to do.
  options.progress = [](const CompareProgress&) { ADD_FAILURE(); };
  expect_as_alone(options, compare_formats(kEmbedded, tokens, options), tokens);
}

TEST(FormatsTogether, GoOnInTheMiddleOfALayer) {
  const std::vector<int32_t> tokens = story();
  CompareOptions options = short_options();
  options.formats = {"nf4:64", "q8_0"};
  options.reference_path = ::testing::TempDir() + "/together_middle.bin";
  options.kept_path = ::testing::TempDir() + "/together_layers.bin";
  options.identity = "the middle";
  std::map<std::string, FormatMeasurement> kept;
  options.find = [&](const std::string& name, FormatMeasurement& measurement) {
    const auto found = kept.find(name);
    if (found != kept.end()) measurement = found->second;
    return found != kept.end();
  };
  options.finished = [&](const FormatMeasurement& measurement) { kept[measurement.name] = measurement; };
  // Cancelled again and again: in a layer, in the scores.
  int calls = 0, runs = 0;
  const std::vector<int> stops = {2, 9, 26, 11, 5};
  std::filesystem::remove(options.reference_path);
  std::filesystem::remove(options.kept_path);
  std::optional<Comparison> found;
  while (!found && runs < 20) {
    calls = 0;
    double first = -1;
    options.progress = [&](const CompareProgress& progress) {
      if (first < 0) first = progress.share;
      if (++calls == stops[static_cast<size_t>(runs) % stops.size()])
        throw Error(ErrorCode::kInterrupted, "enough");
    };
    try {
      if (runs == 7) options.progress = nullptr;
      found = compare_formats(kEmbedded, tokens, options);
    } catch (const Error& error) {
      ASSERT_EQ(error.code(), ErrorCode::kInterrupted) << error.what();
      EXPECT_TRUE(std::filesystem::exists(options.kept_path));
    }
    // It goes on after what was done.
    if (runs > 0 && first >= 0) {
      EXPECT_GT(first, 0) << runs;
    }
    ++runs;
  }
  ASSERT_TRUE(found.has_value());
  EXPECT_FALSE(std::filesystem::exists(options.kept_path));
  options.progress = nullptr;
  expect_as_alone(options, *found, tokens);
}

TEST(FormatsTogether, BeginAnewFromADamagedFile) {
  const std::vector<int32_t> tokens = story();
  CompareOptions options = short_options();
  options.formats = {"q8_0"};
  options.kept_path = ::testing::TempDir() + "/together_damaged.bin";
  std::filesystem::remove(options.kept_path);
  int calls = 0;
  options.progress = [&](const CompareProgress&) {
    if (++calls == 10) throw Error(ErrorCode::kInterrupted, "enough");
  };
  EXPECT_THROW(compare_formats(kEmbedded, tokens, options), Error);
  const std::string whole = testing::read_file(options.kept_path);
  double first = -1;
  options.progress = [&](const CompareProgress& progress) {
    first = progress.share;
    throw Error(ErrorCode::kInvalidArgument, "seen");  // leaves the file as it is
  };
  EXPECT_THROW(compare_formats(kEmbedded, tokens, options), Error);
  const double share = first;
  EXPECT_GT(share, 0);
  for (const size_t place : {size_t{0}, size_t{8}, size_t{16}, size_t{30}, whole.size() - 1, whole.size()}) {
    std::string damaged = whole;
    if (place < whole.size())
      damaged[place] = static_cast<char>(damaged[place] ^ 0x10);
    else
      damaged.resize(whole.size() / 2);
    testing::write_file(options.kept_path, damaged);
    EXPECT_THROW(compare_formats(kEmbedded, tokens, options), Error);
    EXPECT_EQ(first, 0) << place;
  }
  options.identity = "another";
  testing::write_file(options.kept_path, whole);
  EXPECT_THROW(compare_formats(kEmbedded, tokens, options), Error);
  EXPECT_EQ(first, 0);
}

TEST(HiddenStates, AreKeptInMemoryAndInAFile) {
  for (const uint64_t memory : {uint64_t{1} << 20, uint64_t{0}}) {
    HiddenStates states(3, 7, 5, memory);
    EXPECT_EQ(states.in_file(), memory == 0);
    EXPECT_EQ(states.bytes(), 4u * 3 * 7 * 5);
    for (int64_t version = 0; version < 3; ++version)
      for (int64_t row = 0; row < 7; row += 2) {
        const int64_t count = std::min<int64_t>(2, 7 - row);
        float* rows = states.open(version, row, count);
        std::iota(rows, rows + count * 5, static_cast<float>(100 * version + 5 * row));
        states.keep();
      }
    for (int64_t version = 0; version < 3; ++version) {
      const float* rows = states.open(version, 0, 7);
      for (int i = 0; i < 35; ++i) EXPECT_EQ(rows[i], static_cast<float>(100 * version + i));
    }
  }
}

TEST(HiddenStates, NameTheFolderWithoutRoom) {
  const char* before = std::getenv("TMPDIR");
  const std::string kept = before != nullptr ? before : "";
  ::setenv("TMPDIR", "/no/such/folder", 1);
  try {
    HiddenStates(1, 1, 1, 0);
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kIo);
    EXPECT_NE(std::string(error.what()).find("/no/such/folder"), std::string::npos) << error.what();
  }
  before != nullptr ? ::setenv("TMPDIR", kept.c_str(), 1) : ::unsetenv("TMPDIR");
}

}  // namespace
}  // namespace nfloat

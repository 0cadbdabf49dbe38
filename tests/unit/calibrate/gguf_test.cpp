// SPDX-License-Identifier: Apache-2.0
// llama.cpp's blocks of four bits by feedback, and what its importance matrices are made of.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "calibrate/gguf_coding.h"
#include "calibrate/matrix.h"
#include "calibrate/super_coding.h"
#include "engine/linear_id.h"
#include "nfloat/bridge.h"
#include "nfloat/calibrate.h"
#include "nfloat/error.h"
#include "nfloat/imatrix.h"
#include "unit/model/random_model.h"

namespace nfloat {
namespace {

constexpr GgufType kTypes[] = {GgufType::kQ4_0, GgufType::kIQ4_NL, GgufType::kQ4_K,
                               GgufType::kQ5_K, GgufType::kQ6_K,   GgufType::kIQ4_XS};

std::vector<float> gaussian(int64_t count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = .02f * normal(generator);
  return values;
}

// Of inputs with a part in common.
std::vector<float> hessian_of(int64_t columns) {
  std::vector<float> hessian(static_cast<size_t>(columns * columns));
  for (int64_t i = 0; i < columns; ++i)
    for (int64_t j = 0; j < columns; ++j)
      hessian[static_cast<size_t>(i * columns + j)] =
          static_cast<float>((1 + i % 3) * (1 + j % 3)) * (i == j ? 2.0f : 1.0f);
  return hessian;
}

std::vector<float> decoded(const GgufMatrix& matrix) {
  std::vector<float> values(static_cast<size_t>(matrix.rows * matrix.columns));
  decode_gguf(matrix.type, matrix.bytes, values);
  return values;
}

// tr(R H R^T) in double.
double reference_loss(const GgufMatrix& matrix, const std::vector<float>& weights, const SquareMatrix& h) {
  const std::vector<float> values = decoded(matrix);
  const auto n = static_cast<size_t>(matrix.columns);
  double total = 0;
  for (size_t row = 0; row < weights.size(); row += n)
    for (size_t i = 0; i < n; ++i) {
      const double error = double{values[row + i]} - weights[row + i];
      for (size_t j = 0; j < n; ++j)
        total += error * h[i * n + j] * (double{values[row + j]} - weights[row + j]);
    }
  return total;
}

TEST(GgufCoding, OtherTypesAreRefused) {
  EXPECT_THROW(gguf_codebook(GgufType::kQ8_0), Error);
  EXPECT_THROW(gguf_codebook(GgufType::kMXFP4), Error);
  EXPECT_THROW(SuperFormat{GgufType::kQ3_K}, Error);
  QuantizedTensor tensor;
  tensor.codebook = gguf_codebook(GgufType::kQ4_0);
  tensor.block_size = kGgufBlock;
  EXPECT_THROW(gguf_blocks(tensor, GgufType::kIQ4_NL), Error);
}

std::vector<std::pair<int64_t, int64_t>> shapes_of(GgufType type) {
  if (SuperFormat::knows(type)) return {{5, 512}, {67, 256}, {1, 256}};
  return {{5, 96}, {64, 64}, {1, 32}};
}

TEST(GgufCoding, FeedbackLosesLessThanRoundingAndTellsTheTruth) {
  for (const GgufType type : kTypes)
    for (const auto& [rows, columns] : shapes_of(type)) {
      SCOPED_TRACE(::testing::Message() << gguf_type_info(type).name << " " << rows << " " << columns);
      std::vector<float> weights = gaussian(rows * columns, 2);
      if (rows > 1) {
        std::fill_n(weights.begin() + columns, 32, 0.0f);
        std::fill_n(weights.end() - columns, columns, -.03f);  // a row that is one number
      }
      const HessianFactor factor = factorize(hessian_of(columns), columns, 100000, 1);
      CalibratedOptions options;
      options.gguf = type;
      options.threads = 1;
      const CalibratedMatrix one = calibrate_matrix(weights, rows, factor, options);
      EXPECT_FALSE(one.kept_plain);
      EXPECT_LT(one.loss, .9 * one.plain_loss);
      EXPECT_EQ(one.blocks.type, type);
      // What the decoder gives is what was judged.
      EXPECT_NEAR(one.loss, reference_loss(one.blocks, weights, factor.damped), 1e-3 * one.loss + 1e-12);
      const GgufMatrix plain = encoded_rows(type, weights, rows, columns, 1);
      EXPECT_NEAR(one.plain_loss, reference_loss(plain, weights, factor.damped), 1e-3 * one.plain_loss);
      options.threads = 2;
      EXPECT_EQ(one.blocks.bytes, calibrate_matrix(weights, rows, factor, options).blocks.bytes);
      // Every sweep lowers the loss.
      double before = INFINITY;
      for (const int sweeps : {0, 1, 3}) {
        options.sweeps = sweeps;
        const double loss = calibrate_matrix(weights, rows, factor, options).loss;
        EXPECT_LE(loss, before * 1.0001);
        before = loss;
      }
    }
}

TEST(GgufCoding, NothingIsEverWorseThanRounding) {
  for (const GgufType type : kTypes) {
    const int64_t rows = 3, columns = 256;
    const std::vector<float> one(static_cast<size_t>(columns * columns), 1.0f), none(one.size(), 0.0f);
    std::vector<float> uneven = gaussian(rows * columns, 4);
    for (size_t i = 0; i < uneven.size(); i += 37) uneven[i] *= 1000;
    for (const std::vector<float>& hessian : {one, none, hessian_of(columns)})
      for (const std::vector<float>& weights :
           {std::vector<float>(static_cast<size_t>(rows * columns)), uneven,
            std::vector<float>(static_cast<size_t>(rows * columns), 1e-9f)}) {
        const HessianFactor factor = factorize(hessian, columns, 10, 1);
        CalibratedOptions options;
        options.gguf = type;
        const CalibratedMatrix found = calibrate_matrix(weights, rows, factor, options);
        EXPECT_LE(found.loss, found.plain_loss) << gguf_type_info(type).name;
        for (const float value : decoded(found.blocks)) ASSERT_TRUE(std::isfinite(value));
      }
  }
}

constexpr const char* kConfig = R"({"model_type": "llama", "hidden_size": 64, "intermediate_size": 96,
  "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 61,
  "max_position_embeddings": 200, "rms_norm_eps": 1e-5})";

class GgufModel : public ::testing::Test {
 protected:
  GgufModel() {
    std::mt19937 generator(3);
    for (auto& window : windows_)
      for (int i = 0; i < 50; ++i) window.push_back(static_cast<int32_t>(generator() % 61));
  }
  const testing::RandomModel random_{kConfig};
  std::vector<std::vector<int32_t>> windows_ = std::vector<std::vector<int32_t>>(20);
};

TEST_F(GgufModel, BothLevelsCodeEveryMatrixInTheTypeOfTheFile) {
  const auto checkpoint = std::make_shared<const Checkpoint>(random_.folder.path());
  for (const auto& [type, written] :
       {std::pair{GgufType::kQ4_0, GgufType::kQ4_0}, std::pair{GgufType::kIQ4_NL, GgufType::kIQ4_NL},
        std::pair{GgufType::kQ4_K, GgufType::kIQ4_NL}})  // rows of less than 256
    for (const int level : {1, 2, 3}) {
      CalibrationOptions options;
      options.gguf = type;
      options.level = level;
      options.threads = 2;
      if (level == 3) {
        EXPECT_THROW(calibrate(checkpoint, random_.config, windows_, {}, options), Error);
        continue;
      }
      const Calibration found = calibrate(checkpoint, random_.config, windows_, {}, options);
      EXPECT_EQ(found.blocks.size(), 14u);
      EXPECT_TRUE(found.tensors.empty());
      EXPECT_LT(found.report.loss, found.report.plain_loss);
      for (const auto& [name, matrix] : found.blocks) {
        EXPECT_EQ(matrix.type, written) << name;
        EXPECT_EQ(matrix.bytes.size(), static_cast<size_t>(matrix.rows * matrix.columns / 32 * 18)) << name;
      }
    }
  CalibrationOptions other;
  other.gguf = GgufType::kQ8_0;
  EXPECT_THROW(calibrate(checkpoint, random_.config, windows_, {}, other), Error);
}

// A run that goes on behind the first layer, and keeps nothing in memory.
TEST_F(GgufModel, LayersOfAFileAreGoneOnWith) {
  const auto checkpoint = std::make_shared<const Checkpoint>(random_.folder.path());
  const testing::OwnFolder folder;
  for (const int level : {1, 2}) {
    CalibrationOptions options;
    options.gguf = GgufType::kIQ4_NL;
    options.level = level;
    options.fast = true;
    const Calibration whole = calibrate(checkpoint, random_.config, windows_, {}, options);
    const std::string path = folder.path() + "/state" + std::to_string(level);
    options.finished = [&](const CalibratedLayer& layer) {
      CalibrationFile(path, "key", {}).append(layer);
      throw Error(ErrorCode::kInterrupted, "enough");
    };
    EXPECT_THROW(calibrate(checkpoint, random_.config, windows_, {}, options), Error);
    CalibrationFile file(path, "key", {});
    ASSERT_EQ(file.layers(), 1);
    options.keep_tensors = false;
    options.earlier_layers = 1;
    options.earlier = [&](int64_t layer) { return file.layer(layer); };
    options.finished = [&](const CalibratedLayer& layer) { file.append(layer); };
    const Calibration rest = calibrate(checkpoint, random_.config, windows_, {}, options);
    EXPECT_TRUE(rest.blocks.empty());
    EXPECT_EQ(rest.report.kl, whole.report.kl);
    EXPECT_EQ(rest.report.tensors, whole.report.tensors);
    ASSERT_EQ(whole.blocks.size(), 14u);
    for (const auto& [name, matrix] : whole.blocks) {
      const auto read = file.blocks(name);
      ASSERT_NE(read, nullptr) << name;
      EXPECT_EQ(read->type, matrix.type);
      EXPECT_TRUE(read->bytes == matrix.bytes) << name;
      EXPECT_EQ(file.tensor(name), nullptr);
    }
    EXPECT_EQ(file.blocks("nothing"), nullptr);
  }
}

// Feedback reaches experts that are matrices of their own; those of one tensor stay as without a text.
TEST_F(GgufModel, ExpertsOfOneTensorStay) {
  const std::string mixture = R"({"model_type": "mixtral", "hidden_size": 64, "intermediate_size": 64,
    "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 61,
    "num_local_experts": 4, "num_experts_per_tok": 2, "max_position_embeddings": 200})";
  for (const auto& [layout, blocks] :
       {std::pair{ExpertLayout::kSingle, 8u + 24u}, std::pair{ExpertLayout::kFused, 8u}}) {
    const testing::OwnFolder output;
    const testing::RandomModel model(mixture, {}, layout);
    const auto checkpoint = std::make_shared<const Checkpoint>(model.folder.path());
    CalibrationOptions options;
    options.gguf = GgufType::kQ4_0;
    options.fast = true;
    const Calibration found = calibrate(checkpoint, model.config, windows_, {}, options);
    EXPECT_EQ(found.blocks.size(), blocks);
    BridgeOptions bridge;
    bridge.type = options.gguf;
    bridge.prepared = [&](const std::string& name) {
      const auto rows = found.blocks.find(name);
      return rows == found.blocks.end() ? nullptr : std::make_shared<const GgufMatrix>(rows->second);
    };
    EXPECT_NO_THROW(write_gguf(*checkpoint, output.path() + "/out.gguf", bridge));
  }
}

// The squares that an observer of a plain pass sees.
class Squares : public LinearObserver {
 public:
  void input(const LinearId&, const ActivationRows&) override {}
  void output(const LinearId& id, const ActivationRows& x, float*, int64_t) override {
    std::vector<double>& own = sums[{id.layer, id.role}];
    own.resize(static_cast<size_t>(x.width));
    for (int64_t row = 0; row < x.rows; ++row)
      for (int64_t j = 0; j < x.width; ++j)
        own[static_cast<size_t>(j)] += std::pow(double{x.data[row * x.stride + j]}, 2);
  }
  std::map<std::pair<int64_t, LinearRole>, std::vector<double>> sums;
};

TEST_F(GgufModel, ImportanceIsTheSumOfSquares) {
  const auto checkpoint = std::make_shared<const Checkpoint>(random_.folder.path());
  ImportanceOptions options;
  options.threads = 2;
  const ImportanceMatrix found = measure_importance(checkpoint, random_.config, windows_, options);
  EXPECT_EQ(found.tensors.size(), 14u);
  EXPECT_EQ(found.chunks, 20u);
  EXPECT_EQ(found.chunk_tokens, 50u);
  const auto squares = std::make_shared<Squares>();
  ModelOptions precise;
  precise.precision = Precision::kF32;
  const Model model = Model::load(random_.folder.path(), precise);
  SessionOptions session;
  session.adapters = squares;
  for (const std::vector<int32_t>& window : windows_) {
    Session one(model, session);
    one.prefill(window);
  }
  const std::pair<const char*, LinearRole> names[] = {{"attn_q", LinearRole::kQueryKeyValue},
                                                      {"attn_output", LinearRole::kOutput},
                                                      {"ffn_up", LinearRole::kGateUp},
                                                      {"ffn_down", LinearRole::kDown}};
  for (int64_t layer = 0; layer < 2; ++layer)
    for (const auto& [name, role] : names) {
      const ColumnImportance& own = found.tensors.at("blk." + std::to_string(layer) + "." + name + ".weight");
      const std::vector<double>& expected = squares->sums.at({layer, role});
      ASSERT_EQ(own.sums.size(), expected.size());
      EXPECT_EQ(own.counts, std::vector<float>{1000});
      for (size_t j = 0; j < expected.size(); ++j)
        EXPECT_NEAR(own.sums[j], expected[j], 1e-4 * expected[j] + 1e-9) << name << j;
    }
}

}  // namespace
}  // namespace nfloat

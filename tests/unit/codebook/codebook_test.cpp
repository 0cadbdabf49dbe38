// SPDX-License-Identifier: Apache-2.0
#include "nfloat/codebook.h"
#include "base/json.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "nfloat/codebook_errors.h"
#include "support/files.h"
#include "support/paths.h"

namespace nfloat {
namespace {

const Json& golden() {
  static const Json json =
      Json::parse(testing::read_file(testing::source_path("/tests/golden/codebooks.json")));
  return json;
}

std::vector<double> numbers(const Json& list) {
  std::vector<double> values;
  for (const auto& entry : list)
    values.push_back(entry.is_string() ? std::stod(entry.get<std::string>()) : entry.get<double>());
  return values;
}

void expect_near(const std::vector<double>& actual, const std::vector<double>& expected, double tolerance,
                 const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  for (size_t i = 0; i < actual.size(); ++i)
    EXPECT_NEAR(actual[i], expected[i], tolerance) << what << " level " << i;
}

TEST(Codebook, Nf4IsBitsandbytesBitForBit) {
  // bitsandbytes' 16 constants as it ships them.
  const uint32_t expected[16] = {0xbf800000, 0xbf3239b1, 0xbf066b30, 0xbeca32a0, 0xbe91a24d, 0xbe3d353f,
                                 0xbdba7871, 0x00000000, 0x3da2faff, 0x3e24cae3, 0x3e7c04dd, 0x3ead033a,
                                 0x3ee1a4b8, 0x3f1007ab, 0x3f3913b3, 0x3f800000};
  const Codebook nf4 = make_codebook("nf4");
  ASSERT_EQ(nf4.levels.size(), 16u);
  for (size_t i = 0; i < 16; ++i) EXPECT_EQ(std::bit_cast<uint32_t>(nf4.levels[i]), expected[i]) << i;
  ASSERT_EQ(nf4.thresholds.size(), 15u);
  for (size_t i = 0; i < 15; ++i) {
    EXPECT_EQ(nf4.thresholds[i],
              (std::bit_cast<float>(expected[i]) + std::bit_cast<float>(expected[i + 1])) / 2);
  }
  double farthest = 0;
  for (size_t i = 0; i < 16; ++i)
    farthest = std::max(farthest, std::fabs(nf4.exact[i] - static_cast<double>(nf4.levels[i])));
  EXPECT_NEAR(farthest, 1.92e-7, 0.01e-7);
}

TEST(Codebook, NormalFloatsAreExact) {
  for (int bits = 2; bits <= 8; ++bits) {
    const std::string name = "nf" + std::to_string(bits);
    expect_near(make_codebook(name).exact, numbers(golden()[name + "_exact_929_960"]), 1e-14, name);
    for (const auto& [key, values] : golden().items()) {
      if (!key.starts_with(name + "_exact_generalised")) continue;
      expect_near(make_normal_float(bits, generalised_offset(bits)).exact, numbers(values), 1e-14, key);
    }
  }
  EXPECT_DOUBLE_EQ(generalised_offset(4), kNormalFloatOffset);
  EXPECT_DOUBLE_EQ(generalised_offset(3), 209.0 / 224.0);
  for (double offset : {0.5, 1.0, 0.2, std::nan("")})
    EXPECT_THROW(make_normal_float(4, offset), Error) << offset;
  for (int bits : {0, 1, 9}) EXPECT_THROW(make_normal_float(bits), Error) << bits;
}

TEST(Codebook, RivalsAreThePublishedTables) {
  std::vector<double> fp4 = numbers(golden()["fp4_bnb_code_order"]["values"]);
  expect_near(make_codebook("fp4").exact, fp4, 1e-8, "fp4");
  std::vector<double> e2m1 = numbers(golden()["e2m1"]["values"]);
  for (double& value : e2m1) value /= 6;
  expect_near(make_codebook("e2m1").exact, e2m1, 1e-15, "e2m1");
  expect_near(make_codebook("sf4").exact, numbers(golden()["sf4_nu5"]), 1e-6, "sf4");
  for (const auto& [block, values] : golden()["af4"].items()) {
    expect_near(make_codebook("af4", std::stoll(block)).exact, numbers(values), 2e-5, "af4 " + block);
  }
  // The paper fitted BOF4-S to samples; its digits are good to about 3e-4.
  for (const auto& [block, values] : golden()["bof4s_mse_paper_table7"].items()) {
    expect_near(make_codebook("bof4-s", std::stoll(block)).exact, numbers(values), 3e-4, "bof4-s " + block);
  }
  expect_near(make_codebook("bof4", 64).exact, numbers(golden()["bof4_mse_paper_table8_theoretical_64"]),
              3e-6, "bof4 64");
  const Codebook paper = make_codebook("nf4-paper");
  ASSERT_EQ(paper.levels.size(), 15u);
  EXPECT_NEAR(paper.exact[13], 0.7689210978, 1e-10);
  EXPECT_NEAR(paper.exact[8], 0.1078658400, 1e-10);
  EXPECT_EQ(paper.exact[7], 0);
}

TEST(Codebook, FittedCodesAreTheOptimaOfTheQuadrature) {
  const std::pair<const char*, const char*> pairs[] = {
      {"bof4", "BOF4-mse(-1,0,1)"},       {"bof4-mae", "BOF4-mae(-1,0,1)"},
      {"bof4-s", "BOF4-S-mse(0,1)"},      {"bof4-s-mae", "BOF4-S-mae(0,1)"},
      {"lloyd-max", "Lloyd free absmax"}, {"lloyd-max-signed", "Lloyd free signed"}};
  for (const auto& [name, key] : pairs) {
    for (int64_t block : {16, 64, 256, 4096}) {
      expect_near(
          make_codebook(name, block).exact,
          numbers(golden()["quadrature_optimal_codes"][std::string(key) + "|" + std::to_string(block)]), 1e-6,
          std::string(name) + " " + std::to_string(block));
    }
  }
}

TEST(Codebook, EncodesToTheNearestLevelTiesDown) {
  for (const std::string& name : codebook_names()) {
    const Codebook codebook = make_codebook(name);
    EXPECT_LE(codebook.levels.size(), size_t{1} << codebook.bits) << name;
    for (size_t r = 0; r < codebook.thresholds.size(); ++r) {
      const float t = codebook.thresholds[r];
      EXPECT_EQ(codebook.levels[codebook.encode(t)], codebook.levels[codebook.code_of_rank[r]]) << name;
      EXPECT_EQ(codebook.encode(std::nextafter(t, 9.0f)), codebook.code_of_rank[r + 1]) << name;
    }
    for (int i = -1000; i <= 1000; ++i) {
      const float y = static_cast<float>(i) / 1000;
      const float chosen = std::fabs(codebook.levels[codebook.encode(y)] - y);
      for (float level : codebook.levels)
        EXPECT_LE(chosen, std::fabs(level - y) + 1e-6f) << name << " at " << y;
    }
  }
  EXPECT_EQ(make_codebook("nf4").zero_code(), 7);
  EXPECT_EQ(make_codebook("nf4-symmetric").zero_code(), -1);
  // bitsandbytes' two zeros: code 0 just below code 8.
  const Codebook fp4 = make_codebook("fp4");
  EXPECT_EQ(fp4.encode(0.0f), 0);
  EXPECT_EQ(fp4.encode(-0.002f), 0);
  EXPECT_EQ(fp4.encode(0.002f), 8);
}

TEST(Codebook, DynamicMapIsBitsandbytes) {
  const Codebook& map = dynamic_codebook();
  ASSERT_EQ(map.levels.size(), 256u);
  EXPECT_EQ(map.levels[127], 0.0f);
  EXPECT_EQ(map.levels[255], 1.0f);
  EXPECT_NEAR(map.levels[0], -0.992968738, 1e-9);
  const std::string file = testing::source_path("/tests/golden/bitsandbytes/nf4_dq_bs64.safetensors");
  const std::string bytes = testing::read_file(file);
  const std::string stored(reinterpret_cast<const char*>(map.levels.data()), 1024);
  EXPECT_NE(bytes.find(stored), std::string::npos);
}

class CodebookFiles : public testing::TemporaryFolder {};

TEST_F(CodebookFiles, ReadsTablesAndNamesWhatIsWrong) {
  testing::write_file(path("a.json"), R"({"name": "mine", "levels": [-1, -0.25, 0, 1]})");
  EXPECT_EQ(load_codebook(path("a.json")).levels, (std::vector<float>{-1, -0.25, 0, 1}));
  testing::write_file(path("b.txt"), "# four levels\n-1, -0.25\n0 1\n");
  EXPECT_EQ(load_codebook(path("b.txt")).levels, (std::vector<float>{-1, -0.25, 0, 1}));
  for (const char* text :
       {"", "{}", "[]", "[1]", "[0, 0]", "[1, \"x\"]", "{\"levels\": 5}", "one two", "1 2 inf", "[[1, 2]]"}) {
    testing::write_file(path("bad"), text);
    EXPECT_THROW(load_codebook(path("bad")), Error) << text;
  }
  testing::write_file(path("deep"), std::string(1'000'000, '['));
  EXPECT_THROW(load_codebook(path("deep")), Error);
  EXPECT_THROW(load_codebook(path("absent")), Error);
  EXPECT_NFLOAT_ERROR(make_codebook("nf9"), ErrorCode::kNotFound, "lloyd-max");
}

}  // namespace
}  // namespace nfloat

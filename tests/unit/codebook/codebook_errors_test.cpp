// SPDX-License-Identifier: Apache-2.0
#include "nfloat/codebook_errors.h"
#include "base/json.h"

#include <gtest/gtest.h>

#include <cmath>

#include "support/files.h"
#include "support/paths.h"

namespace nfloat {
namespace {

TEST(CodebookErrors, AgreeWithPublishedQuadrature) {
  const auto golden = Json::parse(testing::read_file(testing::source_path("/tests/golden/codebooks.json")));
  const std::pair<const char*, const char*> pairs[] = {{"NF4", "nf4"},
                                                       {"BOF4-mse(-1,0,1)", "bof4"},
                                                       {"BOF4-mae(-1,0,1)", "bof4-mae"},
                                                       {"BOF4-S-mse(0,1)", "bof4-s"},
                                                       {"BOF4-S-mae(0,1)", "bof4-s-mae"},
                                                       {"Lloyd free absmax", "lloyd-max"},
                                                       {"Lloyd free signed", "lloyd-max-signed"}};
  size_t checked = 0;
  for (const auto& [key, expected] : golden["quadrature_errors"].items()) {
    const size_t bar = key.find('|');
    for (const auto& [published, name] : pairs) {
      if (key.substr(0, bar) != published) continue;
      const int64_t block = std::stoll(key.substr(bar + 1));
      const CodebookErrors errors = codebook_errors(make_codebook(name, block), block);
      EXPECT_NEAR(errors.mse, expected["mse"].get<double>(), 1e-7) << key;
      EXPECT_NEAR(errors.mae, expected["mae"].get<double>(), 1e-7) << key;
      EXPECT_NEAR(errors.sqnr_db(), expected["sqnr"].get<double>(), 1e-4) << key;
      EXPECT_NEAR(errors.entropy, expected["H"].get<double>(), 1e-5) << key;
      ++checked;
    }
  }
  EXPECT_EQ(checked, 49u);
}

TEST(CodebookErrors, AgreeWithTheTableOfRivals) {
  struct Row {
    const char* name;
    double by_block[5];
  };
  const int64_t blocks[5] = {32, 64, 128, 256, 4096};
  const Row rows[] = {{"nf4", {.00762342, .00846005, .00913562, .00972883, .01207942}},
                      {"fp4", {.01302622, .01487052, .01653273, .01812142, .02486322}},
                      {"e2m1", {.01022045, .01117379, .01185362, .01237573, .01413066}},
                      {"int4", {.00940973, .01157757, .01375188, .01593242, .02474279}},
                      {"bof4", {.00686914, .00799153, .00892367, .00968173, .01144855}},
                      {"bof4-s", {.00633203, .00735171, .00818796, .00885499, .01028027}},
                      {"lloyd-max-signed", {.00628188, .00727537, .00807488, .00868963, .00965210}}};
  for (const Row& row : rows) {
    for (size_t i = 0; i < 5; ++i) {
      EXPECT_NEAR(codebook_errors(make_codebook(row.name, blocks[i]), blocks[i]).mse, row.by_block[i], 1e-7)
          << row.name << blocks[i];
    }
  }
  // One table of AF4, that of blocks of 64, at every block size.
  const double af4[5] = {.00821483, .00915125, .00990873, .01056609, .01302170};
  const Codebook af4_64 = make_codebook("af4", 64);
  for (size_t i = 0; i < 5; ++i)
    EXPECT_NEAR(codebook_errors(af4_64, blocks[i]).mse, af4[i], 1e-6) << blocks[i];
}

TEST(CodebookErrors, OtherNumbersOfBitsAndOffsets) {
  const double fixed[] = {.316423, .040638, .00846005, .00196705, .00047572, .00011704, .00002903};
  const double generalised[] = {.318072, .038954, .00846005, .00243215, .00087903, .00038808, .00020122};
  for (int bits = 2; bits <= 8; ++bits) {
    const auto i = static_cast<size_t>(bits - 2);
    EXPECT_NEAR(codebook_errors(make_normal_float(bits), 64).mse, fixed[i], 6e-7) << bits;
    EXPECT_NEAR(codebook_errors(make_normal_float(bits, generalised_offset(bits)), 64).mse, generalised[i],
                6e-7)
        << bits;
  }
}

TEST(CodebookErrors, SimulationAgreesWithQuadrature) {
  for (const char* distribution : {"normal", "student-t", "laplace"}) {
    const SourceDistribution source = parse_source_distribution(distribution);
    for (const char* name : {"nf4", "bof4-s", "fp4"}) {
      const Codebook codebook = make_codebook(name);
      const CodebookErrors exact = codebook_errors(codebook, 64, source);
      const SimulatedErrors drawn = simulate_codebook_errors(codebook, 64, source, 1'000'000);
      // Five standard errors of the simulation itself, and the float32 arithmetic of scales and levels.
      EXPECT_NEAR(drawn.errors.mse, exact.mse, 5 * drawn.mse_standard_error + 1e-6 * exact.mse)
          << distribution << name;
      EXPECT_NEAR(drawn.errors.mae, exact.mae, 5 * drawn.mae_standard_error + 1e-6 * exact.mae)
          << distribution << name;
      EXPECT_NEAR(drawn.errors.entropy, exact.entropy, 0.01) << distribution << name;
    }
  }
}

TEST(CodebookErrors, StudentTAsPublished) {
  const SourceDistribution student = parse_source_distribution("student-t:5");
  // From 2.5e7 samples: good to 1 %.
  EXPECT_NEAR(codebook_errors(make_codebook("nf4"), 64, student).mse, .010935, .0001);
  EXPECT_NEAR(codebook_errors(make_codebook("sf4"), 64, student).mse, .011099, .0001);
}

TEST(CodebookErrors, RefusesWhatHasNoAnswer) {
  const Codebook nf4 = make_codebook("nf4");
  for (int64_t block : {int64_t{-1}, int64_t{0}, int64_t{1}, int64_t{1} << 40})
    EXPECT_THROW(codebook_errors(nf4, block), Error) << block;
  for (const char* name : {"student-t:2", "student-t:x", "cauchy", ""})
    EXPECT_THROW(parse_source_distribution(name), Error) << name;
  EXPECT_THROW(simulate_codebook_errors(nf4, 64, {}, 0), Error);
}

}  // namespace
}  // namespace nfloat

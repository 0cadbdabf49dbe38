// SPDX-License-Identifier: Apache-2.0
// docs/models.md says what each family can do; here it is held against the tables that decide.
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "architecture/families.h"
#include "llama_cpp/architectures.h"
#include "support/files.h"
#include "support/paths.h"

namespace nfloat {
namespace {

struct Row {
  std::string runs, gguf, counted;
};

// "| `a` | b | c |" -> {"a", "b", "c"}: cells without blanks and backticks.
std::vector<std::string> cells(const std::string& line) {
  std::vector<std::string> found;
  std::istringstream text(line.substr(1));
  for (std::string cell; std::getline(text, cell, '|');) {
    std::erase_if(cell, [](char c) { return c == ' ' || c == '`'; });
    found.push_back(cell);
  }
  return found;
}

std::map<std::string, Row> documented() {
  std::istringstream text(testing::read_file(testing::source_path("/docs/models.md")));
  std::map<std::string, Row> rows;
  bool inside = false;
  for (std::string line; std::getline(text, line);) {
    if (line.starts_with("## ")) inside = line == "## What each family can do";
    if (!inside || !line.starts_with("| `")) continue;
    const std::vector<std::string> row = cells(line);
    if (row.size() != 4 || row[0] == "model_type") continue;
    EXPECT_TRUE(rows.emplace(row[0], Row{row[1], row[2], row[3]}).second) << row[0] << " stands there twice";
  }
  return rows;
}

TEST(FamilyTable, TheDocumentSaysWhatTheTablesSay) {
  const std::map<std::string, Row> rows = documented();
  ASSERT_FALSE(rows.empty());
  for (const auto& [name, row] : rows) {
    const Family* family = find_family(name);
    const GgufArchitecture* gguf = find_huggingface_architecture(name);
    EXPECT_EQ(row.runs, family != nullptr && family->runs() ? "yes" : "no") << name;
    EXPECT_EQ(row.gguf, gguf != nullptr ? std::string(gguf->gguf) : "no") << name;
    EXPECT_EQ(row.counted, family != nullptr ? "yes" : "estimate") << name;
  }
}

TEST(FamilyTable, TheDocumentLeavesNoFamilyOut) {
  const std::map<std::string, Row> rows = documented();
  for (const Family& family : families()) EXPECT_TRUE(rows.contains(family.name)) << family.name;
  for (const GgufArchitecture& entry : gguf_architectures())
    EXPECT_TRUE(rows.contains(std::string(entry.model_type))) << entry.model_type;
}

TEST(FamilyTable, EveryFamilyStandsThereOnce) {
  std::set<std::string> names;
  for (const Family& family : families()) {
    EXPECT_TRUE(names.insert(family.name).second) << family.name;
    EXPECT_EQ(family.runs(), family.architecture != nullptr) << family.name;
    if (family.like != nullptr) {
      EXPECT_NE(find_family(family.like), nullptr) << family.name;
    }
  }
}

// What comes from a GGUF file also runs.
TEST(FamilyTable, TheTablesAgree) {
  for (const GgufArchitecture& entry : gguf_architectures()) {
    const Family* family = find_family(entry.model_type);
    ASSERT_NE(family, nullptr) << entry.model_type;
    ASSERT_TRUE(family->runs()) << entry.model_type;
    EXPECT_EQ(entry.class_name, family->architecture) << entry.model_type;
  }
}

}  // namespace
}  // namespace nfloat

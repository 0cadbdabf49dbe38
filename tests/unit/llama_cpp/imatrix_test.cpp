// SPDX-License-Identifier: Apache-2.0
// Importance matrices as files: both forms, and files that are none.
#include "nfloat/imatrix.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "nfloat/error.h"
#include "support/files.h"

namespace nfloat {
namespace {

namespace fs = std::filesystem;

class Imatrix : public ::testing::Test {
 protected:
  Imatrix() : folder_(fs::temp_directory_path() / ("nfloat-imatrix-" + std::to_string(::getpid()))) {
    fs::create_directories(folder_);
    made_.tensors["blk.0.ffn_down.weight"] = {{4, 8, 0, 2}, {2}};
    made_.tensors["blk.1.ffn_up_exps.weight"] = {{1, 2, 3, 0, 0, 0}, {4, 0}};
    made_.texts = {"book.txt"};
    made_.chunks = 3;
    made_.chunk_tokens = 512;
  }
  ~Imatrix() override { fs::remove_all(folder_); }

  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  // Of a file with these bytes.
  std::string error_of(const std::string& bytes) const {
    std::ofstream(path("bad"), std::ios::binary) << bytes;
    try {
      read_importance(path("bad"));
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kMalformedFile) << error.what();
      return error.what();
    }
    return "no error";
  }
  std::string text_of(const std::string& name) const {
    std::ifstream file(path(name), std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  const fs::path folder_;
  ImportanceMatrix made_;
};

TEST_F(Imatrix, GgufKeepsAll) {
  write_importance(path("a.gguf"), made_, false);
  const ImportanceMatrix found = read_importance(path("a.gguf"));
  ASSERT_EQ(found.tensors.size(), 2u);
  for (const auto& [name, own] : made_.tensors) {
    EXPECT_EQ(found.tensors.at(name).sums, own.sums);
    EXPECT_EQ(found.tensors.at(name).counts, own.counts);
  }
  EXPECT_EQ(found.chunks, 3u);
  EXPECT_EQ(found.chunk_tokens, 512u);
  EXPECT_THROW(write_importance(path("a.gguf"), made_, false), Error);
  write_importance(path("a.gguf"), made_, true);
}

TEST_F(Imatrix, TheOlderFormKeepsTheMeans) {
  write_importance(path("a.dat"), made_, false);
  const ImportanceMatrix found = read_importance(path("a.dat"));
  ASSERT_EQ(found.tensors.size(), 2u);
  EXPECT_EQ(found.tensors.at("blk.0.ffn_down.weight").means(0, 4), (std::vector<float>{2, 4, 0, 1}));
  const ColumnImportance& experts = found.tensors.at("blk.1.ffn_up_exps.weight");
  EXPECT_EQ(experts.means(0, 3), (std::vector<float>{.25f, .5f, .75f}));
  EXPECT_EQ(experts.means(1, 3), (std::vector<float>{1, 1, 1}));  // saw nothing
  EXPECT_EQ(found.texts, std::vector<std::string>{"book.txt"});
  EXPECT_EQ(found.chunks, 3u);
}

// Written by hand from the form's definition.
TEST_F(Imatrix, ReadsTheOlderFormWithoutItsEnd) {
  std::string bytes;
  const auto number = [&](int32_t value) { bytes.append(reinterpret_cast<const char*>(&value), 4); };
  const auto value = [&](float x) { bytes.append(reinterpret_cast<const char*>(&x), 4); };
  number(1), number(3), bytes += "abc", number(10), number(2), value(5), value(20);
  std::ofstream(path("old"), std::ios::binary) << bytes;
  const ImportanceMatrix found = read_importance(path("old"));
  EXPECT_EQ(found.tensors.at("abc").means(0, 2), (std::vector<float>{.5f, 2}));
}

TEST_F(Imatrix, RefusesWhatIsNone) {
  write_importance(path("a.dat"), made_, false);
  write_importance(path("a.gguf"), made_, false);
  const std::string old = text_of("a.dat"), gguf = text_of("a.gguf");
  // Before the calls of all, and before the padding at the end, which may be missing.
  for (size_t size = 0; size < old.size() - 16; size += 3)
    EXPECT_NE(error_of(old.substr(0, size)), "no error");
  for (size_t size = 0; size + 32 < gguf.size(); size += 7)
    EXPECT_NE(error_of(gguf.substr(0, size)), "no error");
  std::string large = old;
  const int32_t most = INT32_MAX;
  std::memcpy(large.data(), &most, 4);
  EXPECT_NE(error_of(large).find("the number of entries"), std::string::npos);
  std::string negative = old;
  const float below = -1;
  std::memcpy(negative.data() + 4 + 4 + 21 + 8, &below, 4);
  EXPECT_NE(error_of(negative).find("no sum of squares"), std::string::npos);
  EXPECT_THROW(read_importance(path("absent")), Error);
}

}  // namespace
}  // namespace nfloat

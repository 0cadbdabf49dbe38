// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstdlib>

#include "nfloat/checkpoint.h"
#include "support/files.h"

namespace nfloat {
namespace {

namespace fs = std::filesystem;

class ModelPath : public testing::TemporaryFolder {};

TEST_F(ModelPath, FindsModelsInTheHuggingFaceCache) {
  ::setenv("HF_HUB_CACHE", folder_.c_str(), 1);
  const fs::path model = folder_ / "models--org--tiny";
  fs::create_directories(model / "snapshots" / "abc");
  fs::create_directories(model / "snapshots" / "def");
  fs::create_directories(model / "refs");
  testing::write_file(model / "refs" / "main", "abc");
  EXPECT_EQ(resolve_model_path("org/tiny"), (model / "snapshots" / "abc").string());
  EXPECT_EQ(resolve_model_path(folder_.string()), folder_.string());
  testing::write_file(model / "refs" / "main", "../../..");  // a revision cannot lead elsewhere
  const std::string found = resolve_model_path("org/tiny");
  EXPECT_TRUE(found.ends_with("abc") || found.ends_with("def")) << found;
  EXPECT_NFLOAT_ERROR(resolve_model_path("org/absent"), ErrorCode::kNotFound, "Hugging Face cache");
  EXPECT_NFLOAT_ERROR(resolve_model_path("a/b/c"), ErrorCode::kNotFound, "no such file");
  ::unsetenv("HF_HUB_CACHE");
}

}  // namespace
}  // namespace nfloat

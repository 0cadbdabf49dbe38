// SPDX-License-Identifier: Apache-2.0
#include "nfloat/checkpoint.h"

#include <gtest/gtest.h>

#include <set>

#include "support/files.h"
#include "support/paths.h"

namespace nfloat {
namespace {

namespace fs = std::filesystem;

using testing::raw_bytes;
using testing::RawTensor;
using testing::write_file;
using testing::write_safetensors;

class CheckpointFiles : public testing::TemporaryFolder {
 protected:
  // A [2, 8] weight in one block, as bitsandbytes lays it out.
  static std::vector<RawTensor> quantized(const std::string& state) {
    return {{"w", "U8", {8, 1}, std::string(8, '\x77')},
            {"w.absmax", "F32", {1}, raw_bytes<float>({2.0f})},
            {"w.quant_map", "F32", {16}, raw_bytes(std::vector<float>(16, 0.5f))},
            {"w.quant_state.bitsandbytes__nf4", "U8", {static_cast<int64_t>(state.size())}, state}};
  }
  static constexpr const char* kState =
      R"({"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [2, 8]})";
};

TEST_F(CheckpointFiles, ReadsAShardedFolder) {
  write_safetensors(path("model-00001-of-00002.safetensors"), {{"a", "F32", {2}, raw_bytes<float>({1, 2})}});
  write_safetensors(path("model-00002-of-00002.safetensors"), {{"b", "U8", {3}, "xyz"}});
  const auto index = [](const std::string& map) { return "{\"metadata\":{},\"weight_map\":{" + map + "}}"; };
  const std::string a = R"("a":"model-00001-of-00002.safetensors")",
                    b = R"("b":"model-00002-of-00002.safetensors")";
  const fs::path index_path = path("model.safetensors.index.json");
  write_file(index_path, index(a + "," + b));
  const Checkpoint checkpoint(folder_.string());
  EXPECT_TRUE(checkpoint.is_folder());
  EXPECT_EQ(checkpoint.files().size(), 2u);
  ASSERT_NE(checkpoint.find("b"), nullptr);
  std::string bytes(2, ' ');
  checkpoint.read(*checkpoint.find("b"), 1, std::as_writable_bytes(std::span(bytes)));
  EXPECT_EQ(bytes, "yz");
  EXPECT_EQ(checkpoint.find("c"), nullptr);
  EXPECT_NFLOAT_ERROR(checkpoint.view("c"), ErrorCode::kNotFound, "no tensor 'c'");
  EXPECT_THROW(checkpoint.read(*checkpoint.find("b"), 2, std::as_writable_bytes(std::span(bytes))), Error);

  for (const std::string name : {"../config.json", "a/../../config.json", "/etc/hostname", ".."})
    EXPECT_NFLOAT_ERROR(checkpoint.text_file(name), ErrorCode::kInvalidArgument, "is not a name inside");

  const auto open = [&] { Checkpoint{folder_.string()}; };
  write_file(index_path, index(a + "," + b + R"(,"c":"model-00003.safetensors")"));
  EXPECT_NFLOAT_ERROR(open(), ErrorCode::kNotFound, "model-00003.safetensors is missing");
  write_file(index_path, index(a));
  EXPECT_NO_THROW(open());  // a file that the index does not name is not part of the checkpoint
  write_file(index_path, index(a + R"(,"b":"model-00001-of-00002.safetensors")"));
  EXPECT_NFLOAT_ERROR(open(), ErrorCode::kMalformedFile, "'b' should be in model-00001");
  write_file(index_path,
             index(R"("b":"model-00001-of-00002.safetensors","a":"model-00002-of-00002.safetensors")"));
  EXPECT_NFLOAT_ERROR(open(), ErrorCode::kMalformedFile, "but is in");
  write_file(index_path, index(R"("a":"../secret.safetensors")"));
  EXPECT_NFLOAT_ERROR(open(), ErrorCode::kMalformedFile, "is not a file name");
  write_file(index_path, "{\"weight_map\":7}");
  EXPECT_NFLOAT_ERROR(open(), ErrorCode::kMalformedFile, "weight_map");
  write_file(index_path, std::string(1'000'000, '['));
  EXPECT_NFLOAT_ERROR(open(), ErrorCode::kMalformedFile, "nested deeper than 16 levels");
  write_safetensors(path("model-00002-of-00002.safetensors"), {{"a", "U8", {3}, "xyz"}});
  write_file(index_path, index(a + "," + b));
  EXPECT_NFLOAT_ERROR(open(), ErrorCode::kMalformedFile, "'a' is in");
}

TEST_F(CheckpointFiles, FoldersWithoutSafetensorsSayWhatToDo) {
  const auto open = [&] { Checkpoint{folder_.string()}; };
  EXPECT_NFLOAT_ERROR(open(), ErrorCode::kNotFound, "no model.safetensors");
  write_file(path("pytorch_model.bin"), "x");
  EXPECT_NFLOAT_ERROR(open(), ErrorCode::kUnsupported, "safe_serialization=True");
  write_safetensors(path("one.safetensors"), {{"b", "U8", {3}, "xyz"}});
  EXPECT_NO_THROW(open());
  write_safetensors(path("two.safetensors"), {{"c", "U8", {3}, "xyz"}});
  EXPECT_NFLOAT_ERROR(open(), ErrorCode::kNotFound, "2 safetensors files");
  EXPECT_NFLOAT_ERROR(Checkpoint(path("absent")), ErrorCode::kNotFound, "no such file");
}

TEST_F(CheckpointFiles, GathersTheCompanionsOfAQuantizedWeight) {
  auto tensors = quantized(kState);
  tensors.push_back({"norm", "F32", {1}, raw_bytes<float>({1})});
  write_safetensors(path("m.safetensors"), tensors);
  const Checkpoint checkpoint(path("m.safetensors"));
  EXPECT_TRUE(checkpoint.is_quantized("w"));
  EXPECT_FALSE(checkpoint.is_quantized("norm"));
  EXPECT_EQ(checkpoint.weight_names(), (std::vector<std::string>{"w", "norm"}));
  EXPECT_EQ(checkpoint.companions("w").size(), 3u);
  const QuantizedView view = checkpoint.quantized("w");
  EXPECT_EQ(view.shape, Shape({2, 8}));
  EXPECT_EQ(view.codes.bytes.size(), 8u);
  EXPECT_FALSE(view.nested);
  EXPECT_NFLOAT_ERROR(checkpoint.quantized("norm"), ErrorCode::kNotFound, "no quantized tensor 'norm'");
}

TEST_F(CheckpointFiles, NamesInconsistentCompanions) {
  const auto expect = [&](const std::vector<RawTensor>& tensors, const std::string& said) {
    write_safetensors(path("m.safetensors"), tensors);
    const Checkpoint checkpoint(path("m.safetensors"));
    EXPECT_NFLOAT_ERROR(checkpoint.quantized("w"), ErrorCode::kMalformedFile, said);
  };
  auto tensors = quantized(kState);
  tensors.erase(tensors.begin() + 1);
  expect(tensors, "'w.absmax' is missing");
  tensors = quantized(kState);
  tensors[1] = {"w.absmax", "F32", {2}, raw_bytes<float>({1, 2})};
  expect(tensors, "'w.absmax' is F32 [2], expected F32 [1]");
  tensors = quantized(kState);
  tensors[1] = {"w.absmax", "U8", {1}, "x"};
  expect(tensors, "expected F32 [1]");
  tensors = quantized(kState);
  tensors[2] = {"w.quant_map", "F32", {8}, raw_bytes(std::vector<float>(8))};
  expect(tensors, "expected F32 [16]");
  expect(quantized(R"({"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [2, 9]})"),
         "8 bytes of codes");
  expect(quantized(R"({"quant_type": "fp4", "blocksize": 64, "dtype": "bfloat16", "shape": [2, 8]})"),
         "says quant_type 'fp4'");
  expect(
      quantized(
          R"({"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [2, 8], "nested_blocksize": 256, )"
          R"("nested_dtype": "float32", "nested_offset": 0.5})"),
      "expected U8 [1]");
}

TEST_F(CheckpointFiles, AFileThatShrinksIsAnErrorNotACrash) {
  write_safetensors(path("m.safetensors"), {{"a", "U8", {100'000}, std::string(100'000, 'x')}});
  const Checkpoint checkpoint(path("m.safetensors"));
  fs::resize_file(path("m.safetensors"), 5000);
  std::vector<std::byte> bytes(100'000);
  EXPECT_NFLOAT_ERROR(checkpoint.read(checkpoint.tensors()[0], 0, bytes), ErrorCode::kIo,
                      "has become shorter");
}

TEST(ReferenceCheckpoints, EveryGoldenFileOpens) {
  const fs::path folder = fs::path(testing::source_path("/tests/golden/bitsandbytes"));
  if (!fs::exists(folder)) GTEST_SKIP() << "golden files are absent: " << folder;
  size_t files = 0;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() != ".safetensors") continue;
    ++files;
    const Checkpoint checkpoint(entry.path().string());
    EXPECT_NO_THROW(checkpoint.quantized("weight")) << entry.path();
    EXPECT_EQ(checkpoint.weight_names(), (std::vector<std::string>{"dequantized", "input", "weight"}))
        << entry.path();
  }
  EXPECT_GE(files, 42u);
}

}  // namespace
}  // namespace nfloat

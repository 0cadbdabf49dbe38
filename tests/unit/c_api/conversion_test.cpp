// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "c_api/support.h"
#include "nfloat/convert.h"
#include "nfloat/results.h"
#include "support/files.h"
#include "support/paths.h"

namespace nfloat::testing {
namespace {

const std::string kTiny = source_path("/models/nfloat-tiny");

class CConversion : public TemporaryFolder {
 protected:
  void SetUp() override {
    TemporaryFolder::SetUp();
    open(kTiny, plain_);
  }
  static void open(const std::string& path, CheckpointHandle& handle) {
    nfloat_error* error = nullptr;
    ASSERT_EQ(nfloat_checkpoint_open(path.c_str(), nullptr, handle.place(), &error), NFLOAT_OK)
        << taken(error);
  }
  CheckpointHandle plain_;
};

// The members that say how long something took differ from run to run.
Json without_times(const std::string& text) {
  Json json = Json::parse(text);
  for (const char* name : {"seconds", "sync_seconds", "check_seconds", "input_gigabytes_per_second"})
    json.erase(name);
  return json;
}

TEST_F(CConversion, QuantizesAsTheLibraryDoesAndComesBack) {
  const std::string through_c = path("c"), through_cpp = path("cpp");
  const char* skip[] = {"layers\\.0\\."};
  nfloat_quantize_options quantize = defaults<nfloat_quantize_options>();
  quantize.double_quantization = 1;
  nfloat_quantize_checkpoint_options options = defaults<nfloat_quantize_checkpoint_options>();
  options.quantize = &quantize;
  options.skip = skip;
  options.skip_count = 1;
  QuantizeCheckpointOptions own;
  own.quantize.double_quantization = true;
  own.skip = {"layers\\.0\\."};
  nfloat_buffer* json = nullptr;
  nfloat_error* error = nullptr;
  const Checkpoint checkpoint(kTiny);
  ASSERT_EQ(nfloat_plan_quantization(plain_, &options, &json, &error), NFLOAT_OK) << taken(error);
  EXPECT_EQ(taken(json), quantization_plan_json(plan_quantization(checkpoint, own)));

  const Control control(nfloat_control_create());
  ASSERT_EQ(nfloat_quantize_checkpoint(plain_, through_c.c_str(), &options, control, &json, &error),
            NFLOAT_OK)
      << taken(error);
  const ConvertResult expected = quantize_checkpoint(checkpoint, through_cpp, own);
  Json made = without_times(taken(json));
  made.erase("files");
  Json wanted = without_times(quantize_json(expected));
  wanted.erase("files");
  EXPECT_EQ(made, wanted);
  EXPECT_EQ(read_file(through_c + "/model.safetensors"), read_file(through_cpp + "/model.safetensors"));
  uint64_t done = 0, total = 0;
  nfloat_control_progress(control, &done, &total);
  EXPECT_GT(total, 0u);
  EXPECT_EQ(done, total);
  EXPECT_EQ(nfloat_quantize_checkpoint(plain_, through_c.c_str(), &options, nullptr, nullptr, nullptr),
            NFLOAT_ALREADY_EXISTS);
  options.overwrite = 1;
  EXPECT_EQ(nfloat_quantize_checkpoint(plain_, through_c.c_str(), &options, nullptr, nullptr, nullptr),
            NFLOAT_OK);

  CheckpointHandle packed;
  ASSERT_NO_FATAL_FAILURE(open(through_c, packed));
  ASSERT_EQ(nfloat_checkpoint_describe(packed, &json, &error), NFLOAT_OK) << taken(error);
  EXPECT_EQ(taken(json), inspect_json(Checkpoint(through_c)));
  ASSERT_EQ(nfloat_check_checkpoint(packed, control, &json, &error), NFLOAT_OK) << taken(error);
  EXPECT_TRUE(Json::parse(taken(json))["sound"].get<bool>());
  nfloat_control_progress(control, &done, &total);
  EXPECT_GT(total, 0u);
  EXPECT_EQ(done, total);
  ASSERT_EQ(nfloat_compare_checkpoints(packed, plain_, nullptr, &json, &error), NFLOAT_OK) << taken(error);
  const Json compared = Json::parse(taken(json));
  EXPECT_NEAR(compared["total_of_inexact"]["sqnr_db"].get<double>(), 20.7, 0.5);

  const std::string back = path("back");
  nfloat_convert_options plain = defaults<nfloat_convert_options>();
  plain.type = "float32";
  ASSERT_EQ(nfloat_dequantize_checkpoint(packed, back.c_str(), &plain, nullptr, &json, &error), NFLOAT_OK)
      << taken(error);
  EXPECT_GT(Json::parse(taken(json))["dequantized_parameters"].get<int64_t>(), 0);
  CheckpointHandle restored;
  ASSERT_NO_FATAL_FAILURE(open(back, restored));
  ASSERT_EQ(nfloat_compare_checkpoints(restored, packed, nullptr, &json, &error), NFLOAT_OK) << taken(error);
  EXPECT_EQ(Json::parse(taken(json))["total"]["squared_error"].get<double>(), 0.0);
}

TEST_F(CConversion, WritesGgufFilesAndFolders) {
  const std::string file = path("tiny.gguf"), folder = path("folder");
  nfloat_convert_options options = defaults<nfloat_convert_options>();
  options.type = "q8_0";
  options.check = 1;
  nfloat_buffer* json = nullptr;
  nfloat_error* error = nullptr;
  ASSERT_EQ(nfloat_write_gguf(plain_, file.c_str(), &options, nullptr, &json, &error), NFLOAT_OK)
      << taken(error);
  EXPECT_EQ(Json::parse(taken(json))["files"][0].text(), file);
  CheckpointHandle gguf;
  ASSERT_NO_FATAL_FAILURE(open(file, gguf));
  ASSERT_EQ(nfloat_checkpoint_describe(gguf, &json, &error), NFLOAT_OK) << taken(error);
  EXPECT_EQ(Json::parse(taken(json))["metadata"]["general.architecture"].text(), "llama");
  ASSERT_EQ(nfloat_check_checkpoint(gguf, nullptr, &json, &error), NFLOAT_OK) << taken(error);
  EXPECT_TRUE(Json::parse(taken(json))["sound"].get<bool>());
  options.type = "bfloat16";
  options.check = 0;
  ASSERT_EQ(nfloat_write_folder(gguf, folder.c_str(), &options, nullptr, nullptr, &error), NFLOAT_OK)
      << taken(error);
  EXPECT_TRUE(std::filesystem::exists(folder + "/config.json"));
  options.type = "q9_9";
  EXPECT_EQ(nfloat_write_gguf(plain_, file.c_str(), &options, nullptr, nullptr, &error),
            NFLOAT_INVALID_ARGUMENT);
  EXPECT_NE(taken(error).find("q9_9"), std::string::npos);
}

TEST_F(CConversion, ACancelledConversionLeavesNothing) {
  const std::string output = path("never");
  const Control control(nfloat_control_create());
  nfloat_control_cancel(control);
  EXPECT_EQ(nfloat_quantize_checkpoint(plain_, output.c_str(), nullptr, control, nullptr, nullptr),
            NFLOAT_INTERRUPTED);
  EXPECT_TRUE(std::filesystem::is_empty(folder_));
  EXPECT_EQ(nfloat_check_checkpoint(plain_, control, nullptr, nullptr), NFLOAT_INVALID_ARGUMENT);
}

TEST_F(CConversion, FaultsAreFindings) {
  const std::string copy = path("copy");
  std::filesystem::copy(kTiny, copy);
  write_file(copy + "/tokenizer.json", R"({"model": {"type": "Unheard"}})");
  CheckpointHandle damaged;
  ASSERT_NO_FATAL_FAILURE(open(copy, damaged));
  nfloat_buffer* json = nullptr;
  ASSERT_EQ(nfloat_check_checkpoint(damaged, nullptr, &json, nullptr), NFLOAT_OK);
  const Json checked = Json::parse(taken(json));
  EXPECT_FALSE(checked["sound"].get<bool>());
  EXPECT_NE(checked["findings"][0]["text"].text().find("Unheard"), std::string::npos);
}

}  // namespace
}  // namespace nfloat::testing

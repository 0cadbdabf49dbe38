// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <sys/mount.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>

#include "base/json.h"
#include "cli/checkpoint_maker.h"
#include "cli/process.h"
#include "support/paths.h"

namespace nfloat::cli_test {
namespace {

namespace fs = std::filesystem;
using BadInput = Cli;

// The embedded model in two shards with an index, to be damaged.
void make_sharded(const std::string& folder) {
  const Result packed = nfloat({"quantize", testing::source_path("/models/nfloat-tiny"), folder + "-packed"});
  ASSERT_TRUE(packed.ok()) << packed;
  const Result plain = nfloat({"dequantize", folder + "-packed", folder, "--shard-size", "4MB"});
  ASSERT_TRUE(plain.ok()) << plain;
}

TEST_F(BadInput, WhatIsNotThereIsNamed) {
  expect_complaint(nfloat({"quantize", path("absent"), path("out")}), {"absent"});
  expect_complaint(nfloat({"inspect", path("absent.safetensors")}), {"absent.safetensors"});
  fs::create_directories(path("empty"));
  expect_complaint(nfloat({"quantize", path("empty"), path("out")}), {"empty", "safetensors"});
  expect_complaint(nfloat({"quantize", model(), path("no/such/folder/out")}), {"no/such/folder"});
  EXPECT_FALSE(fs::exists(path("out")));
}

TEST_F(BadInput, PyTorchCheckpointsAreNamedWithWhatToDo) {
  fs::create_directories(path("old"));
  write_file(path("old/pytorch_model.bin"), "PK\x03\x04");
  write_file(path("old/config.json"), "{}");
  expect_complaint(nfloat({"quantize", path("old"), path("out")}), {"pytorch_model.bin", "safetensors"});
}

TEST_F(BadInput, ShardsAndIndexMustAgree) {
  const std::string folder = path("sharded");
  make_sharded(folder);
  const std::string index_path = folder + "/model.safetensors.index.json";
  const Json index = Json::parse(read_file(index_path));
  const std::string victim = index.at("weight_map").items()[0].first;
  const std::string shard = index.at("weight_map").items()[0].second.text();

  fs::rename(folder + "/" + shard, path("aside"));
  expect_complaint(nfloat({"quantize", folder, path("out")}), {shard});
  fs::rename(path("aside"), folder + "/" + shard);

  Json changed = index;
  changed["weight_map"]["model.layers.99.ghost.weight"] = shard;
  write_file(index_path, changed.dump());
  expect_complaint(nfloat({"quantize", folder, path("out")}), {"model.layers.99.ghost.weight", shard});

  changed = index;
  changed["weight_map"].erase(victim);
  write_file(index_path, changed.dump());
  expect_complaint(nfloat({"quantize", folder, path("out")}), {victim});

  changed = index;
  changed["weight_map"][victim] = "../../../etc/passwd";
  write_file(index_path, changed.dump());
  expect_complaint(nfloat({"quantize", folder, path("out")}), {"etc/passwd"});

  for (const std::string& text :
       {std::string("{"), std::string("[]"), std::string("{\"weight_map\": 3}"), std::string(200000, '[')}) {
    write_file(index_path, text);
    expect_complaint(nfloat({"quantize", folder, path("out")}), {"model.safetensors.index.json"});
  }
  EXPECT_FALSE(fs::exists(path("out")));
}

TEST_F(BadInput, NotFiniteWeightsAreNamedWithTheirIndex) {
  for (const float value :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    std::string bytes = plain_file(40, 40);
    const size_t index = 30 * 40 + 34;
    std::memcpy(bytes.data() + bytes.size() - 1600 * 4 + index * 4, &value, 4);
    const std::string in = path("in.safetensors"), out = path("out.safetensors");
    write_file(in, bytes);
    expect_complaint(nfloat({"quantize", in, out}), {"weight", "[30, 34]"});
    EXPECT_FALSE(fs::exists(out));
    EXPECT_TRUE(temporaries(folder_).empty());
    const Result allowed = nfloat({"quantize", in, out, "--allow-nonfinite"});
    EXPECT_TRUE(allowed.ok()) << allowed;
    EXPECT_TRUE(fs::exists(out));
    fs::remove(out);
  }
}

TEST_F(BadInput, QuantizedAndPlainAreNotConfused) {
  ASSERT_TRUE(nfloat({"quantize", model(), path("packed")}).ok());
  expect_complaint(nfloat({"quantize", path("packed"), path("out")}), {"packed", "quantized"});
  expect_complaint(nfloat({"dequantize", model(), path("out")}), {"nfloat-tiny", "quant_state"});
  // Another method's checkpoint, known only by its config.json.
  fs::copy(model(), path("gptq"));
  Json config = Json::parse(read_file(path("gptq/config.json")));
  config["quantization_config"] = {{"quant_method", "gptq"}, {"bits", 4}};
  fs::permissions(path("gptq/config.json"), fs::perms::owner_write, fs::perm_options::add);
  write_file(path("gptq/config.json"), config.dump());
  expect_complaint(nfloat({"quantize", path("gptq"), path("out")}), {"gptq"});
  EXPECT_FALSE(fs::exists(path("out")));
}

TEST_F(BadInput, DamagedCompanionsAreFoundByCheck) {
  ASSERT_TRUE(nfloat({"quantize", model(), path("packed")}).ok());
  const std::string file = path("packed/model.safetensors");
  const std::string good = read_file(file);
  const auto damaged = [&](const std::string& from, const std::string& to) {
    std::string bytes = good;
    const size_t at = bytes.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    bytes.replace(at, from.size(), to);
    write_file(file, bytes);
    return nfloat({"inspect", path("packed"), "--check"});
  };
  for (const auto& [from, to] : std::vector<std::pair<std::string, std::string>>{
           {"\"blocksize\": 64", "\"blocksize\": 63"},
           {"\"blocksize\": 64", "\"blocksize\": -4"},
           {"\"quant_type\": \"nf4\"", "\"quant_type\": \"nf9\""},
           {"\"dtype\": \"bfloat16\", \"shape\"", "\"dtype\": \"bfloat17\", \"shape\""},
           {".absmax\"", ".abzmax\""}}) {
    if (good.find(from) == std::string::npos) continue;
    const Result result = damaged(from, to);
    EXPECT_EQ(result.exit_code, 1) << from << " -> " << to << "\n" << result;
    EXPECT_NE((result.out + result.err).find("model."), std::string::npos) << result;
  }
}

TEST_F(BadInput, OutputsAreNeverInTheWay) {
  const std::string out = path("out");
  ASSERT_TRUE(nfloat({"quantize", model(), out}).ok());
  const auto before = snapshot(out);
  expect_complaint(nfloat({"quantize", model(), out, "--format", "fp4"}), {"out", "overwrite"});
  EXPECT_TRUE(snapshot(out) == before);
  ASSERT_TRUE(nfloat({"quantize", model(), out, "--format", "fp4", "--overwrite"}).ok());
  EXPECT_FALSE(snapshot(out) == before);

  fs::copy(model(), path("model"));
  expect_complaint(nfloat({"quantize", path("model"), path("model")}), {"model"});
  expect_complaint(nfloat({"quantize", path("model"), path("model/packed")}), {"packed: lies in"});
  expect_complaint(nfloat({"quantize", path("model"), path("model"), "--overwrite"}), {"model"});
  EXPECT_TRUE(snapshot(path("model")) == snapshot(model()));

  // --overwrite replaces checkpoints, not somebody's folder of photographs.
  fs::create_directories(path("photos"));
  write_file(path("photos/cat.jpg"), "meow");
  expect_complaint(nfloat({"quantize", model(), path("photos"), "--overwrite"}), {"photos"});
  EXPECT_EQ(read_file(path("photos/cat.jpg")), "meow");
  write_file(path("file"), "text");
  expect_complaint(nfloat({"quantize", model(), path("file"), "--overwrite"}), {"file"});
  EXPECT_EQ(read_file(path("file")), "text");
}

TEST_F(BadInput, NoPermission) {
  if (::geteuid() == 0) {
    // Root may do everything; the child gives that up.
    fs::permissions(folder_, fs::perms::all);
  }
  Limits limits;
  limits.as_nobody = ::geteuid() == 0;
  fs::copy(model(), path("model"));
  fs::permissions(path("model/model.safetensors"), fs::perms::none);
  const Result unreadable = nfloat({"quantize", path("model"), path("out")}, limits);
  if (unreadable.exit_code == 127)
    GTEST_SKIP() << "an unprivileged user cannot run the build folder's programs here";
  expect_complaint(unreadable, {"model.safetensors", "ermission"});
  fs::permissions(path("model/model.safetensors"), fs::perms::owner_read | fs::perms::others_read);
  fs::create_directories(path("closed"));
  fs::permissions(path("closed"), fs::perms::owner_read | fs::perms::owner_exec | fs::perms::others_read |
                                      fs::perms::others_exec);
  expect_complaint(nfloat({"quantize", path("model"), path("closed/out")}, limits), {"closed", "ermission"});
  fs::permissions(path("closed"), fs::perms::all);
}

// What goes along is written as the weights are, and its own file is named.
TEST_F(BadInput, AFileThatCannotBeCopiedIsNamedWithTheReason) {
  fs::copy(model(), path("model"), fs::copy_options::recursive);
  write_file(path("model/vocabulary"), "");
  fs::resize_file(path("model/vocabulary"), 20'000'000);
  Limits limits;
  limits.file_bytes = 15'000'000;
  const Result result = nfloat({"quantize", path("model"), path("out")}, limits);
  expect_complaint(result, {"out", "vocabulary: cannot write", "too large", "keeps 1 of 1 shard"});
  EXPECT_FALSE(fs::exists(path("out")));
  ASSERT_TRUE(nfloat({"quantize", path("model"), path("out")}).ok());
  EXPECT_EQ(fs::file_size(path("out/vocabulary")), 20'000'000u);
}

TEST_F(BadInput, ANewDiskThatIsTooSmallIsSaidBeforeTheWork) {
  const std::string disk = path("disk");
  fs::create_directories(disk);
  if (::mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=1m") != 0)
    GTEST_SKIP() << "mounting needs root: " << std::strerror(errno);
  const Result result = nfloat({"quantize", model(), disk + "/out"});
  const Result calibrated = nfloat({"quantize", model(), disk + "/out", "--preset", "calibrated"});
  EXPECT_TRUE(fs::is_empty(disk));
  ::umount(disk.c_str());
  expect_complaint(result, {"full", "GB"});
  expect_complaint(calibrated, {"full", "GB"});
}

}  // namespace
}  // namespace nfloat::cli_test

// SPDX-License-Identifier: Apache-2.0
#include "train_outputs.h"

#include <fmt/format.h>

#include <filesystem>

#include "nfloat/error.h"
#include "nfloat/files.h"

namespace nfloat::cli {
namespace {

namespace fs = std::filesystem;
constexpr const char* kAdapterFiles[] = {"adapter_model.safetensors", "adapter_config.json"};

void add(std::vector<NamedPath>& to, const char* name, const std::string& path) {
  if (!path.empty()) to.push_back({path, name});
}

// Of a folder its files of rows.
void add_rows(std::vector<NamedPath>& to, const char* name, const std::string& path) {
  if (!fs::is_directory(path)) return add(to, name, path);
  for (const char* file : {"train.jsonl", "valid.jsonl"}) add(to, name, (fs::path(path) / file).string());
}

}  // namespace

std::string checkpoint_folder(const TrainArguments& arguments) {
  return (fs::path(arguments.out) / "checkpoint").string();
}

void expect_train_outputs_apart(const TrainArguments& arguments, const std::string& model) {
  std::vector<NamedPath> inputs, outputs;
  add(inputs, "MODEL", model);
  add_rows(inputs, "DATA", arguments.data);
  if (!share(arguments.eval, "--eval")) add_rows(inputs, "--eval", arguments.eval);
  add(inputs, "--also", arguments.story.also);
  if (!arguments.loftq.empty()) add(inputs, "--loftq", model_folder(arguments.loftq));

  add(outputs, "--loftq-base", arguments.loftq_base);
  add(outputs, "--log", arguments.log);
  add(outputs, "--report", arguments.story.report);
  add(outputs, "--dump-gradients", arguments.dump_gradients);
  // An adapter may be trained on in its own folder, where its log is too.
  if (!arguments.init.empty()) {
    std::vector<NamedPath> start;
    for (const char* file : kAdapterFiles) add(start, "--init", (fs::path(arguments.init) / file).string());
    expect_outputs_apart(outputs, start);
  }

  if (!arguments.out.empty()) {
    std::error_code ignored;
    if (fs::equivalent(arguments.out, model, ignored))
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("--out {}: is the same as MODEL {}, which is read", arguments.out, model));
    for (const char* file : kAdapterFiles) add(outputs, "--out", (fs::path(arguments.out) / file).string());
    add(outputs, "--out", checkpoint_folder(arguments));
  }
  expect_outputs_apart(outputs, inputs);
}

}  // namespace nfloat::cli

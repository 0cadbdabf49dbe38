// SPDX-License-Identifier: Apache-2.0
#include "convert/output.h"

#include <sys/statvfs.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "base/fail.h"
#include "base/output_place.h"
#include "checkpoint/foreign.h"
#include "checkpoint/quant_state.h"
#include "gguf/parse.h"
#include "nfloat/gguf.h"

namespace nfloat {
namespace {

namespace fs = std::filesystem;
constexpr const char* kAdapterName = "adapter_config.json";

// Parts of a bitsandbytes weight whose codes or quant_state are not there: whoever takes them for weights of
// their own writes a checkpoint that cannot be read.
void expect_no_lone_companions(const Checkpoint& input) {
  if (input.is_gguf()) return;
  for (const std::string& name : input.weight_names()) {
    const size_t state = name.find(kQuantStateSuffix);
    for (const std::string_view suffix :
         {kAbsmaxSuffix, kQuantMapSuffix, kNestedAbsmaxSuffix, kNestedQuantMapSuffix}) {
      if (state == std::string::npos && !name.ends_with(suffix)) continue;
      const std::string base =
          name.substr(0, state != std::string::npos ? state : name.size() - suffix.size());
      fail(ErrorCode::kMalformedFile, "{}: tensor '{}' belongs to '{}', which {}", input.path(), name, base,
           input.find(base) == nullptr ? "is not there" : "is not quantized: its quant_state is missing");
    }
  }
}

// Only a folder that holds nothing but files, safetensors among them, and sub-folders of files without
// weights is ever replaced.
bool looks_like_checkpoint(const fs::path& folder) {
  bool has_weights = false;
  for (auto at = fs::recursive_directory_iterator(folder); at != fs::recursive_directory_iterator(); ++at) {
    const bool weights = at->path().extension() == ".safetensors";
    if ((!at->is_regular_file() && !at->is_directory()) || (at->is_directory() && at->is_symlink()) ||
        (weights && at.depth() > 0))
      return false;
    has_weights = has_weights || weights;
  }
  return has_weights;
}

// By how the file begins: one that was cut short is of its kind too.
bool begins_as_safetensors(const fs::path& path) {
  // The length of a header below 4 GiB, and the header.
  constexpr std::string_view kBehindLowBytes("\0\0\0\0{", 5);
  return beginning_of(path, 9).find(kBehindLowBytes) == 4;
}

bool begins_as_gguf(const fs::path& path) {
  return beginning_of(path, kGgufMagic.size()) == kGgufMagic;
}

// Whether it says to be of this type ("model", "adapter", "imatrix"); one that cannot be read is a model.
bool is_gguf(const std::string& path, std::string_view type) {
  if (!begins_as_gguf(path)) return false;
  try {
    return GgufFile(path).text_or("general.type", "model") == type;
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kMalformedFile && error.code() != ErrorCode::kUnsupported) throw;
    return type == "model";
  }
}

}  // namespace

std::string beginning_of(const fs::path& path, size_t most_bytes) {
  // A pipe would be waited for.
  std::error_code ignored;
  const uintmax_t size = fs::is_regular_file(path, ignored) ? fs::file_size(path, ignored) : 0;
  if (ignored || size == 0) return {};
  std::ifstream file(path, std::ios::binary);
  std::string text(std::min<uintmax_t>(size, most_bytes), '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  return text;
}

void expect_replaceable(const std::string& path, OutputKind kind, const std::string& name) {
  const auto expect = [&](bool good, const char* what) {
    if (!good) fail(ErrorCode::kAlreadyExists, "{}: is not replaced: it is not {}", name, what);
  };
  if (kind == OutputKind::kFolder)
    return expect(fs::is_directory(path) && looks_like_checkpoint(path),
                  "a checkpoint folder (files, safetensors among them, and no weights in sub-folders)");
  const bool file = fs::is_regular_file(path);
  if (file && fs::file_size(path) == 0) return;
  if (kind == OutputKind::kSafetensors)
    expect(file && begins_as_safetensors(path), "a safetensors file");
  else if (kind == OutputKind::kGguf)
    expect(file && is_gguf(path, "model"), "a GGUF model");
  else
    expect(file && is_gguf(path, "adapter"), "a GGUF adapter");
}

std::vector<NamedPath> read_of(const Checkpoint& input) {
  std::vector<NamedPath> all{{input.path()}};
  for (const std::string& file : input.files()) all.push_back({file});
  return all;
}

std::string check_output(const Checkpoint& input, const std::string& output, OutputKind kind, bool overwrite,
                         uint64_t needed_bytes) {
  const bool output_is_folder = kind == OutputKind::kFolder;
  expect_no_lone_companions(input);
  expect_checkpoint_apart(output, read_of(input));
  const fs::path to = output_target(output);
  const bool input_is_folder = fs::is_directory(input.path());
  if (fs::exists(to)) {
    if (!fs::is_directory(to) && !fs::is_regular_file(to))
      fail(ErrorCode::kInvalidArgument,
           "{}: is not a regular file; a checkpoint is not written in one go from its beginning", output);
    if (fs::is_directory(to) != output_is_folder) {
      fail(ErrorCode::kInvalidArgument, "{}: is a {}, the {} a {}", output,
           output_is_folder ? "file" : "folder",
           output_is_folder == input_is_folder ? "input is" : "output will be",
           output_is_folder ? "folder" : "file");
    }
    if (!overwrite)
      fail(ErrorCode::kAlreadyExists, "{}: exists already (overwrite replaces it when the new one is whole)",
           output);
    expect_replaceable(to.string(), kind, output);
  }
  const fs::path parent = to.parent_path();
  if (!fs::is_directory(parent))
    fail(ErrorCode::kNotFound, "{}: the folder {} does not exist", output, parent.string());
  struct statvfs space {};
  if (::statvfs(parent.c_str(), &space) == 0) {
    const uint64_t free_bytes = uint64_t{space.f_bavail} * space.f_frsize;
    if (free_bytes < needed_bytes) {
      fail(ErrorCode::kIo, "{}: the disk is too full: {:.3f} GB are needed, {:.3f} GB are free in {}", output,
           static_cast<double>(needed_bytes) / 1e9, static_cast<double>(free_bytes) / 1e9, parent.string());
    }
  }
  return to.string();
}

Json parse_config(const Checkpoint& input) {
  const std::string text = input.text_file(kConfigName);
  if (text.empty()) return Json::object();
  return parse_json_object(text, fmt::format("{}/{}", input.path(), kConfigName), {.depth = 64});
}

bool has_config(const Checkpoint& input) {
  return !input.text_file(kConfigName).empty();
}

std::vector<std::string> other_files(const Checkpoint& input) {
  std::vector<std::string> names;
  if (input.is_gguf()) {
    for (std::string& name : input.made_files())
      if (name != kConfigName) names.push_back(std::move(name));
    return names;
  }
  static constexpr std::string_view kWeightExtensions[] = {
      ".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx", ".ot", ".ckpt"};
  const fs::path root(input.path());
  std::error_code error;
  for (auto at = fs::recursive_directory_iterator(root, fs::directory_options::skip_permission_denied);
       at != fs::recursive_directory_iterator(); ++at) {
    const std::string name = at->path().filename().string();
    if (name.starts_with('.')) {
      at.disable_recursion_pending();
      continue;
    }
    const std::string extension = at->path().extension().string();
    const bool weights = std::find(std::begin(kWeightExtensions), std::end(kWeightExtensions), extension) !=
                             std::end(kWeightExtensions) ||
                         name.ends_with(".index.json");
    const bool own =
        at.depth() == 0 && (name == kConfigName || name == kAdapterName || is_foreign_description(name));
    if (!weights && !own && at->is_regular_file(error))
      names.push_back(at->path().lexically_relative(root).string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

uint64_t stored_bytes(const Checkpoint& input) {
  uint64_t bytes = 0;
  if (input.is_gguf()) {
    const GgufFile file(input.path());
    for (const GgufTensor& tensor : file.tensors()) bytes += tensor.bytes;
  } else {
    for (const std::string& name : input.weight_names()) bytes += input.stored_bytes(name);
  }
  return bytes;
}

}  // namespace nfloat

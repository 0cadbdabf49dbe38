// SPDX-License-Identifier: Apache-2.0
#include "convert/output.h"

#include <sys/statvfs.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <mutex>

#include "base/fail.h"
#include "base/output_place.h"
#include "checkpoint/foreign.h"
#include "checkpoint/quant_state.h"
#include "gguf/parse.h"
#include "nfloat/gguf.h"

namespace nfloat {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr const char* kConfigName = "config.json";
constexpr const char* kCardName = "README.md";
constexpr const char* kAdapterName = "adapter_config.json";
constexpr const char* kIndexName = "model.safetensors.index.json";

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

bool is_inside(const fs::path& path, const fs::path& folder) {
  const auto [mismatch, unused] = std::mismatch(folder.begin(), folder.end(), path.begin(), path.end());
  return mismatch == folder.end();
}

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

std::string beginning_of(const fs::path& path, size_t bytes) {
  std::ifstream file(path, std::ios::binary);
  std::string text(bytes, '\0');
  file.read(text.data(), static_cast<std::streamsize>(bytes));
  text.resize(static_cast<size_t>(file.gcount()));
  return text;
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

bool is_gguf_adapter(const std::string& path) {
  try {
    return begins_as_gguf(path) && GgufFile(path).text_or("general.type", "") == "adapter";
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kMalformedFile && error.code() != ErrorCode::kUnsupported) throw;
    return false;
  }
}

fs::path normal_path(const std::string& path) {
  fs::path normal = fs::weakly_canonical(fs::absolute(path));
  return normal.has_filename() ? normal : normal.parent_path();
}

struct Shard {
  std::vector<size_t> units;
  std::string name;
  std::unique_ptr<SafetensorsWriter> writer;
};

// Units in order, a new shard when the next one would make it too large.
std::vector<Shard> split_into_shards(const std::vector<OutputUnit>& units, uint64_t shard_bytes,
                                     bool folder) {
  std::vector<Shard> shards(1);
  uint64_t bytes = 0;
  for (size_t i = 0; i < units.size(); ++i) {
    if (folder && !shards.back().units.empty() && bytes + units[i].bytes > shard_bytes) {
      shards.emplace_back();
      bytes = 0;
    }
    shards.back().units.push_back(i);
    bytes += units[i].bytes;
  }
  for (size_t i = 0; i < shards.size(); ++i) {
    shards[i].name = shards.size() == 1
                         ? "model.safetensors"
                         : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
  }
  return shards;
}

// Where a unit's tensors are.
struct Place {
  Shard* shard = nullptr;
  size_t first = 0;
};

void open_writer(const std::string& path, Shard& shard, const std::vector<OutputUnit>& units,
                 std::vector<Place>& places) {
  std::vector<SafetensorsWriter::Declared> declared;
  std::vector<std::string> late;
  for (size_t unit : shard.units) {
    places[unit] = {&shard, declared.size()};
    declared.insert(declared.end(), units[unit].tensors.begin(), units[unit].tensors.end());
    if (!units[unit].late.empty()) late.push_back(units[unit].late);
  }
  shard.writer = std::make_unique<SafetensorsWriter>(path, declared, late);
}

std::string index_text(const std::vector<Shard>& shards, const std::vector<OutputUnit>& units) {
  Json index;
  uint64_t total = 0;
  std::map<std::string, std::string> map;
  for (const Shard& shard : shards) {
    total += shard.writer->data_bytes();
    for (size_t unit : shard.units) {
      for (const auto& tensor : units[unit].tensors) map[tensor.name] = shard.name;
      if (!units[unit].late.empty()) map[units[unit].late] = shard.name;
    }
  }
  index["metadata"]["total_size"] = total;
  index["weight_map"] = map;
  return index.dump(2) + "\n";
}

void copy_following_links(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::copy_file(from, to, error);
  if (error) fail(ErrorCode::kIo, "{}: cannot copy: {}", from.string(), error.message());
}

}  // namespace

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
    expect(file && begins_as_gguf(path) && !is_gguf_adapter(path), "a GGUF model");
  else
    expect(file && is_gguf_adapter(path), "a GGUF adapter");
}

std::string check_output(const Checkpoint& input, const std::string& output, OutputKind kind, bool overwrite,
                         uint64_t needed_bytes) {
  const bool output_is_folder = kind == OutputKind::kFolder;
  if (output.empty()) fail(ErrorCode::kInvalidArgument, "the output has no name");
  expect_no_lone_companions(input);
  const fs::path from = normal_path(input.path()), to = normal_path(output_place(output).path);
  if (from == to) fail(ErrorCode::kInvalidArgument, "{}: input and output are the same", output);
  const bool input_is_folder = fs::is_directory(from);
  if (input_is_folder && is_inside(to, from)) {
    fail(ErrorCode::kInvalidArgument, "{}: the output lies inside the input folder {}", output, input.path());
  }
  if (is_inside(from, to)) {
    fail(ErrorCode::kInvalidArgument, "{}: the input {} lies inside the output", output, input.path());
  }
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

// Behind what the original's card says.
static void add_to_card(const fs::path& path, const std::string& card) {
  std::string text;
  if (fs::exists(path)) {
    std::ifstream file(path, std::ios::binary);
    text.assign(std::istreambuf_iterator<char>(file), {});
    if (!file.good() && !file.eof()) fail(ErrorCode::kIo, "{}: cannot read", path.string());
    if (!text.ends_with('\n')) text += '\n';
    text += '\n';
    fs::remove(path);
  }
  write_file_atomically(path.string(), text + card);
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

void write_checkpoint(const Checkpoint& input, const std::string& output,
                      const std::vector<OutputUnit>& units, const JobMaker& make_job, const Json& config,
                      uint64_t shard_bytes, const ConvertControl& control, ConvertResult* result,
                      const std::string& card) {
  const Clock::time_point start = Clock::now();
  expect_own_weights(input);
  ConvertProgress progress;
  progress.tensors_total = units.size();
  uint64_t needed = 1 << 16;
  for (const OutputUnit& unit : units) {
    progress.input_bytes_total += unit.input->bytes;
    needed += unit.bytes;
  }
  const OutputKind kind = input.is_folder() ? OutputKind::kFolder : OutputKind::kSafetensors;
  const fs::path target = check_output(input, output, kind, control.overwrite, needed);
  remove_stale_temporaries(target.string());

  std::unique_ptr<AtomicFolder> folder;
  if (input.is_folder()) folder = std::make_unique<AtomicFolder>(target.string());
  std::vector<Shard> shards = split_into_shards(units, shard_bytes, input.is_folder());
  std::vector<Place> places(units.size());
  std::vector<std::string> late_texts(units.size());
  std::vector<std::once_flag> opened(shards.size());
  std::vector<size_t> shard_of(units.size());
  for (size_t s = 0; s < shards.size(); ++s) {
    for (size_t unit : shards[s].units) shard_of[unit] = s;
  }
  const auto open_shard = [&](size_t s) {
    const fs::path path = folder ? fs::path(folder->path()) / shards[s].name : target;
    std::call_once(opened[s], [&] { open_writer(path.string(), shards[s], units, places); });
  };
  if (units.empty()) open_shard(0);
  run_stream(
      units.size(),
      [&](size_t unit) {
        open_shard(shard_of[unit]);
        return make_job(unit, *places[unit].shard->writer, places[unit].first,
                        [&late_texts, unit](std::string text) { late_texts[unit] = std::move(text); });
      },
      progress, control);

  for (Shard& shard : shards) {
    for (size_t unit : shard.units) {
      if (!units[unit].late.empty()) shard.writer->write_late(units[unit].late, late_texts[unit]);
    }
    shard.writer->finish();
    result->files.push_back(folder ? (target / shard.name).string() : target.string());
  }
  result->seconds = seconds_since(start);
  const Clock::time_point sync_start = Clock::now();
  for (Shard& shard : shards) shard.writer->sync();
  result->sync_seconds = seconds_since(sync_start);
  if (folder) {
    const fs::path inside(folder->path());
    if (shards.size() > 1) write_file_atomically((inside / kIndexName).string(), index_text(shards, units));
    if (!config.empty() || has_config(input))
      write_file_atomically((inside / kConfigName).string(),
                            config.dump(2, Json::Invalid::kRefuse, Json::NotFinite::kPython) + "\n");
    for (const std::string& name : other_files(input)) {
      fs::create_directories((inside / name).parent_path());
      if (input.is_gguf())
        write_file_atomically((inside / name).string(), input.text_file(name));
      else
        copy_following_links(fs::path(input.path()) / name, inside / name);
    }
    if (!card.empty()) add_to_card(inside / kCardName, card);
  }
  if (control.cancelled && control.cancelled())
    fail(ErrorCode::kInterrupted, "interrupted; nothing was changed");
  const Existing existing = control.overwrite ? Existing::kReplace : Existing::kKeep;
  if (!folder && control.overwrite && fs::exists(target)) expect_replaceable(target.string(), kind, output);
  for (Shard& shard : shards) shard.writer->commit(existing);
  if (folder)
    folder->commit(existing, [&](const std::string& old) { expect_replaceable(old, kind, output); });
}

}  // namespace nfloat

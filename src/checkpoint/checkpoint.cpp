// SPDX-License-Identifier: Apache-2.0
#include "nfloat/checkpoint.h"
#include "base/json.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <set>
#include <unordered_map>

#include "base/fail.h"
#include "base/mapped_file.h"
#include "base/string_hash.h"
#include "checkpoint/foreign.h"
#include "checkpoint/gguf_weights.h"
#include "checkpoint/quant_state.h"
#include "checkpoint/safetensors_header.h"
#include "checkpoint/scaled_weights.h"
#include "checkpoint/shard_index.h"

namespace nfloat {
namespace {

namespace fs = std::filesystem;
constexpr uintmax_t kMaxTextBytes = 64 << 20;
constexpr const char* kWholeName = "model.safetensors";
constexpr const char* kIndexName = "model.safetensors.index.json";

std::string read_text(const fs::path& path) {
  std::error_code error;
  if (!fs::exists(path, error)) return {};
  const MappedFile file(path.string());
  // Absent and empty would be the same to whoever asks.
  if (file.bytes().empty() && path.extension() == ".json") return "\n";
  if (file.bytes().size() > kMaxTextBytes) {
    fail(ErrorCode::kMalformedFile, "{}: {} bytes, more than the {} that such a file may have", path.string(),
         file.bytes().size(), kMaxTextBytes);
  }
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

// What to say about a folder without safetensors.
[[noreturn]] void no_safetensors(const fs::path& folder) {
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    const std::string extension = entry.path().extension().string();
    if (extension == ".bin" || extension == ".pth" || extension == ".pt") {
      fail(ErrorCode::kUnsupported,
           "{}: a PyTorch checkpoint ({}), which can run code when it is opened; nfloat reads safetensors. "
           "Convert it once "
           "with Transformers: model.save_pretrained(FOLDER, safe_serialization=True)",
           folder.string(), name);
    }
    if (extension == ".gguf") {
      fail(ErrorCode::kUnsupported, "{}: a folder with a GGUF file; name the file itself ({})",
           folder.string(), name);
    }
  }
  fail(ErrorCode::kNotFound, "{}: no {} and no {} in this folder", folder.string(), kWholeName, kIndexName);
}

}  // namespace

struct Checkpoint::State {
  struct File {
    MappedFile mapped;
    int fd = -1;
    std::map<std::string, std::string> metadata;

    explicit File(const std::string& path) : mapped(path), fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
      if (fd < 0) fail(ErrorCode::kIo, "{}: cannot open: {}", path, std::strerror(errno));
    }
    File(File&& other) noexcept
        : mapped(std::move(other.mapped)),
          fd(std::exchange(other.fd, -1)),
          metadata(std::move(other.metadata)) {}
    ~File() {
      if (fd >= 0) ::close(fd);
    }
  };

  std::string path;
  bool is_folder = false;
  std::vector<std::string> names;
  std::vector<File> files;
  std::vector<TensorInfo> tensors;
  std::unordered_map<std::string, size_t, StringHash, std::equal_to<>> by_name;
  std::unique_ptr<GgufWeights> gguf;  // instead of files
  std::unique_ptr<ScaledWeights> scaled;
  bool list_unknown = false;
  std::map<std::string, std::string> unknown_dtypes;  // by name
  std::vector<UnknownTensor> unknown;
  std::string foreign_method, foreign_refusal;

  const TensorInfo* find(std::string_view name) const noexcept {
    const auto found = by_name.find(name);
    return found == by_name.end() ? nullptr : &tensors[found->second];
  }
  std::string text_file(const std::string& name) const {
    if (!gguf) return is_folder ? read_text(fs::path(path) / name) : std::string();
    const auto found = gguf->texts().find(name);
    return found == gguf->texts().end() ? std::string() : found->second;
  }

  // Codes and scales that other programs wrote become values.
  void show_values(const CheckpointOptions& options) {
    Foreign foreign =
        recognize_foreign({tensors, [&](std::string_view name) { return find(name); },
                           [&](const std::string& name) { return text_file(name); }, options.keep_mxfp4});
    foreign_method = std::move(foreign.method);
    foreign_refusal = std::move(foreign.refusal);
    if (foreign.scaled.empty() && foreign.companions.empty()) return;
    scaled = std::make_unique<ScaledWeights>(std::move(tensors), std::move(foreign), options.decoded);
    tensors = scaled->shown();
    index_names();
  }
  void index_names() {
    by_name.clear();
    for (size_t i = 0; i < tensors.size(); ++i) by_name.emplace(tensors[i].name, i);
  }
  // Once every file is open and its names are checked.
  void set_unknown_aside() {
    std::erase_if(tensors, [&](TensorInfo& tensor) {
      const auto found = unknown_dtypes.find(tensor.name);
      if (found == unknown_dtypes.end()) return false;
      unknown.push_back({tensor.name, found->second, tensor.shape, tensor.bytes});
      return true;
    });
    index_names();
  }
  const ScaledTensor* find_scaled(std::string_view name) const noexcept {
    return scaled ? scaled->find(name) : nullptr;
  }

  TensorView stored_view(const TensorInfo& info) const {
    return {info.dtype, info.shape, files[info.file].mapped.bytes().subspan(info.offset, info.bytes)};
  }
  void read_stored(const TensorInfo& info, uint64_t begin, std::span<std::byte> output) const {
    const File& file = files[info.file];
    uint64_t offset = info.offset + begin;
    while (!output.empty()) {
      const ssize_t got = ::pread(file.fd, output.data(), output.size(), static_cast<off_t>(offset));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) {
        fail(ErrorCode::kIo, "{}: tensor '{}': cannot read at byte {}: {}", names[info.file], info.name,
             offset, got == 0 ? "the file has become shorter" : std::strerror(errno));
      }
      output = output.subspan(static_cast<size_t>(got));
      offset += static_cast<uint64_t>(got);
    }
  }
  void release(const TensorView& view) const noexcept {
    for (const File& file : files) {
      const std::span<const std::byte> all = file.mapped.bytes();
      if (view.bytes.data() >= all.data() && view.bytes.data() < all.data() + all.size())
        file.mapped.release(view.bytes);
    }
  }
  void read_scaled(const TensorInfo& info, const ScaledTensor& tensor, uint64_t begin,
                   std::span<std::byte> output) const {
    scaled->read(info, tensor, begin, output,
                 {[&](const TensorInfo& stored) { return stored_view(stored); },
                  [&](const TensorInfo& stored, uint64_t from, std::span<std::byte> bytes) {
                    read_stored(stored, from, bytes);
                  },
                  [&](const TensorView& view) { release(view); }});
  }

  void open_gguf(const std::string& file_path, const CheckpointOptions& options) {
    gguf = std::make_unique<GgufWeights>(file_path, options);
    is_folder = true;
    names = gguf->files();
    tensors = gguf->tensors();
    for (size_t i = 0; i < tensors.size(); ++i)
      if (!by_name.emplace(tensors[i].name, i).second)
        fail(ErrorCode::kMalformedFile, "{}: two tensors are '{}' to Hugging Face", file_path,
             tensors[i].name);
  }
  bool is_packed(std::string_view name) const noexcept {
    const auto found = by_name.find(name);
    return gguf != nullptr && found != by_name.end() && gguf->is_packed(found->second);
  }

  void add_file(const std::string& file_path) {
    File& file = files.emplace_back(file_path);
    names.push_back(file_path);
    const std::span<const std::byte> bytes = file.mapped.bytes();
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    SafetensorsHeader header = parse_safetensors_header(text, bytes.size(), file_path, list_unknown);
    unknown_dtypes.merge(header.unknown);
    file.metadata = std::move(header.metadata);
    for (TensorInfo& tensor : header.tensors) {
      tensor.file = files.size() - 1;
      if (!by_name.emplace(tensor.name, tensors.size()).second) {
        fail(ErrorCode::kMalformedFile, "{}: tensor '{}' is in {} too", file_path, tensor.name,
             names[tensors[by_name.find(tensor.name)->second].file]);
      }
      tensors.push_back(std::move(tensor));
    }
    file.mapped.release(bytes);
  }

  void open_shards(const fs::path& folder) {
    const fs::path index_path = folder / kIndexName;
    const auto index = parse_shard_index(read_text(index_path), index_path.string());
    std::set<std::string> shards;
    for (const auto& [tensor, shard] : index) shards.insert(shard);
    for (const std::string& shard : shards) {
      std::error_code error;
      if (!fs::exists(folder / shard, error)) {
        fail(ErrorCode::kNotFound, "{}: shard {} is missing: the index names {} of them", folder.string(),
             shard, shards.size());
      }
      add_file((folder / shard).string());
    }
    for (const auto& [tensor, shard] : index) {
      const auto found = by_name.find(tensor);
      if (found == by_name.end()) {
        fail(ErrorCode::kMalformedFile, "{}: tensor '{}' should be in {}, which does not have it",
             index_path.string(), tensor, shard);
      }
      const std::string& actual = names[tensors[found->second].file];
      if (fs::path(actual).filename() != shard) {
        fail(ErrorCode::kMalformedFile, "{}: tensor '{}' should be in {}, but is in {}", index_path.string(),
             tensor, shard, actual);
      }
    }
    for (const TensorInfo& tensor : tensors) {
      if (!index.contains(tensor.name)) {
        fail(ErrorCode::kMalformedFile, "{}: tensor '{}' of {} is not in the index", index_path.string(),
             tensor.name, names[tensor.file]);
      }
    }
  }

  void open_folder(const fs::path& folder) {
    // In this order, as Transformers: an index beside a whole file was left over.
    if (fs::exists(folder / kWholeName)) return add_file((folder / kWholeName).string());
    if (fs::exists(folder / kIndexName)) return open_shards(folder);
    std::vector<fs::path> others;
    for (const auto& entry : fs::directory_iterator(folder)) {
      if (entry.path().extension() == ".safetensors") others.push_back(entry.path());
    }
    if (others.empty()) no_safetensors(folder);
    if (others.size() > 1) {
      fail(ErrorCode::kNotFound, "{}: {} safetensors files and no {} to tell which belong together",
           folder.string(), others.size(), kIndexName);
    }
    add_file(others.front().string());
  }
};

Checkpoint::Checkpoint(const std::string& path, const CheckpointOptions& options)
    : state_(std::make_unique<State>()) {
  state_->path = path;
  state_->list_unknown = options.list_unknown;
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) fail(ErrorCode::kNotFound, "{}: no such file or folder", path);
  state_->is_folder = fs::is_directory(status);
  try {
    if (!state_->is_folder && is_gguf_path(path)) {
      state_->open_gguf(path, options);
    } else if (state_->is_folder) {
      state_->open_folder(path);
    } else {
      state_->add_file(path);
    }
    if (!state_->unknown_dtypes.empty())
      state_->set_unknown_aside();
    else if (!state_->gguf)
      state_->show_values(options);
  } catch (const fs::filesystem_error& failure) {
    fail(ErrorCode::kIo, "{}: {}", path, failure.code().message());
  }
}

Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;
Checkpoint& Checkpoint::operator=(Checkpoint&&) noexcept = default;
Checkpoint::~Checkpoint() = default;

const std::string& Checkpoint::path() const noexcept {
  return state_->path;
}
bool Checkpoint::is_folder() const noexcept {
  return state_->is_folder;
}
bool Checkpoint::is_gguf() const noexcept {
  return state_->gguf != nullptr;
}
const std::vector<std::string>& Checkpoint::files() const noexcept {
  return state_->names;
}
const std::vector<TensorInfo>& Checkpoint::tensors() const noexcept {
  return state_->tensors;
}

const TensorInfo* Checkpoint::find(std::string_view name) const noexcept {
  return state_->find(name);
}
const std::vector<UnknownTensor>& Checkpoint::unknown() const noexcept {
  return state_->unknown;
}
const std::string& Checkpoint::foreign_method() const noexcept {
  return state_->foreign_method;
}
const std::string& Checkpoint::foreign_refusal() const noexcept {
  return state_->foreign_refusal;
}

const std::map<std::string, std::string>& Checkpoint::metadata(size_t file) const {
  static const std::map<std::string, std::string> kNone;
  return is_gguf() ? kNone : state_->files.at(file).metadata;
}

TensorView Checkpoint::view(std::string_view name) const {
  const TensorInfo* info = find(name);
  if (info == nullptr) fail(ErrorCode::kNotFound, "{}: no tensor '{}'", path(), name);
  return view(*info);
}

TensorView Checkpoint::view(const TensorInfo& info) const {
  if (is_gguf()) return state_->gguf->view(state_->by_name.find(info.name)->second);
  const ScaledTensor* scaled = state_->find_scaled(info.name);
  if (scaled == nullptr) return state_->stored_view(info);
  const auto values = std::make_shared<Buffer>(info.bytes);
  state_->read_scaled(info, *scaled, 0, values->span());
  return {info.dtype, info.shape, values->span(), values};
}

std::vector<std::string> Checkpoint::companions(std::string_view name) const {
  std::vector<std::string> found;
  const std::string base(name);
  for (std::string_view suffix :
       {kAbsmaxSuffix, kQuantMapSuffix, kNestedAbsmaxSuffix, kNestedQuantMapSuffix}) {
    if (find(base + std::string(suffix)) != nullptr) found.push_back(base + std::string(suffix));
  }
  for (const char* type : {"nf4", "fp4"}) {
    const std::string state = base + std::string(kQuantStateSuffix) + type;
    if (find(state) != nullptr) found.push_back(state);
  }
  return found;
}

bool Checkpoint::is_quantized(std::string_view name) const noexcept {
  if (is_gguf()) return state_->is_packed(name);
  const std::string base = std::string(name) + std::string(kQuantStateSuffix);
  return find(name) != nullptr && (find(base + "nf4") != nullptr || find(base + "fp4") != nullptr);
}

QuantizedView Checkpoint::quantized(std::string_view name) const {
  if (state_->is_packed(name)) return state_->gguf->packed(state_->by_name.find(name)->second);
  const std::string base(name);
  const std::string nf4 = base + std::string(kQuantStateSuffix) + "nf4";
  const std::string fp4 = base + std::string(kQuantStateSuffix) + "fp4";
  const TensorInfo* info = find(nf4) != nullptr ? find(nf4) : find(fp4);
  if (find(name) == nullptr || info == nullptr) {
    fail(ErrorCode::kNotFound, "{}: no quantized tensor '{}'", path(), name);
  }
  const std::string where = fmt::format("{}: '{}'", state_->names[info->file], info->name);
  const auto bad = [&]<typename... Args>(fmt::format_string<Args...> format, Args&&... args) {
    throw Error(ErrorCode::kMalformedFile, fmt::format("{}: '{}': ", state_->names[info->file], base) +
                                               fmt::format(format, std::forward<Args>(args)...));
  };
  if (find(nf4) != nullptr && find(fp4) != nullptr) bad("has the quant_state of nf4 and of fp4");

  const TensorView json = view(*info);
  const QuantState parsed =
      parse_quant_state({reinterpret_cast<const char*>(json.bytes.data()), json.bytes.size()}, where);
  if (info->name != base + std::string(kQuantStateSuffix) + parsed.quant_type) {
    bad("the quant_state of '{}' says quant_type '{}'", info->name, parsed.quant_type);
  }
  QuantizedView result;
  result.quant_type = parsed.quant_type;
  result.dtype = parsed.dtype;
  result.shape = parsed.shape;
  result.block_size = parsed.block_size;
  result.nested = parsed.nested;
  result.nested_block_size = parsed.nested_block_size;
  result.nested_offset = parsed.nested_offset;

  // A companion by suffix, with the dtype and number of elements that it must have.
  const auto companion = [&](std::string_view suffix, DType dtype, int64_t elements) {
    const TensorInfo* found = find(base + std::string(suffix));
    if (found == nullptr) bad("the companion '{}' is missing", base + std::string(suffix));
    if (found->dtype != dtype || found->shape.elements() != elements) {
      bad("'{}' is {} {}, expected {} [{}]", found->name, dtype_name(found->dtype), found->shape.to_string(),
          dtype_name(dtype), elements);
    }
    return view(*found);
  };
  const int64_t elements = result.shape.elements();
  const int64_t blocks = elements / result.block_size + (elements % result.block_size != 0 ? 1 : 0);
  result.codes = view(name);
  const auto code_bytes = static_cast<uint64_t>((elements + 1) / 2);
  if (result.codes.bytes.size() != code_bytes) {
    bad("{} bytes of codes, shape {} needs {}", result.codes.bytes.size(), result.shape.to_string(),
        code_bytes);
  }
  result.quant_map = companion(kQuantMapSuffix, DType::kF32, 16);
  result.absmax = companion(kAbsmaxSuffix, result.nested ? DType::kU8 : DType::kF32, blocks);
  if (result.nested) {
    const int64_t nested_blocks =
        blocks / result.nested_block_size + (blocks % result.nested_block_size != 0 ? 1 : 0);
    result.nested_absmax = companion(kNestedAbsmaxSuffix, DType::kF32, nested_blocks);
    result.nested_quant_map = companion(kNestedQuantMapSuffix, DType::kF32, 256);
  }
  return result;
}

std::string Checkpoint::stored_type(std::string_view name) const {
  const TensorInfo* info = find(name);
  if (info == nullptr) fail(ErrorCode::kNotFound, "{}: no tensor '{}'", path(), name);
  if (is_gguf()) return std::string(state_->gguf->stored_type(state_->by_name.find(name)->second));
  if (const ScaledTensor* scaled = state_->find_scaled(name))
    return std::string(state_->scaled->stored_type(*scaled));
  return is_quantized(name) ? quantized(name).quant_type : std::string(dtype_name(info->dtype));
}

uint64_t Checkpoint::stored_bytes(std::string_view name) const {
  const TensorInfo* info = find(name);
  if (info == nullptr) fail(ErrorCode::kNotFound, "{}: no tensor '{}'", path(), name);
  if (const ScaledTensor* scaled = state_->find_scaled(name)) return state_->scaled->stored_bytes(*scaled);
  uint64_t bytes = info->bytes;
  if (is_quantized(name))
    for (const std::string& companion : companions(name)) bytes += find(companion)->bytes;
  return bytes;
}

Shape Checkpoint::weight_shape(std::string_view name) const {
  const TensorInfo* info = find(name);
  if (info == nullptr) fail(ErrorCode::kNotFound, "{}: no tensor '{}'", path(), name);
  if (!is_quantized(name)) return info->shape;
  return is_gguf() ? state_->gguf->packed_shape(state_->by_name.find(name)->second) : quantized(name).shape;
}

std::vector<std::string> Checkpoint::weight_names() const {
  std::set<std::string> hidden;
  for (const TensorInfo& tensor : tensors()) {
    const size_t mark = tensor.name.find(kQuantStateSuffix);
    if (mark == std::string::npos || find(tensor.name.substr(0, mark)) == nullptr) continue;
    for (std::string& companion : companions(tensor.name.substr(0, mark)))
      hidden.insert(std::move(companion));
  }
  std::vector<std::string> names;
  for (const TensorInfo& tensor : tensors()) {
    if (!hidden.contains(tensor.name)) names.push_back(tensor.name);
  }
  return names;
}

std::string Checkpoint::text_file(const std::string& name) const {
  const fs::path file(name);
  if (file.is_absolute() || name.find('\0') != std::string::npos ||
      std::find(file.begin(), file.end(), "..") != file.end())
    fail(ErrorCode::kInvalidArgument, "'{}' is not a name inside {}", name, path());
  return state_->text_file(name);
}

std::vector<std::string> Checkpoint::made_files() const {
  std::vector<std::string> made;
  if (is_gguf())
    for (const auto& [name, text] : state_->gguf->texts()) made.push_back(name);
  return made;
}

void Checkpoint::read(const TensorInfo& info, uint64_t begin, std::span<std::byte> output) const {
  if (begin > info.bytes || output.size() > info.bytes - begin) {
    fail(ErrorCode::kInvalidArgument, "{}: tensor '{}': bytes {} to {} of {}", path(), info.name, begin,
         begin + output.size(), info.bytes);
  }
  if (is_gguf()) return state_->gguf->read(state_->by_name.find(info.name)->second, begin, output);
  const ScaledTensor* scaled = state_->find_scaled(info.name);
  if (scaled == nullptr) return state_->read_stored(info, begin, output);
  state_->read_scaled(info, *scaled, begin, output);
}

void Checkpoint::release(const TensorView& view) const noexcept {
  if (is_gguf()) return state_->gguf->release(view);
  state_->release(view);
}

void Checkpoint::prefetch(const TensorView& view) const noexcept {
  for (const State::File& file : state_->files) {
    const std::span<const std::byte> all = file.mapped.bytes();
    if (view.bytes.data() >= all.data() && view.bytes.data() < all.data() + all.size())
      file.mapped.prefetch(view.bytes);
  }
}

void Checkpoint::expect_places() const noexcept {
  if (is_gguf()) return;
  for (const State::File& file : state_->files) file.mapped.expect_places();
}

}  // namespace nfloat

// SPDX-License-Identifier: Apache-2.0
// A line that says what is calibrated, then a record a layer: a line of JSON, behind it codes, scales and
// second-level scales of its tensors, then the rows of its matrices in llama.cpp's blocks.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <type_traits>

#include "base/fail.h"
#include "base/fnv.h"
#include "base/hold.h"
#include "base/json.h"
#include "base/mapped_file.h"
#include "nfloat/calibrate.h"

namespace nfloat {
namespace {

constexpr std::string_view kFirstLine = "nfloat calibration 1: ";
constexpr size_t kMostLine = size_t{1} << 24;

std::string_view text_of(std::span<const std::byte> bytes) noexcept {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// What stands behind the line of a layer for each of its tensors; of a constant one constant.
template <typename Tensor>
auto parts_of(Tensor& tensor) noexcept {
  const auto bytes = [](auto& values) {
    if constexpr (std::is_const_v<Tensor>)
      return std::as_bytes(std::span(values));
    else
      return std::as_writable_bytes(std::span(values));
  };
  return std::array{bytes(tensor.codes), bytes(tensor.nested.codes), bytes(tensor.nested.absmax)};
}

// Appends to the file behind a descriptor.
class Appender {
 public:
  Appender(int descriptor, const std::string& path) noexcept : descriptor_(descriptor), path_(path) {}

  // Throw kIo.
  void write(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) give_up();
      bytes = bytes.subspan(static_cast<size_t>(written));
      written_ += static_cast<uint64_t>(written);
    }
  }
  uint64_t written() const noexcept { return written_; }
  void sync() {
    if (::fdatasync(descriptor_) != 0) give_up();
  }

 private:
  [[noreturn]] void give_up() const {
    fail(ErrorCode::kIo, "{}: cannot write: {}", path_, std::strerror(errno));
  }

  const int descriptor_;
  const std::string& path_;
  uint64_t written_ = 0;
};

// Makes room for what a tensor of this shape has; false: no tensor has it.
bool make_room(QuantizedTensor& tensor, const std::vector<int64_t>& dims, uint64_t bytes_left) {
  if (dims.size() != 2 || dims[0] <= 0 || dims[1] <= 0 || tensor.block_size < kMinBlockSize) return false;
  if (static_cast<uint64_t>(dims[0]) > 2 * bytes_left / static_cast<uint64_t>(dims[1])) return false;
  tensor.shape = {dims[0], dims[1]};
  const auto blocks = static_cast<size_t>(tensor.blocks());
  tensor.codes.resize(static_cast<size_t>((tensor.elements() + 1) / 2));
  tensor.nested.codes.resize(blocks);
  tensor.nested.absmax.resize((blocks + kNestedBlockSize - 1) / kNestedBlockSize);
  return true;
}

bool make_room(GgufMatrix& matrix, uint64_t bytes_left) {
  const GgufTypeInfo& info = gguf_type_info(matrix.type);
  const auto block_bytes = static_cast<uint64_t>(info.block_bytes);
  if (matrix.rows <= 0 || matrix.columns <= 0 || matrix.columns % info.block_elements != 0) return false;
  const uint64_t blocks = static_cast<uint64_t>(matrix.columns / info.block_elements);
  if (blocks > bytes_left / block_bytes ||
      static_cast<uint64_t>(matrix.rows) > bytes_left / (blocks * block_bytes))
    return false;
  matrix.bytes.resize(static_cast<uint64_t>(matrix.rows) * blocks * block_bytes);
  return true;
}

// Fills `part` from the head of `bytes`; false: there is less.
bool take_part(std::span<const std::byte>& bytes, std::span<std::byte> part, uint64_t& hash) {
  if (part.size() > bytes.size()) return false;
  if (!part.empty()) std::memcpy(part.data(), bytes.data(), part.size());
  hash = fnv(part, hash);
  bytes = bytes.subspan(part.size());
  return true;
}

// The line that begins at the head of `bytes`, taken off them; empty when there is none.
std::string_view take_line(std::span<const std::byte>& bytes) {
  const std::string_view view = text_of(bytes).substr(0, kMostLine);
  const size_t end = view.find('\n');
  if (end == std::string_view::npos) return {};
  bytes = bytes.subspan(end + 1);
  return view.substr(0, end);
}

// The record at the head of `bytes`, taken off them; false when it is not whole.
bool take_layer(std::span<const std::byte>& bytes, const std::string& path,
                const QuantizeCheckpointOptions& quantize, const Codebook& codebook, CalibratedLayer& layer) {
  const std::string_view line = take_line(bytes);
  if (line.empty()) return false;
  uint64_t hash = kFnvStart;
  std::string expected;
  try {
    const Json record = parse_json_object(line, path);
    expected = record["hash"].get<std::string>();
    layer.kept_plain = record["kept_plain"].get<int64_t>();
    layer.loss = record["loss"].get<double>();
    layer.plain_loss = record["plain_loss"].get<double>();
    for (const Json& entry : record["tensors"]) {
      QuantizedTensor& tensor = layer.tensors[entry["name"].get<std::string>()];
      std::vector<int64_t> dims;
      for (const Json& dim : entry["shape"]) dims.push_back(dim.get<int64_t>());
      tensor.codebook = codebook;
      tensor.block_size = quantize.block_size_of(entry["name"].get<std::string>());
      if (!parse_dtype(entry["dtype"].get<std::string>(), &tensor.dtype)) return false;
      if (!make_room(tensor, dims, bytes.size())) return false;
      for (const std::span<std::byte> part : parts_of(tensor))
        if (!take_part(bytes, part, hash)) return false;
    }
    for (const Json& entry : record["blocks"]) {
      GgufMatrix& matrix = layer.blocks[entry["name"].get<std::string>()];
      const GgufTypeInfo* type = find_gguf_type(entry["type"].get<std::string>());
      if (type == nullptr) return false;
      matrix.type = type->type;
      matrix.rows = entry["rows"].get<int64_t>();
      matrix.columns = entry["columns"].get<int64_t>();
      if (!make_room(matrix, bytes.size()) || !take_part(bytes, matrix.bytes, hash)) return false;
    }
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kMalformedFile) throw;
    return false;
  }
  return fmt::format("{:016x}", hash) == expected;
}

// What is written into it, cut off it and removed would be another's: of a file with several names, too.
void expect_own_kind(const std::string& path, const struct stat& there) {
  const char* what = S_ISLNK(there.st_mode)    ? "a link"
                     : !S_ISREG(there.st_mode) ? "not a regular file"
                     : there.st_nlink > 1      ? "a file with other names (hard links)"
                                               : nullptr;
  if (what != nullptr)
    fail(ErrorCode::kAlreadyExists, "{}: is {}, and no state of a calibration is kept there: move it away",
         path, what);
}

// The file, opened for reading and appending by this object alone until the last copy goes; null where there
// is none and none is to be made.
std::shared_ptr<const int> open_alone(const std::string& path, bool make) {
  const auto open = [&] {
    // Opening a device could do something, and a pipe with O_RDWR takes what is written; neither is waited
    // for.
    struct stat there {};
    if (::lstat(path.c_str(), &there) == 0) expect_own_kind(path, there);
    const int fd =
        ::open(path.c_str(), O_RDWR | O_APPEND | O_CLOEXEC | O_NOFOLLOW | (make ? O_CREAT : 0), 0666);
    if (fd < 0 && errno == ENOENT && !make) return kNothingToHold;
    if (fd < 0 && errno == ELOOP) return kOpenAgain;  // looked at above
    if (fd < 0) fail(ErrorCode::kIo, "{}: cannot write: {}", path, std::strerror(errno));
    return fd;
  };
  return hold(path, Hold::kAlone, open,
              "another calibration to the same output is at work with this file: wait for its end, or name "
              "another output");
}

}  // namespace

CalibrationFile::CalibrationFile(const std::string& path, const std::string& key,
                                 const QuantizeCheckpointOptions& quantize)
    : path_(path), quantize_(quantize), file_(open_alone(path, true)) {
  const std::string first = fmt::format("{}{}\n", kFirstLine, key);
  uint64_t whole = 0;
  if (std::filesystem::file_size(path) > 0) {
    const MappedFile file(path);
    std::span<const std::byte> bytes = file.bytes();
    const std::string_view line = take_line(bytes);
    const bool torn = line.empty() && first.starts_with(text_of(bytes));
    if (!torn && !line.starts_with(kFirstLine))
      fail(ErrorCode::kMalformedFile, "{}: is not the state of a calibration", path);
    if (!torn && line.substr(kFirstLine.size()) != key)
      fail(ErrorCode::kAlreadyExists,
           "{}: is the state of another calibration ({}, this one is {}): finish that one, or begin afresh",
           path, line.substr(kFirstLine.size()), key);
    if (!torn) whole = first.size();
    const Codebook codebook = make_codebook(quantize.format);
    for (CalibratedLayer layer; take_layer(bytes, path, quantize, codebook, layer); layer = {}) {
      add(layer, whole);
      whole = file.bytes().size() - bytes.size();
    }
  }
  cut_to(whole);
  end_ = whole;
  if (whole > 0) return;
  try {
    Appender file(*file_, path_);
    file.write(std::as_bytes(std::span(first)));
    file.sync();
  } catch (const Error&) {
    remove();  // it says nothing yet
    throw;
  }
  end_ = first.size();
}

void CalibrationFile::cut_to(uint64_t bytes) const {
  if (::ftruncate(*file_, static_cast<off_t>(bytes)) != 0)
    fail(ErrorCode::kIo, "{}: cannot write: {}", path_, std::strerror(errno));
}

void CalibrationFile::add(const CalibratedLayer& layer, uint64_t begin) {
  for (const auto& [name, tensor] : layer.tensors) places_[name] = layers();
  for (const auto& [name, matrix] : layer.blocks) places_[name] = layers();
  records_.push_back(begin);
}

CalibratedLayer CalibrationFile::layer(int64_t index) const {
  const MappedFile file(path_);
  std::span<const std::byte> bytes = file.bytes();
  const auto begin = static_cast<size_t>(records_.at(static_cast<size_t>(index)));
  CalibratedLayer layer;
  bytes = begin < bytes.size() ? bytes.subspan(begin) : std::span<const std::byte>();
  if (!take_layer(bytes, path_, quantize_, make_codebook(quantize_.format), layer))
    fail(ErrorCode::kMalformedFile, "{}: was changed while it was in use", path_);
  return layer;
}

std::shared_ptr<const CalibratedLayer> CalibrationFile::layer_of(const std::string& name) const {
  const auto place = places_.find(name);
  if (place == places_.end()) return nullptr;
  const std::lock_guard lock(mutex_);
  if (at_hand_ != place->second) {
    layer_at_hand_ = std::make_shared<const CalibratedLayer>(layer(place->second));
    at_hand_ = place->second;
  }
  return layer_at_hand_;
}

std::shared_ptr<const QuantizedTensor> CalibrationFile::tensor(const std::string& name) const {
  const auto layer = layer_of(name);
  if (layer == nullptr || !layer->tensors.contains(name)) return nullptr;
  return {layer, &layer->tensors.at(name)};
}

std::shared_ptr<const GgufMatrix> CalibrationFile::blocks(const std::string& name) const {
  const auto layer = layer_of(name);
  if (layer == nullptr || !layer->blocks.contains(name)) return nullptr;
  return {layer, &layer->blocks.at(name)};
}

void CalibrationFile::append(const CalibratedLayer& layer) {
  Json record;
  uint64_t hash = kFnvStart;
  record["kept_plain"] = layer.kept_plain;
  record["loss"] = layer.loss;
  record["plain_loss"] = layer.plain_loss;
  record["tensors"] = Json::array();
  for (const auto& [name, tensor] : layer.tensors) {
    Json entry;
    entry["name"] = name;
    entry["shape"] = tensor.shape.dims();
    entry["dtype"] = dtype_name(tensor.dtype);
    record["tensors"].push_back(std::move(entry));
    for (const std::span<const std::byte> part : parts_of(tensor)) hash = fnv(part, hash);
  }
  record["blocks"] = Json::array();
  for (const auto& [name, matrix] : layer.blocks) {
    Json entry;
    entry["name"] = name;
    entry["type"] = gguf_type_info(matrix.type).name;
    entry["rows"] = matrix.rows;
    entry["columns"] = matrix.columns;
    record["blocks"].push_back(std::move(entry));
    hash = fnv(std::span<const std::byte>(matrix.bytes), hash);
  }
  record["hash"] = fmt::format("{:016x}", hash);
  try {
    Appender file(*file_, path_);
    const std::string line = record.dump() + "\n";
    file.write(std::as_bytes(std::span(line)));
    for (const auto& [name, tensor] : layer.tensors)
      for (const std::span<const std::byte> part : parts_of(tensor)) file.write(part);
    for (const auto& [name, matrix] : layer.blocks) file.write(matrix.bytes);
    file.sync();
    add(layer, end_);
    end_ += file.written();
  } catch (const Error&) {
    cut_to(end_);  // of a full disk, a torn record would keep it full
    throw;
  }
}

void CalibrationFile::discard(const std::string& path) {
  const std::shared_ptr<const int> alone = open_alone(path, false);
  if (alone == nullptr) return;
  if (std::filesystem::file_size(path) > 0) {
    const MappedFile file(path);
    const std::string_view there = text_of(file.bytes());
    if (!there.starts_with(kFirstLine) && !kFirstLine.starts_with(there))
      fail(ErrorCode::kMalformedFile, "{}: is not the state of a calibration, and is not removed", path);
  }
  std::error_code error;
  std::filesystem::remove(path, error);
  if (error) fail(ErrorCode::kIo, "{}: cannot remove: {}", path, error.message());
}

void CalibrationFile::remove() noexcept {
  struct stat ours {
  }, named{};
  if (::fstat(*file_, &ours) == 0 && ::lstat(path_.c_str(), &named) == 0 && ours.st_ino == named.st_ino &&
      ours.st_dev == named.st_dev)
    ::unlink(path_.c_str());
}

std::string checkpoint_fingerprint(const Checkpoint& checkpoint) {
  constexpr size_t kSample = 4096;
  uint64_t hash = fnv(checkpoint.text_file("config.json"));
  for (const std::string& name : checkpoint.weight_names()) {
    const TensorInfo* info = checkpoint.find(name);
    hash = fnv(name, hash);
    if (info == nullptr) continue;
    const TensorView view = checkpoint.view(name);
    const auto bytes = view.bytes;
    const size_t sample = std::min(kSample, bytes.size());
    hash = fnv(fmt::format("{}{}", dtype_name(view.dtype), bytes.size()), hash);
    hash = fnv(bytes.first(sample), hash);
    hash = fnv(bytes.last(sample), hash);
  }
  return fmt::format("{:016x}", hash);
}

}  // namespace nfloat

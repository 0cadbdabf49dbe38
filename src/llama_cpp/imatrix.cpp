// SPDX-License-Identifier: Apache-2.0
// Importance matrices as files. GGUF: of each matrix the tensors NAME.in_sum2 and NAME.counts. The older
// form, little endian: a count of entries; of each the length of its name, the name, a number of calls, a
// number of values, and the values: mean squares times calls; then the calls of all and the name of the text.
#include "nfloat/imatrix.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "base/atomic_file.h"
#include "base/fail.h"
#include "base/mapped_file.h"
#include "gguf/writer.h"
#include "nfloat/gguf.h"

namespace nfloat {
namespace {

constexpr std::string_view kSums = ".in_sum2", kCounts = ".counts";
constexpr uint32_t kMostEntries = 1 << 20, kMostName = 1 << 12;

void expect_sound(const std::string& path, const std::string& name, const ColumnImportance& found) {
  const auto bad = [](float value) { return !std::isfinite(value) || value < 0; };
  if (std::any_of(found.sums.begin(), found.sums.end(), bad) ||
      std::any_of(found.counts.begin(), found.counts.end(), bad))
    fail(ErrorCode::kMalformedFile, "{}: '{}' has a value that is no sum of squares", path, name);
}

std::vector<float> floats_of(const GgufFile& file, const GgufTensor& tensor, const std::string& path) {
  if (tensor.type != GgufType::kF32)
    fail(ErrorCode::kMalformedFile, "{}: '{}' is {}, expected F32", path, tensor.name,
         gguf_type_info(tensor.type).name);
  std::vector<float> values(static_cast<size_t>(tensor.shape.elements()));
  const auto bytes = file.bytes(tensor);
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

ImportanceMatrix read_gguf(const std::string& path) {
  const GgufFile file(path);
  ImportanceMatrix result;
  if (const std::string type = file.text_or("general.type", "imatrix"); type != "imatrix")
    fail(ErrorCode::kMalformedFile, "{}: general.type is '{}', expected an imatrix", path, type);
  result.chunks = static_cast<uint32_t>(file.integer_or("imatrix.chunk_count", 0));
  result.chunk_tokens = static_cast<uint32_t>(file.integer_or("imatrix.chunk_size", 0));
  for (const GgufTensor& tensor : file.tensors()) {
    if (!tensor.name.ends_with(kSums)) continue;
    const std::string name = tensor.name.substr(0, tensor.name.size() - kSums.size());
    const GgufTensor* counts = file.find(name + std::string(kCounts));
    if (counts == nullptr)
      fail(ErrorCode::kMalformedFile, "{}: '{}' is without '{}{}'", path, tensor.name, name, kCounts);
    ColumnImportance& found = result.tensors[name];
    found.sums = floats_of(file, tensor, path);
    found.counts = floats_of(file, *counts, path);
    if (found.counts.empty() || found.sums.empty() || found.sums.size() % found.counts.size() != 0)
      fail(ErrorCode::kMalformedFile, "{}: '{}' has {} sums for {} counts", path, name, found.sums.size(),
           found.counts.size());
    expect_sound(path, name, found);
  }
  return result;
}

// What is left of the older form's bytes.
class OldReader {
 public:
  OldReader(std::span<const std::byte> bytes, const std::string& path) : bytes_(bytes), path_(path) {}

  bool empty() const noexcept { return bytes_.empty(); }
  std::span<const std::byte> take(size_t count) {
    if (count > bytes_.size())
      fail(ErrorCode::kMalformedFile, "{}: is no imatrix file, or ends too early", path_);
    const auto taken = bytes_.first(count);
    bytes_ = bytes_.subspan(count);
    return taken;
  }
  uint32_t number(const char* what, uint32_t least, uint32_t most) {
    int32_t value = 0;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    if (value < 0 || static_cast<uint32_t>(value) < least || static_cast<uint32_t>(value) > most)
      fail(ErrorCode::kMalformedFile, "{}: is no imatrix file: {} is {}", path_, what, value);
    return static_cast<uint32_t>(value);
  }
  std::string text(const char* what, uint32_t least) {
    const auto bytes = take(number(what, least, kMostName));
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

 private:
  std::span<const std::byte> bytes_;
  const std::string& path_;
};

ImportanceMatrix read_old(const std::string& path, std::span<const std::byte> bytes) {
  OldReader reader(bytes, path);
  ImportanceMatrix result;
  constexpr uint32_t kMost = INT32_MAX;
  const uint32_t entries = reader.number("the number of entries", 1, kMostEntries);
  for (uint32_t i = 0; i < entries; ++i) {
    const std::string name = reader.text("the length of a name", 1);
    const uint32_t calls = reader.number("the number of calls", 0, kMost);
    const uint32_t count = reader.number("the number of values", 1, kMost);
    const auto values = reader.take(size_t{count} * sizeof(float));
    ColumnImportance& found = result.tensors[name];
    if (!found.sums.empty()) fail(ErrorCode::kMalformedFile, "{}: '{}' stands twice", path, name);
    found.sums.resize(count);
    std::memcpy(found.sums.data(), values.data(), values.size());
    // The experts of a layer stand behind one another, and how many they are is not said.
    found.counts = {static_cast<float>(calls > 0 ? calls : 1)};
    expect_sound(path, name, found);
  }
  if (!reader.empty()) result.chunks = reader.number("the number of all calls", 0, kMost);
  if (!reader.empty()) result.texts.push_back(reader.text("the length of the text's name", 0));
  return result;
}

void write_gguf(const std::string& path, const ImportanceMatrix& importance, Existing existing) {
  GgufMetadata metadata;
  metadata.text("general.type", "imatrix");
  metadata.texts("imatrix.datasets", importance.texts);
  metadata.u32("imatrix.chunk_count", importance.chunks);
  metadata.u32("imatrix.chunk_size", importance.chunk_tokens);
  std::vector<GgufWriter::Declared> declared;
  std::vector<std::span<const float>> values;
  for (const auto& [name, found] : importance.tensors) {
    const auto matrices = static_cast<int64_t>(found.counts.size());
    const auto columns = static_cast<int64_t>(found.columns());
    declared.push_back({name + std::string(kSums), GgufType::kF32,
                        matrices == 1 ? Shape({columns}) : Shape({matrices, columns})});
    values.emplace_back(found.sums);
    declared.push_back(
        {name + std::string(kCounts), GgufType::kF32, matrices == 1 ? Shape({1}) : Shape({matrices, 1})});
    values.emplace_back(found.counts);
  }
  GgufWriter writer(path, metadata, declared);
  for (size_t i = 0; i < values.size(); ++i) writer.write(i, 0, std::as_bytes(values[i]));
  writer.sync();
  writer.commit(existing);
}

void write_old(const std::string& path, const ImportanceMatrix& importance, Existing existing) {
  AtomicFile file(path);
  const auto number = [&](uint64_t value) {
    const auto small = static_cast<int32_t>(value);
    file.append(std::as_bytes(std::span(&small, 1)));
  };
  const auto calls = std::max(1u, importance.chunks);
  number(importance.tensors.size());
  for (const auto& [name, found] : importance.tensors) {
    number(name.size());
    file.append(name);
    number(calls);
    number(found.sums.size());
    for (size_t matrix = 0; matrix < found.counts.size(); ++matrix) {
      std::vector<float> means = found.means(matrix, found.columns());
      for (float& mean : means) mean *= static_cast<float>(calls);
      file.append(std::as_bytes(std::span(means)));
    }
  }
  number(calls);
  const std::string text = importance.texts.empty() ? std::string() : importance.texts.back();
  number(text.size());
  file.append(text);
  file.commit(existing);
}

}  // namespace

std::vector<float> ColumnImportance::means(size_t matrix, size_t columns) const {
  const size_t matrices = sums.size() / columns;
  const size_t own = matrices == 1 ? 0 : matrix;
  const float count = counts.size() == matrices ? counts[own] : counts[0];
  const auto first = sums.begin() + static_cast<ptrdiff_t>(own * columns);
  std::vector<float> result(first, first + static_cast<ptrdiff_t>(columns));
  if (!(count > 0)) return std::vector<float>(columns, 1.0f);
  for (float& value : result) value /= count;
  return result;
}

ImportanceMatrix read_importance(const std::string& path) {
  const MappedFile file(path);
  constexpr std::string_view kMagic = "GGUF";
  const bool gguf = file.bytes().size() >= kMagic.size() &&
                    std::memcmp(file.bytes().data(), kMagic.data(), kMagic.size()) == 0;
  ImportanceMatrix result = gguf ? read_gguf(path) : read_old(path, file.bytes());
  if (result.tensors.empty()) fail(ErrorCode::kMalformedFile, "{}: has no importance of any matrix", path);
  return result;
}

void expect_importance_output(const std::string& path, bool overwrite) {
  namespace fs = std::filesystem;
  if (!fs::exists(path)) return;
  if (!overwrite) fail(ErrorCode::kAlreadyExists, "{}: exists already", path);
  if (!fs::is_regular_file(path) || fs::file_size(path) == 0) return;
  try {
    read_importance(path);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kIo) throw;
    fail(ErrorCode::kAlreadyExists, "{}: is not replaced: it is no importance matrix", path);
  }
}

void write_importance(const std::string& path, const ImportanceMatrix& importance, bool overwrite) {
  expect_importance_output(path, overwrite);
  const Existing existing = overwrite ? Existing::kReplace : Existing::kKeep;
  path.ends_with(".gguf") ? write_gguf(path, importance, existing) : write_old(path, importance, existing);
}

}  // namespace nfloat

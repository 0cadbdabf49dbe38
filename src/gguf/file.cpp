// SPDX-License-Identifier: Apache-2.0
#include <unordered_map>

#include "base/fail.h"
#include "base/mapped_file.h"
#include "gguf/parse.h"
#include "nfloat/gguf.h"

namespace nfloat {
namespace {

constexpr int64_t kMaxParts = 99999;

// "DIR/name-00002-of-00003.gguf" with another number; empty when the path is not of this kind.
std::string part_path(const std::string& path, int64_t part, int64_t parts) {
  constexpr std::string_view kPattern = "-00001-of-00001.gguf";
  if (path.size() <= kPattern.size()) return {};
  const size_t base = path.size() - kPattern.size();
  for (size_t i = 0; i < kPattern.size(); ++i) {
    const char expected = kPattern[i], found = path[base + i];
    const bool digit = expected == '0' || expected == '1';
    if (digit ? found < '0' || found > '9' : found != expected) return {};
  }
  return fmt::format("{}-{:05}-of-{:05}.gguf", path.substr(0, base), part, parts);
}

}  // namespace

struct GgufFile::State {
  std::vector<MappedFile> mapped;
  std::vector<std::span<const std::byte>> contents;
  std::vector<std::string> names;
  GgufHeader header;  // of the first file, with the tensors of all
  std::unordered_map<std::string_view, size_t> by_name;
  std::unordered_map<std::string_view, size_t> by_key;

  GgufHeader add(std::span<const std::byte> bytes, const std::string& name) {
    GgufHeader parsed = parse_gguf_header(bytes, name);
    for (GgufTensor& tensor : parsed.tensors) tensor.file = contents.size();
    contents.push_back(bytes);
    names.push_back(name);
    return parsed;
  }

  GgufHeader add_mapped(const std::string& name) {
    mapped.emplace_back(name);
    return add(mapped.back().bytes(), name);
  }

  void index() {
    for (size_t i = 0; i < header.metadata.size(); ++i) by_key.emplace(header.metadata[i].key, i);
    for (size_t i = 0; i < header.tensors.size(); ++i) {
      const GgufTensor& tensor = header.tensors[i];
      const auto [other, fresh] = by_name.emplace(tensor.name, i);
      if (!fresh)
        fail(ErrorCode::kMalformedFile, "{}: tensor '{}' is in {} too", names[tensor.file], tensor.name,
             names[header.tensors[other->second].file]);
    }
  }

  static int64_t number_of(const GgufHeader& parsed, std::string_view key) {
    for (const GgufValue& value : parsed.metadata)
      if (value.key == key && !value.is_array && value.is_integer()) return value.integer();
    return 0;
  }
};

GgufFile::GgufFile(const std::string& path) : state_(std::make_unique<State>()) {
  State& state = *state_;
  state.header = state.add_mapped(path);
  const int64_t parts = State::number_of(state.header, "split.count");
  if (parts > 1) {
    if (parts > kMaxParts)
      fail(ErrorCode::kMalformedFile, "{}: split.count is {}, at most {} parts are allowed", path, parts,
           kMaxParts);
    if (part_path(path, 1, parts).empty())
      fail(ErrorCode::kNotFound,
           "{}: one of {} parts, and its name does not end in -00001-of-{:05}.gguf to find the others", path,
           parts, parts);
    const int64_t tensors_total = State::number_of(state.header, "split.tensors.count");
    state.header = {};  // it borrows the file
    state.mapped.clear();
    state.contents.clear();
    state.names.clear();
    for (int64_t part = 0; part < parts; ++part) {
      const std::string name = part_path(path, part + 1, parts);
      GgufHeader parsed = state.add_mapped(name);
      if (State::number_of(parsed, "split.no") != part)
        fail(ErrorCode::kMalformedFile, "{}: split.no is {}, expected {}", name,
             State::number_of(parsed, "split.no"), part);
      if (part == 0) {
        state.header = std::move(parsed);
      } else {
        for (GgufTensor& tensor : parsed.tensors) state.header.tensors.push_back(std::move(tensor));
      }
    }
    if (tensors_total != static_cast<int64_t>(state.header.tensors.size()))
      fail(ErrorCode::kMalformedFile, "{}: split.tensors.count is {}, the {} parts have {} tensors", path,
           tensors_total, parts, state.header.tensors.size());
  }
  state.index();
}

GgufFile::GgufFile(std::span<const std::byte> bytes, const std::string& source)
    : state_(std::make_unique<State>()) {
  state_->header = state_->add(bytes, source);
  state_->index();
}

GgufFile::GgufFile(GgufFile&&) noexcept = default;
GgufFile& GgufFile::operator=(GgufFile&&) noexcept = default;
GgufFile::~GgufFile() = default;

const std::vector<std::string>& GgufFile::files() const noexcept {
  return state_->names;
}
uint32_t GgufFile::version() const noexcept {
  return state_->header.version;
}
uint32_t GgufFile::alignment() const noexcept {
  return state_->header.alignment;
}
const std::vector<GgufValue>& GgufFile::metadata() const noexcept {
  return state_->header.metadata;
}
const std::vector<GgufTensor>& GgufFile::tensors() const noexcept {
  return state_->header.tensors;
}

const GgufValue* GgufFile::find_value(std::string_view key) const noexcept {
  const auto found = state_->by_key.find(key);
  return found == state_->by_key.end() ? nullptr : &state_->header.metadata[found->second];
}

const GgufTensor* GgufFile::find(std::string_view name) const noexcept {
  const auto found = state_->by_name.find(name);
  return found == state_->by_name.end() ? nullptr : &state_->header.tensors[found->second];
}

std::span<const std::byte> GgufFile::bytes(const GgufTensor& tensor) const {
  return state_->contents[tensor.file].subspan(tensor.offset, tensor.bytes);
}

void GgufFile::release(std::span<const std::byte> range) const noexcept {
  for (const MappedFile& file : state_->mapped) {
    const auto all = file.bytes();
    if (range.data() >= all.data() && range.data() < all.data() + all.size()) file.release(range);
  }
}

std::string GgufFile::text_or(std::string_view key, std::string_view otherwise) const {
  const GgufValue* value = find_value(key);
  if (value == nullptr) return std::string(otherwise);
  if (value->is_array || !value->is_text())
    fail(ErrorCode::kMalformedFile, "{}: metadata \"{}\" is {}, expected a text", files()[0], key,
         value->to_string());
  return std::string(value->text());
}

int64_t GgufFile::integer_or(std::string_view key, int64_t otherwise) const {
  const GgufValue* value = find_value(key);
  if (value == nullptr) return otherwise;
  if (value->is_array || value->is_text() || value->is_float())
    fail(ErrorCode::kMalformedFile, "{}: metadata \"{}\" is {}, expected an integer", files()[0], key,
         value->to_string());
  return value->integer();
}

double GgufFile::number_or(std::string_view key, double otherwise) const {
  const GgufValue* value = find_value(key);
  if (value == nullptr) return otherwise;
  if (value->is_array || value->is_text())
    fail(ErrorCode::kMalformedFile, "{}: metadata \"{}\" is {}, expected a number", files()[0], key,
         value->to_string());
  return value->number();
}

}  // namespace nfloat

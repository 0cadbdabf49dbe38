// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/safetensors_writer.h"

#include <algorithm>
#include <array>
#include <numeric>

#include "base/fail.h"
#include "base/json.h"

namespace nfloat {
namespace {

// A header entry. Quoting is JSON's, whatever the name holds.
std::string header_entry(const std::string& name, DType dtype, const Shape& shape, uint64_t begin,
                         uint64_t end) {
  return fmt::format(R"({}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", Json(name).dump(),
                     dtype_name(dtype), fmt::join(shape.dims(), ","), begin, end);
}

constexpr std::string_view kMetadata = R"({"__metadata__":{"format":"pt"})";
constexpr uint64_t kLateNumbersBytes = 3 * 20;  // digits that a late entry's size and offsets can take

}  // namespace

SafetensorsWriter::SafetensorsWriter(const std::string& path, const std::vector<Declared>& tensors,
                                     const std::vector<std::string>& late)
    : file_(path) {
  entries_.resize(tensors.size());
  std::vector<size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), size_t{0});
  // Wide elements first, so that each tensor is aligned to its element; else in the declared order.
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return dtype_bytes(tensors[a].dtype) > dtype_bytes(tensors[b].dtype);
  });
  uint64_t end = 0;
  size_t header_bytes = kMetadata.size() + 1;
  for (size_t index : order) {
    Entry& entry = entries_[index];
    entry.declared = tensors[index];
    entry.offset = end;
    entry.bytes =
        static_cast<uint64_t>(entry.declared.shape.elements()) * dtype_bits(entry.declared.dtype) / 8;
    end += entry.bytes;
    header_bytes +=
        1 + header_entry(entry.declared.name, entry.declared.dtype, entry.declared.shape, entry.offset, end)
                .size();
  }
  for (const std::string& name : late) {
    header_bytes += 1 + header_entry(name, DType::kU8, Shape({0}), 0, 0).size() + kLateNumbersBytes;
    late_[name].declared = {name, DType::kU8, Shape({-1})};
  }
  data_begin_ = 8 + (header_bytes + 7) / 8 * 8;
  end_ = data_begin_ + end;
}

void SafetensorsWriter::write(size_t index, uint64_t begin, std::span<const std::byte> bytes) {
  file_.write_at(data_begin_ + entries_[index].offset + begin, bytes);
}

void SafetensorsWriter::write_late(const std::string& name, std::string_view text) {
  Entry& entry = late_.at(name);
  entry.offset = end_ - data_begin_;
  entry.bytes = text.size();
  entry.declared.shape = Shape({static_cast<int64_t>(text.size())});
  file_.write_at(end_, std::as_bytes(std::span(text)));
  end_ += text.size();
}

void SafetensorsWriter::finish() {
  std::string header(kMetadata);
  const auto add = [&](const Entry& entry) {
    header += ',';
    header += header_entry(entry.declared.name, entry.declared.dtype, entry.declared.shape, entry.offset,
                           entry.offset + entry.bytes);
  };
  for (const Entry& entry : entries_) add(entry);
  for (const auto& [name, entry] : late_) {
    if (entry.declared.shape[0] < 0)
      fail(ErrorCode::kInvalidArgument, "tensor '{}' was declared and not written", name);
    add(entry);
  }
  header += '}';
  header.resize(data_begin_ - 8, ' ');
  std::array<std::byte, 8> length{};
  for (size_t i = 0; i < 8; ++i) length[i] = static_cast<std::byte>(header.size() >> (8 * i) & 0xff);
  file_.write_at(0, length);
  file_.write_at(8, std::as_bytes(std::span(header)));
}

}  // namespace nfloat

// SPDX-License-Identifier: Apache-2.0
#include "convert/check_finite.h"

#include <algorithm>
#include <cstring>

#include "base/fail.h"
#include "convert/stream.h"

namespace nfloat {
namespace {

constexpr uint64_t kChunkBytes = uint64_t{1} << 19;

// The bits that are all set in a NaN or an infinity; 0: the type has neither.
uint64_t mask_of(DType dtype) noexcept {
  switch (dtype) {
    case DType::kF64:
      return 0x7ff0000000000000u;
    case DType::kF32:
    case DType::kC64:  // two of them
      return 0x7f800000u;
    case DType::kF16:
      return 0x7c00u;
    case DType::kBF16:
      return 0x7f80u;
    case DType::kF8E4M3:
      return 0x7fu;
    case DType::kF8E5M2:
      return 0x7cu;
    case DType::kF8E8M0:
      return 0xffu;
    default:
      return 0;
  }
}

template <typename Bits>
NotFinite all_set(std::span<const std::byte> bytes, Bits mask) noexcept {
  NotFinite result;
  const size_t count = bytes.size() / sizeof(Bits);
  constexpr size_t kRun = 256;  // counted without looking for the first
  for (size_t begin = 0; begin < count; begin += kRun) {
    const size_t end = std::min(count, begin + kRun);
    const auto bad = [&](size_t i) {
      Bits bits;
      std::memcpy(&bits, bytes.data() + i * sizeof(Bits), sizeof bits);
      return static_cast<Bits>(bits & mask) == mask;
    };
    int64_t found = 0;
    for (size_t i = begin; i < end; ++i) found += bad(i) ? 1 : 0;
    if (found > 0 && result.count == 0)
      for (size_t i = begin; result.first < 0; ++i)
        if (bad(i)) result.first = static_cast<int64_t>(i);
    result.count += found;
  }
  return result;
}

class FiniteJob : public StreamJob {
 public:
  FiniteJob(const Checkpoint& checkpoint, const TensorInfo& info, NotFinite* result)
      : checkpoint_(checkpoint), info_(info), result_(result) {
    if (mask_of(info.dtype) != 0)
      parts_.resize(static_cast<size_t>((info.bytes + kChunkBytes - 1) / kChunkBytes));
  }

  int64_t next_stage() override {
    if (started_++ == 0) return std::ssize(parts_);
    const int64_t each = info_.dtype == DType::kC64 ? 2 : 1;
    const auto chunk_elements = static_cast<int64_t>(kChunkBytes / dtype_bytes(info_.dtype)) * each;
    for (size_t i = 0; i < parts_.size(); ++i) {
      if (parts_[i].count > 0 && result_->count == 0)
        result_->first = static_cast<int64_t>(i) * chunk_elements + parts_[i].first;
      result_->count += parts_[i].count;
    }
    return 0;
  }

  uint64_t run(int64_t chunk, Scratch& scratch) override {
    const uint64_t begin = static_cast<uint64_t>(chunk) * kChunkBytes;
    const auto bytes = scratch.bytes(0, static_cast<size_t>(std::min(kChunkBytes, info_.bytes - begin)));
    checkpoint_.read(info_, begin, bytes);
    parts_[static_cast<size_t>(chunk)] = not_finite(info_.dtype, bytes);
    return bytes.size();
  }

 private:
  const Checkpoint& checkpoint_;
  const TensorInfo& info_;
  NotFinite* const result_;
  std::vector<NotFinite> parts_;
  int started_ = 0;
};

}  // namespace

NotFinite not_finite(DType dtype, std::span<const std::byte> bytes) noexcept {
  const uint64_t mask = mask_of(dtype);
  if (mask == 0) return {};
  switch (dtype_bytes(dtype)) {
    case 1:
      return all_set(bytes, static_cast<uint8_t>(mask));
    case 2:
      return all_set(bytes, static_cast<uint16_t>(mask));
    default:
      return mask > UINT32_MAX ? all_set(bytes, mask) : all_set(bytes, static_cast<uint32_t>(mask));
  }
}

void check_finite(const Checkpoint& checkpoint, const std::vector<std::string>& names,
                  ConvertProgress progress, const ConvertControl& control, std::vector<Finding>* findings) {
  std::vector<NotFinite> found(names.size());
  run_stream(
      names.size(),
      [&](size_t i) -> std::unique_ptr<StreamJob> {
        return std::make_unique<FiniteJob>(checkpoint, *checkpoint.find(names[i]), &found[i]);
      },
      progress, control);
  for (size_t i = 0; i < names.size(); ++i) {
    if (found[i].count == 0) continue;
    const TensorInfo& info = *checkpoint.find(names[i]);
    const int64_t each = info.dtype == DType::kC64 ? 2 : 1;
    findings->push_back({true, names[i],
                         fmt::format("{} of {} values {} NaN or infinite, the first is element {}",
                                     found[i].count, each * info.shape.elements(),
                                     found[i].count == 1 ? "is" : "are", found[i].first / each)});
  }
}

}  // namespace nfloat

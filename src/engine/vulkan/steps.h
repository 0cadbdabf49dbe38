// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ENGINE_VULKAN_STEPS_H_
#define NFLOAT_ENGINE_VULKAN_STEPS_H_

#include <cstdint>

#include "engine/vulkan/recorder.h"

namespace nfloat::vulkan {

// ceil(count / size).
inline constexpr uint32_t parts_of(uint64_t count, uint64_t size) noexcept {
  return static_cast<uint32_t>((count + size - 1) / size);
}

// One operation on all elements of rows; those that `arguments` does not need are 0.
inline void over_rows(Recorder& recorder, RowsOperation operation, const RowsArguments& arguments,
                      bool together = false) {
  const bool copies = operation == RowsOperation::kCopy;
  const bool wide = (copies || operation == RowsOperation::kFindBroken) && arguments.from % 16 == 0 &&
                    arguments.from_stride % 4 == 0 && arguments.width % 4 == 0 &&
                    (!copies || (arguments.to % 16 == 0 && arguments.to_stride % 4 == 0));
  recorder.dispatch(Shader::kRows, {static_cast<uint32_t>(operation), wide ? 1u : 0u}, arguments,
                    {parts_of(wide ? arguments.width / 4 : arguments.width, kRowsThreads), arguments.rows},
                    together);
}

// So many words from one address to another.
inline void copy_words(Recorder& recorder, Address to, Address from, uint64_t words) {
  constexpr uint32_t kWide = 65536;
  const auto rows = static_cast<uint32_t>(words / kWide), rest = static_cast<uint32_t>(words % kWide);
  RowsArguments arguments{
      .from = from, .to = to, .rows = rows, .width = kWide, .from_stride = kWide, .to_stride = kWide};
  if (rows > 0) over_rows(recorder, RowsOperation::kCopy, arguments);
  if (rest == 0) return;
  const uint64_t done = uint64_t{rows} * kWide * 4;
  arguments.from += done, arguments.to += done;
  arguments.rows = 1, arguments.width = rest;
  over_rows(recorder, RowsOperation::kCopy, arguments);
}

}  // namespace nfloat::vulkan

#endif  // NFLOAT_ENGINE_VULKAN_STEPS_H_

// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ENGINE_BUFFER_TABLE_H_
#define NFLOAT_ENGINE_BUFFER_TABLE_H_

#include <utility>
#include <vector>

#include "engine/layer_engine.h"

namespace nfloat {

// An engine's buffers by their numbers; those of dropped ones are given again.
template <typename Buffer>
class BufferTable {
 public:
  BufferId add(Buffer made) {
    if (!dropped_.empty()) {
      const BufferId id = dropped_.back();
      dropped_.pop_back();
      (*this)[id] = std::move(made);
      return id;
    }
    dropped_.reserve(buffers_.size() + 1);  // dropping must not fail
    buffers_.push_back(std::move(made));
    return static_cast<BufferId>(buffers_.size() - 1);
  }
  void drop(BufferId id) noexcept {
    if (id == BufferId::kNone) return;
    (*this)[id] = Buffer();
    dropped_.push_back(id);
  }
  Buffer& operator[](BufferId id) noexcept { return buffers_[static_cast<size_t>(id)]; }

 private:
  std::vector<Buffer> buffers_;
  std::vector<BufferId> dropped_;
};

}  // namespace nfloat

#endif  // NFLOAT_ENGINE_BUFFER_TABLE_H_

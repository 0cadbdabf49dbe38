// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_MODEL_SEQUENCE_TABLES_H_
#define NFLOAT_MODEL_SEQUENCE_TABLES_H_

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "kernels/attention.h"
#include "model/page_pool.h"
#include "model/rope.h"
#include "nfloat/model_config.h"

namespace nfloat {

// What the sequences of one model have in common beside its weights, made when first asked for. For use by
// any number of threads.
class SequenceTables {
 public:
  // `budget_bytes`: of keys and values in one type; 0 for what the machine has.
  explicit SequenceTables(std::shared_ptr<Device> device, uint64_t budget_bytes = 0) noexcept
      : device_(std::move(device)), budget_bytes_(budget_bytes) {}

  // The angles for sequences of at most `length` positions. Null when no layer has that embedding.
  std::shared_ptr<RopeTable> rope(const ModelConfig& config, LayerRope which, int64_t length);
  std::shared_ptr<PagePool> pages(const ModelConfig& config, kernels::KvType type);
  // For sequences whose memory is counted apart from that of the model's others.
  std::shared_ptr<PagePool> own_pages(const ModelConfig& config, kernels::KvType type) const;

 private:
  const std::shared_ptr<Device> device_;
  const uint64_t budget_bytes_;
  std::mutex mutex_;
  std::map<std::pair<LayerRope, int64_t>, std::shared_ptr<RopeTable>> ropes_;
  std::map<kernels::KvType, std::shared_ptr<PagePool>> pages_;
};

}  // namespace nfloat

#endif  // NFLOAT_MODEL_SEQUENCE_TABLES_H_

// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ENGINE_CARD_ENGINE_H_
#define NFLOAT_ENGINE_CARD_ENGINE_H_

#include <cstdint>
#include <span>
#include <vector>

#include "engine/layer_engine.h"

namespace nfloat {

// What engines whose memory is not the host's have in common: of a mixture, the router's logits come to the
// host, which chooses; each chosen expert then runs on its rows.
class CardEngine : public LayerEngine {
 public:
  void use_threads(int) noexcept override {}
  void mix(const MixtureStep& step, const BufferRows& normed, const BufferRows& added, int64_t rows) final;

 protected:
  // A buffer of the engine's own that grows to the largest size seen.
  struct Scratch {
    BufferId buffer = BufferId::kNone;
    int64_t floats = 0;
  };
  BufferRows scratch(Scratch& own, int64_t rows, int64_t width);

 private:
  class Mixture;  // one call of mix()

  virtual void zero(const BufferRows& to, int64_t rows, int64_t width) = 0;
  // Row i of `to` becomes row list[i] of `from`.
  virtual void gather(const BufferRows& from, std::span<const int32_t> list, const BufferRows& to,
                      int64_t width) = 0;
  // Row i of `from` times shares[i] is added to row list[i] of `to`, each at most once in a list.
  virtual void scatter_add(const BufferRows& from, std::span<const int32_t> list,
                           std::span<const float> shares, const BufferRows& to, int64_t width) = 0;

  Scratch logits_, input_, gate_up_, output_;
  std::vector<int32_t> chosen_, list_;
  std::vector<float> shares_, own_shares_;
  std::vector<int64_t> taken_;
};

}  // namespace nfloat

#endif  // NFLOAT_ENGINE_CARD_ENGINE_H_

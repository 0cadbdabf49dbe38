// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "base/fail.h"
#include "base/state_of.h"
#include "model/loader.h"
#include "model/model_state.h"
#include "model/session_state.h"

namespace nfloat {
namespace {

SessionOptions resolved(const Model& model, SessionOptions options) {
  const ModelConfig& config = model.config();
  const bool asked = options.context != 0;
  if (!asked) options.context = config.context;
  if (options.context < 1 || options.context > largest_context(config))
    fail(ErrorCode::kInvalidArgument, "a context of {} tokens: this model allows 1 to {}", options.context,
         largest_context(config));
  if (!options.precision) {
    options.precision = model.options().precision;
    options.many_rows_precision = model.options().many_rows_precision;
  }
  options.kv_cache = resolved_cache(options.kv_cache, *options.precision);
  if (options.threads == 0) options.threads = model.options().threads;
  // Pages come as they are needed; who names a length is told at once that it cannot be reached.
  if (asked)
    check_available_memory(kv_cache_bytes(config, options.kv_cache, options.context),
                           fmt::format("the KV cache for {} tokens", options.context),
                           state_of(model).device.get());
  return options;
}

}  // namespace

int64_t largest_context(const ModelConfig& config) noexcept {
  if (config.rope.scaling != RopeScaling::kDynamic) return config.context;
  return static_cast<int64_t>(static_cast<double>(config.context) * std::max(1.0, config.rope.factor));
}

KvCacheType resolved_cache(KvCacheType type, Precision precision) noexcept {
  if (type != KvCacheType::kAuto) return type;
  return precision == Precision::kF32 ? KvCacheType::kF32 : KvCacheType::kF16;
}

Session::Session(const Model& model, const SessionOptions& options) {
  const SessionOptions own = resolved(model, options);
  const ModelConfig& config = model.config();
  SequenceTables& tables = *state_of(model).tables;
  state_ = std::make_unique<State>(
      State{.model = model,
            .options = own,
            .position = 0,
            .rope = tables.rope(config, LayerRope::kMain, own.context),
            .local_rope = tables.rope(config, LayerRope::kLocal, own.context),
            .cache = KvCache(own.kv_cache, tables.pages(config, kernel_type(own.kv_cache))),
            .workspace = {},
            .logits = std::vector<float>(static_cast<size_t>(config.vocabulary)),
            .has_logits = false,
            .led = {}});
}

Session::Session(std::unique_ptr<State> state) noexcept : state_(std::move(state)) {}
Session::Session(Session&&) noexcept = default;
Session& Session::operator=(Session&&) noexcept = default;
Session::~Session() = default;

const Model& Session::model() const noexcept {
  return state_->model;
}
int64_t Session::context() const noexcept {
  return state_->options.context;
}
int64_t Session::position() const noexcept {
  return state_->position;
}

std::span<const float> Session::prefill(std::span<const int32_t> tokens) {
  const BatchEntry entry{this, tokens};
  forward_batch({&entry, 1});
  return logits();
}

std::span<const float> Session::logits() const noexcept {
  return state_->has_logits ? std::span<const float>(state_->logits) : std::span<const float>();
}

void Session::rewind(int64_t position) {
  if (position < 0 || position > state_->position)
    fail(ErrorCode::kInvalidArgument, "cannot rewind to position {}: the session is at {}", position,
         state_->position);
  if (position == state_->position) return;
  state_->position = position;
  state_->has_logits = false;
  state_->cache.truncate(position);
  state_->led.rewind(position);
}

Session Session::fork() const {
  const State& from = *state_;
  auto state = std::make_unique<State>(State{.model = from.model,
                                             .options = from.options,
                                             .position = from.position,
                                             .rope = from.rope,
                                             .local_rope = from.local_rope,
                                             .cache = from.cache,
                                             .workspace = {},
                                             .logits = from.logits,
                                             .has_logits = from.has_logits,
                                             .led = from.led.fork()});
  state->cache.truncate(from.position);
  return Session(std::move(state));
}

}  // namespace nfloat

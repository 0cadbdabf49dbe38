// SPDX-License-Identifier: Apache-2.0
#include "tune/pass.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/fail.h"
#include "base/parallel.h"
#include "base/state_of.h"
#include "kernels/dispatch.h"
#include "tune/pass-inl.h"
#include "tune/train_memory.h"

namespace nfloat {
namespace {

int64_t widest_rank(const Adapter& adapter) noexcept {
  int64_t widest = 1;
  for (const LoraModule& module : adapter.modules) widest = std::max(widest, module.padded_rank());
  return widest;
}

// Of the modules of one group together.
int64_t widest_low_rows(Adapter& adapter, int64_t layers, Place place) noexcept {
  int64_t widest = 1;
  for (int64_t layer = 0; layer < layers; ++layer)
    widest = std::max(widest, padded_ranks(adapter.of(layer, place)));
  return widest;
}

int64_t widest_low_rows(Adapter& adapter, int64_t layers) noexcept {
  int64_t widest = 1;
  for (size_t place = 0; place < kPlaces; ++place)
    widest = std::max(widest, widest_low_rows(adapter, layers, static_cast<Place>(place)));
  return widest;
}

// Products of these are in pairs of bf16, and what they read and give may be kept so.
bool may_keep_halves(const Model::State& model, const PassOptions& options) {
  if (!options.bf16 || !halves_may_be_kept(model.config, options.dropout)) return false;
  return std::all_of(model.layers.begin(), model.layers.end(), [](const LayerWeights& layer) {
    for (size_t place = 0; place < kPlaces; ++place)
      if (!group_at(layer, static_cast<Place>(place)).multiplies_pairs()) return false;
    return true;
  });
}

std::vector<float> rotated_back(const RopeTable* table, int64_t rotary_dim, int64_t positions) {
  std::vector<float> result;
  if (table == nullptr) return result;
  for (int64_t position = 0; position < positions; ++position) {
    const float* at = table->at(position);
    result.insert(result.end(), at, at + rotary_dim / 2);
    for (int64_t i = rotary_dim / 2; i < rotary_dim; ++i) result.push_back(-at[i]);
  }
  return result;
}

}  // namespace

Pass::Pass(const Model& model, Adapter& adapter, const PassOptions& options, int64_t rows, int64_t positions)
    : model_(model),
      state_(state_of(model_)),
      config_(state_.config),
      adapter_(adapter),
      options_(options),
      halves_(may_keep_halves(state_, options)),
      products_(*state_.device, options, halves_, rows,
                halves_ ? widest_low_rows(adapter, config_.layers) : widest_rank(adapter),
                std::max(config_.intermediate, std::max(config_.hidden, config_.query_size()))),
      places_(config_),
      capacity_(rows),
      head_products_(*state_.device, options.bf16, options.precision, options.threads) {
  for (LoraModule& module : adapter_.modules) module.use_pairs(halves_);
  rope_ = state_.tables->rope(config_, LayerRope::kMain, positions);
  local_rope_ = state_.tables->rope(config_, LayerRope::kLocal, positions);
  const int64_t rotary = config_.rotary_dim > 0 ? config_.rotary_dim : config_.head_dim;
  if (rope_) rope_->reserve(positions);
  if (local_rope_) local_rope_->reserve(positions);
  rope_back_ = rotated_back(rope_.get(), rotary, positions);
  local_rope_back_ = rotated_back(local_rope_.get(), rotary, positions);

  for (int64_t layer = 0; layer <= config_.layers; ++layer) inputs_.push_back(take(config_.hidden));
  const bool all = options_.recompute != Recompute::kFull;
  tapes_.resize(static_cast<size_t>(all ? config_.layers : 1));
  Tape shared;
  if (options_.recompute == Recompute::kCheap) make_tape(shared, false);
  for (Tape& tape : tapes_) {
    if (options_.recompute == Recompute::kCheap) {
      tape.attention_normed = shared.attention_normed;
      tape.mlp_normed = shared.mlp_normed;
      tape.activated = shared.activated;
    }
    make_tape(tape, options_.recompute == Recompute::kCheap);
  }
  if (all)
    for (int64_t layer = 0; layer < config_.layers; ++layer)
      make_z(tapes_[static_cast<size_t>(layer)], layer);
  else
    make_z(tapes_[0], -1);

  rotated_ = keep(places_.row());
  added_ = take(config_.hidden);
  gradient_ = take(config_.hidden);
  d_added_ = keep(config_.hidden);
  d_input_ = take(config_.hidden);
  d_attended_ = keep(config_.query_size());
  d_rotated_ = halves_ ? rotated_ : keep(places_.row());
  if (!halves_) d_activated_ = keep(config_.intermediate);
  if (!halves_ || adapter_.dora()) d_gate_up_ = keep((config_.gated ? 2 : 1) * config_.intermediate);
  const int64_t embedding = config_.embedding_size;
  if (embedding > 0) embedded_ = take(embedding);

  slice_ = head_slice_rows(config_.vocabulary);
  capacity_ = slice_;  // take() for the head
  head_normed_ = take(config_.hidden);
  d_normed_ = take(config_.hidden);
  logits_ = take(config_.vocabulary);
  if (embedding > 0) {
    head_projected_ = take(embedding);
    d_projected_ = take(embedding);
  }
  capacity_ = rows;
}

float* Pass::take(int64_t width) {
  memory_.emplace_back(capacity_ * width);
  bytes_ += memory_.back().bytes();
  return memory_.back().data();
}

KeptRows Pass::keep(int64_t width) {
  if (!halves_) return {take(width), nullptr, width};
  const int64_t stride = pair_row_stride(width);
  return {nullptr, reinterpret_cast<uint16_t*>(take(stride / 2)), stride};
}

// With `shared_norms`, what norms and activations give is another tape's. A tape for those alone:
// `shared_norms` false on the tape that lends them.
void Pass::make_tape(Tape& tape, bool shared_norms) {
  const bool lends = options_.recompute == Recompute::kCheap && !shared_norms;
  if (!shared_norms) {
    if (norm_before() || halves_) tape.attention_normed = keep(config_.hidden);
    if (norm_before() || halves_) tape.mlp_normed = keep(config_.hidden);
    tape.activated = keep(config_.intermediate);
  }
  if (lends) return;
  tape.projected = keep(places_.row());
  tape.log_sums = take(config_.heads);
  tape.attended = keep(config_.query_size());
  tape.middle = take(config_.hidden);
  tape.gate_up = keep((config_.gated ? 2 : 1) * config_.intermediate);
  if (adapter_.dora() || (!state_.layers.empty() && !state_.layers[0].attention_post_norm.weight.empty()))
    tape.attention_added = keep(config_.hidden);
  if (adapter_.dora() || (!state_.layers.empty() && !state_.layers[0].mlp_post_norm.weight.empty()))
    tape.mlp_added = keep(config_.hidden);
  if (config_.norm_place == NormPlace::kAfterResidual) {
    tape.attention_sum = take(config_.hidden);
    tape.mlp_sum = take(config_.hidden);
  }
}

// Of one layer; of all of them, -1.
void Pass::make_z(Tape& tape, int64_t layer) {
  for (size_t place = 0; place < kPlaces; ++place) {
    if (halves_) {
      int64_t widest = 0;
      for (int64_t l = 0; l < config_.layers; ++l)
        if (layer < 0 || l == layer)
          widest = std::max(widest, padded_ranks(adapter_.of(l, static_cast<Place>(place))));
      if (widest > 0) tape.z_halves[place] = keep(widest).halves();
      continue;
    }
    size_t count = 0;
    int64_t widest = 0;
    for (int64_t l = 0; l < config_.layers; ++l) {
      if (layer >= 0 && l != layer) continue;
      const auto own = adapter_.of(l, static_cast<Place>(place));
      count = std::max(count, own.size());
      for (const LoraModule& module : own) widest = std::max(widest, module.padded_rank());
    }
    for (size_t i = 0; i < count; ++i) tape.z[place].push_back(take(widest));
  }
}

std::span<LoraModule> Pass::modules(int64_t layer, Place place) noexcept {
  return with_adapter_ ? adapter_.of(layer, place) : std::span<LoraModule>();
}

void Pass::begin(const Batch& batch) {
  if (adapter_.dora() && factors_version_ != adapter_.version)
    for (LoraModule& module : adapter_.modules)
      module.update_factors(
          group_at(state_.layers[static_cast<size_t>(module.at().layer)], module.at().place), head_products_,
          options_.threads);
  factors_version_ = adapter_.version;
  rows_ = batch.rows();
  documents_.assign(batch.documents.begin(), batch.documents.end());
  longest_first_ = documents_;
  std::sort(longest_first_.begin(), longest_first_.end(),
            [](const Document& a, const Document& b) { return a.length > b.length; });
  positions_.assign(static_cast<size_t>(rows_), 0);
  targets_.clear();
  for (size_t number = 0; number < documents_.size(); ++number) {
    const Document& document = documents_[number];
    for (int64_t t = 0; t < document.length; ++t) {
      positions_[static_cast<size_t>(document.begin + t)] = t;
      if (t + 1 == document.length) continue;
      const int32_t label = batch.labels[static_cast<size_t>(document.begin + t + 1)];
      if (label != kIgnoredLabel) targets_.push_back({document.begin + t, label, number});
    }
  }
}

void Pass::embed(const Batch& batch) {
  const int64_t width = config_.embedding_size > 0 ? config_.embedding_size : config_.hidden;
  float* x = inputs_[0];
  float* rows = config_.embedding_size > 0 ? embedded_ : x;
  constexpr int64_t kTogether = 64;  // whose pages are there at a time
  for (int64_t first = 0; first < rows_; first += kTogether) {
    parallel_for(std::min(kTogether, rows_ - first), 1, options_.threads, [&](int64_t begin, int64_t end) {
      for (int64_t row = first + begin; row < first + end; ++row)
        state_.embedding.row(batch.tokens[static_cast<size_t>(row)], rows + row * width);
    });
    state_.embedding.release();
  }
  if (config_.embedding_size > 0)
    head_products_.multiply(state_.project_in, {rows, width}, rows_, {x, config_.hidden});
  over_rows([&](int64_t row) {
    float* to = x + row * config_.hidden;
    if (config_.embedding_scale != 1)
      for (int64_t d = 0; d < config_.hidden; ++d) to[d] *= static_cast<float>(config_.embedding_scale);
    if (state_.positions.empty()) return;
    const float* learned = state_.positions.data() +
                           (positions_[static_cast<size_t>(row)] + state_.position_offset) * config_.hidden;
    for (int64_t d = 0; d < config_.hidden; ++d) to[d] += learned[d];
  });
}

void Pass::expect_wanted() const {
  if (options_.cancelled && options_.cancelled()) fail(ErrorCode::kInterrupted, "cancelled by the caller");
}

void Pass::forward_layers(bool keep) {
  kept_ = keep;
  for (int64_t layer = 0; layer < config_.layers; ++layer) {
    expect_wanted();
    Tape& tape = tapes_[tapes_.size() > 1 ? static_cast<size_t>(layer) : 0];
    // Nothing is kept: two streams take turns.
    tape.input = keep ? inputs_[static_cast<size_t>(layer)] : inputs_[static_cast<size_t>(layer % 2)];
    float* output = layer + 1 == config_.layers ? inputs_.back()
                    : keep                      ? inputs_[static_cast<size_t>(layer + 1)]
                                                : inputs_[static_cast<size_t>((layer + 1) % 2)];
    forward_layer(layer, tape, output);
  }
  in_slot_ = config_.layers - 1;
}

void Pass::forward_layer(int64_t layer, Tape& tape, float* output) {
  attention_block(layer, tape);
  mlp_block(layer, tape, output);
}

AttentionLayer Pass::attention_layer(int64_t layer) const {
  const Constant& sinks = state_.layers[static_cast<size_t>(layer)].sinks;
  return {.places = places_,
          .window = config_.layer(layer).window,
          .softcap = static_cast<float>(config_.attention_softcap),
          .sinks = sinks.empty() ? nullptr : sinks.data(),
          .documents = longest_first_,  // the threads end together
          .threads = options_.threads};
}

void Pass::attention_block(int64_t layer, Tape& tape) {
  const LayerWeights& weights = state_.layers[static_cast<size_t>(layer)];
  block_input(weights.attention_norm, tape.input, tape.attention_normed);
  products_.forward(weights.query_key_value, modules(layer, Place::kQueryKeyValue), attention_rows(tape),
                    rows_, tape.projected, tape.low(Place::kQueryKeyValue));
  rotate_heads(layer, tape.projected);
  if (halves_)
    attend_documents(attention_layer(layer), rotated_.halves(), tape.attended.halves(), tape.log_sums);
  else
    attend_documents(attention_layer(layer), rotated_.data, tape.attended.data, tape.log_sums);
  const KeptRows added = tape.attention_added.is_kept() ? tape.attention_added : stream(added_);
  products_.forward(weights.output, modules(layer, Place::kOutput), tape.attended, rows_, added,
                    tape.low(Place::kOutput));
  add_block(weights.attention_norm, weights.attention_post_norm, tape.input, added, tape.attention_sum,
            tape.middle);
}

void Pass::mlp_block(int64_t layer, Tape& tape, float* output) {
  const LayerWeights& weights = state_.layers[static_cast<size_t>(layer)];
  block_input(weights.mlp_norm, mlp_stream(tape), tape.mlp_normed);
  products_.forward(weights.gate_up, modules(layer, Place::kGateUp), mlp_rows(tape), rows_, tape.gate_up,
                    tape.low(Place::kGateUp));
  activate_rows(tape);
  if (output == nullptr && !tape.mlp_added.is_kept() && tape.mlp_sum == nullptr)
    return products_.down(modules(layer, Place::kDown), tape.activated, rows_, tape.low(Place::kDown));
  const KeptRows added = tape.mlp_added.is_kept() ? tape.mlp_added : stream(added_);
  products_.forward(weights.down, modules(layer, Place::kDown), tape.activated, rows_, added,
                    tape.low(Place::kDown));
  add_block(weights.mlp_norm, weights.mlp_post_norm, tape.middle, added, tape.mlp_sum,
            output == nullptr ? d_input_ : output);
}

void Pass::recompute_cheap(int64_t layer, Tape& tape) {
  const LayerWeights& weights = state_.layers[static_cast<size_t>(layer)];
  block_input(weights.attention_norm, tape.input, tape.attention_normed);
  block_input(weights.mlp_norm, mlp_stream(tape), tape.mlp_normed);
  activate_rows(tape);
}

// What the products of a block read: the stream, normed where a norm stands before, rounded where rows are
// kept in halves.
void Pass::block_input(const NormWeights& norm, float* from, const KeptRows& to) {
  if (norm_before()) return normalize_rows(norm, stream(from), to);
  if (!halves_) return;
  over_rows([&](int64_t row) { to.put(row, 0, config_.hidden, from + row * config_.hidden); });
}

// In pieces: a row of both and what comes of them need not leave the first cache.
void Pass::activate_rows(const Tape& tape) {
  const int64_t width = config_.intermediate;
  over_kept_rows(2 * kPiece, [&](int64_t row, float* scratch) {
    for (int64_t at = 0; at < width; at += kPiece) {
      const int64_t count = std::min(kPiece, width - at);
      const float* gate = tape.gate_up.read(row, at, count, scratch);
      float* to = tape.activated.place(row, at, scratch);
      if (gate != to) std::copy(gate, gate + count, to);
      const float* up = config_.gated ? tape.gate_up.read(row, width + at, count, scratch + kPiece) : nullptr;
      kernels::table().transformer.activate(static_cast<kernels::Activation>(config_.activation), to, up,
                                            count);
      tape.activated.put(row, at, count, to);
    }
  });
}

void Pass::normalize_rows(const NormWeights& norm, const KeptRows& from, const KeptRows& to) {
  const kernels::TransformerKernels& kernels = kernels::table().transformer;
  const auto epsilon = static_cast<float>(config_.norm_epsilon);
  const int64_t width = config_.hidden;
  over_kept_rows(2 * width, [&](int64_t row, float* scratch) {
    const float* x = from.read(row, 0, width, scratch);
    float* y = to.place(row, 0, scratch + width);
    if (config_.norm == NormKind::kLayer)
      kernels.layer_norm(x, norm.weight.data(), norm.bias.data(), epsilon, width, y);
    else
      kernels.rms_norm(x, norm.weight.data(), epsilon, width, y);
    to.put(row, 0, width, y);
  });
}

void Pass::add_block(const NormWeights& norm, const NormWeights& post_norm, const float* from,
                     const KeptRows& added, float* sum, float* to) {
  const int64_t width = config_.hidden;
  KeptRows own = added;
  if (!post_norm.weight.empty()) {
    own = stream(added_);
    normalize_rows(post_norm, added, own);
  }
  const auto scale = static_cast<float>(config_.residual_scale);
  float* result = sum != nullptr ? sum : to;
  over_kept_rows(width, [&](int64_t row, float* scratch) {
    const float* more = own.read(row, 0, width, scratch);
    const float* old = from + row * width;
    float* both = result + row * width;
    for (int64_t i = 0; i < width; ++i) both[i] = old[i] + (scale == 1.0f ? more[i] : scale * more[i]);
  });
  if (sum != nullptr) normalize_rows(norm, stream(sum), stream(to));
}

double Pass::loss(const Batch& batch, bool with_adapter) {
  with_adapter_ = with_adapter;
  products_.set_dropout({});
  begin(batch);
  embed(batch);
  forward_layers(false);
  const double sum = head(batch, 0, false);
  with_adapter_ = true;
  return sum;
}

double Pass::loss_and_gradients(const Batch& batch, double weight, const DropoutKey& dropout) {
  products_.set_dropout(dropout);
  begin(batch);
  embed(batch);
  forward_layers(true);
  const double sum = head(batch, weight, true);
  backward_layers();
  return sum;
}

std::vector<double> Pass::losses_by_document() const {
  std::vector<double> sums(documents_.size(), 0.0);
  for (size_t i = 0; i < targets_.size(); ++i) sums[targets_[i].document] += losses_[i];
  return sums;
}

std::vector<double> Pass::document_losses(const Batch& batch, bool with_adapter) {
  loss(batch, with_adapter);
  return losses_by_document();
}

// The head runs twice: what the gradients weigh is known when all of its losses are.
void Pass::document_gradients(const Batch& batch, const Weigh& weigh, const DropoutKey& dropout) {
  products_.set_dropout(dropout);
  begin(batch);
  embed(batch);
  forward_layers(true);
  head(batch, 0, false);
  std::vector<double> weights(documents_.size(), 0.0);
  weigh(losses_by_document(), weights);
  for (Target& target : targets_) target.weight = weights[target.document];
  head(batch, 1, true);
  backward_layers();
}

void Pass::backward_layers() {
  const int64_t lowest = observer_ != nullptr ? 0 : adapter_.lowest_layer;
  for (int64_t layer = config_.layers - 1; layer >= lowest; --layer) {
    expect_wanted();
    Tape& tape = tapes_[tapes_.size() > 1 ? static_cast<size_t>(layer) : 0];
    tape.input = inputs_[static_cast<size_t>(layer)];
    if (options_.recompute == Recompute::kCheap) recompute_cheap(layer, tape);
    if (options_.recompute == Recompute::kFull && in_slot_ != layer) {
      forward_layer(layer, tape, nullptr);
      in_slot_ = layer;
    }
    backward_layer(layer, tape);
  }
}

}  // namespace nfloat

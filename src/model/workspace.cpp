// SPDX-License-Identifier: Apache-2.0
#include "model/workspace.h"

#include <utility>

#include "model/model_state.h"

namespace nfloat {
namespace {

constexpr int64_t kKeptLogitRows = 8;

}  // namespace

OwnedRows::OwnedRows(std::shared_ptr<LayerEngine> engine, int64_t rows, int64_t width)
    : engine_(std::move(engine)), rows_{engine_->make(rows * width), 0, width}, count_(rows) {}

OwnedRows::OwnedRows(OwnedRows&& other) noexcept {
  *this = std::move(other);
}

OwnedRows& OwnedRows::operator=(OwnedRows&& other) noexcept {
  std::swap(engine_, other.engine_);
  std::swap(rows_, other.rows_);
  std::swap(count_, other.count_);
  return *this;
}

OwnedRows::~OwnedRows() {
  if (engine_ != nullptr) engine_->drop(rows_.buffer);
}

void Workspace::reserve(const Model::State& model, int64_t rows) {
  const ModelConfig& config = model.config;
  if (!engine) engine = model.device->engine();
  if (rows <= rows_) return;
  rows_ = 0;
  const auto make = [&](OwnedRows& owned, int64_t width) {
    owned = OwnedRows();  // before its successor is made
    owned = OwnedRows(engine, rows, width);
  };
  make(x, config.hidden);
  make(normed, config.hidden);
  make(projected, config.query_size() + 2 * config.kv_size());
  make(attended, config.query_size());
  make(gate_up, 2 * config.intermediate);
  make(added, config.hidden);
  make(embedded, config.embedding_size);
  rows_ = rows;
}

void Workspace::reserve_logits(const Model::State& model, int64_t rows) {
  if (rows <= logits.count()) return;
  logits = OwnedRows();
  logits = OwnedRows(engine, rows, model.config.vocabulary);
}

void Workspace::trim() noexcept {
  if (logits.count() > kKeptLogitRows) logits = OwnedRows();
}

}  // namespace nfloat

// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ENGINE_RANKS_RANKS_ENGINE_H_
#define NFLOAT_ENGINE_RANKS_RANKS_ENGINE_H_

#include <memory>
#include <vector>

#include "engine/layer_engine.h"
#include "nfloat/ranks.h"

namespace nfloat {

// The steps over matrices of ranks_device() with these shares.
std::unique_ptr<LayerEngine> ranks_engine(std::shared_ptr<Ranks> ranks, std::vector<double> weights);

}  // namespace nfloat

#endif  // NFLOAT_ENGINE_RANKS_RANKS_ENGINE_H_

// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ENGINE_CUDA_OPEN_H_
#define NFLOAT_ENGINE_CUDA_OPEN_H_

#include <memory>
#include <string>
#include <vector>

#include "cuda/card.h"
#include "engine/device.h"

namespace nfloat::cuda {

// The cards that the engine can use, in the driver's order: "cuda:0", ... They are opened once and kept while
// the program runs.
std::vector<std::shared_ptr<Device>> open();
// Why there is none, as the end of a sentence; empty where there is one.
std::string why_none();

// A device that computes on `card`.
std::shared_ptr<Device> device_on(std::shared_ptr<gpu::Card> card, std::string name);

}  // namespace nfloat::cuda

#endif  // NFLOAT_ENGINE_CUDA_OPEN_H_

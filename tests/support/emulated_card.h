// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TESTS_SUPPORT_EMULATED_CARD_H_
#define NFLOAT_TESTS_SUPPORT_EMULATED_CARD_H_

#include <cstdint>
#include <memory>
#include <string>

#include "engine/device.h"

namespace nfloat::testing {

// The CUDA engine on a card that is emulated (src/cuda/emulate.h): the kernels of a real one, run by this
// processor. Steps run as late as they may, when somebody waits; memory is poisoned and has no byte more than
// was asked for. A test program with this file has one among its devices(), "cuda:emulated".
// Lists of commands that came again run as they were recorded.
// `recording_fault`: none can be recorded, for this reason.
std::shared_ptr<Device> emulated_device(uint64_t memory = uint64_t{1} << 30,
                                        const std::string& name = "cuda:emulated",
                                        const std::string& recording_fault = {});

// How many recorded lists such cards have run.
uint64_t emulated_graphs();

}  // namespace nfloat::testing

#endif  // NFLOAT_TESTS_SUPPORT_EMULATED_CARD_H_

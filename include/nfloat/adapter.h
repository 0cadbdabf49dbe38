// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ADAPTER_H_
#define NFLOAT_ADAPTER_H_

#include <memory>
#include <string>
#include <vector>

#include "nfloat/api.h"
#include "nfloat/model.h"

namespace nfloat {

struct AdapterChoice {
  std::string folder;  // as PEFT saves it
  double weight = 1;   // times the adapter's own scale
};

// From now on the model, and all copies of it, compute with these low-rank adapters beside its weights:
// y = W x + the sum of weight * scale * B A x. Before its sessions are made; an empty list takes adapters
// away. The weights stay as they are. Returns a sentence for each adapter whose adapter_config.json asks for
// pairs that its file does not have: those matrices stay as they are. Throws kMalformedFile (tensors of
// another shape, modules that the model does not have), kUnsupported (parts of adapters that are no low-rank
// pair of the layers' matrices: merge those with convert; mixtures of experts, streamed layers), naming file
// and tensor.
NFLOAT_API std::vector<std::string> attach_adapters(const Model& model,
                                                    const std::vector<AdapterChoice>& adapters);

struct LoadedAdapters {
  std::shared_ptr<LinearObserver> adapters;  // of SessionOptions::adapters, EngineRequest::adapters
  std::vector<std::string> notes;            // what attach_adapters returns
};

// The same adapters for single sequences. They belong to `model`. Throws as attach_adapters;
// kInvalidArgument for an empty list.
NFLOAT_API LoadedAdapters load_adapters(const Model& model, const std::vector<AdapterChoice>& adapters);

}  // namespace nfloat

#endif  // NFLOAT_ADAPTER_H_

// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstring>
#include <set>

#include "base/fail.h"
#include "base/json.h"
#include "checkpoint/quant_state.h"
#include "convert/check_files.h"
#include "convert/check_finite.h"
#include "convert/check_skip_list.h"
#include "convert/output.h"
#include "convert/weights.h"
#include "nfloat/convert.h"

namespace nfloat {
namespace {

class Checker {
 public:
  explicit Checker(const Checkpoint& checkpoint) : checkpoint_(checkpoint) {}

  std::vector<Finding> run(const ConvertControl& control) {
    ConvertProgress progress;
    const std::vector<std::string> names = checkpoint_.weight_names();
    progress.tensors_total = names.size();
    for (const std::string& name : names) progress.input_bytes_total += checkpoint_.stored_bytes(name);
    std::vector<std::string> plain;
    for (const std::string& name : names) {
      if (control.cancelled && control.cancelled()) fail(ErrorCode::kInterrupted, "interrupted");
      check_weight(name);
      if (!checkpoint_.is_quantized(name)) {
        plain.push_back(name);
        continue;
      }
      ++progress.tensors_done;
      progress.input_bytes_done += checkpoint_.stored_bytes(name);
      if (control.progress) control.progress(progress);
    }
    check_finite(checkpoint_, plain, progress, control, &findings_);
    if (checkpoint_.is_folder()) check_config();
    check_files(checkpoint_, &findings_);
    return std::move(findings_);
  }

 private:
  template <typename... Args>
  void add(bool error, const std::string& tensor, fmt::format_string<Args...> format, Args&&... args) {
    findings_.push_back({error, tensor, fmt::format(format, std::forward<Args>(args)...)});
  }

  void check_weight(const std::string& name) {
    if (!checkpoint_.is_quantized(name)) {
      check_orphan(name);
      return;
    }
    QuantizedView view;
    try {
      view = checkpoint_.quantized(name);
    } catch (const Error& error) {
      add(true, name, "{}", error.what());
      return;
    }
    types_.insert(view.quant_type);
    (view.nested ? any_nested_ : any_flat_) = true;
    storage_.insert(view.codes.dtype);
    check_maps(name, view);
    check_scales(name, view);
    if (view.block_size < 32 || view.block_size > 4096 || (view.block_size & (view.block_size - 1)) != 0)
      add(false, name, "block size {}: bitsandbytes loads powers of two from 32 to 4096", view.block_size);
    if (view.shape.rank() == 2 && view.shape[1] % view.block_size != 0) {
      add(false, name,
          "in_features {} is no multiple of the block size {}: blocks cross rows, which some bitsandbytes "
          "CPU builds decode "
          "with wrong scales",
          view.shape[1], view.block_size);
    }
    for (const std::string& companion : checkpoint_.companions(name))
      checkpoint_.release(checkpoint_.view(companion));
  }

  // A companion whose quant_state is gone, or codes that nobody can read.
  void check_orphan(const std::string& name) {
    for (std::string_view suffix :
         {kAbsmaxSuffix, kQuantMapSuffix, kNestedAbsmaxSuffix, kNestedQuantMapSuffix}) {
      if (!name.ends_with(suffix)) continue;
      const std::string base = name.substr(0, name.size() - suffix.size());
      add(true, name, "belongs to '{}', which has no quant_state", base);
      return;
    }
    if (const size_t mark = name.find(kQuantStateSuffix); mark != std::string::npos) {
      add(true, name, "is the quant_state of '{}', which is not there", name.substr(0, mark));
    }
  }

  void check_maps(const std::string& name, const QuantizedView& view) {
    const auto differs = [](const TensorView& stored, const Codebook& codebook) {
      return std::memcmp(stored.bytes.data(), codebook.levels.data(), stored.bytes.size()) != 0;
    };
    if (differs(view.quant_map, make_codebook(view.quant_type))) {
      add(true, name,
          "quant_map is not the table of {}: bitsandbytes' kernels ignore it and decode with their own",
          view.quant_type);
    }
    if (view.nested && differs(view.nested_quant_map, dynamic_codebook())) {
      add(false, name, "nested_quant_map is not bitsandbytes' dynamic map (it is followed)");
    }
    if (view.nested && view.nested_block_size != kNestedBlockSize) {
      add(false, name, "nested_blocksize is {}, bitsandbytes writes {}", view.nested_block_size,
          kNestedBlockSize);
    }
  }

  void check_scales(const std::string& name, const QuantizedView& view) {
    const std::vector<float> scales = stored_scales(view);
    int64_t zero = 0, bad = 0, first_bad = -1;
    for (size_t i = 0; i < scales.size(); ++i) {
      if (!std::isfinite(scales[i])) {
        if (bad++ == 0) first_bad = static_cast<int64_t>(i);
      } else if (scales[i] == 0) {
        ++zero;
      }
    }
    if (bad > 0)
      add(true, name, "{} of {} block scales are not finite, the first is block {}", bad, scales.size(),
          first_bad);
    if (zero > 0) add(false, name, "{} of {} blocks are all zero", zero, scales.size());
  }

  void check_config() {
    if (const std::string& reason = checkpoint_.foreign_refusal(); !reason.empty()) {
      add(false, "config.json", "quantized by another method, which is not checked: {}", reason);
      return;
    }
    if (const std::string& method = checkpoint_.foreign_method(); !method.empty()) {
      add(false, "config.json", "quantized by another method, read as the values of its codes: {}", method);
      return;
    }
    const auto config = parse_config(checkpoint_);
    const auto found = config.find("quantization_config");
    if (found == nullptr || !found->is_object()) {
      if (!types_.empty())
        add(true, "config.json", "no quantization_config: a loader would take the codes for weights");
      return;
    }
    if (types_.empty()) {
      add(true, "config.json", "has a quantization_config, but no tensor is quantized");
      return;
    }
    const std::string type = text_of(*found, "bnb_4bit_quant_type");
    if (!types_.contains(type))
      add(true, "config.json", "bnb_4bit_quant_type is '{}', the tensors are {}", type, *types_.begin());
    const auto double_quant = found->find("bnb_4bit_use_double_quant");
    const bool nested = double_quant != found->end() && *double_quant == true;
    if (nested ? any_flat_ && !any_nested_ : any_nested_) {
      add(false, "config.json", "bnb_4bit_use_double_quant is {}, the tensors say otherwise", nested);
    }
    const std::string storage = text_of(*found, "bnb_4bit_quant_storage", "uint8");
    for (DType dtype : storage_) {
      if (storage != dtype_torch_name(dtype)) {
        add(false, "config.json", "bnb_4bit_quant_storage is '{}', a weight is stored as {}", storage,
            dtype_torch_name(dtype));
      }
    }
    check_skip_list(checkpoint_, config, &findings_);
  }

  const Checkpoint& checkpoint_;
  std::vector<Finding> findings_;
  std::set<std::string> types_;
  std::set<DType> storage_;
  bool any_nested_ = false, any_flat_ = false;
};

}  // namespace

std::vector<Finding> check_checkpoint(const Checkpoint& checkpoint, const ConvertControl& control) {
  return Checker(checkpoint).run(control);
}

}  // namespace nfloat

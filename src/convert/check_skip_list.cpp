// SPDX-License-Identifier: Apache-2.0
#include "convert/check_skip_list.h"

#include <algorithm>

#include "architecture/skip_list.h"
#include "architecture/tensor_roles.h"
#include "base/fail.h"

namespace nfloat {
namespace {

constexpr const char* kSkipKey = "llm_int8_skip_modules";

class Comparison {
 public:
  Comparison(const Checkpoint& checkpoint, const Json& config, std::vector<Finding>* findings)
      : checkpoint_(checkpoint), roles_(config), findings_(*findings) {
    const Json& entries = config["quantization_config"][kSkipKey];
    listed_ = entries.is_array();
    for (const Json& entry : entries)
      if (entry.is_string())
        list_.add(entry.text());
      else
        add(true, "config.json",
            fmt::format("{} holds {}, expected names of modules", kSkipKey, entry.dump()));
    if (!listed_ && !entries.is_null())
      add(true, "config.json",
          fmt::format("{} is {}, expected a list or null", kSkipKey, entries.type_name()));
  }

  void run() {
    for (const std::string& name : checkpoint_.weight_names()) {
      if (!name.ends_with(".weight")) continue;
      const bool packed = checkpoint_.is_quantized(name);
      const Shape shape = checkpoint_.find(name)->shape;
      if (packed)
        check_packed(name, roles_.of(name, checkpoint_.weight_shape(name)));
      else if (is_quantizable(checkpoint_.find(name)->dtype))
        check_plain(name, roles_.of(name, shape));
    }
  }

 private:
  void check_packed(const std::string& name, TensorRole role) {
    const std::string entry = list_.find(module_of(name));
    if (!entry.empty())
      add(true, name,
          fmt::format("is packed, but '{}' in {} names it: a loader builds a plain layer for it", entry,
                      kSkipKey));
    else if (role == TensorRole::kKeptFloat)
      add(true, name,
          "is packed, but a loader builds a plain layer for it, in float32, whatever the configuration says");
    else if (!listed_ && module_of(name) == roles_.output_embedding())
      add(true, name,
          fmt::format("is packed, but {} is null, and then a loader keeps the output embedding plain",
                      kSkipKey));
    else if (!listed_ && role == TensorRole::kHead && only_head(name))
      add(true, name,
          fmt::format("is packed, but {} is null, and then a loader keeps the model's last module plain",
                      kSkipKey));
  }

  void check_plain(const std::string& name, TensorRole role) {
    // Null leaves heads to the loader's own guess; what is kept in float32 needs no entry. Routers are linear
    // layers in some versions of a class, and parameters in others.
    if (!is_linear_layer(role) || role == TensorRole::kKeptFloat || role == TensorRole::kEmbeddingOrLinear)
      return;
    if ((!listed_ && role == TensorRole::kHead) || list_.may_name(module_of(name))) return;
    add(role != TensorRole::kRouter, name,
        listed_
            ? fmt::format("is plain, but {} does not name it: a loader builds a 4-bit layer for it", kSkipKey)
            : fmt::format("is plain, but {} is null: a loader builds a 4-bit layer for it", kSkipKey));
  }

  // Of several heads the names do not tell which the model's class has last.
  bool only_head(const std::string& head) const {
    const std::vector<std::string> names = checkpoint_.weight_names();
    return std::none_of(names.begin(), names.end(), [&](const std::string& name) {
      return name != head && name.ends_with(".weight") &&
             roles_.of(name, checkpoint_.weight_shape(name)) == TensorRole::kHead;
    });
  }

  void add(bool error, const std::string& tensor, std::string text) {
    findings_.push_back({error, tensor, std::move(text)});
  }

  const Checkpoint& checkpoint_;
  const TensorRoles roles_;
  std::vector<Finding>& findings_;
  SkipList list_;
  bool listed_ = false;
};

}  // namespace

void check_skip_list(const Checkpoint& checkpoint, const Json& config, std::vector<Finding>* findings) {
  Comparison(checkpoint, config, findings).run();
}

}  // namespace nfloat

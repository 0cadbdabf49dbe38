// SPDX-License-Identifier: Apache-2.0
#include "convert/lora.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>

#include "architecture/tensor_roles.h"
#include "architecture/wrapped_names.h"
#include "base/fail.h"
#include "base/json.h"
#include "convert/adapter_config.h"
#include "convert/adapter_names.h"
#include "convert/output.h"
#include "convert/weights.h"
#include "tensor/floats.h"
#include "tensor/transpose.h"

namespace nfloat {
namespace {

namespace fs = std::filesystem;
constexpr const char* kWeights = "adapter_model.safetensors";
constexpr int64_t kMostAdapterRank = 65536;

std::vector<float> read_values(const Checkpoint& adapter, const TensorInfo& info, size_t rank) {
  if (info.shape.rank() != rank || info.shape.elements() < 1 || !is_quantizable(info.dtype))
    fail(ErrorCode::kMalformedFile, "{}: tensor '{}' is {} {}, expected a {} of F32, F16 or BF16",
         adapter.path(), info.name, dtype_name(info.dtype), info.shape.to_string(),
         rank == 2 ? "matrix" : "vector");
  std::vector<float> values = floats_of(adapter.view(info));
  const auto bad =
      std::find_if(values.begin(), values.end(), [](float value) { return !std::isfinite(value); });
  if (bad != values.end())
    fail(ErrorCode::kNotFinite, "{}: tensor '{}' has a NaN or infinity at {}", adapter.path(), info.name,
         bad - values.begin());
  return values;
}

// The tensors of the adapter that belong to one module.
struct Module {
  const TensorInfo *down = nullptr, *up = nullptr, *up_bias = nullptr, *magnitude = nullptr;
  bool embedding = false;
};

// Whether embedding and head are one matrix: as config.json says or, where it does not, when there is no
// head.
bool ties_head(const Checkpoint& base, const Json& config, const TensorRoles& roles) {
  constexpr const char* kKey = "tie_word_embeddings";
  for (const Json* part : {&config, config.find("text_config")})
    if (part != nullptr && part->contains(kKey) && (*part)[kKey].is_boolean())
      return (*part)[kKey].get<bool>();
  for (const TensorInfo& tensor : base.tensors())
    if (roles.of(tensor.name, tensor.shape) == TensorRole::kHead && roles.may_be_tied(tensor.name))
      return false;
  return !config.empty();
}

class Reader {
 public:
  Reader(const std::string& folder, const Checkpoint& base)
      : config_(folder),
        base_(base),
        base_config_(parse_config(base)),
        model_type_(text_of(base_config_, "model_type")),
        roles_(base_config_),
        names_(base),
        file_(open(folder)) {
    if (ties_head(base, base_config_, roles_)) find_tie();
  }

  std::map<std::string, LoraDelta> read() {
    for (const TensorInfo& info : file_->tensors()) sort(info);
    if (modules_.empty() && deltas_.empty())
      fail(ErrorCode::kMalformedFile, "{}: no LoRA matrices", file_->path());
    for (const std::string& module : config_.whole_modules())
      if (is_of_base(module) && std::none_of(wholes_.begin(), wholes_.end(),
                                             [&](const std::string& whole) { return is_of(whole, module); }))
        fail(ErrorCode::kMalformedFile, "{}: \"modules_to_save\" names '{}', {} has no tensor of it",
             config_.source(), module, file_->path());
    for (const auto& [name, module] : modules_) add(name, module);
    for (const auto& [name, module] : modules_)
      if (module.magnitude != nullptr) add_factors(name, *module.magnitude);
    settle_tie();
    return std::move(deltas_);
  }

  // The head that the merged model has beside its embedding, where the base has one tensor for both.
  const std::string& untied_head() const noexcept { return untied_head_; }
  const std::string& tied_embedding() const noexcept { return embedding_; }

  std::string missing(const std::map<std::string, LoraDelta>& deltas) const {
    std::vector<std::string> modules = linear_module_names(base_, roles_);
    std::erase_if(modules, [&](const std::string& module) { return deltas.contains(module + ".weight"); });
    return config_.missing(modules, file_->path());
  }

 private:
  static std::shared_ptr<const Checkpoint> open(const std::string& folder) {
    const std::string path = (fs::path(folder) / kWeights).string();
    if (!fs::exists(path) && fs::exists(fs::path(folder) / "adapter_model.bin"))
      fail(ErrorCode::kUnsupported,
           "{}/adapter_model.bin: save the adapter as safetensors (save_pretrained does by default)", folder);
    return std::make_shared<const Checkpoint>(path);
  }

  void sort(const TensorInfo& info) {
    const AdapterTensor tensor = tensors_.read(info.name);
    if (tensor.role == AdapterRole::kWhole) return add_whole(tensor.module, info);
    Module& module = modules_[tensor.module];
    const bool embedding =
        tensor.role == AdapterRole::kEmbeddingDown || tensor.role == AdapterRole::kEmbeddingUp;
    module.embedding = module.embedding || embedding;
    const TensorInfo*& place = tensor.role == AdapterRole::kMagnitude ? module.magnitude
                               : tensor.role == AdapterRole::kUpBias  ? module.up_bias
                               : tensor.role == AdapterRole::kUp || tensor.role == AdapterRole::kEmbeddingUp
                                   ? module.up
                                   : module.down;
    place = &info;
  }

  // The table of tokens that is the head too, and what the head would be called beside it.
  // Encoders and decoders share more than two, and compute otherwise without a tie.
  void find_tie() {
    if (base_config_["is_encoder_decoder"] == Json(true)) return;
    std::vector<std::string> tables;
    for (const TensorInfo& tensor : base_.tensors())
      if (roles_.may_be_tied(tensor.name) && tensor.name.ends_with(".weight") && !is_head(tensor.name) &&
          roles_.of(tensor.name, base_.weight_shape(tensor.name)) == TensorRole::kEmbedding)
        tables.push_back(tensor.name);
    if (tables.size() != 1 || tables[0].ends_with("shared.weight") || base_.is_quantized(tables[0])) return;
    embedding_ = tables[0];
    head_ = head_beside(embedding_, roles_.output_embedding());
  }
  bool is_head(const std::string& tensor) const {
    const std::string end = fmt::format("{}.weight", roles_.output_embedding());
    return tensor == end || tensor.ends_with(fmt::format(".{}", end));
  }
  // The tensor of the base that holds a weight.
  const std::string& stored(const std::string& name) const {
    return !head_.empty() && name == head_ ? embedding_ : name;
  }

  // The base's tensor of that name, which can be changed.
  std::string require(const std::string& tensor, const std::string& of) const {
    const std::string name = !head_.empty() && is_head(tensor) ? head_ : names_.find(tensor);
    if (name.empty())
      fail(ErrorCode::kMalformedFile, "{}: {} has no '{}', which '{}' changes{}", file_->path(), base_.path(),
           tensor, of,
           roles_.may_be_tied(tensor) && ties_head(base_, base_config_, roles_)
               ? ": it ties embedding and head, and the adapter was made for a model that does not"
               : "");
    if (!base_.is_quantized(name) && !is_quantizable(base_.find(stored(name))->dtype))
      fail(ErrorCode::kUnsupported,
           "{}: tensor '{}' is {}: an adapter is added to F32, F16, BF16 and 4-bit weights", base_.path(),
           stored(name), base_.stored_type(stored(name)));
    return name;
  }

  LoraDelta& delta_of(const std::string& name) {
    LoraDelta& delta = deltas_[name];
    if (delta.cols > 0) return delta;
    const Shape shape = base_.weight_shape(stored(name));
    delta.cols = shape.rank() < 2 ? 1 : shape[shape.rank() - 1];
    delta.rows = shape.elements() / std::max<int64_t>(1, delta.cols);
    return delta;
  }

  void add_whole(const std::string& tensor, const TensorInfo& info) {
    wholes_.insert(tensor);
    const std::string name = require(tensor, info.name);
    const Shape shape = base_.weight_shape(stored(name));
    if (shape != info.shape || (base_.is_quantized(name) && roles_.is_conv1d(name)))
      fail(ErrorCode::kMalformedFile, "{}: tensor '{}' is {}, {} has {}", file_->path(), info.name,
           info.shape.to_string(), base_.path(), shape.to_string());
    if (!is_quantizable(info.dtype))
      fail(ErrorCode::kUnsupported, "{}: tensor '{}' is {}, expected F32, F16 or BF16", file_->path(),
           info.name, dtype_name(info.dtype));
    LoraDelta& delta = delta_of(name);
    if (delta.whole != nullptr)
      fail(ErrorCode::kMalformedFile, "{}: '{}' and '{}' are both for '{}'", file_->path(), delta.whole->name,
           info.name, name);
    delta.file = file_;
    delta.whole = &info;
  }

  // PEFT goes by the kind of the module; without a configuration its own flag is all there is.
  bool turned(const std::string& name) const {
    if (base_.is_quantized(name)) return false;  // bitsandbytes turns such weights when it quantizes them
    if (model_type_.empty()) return config_.fan_in_fan_out();
    if (roles_.is_conv1d(name)) return true;
    // The flag alone means nothing, but beside a name that GPT-2's relatives give to a Conv1D it may be
    // right.
    if (config_.fan_in_fan_out() && TensorRoles(Json{{"model_type", "gpt2"}}).is_conv1d(name))
      fail(ErrorCode::kUnsupported,
           "{}: whether '{}' of {} models is a Conv1D, held as [in, out], is not known; {} says "
           "\"fan_in_fan_out\"",
           base_.path(), name, model_type_, config_.source());
    return false;
  }

  void add(const std::string& name, const Module& module) {
    const auto need = [&](const TensorInfo* part, const char* what) {
      if (part != nullptr) return;
      const TensorInfo* other = module.down != nullptr        ? module.down
                                : module.up != nullptr        ? module.up
                                : module.magnitude != nullptr ? module.magnitude
                                                              : module.up_bias;
      fail(ErrorCode::kMalformedFile, "{}: '{}' has no {} beside it", file_->path(), other->name, what);
    };
    need(module.down, module.embedding ? "lora_embedding_A" : "lora_A");
    need(module.up, module.embedding ? "lora_embedding_B" : "lora_B");
    if (config_.dora()) need(module.magnitude, "lora_magnitude_vector");
    if (config_.bias_of_up()) need(module.up_bias, "bias of lora_B");
    const auto unasked = [&](const TensorInfo* part, bool asked, const char* key) {
      if (part != nullptr && !asked)
        fail(ErrorCode::kMalformedFile, "{}: there is '{}', but {} does not say \"{}\"", file_->path(),
             part->name, config_.source(), key);
    };
    unasked(module.magnitude, config_.dora(), "use_dora");
    unasked(module.up_bias, config_.bias_of_up(), "lora_bias");

    std::vector<float> down = read_values(*file_, *module.down, 2), up = read_values(*file_, *module.up, 2);
    const int64_t rank = module.down->shape[0], in = module.down->shape[1], out = module.up->shape[0];
    if (rank > kMostAdapterRank || module.up->shape[1] != rank)
      fail(ErrorCode::kMalformedFile, "{}: '{}' is {} and '{}' is {}: the ranks do not agree", file_->path(),
           module.down->name, module.down->shape.to_string(), module.up->name, module.up->shape.to_string());
    const std::string weight = require(fmt::format("{}.weight", name), module.down->name);
    const auto scale = static_cast<float>(config_.scale(name, rank));
    for (float& value : up) value *= scale;
    const Shape shape = base_.weight_shape(stored(weight));
    const bool swap = module.embedding || turned(weight);
    const Shape expected = swap ? Shape({in, out}) : Shape({out, in});
    if (shape != expected)
      fail(ErrorCode::kMalformedFile, "{}: module '{}' is for a weight {}, {} has {}", file_->path(), name,
           expected.to_string(), base_.path(), shape.to_string());
    LoraDelta& delta = delta_of(weight);
    if (delta.rank > 0)
      fail(ErrorCode::kMalformedFile, "{}: two matrix pairs for '{}'", file_->path(), weight);
    delta.rank = rank;
    delta.up = swap ? transposed(down, rank, in) : std::move(up);
    delta.down = swap ? transposed(up, out, rank) : std::move(down);
    delta.factors_of_columns = swap;
    if (module.up_bias != nullptr) add_bias(name, *module.up_bias, scale, out);
  }

  void add_bias(const std::string& name, const TensorInfo& info, float scale, int64_t out) {
    std::vector<float> values = read_values(*file_, info, 1);
    const std::string bias = require(fmt::format("{}.bias", name), info.name);
    if (base_.weight_shape(bias) != Shape({out}) || info.shape != Shape({out}))
      fail(ErrorCode::kMalformedFile, "{}: '{}' is {}, '{}' of {} is {}", file_->path(), info.name,
           info.shape.to_string(), bias, base_.path(), base_.weight_shape(bias).to_string());
    for (float& value : values) value *= scale;
    LoraDelta& delta = delta_of(bias);
    delta.rank = 1;
    delta.up = std::move(values);
    delta.down = {1.0f};
  }

  void add_factors(const std::string& name, const TensorInfo& info) {
    const std::vector<float> magnitudes = read_values(*file_, info, 1);
    const std::string weight = require(fmt::format("{}.weight", name), info.name);
    LoraDelta& delta = deltas_.at(weight);
    const bool columns = delta.factors_of_columns;
    const int64_t rows = delta.rows, cols = delta.cols, outputs = columns ? cols : rows;
    if (std::ssize(magnitudes) != outputs)
      fail(ErrorCode::kMalformedFile, "{}: tensor '{}' is {}, expected [{}]", file_->path(), info.name,
           info.shape.to_string(), outputs);
    const WeightReader base(base_, stored(weight), false, &delta);
    std::vector<double> squares(static_cast<size_t>(outputs));
    Scratch scratch;
    std::vector<float> row(static_cast<size_t>(cols));
    for (int64_t r = 0; r < rows; ++r) {
      base.read_floats(r * cols, row, scratch);
      for (int64_t c = 0; c < cols; ++c)
        squares[static_cast<size_t>(columns ? c : r)] +=
            double{row[static_cast<size_t>(c)]} * double{row[static_cast<size_t>(c)]};
    }
    std::vector<float> factors(squares.size());
    for (size_t i = 0; i < squares.size(); ++i) {
      factors[i] = static_cast<float>(double{magnitudes[i]} / std::sqrt(squares[i]));
      if (!std::isfinite(factors[i]))
        fail(ErrorCode::kNotFinite, "{}: '{}': output {} of '{}' is all zero, and has no direction",
             file_->path(), info.name, i, weight);
    }
    delta.factors = std::move(factors);
  }

  // PEFT trains the two modules of a tied matrix apart unless ensure_weight_tying says otherwise: merged,
  // they are two. Only what it saved of the base itself, beside the adapter, is of both.
  void settle_tie() {
    if (head_.empty()) return refuse_tie();
    const auto embedding = deltas_.find(embedding_), head = deltas_.find(head_);
    const bool has_head = head != deltas_.end();
    if (embedding == deltas_.end() && !has_head) return;
    if (embedding != deltas_.end() && has_head) {
      if (same(embedding->second, head->second)) {
        deltas_.erase(head);
        return;
      }
    } else {
      const LoraDelta& changed = has_head ? head->second : embedding->second;
      const bool of_the_base = changed.whole != nullptr && !is_saved_module(has_head ? head_ : embedding_);
      if (config_.ties_weights() || (of_the_base && changed.rank == 0)) {
        if (has_head) {
          deltas_[embedding_] = std::move(head->second);
          deltas_.erase(head_);
        }
        return;
      }
      if (of_the_base) {
        LoraDelta& other = delta_of(has_head ? embedding_ : head_);
        other.file = changed.file;
        other.whole = changed.whole;
      }
    }
    untied_head_ = head_;
  }

  bool is_saved_module(const std::string& tensor) const {
    return std::any_of(config_.whole_modules().begin(), config_.whole_modules().end(),
                       [&](const std::string& module) { return is_of(tensor, module); });
  }
  // PEFT lists every name that a classifier may have; a model has one of them.
  bool is_of_base(const std::string& module) const {
    const std::vector<std::string> names = base_.weight_names();
    return is_of(head_, module) || std::any_of(names.begin(), names.end(),
                                               [&](const std::string& name) { return is_of(name, module); });
  }
  static bool is_of(const std::string& tensor, const std::string& module) {
    return fmt::format(".{}", tensor).find(fmt::format(".{}.", module)) != std::string::npos;
  }

  // Whether both make the same of one matrix, but for rounding.
  static bool same(const LoraDelta& one, const LoraDelta& other) {
    if (!one.factors.empty() || !other.factors.empty() || (one.whole == nullptr) != (other.whole == nullptr))
      return false;
    std::vector<float> a(static_cast<size_t>(one.cols)), b(a.size());
    for (int64_t row = 0; row < one.rows; ++row) {
      std::fill(a.begin(), a.end(), 0.0f);
      std::fill(b.begin(), b.end(), 0.0f);
      one.apply(row * one.cols, a);
      other.apply(row * one.cols, b);
      for (size_t i = 0; i < a.size(); ++i)
        if (std::abs(a[i] - b[i]) > 1e-5f * (std::abs(a[i]) + 1e-6f)) return false;
    }
    return true;
  }

  void refuse_tie() const {
    if (!ties_head(base_, base_config_, roles_)) return;
    for (const auto& [name, delta] : deltas_)
      if (roles_.may_be_tied(name) && !name.ends_with(".bias"))
        fail(ErrorCode::kUnsupported,
             "{}: the adapter changes '{}', and {} ties embedding and head (\"tie_word_embeddings\"): one "
             "matrix cannot be both; untie the model first",
             file_->path(), name, base_.path());
  }

  const AdapterConfig config_;
  const Checkpoint& base_;
  const Json base_config_;
  const std::string model_type_;
  const TensorRoles roles_;
  const BaseNames names_;
  const std::shared_ptr<const Checkpoint> file_;
  AdapterTensors tensors_{file_->path()};
  std::map<std::string, Module> modules_;
  std::set<std::string> wholes_;
  std::map<std::string, LoraDelta> deltas_;
  std::string embedding_, head_;  // of one matrix that is both; else empty
  std::string untied_head_;
};

}  // namespace

void LoraDelta::apply(int64_t begin, std::span<float> values) const {
  constexpr int64_t kPart = 1024;
  const auto count = static_cast<int64_t>(values.size());
  const bool vector = cols == 1 && rank <= 1 && factors.empty();
  for (int64_t done = 0; done < count;) {
    const int64_t row = (begin + done) / cols, first = (begin + done) % cols;
    const int64_t part = std::min({count - done, vector ? kPart : cols - first, kPart});
    float* to = values.data() + done;
    if (whole != nullptr) {
      std::byte stored[kPart * sizeof(float)];
      const auto bytes = std::span(stored).first(static_cast<size_t>(part) * dtype_bytes(whole->dtype));
      file->read(*whole, static_cast<uint64_t>(begin + done) * dtype_bytes(whole->dtype), bytes);
      convert_elements({whole->dtype, Shape({part}), bytes}, DType::kF32,
                       std::as_writable_bytes(std::span(to, static_cast<size_t>(part))));
    }
    if (vector) {
      if (rank > 0)
        for (int64_t i = 0; i < part; ++i) to[i] += up[static_cast<size_t>(row + i)] * down[0];
      done += part;
      continue;
    }
    float sums[kPart] = {};
    for (int64_t k = 0; k < rank; ++k) {
      const float factor = up[static_cast<size_t>(row * rank + k)];
      const float* from = down.data() + k * cols + first;
      for (int64_t i = 0; i < part; ++i) sums[i] += factor * from[i];
    }
    if (rank > 0)
      for (int64_t i = 0; i < part; ++i) to[i] += sums[i];
    if (!factors.empty())
      for (int64_t i = 0; i < part; ++i)
        to[i] *= factors[static_cast<size_t>(factors_of_columns ? first + i : row)];
    done += part;
  }
}

LoraAdapter::LoraAdapter(const std::string& folder, const Checkpoint& base) {
  Reader reader(folder, base);
  deltas_ = reader.read();
  untied_head_ = reader.untied_head();
  tied_embedding_ = reader.tied_embedding();
  missing_ = reader.missing(deltas_);
}

void LoraAdapter::weigh(double weight) {
  if (weight == 1) return;
  for (auto& [name, delta] : deltas_) {
    if (!delta.factors.empty() || delta.whole != nullptr)
      fail(ErrorCode::kUnsupported, "'{}': what the adapter does to it is no sum that could count {} times",
           name, weight);
    for (float& value : delta.up) value = static_cast<float>(double{value} * weight);
  }
}

const LoraDelta* LoraAdapter::find(const std::string& weight) const noexcept {
  const auto found = deltas_.find(weight);
  return found == deltas_.end() ? nullptr : &found->second;
}

}  // namespace nfloat

// SPDX-License-Identifier: Apache-2.0
#include "tune/adapter.h"

#include <algorithm>
#include <cmath>

#include "architecture/families.h"
#include "base/fail.h"
#include "base/float16.h"
#include "base/parallel.h"
#include "tokenizer/regex.h"
#include "tune/frozen.h"
#include "tune/random.h"

namespace nfloat {
namespace {

constexpr int64_t kLanes = 16;  // ranks are padded to whole vectors

std::string module_name(const char* pattern, int64_t layer) {
  std::string name = layer_tensor(pattern, layer);
  constexpr std::string_view kWeight = ".weight";
  return name.substr(0, name.size() - kWeight.size());
}

// True when the names' last part is `target`, or `target` ends the name behind a dot.
bool ends_in(const std::string& name, const std::string& target) {
  return name == target || (name.size() > target.size() && name.ends_with(target) &&
                            name[name.size() - target.size() - 1] == '.');
}

bool whole_match(const std::string& expression, const std::string& name, const std::string& source) {
  const Regex regex(fmt::format("^({})$", expression), source);
  Match match{};
  return regex.find(name, 0, &match) && match.begin == 0;
}

// The first pattern that matches the module's name or its end behind a dot.
double by_pattern(const std::vector<std::pair<std::string, double>>& patterns, const std::string& name,
                  double otherwise) {
  for (const auto& [pattern, value] : patterns)
    if (whole_match(fmt::format("(.*\\.)?({})", pattern), name, "pattern of ranks or alphas")) return value;
  return otherwise;
}

// Throws for a pattern that no module's name matches.
void expect_met(const std::vector<std::pair<std::string, double>>& patterns, const char* kind,
                const std::vector<LinearModule>& modules) {
  for (const auto& [pattern, value] : patterns) {
    bool met = false;
    for (const LinearModule& module : modules) met = met || by_pattern({{pattern, 1}}, module.name, 0) == 1;
    if (!met)
      fail(ErrorCode::kInvalidArgument, "pattern '{}' of {} matches no trained matrix; the first one is '{}'",
           pattern, kind, modules.front().name);
  }
}

}  // namespace

const LinearGroup& group_at(const LayerWeights& layer, Place place) noexcept {
  switch (place) {
    case Place::kQueryKeyValue:
      return layer.query_key_value;
    case Place::kOutput:
      return layer.output;
    case Place::kGateUp:
      return layer.gate_up;
    default:
      return layer.down;
  }
}

std::vector<LinearModule> linear_modules(const Model::State& model) {
  if (model.streamed())
    fail(ErrorCode::kUnsupported,
         "an adapter beside the weights needs layers that stay in memory, and this model's are read from the "
         "file (--stream-layers, or there is too little memory): write the merged model with nfloat convert "
         "MODEL OUT --lora ADAPTER, and stream OUT");
  return linear_modules(model.config);
}

std::vector<LinearModule> linear_modules(const ModelConfig& config) {
  const FamilyTensors& names = find_family(config.family)->tensors;
  const int64_t query = config.query_size(), kv = config.kv_size(), width = config.intermediate;
  std::vector<LinearModule> modules;
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    if (config.layer(layer).experts)
      fail(ErrorCode::kUnsupported,
           "layer {} of this {} model is a mixture of experts: models whose layers are linear are trained",
           layer, config.family);
    struct Part {
      const char* pattern;
      int64_t out;
    };
    const auto add = [&](Place place, int64_t in, std::initializer_list<Part> parts) {
      size_t part = 0;
      int64_t first = 0;
      for (const auto& [pattern, out] : parts) {
        if (pattern == nullptr) continue;
        modules.push_back({.name = module_name(pattern, layer),
                           .layer = layer,
                           .place = place,
                           .part = part++,
                           .first = first,
                           .in = in,
                           .out = out});
        first += out;
      }
    };
    add(Place::kQueryKeyValue, config.hidden,
        {{names.query_key_value, query + 2 * kv}, {names.query, query}, {names.key, kv}, {names.value, kv}});
    add(Place::kOutput, query, {{names.output, config.hidden}});
    add(Place::kGateUp, config.hidden, {{names.gate_up, 2 * width}, {names.gate, width}, {names.up, width}});
    add(Place::kDown, width, {{names.down, config.hidden}});
  }
  return modules;
}

int64_t padded_rank(int64_t rank) noexcept {
  return (rank + kLanes - 1) / kLanes * kLanes;
}

int64_t rank_of(const LinearModule& module, const TrainOptions& options) {
  const auto rank =
      static_cast<int64_t>(by_pattern(options.rank_pattern, module.name, static_cast<double>(options.rank)));
  if (rank < 1 || rank > std::min<int64_t>(module.in, 65536))
    fail(ErrorCode::kInvalidArgument, "rank {} of '{}' is not between 1 and {}, its inputs", rank,
         module.name, module.in);
  return rank;
}

std::vector<LinearModule> chosen_modules(const ModelConfig& config, const TrainOptions& options) {
  std::vector<LinearModule> all = linear_modules(config), result;
  const bool everything =
      options.targets.empty() || (options.targets.size() == 1 && options.targets[0] == "all-linear");
  std::vector<bool> met(options.targets.size(), everything);
  for (LinearModule& module : all) {
    bool wanted = everything;
    for (size_t i = 0; i < options.targets.size() && !everything; ++i) {
      const std::string& target = options.targets[i];
      const bool plain = target.find_first_of("^$*+?()[]{}|\\") == std::string::npos;
      if (!(plain ? ends_in(module.name, target) : whole_match(target, module.name, "--targets"))) continue;
      met[i] = wanted = true;
    }
    if (wanted && !options.layers.empty())
      wanted = std::find(options.layers.begin(), options.layers.end(), module.layer) != options.layers.end();
    if (wanted) result.push_back(std::move(module));
  }
  for (size_t i = 0; i < met.size(); ++i)
    if (!met[i])
      fail(ErrorCode::kInvalidArgument, "target '{}' is no matrix of the layers; the first one is '{}'",
           options.targets[i], linear_modules(config).front().name);
  for (const int64_t layer : options.layers)
    if (layer < 0 || layer >= config.layers)
      fail(ErrorCode::kInvalidArgument, "layer {} is not there: the model has {}, counted from 0", layer,
           config.layers);
  if (result.empty()) fail(ErrorCode::kInvalidArgument, "no matrix is left to train");
  expect_met(options.rank_pattern, "ranks", result);
  expect_met(options.alpha_pattern, "alphas", result);
  return result;
}

LoraModule::LoraModule(LinearModule module, int64_t rank, double alpha, double scale)
    : module_(std::move(module)),
      rank_(rank),
      padded_(nfloat::padded_rank(rank)),
      alpha_(alpha),
      scale_(static_cast<float>(scale)) {
  const auto inputs = static_cast<size_t>(module_.in), outputs = static_cast<size_t>(module_.out);
  const auto ranks = static_cast<size_t>(rank), padded = static_cast<size_t>(padded_);
  a.resize(ranks * inputs);
  b.resize(outputs * ranks);
  a_gradient.resize(a.size());
  b_transposed_gradient.resize(b.size());
  a_transposed_.resize(inputs * padded);
  b_transposed_.resize(b.size());
  b_padded_.resize(outputs * padded);
}

void LoraModule::use_pairs(bool pairs) {
  if (pairs == pairs_) return;
  pairs_ = pairs;
  const auto inputs = static_cast<size_t>(module_.in), outputs = static_cast<size_t>(module_.out);
  const auto padded = static_cast<size_t>(padded_);
  const auto resize = [](auto& values, size_t size) {
    values.resize(size);
    values.shrink_to_fit();
  };
  resize(a_pairs_, pairs ? inputs / 2 * padded : 0);
  resize(b_pairs_, pairs ? outputs / 2 * padded : 0);
  resize(a_transposed_, pairs ? 0 : inputs * padded);
  resize(b_transposed_, pairs ? 0 : b.size());
  resize(b_padded_, pairs ? 0 : outputs * padded);
  refresh();
}

void LoraModule::refresh() noexcept {
  if (pairs_) {
    constexpr int64_t kTwoPanels = 2 * kLanes;
    const auto pack = [&](int64_t terms, auto&& value, uint32_t* to) {
      for (int64_t first = 0; first < padded_; first += kTwoPanels) {
        const int64_t width = std::min(kTwoPanels, padded_ - first), count = std::min(width, rank_ - first);
        for (int64_t l = 0; l < terms / 2; ++l, to += width)
          for (int64_t r = 0; r < count; ++r)
            to[r] = static_cast<uint32_t>(float_to_bf16(value(2 * l, first + r))) |
                    static_cast<uint32_t>(float_to_bf16(value(2 * l + 1, first + r))) << 16;
      }
    };
    pack(
        module_.in, [&](int64_t i, int64_t r) { return a[static_cast<size_t>(r * module_.in + i)]; },
        a_pairs_.data());
    pack(
        module_.out, [&](int64_t o, int64_t r) { return scale_ * b[static_cast<size_t>(o * rank_ + r)]; },
        b_pairs_.data());
    return;
  }
  for (int64_t r = 0; r < rank_; ++r)
    for (int64_t i = 0; i < module_.in; ++i)
      a_transposed_[static_cast<size_t>(i * padded_ + r)] = a[static_cast<size_t>(r * module_.in + i)];
  for (int64_t o = 0; o < module_.out; ++o)
    for (int64_t r = 0; r < rank_; ++r) {
      const float value = b[static_cast<size_t>(o * rank_ + r)];
      b_transposed_[static_cast<size_t>(r * module_.out + o)] = value;
      b_padded_[static_cast<size_t>(o * padded_ + r)] = value;
    }
}

void LoraModule::clear_gradients() noexcept {
  std::fill(a_gradient.begin(), a_gradient.end(), 0.0f);
  std::fill(b_transposed_gradient.begin(), b_transposed_gradient.end(), 0.0f);
  std::fill(magnitude_gradient.begin(), magnitude_gradient.end(), 0.0f);
}

void LoraModule::start_magnitude(const LinearGroup& group, FrozenProducts& products) {
  const auto outputs = static_cast<size_t>(module_.out);
  magnitude.resize(outputs);
  magnitude_gradient.assign(outputs, 0.0f);
  factors.assign(outputs, 1.0f);
  squares_.resize(outputs);
  over_decoded_rows(products, group, module_.part, [&](int64_t o, const float* row) {
    double sum = 0;
    for (int64_t i = 0; i < module_.in; ++i) sum += static_cast<double>(row[i]) * static_cast<double>(row[i]);
    squares_[static_cast<size_t>(o)] = sum;
    magnitude[static_cast<size_t>(o)] = static_cast<float>(std::sqrt(sum));
  });
}

// |W_o + s B_o A|^2 = |W_o|^2 + 2 s B_o (A W_o) + s^2 B_o (A A^T) B_o: no matrix of W's size is made.
void LoraModule::update_factors(const LinearGroup& group, FrozenProducts& products, int threads) {
  const auto ranks = static_cast<size_t>(rank_), inputs = static_cast<size_t>(module_.in),
             outputs = static_cast<size_t>(module_.out);
  std::vector<float> along(ranks * outputs);  // A W^T, [rank][out]
  products.multiply_part(group, module_.part, {a.data(), module_.in}, rank_, along.data());
  std::vector<double> squares(ranks * ranks);  // A A^T
  // Row r has r + 1 sums: the longest rows begin first.
  parallel_for(rank_, 1, threads, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const auto r = static_cast<size_t>(rank_ - 1 - row);
      for (size_t q = 0; q <= r; ++q) {
        double sum = 0;
        for (size_t i = 0; i < inputs; ++i)
          sum += static_cast<double>(a[r * inputs + i]) * static_cast<double>(a[q * inputs + i]);
        squares[r * ranks + q] = squares[q * ranks + r] = sum;
      }
    }
  });
  const auto s = static_cast<double>(scale_);
  parallel_for(module_.out, kLanes, threads, [&](int64_t begin, int64_t end) {
    for (auto o = static_cast<size_t>(begin); o < static_cast<size_t>(end); ++o) {
      double sum = squares_[o];
      for (size_t r = 0; r < ranks; ++r) {
        const double up = s * static_cast<double>(b[o * ranks + r]);
        sum += 2 * up * static_cast<double>(along[r * outputs + o]);
        for (size_t q = 0; q < ranks; ++q)
          sum += up * s * static_cast<double>(b[o * ranks + q]) * squares[r * ranks + q];
      }
      factors[o] = static_cast<float>(static_cast<double>(magnitude[o]) / std::sqrt(std::max(sum, 1e-30)));
    }
  });
}

std::vector<float> LoraModule::b_gradient() const {
  std::vector<float> result(b.size());
  for (int64_t r = 0; r < rank_; ++r)
    for (int64_t o = 0; o < module_.out; ++o)
      result[static_cast<size_t>(o * rank_ + r)] =
          b_transposed_gradient[static_cast<size_t>(r * module_.out + o)];
  return result;
}

std::span<LoraModule> Adapter::of(int64_t layer, Place place) noexcept {
  const auto [begin, end] = ranges_[static_cast<size_t>(layer) * kPlaces + static_cast<size_t>(place)];
  return {modules.data() + begin, end - begin};
}

void Adapter::index(int64_t layers) {
  ranges_.assign(static_cast<size_t>(layers) * kPlaces, {0, 0});
  lowest_layer = layers;
  for (size_t i = 0; i < modules.size(); ++i) {
    const LinearModule& at = modules[i].at();
    auto& [begin, end] = ranges_[static_cast<size_t>(at.layer) * kPlaces + static_cast<size_t>(at.place)];
    if (begin == end) begin = i;
    end = i + 1;
    lowest_layer = std::min(lowest_layer, at.layer);
  }
}

int64_t Adapter::parameters() const noexcept {
  int64_t total = 0;
  for (const LoraModule& module : modules)
    total += static_cast<int64_t>(module.a.size() + module.b.size() + module.magnitude.size());
  return total;
}

Adapter make_adapter(const Model::State& model, const TrainOptions& options) {
  Adapter adapter;
  uint64_t number = 0;
  FrozenProducts products(*model.device, false, Precision::kF32, model.options.threads);
  if (model.streamed())
    fail(ErrorCode::kUnsupported,
         "a model whose layers are streamed is not trained: every step needs them all");
  for (LinearModule& module : chosen_modules(model.config, options)) {
    const int64_t rank = rank_of(module, options);
    const double alpha = by_pattern(options.alpha_pattern, module.name, options.alpha);
    const double ranks = static_cast<double>(rank);
    const double bound = 1.0 / std::sqrt(static_cast<double>(module.in));
    LoraModule lora(std::move(module), rank, alpha,
                    alpha / (options.rank_stabilized ? std::sqrt(ranks) : ranks));
    for (size_t i = 0; i < lora.a.size(); ++i)
      lora.a[i] = static_cast<float>(bound * (2 * uniform(options.seed, RandomUse::kStart, number, i) - 1));
    if (options.dora)
      lora.start_magnitude(group_at(model.layers[static_cast<size_t>(lora.at().layer)], lora.at().place),
                           products);
    lora.refresh();
    adapter.modules.push_back(std::move(lora));
    ++number;
  }
  adapter.index(model.config.layers);
  return adapter;
}

}  // namespace nfloat

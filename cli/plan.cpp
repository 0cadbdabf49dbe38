// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <filesystem>

#include "base/json.h"
#include "commands.h"
#include "convert_options.h"
#include "model_options.h"
#include "nfloat/checkpoint.h"
#include "nfloat/memory_plan.h"
#include "nfloat/results.h"
#include "nfloat/train.h"
#include "notes.h"
#include "plan_device.h"
#include "plan_ranks.h"
#include "table.h"
#include "train_options.h"

namespace nfloat::cli {
namespace {

struct Options {
  std::string path, memory, device, loss = "sft";
  int64_t context = 0;
  bool json = false, train = false;
  std::string precision = "f32";
  TrainOptions training;
  double weight_bits = 4.5;
  RankPlanOptions ranks;
  // Options that count only with another one; "": without --train.
  struct Bound {
    const char *name, *with;
    Option option;
  };
  std::vector<Bound> bound;
};

// Throws where an option would be ignored.
void expect_options_that_count(const Options& options) {
  for (const auto& [name, with, option] : options.bound) {
    if (!option.given()) continue;
    const std::string_view needed = with;
    if (options.train && needed != "--train")
      throw UsageError(fmt::format("plan: {} does not go with --train", name));
    if ((needed == "--train" && !options.train) || (needed == "--ranks" && options.ranks.memory.empty()) ||
        (needed == "--read" && options.ranks.read.empty()))
      throw UsageError(fmt::format("plan: {} goes with {}", name, needed));
  }
}

const char* level_name(Recompute level) noexcept {
  return level == Recompute::kNone ? "none" : level == Recompute::kCheap ? "cheap" : "full";
}

// What a config.json says of the weights' numbers; without a word float16, with which most is kept.
DType plain_dtype(const std::string& config) {
  const Json whole = Json::parse(config, {.python_numbers = true});
  for (const Json* part : {whole.find("text_config"), &whole})
    for (const char* key : {"dtype", "torch_dtype"}) {
      const Json* found = part != nullptr ? part->find(key) : nullptr;
      if (found == nullptr || !found->is_string()) continue;
      const std::string& name = found->text();
      return name == "bfloat16" ? DType::kBF16 : name == "float32" ? DType::kF32 : DType::kF16;
    }
  return DType::kF16;
}

// What `nfloat train` will need with the same options.
void plan_training(const Options& options) {
  std::optional<DeviceInfo> device;
  if (!options.device.empty()) {
    device = device_info(chosen_device(options.device));
    if (!device->free_bytes) device.reset();
  }
  TrainOptions training = options.training;
  training.objective = train_objective(options.loss);
  training.bf16 = options.precision == "bf16";
  const uint64_t memory = options.memory.empty() ? 0 : parse_bytes(options.memory, "--memory");
  std::string path = resolve_model_path(options.path);
  if (std::filesystem::is_directory(path)) path = (std::filesystem::path(path) / "config.json").string();
  const std::string text = read_text(path, size_t{16} << 20);
  const ModelConfig config = parse_model_config(text, path);
  const std::vector<TrainMemory> levels =
      plan_train_memory(config, training, options.weight_bits, plain_dtype(text), device.has_value());
  if (options.json) {
    Json json = {{"trained_parameters", levels[0].parameters}, {"tokens", levels[0].rows}};
    if (device)
      json["device"] = {{"name", device->name},
                        {"model", device->model},
                        {"needed_bytes", levels[0].device_bytes},
                        {"free_bytes", *device->free_bytes}};
    for (const TrainMemory& level : levels)
      json["levels"].push_back({{"recompute", level_name(level.recompute)},
                                {"model_bytes", level.model_bytes},
                                {"adapter_bytes", level.adapter_bytes},
                                {"pass_bytes", level.pass_bytes},
                                {"working_bytes", level.working_bytes},
                                {"peak_bytes", level.peak_bytes()}});
    fmt::print("{}\n", json.dump(2));
    return;
  }
  fmt::print("{} trained numbers; {} tokens go through the model together\n\n", levels[0].parameters,
             levels[0].rows);
  if (device)
    fmt::print(
        "{} ({}) has {} free and is given {}: weights, and rows on their way{}; below is what this "
        "machine keeps\n\n",
        device->name, device->model, format_bytes(*device->free_bytes), format_bytes(levels[0].device_bytes),
        levels[0].device_bytes <= *device->free_bytes ? "" : ", which is more than it has");
  std::vector<Table::Column> columns = {
      {"--recompute", Table::Align::kLeft}, {"model"}, {"adapter"}, {"passes"}, {"other"}, {"peak"}};
  if (memory > 0) columns.push_back({"fits " + format_bytes(memory)});
  Table table(columns);
  for (const TrainMemory& level : levels) {
    std::vector<std::string> cells = {level_name(level.recompute),       format_bytes(level.model_bytes),
                                      format_bytes(level.adapter_bytes), format_bytes(level.pass_bytes),
                                      format_bytes(level.working_bytes), format_bytes(level.peak_bytes())};
    if (memory > 0) cells.push_back(level.peak_bytes() <= memory ? "yes" : "no");
    table.add(std::move(cells));
  }
  fmt::print("{}", table.to_string());
}

void run(const Options& options) {
  if (options.train && !options.ranks.memory.empty())
    throw UsageError("plan: --train is of one machine: --ranks does not go with it");
  expect_options_that_count(options);
  if (options.train) return plan_training(options);
  const uint64_t memory = options.memory.empty() ? 0 : parse_bytes(options.memory, "--memory");
  const ModelSize model = measure_model(resolve_model_path(options.path));
  const int64_t context = options.context > 0 ? options.context : planned_context(model);
  if (!options.ranks.memory.empty()) {
    if (!options.device.empty())
      throw UsageError("plan: several ranks compute on the CPU: --device does not go with --ranks");
    if (memory > 0)
      throw UsageError("plan: --memory is of one machine, --ranks of several: give one of them");
    return plan_ranks(options.ranks, model, context, options.json);
  }
  if (!options.device.empty()) {
    if (memory > 0)
      throw UsageError("plan: --memory says what may be used, --device asks a device: give one of them");
    return plan_on_device(options.device, model, context, options.json);
  }
  const std::vector<MemoryPlanRow> rows = plan_memory(model, memory, context);
  if (options.json) {
    fmt::print("{}\n", memory_plan_json(model, rows, memory, context));
    return;
  }

  const auto millions = [](int64_t count) {
    return fmt::format("{:.2f} M", static_cast<double>(count) / 1e6);
  };
  fmt::print("{}: {} parameters: {} in linear layers, {} embeddings, output head {}, {} other\n",
             model.model_type.empty() ? options.path : model.model_type, millions(model.parameters()),
             millions(model.linear_parameters), millions(model.embedding_parameters),
             model.head_parameters > 0 ? millions(model.head_parameters)
             : model.tied_head         ? "tied to the embeddings"
                                       : "none",
             millions(model.other_parameters));
  const uint64_t state = model.kv_cache_bytes(0, 2);
  const std::string per_token = format_bytes(model.kv_cache_bytes(1, 2) - state);
  if (model.heads > 0)
    fmt::print("{} of {}, {} query and {} key/value heads of {}; a token of context takes {} in f16\n",
               count_of(model.layers, "layer"), model.hidden, model.heads, model.kv_heads, model.head_dim,
               per_token);
  else
    fmt::print("{} of {}\n", count_of(model.layers, "recurrent layer"), model.hidden);
  for (const ModelSize::CachedLayers& cached : model.cached_layers)
    if (cached.window > 0)
      fmt::print("{} of the layers keep at most {}\n", cached.layers, count_of(cached.window, "token"));
  if (state > 0)
    fmt::print("The state of recurrent layers takes {} more, whatever the context\n", format_bytes(state));
  if (!model.not_understood.empty()) fmt::print("{}\n", estimate_remark(model));
  if (!model.why_not.empty()) fmt::print("`generate` does not run it: {}\n", model.why_not);
  for (const std::string& part : model.left_out) fmt::print("Not counted: {}\n", part);
  if (model.experts > 0)
    fmt::print("{}, {} of them at work for a token\n", count_of(model.experts, "expert"),
               model.active_experts);
  if (model.max_context > 0 && context > model.max_context) {
    fmt::print("Note: the model was made for at most {} tokens of context.\n", model.max_context);
  }
  std::vector<Table::Column> columns = {{"format", Table::Align::kLeft},
                                        {"bits/weight"},
                                        {"weights"},
                                        {fmt::format("KV cache ({})", count_of(context, "token"))},
                                        {"peak"}};
  if (memory > 0) {
    columns.push_back({"fits " + format_bytes(memory)});
    columns.push_back({"largest context"});
  }
  Table table(columns);
  for (const MemoryPlanRow& row : rows) {
    std::vector<std::string> cells = {row.format, fmt::format("{:.3f}", row.bits_per_weight),
                                      format_bytes(row.weight_bytes), format_bytes(row.kv_cache_bytes),
                                      format_bytes(row.peak_bytes())};
    if (memory > 0) {
      cells.push_back(row.peak_bytes() <= memory ? "yes" : "no");
      cells.push_back(row.largest_context > 0 ? fmt::format("{}", row.largest_context) : "-");
    }
    table.add(std::move(cells));
  }
  fmt::print(
      "\n{}\nEmbeddings and output head count at 16 bits beside 4-bit weights, as loaders keep them; KV "
      "cache in f16.\n",
      table.to_string());
}

}  // namespace

void add_plan_command(const Command& app) {
  auto options = std::make_shared<Options>();
  const Command command =
      app.add_subcommand("plan", "Compute which formats fit into memory, from config.json alone");
  command.footer(
      "Example:\n"
      "  nfloat plan ./config.json --memory 16GB --context 8192\n"
      "  nfloat plan ./config.json --device vulkan\n"
      "  nfloat plan ./config.json --train --rank 16 --length 2048 --memory 8GB\n"
      "Only config.json is needed, so this works before a download. Weights beside it are "
      "counted.");
  command.add_option("CONFIG", options->path, "config.json, or a model folder").required();
  command.add_option("--memory", options->memory, "Memory that may be used: 16GB, 8GiB");
  command
      .add_option("--ranks", options->ranks.memory,
                  "Memory of each of several machines that run the model together (16GB,8GB,8GB)")
      .list();
  const auto with = [&command, &bound = options->bound](const char* other, const char* name, auto& target,
                                                        const char* help) {
    const Option option = command.add_option(name, target, help);
    bound.push_back({name, other, option});
    return option;
  };
  with("--ranks", "--read", options->ranks.read,
       "With --ranks: GB/s that each reads of its memory (nfloat bench ranks), for tokens a second")
      .list();
  with("--read", "--latency", options->ranks.latency,
       "With --ranks and --read: ms of an exchange between them (nfloat bench ranks)")
      .above_zero()
      .show_default();
  command.add_option("--device", options->device,
                     "What lies on this device and fits into its free memory: cuda, vulkan, vulkan:N, auto");
  with("", "--context", options->context, "Tokens of context (default: the model's, at most 4096)")
      .between(int64_t{1}, int64_t{1} << 30);
  command.add_flag("--train", options->train, "What `nfloat train` needs, for each level of --recompute");
  with("--train", "--loss", options->loss, "With --train: dpo and orpo take two answers a pair")
      .one_of({"sft", "dpo", "orpo"})
      .show_default();
  with("--train", "--rank", options->training.rank, "With --train: of the adapter")
      .between(1, 65536)
      .show_default();
  with("--train", "--length", options->training.length, "With --train: tokens of a row")
      .between(2, int64_t{1} << 24)
      .show_default();
  with("--train", "--rows-per-batch", options->training.rows_per_batch,
       "With --train: rows that go through the model together")
      .above_zero();
  with("--train", "--targets", options->training.targets, "With --train: as of nfloat train").list();
  options->bound.push_back(
      {"--dora", "--train",
       command.add_flag("--dora", options->training.dora, "With --train: as of nfloat train")});
  with("--train", "--precision", options->precision, "With --train: f32 or bf16, as of nfloat train")
      .one_of({"f32", "bf16"})
      .show_default();
  with("--train", "--dropout", options->training.dropout, "With --train: as of nfloat train")
      .between(0.0, 0.99)
      .show_default();
  with("--train", "--weight-bits", options->weight_bits, "With --train: bits of a weight of the layers")
      .between(1.0, 64.0)
      .show_default();
  with("--train", "--threads", options->training.threads, "With --train: 0: all").between(0, 4096);
  command.add_flag("--json", options->json, "Print JSON");
  command.callback_of_ranks([options] { run(*options); });
}

}  // namespace nfloat::cli

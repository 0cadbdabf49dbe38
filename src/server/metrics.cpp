// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <cstdio>

#include "server/server_state.h"

namespace nfloat {
namespace {

uint64_t resident_bytes() noexcept {
  std::FILE* file = std::fopen("/proc/self/statm", "r");
  if (file == nullptr) return 0;
  unsigned long long total = 0, resident = 0;
  const bool read = std::fscanf(file, "%llu %llu", &total, &resident) == 2;
  std::fclose(file);
  return read ? resident * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE)) : 0;
}

// The text format 0.0.4 of Prometheus.
class Exposition {
 public:
  template <typename T>
  void value(const char* name, const char* type, const char* help, T number) {
    head(name, type, help);
    text_ += fmt::format("nfloat:{} {}\n", name, number);
  }
  void head(const char* name, const char* type, const char* help) {
    text_ += fmt::format("# HELP nfloat:{} {}\n# TYPE nfloat:{} {}\n", name, help, name, type);
  }
  template <typename T>
  void labelled(const char* name, const std::string& labels, T number) {
    text_ += fmt::format("nfloat:{}{{{}}} {}\n", name, labels, number);
  }
  void histogram(const char* name, const char* help, const Histogram& values) {
    head(name, "histogram", help);
    uint64_t count = 0;
    for (size_t i = 0; i < values.bounds.size(); ++i) {
      count += values.counts[i];
      text_ += fmt::format("nfloat:{}_bucket{{le=\"{}\"}} {}\n", name, values.bounds[i], count);
    }
    count += values.counts.back();
    text_ += fmt::format("nfloat:{}_bucket{{le=\"+Inf\"}} {}\nnfloat:{}_sum {}\nnfloat:{}_count {}\n", name,
                         count, name, values.sum, name, count);
  }
  std::string take() { return std::move(text_); }

 private:
  std::string text_;
};

std::string label(std::string_view text) {
  std::string out;
  for (const char c : text)
    if (c != '"' && c != '\\' && c != '\n') out += c;
  return out;
}

}  // namespace

Json Server::State::models(const std::string& only) const {
  const std::shared_ptr<ServedModel> model = served();
  if (!only.empty() && only != model->name && model->adapters.count(only) == 0) check_model(*model, only);
  const ModelConfig& config = model->model.config();
  Json one{{"id", model->name},
           {"object", "model"},
           {"created", model->created},
           {"owned_by", "nfloat"},
           {"meta",
            {{"context", model->engine.context()},
             {"context_trained", config.context},
             {"vocabulary", config.vocabulary},
             {"precision", precision_name(model->model.options().precision)},
             {"device", model->model.options().device},
             {"format", model->format},
             {"weight_bytes", model->model.memory().resident_bytes()},
             {"kv_bytes_per_token", model->kv_bytes_per_token},
             {"chat_template", model->chat.has_value()}}}};
  Json list = Json::array({one});
  for (const auto& [name, weights] : model->adapters) {
    one["id"] = name;
    one["parent"] = model->name;
    list.push_back(one);
  }
  if (only.empty()) return {{"object", "list"}, {"data", list}};
  for (const Json& each : list)
    if (each["id"].text() == only) return each;
  return list[0];
}

Json Server::State::properties() const {
  const std::shared_ptr<ServedModel> model = served();
  const SamplerOptions& sampler = model->bounds.defaults;
  return {{"model", model->name},
          {"context", model->engine.context()},
          {"streams", options.streams},
          {"queue", options.queue},
          {"precision", precision_name(model->model.options().precision)},
          {"device", model->model.options().device},
          {"end_tokens", model->ends},
          {"defaults",
           {{"temperature", sampler.temperature},
            {"top_p", sampler.top_p},
            {"top_k", sampler.top_k},
            {"min_p", sampler.min_p},
            {"repetition_penalty", sampler.repetition_penalty},
            {"max_tokens", options.max_tokens > 0 ? options.max_tokens : model->engine.context()}}}};
}

Json Server::State::requests() const {
  using Phase = EngineRequestState::Phase;
  const std::shared_ptr<ServedModel> model = served();
  const EngineStatistics statistics = model->engine.statistics();
  const double time = now();
  Json list = Json::array();
  for (const EngineRequestState& one : model->engine.requests()) {
    Json entry{{"object", "request"},
               {"state", one.phase == Phase::kWaiting   ? "waiting"
                         : one.phase == Phase::kReading ? "reading"
                                                        : "generating"},
               {"choices", one.choices},
               {"seconds", std::max(0.0, time - one.submitted)},
               {"prompt_tokens", one.prompt_tokens},
               {"cached_tokens", one.cached_tokens},
               {"completion_tokens", one.generated_tokens},
               {"kv_pages", one.kv_pages}};
    if (const auto found = live.find(one.number); found != live.end()) {
      entry["id"] = found->second.first->id;
      entry["model"] = found->second.first->model;
      entry["prompt_index"] = found->second.second;
      entry["stream"] = found->second.first->stream;
    }
    list.push_back(std::move(entry));
  }
  const uint64_t page = std::max<uint64_t>(statistics.kv_page_bytes, 1);
  return {{"object", "list"},
          {"running", statistics.running},
          {"waiting", statistics.waiting},
          {"streams", options.streams},
          {"queue", options.queue},
          {"kv",
           {{"page_tokens", statistics.kv_page_tokens},
            {"page_bytes", statistics.kv_page_bytes},
            {"pages_used", statistics.kv_bytes_used / page},
            {"pages_limit", statistics.kv_bytes_limit / page}}},
          {"data", std::move(list)}};
}

std::string Server::State::metrics() const {
  Exposition out;
  out.head("requests_total", "counter", "Answers by HTTP status.");
  for (const auto& [status, count] : answers)
    out.labelled("requests_total", fmt::format("status=\"{}\"", status), count);
  out.value("process_resident_memory_bytes", "gauge", "Memory that the process holds.", resident_bytes());
  std::shared_ptr<ServedModel> model;
  {
    const std::scoped_lock lock(mutex);
    model = opened;
  }
  if (!model) return out.take();
  const EngineStatistics now = model->engine.statistics();
  out.head("model_info", "gauge", "The model that is served.");
  out.labelled(
      "model_info",
      fmt::format("model=\"{}\",format=\"{}\",context=\"{}\",precision=\"{}\",device=\"{}\"",
                  label(model->name), label(model->format), model->engine.context(),
                  precision_name(model->model.options().precision), label(model->model.options().device)),
      1);
  out.value("requests_running", "gauge", "Requests with a sequence at work.", now.running);
  out.value("requests_waiting", "gauge", "Requests in the queue.", now.waiting);
  out.head("requests_cancelled_total", "counter", "Requests that ended before their answer.");
  out.labelled("requests_cancelled_total", "reason=\"gone\"", now.cancelled);
  out.labelled("requests_cancelled_total", "reason=\"failed\"", now.failed);
  out.labelled("requests_cancelled_total", "reason=\"queue_full\"", now.refused);
  out.value("prompt_tokens_total", "counter", "Tokens of prompts.", now.prompt_tokens);
  out.value("prompt_tokens_cached_total", "counter", "Of those, found in kept keys and values.",
            now.cached_tokens);
  out.value("generated_tokens_total", "counter", "Tokens generated.", now.generated_tokens);
  out.value("guessed_tokens_total", "counter", "Tokens that were computed before they were chosen.",
            now.guessed_tokens);
  out.value("guessed_tokens_right_total", "counter", "Of those, chosen afterwards.", now.guessed_right);
  out.value("steps_total", "counter", "Batches run.", now.steps);
  out.value("preemptions_total", "counter", "Sequences that had to give their memory back.", now.preempted);
  out.value("kv_bytes_used", "gauge", "Keys and values, kept prefixes included.", now.kv_bytes_used);
  out.value("kv_bytes_limit", "gauge", "Their budget.", now.kv_bytes_limit);
  out.value("kv_cache_usage_perc", "gauge", "Used part of the budget, 0 to 1.",
            static_cast<double>(now.kv_bytes_used) / static_cast<double>(now.kv_bytes_limit));
  out.value("engine_up", "gauge", "1: the engine works; 0: it failed, or its step does not end.",
            model->engine.failure().empty() && !stalls.stalled(this->now(), now.step_began) ? 1 : 0);
  out.value("engine_stalls_total", "counter", "Steps that took longer than a step may.", stalls.count());
  out.value("step_running_seconds", "gauge", "How long the batch at work has run; 0: none runs.",
            now.step_began ? this->now() - *now.step_began : 0.0);
  out.value("last_step_age_seconds", "gauge", "Time since the last batch ended.",
            this->now() - now.last_step);
  out.histogram("time_to_first_token_seconds", "From a request to its first token.", now.first_token_seconds);
  out.histogram("inter_token_latency_seconds", "Between two tokens of a sequence.",
                now.between_tokens_seconds);
  out.histogram("queue_time_seconds", "From a request to its first step.", now.queue_seconds);
  out.histogram("request_duration_seconds", "From a request to its end.", now.request_seconds);
  out.histogram("step_duration_seconds", "Of a batch.", now.step_seconds);
  out.histogram("grammar_mask_seconds", "To know which tokens a grammar allows.", now.mask_seconds);
  out.histogram("batch_rows", "Tokens of a batch.", now.rows);
  return out.take();
}

}  // namespace nfloat

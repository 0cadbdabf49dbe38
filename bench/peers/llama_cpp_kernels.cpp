// SPDX-License-Identifier: Apache-2.0
// llama.cpp's kernels on the shapes of `nfloat bench kernels`, for bench/peers/run, which compiles this
// against the packaged libraries.
//   llama_cpp_kernels LIBRARIES THREADS SECONDS MIB
// prints one JSON object for each type, buffer (as stored, or a layout that llama.cpp repacks to) and shape.
// Products rotate over MIB of weights; SECONDS go to each row.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml.h"

namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Median seconds of body() in at least three calls and `seconds`, after one that does not count.
template <typename Body>
double median_seconds(double seconds, const Body& body) {
  std::vector<double> all;
  body();
  const Clock::time_point begin = Clock::now();
  while (all.size() < 3 || since(begin) < seconds) {
    const Clock::time_point start = Clock::now();
    body();
    all.push_back(since(start));
  }
  std::nth_element(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(all.size() / 2), all.end());
  return all[all.size() / 2];
}

std::vector<float> normal_row(int64_t count) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> row(static_cast<size_t>(count));
  for (float& value : row) value = 0.02f * normal(random);
  return row;
}

struct Machine {
  ggml_backend_dev_t device;
  ggml_backend_t backend;
  std::vector<ggml_backend_buffer_type_t> layouts;  // as stored, then the ones it repacks to
  int threads;
  double seconds;
  size_t memory;
};

// Whether weights of this type in this layout can be multiplied, as llama.cpp asks when it loads a model.
bool supports(const Machine& machine, ggml_backend_buffer_type_t layout, ggml_type type, int64_t n,
              int64_t k) {
  ggml_context* context = ggml_init({size_t{1} << 16, nullptr, true});
  ggml_tensor* weights = ggml_new_tensor_2d(context, type, k, n);
  ggml_tensor* x = ggml_new_tensor_2d(context, GGML_TYPE_F32, k, 512);
  ggml_tensor* product = ggml_mul_mat(context, weights, x);
  ggml_backend_buffer_t buffer = ggml_backend_buft_alloc_buffer(layout, 0);
  weights->buffer = buffer;
  const bool yes = ggml_backend_dev_supports_op(machine.device, product);
  ggml_backend_buffer_free(buffer);
  ggml_free(context);
  return yes;
}

void multiply(const Machine& machine, ggml_backend_buffer_type_t layout, ggml_type type, int64_t n, int64_t k,
              const std::vector<int64_t>& row_counts) {
  const size_t bytes = ggml_row_size(type, k) * static_cast<size_t>(n);
  const size_t count = std::max<size_t>(1, (machine.memory + bytes - 1) / bytes);
  ggml_context* context = ggml_init({ggml_tensor_overhead() * count + 1024, nullptr, true});
  std::vector<ggml_tensor*> weights(count);
  for (ggml_tensor*& tensor : weights) tensor = ggml_new_tensor_2d(context, type, k, n);
  ggml_backend_buffer_t buffer = ggml_backend_alloc_ctx_tensors_from_buft(context, layout);
  if (buffer == nullptr) return;
  std::vector<uint8_t> stored(bytes);
  const std::vector<float> row = normal_row(k);
  const size_t row_bytes = ggml_quantize_chunk(type, row.data(), stored.data(), 0, 1, k, nullptr);
  for (int64_t i = 1; i < n; ++i)
    std::memcpy(stored.data() + static_cast<size_t>(i) * row_bytes, stored.data(), row_bytes);
  for (ggml_tensor* tensor : weights) ggml_backend_tensor_set(tensor, stored.data(), 0, bytes);

  for (const int64_t m : row_counts) {
    ggml_context* products = ggml_init(
        {(ggml_tensor_overhead() * 4 + ggml_graph_overhead_custom(4, false)) * (count + 1), nullptr, true});
    ggml_tensor* x = ggml_new_tensor_2d(products, GGML_TYPE_F32, k, m);
    std::vector<ggml_cgraph*> graphs(count);
    for (size_t i = 0; i < count; ++i) {
      graphs[i] = ggml_new_graph_custom(products, 4, false);
      ggml_build_forward_expand(graphs[i], ggml_mul_mat(products, weights[i], x));
    }
    ggml_backend_buffer_t outputs = ggml_backend_alloc_ctx_tensors(products, machine.backend);
    std::vector<float> values(static_cast<size_t>(k * m));
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i * 37 % 101) / 50.0f - 1.0f;
    ggml_backend_tensor_set(x, values.data(), 0, values.size() * sizeof(float));
    size_t next = 0;
    const double seconds = median_seconds(machine.seconds, [&] {
      ggml_backend_graph_compute(machine.backend, graphs[next]);
      next = (next + 1) % count;
    });
    const bool plain = layout == machine.layouts.front();
    std::printf(
        "{\"peer\": \"llama.cpp %s%s%s\", \"operation\": \"multiply\", \"n\": %lld, \"k\": %lld, \"m\": "
        "%lld, "
        "\"threads\": %d, \"seconds\": %.9f}\n",
        ggml_type_name(type), plain ? "" : ", ", plain ? "" : ggml_backend_buft_name(layout),
        static_cast<long long>(n), static_cast<long long>(k), static_cast<long long>(m), machine.threads,
        seconds);
    std::fflush(stdout);
    ggml_backend_buffer_free(outputs);
    ggml_free(products);
  }
  ggml_backend_buffer_free(buffer);
  ggml_free(context);
}

// The quantizer works on one thread; callers of it split rows.
void quantize(ggml_type type, double seconds) {
  constexpr int64_t kRows = 256, kCols = 4096;
  std::vector<float> weights;
  const std::vector<float> row = normal_row(kCols);
  for (int64_t i = 0; i < kRows; ++i) weights.insert(weights.end(), row.begin(), row.end());
  std::vector<uint8_t> stored(ggml_row_size(type, kCols) * kRows);
  const double median = median_seconds(
      seconds, [&] { ggml_quantize_chunk(type, weights.data(), stored.data(), 0, kRows, kCols, nullptr); });
  std::printf(
      "{\"peer\": \"llama.cpp %s\", \"operation\": \"quantize\", \"weights\": %lld, \"threads\": 1, "
      "\"seconds\": %.9f}\n",
      ggml_type_name(type), static_cast<long long>(kRows * kCols), median);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: %s LIBRARIES THREADS SECONDS MIB\n", argv[0]);
    return 2;
  }
  ggml_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
  ggml_backend_load_all_from_path(argv[1]);
  Machine machine{};
  machine.device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
  if (machine.device == nullptr) {
    std::fprintf(stderr, "no library for this processor in %s\n", argv[1]);
    return 1;
  }
  machine.backend = ggml_backend_dev_init(machine.device, nullptr);
  machine.threads = std::atoi(argv[2]);
  machine.seconds = std::atof(argv[3]);
  machine.memory = static_cast<size_t>(std::atof(argv[4]) * 1048576);
  ggml_backend_reg_t registry = ggml_backend_dev_backend_reg(machine.device);
  const auto set_threads = reinterpret_cast<ggml_backend_set_n_threads_t>(
      ggml_backend_reg_get_proc_address(registry, "ggml_backend_set_n_threads"));
  if (set_threads != nullptr) set_threads(machine.backend, machine.threads);
  machine.layouts.push_back(ggml_backend_dev_buffer_type(machine.device));
  const auto extra = reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(
      ggml_backend_reg_get_proc_address(registry, "ggml_backend_dev_get_extra_bufts"));
  if (extra != nullptr)
    for (ggml_backend_buffer_type_t* layout = extra(machine.device); layout != nullptr && *layout != nullptr;
         ++layout)
      machine.layouts.push_back(*layout);
  for (const ggml_type type : {GGML_TYPE_Q4_0, GGML_TYPE_IQ4_NL, GGML_TYPE_Q4_K}) {
    if (machine.threads == 1) quantize(type, machine.seconds);
    bool repacked = false;
    for (size_t i = machine.layouts.size(); i-- > 0;) {
      const ggml_backend_buffer_type_t layout = machine.layouts[i];
      if (i == 0 ? repacked : !supports(machine, layout, type, 4096, 4096)) continue;
      repacked = true;
      multiply(machine, layout, type, 4096, 4096, {1, 8, 64, 512});
      multiply(machine, layout, type, 14336, 4096, {1});
    }
  }
  ggml_backend_free(machine.backend);
  return 0;
}

// SPDX-License-Identifier: Apache-2.0
// oneDNN's dense products (weights in bf16 or int8, 16 or 8 bits each) on the shapes of `nfloat bench
// kernels`: what a processor gives when no weight has to be decoded. Transposed: the gradient of the inputs,
// from the rows of weights that the forward product has too, as there is one copy. For bench/peers/run.
//   onednn_kernels SECONDS MIB     with OMP_NUM_THREADS threads; one JSON object a row
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>
#include <vector>

namespace {

using dnnl::memory;
using Clock = std::chrono::steady_clock;

double since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

void multiply(const char* name, memory::data_type x_type, memory::data_type w_type, memory::data_type y_type,
              int64_t m, double seconds, size_t memory_bytes, bool transposed = false) {
  constexpr int64_t kN = 4096, kK = 4096;
  const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  const memory::desc x_desc({m, kK}, x_type, memory::format_tag::ab);
  // The layout it likes best; transposed, the rows of weights as they lie.
  const auto layout = transposed ? memory::format_tag::ab : memory::format_tag::any;
  const memory::desc w_desc({kK, kN}, w_type, layout);
  const memory::desc y_desc({m, kN}, y_type, memory::format_tag::ab);
  const dnnl::matmul::primitive_desc description(dnnl::matmul::desc(x_desc, w_desc, y_desc), engine);
  const dnnl::matmul product(description);
  const size_t bytes = description.weights_desc().get_size();
  memory x(x_desc, engine), y(y_desc, engine);
  std::memset(x.get_data_handle(), 1, x_desc.get_size());
  std::vector<memory> weights;
  for (size_t i = 0; i < std::max<size_t>(1, memory_bytes / bytes); ++i) {
    weights.emplace_back(description.weights_desc(), engine);
    std::memset(weights.back().get_data_handle(), 1, bytes);
  }
  size_t next = 0;
  const auto call = [&] {
    product.execute(stream, {{DNNL_ARG_SRC, x}, {DNNL_ARG_WEIGHTS, weights[next]}, {DNNL_ARG_DST, y}});
    stream.wait();
    next = (next + 1) % weights.size();
  };
  call();
  std::vector<double> all;
  const Clock::time_point begin = Clock::now();
  while (all.size() < 3 || since(begin) < seconds) {
    const Clock::time_point start = Clock::now();
    call();
    all.push_back(since(start));
  }
  std::nth_element(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(all.size() / 2), all.end());
  std::printf(
      "{\"peer\": \"oneDNN dense %s%s\", \"operation\": \"multiply\", \"n\": %lld, \"k\": %lld, \"m\": %lld, "
      "\"threads\": %d, \"seconds\": %.9f}\n",
      name, transposed ? ", transposed" : "", static_cast<long long>(kN), static_cast<long long>(kK),
      static_cast<long long>(m), omp_get_max_threads(), all[all.size() / 2]);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s SECONDS MIB\n", argv[0]);
    return 2;
  }
  const double seconds = std::atof(argv[1]);
  const size_t bytes = static_cast<size_t>(std::atof(argv[2]) * 1048576);
  using Type = memory::data_type;
  for (const int64_t m : {64, 512}) {
    multiply("bf16", Type::bf16, Type::bf16, Type::f32, m, seconds, bytes);
    multiply("bf16", Type::bf16, Type::bf16, Type::f32, m, seconds, bytes, true);
    multiply("int8", Type::u8, Type::s8, Type::s32, m, seconds, bytes);
  }
  return 0;
}

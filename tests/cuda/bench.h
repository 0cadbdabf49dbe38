// SPDX-License-Identifier: Apache-2.0
// Times of the CUDA kernels on the device, beside the limits of the same card in the same run. Weights rotate
// over at least 1 GiB.
#ifndef NFLOAT_TESTS_CUDA_BENCH_H_
#define NFLOAT_TESTS_CUDA_BENCH_H_

#include <algorithm>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "conformance.h"
#include "cuda/convert.h"
#include "cuda/gemm.h"
#include "cuda/multiply.h"

namespace conformance {

struct Timing {
  double us = 0, spread = 0;  // median, and (p90 - p10) / median
};

// Median time of one call, of `rounds` calls captured into a graph that is replayed; work(i) queues call i.
inline Timing time_graph(int rounds, int replays, const std::function<void(int)>& work) {
  cudaStream_t stream;
  cudaStreamCreate(&stream);
  gpu::launch_stream() = stream;
  for (int i = 0; i < rounds; ++i) work(i);
  cudaStreamSynchronize(stream);
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
  for (int i = 0; i < rounds; ++i) work(i);
  cudaStreamEndCapture(stream, &graph);
  cudaGraphInstantiate(&exec, graph, 0);
  cudaEvent_t begin, end;
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  for (int i = 0; i < 3; ++i) cudaGraphLaunch(exec, stream);
  std::vector<double> times;
  for (int i = 0; i < replays; ++i) {
    cudaEventRecord(begin, stream);
    cudaGraphLaunch(exec, stream);
    cudaEventRecord(end, stream);
    cudaEventSynchronize(end);
    float ms = 0;
    cudaEventElapsedTime(&ms, begin, end);
    times.push_back(double{ms} * 1e3 / rounds);
  }
  std::sort(times.begin(), times.end());
  const size_t n = times.size();
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  cudaStreamDestroy(stream);
  gpu::launch_stream() = nullptr;
  return {times[n / 2], (times[n * 9 / 10] - times[n / 10]) / times[n / 2]};
}

template <typename T>
NFLOAT_KERNEL void fill_random(T* to, int64_t count, uint32_t seed, float scale) {
  for (int64_t i = int64_t{gpu::block_x()} * gpu::threads() + gpu::thread(); i < count;
       i += int64_t{gpu::blocks_x()} * gpu::threads()) {
    uint32_t h = static_cast<uint32_t>(i) * 2654435761u + seed;
    h ^= h >> 16, h *= 0x85ebca6bu, h ^= h >> 13, h *= 0xc2b2ae35u, h ^= h >> 16;
    const float value =
        (static_cast<float>(h & 0xffffu) + static_cast<float>(h >> 16) - 65535.0f) * scale / 65536.0f;
    if constexpr (sizeof(T) == 4) to[i] = static_cast<T>(value);
    if constexpr (sizeof(T) == 2) to[i] = static_cast<T>(gpu::round_bf16(value));
    if constexpr (sizeof(T) == 1) to[i] = static_cast<T>(h);
  }
}

template <typename T>
struct DeviceArray {
  T* data = nullptr;
  DeviceArray(int64_t count, uint32_t seed, float scale) {
    cudaMalloc(&data, static_cast<size_t>(count) * sizeof(T));
    fill_random<<<1024, 256>>>(data, count, seed, scale);
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() { cudaFree(data); }
};

// `copies` matrices of one shape one after the other.
struct Weights {
  int64_t rows, columns;
  bool nested;
  int copies;
  DeviceArray<uint8_t> codes, second;
  DeviceArray<float> scales, tops, map;
  Buffer<float> levels, offset;

  Weights(int64_t r, int64_t c, bool dq, int n)
      : rows(r),
        columns(c),
        nested(dq),
        copies(n),
        codes(r * c / 2 * n, 1, 0),
        second(r * c / 64 * n, 2, 0),
        scales(r * c / 64 * n, 3, 0.02f),
        tops(r * c / 64 / 256 * n + 1, 4, 0.02f),
        map(256, 5, 1.0f),
        levels(nf4_levels()),
        offset(std::vector<float>{0.02f}) {}
  gpu::Nf4 view(int i) const {
    const int64_t n = rows * columns, at = i % copies;
    return {codes.data + at * n / 2,
            nested ? nullptr : scales.data + at * n / 64,
            nested ? second.data + at * n / 64 : nullptr,
            tops.data + at * n / 64 / 256,
            map.data,
            offset.get(),
            levels.get(),
            rows,
            columns,
            6};
  }
  double bytes() const {
    const double n = static_cast<double>(rows) * static_cast<double>(columns);
    return n / 2 + (nested ? n / 64 + n / 64 / 64 : n / 16);
  }
  static int for_gib(int64_t r, int64_t c) { return static_cast<int>((int64_t{1} << 30) / (r * c / 2)) + 1; }
};

NFLOAT_KERNEL void copy_words(const uint4* from, uint4* to, int64_t count) {
  const int64_t stride = int64_t{gpu::blocks_x()} * gpu::threads();
  int64_t i = int64_t{gpu::block_x()} * gpu::threads() + gpu::thread();
  for (; i + 3 * stride < count; i += 4 * stride) {
    uint4 values[4];
    for (int j = 0; j < 4; ++j) values[j] = gpu::load_stream(from + i + j * stride);
    for (int j = 0; j < 4; ++j) gpu::store_stream(to + i + j * stride, values[j]);
  }
}
NFLOAT_KERNEL void read_words(const uint4* from, int64_t count, uint32_t* to) {
  uint32_t sum = 0;
  const int64_t stride = int64_t{gpu::blocks_x()} * gpu::threads();
  for (int64_t i = int64_t{gpu::block_x()} * gpu::threads() + gpu::thread(); i + 7 * stride < count;
       i += 8 * stride) {
    uint4 values[8];
    NFLOAT_UNROLL
    for (int j = 0; j < 8; ++j) values[j] = gpu::load_stream(from + i + j * stride);
    NFLOAT_UNROLL
    for (int j = 0; j < 8; ++j) sum ^= values[j].x ^ values[j].y ^ values[j].z ^ values[j].w;
  }
  if (sum == 0x12345u) *to = sum;
}

struct Row {
  std::string name, shape;
  int m;
  double bits;
  Timing timing;
  double gbs, tflops, share;  // share of the copy rate, or of the matrix rate where one is given
};

struct Limits {
  double copy_gbs = 0, read_gbs = 0, matmul_tflops = 0, launch_us = 0;
};

NFLOAT_KERNEL void nothing() {}

inline Limits measure_limits() {
  Limits limits;
  const int64_t words = int64_t{1} << 27;  // 2 GiB
  DeviceArray<uint32_t> from(words * 4, 1, 1e5f), to(words * 4, 2, 1e5f);
  const double bytes = static_cast<double>(words) * 16;
  const Timing engine = time_graph(1, 20, [&](int) {
    cudaMemcpyAsync(to.data, from.data, static_cast<size_t>(words) * 16, cudaMemcpyDeviceToDevice,
                    gpu::launch_stream());
  });
  const Timing kernel = time_graph(1, 20, [&](int) {
    gpu::launch(copy_words, 132 * 16, 1, 512, 0, reinterpret_cast<const uint4*>(from.data),
                reinterpret_cast<uint4*>(to.data), words);
  });
  const Timing read = time_graph(1, 20, [&](int) {
    gpu::launch(read_words, 132 * 8, 1, 256, 0, reinterpret_cast<const uint4*>(from.data), words, to.data);
  });
  limits.copy_gbs = 2 * bytes / std::min(engine.us, kernel.us) * 1e-3;
  limits.read_gbs = bytes / read.us * 1e-3;
  limits.launch_us = time_graph(200, 20, [&](int) { gpu::launch(nothing, 1, 1, 32, 0); }).us;
  std::printf(
      "limits: copy %.0f GB/s (engine %.0f, kernel %.0f), read %.0f GB/s, an empty launch in a graph %.2f "
      "us\n",
      limits.copy_gbs, 2 * bytes / engine.us * 1e-3, 2 * bytes / kernel.us * 1e-3, limits.read_gbs,
      limits.launch_us);
  return limits;
}

}  // namespace conformance

#endif  // NFLOAT_TESTS_CUDA_BENCH_H_

// SPDX-License-Identifier: Apache-2.0
// Every CUDA kernel against double precision, from fresh random inputs, odd shapes included; outputs are
// poisoned and lie between guards. Compiled by g++ the kernels run in the emulation, by nvcc on the device.
#ifndef NFLOAT_TESTS_CUDA_CONFORMANCE_H_
#define NFLOAT_TESTS_CUDA_CONFORMANCE_H_

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "cuda/nf4.h"

namespace conformance {

using namespace nfloat;  // NOLINT

// The published NF4 table, and its thresholds by the definition: midpoints, a tie goes to the lower level.
inline const std::vector<float>& nf4_levels() {
  static const std::vector<float> levels = {-1.0f,
                                            -0.6961928009986877f,
                                            -0.5250730514526367f,
                                            -0.39491748809814453f,
                                            -0.28444138169288635f,
                                            -0.18477343022823334f,
                                            -0.09105003625154495f,
                                            0.0f,
                                            0.07958029955625534f,
                                            0.16093020141124725f,
                                            0.24611230194568634f,
                                            0.33791524171829224f,
                                            0.44070982933044434f,
                                            0.5626170039176941f,
                                            0.7229568362236023f,
                                            1.0f};
  return levels;
}

inline void synchronize() {
#if defined(__CUDACC__)
  cudaDeviceSynchronize();
#endif
}

// What the machine says went wrong since the last call; empty if nothing.
inline std::string machine_fault() {
#if defined(__CUDACC__)
  const cudaError_t error = cudaDeviceSynchronize();
  const cudaError_t last = cudaGetLastError();
  if (error == cudaSuccess && last == cudaSuccess) return "";
  return cudaGetErrorString(error != cudaSuccess ? error : last);
#else
  std::string fault = gpu::machine().fault;
  gpu::machine().fault.clear();
  return fault;
#endif
}

// Memory of the device behind a guard, poisoned where the test gives no values; before another guard, or in
// the emulation before a page that nobody may touch.
template <typename T>
class Buffer {
 public:
  explicit Buffer(size_t count) : Buffer(std::vector<T>(), count) {}
  explicit Buffer(const std::vector<T>& values) : Buffer(values, values.size()) {}
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() {
#if defined(__CUDACC__)
    cudaFree(memory_);
#else
    gpu::give_back(memory_, bytes_);
#endif
  }

  T* get() const {
    return reinterpret_cast<T*>(memory_ + kGuard);
  }

  std::vector<T> read() const {
    std::vector<T> values(count_);
    copy(values.data(), memory_ + kGuard, count_ * sizeof(T));
    return values;
  }
  // False when something wrote beside it.
  bool guards_whole() const {
    std::vector<unsigned char> all(bytes_);
    copy(all.data(), memory_, bytes_);
    for (size_t i = 0; i < bytes_; ++i)
      if ((i < kGuard || i >= kGuard + count_ * sizeof(T)) && all[i] != 0xff) return false;
    return true;
  }

 private:
  static constexpr size_t kGuard = 1024;
#if defined(__CUDACC__)
  static constexpr size_t kBehind = kGuard, kWhole = 256;
#else
  static constexpr size_t kBehind = 0, kWhole = 16;
#endif

  Buffer(const std::vector<T>& values, size_t count)
      : count_(count), bytes_(kGuard + kBehind + (count * sizeof(T) + kWhole - 1) / kWhole * kWhole) {
    std::vector<unsigned char> all(bytes_, 0xff);
    if (!values.empty()) std::memcpy(all.data() + kGuard, values.data(), count * sizeof(T));
#if defined(__CUDACC__)
    cudaMalloc(&memory_, bytes_);
    cudaMemcpy(memory_, all.data(), bytes_, cudaMemcpyHostToDevice);
#else
    memory_ = static_cast<unsigned char*>(gpu::allocate_exactly(bytes_));
    std::memcpy(memory_, all.data(), bytes_);
#endif
  }
  static void copy(void* to, const void* from, size_t bytes) {
#if defined(__CUDACC__)
    cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost);
#else
    std::memcpy(to, from, bytes);
#endif
  }

  size_t count_, bytes_;
  unsigned char* memory_ = nullptr;
};

inline float bf16(uint16_t bits) {
  const uint32_t wide = uint32_t{bits} << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}
inline uint16_t to_bf16(float value) {  // finite values; nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

struct Random {
  std::mt19937 engine;
  float normal() { return std::normal_distribution<float>()(engine); }
  std::vector<float> normals(size_t count, float scale = 1.0f) {
    std::vector<float> values(count);
    for (float& value : values) value = scale * normal();
    return values;
  }
  std::vector<uint16_t> bf16s(size_t count, float scale = 1.0f) {
    std::vector<uint16_t> values(count);
    for (uint16_t& value : values) value = to_bf16(scale * normal());
    return values;
  }
  std::vector<uint8_t> bytes(size_t count) {
    std::vector<uint8_t> values(count);
    for (uint8_t& value : values) value = static_cast<uint8_t>(engine());
    return values;
  }
};

// What a 4-bit matrix is made of: random codes and scales, negative ones among them, which a test may change.
struct MatrixParts {
  std::vector<uint8_t> codes, nested_codes;
  std::vector<float> scales, absmax, levels, map;
  float offset = 0.011f;

  MatrixParts(int64_t rows, int64_t columns, int shift, Random& random)
      : codes(random.bytes(static_cast<size_t>((rows * columns + 1) / 2))), levels(nf4_levels()), map(256) {
    const auto blocks = static_cast<size_t>((rows * columns + (int64_t{1} << shift) - 1) >> shift);
    scales = random.normals(blocks, 0.02f);
    nested_codes = random.bytes(blocks);
    absmax = random.normals((blocks + 255) / 256, 0.02f);
    for (int i = 0; i < 256; ++i) map[static_cast<size_t>(i)] = static_cast<float>(i - 128) / 127.0f;
  }
};

// It on the host in double and on the device.
struct Matrix {
  int64_t rows, columns;
  int block_shift;
  bool nested;
  MatrixParts host;
  Buffer<uint8_t> codes;
  Buffer<float> levels, scales, absmax, map, offset;
  Buffer<uint8_t> nested_codes;

  Matrix(int64_t r, int64_t c, int shift, bool dq, Random& random)
      : Matrix(r, c, shift, dq, MatrixParts(r, c, shift, random)) {}

  Matrix(int64_t r, int64_t c, int shift, bool dq, const MatrixParts& parts)
      : rows(r),
        columns(c),
        block_shift(shift),
        nested(dq),
        host(parts),
        codes(parts.codes),
        levels(parts.levels),
        scales(parts.scales),
        absmax(parts.absmax),
        map(parts.map),
        offset(std::vector<float>{parts.offset}),
        nested_codes(parts.nested_codes) {}

  gpu::Nf4 view() const {
    return {codes.get(),
            nested ? nullptr : scales.get(),
            nested ? nested_codes.get() : nullptr,
            absmax.get(),
            map.get(),
            offset.get(),
            levels.get(),
            rows,
            columns,
            block_shift};
  }
  double at(int64_t i) const {
    const uint8_t byte = host.codes[static_cast<size_t>(i / 2)];
    const auto block = static_cast<size_t>(i >> block_shift);
    const double scale = nested
                             ? double{host.map[host.nested_codes[block]]} * double{host.absmax[block / 256]} +
                                   double{host.offset}
                             : double{host.scales[block]};
    return double{host.levels[i % 2 == 0 ? byte >> 4 : byte & 15]} * scale;
  }
};

// Collects what fails, one line a case.
struct Report {
  int passed = 0, failed = 0;
  bool quiet = false, until_failure = false;
  std::vector<std::string> failures;

  void add(const std::string& name, bool good, const std::string& detail) {
    const std::string fault = machine_fault();
    good = good && fault.empty();
    ++(good ? passed : failed);
    if (!good) failures.push_back(name + ": " + detail + (fault.empty() ? "" : "; " + fault));
    if (!quiet || !good)
      std::printf("%s %s: %s%s\n", good ? "ok  " : "FAIL", name.c_str(), detail.c_str(),
                  fault.empty() ? "" : ("; " + fault).c_str());
    if (!good && until_failure) std::exit(1);
  }
};

// |got - expected| against `bound` times the sum of magnitudes that went into each value, and the relative
// error of all. Of magnitudes that are not finite nothing finite may come, and of others nothing else.
struct Errors {
  double worst = 0, squares = 0, reference = 0;
  bool whole = true;
  void take(double got, double expected, double magnitudes) {
    if (!std::isfinite(magnitudes)) {
      if (std::isfinite(got)) whole = false;
      return;
    }
    if (!(std::fabs(got) < 1e30)) whole = false;
    const double error = std::fabs(got - expected);
    if (magnitudes > 0) worst = std::max(worst, error / magnitudes);
    squares += error * error;
    reference += expected * expected;
  }
  double relative() const { return std::sqrt(squares / std::max(reference, 1e-300)); }
  bool within(double bound, double rms) const { return whole && worst <= bound && relative() <= rms; }
  std::string text() const {
    char out[96];
    std::snprintf(out, sizeof out, "%.2e of the magnitudes, rms %.2e%s", worst, relative(),
                  whole ? "" : ", finite where it may not be, or not where it must");
    return out;
  }
};

}  // namespace conformance

#endif  // NFLOAT_TESTS_CUDA_CONFORMANCE_H_

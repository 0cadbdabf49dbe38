// SPDX-License-Identifier: Apache-2.0
// Runs CUDA kernels on a CPU, to test them where no GPU is: the threads of a block are fibers, warps and
// lanes go on in a random order between two barriers, shared memory is poisoned before every block, and what
// a GPU would leave undefined (lanes that part ways at an exchange, threads that miss a barrier, writes
// behind shared memory) is reported. Not modelled: memory ordering between blocks, and speed.
#ifndef NFLOAT_CUDA_EMULATE_H_
#define NFLOAT_CUDA_EMULATE_H_

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

struct uint2 {
  uint32_t x, y;
};
struct uint4 {
  uint32_t x, y, z, w;
};
struct float2 {
  float x, y;
};

namespace nfloat::gpu {

enum class Wait : uint8_t { kNone, kBarrier, kShuffle, kMma, kMatrix, kWarp };

struct PendingCopy {
  void* to;
  const void* from;
  bool valid;
};

struct Fiber {
  ucontext_t context;
  std::vector<char> stack;
  bool done;
  Wait wait;
  std::vector<std::vector<PendingCopy>> groups;  // asynchronous copies, the last group still open
};

// One block at a time; `fault` says what went wrong first, empty if nothing did.
struct Machine {
  std::vector<Fiber> fibers;
  ucontext_t scheduler;
  std::function<void()> body;
  int current = 0, threads = 0, block_x = 0, block_y = 0, blocks_x = 0, blocks_y = 0;
  uint32_t slot[1024][8];
  std::vector<unsigned char> shared;
  std::mt19937 random{1};
  std::string fault;
};

inline Machine& machine() {
  static Machine one;
  return one;
}

inline constexpr size_t kSharedGuard = 256;
inline constexpr unsigned char kPoison = 0xff;  // NaN as float, bf16 and f16

inline void wait_for(Wait what) {
  Machine& m = machine();
  Fiber& fiber = m.fibers[static_cast<size_t>(m.current)];
  fiber.wait = what;
  swapcontext(&fiber.context, &m.scheduler);
}

inline void fiber_entry() {
  Machine& m = machine();
  m.body();
  Fiber& fiber = m.fibers[static_cast<size_t>(m.current)];
  fiber.done = true;
  swapcontext(&fiber.context, &m.scheduler);
}

inline void start_fibers() {
  Machine& m = machine();
  m.fibers.resize(static_cast<size_t>(m.threads));
  for (Fiber& fiber : m.fibers) {
    fiber.stack.resize(size_t{128} << 10);
    fiber.done = false;
    fiber.wait = Wait::kNone;
    fiber.groups.assign(1, {});
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, fiber_entry, 0);
  }
}

// Lets the lanes of a warp go on until all of them are done or at a barrier of the block. False: a fault.
inline bool run_warp(int warp) {
  Machine& m = machine();
  int lanes[32];
  for (int i = 0; i < 32; ++i) lanes[i] = warp * 32 + i;
  for (;;) {
    std::shuffle(lanes, lanes + 32, m.random);
    bool moved = false;
    for (const int lane : lanes) {
      Fiber& fiber = m.fibers[static_cast<size_t>(lane)];
      if (fiber.done || fiber.wait != Wait::kNone) continue;
      m.current = lane;
      swapcontext(&m.scheduler, &fiber.context);
      moved = true;
    }
    Wait first = m.fibers[static_cast<size_t>(lanes[0])].done ? Wait::kNone
                                                              : m.fibers[static_cast<size_t>(lanes[0])].wait;
    bool same = true, exchange = false;
    for (const int lane : lanes) {
      const Fiber& fiber = m.fibers[static_cast<size_t>(lane)];
      const Wait own = fiber.done ? Wait::kNone : fiber.wait;
      same = same && own == first;
      exchange = exchange || (own != Wait::kNone && own != Wait::kBarrier);
    }
    if (exchange && !same) {
      m.fault = "lanes of warp " + std::to_string(warp) + " part ways at an exchange";
      return false;
    }
    if (exchange) {
      for (const int lane : lanes) m.fibers[static_cast<size_t>(lane)].wait = Wait::kNone;
    } else if (!moved) {
      return true;
    }
  }
}

inline bool run_block(size_t shared_bytes) {
  Machine& m = machine();
  m.shared.assign(shared_bytes + kSharedGuard, kPoison);
  start_fibers();
  std::vector<int> warps(static_cast<size_t>(m.threads) / 32);
  for (size_t i = 0; i < warps.size(); ++i) warps[i] = static_cast<int>(i);
  for (;;) {
    std::shuffle(warps.begin(), warps.end(), m.random);
    for (const int warp : warps)
      if (!run_warp(warp)) return false;
    int waiting = 0, done = 0;
    for (const Fiber& fiber : m.fibers) {
      done += fiber.done ? 1 : 0;
      waiting += !fiber.done && fiber.wait == Wait::kBarrier ? 1 : 0;
    }
    if (done == m.threads) break;
    if (waiting != m.threads) {
      m.fault =
          std::to_string(waiting) + " threads wait at a barrier that " + std::to_string(done) + " have left";
      return false;
    }
    for (Fiber& fiber : m.fibers) fiber.wait = Wait::kNone;
  }
  for (size_t i = 0; i < kSharedGuard; ++i) {
    if (m.shared[shared_bytes + i] == kPoison) continue;
    m.fault = "a write behind shared memory, byte " + std::to_string(shared_bytes + i);
    return false;
  }
  return true;
}

// Runs `body` in every thread of every block, blocks in a random order, until the first fault.
inline void run_grid(int blocks_x, int blocks_y, int threads, size_t shared_bytes,
                     std::function<void()> body) {
  Machine& m = machine();
  m.body = std::move(body);
  m.threads = threads;
  m.blocks_x = blocks_x;
  m.blocks_y = blocks_y;
  std::vector<int> order(static_cast<size_t>(blocks_x) * static_cast<size_t>(blocks_y));
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int>(i);
  std::shuffle(order.begin(), order.end(), m.random);
  for (const int block : order) {
    m.block_x = block % blocks_x;
    m.block_y = block / blocks_x;
    if (m.fault.empty() && !run_block(shared_bytes)) return;
  }
}

inline int thread() {
  return machine().current;
}
inline int threads() {
  return machine().threads;
}
inline int block_x() {
  return machine().block_x;
}
inline int block_y() {
  return machine().block_y;
}
inline int blocks_x() {
  return machine().blocks_x;
}
inline void barrier() {
  wait_for(Wait::kBarrier);
}
inline void warp_barrier() {
  wait_for(Wait::kWarp);
}

template <typename Shared>
Shared& shared() {
  return *reinterpret_cast<Shared*>(machine().shared.data());
}

template <typename T>
T shuffle(T value, int from_lane) {
  static_assert(sizeof(T) == 4);
  Machine& m = machine();
  const int own = m.current;
  std::memcpy(&m.slot[own][0], &value, 4);
  wait_for(Wait::kShuffle);
  std::memcpy(&value, &m.slot[own / 32 * 32 + from_lane % 32][0], 4);
  wait_for(Wait::kShuffle);
  return value;
}
template <typename T>
T shuffle_xor(T value, int mask) {
  return shuffle(value, (machine().current ^ mask) % 32);
}

inline float bits_to_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline uint32_t float_to_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}
inline float multiply_rounded(float a, float b) {
  return a * b;
}
inline float add_rounded(float a, float b) {
  return a + b;
}
inline float divide_rounded(float a, float b) {
  return a / b;
}
inline float exponential(float x) {
  return std::exp(x);
}
inline float square_root(float x) {
  return std::sqrt(x);
}
inline uint16_t round_bf16(float value) {
  const uint32_t bits = float_to_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
inline uint32_t pack_bf16(float low, float high) {
  return round_bf16(low) | static_cast<uint32_t>(round_bf16(high)) << 16;
}
inline void atomic_min(unsigned long long* to, unsigned long long value) {
  *to = std::min(*to, value);
}

template <typename T>
T load_stream(const T* from) {
  return *from;
}
template <typename T>
T load_cached(const T* from) {
  return *from;
}
template <typename T>
void store_stream(T* to, T value) {
  *to = value;
}

// A copy happens as late as a GPU may make it: when it is waited for.
inline void copy_async16(void* to, const void* from, bool valid) {
  Machine& m = machine();
  m.fibers[static_cast<size_t>(m.current)].groups.back().push_back({to, from, valid});
}
inline void copy_commit() {
  Machine& m = machine();
  m.fibers[static_cast<size_t>(m.current)].groups.emplace_back();
}
template <int kLeft>
void copy_wait() {
  Machine& m = machine();
  auto& groups = m.fibers[static_cast<size_t>(m.current)].groups;
  while (groups.size() > size_t{kLeft} + 1) {
    for (const PendingCopy& copy : groups.front()) {
      if (copy.valid) {
        std::memcpy(copy.to, copy.from, 16);
      } else {
        std::memset(copy.to, 0, 16);
      }
    }
    groups.erase(groups.begin());
  }
}

inline float half_of(uint32_t word, int high) {
  return bits_to_float((high != 0 ? word >> 16 : word & 0xffffu) << 16);
}

inline void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  Machine& m = machine();
  const int own = m.current, lane = own % 32, base = own - lane;
  std::memcpy(&m.slot[own][0], a, 16);
  std::memcpy(&m.slot[own][4], b, 8);
  wait_for(Wait::kMma);
  for (int e = 0; e < 4; ++e) {
    const int row = lane / 4 + e / 2 * 8, column = lane % 4 * 2 + e % 2;
    float sum = d[e];
    for (int k = 0; k < 16; ++k) {
      const uint32_t wa = m.slot[base + row % 8 * 4 + k % 8 / 2][row / 8 + 2 * (k / 8)];
      const uint32_t wb = m.slot[base + column * 4 + k % 8 / 2][4 + k / 8];
      sum += half_of(wa, k % 2) * half_of(wb, k % 2);
    }
    d[e] = sum;
  }
  wait_for(Wait::kMma);
}

template <bool kTransposed>
void load_matrices(uint32_t (&to)[4], const void* row) {
  Machine& m = machine();
  const int own = m.current, lane = own % 32, base = own - lane;
  uint32_t words[4];
  std::memcpy(words, row, 16);
  std::memcpy(&m.slot[own][0], words, 16);
  wait_for(Wait::kMatrix);
  const auto element = [&](int matrix, int r, int c) {
    const uint32_t word = m.slot[base + matrix * 8 + r][c / 2];
    return c % 2 != 0 ? word >> 16 : word & 0xffffu;
  };
  for (int i = 0; i < 4; ++i) {
    const int r = lane / 4, c = lane % 4 * 2;
    to[i] = kTransposed ? element(i, c, r) | element(i, c + 1, r) << 16
                        : element(i, r, c) | element(i, r, c + 1) << 16;
  }
  wait_for(Wait::kMatrix);
}

// kernel<<<(blocks_x, blocks_y), threads, shared_bytes>>>(arguments...); threads divisible by 32.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), int blocks_x, int blocks_y, int threads, size_t shared_bytes,
            Arguments... arguments) {
  run_grid(blocks_x, blocks_y, threads, shared_bytes, [=] { kernel(arguments...); });
}

}  // namespace nfloat::gpu

#endif  // NFLOAT_CUDA_EMULATE_H_

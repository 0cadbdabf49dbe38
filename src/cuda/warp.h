// SPDX-License-Identifier: Apache-2.0
// What the kernels need from the machine: CUDA's own under nvcc (compute capability 8.0 and later), else the
// emulation of emulate.h with the same meaning. Each has a namespace of its own, so that a program may hold
// both.
#ifndef NFLOAT_CUDA_WARP_H_
#define NFLOAT_CUDA_WARP_H_

#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define NFLOAT_MACHINE on_card
#define NFLOAT_KERNEL __global__
#define NFLOAT_DEVICE __device__ __forceinline__
#define NFLOAT_BOUNDS(threads, blocks) __launch_bounds__(threads, blocks)
#define NFLOAT_UNROLL _Pragma("unroll")
#define NFLOAT_UNROLL_TWO _Pragma("unroll 2")

namespace nfloat::gpu {
inline namespace NFLOAT_MACHINE {

NFLOAT_DEVICE int thread() {
  return static_cast<int>(threadIdx.x);
}
NFLOAT_DEVICE int threads() {
  return static_cast<int>(blockDim.x);
}
NFLOAT_DEVICE int block_x() {
  return static_cast<int>(blockIdx.x);
}
NFLOAT_DEVICE int block_y() {
  return static_cast<int>(blockIdx.y);
}
NFLOAT_DEVICE int blocks_x() {
  return static_cast<int>(gridDim.x);
}
NFLOAT_DEVICE void barrier() {
  __syncthreads();
}
NFLOAT_DEVICE void warp_barrier() {
  __syncwarp();
}

// A kernel's shared memory: one struct, whose size the launch names.
template <typename Shared>
NFLOAT_DEVICE Shared& shared() {
  extern __shared__ __align__(16) unsigned char nfloat_shared_memory[];
  return *reinterpret_cast<Shared*>(nfloat_shared_memory);
}

template <typename T>
NFLOAT_DEVICE T shuffle(T value, int from_lane) {
  return __shfl_sync(~0u, value, from_lane);
}
template <typename T>
NFLOAT_DEVICE T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(~0u, value, mask);
}

NFLOAT_DEVICE float bits_to_float(uint32_t bits) {
  return __uint_as_float(bits);
}
NFLOAT_DEVICE uint32_t float_to_bits(float value) {
  return __float_as_uint(value);
}
// Never fused with a neighbour.
NFLOAT_DEVICE float multiply_rounded(float a, float b) {
  return __fmul_rn(a, b);
}
NFLOAT_DEVICE float add_rounded(float a, float b) {
  return __fadd_rn(a, b);
}
NFLOAT_DEVICE float divide_rounded(float a, float b) {
  return __fdiv_rn(a, b);
}
NFLOAT_DEVICE float fused(float a, float b, float c) {
  return __fmaf_rn(a, b, c);
}
// Within 2 units in the last place each, 4 of the third.
NFLOAT_DEVICE float exponential(float x) {
  return expf(x);
}
NFLOAT_DEVICE float hyperbolic_tangent(float x) {
  return tanhf(x);
}
NFLOAT_DEVICE float complementary_error(float x) {
  return erfcf(x);
}
NFLOAT_DEVICE float round_to_integer(float x) {
  return rintf(x);
}
NFLOAT_DEVICE float square_root(float x) {
  return __fsqrt_rn(x);
}
NFLOAT_DEVICE float f16_value(uint32_t low_half) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(low_half)));
}
NFLOAT_DEVICE uint32_t pack_bf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}
NFLOAT_DEVICE uint16_t round_bf16(float value) {
  return static_cast<uint16_t>(pack_bf16(value, 0.0f));
}
NFLOAT_DEVICE void atomic_min(unsigned long long* to, unsigned long long value) {
  atomicMin(to, value);
}

// Read once: weights. Read often: activations, scales.
template <typename T>
NFLOAT_DEVICE T load_stream(const T* from) {
  return __ldcs(from);
}
template <typename T>
NFLOAT_DEVICE T load_cached(const T* from) {
  return __ldg(from);
}
template <typename T>
NFLOAT_DEVICE void store_stream(T* to, T value) {
  __stcs(to, value);
}

// 16 bytes from memory to shared memory, zeros if not `valid`; there after copy_commit and copy_wait<left>,
// when at most `left` later groups are under way, for this thread; for the others after a barrier.
NFLOAT_DEVICE void copy_async16(void* to, const void* from, bool valid) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes)
               : "memory");
}
NFLOAT_DEVICE void copy_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kLeft>
NFLOAT_DEVICE void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

// d += a (16x16, bf16) * b (16x8, bf16); fragments as PTX's mma.m16n8k16 lays them out.
NFLOAT_DEVICE void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four 8x8 matrices of 16-bit elements from shared memory; lane l names row l % 8 of matrix l / 8
// (ldmatrix.x4).
template <bool kTransposed>
NFLOAT_DEVICE void load_matrices(uint32_t (&to)[4], const void* row) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  if constexpr (kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address));
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address));
  }
}

// On `stream` below; more than 48 KiB of shared memory is asked for. Errors stay in cudaGetLastError.
inline cudaStream_t& launch_stream() {
  thread_local cudaStream_t stream = nullptr;
  return stream;
}
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), int blocks_x, int blocks_y, int threads, size_t shared_bytes,
            Arguments... arguments) {
  if (shared_bytes > size_t{48} << 10)
    cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                         static_cast<int>(shared_bytes));
  kernel<<<dim3(static_cast<unsigned>(blocks_x), static_cast<unsigned>(blocks_y)),
           static_cast<unsigned>(threads), shared_bytes, launch_stream()>>>(arguments...);
}

}  // namespace NFLOAT_MACHINE
}  // namespace nfloat::gpu

#else

#define NFLOAT_MACHINE emulated

#include "cuda/emulate.h"

#define NFLOAT_KERNEL inline
#define NFLOAT_DEVICE inline
#define NFLOAT_BOUNDS(threads, blocks)
#define NFLOAT_UNROLL
#define NFLOAT_UNROLL_TWO

#endif

#endif  // NFLOAT_CUDA_WARP_H_

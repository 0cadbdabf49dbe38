// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ENGINE_DEVICE_H_
#define NFLOAT_ENGINE_DEVICE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/constant.h"
#include "engine/head_layout.h"
#include "kernels/attention.h"
#include "nfloat/linear.h"
#include "nfloat/tensor.h"

namespace nfloat {

class BlockConverter;
class CpuMatrix;
class LayerEngine;

// A matrix [rows, cols] in the memory and the layout of the device that made it. Never changes.
class DeviceMatrix {
 public:
  virtual ~DeviceMatrix() = default;
  virtual int64_t rows() const noexcept = 0;
  virtual int64_t cols() const noexcept = 0;
  virtual uint64_t bytes() const noexcept = 0;  // of the device's memory
  // The matrix as the CPU's products read it; null on another device.
  virtual const CpuMatrix* on_cpu() const noexcept { return nullptr; }
};

// What decides the size of a page of keys and values: kernels::kAttentionBlock positions of all layers.
struct CacheShape {
  int64_t layers = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  kernels::KvType type = kernels::KvType::kF16;
  int64_t heads = 0;  // of queries
};

// Where weights, keys and values live, shared by all that compute there. For use by any number of threads.
class Device {
 public:
  // Called with a range of the source that will not be read again (PackSource::release).
  using Release = std::function<void(std::span<const uint8_t>)>;

  virtual ~Device() = default;
  virtual std::string_view name() const noexcept = 0;   // "cpu", "cuda:0"
  virtual std::string_view model() const noexcept = 0;  // what it is, as its driver says it
  virtual bool accelerator() const noexcept {
    return false;
  }  // hardware of its own, not the host's processor
  // Throws kUnsupported with the reason where it cannot be used here: in a child of the process that opened
  // it.
  virtual void expect_usable() const {}
  // Of a device of Vulkan: whether its matrix units multiply ("in use (...)", "none", "off", "wrong
  // results").
  virtual std::string_view matrix_units() const noexcept { return {}; }
  // Of a device of CUDA: whether tokens run as graphs, so far ("none yet", "in use", "failed (REASON)").
  virtual std::string graphs() const { return {}; }
  // Bytes that it could still give; none: it takes the host's memory.
  virtual std::optional<uint64_t> free_bytes() const noexcept { return std::nullopt; }

  // Of that memory, used or not.
  virtual std::optional<uint64_t> total_bytes() const noexcept { return std::nullopt; }

  // Weights, borrowed while the call runs. Throw what PackedMatrix::pack() and DenseMatrix::pack() throw, and
  // kOutOfMemory.
  virtual std::unique_ptr<const DeviceMatrix> matrix(const PackSource& source, int threads) = 0;
  virtual std::unique_ptr<const DeviceMatrix> matrix(const TensorView& weights, DenseMatrix::Storage storage,
                                                     int threads, const Release& release) = 0;
  // The same of query, key and value, for devices to which heads matter.
  virtual std::unique_ptr<const DeviceMatrix> matrix_of_heads(const PackSource& source, const HeadRows&,
                                                              int threads) {
    return matrix(source, threads);
  }
  virtual std::unique_ptr<const DeviceMatrix> matrix_of_heads(const TensorView& weights, const HeadRows&,
                                                              DenseMatrix::Storage storage, int threads,
                                                              const Release& release) {
    return matrix(weights, storage, threads, release);
  }
  // Makes constants readable by the steps of this device's engines.
  virtual void place(Constant& constant) = 0;

  // Bytes of a page; the order inside is the device's own.
  virtual int64_t page_bytes(const CacheShape& shape) const noexcept = 0;
  // Those of them that page() is asked for: of several ranks each has a part.
  virtual int64_t own_page_bytes(const CacheShape& shape) const noexcept { return page_bytes(shape); }
  // Memory of a page, given back with its last owner; its address means something to the device alone. Throws
  // kOutOfMemory or std::bad_alloc.
  virtual std::shared_ptr<std::byte> page(size_t bytes) = 0;
  // Whole pages. Done before the next step of any engine reads either.
  virtual void copy_page(std::byte* to, const std::byte* from, size_t bytes) = 0;

  // Buffers and a queue of steps of their own: one for each pass that runs at a time.
  virtual std::unique_ptr<LayerEngine> engine() = 0;

  // What quantizes and decodes weights there (engine/block_converter.h); null: nothing does.
  virtual std::shared_ptr<BlockConverter> block_converter() { return nullptr; }
};

// This machine's processor; always there, the same one each time.
std::shared_ptr<Device> cpu_device();

// Every device that can compute here, the CPU first.
std::vector<std::shared_ptr<Device>> devices();

// Why there is no device of a kind, "cuda" or "vulkan", as the end of a sentence; empty where there is one.
std::string why_none(std::string_view kind);

// Adds one to them, behind the others, for the rest of the program: tests compute on devices that nobody is
// offered.
void add_device(std::shared_ptr<Device> device);

// Of `all` the one that `name` names, or of several of that kind the one for this rank of the machine; null:
// none.
std::shared_ptr<Device> choose_device(std::span<const std::shared_ptr<Device>> all, std::string_view name,
                                      int local_rank);

// The device that `name` names: "cpu"; "cuda" or "vulkan" (the first of them), "cuda:N" or "vulkan:N";
// "auto": the first accelerator, else the CPU; "": what NFLOAT_DEVICE names, else the CPU. Of several ranks
// on one machine each takes another one of a kind, as far as there are enough. Throws
// kInvalidArgument for another name, and kNotFound where there is no such device; both say which there are.
std::shared_ptr<Device> find_device(std::string_view name);

// Why NFLOAT_DEVICE cannot be such a name; empty: it can, or is not set.
std::string forced_device_error();

// find_device(""): where models are loaded unless somebody says.
std::shared_ptr<Device> default_device();

}  // namespace nfloat

#endif  // NFLOAT_ENGINE_DEVICE_H_

// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CHECKPOINT_SAFETENSORS_WRITER_H_
#define NFLOAT_CHECKPOINT_SAFETENSORS_WRITER_H_

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/atomic_file.h"
#include "nfloat/tensor.h"

namespace nfloat {

// Writes one safetensors file as a stream, in any order of tensors and ranges, from several threads. All
// shapes are declared first. Late tensors (quant_state: JSON whose length is known only when its numbers are)
// lie behind all others; room for their header entries is kept, and the header is padded with spaces as the
// format allows.
class SafetensorsWriter {
 public:
  struct Declared {
    std::string name;
    DType dtype;
    Shape shape;
  };

  // `late` names the U8 tensors whose bytes come through write_late, once each.
  SafetensorsWriter(const std::string& path, const std::vector<Declared>& tensors,
                    const std::vector<std::string>& late);

  // Bytes of tensor `index` (as declared) from `begin` on.
  void write(size_t index, uint64_t begin, std::span<const std::byte> bytes);
  // Not thread-safe.
  void write_late(const std::string& name, std::string_view text);

  // Writes the header; the file is complete but not yet under its name. Throws kInvalidArgument naming a late
  // tensor that was never written.
  void finish();
  void sync() { file_.sync(); }
  void commit(Existing existing = Existing::kReplace) { file_.commit(existing); }
  // Where the file is until commit().
  const std::string& temporary_path() const noexcept { return file_.temporary_path(); }
  uint64_t file_bytes() const noexcept { return end_; }
  uint64_t data_bytes() const noexcept { return end_ - data_begin_; }

 private:
  struct Entry {
    Declared declared;
    uint64_t offset = 0;  // in the data section
    uint64_t bytes = 0;
  };
  AtomicFile file_;
  std::vector<Entry> entries_;
  std::map<std::string, Entry> late_;
  uint64_t data_begin_ = 0;
  uint64_t end_ = 0;
};

}  // namespace nfloat

#endif  // NFLOAT_CHECKPOINT_SAFETENSORS_WRITER_H_

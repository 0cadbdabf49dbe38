// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <filesystem>
#include <set>

#include "base/fail.h"
#include "base/interruption.h"
#include "checkpoint/safetensors_writer.h"
#include "nfloat/checkpoint.h"

namespace nfloat {

void save_tensors(const std::string& path, std::span<const NamedTensor> tensors, bool overwrite) {
  std::vector<SafetensorsWriter::Declared> declared;
  std::set<std::string_view> names;
  for (const NamedTensor& tensor : tensors) {
    if (tensor.name.empty() || tensor.name == "__metadata__")
      fail(ErrorCode::kInvalidArgument, "{}: no tensor can have the name '{}'", path, tensor.name);
    if (!names.insert(tensor.name).second)
      fail(ErrorCode::kInvalidArgument, "{}: two tensors have the name '{}'", path, tensor.name);
    const uint64_t bits = static_cast<uint64_t>(tensor.view.elements()) * dtype_bits(tensor.view.dtype);
    if (tensor.view.bytes.size() * 8 != bits)
      fail(ErrorCode::kInvalidArgument, "{}: tensor '{}': {} {} has {} bits, {} bytes are given", path,
           tensor.name, dtype_name(tensor.view.dtype), tensor.view.shape.to_string(), bits,
           tensor.view.bytes.size());
    declared.push_back({tensor.name, tensor.view.dtype, tensor.view.shape});
  }
  std::error_code ignored;
  if (!overwrite && std::filesystem::exists(path, ignored))
    fail(ErrorCode::kAlreadyExists, "{}: exists already", path);
  SafetensorsWriter writer(path, declared, {});
  constexpr size_t kPiece = size_t{8} << 20;  // between two looks whether the caller wants an end
  for (size_t i = 0; i < tensors.size(); ++i)
    for (std::span<const std::byte> rest = tensors[i].view.bytes; !rest.empty();) {
      end_if_interrupted();
      const std::span<const std::byte> piece = rest.first(std::min(kPiece, rest.size()));
      writer.write(i, static_cast<uint64_t>(piece.data() - tensors[i].view.bytes.data()), piece);
      rest = rest.subspan(piece.size());
    }
  writer.finish();
  writer.sync();
  writer.commit(overwrite ? Existing::kReplace : Existing::kKeep);
}

}  // namespace nfloat

// SPDX-License-Identifier: Apache-2.0
#include <filesystem>
#include <set>

#include "base/fail.h"
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
    declared.push_back({tensor.name, tensor.view.dtype, tensor.view.shape});
  }
  std::error_code ignored;
  if (!overwrite && std::filesystem::exists(path, ignored))
    fail(ErrorCode::kAlreadyExists, "{}: exists already", path);
  SafetensorsWriter writer(path, declared, {});
  for (size_t i = 0; i < tensors.size(); ++i)
    if (!tensors[i].view.bytes.empty()) writer.write(i, 0, tensors[i].view.bytes);
  writer.finish();
  writer.sync();
  writer.commit(overwrite ? Existing::kReplace : Existing::kKeep);
}

}  // namespace nfloat

// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <charconv>

#include "base/fail.h"
#include "formats/families.h"
#include "nfloat/comparison.h"
#include "nfloat/gguf.h"
#include "nfloat/text.h"

namespace nfloat {
namespace {

// Block sizes that bitsandbytes' kernels have.
bool bitsandbytes_block(const std::string& text) {
  int64_t block = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), block);
  if (error != std::errc() || stop != text.data() + text.size()) return false;
  return block >= 64 && block <= 4096 && (block & (block - 1)) == 0;
}

std::string quantize_command(const std::string& model, const std::vector<std::string>& parts,
                             const std::string& calibration) {
  std::string command = fmt::format("nfloat quantize {} OUT --format {} --block-size {}", shell_word(model),
                                    parts[0], parts[1]);
  for (size_t i = 2; i < parts.size(); ++i) {
    if (parts[i] == "f16") return "";  // the layout has float32 and double quantization
    if (parts[i].starts_with("calibrated")) {
      if (!calibration.empty()) command += " --calibrate " + shell_word(calibration);
      const std::string level = parts[i].substr(std::string("calibrated").size());
      command += " --level " + (level.empty() ? "2" : level);
      continue;
    }
    command += parts[i] == "dq" ? " --double-quantization" : " --scale " + parts[i];
  }
  return command;
}

}  // namespace

Reader parse_reader(const std::string& name) {
  if (name == "transformers") return Reader::kTransformers;
  if (name == "llama.cpp") return Reader::kLlamaCpp;
  if (name == "nfloat") return Reader::kNfloat;
  fail(ErrorCode::kInvalidArgument, "'{}' is no reader: transformers, llama.cpp or nfloat", name);
}

std::string_view reader_name(Reader reader) noexcept {
  return reader == Reader::kTransformers ? "transformers"
         : reader == Reader::kLlamaCpp   ? "llama.cpp"
                                         : "nfloat";
}

std::string how_to_make(const std::string& model, const std::string& format, Reader reader,
                        const std::string& calibration) {
  const std::vector<std::string> parts = format_parts(format);
  const bool code = (parts[0] == "nf4" || parts[0] == "fp4") && parts.size() > 1;
  if (code && reader != Reader::kLlamaCpp && (reader == Reader::kNfloat || bitsandbytes_block(parts[1])))
    return quantize_command(model, parts, calibration);
  const GgufTypeInfo* type = parts.size() == 1 ? find_gguf_type(format) : nullptr;
  if (type != nullptr && is_encodable(type->type) && reader != Reader::kTransformers)
    return fmt::format("nfloat convert {} OUT.gguf --type {}", shell_word(model), format);
  return "";
}

}  // namespace nfloat

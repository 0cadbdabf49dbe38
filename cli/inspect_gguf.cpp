// SPDX-License-Identifier: Apache-2.0
#include "inspect_gguf.h"

#include <fmt/format.h>

#include <array>
#include <map>

#include "convert_options.h"
#include "nfloat/gguf.h"
#include "nfloat/results.h"
#include "notes.h"
#include "table.h"

namespace nfloat::cli {
namespace {

double bits(uint64_t bytes, int64_t elements) {
  return elements > 0 ? 8 * static_cast<double>(bytes) / static_cast<double>(elements) : 0;
}

}  // namespace

void inspect_gguf(const std::string& path, bool all, bool json) {
  const GgufFile file(path);
  if (json) {
    fmt::print("{}\n", inspect_json(file));
    return;
  }
  fmt::print(
      "GGUF version {}, {}, {}, {}\n\n", file.version(),
      file.files().size() == 1 ? std::string("one file") : fmt::format("{} files", file.files().size()),
      file.metadata().size() == 1 ? std::string("1 metadata entry")
                                  : fmt::format("{} metadata entries", file.metadata().size()),
      count_of(std::ssize(file.tensors()), "tensor"));
  Table values(
      {{"metadata", Table::Align::kLeft}, {"type", Table::Align::kLeft}, {"value", Table::Align::kLeft}});
  for (const GgufValue& value : file.metadata())
    values.add({std::string(value.key),
                fmt::format("{}{}", gguf_value_type_name(value.type), value.is_array ? "[]" : ""),
                value.to_string()});
  fmt::print("{}\n", values.to_string());

  struct Row {
    int64_t count = 0, elements = 0;
    uint64_t bytes = 0;
  };
  std::vector<std::array<std::string, 3>> order;
  std::map<std::array<std::string, 3>, Row> rows;
  Row total;
  for (const GgufTensor& tensor : file.tensors()) {
    const std::array<std::string, 3> key = {all ? tensor.name : name_pattern(tensor.name),
                                            std::string(gguf_type_info(tensor.type).name),
                                            tensor.shape.to_string()};
    Row& row = rows[key];
    if (row.count == 0) order.push_back(key);
    for (Row* sum : {&row, &total}) {
      ++sum->count;
      sum->elements += tensor.shape.elements();
      sum->bytes += tensor.bytes;
    }
  }
  Table tensors({{"tensor", Table::Align::kLeft},
                 {"count"},
                 {"type", Table::Align::kLeft},
                 {"shape"},
                 {"bytes"},
                 {"bits/weight"}});
  for (const auto& key : order) {
    const Row& row = rows[key];
    tensors.add({key[0], fmt::format("{}", row.count), key[1], key[2], format_bytes(row.bytes),
                 fmt::format("{:.3f}", bits(row.bytes, row.elements))});
  }
  tensors.add_rule();
  tensors.add({count_of(total.elements, "parameter"), fmt::format("{}", total.count), "", "",
               format_bytes(total.bytes), fmt::format("{:.3f}", bits(total.bytes, total.elements))});
  fmt::print("{}", tensors.to_string());
}

}  // namespace nfloat::cli

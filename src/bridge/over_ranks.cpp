// SPDX-License-Identifier: Apache-2.0
#include "bridge/over_ranks.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <vector>

#include "base/checksum.h"
#include "base/fail.h"
#include "base/fnv.h"
#include "checkpoint/fingerprint.h"
#include "ranks/same_files.h"

namespace nfloat {

void together(Ranks* ranks, const std::function<void()>& body) {
  if (ranks == nullptr) return body();
  std::string found;  // code and text; empty: nothing
  try {
    body();
  } catch (const Error& error) {
    if (!ranks->failure().empty()) throw;  // there is nobody to tell
    found = fmt::format("{} {}", static_cast<int>(error.code()), error.what());
  } catch (const std::exception& error) {
    found = fmt::format("{} {}", static_cast<int>(ErrorCode::kIo), error.what());
  }
  const std::vector<std::string> all = ranks->gather_texts(found);
  for (size_t i = 0; i < all.size(); ++i) {
    if (all[i].empty()) continue;
    ranks->all_fail();
    int code = 0;
    const std::string& text = all[i];
    const size_t space = text.find(' ');
    std::from_chars(text.data(), text.data() + space, code);
    const std::string who = i == 0 ? std::string() : ranks->name(static_cast<int>(i)) + ": ";
    fail(static_cast<ErrorCode>(code), "{}{}", who, text.substr(space + 1));
  }
}

void expect_same_input(Ranks& ranks, const Checkpoint& input, const std::string& adapter,
                       const std::string& output) {
  std::string own;
  together(&ranks, [&] {
    own = fmt::format("{} {} {:016x}", files_fingerprint(input),
                      adapter.empty() ? "none" : adapter_fingerprint(adapter), fnv(output, kFnvStart));
  });
  expect_same_files(ranks, input.path(), own);
}

std::string adapter_fingerprint(const std::string& folder) {
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    if (entry.is_regular_file()) files.push_back(entry.path().string());
  std::sort(files.begin(), files.end());
  std::string sums;
  for (const std::string& file : files)
    if (file.ends_with(".json") || file.ends_with(".safetensors") || file.ends_with(".bin"))
      sums += fmt::format("{:016x} ", checksum_of_file(file));
  return sums;
}

}  // namespace nfloat

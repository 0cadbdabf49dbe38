// SPDX-License-Identifier: Apache-2.0
#include "architecture/skip_list.h"

#include <algorithm>

#include "base/fail.h"

namespace nfloat {
namespace {

bool is_plain_text(const std::string& entry) {
  return entry.find_first_of("\\^$|?*+()[]{}") == std::string::npos;
}

}  // namespace

SkipList::SkipList(const std::vector<std::string>& entries) {
  for (const std::string& entry : entries) add(entry);
}

void SkipList::add(const std::string& entry) {
  if (!texts_.insert(entry).second || is_plain_text(entry)) return;
  try {
    expressions_.emplace_back(entry, Expression(entry, Expression::Text::kBytes));
  } catch (const ExpressionError&) {  // text only
  }
}

std::string SkipList::find(const std::string& module) const {
  // Names are long where lists are: look up their beginnings and ends instead of walking the list.
  for (size_t length = module.size(); length > 0; --length) {
    for (const std::string& part : {module.substr(0, length), module.substr(module.size() - length)})
      if (texts_.contains(part)) return part;
  }
  for (const auto& [entry, expression] : expressions_) {
    try {
      if (expression.matches_beginning(module)) return entry;
    } catch (const ExpressionError& error) {
      fail(ErrorCode::kUnsupported, "llm_int8_skip_modules: matching '{}' with {} failed: {}", entry, module,
           error.what());
    }
  }
  return {};
}

bool SkipList::may_name(const std::string& module) const {
  if (!find(module).empty()) return true;
  const std::string dotted = "." + module + ".";
  return std::any_of(texts_.begin(), texts_.end(), [&](const std::string& entry) {
    return !entry.empty() && dotted.find("." + entry + ".") != std::string::npos;
  });
}

}  // namespace nfloat

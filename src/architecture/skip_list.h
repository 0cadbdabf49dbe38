// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ARCHITECTURE_SKIP_LIST_H_
#define NFLOAT_ARCHITECTURE_SKIP_LIST_H_

#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/expression.h"

namespace nfloat {

// llm_int8_skip_modules as loaders read it: an entry names every module that begins with it, read as a
// regular expression, or ends with it.
class SkipList {
 public:
  SkipList() = default;
  explicit SkipList(const std::vector<std::string>& entries);

  // An entry that is not a regular expression is compared as text.
  void add(const std::string& entry);

  // The entry that names the module; empty when none does. Throws kUnsupported naming an entry whose match
  // takes too many steps.
  std::string find(const std::string& module) const;

  // Also as older loaders and other programs read it: entries are parts of the name between dots.
  bool may_name(const std::string& module) const;

 private:
  std::unordered_set<std::string> texts_;
  std::vector<std::pair<std::string, Expression>> expressions_;
};

}  // namespace nfloat

#endif  // NFLOAT_ARCHITECTURE_SKIP_LIST_H_

// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CHAT_BUILTINS_H_
#define NFLOAT_CHAT_BUILTINS_H_

#include <string>

#include "chat/value.h"

namespace nfloat::chat {

// Arguments of a call, filter, test or method.
struct Arguments {
  Items positional;
  Entries named;
  // The argument at `place` or of this name; null when it was not given.
  const Value* get(size_t place, std::string_view name) const;
};

Value apply_filter(const std::string& name, const Value& value, const Arguments& arguments, Budget& budget);
bool apply_test(const std::string& name, const Value& value, const Arguments& arguments, Budget& budget);
bool is_method(const Value& object, const std::string& name);
Value call_method(const Value& object, const std::string& name, const Arguments& arguments, Budget& budget);
Value call_function(const std::string& name, const Arguments& arguments, Budget& budget);
Value binary(const std::string& sign, const Value& a, const Value& b, Budget& budget);
Value item_of(const Value& object, const Value& index, Budget& budget);
Value attribute_of(const Value& object, const std::string& name, Budget& budget);
Value slice(const Value& object, const Value& from, const Value& to, const Value& step, Budget& budget);

}  // namespace nfloat::chat

#endif  // NFLOAT_CHAT_BUILTINS_H_

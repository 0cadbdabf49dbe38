// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CHAT_BUILTINS_H_
#define NFLOAT_CHAT_BUILTINS_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "chat/value.h"

namespace nfloat::chat {

// Arguments of a call, filter, test or method.
struct Arguments {
  Items positional;
  Entries named;
  // The argument at `place` or of this name; null when it was not given.
  const Value* get(size_t place, std::string_view name) const;
  // Whether the argument was given and counts as true.
  bool flag(size_t place, std::string_view name) const;
  // Refuses what `of` does not take: more than these, in this order, or a keyword of another name.
  void check(const std::string& of, const std::vector<std::string_view>& names, Budget& budget) const;
};

Value apply_filter(const std::string& name, const Value& value, const Arguments& arguments, Budget& budget);
bool apply_test(const std::string& name, const Value& value, const Arguments& arguments, Budget& budget);
bool is_method(const Value& object, const std::string& name);
Value call_method(const Value& object, const std::string& name, const Arguments& arguments, Budget& budget);
// "a.b.0" of an item, or the item at a number.
Value path_of(const Value& item, const Value& path, Budget& budget);
// What items are ordered by: the attribute, or the item; texts in small letters unless `sensitive`.
Value key_of(const Value& item, const Value* attribute, bool sensitive, Budget& budget);
// The filters that take items together, and number or text filters of their kind; nothing for others.
std::optional<Value> group_filter(const std::string& name, const Value& value, const Arguments& arguments,
                                  Budget& budget);
// Of str, list and tuple.
Value string_method(const std::string& text, const std::string& name, const Arguments& arguments,
                    Budget& budget);
Value list_method(const Value& list, const std::string& name, const Arguments& arguments, Budget& budget);
// A str as it is, markup too; the text of anything else.
Value soft_text(const Value& value, Budget& budget);
// Escaped for HTML unless it is already.
Value escaped(const Value& value, Budget& budget);
// Methods of str that is markup: texts that come in are escaped, texts that go out are markup.
Value markup_method(const Value& object, const std::string& name, Arguments arguments, Budget& budget);
// str.format, and what % makes of a str.
std::string formatted(const std::string& format, const Arguments& arguments, Budget& budget);
std::string percent(const std::string& format, const Items& values, Budget& budget);
// + - * // % ** of whole numbers of any size.
Value whole_binary(const std::string& sign, const Value& a, const Value& b, Budget& budget);
// What `loop` holds at one of its items. `depth`: of recursive loops around.
Value loop_value(const Items& items, int64_t at, int64_t depth, const Value& changed, Budget& budget);
Value call_function(const Value& function, const Arguments& arguments, Budget& budget);
Value binary(const std::string& sign, const Value& a, const Value& b, Budget& budget);
Value item_of(const Value& object, const Value& index, Budget& budget);
Value attribute_of(const Value& object, const std::string& name, Budget& budget);
Value slice(const Value& object, const Value& from, const Value& to, const Value& step, Budget& budget);

}  // namespace nfloat::chat

#endif  // NFLOAT_CHAT_BUILTINS_H_

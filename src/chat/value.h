// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CHAT_VALUE_H_
#define NFLOAT_CHAT_VALUE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace nfloat::chat {

struct Node;
struct Scope;
struct Value;

// What one rendering may use: every loop and every text that is built is charged before it happens.
class Budget {
 public:
  explicit Budget(std::string source) : source_(std::move(source)) {}
  void steps(uint64_t count = 1) {
    steps_ += count;
    if (steps_ > kMostSteps) over("steps", kMostSteps);
  }
  void bytes(uint64_t count) {
    bytes_ += count;
    if (bytes_ > kMostBytes) over("bytes of text", kMostBytes);
    steps(count / 64);
  }
  // kInvalidArgument with the source and the current line.
  [[noreturn]] void refuse(const std::string& what) const;
  int line = 0;

 private:
  static constexpr uint64_t kMostSteps = 2'000'000, kMostBytes = uint64_t{64} << 20;
  [[noreturn]] void over(const char* what, uint64_t most) const;
  std::string source_;
  uint64_t steps_ = 0, bytes_ = 0;
};

constexpr int kMostDepth = 200;  // of values inside values

using Items = std::vector<Value>;
using Entries = std::vector<std::pair<std::string, Value>>;  // names
using Pairs = std::vector<std::pair<Value, Value>>;          // keys of any kind

// A value of the template language, as Python's. Immutable but for namespaces, which the rendering owns:
// nothing can hold itself.
struct Value {
  enum Kind : uint8_t {
    kUndefined,
    kNone,
    kBool,
    kInt,
    kFloat,
    kString,
    kList,
    kTuple,
    kDict,
    kNamespace,
    kFunction,
    kView,      // of a dict: items(), keys(), values(); has a length, but no places and no JSON
    kGenerator  // goes once through its items; true whatever they are, without length and text
  };
  Kind kind = kUndefined;
  int depth = 0;
  int64_t integer = 0;  // kBool, kInt; of a whole number beyond 64 bits the nearest
  double number = 0;
  // kString; name of kFunction, of kView and of what is kUndefined; digits of a kInt beyond 64 bits, else
  // null; of a kTuple "group" where its items are named grouper and list; of a kList that range() made its
  // text
  std::shared_ptr<const std::string> string;
  std::shared_ptr<const Items> list;  // kList, kTuple, kView, kGenerator
  std::shared_ptr<bool> spent;        // kGenerator
  bool markup = false;                // kString: escaped already, as markupsafe's Markup
  std::shared_ptr<const Pairs> dict;  // in the order of insertion
  Entries* names = nullptr;           // kNamespace
  const Node* macro = nullptr;        // kFunction: null for those of the language
  Scope* scope = nullptr;             // of a macro: where it was defined; the rendering owns it

  static Value none() { return of(kNone); }
  static Value undefined(std::string name);
  static Value boolean(bool value) { return of(kBool, value ? 1 : 0); }
  static Value integer_of(int64_t value) { return of(kInt, value); }
  // Decimal digits, with or without a sign, of any count.
  static Value whole(std::string_view digits);
  static Value real(double value);
  static Value text(std::string value);
  static Value markup_of(std::string value);
  static Value items(Items value, Budget& budget, Kind kind = kList);
  static Value entries(Entries value, Budget& budget);
  static Value pairs(Pairs value, Budget& budget);
  static Value function(std::string name, const Node* macro = nullptr);

  bool is_number() const { return kind == kInt || kind == kFloat || kind == kBool; }
  bool is_list() const { return kind == kList || kind == kTuple; }
  const std::string& str() const { return *string; }
  bool is_big() const { return kind == kInt && string != nullptr; }
  double as_double() const;
  bool truth() const;

 private:
  static Value of(Kind kind, int64_t integer = 0) {
    Value value;
    value.kind = kind;
    value.integer = integer;
    return value;
  }
};

const Value* find(const Entries& entries, std::string_view key, Budget& budget);
const Value* find(const Pairs& pairs, const Value& key, Budget& budget);
// Replaces the value of an equal key or appends.
void put(Pairs& pairs, const Value& key, Value value, Budget& budget);
bool equal(const Value& a, const Value& b, Budget& budget);
// Negative, zero or positive. Refuses what Python does not order.
int compare(const Value& a, const Value& b, Budget& budget);
bool contains(const Value& container, const Value& item, Budget& budget);
// str() and repr() of Python.
std::string to_text(const Value& value, Budget& budget);
std::string to_repr(const Value& value, Budget& budget);
// Options of Python's json.dumps.
struct JsonStyle {
  bool ascii = false, sorted = false, lines = false;
  std::string indent;  // of one level, with `lines`
  std::string item_separator = ", ", key_separator = ": ";
};
std::string to_json(const Value& value, const JsonStyle& style, Budget& budget);
// A JSON text as Python's json.loads reads it: whole numbers of any size. Throws kMalformedFile.
Value from_json(std::string_view text, const std::string& source, Budget& budget);
// What a for loop goes through: items, keys of a dict, characters.
Items iterate(const Value& value, Budget& budget);
const char* kind_name(const Value& value);
// Byte offsets of the characters of `text`, and its end.
std::vector<size_t> characters(std::string_view text);
// Without the characters of `set` at its ends, or where it is empty without Python's white space.
std::string strip(const std::string& text, const std::string& set, bool left, bool right);
// The character at text[at] of `bytes` bytes; a byte that is not UTF-8 stands for itself.
char32_t character_at(std::string_view text, size_t at, size_t* bytes);
bool is_python_space(char32_t character);

}  // namespace nfloat::chat

#endif  // NFLOAT_CHAT_VALUE_H_

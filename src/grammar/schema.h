// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_GRAMMAR_SCHEMA_H_
#define NFLOAT_GRAMMAR_SCHEMA_H_

#include <map>
#include <string>
#include <vector>

#include "base/json.h"
#include "grammar/builder.h"

namespace nfloat::grammar {

// The values of one JSON schema, as pieces of a net. See Grammar::from_json_schema.
class SchemaCompiler {
 public:
  // `root` is where references lead; `place` stands in messages before the path.
  SchemaCompiler(Builder& builder, const Json& root, std::string place)
      : builder_(builder), root_(root), place_(std::move(place)) {}

  Piece compile() { return value(root_, "#"); }
  Piece any_object();

 private:
  Piece value(const Json& schema, const std::string& path);
  Piece of_type(const Json& schema, const std::string& type, const std::string& path);
  Piece any_value();
  Piece reference(const std::string& target, const std::string& path);
  Piece literals(const Json& schema, const std::string& path);
  Piece object(const Json& schema, const std::string& path);
  Piece array(const Json& schema, const std::string& path);
  Piece text(const Json& schema, const std::string& path);
  Piece number(const Json& schema, bool integer, const std::string& path);
  Piece quoted(Piece body);
  Piece any_text();

  void check_keywords(const Json& schema, const std::string& path) const;
  int32_t count(const Json& schema, const char* keyword, int32_t otherwise, const std::string& path) const;
  [[noreturn]] void bad(const std::string& path, const std::string& what) const;
  [[noreturn]] void unsupported(const std::string& path, const std::string& what) const;

  Builder& builder_;
  const Json& root_;
  std::string place_;
  std::map<std::string, int32_t> rules_;  // by reference, or by type and bounds of numbers
  int32_t value_rule_ = -1, character_rule_ = -1;
  int depth_ = 0;
};

// JSON in the one form that grammars have.
std::string canonical_json(const Json& value);

}  // namespace nfloat::grammar

#endif  // NFLOAT_GRAMMAR_SCHEMA_H_

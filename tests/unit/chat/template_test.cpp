// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "nfloat/chat.h"
#include "nfloat/error.h"

namespace nfloat {
namespace {

std::string render(const std::string& text, const std::string& variables = "{}") {
  return ChatTemplate::parse(text).render(variables);
}

// What Python's Jinja gives with trim_blocks and lstrip_blocks.
TEST(ChatTemplate, RendersAsPythonsJinja) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"{{ [1, 'a', none, true, 1.0, {'k': \"it's\"}] }}", "[1, 'a', None, True, 1.0, {'k': \"it's\"}]"},
      {"{% for x in [1,2,3] if x != 2 %}{{ loop.index }}{{ x }}{{ ',' if not loop.last }}{% endfor %}",
       "11,23"},
      {"{% for x in [] %}a{% else %}none{% endfor %}", "none"},
      {"{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }};{% endfor %}", "a=1;b=2;"},
      {"{% for x in range(9) %}{% if x == 1 %}{% continue %}{% endif %}{% if x == 4 %}{% break %}{% endif "
       "%}{{ x }}"
       "{% endfor %}",
       "023"},
      {"{% set ns = namespace(n=0) %}{% for x in [1,2] %}{% set ns.n = ns.n + x %}{% endfor %}{{ ns.n }}",
       "3"},
      {"{% set x = 1 %}{% for y in [1] %}{% set x = 2 %}{% endfor %}{{ x }}", "1"},
      {"{% macro m(a, b='z') %}<{{ a }}{{ b }}>{% endmacro %}{{ m(1) }}{{ m(b=2, a=3) }}", "<1z><32>"},
      {"  {% if true %}\n  a\n  {% endif %}\nb\n", "  a\nb"},
      {"a  {{- 'b' -}}  \n c {#- note -#} d", "abcd"},
      {"{{ 'abcdef'[1:4] }}{{ 'abc'[::-1] }}{{ [1,2,3][-1] }}{{ [1,2,3,4][:-1] }}", "bcdcba3[1, 2, 3]"},
      {"{{ 'ünï'|length }}{{ 'ünï'[::-1] }}{{ 'ünï'|upper }}", "3ïnüÜNÏ"},
      {"{{ 'a,b,,c'.split(',') }}{{ ' a  b '.split() }}{{ 'a b c'.split(' ', 1)[-1] }}",
       "['a', 'b', '', 'c']['a', 'b']b c"},
      {"{{ {'a': [1, {'b': 'é<\"'}], 'c': none}|tojson }}", R"({"a": [1, {"b": "é<\""}], "c": null})"},
      {"{{ {'a': [1, {}], 'c': []}|tojson(indent=2) }}",
       "{\n  \"a\": [\n    1,\n    {}\n  ],\n  \"c\": []\n}"},
      {"{{ x is defined }}{{ x is undefined }}{{ x|default('d') }}{{ '' or 'e' }}{{ x }}", "FalseTruede"},
      {"{{ not x is defined and 1 < 2 < 3 and 'a' in 'abc' and 4 not in [1] }}", "True"},
      {"{{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 ** 10 }} {{ -2|abs }}", "3 -4 2 3.5 1024 2"},
      {"{{ [{'r': 'a', 'n': 1}, {'r': 'b', 'n': 2}]|selectattr('r', 'equalto', 'b')|map(attribute='n')|list "
       "}}",
       "[2]"},
      {"{{ ['b', 'A', 'c', 'b']|sort|join('-') }} {{ ['b', 'a', 'b']|unique|list }} {{ {'b': 1, 'a': "
       "2}|dictsort }}",
       "A-b-b-c ['b', 'a'] [('a', 2), ('b', 1)]"},
      {"{{ 'a\nb\n\nc'|indent(2) }}", "a\n  b\n\n  c"},
      {"{{ '12'|int + 1 }}{{ '1.5'|float }}{{ 3|string ~ 4 }}", "131.534"},
      {"{% set t %}in {{ 1 }}{% endset %}{{ t|upper }}", "IN 1"},
      {"{% generation %}x{% endgeneration %}{% raw %}{{ y }}{% endraw %}", "x{{ y }}"},
      {"{{ (1, 2) }}{{ (1,) }}{{ 'a' 'b' }}{{ '\\n'|tojson }}", "(1, 2)(1,)ab\"\\n\""},
      {"{{ 'x' if false }}{{ 'y' if 0 else 'z' }}", "z"},
  };
  for (const auto& [text, expected] : cases) EXPECT_EQ(render(text), expected) << text;
}

TEST(ChatTemplate, RendersAConversation) {
  const std::string chatml =
      "{% for message in messages %}\n{{ '<|im_start|>' + message.role + '\\n' + message['content']|trim + "
      "'<|im_end|>\\n' }}\n{% endfor %}\n{% if add_generation_prompt %}\n{{ '<|im_start|>assistant\\n' }}\n"
      "{% endif %}\n";
  EXPECT_EQ(
      render(chatml, R"({"messages": [{"role": "user", "content": " hi "}], "add_generation_prompt": true})"),
      "<|im_start|>user\nhi<|im_end|>\n\n<|im_start|>assistant\n\n");
}

void expect_error(const std::string& text, const std::string& piece) {
  try {
    render(text);
    ADD_FAILURE() << "no error: " << text.substr(0, 80);
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(piece), std::string::npos) << error.what();
  }
}

TEST(ChatTemplate, HostileTemplatesEndInANamedError) {
  expect_error("a\n{{ raise_exception('roles must alternate') }}",
               "line 2: the template says: roles must alternate");
  expect_error("{{ x.y.z }}", "'x' is undefined");
  expect_error("{% if x %}", "'endif' is missing");
  expect_error("{{ 'a }}", "a string is not closed");
  expect_error("{{ 1 + }}", "expected an expression");
  expect_error("{% for a in range(99999999999) %}{% endfor %}", "steps");
  expect_error("{% for a in range(4000) %}{% for b in range(4000) %}{% endfor %}{% endfor %}", "steps");
  expect_error(
      "{% set ns = namespace(s='ab') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
      "bytes of text");
  expect_error("{% set ns = namespace(s=1) %}{% for i in range(999) %}{% set ns.s = [ns.s] %}{% endfor %}",
               "nested");
  expect_error("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "nested");
  expect_error("{{ " + std::string(100000, '(') + std::string(100000, ')') + " }}", "nested");
  std::string sum = "{{ 1";
  for (int i = 0; i < 100000; ++i) sum += "+1";
  expect_error(sum + " }}", "nested");
}

}  // namespace
}  // namespace nfloat

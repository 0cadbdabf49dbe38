// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "nfloat/chat.h"
#include "nfloat/error.h"
#include "support/files.h"

namespace nfloat {
namespace {

constexpr const char* kVariables =
    R"({"x": null, "messages": [{"role": "user", "content": "Hi"}], "tools": null})";

// What jinja2 3.1.6 prints with the environment of Transformers' apply_chat_template.
TEST(ChatTemplate, PrintsWhatTransformersPrints) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"{% macro box(w) %}{{ w }}<{{ caller() }}>{% endmacro %}{% for k in ['p','q'] %}{% call "
       "box(loop.index) %}{{ k }}{{ loop.last }}{% endcall %}{% endfor %}",
       "1<pFalse>2<qTrue>"},
      {"{% macro each(a) %}{% for v in a %}{{ caller(v) }}{% endfor %}{% endmacro %}{% set n = 7 %}{% "
       "call(v) each([1,2]) %}{{ v + n }};{% endcall %}",
       "8;9;"},
      {"{{ {'b': [1, {'z': 1.5}], 'a': none}|tojson(separators=(';','=')) }}",
       "{\"b\"=[1;{\"z\"=1.5}];\"a\"=null}"},
      {"{{ {'b': 1, 'a': {'d': 2, 'c': true}}|tojson(sort_keys=true, indent=1) }}",
       "{\n \"a\": {\n  \"c\": true,\n  \"d\": 2\n },\n \"b\": 1\n}"},
      {"{{ 'é😀'|tojson(ensure_ascii=true) }}{{ 'é😀'|tojson }}", "\"\\u00e9\\ud83d\\ude00\"\"é😀\""},
      {"{{ {2: 'two', true: 'x', 2.5: none}|tojson }}{{ {3: 4}[3] + 1 }}",
       "{\"2\": \"two\", \"true\": \"x\", \"2.5\": null}5"},
      {"{{ {3: 4, 'a': 1, (1,2): 5} }}{% for k in {7: 1} %}{{ k + 1 }}{% endfor %}",
       "{3: 4, 'a': 1, (1, 2): 5}8"},
      // What filters give is true even when empty, and goes once through its items.
      {"{% if messages|selectattr('role','equalto','tool') %}a{% endif %}{% set g = [1,2]|map('string') %}{{ "
       "g|join }}{{ g|list }}{{ [1,2]|select('odd') is sequence }}",
       "a12[]False"},
      {"{{ {'k': 1}.items()|length }}{{ {'k': 1}.keys() }}{% if {}.values() %}b{% endif %}{{ range(2) }}",
       "1dict_keys(['k'])range(0, 2)"},
      {"{{ ('<i>'|safe) + '<b>' }}{{ ('<'|e)|upper + '>' }}{{ ('%s'|safe)|format('<') }}{{ ('<'|safe) ~ '<' "
       "}}{{ ('<'|safe)|e }}{{ '<'|safe|replace('a','b') + '<' }}{{ ('<b>'|safe).split('b')[0] + '&' }}",
       "<i>&lt;b&gt;&LT;&gt;&lt;<<<<<<&amp;"},
      {"{% for n in [{'n': 1, 'c': [{'n': 2}]}, {'n': 3}] recursive %}{{ loop.depth }}{{ n.n }}{% if n.c "
       "%}[{{ loop(n.c)|trim }}]{% endif %}{% else %}none{% endfor %}",
       "11[22]13"},
      {"{% set a = 1 %}{% for v in [5] %}{% block one scoped %}{{ a }}{{ v }}{% endblock %}{% block two %}{{ "
       "a "
       "}}{{ v }}{% endblock two %}{% endfor %}",
       "151"},
      {"{% for g in [{'k':'b'},{'k':'a'}]|groupby('k') %}{{ g.grouper }}{{ g.list|length }}{% endfor %}",
       "a1b1"},
      {"{{ '\\u3000a\\u00a0'|trim }}{{ 'aéè'.strip('éa') }}{{ 'a\\u2003b'.split() }}{{ "
       "'a\\u2028b\\r\\nc'.splitlines() }}{{ 'stra\\u00dfe \\ufb01'|upper }}{{ \"it's a-b\"|title }}",
       "aè['a', 'b']['a', 'b', 'c']STRASSE FIIt's A-B"},
      {"{{ 0x1F }}{{ 0b11 }}{{ 0o17 }}{% raw %}\n{{ x }}{% endraw %}", "31315\n{{ x }}"},
      {"{{ x|rejectattr('a')|list }}{{ x|map('upper')|list }}{{ undefinedname|select|list }}{{ "
       "undefinedname|join(',') }}{{ undefinedname|length }}",
       "[][][]0"},
      {"{% macro f(a, b=2, c=3) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ f(*[9], **{'c': 8}) }}{{ f(1, *(4, "
       "5)) }}",
       "928145"},
      {"{% macro f(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 2, 3, k=4) }}",
       "1(2, 3){'k': 4}"},
      {"{{ '{0}-{1}-{0}'.format('a', 2) }}{{ '{name:>5}|{:.2f}|{{}}'.format(3.14159, name='n') }}",
       "a-2-a    n|3.14|{}"},
      {"{{ '%s=%d (%.1f%%)' % ('k', 3, 2.25) }}{{ '%5s|%-4s|'|format('a', 'b') }}", "k=3 (2.2%)    a|b   |"},
      {"{{ [3, 9, 4]|max }}{{ ['b','A']|min }}{{ [{'n': 4}, {'n': 2}]|min(attribute='n') }}", "9A{'n': 2}"},
      {"{{ 7.45|round }} {{ 7.45|round(1) }} {{ 1.25|round(1, 'ceil') }} {{ 1234|round(-2) }} {{ 5|round }}",
       "7.0 7.5 1.3 1200 5"},
      {"{% for g, items in [{'k':'b','v':1},{'k':'a','v':2},{'k':'b','v':3}]|groupby('k') %}{{ g }}:{{ "
       "items|map(attribute='v')|list }}{% endfor %}",
       "a:[2]b:[1, 3]"},
      {"{{ [1,2,3,4,5]|batch(2, 0)|list }}{{ [1,2,3,4,5]|slice(3)|list }}{{ [1,2,3,4,5]|slice(3, 'f')|list "
       "}}",
       "[[1, 2], [3, 4], [5, 0]][[1, 2], [3, 4], [5]][[1, 2], [3, 4], [5, 'f']]"},
      {"{% set a = 1 %}{% with a = 5, b = a %}{{ a }}{{ b }}{% endwith %}{{ a }}", "511"},
      {"{% for c in 'abcd' %}{{ loop.cycle('1','2','3') }}{% if loop.changed(c == 'c') %}!{% endif %}{% "
       "endfor %}",
       "1!23!1!"},
      {"{{ 98765432109876543210987 + 13 }} {{ 2 ** 100 }} {{ -98765432109876543210 // 7 }} {{ "
       "-98765432109876543210 % 7 }} {{ 99999999999999999999 > 5 }} {{ 99999999999999999999|tojson }}",
       "98765432109876543211000 1267650600228229401496703205376 -14109347444268077602 4 True "
       "99999999999999999999"},
      {"{{ ' a b  c '.split(none, 1) }}{{ 'a,b,c'.rsplit(',', 1) }}{{ 'a=b=c'.partition('=') }}{{ "
       "'a=b=c'.rpartition('=') }}",
       "['a', 'b  c ']['a,b', 'c']('a', '=', 'b=c')('a=b', '=', 'c')"},
      {"{{ 'abc'.removeprefix('a').removesuffix('c') }}{{ '7'.zfill(3) }}{{ 'ab'.ljust(4, '.') }}{{ "
       "'ab'.rjust(4) }}{{ 'abc'.center(6, '*') }}{{ 'ab'.center(5,'*') }}",
       "b007ab..  ab*abc****ab*"},
      {"{{ 'Ab1'.isalnum() }}{{ 'Ab1'.isalpha() }}{{ 'AB'.isupper() }}{{ '  '.isspace() }}{{ "
       "'abcb'.rfind('b') }}{{ 'abcb'.index('c') }}",
       "TrueFalseTrueTrue32"},
      {"{{ [1,2,1].count(1) }}{{ [1,2,1].index(2) }}{{ [1, 2] * 2 }}{{ 3 * 'ab' }}", "21[1, 2, 1, 2]ababab"},
      {"{{ '<a & \"b\">'|e }}{{ 'a b c'|wordcount }}{{ [1,2,3]|sum(start=4) }}{{ "
       "[{'a':1},{'a':5}]|sum(attribute='a') }}",
       "&lt;a &amp; &#34;b&#34;&gt;3106"},
      {"{{ 'ff'|int(0, 16) }}{{ '0x1A'|int(base=16) }}{{ 'zz'|int(7) }}{{ '123456789012345678901234'|int }}",
       "255267123456789012345678901234"},
      {"{{ dict([('a', 1)], b=2) }}{{ {'a': {'b': 1}}.get('a').get('c', 'd') }}{{ none|default('d') }}{{ "
       "none|default('d', true) }}",
       "{'a': 1, 'b': 2}dNoned"},
      {"{{ {'items': 1}.items is callable }}{{ {'items': 1}['items'] }}{{ 1 is sameas true }}{{ 1 == true }}",
       "True1FalseTrue"},
      {"{{ [{'a': {'b': 2}}, {'a': {'b': 1}}]|sort(attribute='a.b')|map(attribute='a.b')|list }}{{ "
       "[[1,2],[0,5]]|map(attribute=1)|list }}",
       "[1, 2][2, 5]"},
      {"{% macro outer() %}{% set q = 4 %}{% macro inner() %}{{ q }}{% endmacro %}{{ inner() }}{% endmacro "
       "%}{{ outer() }}",
       "4"},
      {"{{ none|trim }}{{ none|string|length }}{{ undefinedname|upper }}{{ undefinedname|trim }}{{ none|int "
       "}}{{ true|int }}",
       "None401"},
      {"{{ 1e16 }} {{ 1e-5 }} {{ 0.1 + 0.2 }} {{ 1.0 }} {{ 123456789.0 }}",
       "1e+16 1e-05 0.30000000000000004 1.0 123456789.0"},
      {"{{ 'a\tbé' }}{{ ['a\\tbé'] }}", "a\tbé['a\\tbé']"},
      {"{{ ('a', 'b')|tojson }}{{ [true, 1.0, none]|tojson }}{{ {}|tojson(indent=4) }}{{ "
       "[[]]|tojson(indent=2) }}",
       "[\"a\", \"b\"][true, 1.0, null]{}[\n  []\n]"},
      {"{{ [{'x': 1}, {}]|map(attribute='x', default='-')|join(' ') }}{{ ['a', 'b']|map('replace', 'a', "
       "'c')|join }}{{ 1.5|string + 'x' }}",
       "1 -cb1.5x"},
      {"{{ 'title case'|title }}{{ \"it's a DOG\"|capitalize }}{{ 'a-b c'|title }}",
       "Title CaseIt's a dogA-B C"},
      {"{% set ns = namespace({'a': 1}, b=2) %}{{ ns.a + ns.b }}{{ ns is defined }}", "3True"},
      {"{{ messages[0].role }}{{ messages[0]['content'] }}{{ messages[-1].nothing is defined }}{{ "
       "messages|selectattr('role', '==', 'user')|list|length }}",
       "userHiFalse1"},
      {"{{ 5 is divisibleby 5 }}{{ 3 is odd }}{{ 'A' is upper }}{{ [] is sequence }}{{ {} is mapping }}{{ "
       "1.5 is float }}{{ 2 is lt 3 }}{{ 2 is in [2] }}",
       "TrueTrueTrueTrueTrueTrueTrueTrue"},
  };
  for (const auto& [text, expected] : cases) {
    SCOPED_TRACE(text);
    try {
      EXPECT_EQ(ChatTemplate::parse(text).render(kVariables), expected);
    } catch (const Error& error) {
      ADD_FAILURE() << error.what();
    }
  }
}

TEST(ChatTemplate, RefusesWhatJinjaRefuses) {
  for (const std::string text :
       {"{{ 'x'|tojson(nosuch=1) }}", "{{ 'x'|nosuch }}", "{{ 'x' is nosuch }}", "{{ [1]|join(nosuch=2) }}",
        "{{ 'a'.nosuch() }}", "{{ none|list }}", "{% if 1 if 0 %}{% endif %}",
        "{{ [1]|map('string')|length }}", "{{ [1]|map('string')|tojson }}", "{{ {}.items()|tojson }}",
        "{{ range(3)|tojson }}", "{% for v in [1] %}{{ loop([2]) }}{% endfor %}",
        "{% block a %}{% endblock %}{% block a %}{% endblock %}", "{% block a %}{% endblock b %}",
        "{% include 'x' %}", "{% extends 'x' %}", "{% import 'x' as y %}", "{{ [2, 1].append(3) }}"})
    EXPECT_THROW(ChatTemplate::parse(text).render(kVariables), Error) << text;
}

TEST(ChatTemplate, VariablesKeepWholeNumbersAndTheirKinds) {
  EXPECT_EQ(
      ChatTemplate::parse("{{ n }} {{ f }} {{ o }} {{ n + 1 }}")
          .render(
              R"({"n": -31415926535897932384626, "f": 2.50, "o": {"k\u00e9y": [1, true, null, "a\"]}"]}})"),
      "-31415926535897932384626 2.5 {'kéy': [1, True, None, 'a\"]}']} -31415926535897932384625");
  EXPECT_EQ(ChatTemplate::parse("{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}")
                .render("{}"),
            "TrueTrueFalse");
}

using ChatTemplateFolder = testing::TemporaryFolder;

TEST_F(ChatTemplateFolder, TheTemplateForToolsIsTakenWhenToolsAreGiven) {
  std::filesystem::create_directories(folder_ / "additional_chat_templates");
  testing::write_file(folder_ / "chat_template.jinja", "plain{{ bos_token }}{{ eos_token }}");
  testing::write_file(folder_ / "additional_chat_templates" / "tool_use.jinja", "{{ tools|length }} tools");
  testing::write_file(folder_ / "additional_chat_templates" / "rag.jinja", "rag");
  testing::write_file(folder_ / "tokenizer_config.json", R"({"bos_token": "<s>"})");
  testing::write_file(folder_ / "special_tokens_map.json",
                      R"({"bos_token": "no", "eos_token": {"content": "</s>"}})");
  const auto all = ChatTemplate::load(folder_.string());
  ASSERT_TRUE(all.has_value());
  EXPECT_EQ(all->render("{}"), "plain<s></s>");
  EXPECT_EQ(all->render(R"({"tools": [{}, {}]})"), "2 tools");
  EXPECT_EQ(ChatTemplate::load(folder_.string(), "rag")->render(R"({"tools": [{}]})"), "rag");
  EXPECT_FALSE(ChatTemplate::load(folder_.string(), "none").has_value());
}

TEST_F(ChatTemplateFolder, AProcessorsFileHoldsATemplate) {
  testing::write_file(folder_ / "chat_template.json", R"({"chat_template": "of the processor"})");
  EXPECT_EQ(ChatTemplate::load(folder_.string())->render("{}"), "of the processor");
}

}  // namespace
}  // namespace nfloat

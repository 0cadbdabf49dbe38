# SPDX-License-Identifier: Apache-2.0
# nfloat_embed_text(target symbol file): the text of `file` as `extern const std::string_view nfloat::embedded::symbol` in
# `target`. Written at configure time, as raw string literals short enough for every compiler, none of which cuts a character of
# UTF-8 in two.
function(nfloat_embed_text target symbol file)
  get_filename_component(path ${file} ABSOLUTE)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${path})
  file(READ ${path} text)
  string(LENGTH "${text}" length)
  set(literals "\"\"\n")
  set(begin 0)
  while(begin LESS length)
    math(EXPR end "${begin} + 8000")
    while(end LESS length)
      file(READ ${path} byte OFFSET ${end} LIMIT 1 HEX)
      if(NOT byte MATCHES "^[89ab]")
        break()
      endif()
      math(EXPR end "${end} - 1")
    endwhile()
    math(EXPR size "${end} - ${begin}")
    string(SUBSTRING "${text}" ${begin} ${size} part)
    string(APPEND literals "R\"nfloat_text(${part})nfloat_text\"\n")
    set(begin ${end})
  endwhile()
  set(source ${CMAKE_CURRENT_BINARY_DIR}/embedded_${symbol}.cpp)
  file(CONFIGURE OUTPUT ${source} @ONLY CONTENT "#include <string_view>
namespace nfloat::embedded {
extern const std::string_view ${symbol};
const std::string_view ${symbol} =
@literals@;
}  // namespace nfloat::embedded
")
  target_sources(${target} PRIVATE ${source})
endfunction()

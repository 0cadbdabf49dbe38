# SPDX-License-Identifier: Apache-2.0
# nfloat_embed_text(target symbol file): the text of `file` as `extern const std::string_view nfloat::embedded::symbol` in
# `target`. Written at configure time, as raw string literals short enough for every compiler.
function(nfloat_embed_text target symbol file)
  get_filename_component(path ${file} ABSOLUTE)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${path})
  file(READ ${path} text)
  string(LENGTH "${text}" length)
  set(literals "")
  set(begin 0)
  while(begin LESS length)
    string(SUBSTRING "${text}" ${begin} 8000 part)
    string(LENGTH "${part}" taken)
    string(APPEND literals "R\"nfloat_text(${part})nfloat_text\"\n")
    math(EXPR begin "${begin} + ${taken}")
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

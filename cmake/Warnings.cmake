# SPDX-License-Identifier: Apache-2.0
# Developer mode only: a user's newer compiler must not fail on a new warning.
function(nfloat_warnings target)
  if(NFLOAT_DEVELOPER)
    target_compile_options(${target} PRIVATE -Wall -Wextra -Wshadow -Wconversion -Werror)
  endif()
endfunction()

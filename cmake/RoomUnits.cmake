# SPDX-License-Identifier: Apache-2.0
# nfloat_room_units(): each room of the library `nfloat` becomes one translation unit, which is quicker from nothing; kernels stay
# files, each compiled for a target of its own.
function(nfloat_room_units)
  # GCC takes the .cpp files that the unit includes for headers.
  target_compile_options(nfloat PRIVATE $<$<CXX_COMPILER_ID:GNU>:-Wno-subobject-linkage>)
  set_target_properties(nfloat PROPERTIES UNITY_BUILD ON UNITY_BUILD_MODE GROUP)
  get_target_property(sources nfloat SOURCES)
  foreach(source ${sources})
    if(source MATCHES "/src/([a-z0-9_]+)/[^/]+[.]cpp$" AND NOT CMAKE_MATCH_1 STREQUAL kernels)
      set_source_files_properties(${source} TARGET_DIRECTORY nfloat PROPERTIES UNITY_GROUP ${CMAKE_MATCH_1})
    endif()
  endforeach()
endfunction()

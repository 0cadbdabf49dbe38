# SPDX-License-Identifier: Apache-2.0
include(CMakePackageConfigHelpers)
install(TARGETS nfloat EXPORT nfloat-targets
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
  RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/nfloat DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
if(TARGET nfloat_c)
  install(TARGETS nfloat_c EXPORT nfloat-targets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
endif()
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/nfloat)
install(EXPORT nfloat-targets NAMESPACE nfloat:: DESTINATION ${package_dir})
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/nfloat-config.cmake.in nfloat-config.cmake
  INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(nfloat-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/nfloat-config.cmake ${CMAKE_CURRENT_BINARY_DIR}/nfloat-config-version.cmake
  DESTINATION ${package_dir})
# The package can be moved: pkg-config knows where nfloat.pc lies.
if(IS_ABSOLUTE "${CMAKE_INSTALL_LIBDIR}")
  set(nfloat_pc_prefix ${CMAKE_INSTALL_PREFIX})
else()
  file(RELATIVE_PATH nfloat_pc_prefix /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix)
  string(REGEX REPLACE "/$" "" nfloat_pc_prefix "\${pcfiledir}/${nfloat_pc_prefix}")
endif()
configure_file(${PROJECT_SOURCE_DIR}/cmake/nfloat.pc.in nfloat.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/nfloat.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR} RENAME copyright)
if(TARGET nfloat_c)
  configure_file(${PROJECT_SOURCE_DIR}/cmake/nfloat-c.pc.in nfloat-c.pc @ONLY)
  install(FILES ${CMAKE_CURRENT_BINARY_DIR}/nfloat-c.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
endif()

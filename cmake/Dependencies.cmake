# SPDX-License-Identifier: Apache-2.0
# Private dependencies of the library: none of their headers appears in include/nfloat.
find_package(Boost 1.74 REQUIRED)  # headers only: Boost.Math, Boost.Beast
set(nfloat_tls OFF)
if(NOT CMAKE_CROSSCOMPILING)  # where this machine's own OpenSSL would be found
  find_package(OpenSSL QUIET)
  set(nfloat_tls ${OpenSSL_FOUND})
endif()
option(NFLOAT_TLS "TLS in nfloat serve (needs OpenSSL)" ${nfloat_tls})
if(NFLOAT_TLS)
  find_package(OpenSSL REQUIRED)
  set(NFLOAT_PC_TLS openssl)
endif()
# Open MPI's headers alone: its library is loaded at run time, where mpirun has started the program.
set(NFLOAT_MPI AUTO CACHE STRING "Ranks over Open MPI (needs libopenmpi-dev): AUTO, ON, OFF")
find_package(fmt REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET libutf8proc)
if(NFLOAT_MPI STREQUAL "AUTO" OR NFLOAT_MPI)
  pkg_check_modules(OPEN_MPI QUIET ompi-c)
  if(NOT OPEN_MPI_FOUND AND NFLOAT_MPI AND NOT NFLOAT_MPI STREQUAL "AUTO")
    message(FATAL_ERROR "NFLOAT_MPI is ON and Open MPI's headers are not there: install libopenmpi-dev")
  endif()
endif()
pkg_check_modules(SENTENCEPIECE REQUIRED IMPORTED_TARGET sentencepiece)

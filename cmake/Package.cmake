# SPDX-License-Identifier: Apache-2.0
# cpack -G DEB makes one package of the tool, the library, the headers, the manual page and the completions. Dependencies on shared
# libraries are found in the tool; a static library's own dependencies are development packages, named here.
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME nfloat)
set(CPACK_PACKAGE_VENDOR nfloat)
set(CPACK_PACKAGE_CONTACT "nfloat <nfloat@localhost>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "4-bit NormalFloat for language models: quantize, run, measure")
set(CPACK_PACKAGE_DESCRIPTION "nfloat quantizes checkpoints of language models to NF4 and related 4-bit codes in the layout of bitsandbytes,
converts between Hugging Face folders and GGUF, runs models on a CPU and measures what a format costs.
The package holds the command line, the static library with its headers, and the manual page.")
set(CPACK_PACKAGE_DIRECTORY ${CMAKE_BINARY_DIR}/packages)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_RESOURCE_FILE_LICENSE ${PROJECT_SOURCE_DIR}/LICENSE)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_SUGGESTS
  "g++, cmake, libfmt-dev, libpcre2-dev, libutf8proc-dev, libsentencepiece-dev, libboost-dev, libssl-dev, nlohmann-json3-dev, pkg-config")
include(CPack)

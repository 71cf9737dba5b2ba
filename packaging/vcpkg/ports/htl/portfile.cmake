# SPDX-License-Identifier: Apache-2.0
# An overlay port that installs the checkout it lies in: vcpkg install htl --overlay-ports=packaging/vcpkg/ports
# LibTorch is found by htl's own CMake package in the consumer's project (see usage), so that a wheel's or a distribution's serves as well as vcpkg's port libtorch.
set(VCPKG_BUILD_TYPE release) # header-only
get_filename_component(SOURCE_PATH "${CMAKE_CURRENT_LIST_DIR}/../../../.." ABSOLUTE)

vcpkg_cmake_configure(
  SOURCE_PATH "${SOURCE_PATH}"
  OPTIONS
    -DHTL_BUILD_TESTS=OFF
    -DHTL_BUILD_BENCHMARKS=OFF
    -DHTL_BUILD_EXAMPLES=OFF
    -DHTL_BUILD_DOCS=OFF
    -DHTL_INSTALL_CMAKEDIR=share/htl
)
vcpkg_cmake_install()
file(INSTALL "${CMAKE_CURRENT_LIST_DIR}/usage" DESTINATION "${CURRENT_PACKAGES_DIR}/share/${PORT}")
vcpkg_install_copyright(FILE_LIST "${SOURCE_PATH}/LICENSE")

# SPDX-License-Identifier: Apache-2.0
# What tests, benchmarks and examples share: warnings, sanitizers, one precompiled header, a limit on parallel compiles. Nothing here reaches a user of htl.

# Each compile of LibTorch's headers takes 1 to 2 GB
if(PROJECT_IS_TOP_LEVEL AND CMAKE_GENERATOR MATCHES "Ninja" AND NOT CMAKE_JOB_POOL_COMPILE)
  cmake_host_system_information(RESULT cores QUERY NUMBER_OF_LOGICAL_CORES)
  cmake_host_system_information(RESULT memory QUERY TOTAL_PHYSICAL_MEMORY) # MiB
  if(EXISTS /sys/fs/cgroup/memory.max)
    file(READ /sys/fs/cgroup/memory.max bytes)
    string(STRIP "${bytes}" bytes)
    if(bytes MATCHES "^[0-9]+$")
      math(EXPR container_memory "${bytes} / 1048576")
      if(container_memory LESS memory)
        set(memory ${container_memory})
      endif()
    endif()
  endif()
  math(EXPR jobs "${memory} / 2500")
  if(jobs GREATER cores)
    set(jobs ${cores})
  elseif(jobs LESS 1)
    set(jobs 1)
  endif()
  set_property(GLOBAL APPEND PROPERTY JOB_POOLS htl_compile=${jobs})
  set(CMAKE_JOB_POOL_COMPILE htl_compile)
endif()

set(CMAKE_CXX_EXTENSIONS OFF)
add_library(htl_development INTERFACE)
target_compile_options(htl_development INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wconversion $<$<BOOL:${HTL_WARNINGS_AS_ERRORS}>:-Werror>)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 14)
  # GCC's own faults: 105651 ("text" + std::string taken for an overlapping or endless copy), 105562 and 109561 (std::optional, std::variant, std::vector)
  target_compile_options(htl_development INTERFACE -Wno-restrict -Wno-array-bounds -Wno-stringop-overflow -Wno-stringop-overread -Wno-maybe-uninitialized)
endif()
if(HTL_BUILD_FUZZERS AND NOT (CMAKE_CXX_COMPILER_ID STREQUAL "Clang" AND HTL_SANITIZE AND HTL_BUILD_TESTS))
  message(FATAL_ERROR "HTL_BUILD_FUZZERS is for Clang with HTL_SANITIZE and HTL_BUILD_TESTS, got ${CMAKE_CXX_COMPILER_ID}; use the preset fuzz, or leave it off: "
                      "then the tests run the seeds alone")
endif()
if(HTL_SANITIZE)
  target_compile_options(htl_development INTERFACE -fsanitize=${HTL_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(htl_development INTERFACE -fsanitize=${HTL_SANITIZE})
endif()
target_compile_definitions(htl_development INTERFACE HTL_DEFAULT_DATA_DIR="${PROJECT_SOURCE_DIR}/../shared/data")
target_include_directories(htl_development INTERFACE ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/tests ${PROJECT_SOURCE_DIR}/examples)
find_package(CLI11 QUIET)
find_package(tomlplusplus QUIET)
target_link_libraries(htl_development INTERFACE htl::data htl::io $<TARGET_NAME_IF_EXISTS:CLI11::CLI11> $<TARGET_NAME_IF_EXISTS:tomlplusplus::tomlplusplus>)
# LibTorch is built without the sanitizers' container annotations: vectors that cross its border give false reports; nor does ThreadSanitizer see its locks
set(HTL_TEST_ENVIRONMENT OMP_WAIT_POLICY=passive # tests run beside each other: threads that spin at a barrier keep the one that it waits for from its core
    ASAN_OPTIONS=detect_container_overflow=0 UBSAN_OPTIONS=print_stacktrace=1 TSAN_OPTIONS=ignore_noninstrumented_modules=1)
if(HTL_SANITIZE MATCHES "thread")
  list(APPEND HTL_TEST_ENVIRONMENT OMP_NUM_THREADS=1) # the OpenMP library's barriers are not seen either: each of its loops would be reported
endif()

if(HTL_USE_PCH)
  file(CONFIGURE OUTPUT pch.cpp CONTENT "")
  add_library(htl_pch OBJECT ${CMAKE_CURRENT_BINARY_DIR}/pch.cpp)
  target_link_libraries(htl_pch PRIVATE htl_development)
  if(HTL_BUILD_TESTS)
    find_package(GTest 1.11 REQUIRED)
    target_link_libraries(htl_development INTERFACE GTest::gtest) # whoever reuses the precompiled header needs the same definitions
  endif()
  target_precompile_headers(htl_pch PRIVATE <torch/torch.h> $<$<BOOL:${HTL_BUILD_TESTS}>:<gtest/gtest.h$<ANGLE-R>>)
endif()

# htl_add_program(NAME sources…): an executable with everything above
function(htl_add_program name)
  add_executable(${name} ${ARGN})
  target_link_libraries(${name} PRIVATE htl_development)
  if(HTL_USE_PCH)
    target_precompile_headers(${name} REUSE_FROM htl_pch)
  endif()
endfunction()

# htl_add_test(NAME sources…): one GoogleTest program and one CTest test "NAME" from all the sources
function(htl_add_test name)
  htl_add_program(htl_test_${name} ${ARGN})
  target_link_libraries(htl_test_${name} PRIVATE GTest::gtest_main)
  add_test(NAME ${name} COMMAND htl_test_${name} --gtest_brief=1)
  set_tests_properties(${name} PROPERTIES LABELS unit TIMEOUT 1200 ENVIRONMENT "${HTL_TEST_ENVIRONMENT}")
endfunction()

# SPDX-License-Identifier: Apache-2.0
# One step of CMakeLists.txt beside this file, as its own process. The installed tree is moved before anybody uses it: no path may be baked in.
cmake_minimum_required(VERSION 3.25)
function(run)
  execute_process(COMMAND ${ARGN} OUTPUT_VARIABLE output ERROR_VARIABLE output RESULT_VARIABLE result)
  if(NOT result EQUAL 0)
    list(JOIN ARGN " " command)
    message(FATAL_ERROR "${command}\nexit status ${result}\n${output}")
  endif()
endfunction()

set(installed "${WORK}/moved")
if(STEP STREQUAL "install")
  file(REMOVE_RECURSE "${WORK}/prefix" "${installed}")
  run("${CMAKE_COMMAND}" --install "${BUILD}" --prefix "${WORK}/prefix")
  file(RENAME "${WORK}/prefix" "${installed}")
  return()
endif()

set(tree "${WORK}/${STEP}")
file(REMOVE_RECURSE "${tree}")
run("${CMAKE_COMMAND}" -S "${CMAKE_CURRENT_LIST_DIR}/${STEP}" -B "${tree}" -G "${GENERATOR}" "-DCMAKE_CXX_COMPILER=${COMPILER}" "-DCMAKE_PREFIX_PATH=${installed}"
    "-DHTL_TORCH_ROOT=${TORCH_ROOT}" "-DTorch_DIR=${TORCH_DIR}" "-DHTL_ENABLE_CUDA=${CUDA}" "-DHTL_SOURCE=${SOURCE}")
run("${CMAKE_COMMAND}" --build "${tree}")
run("${tree}/consumer")

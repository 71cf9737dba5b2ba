# SPDX-License-Identifier: Apache-2.0
# The package of a LibTorch for the CPU, on the libraries in CPU_TORCH_ROOT: the targets and variables that a project sees after find_package(Torch).
set(TORCH_INCLUDE_DIRS "${CPU_TORCH_ROOT}/include" "${CPU_TORCH_ROOT}/include/torch/csrc/api/include")
add_library(c10 SHARED IMPORTED)
set_target_properties(c10 PROPERTIES IMPORTED_LOCATION "${CPU_TORCH_ROOT}/lib/libc10.so")
add_library(torch_cpu SHARED IMPORTED)
set_target_properties(torch_cpu PROPERTIES IMPORTED_LOCATION "${CPU_TORCH_ROOT}/lib/libtorch_cpu.so" INTERFACE_LINK_LIBRARIES c10
                      INTERFACE_COMPILE_DEFINITIONS "USE_DISTRIBUTED;USE_C10D_GLOO;USE_RPC;USE_TENSORPIPE")
add_library(torch INTERFACE IMPORTED)
set_target_properties(torch PROPERTIES INTERFACE_LINK_LIBRARIES torch_cpu INTERFACE_INCLUDE_DIRECTORIES "${TORCH_INCLUDE_DIRS}")
add_library(torch_library INTERFACE IMPORTED)
set_target_properties(torch_library PROPERTIES INTERFACE_LINK_LIBRARIES torch)
set(TORCH_LIBRARIES torch torch_library "${CPU_TORCH_ROOT}/lib/libc10.so")
set(Torch_FOUND TRUE)

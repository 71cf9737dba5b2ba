// SPDX-License-Identifier: Apache-2.0
/// @file machine.hpp
/// @brief What the program asks of its machine: threads, matrix products chosen by the processor and checked to be exact, figures for the summary.
#pragma once

#include <c10/util/Exception.h>

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace htlnet {

/// The matrix products that a run uses on the CPU, and what the choice rests on.
struct MatrixBackend {
  std::string name;             // mkl | onednn
  double gflops = 0.0;          // of a tower's first product, as measured at the start
  double other_gflops = 0.0;    // of the one that was not taken
  double relative_error = 0.0;  // against float64
};

/// Sets the float32 matrix products of the process. `wanted`: auto, mkl or onednn; a named one is refused if it is not exact. auto is MKL on Intel's processors
/// and oneDNN elsewhere (where MKL runs at half its speed), unless oneDNN's error against float64 is not that of float32. Both are timed, for the record: the
/// times do not decide, so the same processor always takes the same one.
MatrixBackend choose_matrix_backend(const std::string& wanted);

/// Has the C library keep memory that was freed (glibc; nothing elsewhere). Left alone it returns what lies at the heap's end after a step and takes it again
/// in the next: in some runs 1,500 page faults a step, in others none, as the heap happens to lie.
void keep_freed_memory();
/// Has the C library return all the same what lies free now (glibc; nothing elsewhere): a process that is forked after it takes new memory where it needs some.
void return_freed_memory();

/// The value behind NAME and ":" in the first line of a file of /proc that begins with NAME; "unknown" where there is none.
std::string proc_field(const std::filesystem::path& path, const std::string& name);

/// Whether LibTorch could not get memory. Of the CPU's allocator only the sentence tells.
inline bool is_out_of_memory(const c10::Error& error) {
  return dynamic_cast<const c10::OutOfMemoryError*>(&error) != nullptr ||
         std::string_view(error.what_without_backtrace()).find("can't allocate memory") != std::string_view::npos;
}

/// Bytes of memory that this process may still take: what the machine has free, its control group allows, and its own limit leaves.
double available_memory();
std::string cpu_model();
double peak_memory_mb();
/// The GPU's name as its driver says it; of several kinds in one machine all, since a device's number does not tell which.
std::string gpu_model();
/// The most memory that tensors have held on the first CUDA device; nothing where this LibTorch does not count it.
std::optional<double> peak_device_memory_mb();

}  // namespace htlnet

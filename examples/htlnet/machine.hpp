// SPDX-License-Identifier: Apache-2.0
/// @file machine.hpp
/// @brief What the program asks of its machine: threads, the fastest exact matrix products, figures for the summary.
#pragma once

#include <string>

namespace htlnet {

/// The matrix products that a run uses on the CPU, and what the choice rests on.
struct MatrixBackend {
  std::string name;             // mkl | onednn
  double gflops = 0.0;          // of a towers' product, as measured at the start
  double other_gflops = 0.0;    // of the one that was not taken
  double relative_error = 0.0;  // against float64
};

/// Measures both sets of float32 matrix products that LibTorch ships, keeps the faster one whose error is that of float32 arithmetic, and sets it for the
/// process. `wanted`: auto, mkl or onednn; a named one is refused if it is not exact.
MatrixBackend choose_matrix_backend(const std::string& wanted);

std::string cpu_model();
double peak_memory_mb();

}  // namespace htlnet

// SPDX-License-Identifier: Apache-2.0
/// @file sum.hpp
/// @brief Sum: every task's gradient as it is; the plain baseline.
#pragma once

#include <htl/weighting/weighting.hpp>

#include <ATen/ops/ones.h>

namespace htl::inline v0_1_0 {

/// @brief w_t = 1. What an ordinary backward of the summed losses does.
///
/// **Device**: filled by a kernel; a CUDA graph can capture it.
struct Sum {
  /// @brief Ones [T].
  at::Tensor weights(const TaskGramian& gramian) const { return at::ones({gramian.tasks()}, gramian.matrix.options()); }
};

}  // namespace htl

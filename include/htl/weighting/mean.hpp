// SPDX-License-Identifier: Apache-2.0
/// @file mean.hpp
/// @brief Mean: the average of the task gradients.
#pragma once

#include <htl/task/tensor_operators.hpp>
#include <htl/weighting/weighting.hpp>

#include <ATen/ops/full.h>

#include <algorithm>

namespace htl::inline v0_1_0 {

/// @brief w_t = 1/T over the T active tasks: the gradient of the mean loss, which keeps its scale when tasks are added.
///
/// An inactive task has weight 0 and is not counted. **Device**: ATen without branches or synchronisation; a CUDA graph can capture it.
/// TorchJD's Mean counts every row.
struct Mean {
  /// @brief 1/T [T].
  at::Tensor weights(const TaskGramian& gramian) const {
    if (!gramian.active.defined())
      return at::full({gramian.tasks()}, 1.0 / static_cast<double>(std::max<int64_t>(gramian.tasks(), 1)), gramian.matrix.options());
    const at::Tensor active = gramian.active.to(gramian.matrix.options());
    return active / active.sum().clamp_min(1.0);
  }
};

}  // namespace htl

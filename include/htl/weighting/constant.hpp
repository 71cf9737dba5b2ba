// SPDX-License-Identifier: Apache-2.0
/// @file constant.hpp
/// @brief Constant: weights that you give.
#pragma once

#include <htl/task/check.hpp>
#include <htl/weighting/weighting.hpp>

#include <ATen/ops/empty.h>

#include <cmath>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief w_t = values[t], whatever the gradients: `Constant{{1.0, 0.5, 2.0}}`. The losses' own weights by hand, on the shared parameters only.
///
/// An inactive task keeps its weight; its gradient is 0. **Device**: filled by kernels, without a copy from the host; a CUDA graph can capture it.
struct Constant {
  std::vector<double> values;  ///< one finite number for each task, in the order of the TaskSet

  /// @brief The values [T].
  /// @throws c10::ValueError unless there are T finite values
  at::Tensor weights(const TaskGramian& gramian) const {
    HTL_CHECK(static_cast<int64_t>(values.size()) == gramian.tasks(), "htl::Constant: expected a weight for each of ", gramian.tasks(), " tasks, got ",
              values.size());
    at::Tensor result = at::empty({gramian.tasks()}, gramian.matrix.options());
    for (int64_t t = 0; t < gramian.tasks(); ++t) {
      const double value = values[static_cast<size_t>(t)];
      HTL_CHECK(std::isfinite(value), "htl::Constant: expected finite weights, got ", value, " for task ", t);
      if (result.is_cpu())
        result.mutable_data_ptr<double>()[t] = value;
      else
        result.select(0, t).fill_(value);
    }
    return result;
  }
};

}  // namespace htl

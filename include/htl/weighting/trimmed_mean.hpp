// SPDX-License-Identifier: Apache-2.0
/// @file trimmed_mean.hpp
/// @brief TrimmedMean: for each number the mean of the task gradients without the largest and the smallest ones.
#pragma once

#include <htl/weighting/gradient_parts.hpp>

#include <ATen/ops/arange.h>

#include <limits>

namespace htl::inline v0_1_0 {

/// @brief The coordinate-wise trimmed mean (Yin et al., "Byzantine-Robust Distributed Learning", ICML 2018, Definition 2).
///
/// For each number of the shared tensors the tasks' gradients are sorted, the `trim` smallest and the `trim` largest are dropped, and the mean of the rest is
/// taken. At least one stays: of n active tasks at most ⌊(n − 1)/2⌋ are dropped at either end, so that few tasks give the median and T = 1 the identity.
///
/// **Shapes**: any parts; of tables the touched rows, where a task that did not touch a row counts with its 0. **Inactive tasks** are not among the n.
/// **Device**: ATen without branches or synchronisation; a CUDA graph can capture it. **Cost**: it sorts T numbers for each number of the result, and is the
/// slowest of the methods that see gradients. It has no weights to report. **Scale**: a mean, 1/T of a sum. **Elsewhere**: TorchJD's is the same, but refuses
/// fewer than 2·trim + 1 tasks.
struct TrimmedMean {
  int64_t trim = 1;  ///< how many are dropped at either end, ≥ 0; 0 = the mean

  /// @brief The shared gradient.
  /// @throws c10::ValueError with trim < 0, or parts of a wrong shape
  SharedGradient aggregate(const TaskGradients& gradients) const {
    HTL_CHECK(trim >= 0, "htl::TrimmedMean: expected trim ≥ 0, got ", trim);
    detail::check_parts("htl::TrimmedMean", gradients);
    const at::Tensor active = detail::active_tasks(gradients.gramian), count = active.sum();
    const at::Tensor dropped = ((count - 1).clamp_min(0).div(2, "floor")).clamp_max(trim);
    const at::Tensor position = at::arange(gradients.gramian.tasks(), count.options());
    const at::Tensor kept = position.ge(dropped).logical_and(position < count - dropped).view({1, -1, 1});
    SharedGradient result;
    for (const TaskGradients::Part& part : gradients.parts) {
      at::Tensor values = part.values;
      // infinities are sorted behind the active tasks, where no position is kept
      if (gradients.gramian.active.defined()) values = values.masked_fill(active.logical_not().view({1, -1, 1}), std::numeric_limits<double>::infinity());
      const at::Tensor sorted = std::get<0>(values.sort(1));
      const at::Tensor share = (count - 2 * dropped).clamp_min(1).to(values.scalar_type());
      // divided first: a sum of large numbers could overflow
      result.parts.push_back({sorted.masked_fill(kept.logical_not(), 0).div(share).sum(1), part.rows, part.valid});
    }
    return result;
  }
};

}  // namespace htl

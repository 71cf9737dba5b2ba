// SPDX-License-Identifier: Apache-2.0
/// @file report.hpp
/// @brief GradientReport: what a backward through a fork found — norms, cosines, weights — as tensors, without a synchronisation.
#pragma once

#include <htl/task/named.hpp>
#include <htl/task/tensor_operators.hpp>

#include <ATen/TensorOperators.h>
#include <ATen/ops/stack.h>

#include <string>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief The Gramian of one step and what was made of it. Everything stays on the device until it is read.
struct GradientReport {
  /// Task names, in the order of rows and columns.
  std::vector<std::string> tasks;
  /// [T, T] float64: G_s · G_t. Undefined while micro-batches accumulate.
  at::Tensor gramian;
  /// [T] float64: the weights that were applied.
  at::Tensor weights;
  /// [T] the detached losses; after micro-batches their sums.
  at::Tensor losses;
  /// [T] bool: tasks with a label in the batch, or in one of the micro-batches; undefined = all.
  at::Tensor active;
  /// How many backward passes the overlap of the tasks' graphs needed; 1 for disjoint graphs.
  int64_t passes = 0;

  /// @brief [T] ‖G_t‖.
  /// @throws c10::Error while micro-batches accumulate; so do cosines() and combined_norm()
  at::Tensor norms() const {
    check_step();
    return gramian.diagonal().clamp_min(0.0).sqrt();
  }
  /// @brief [T, T] cosines between task gradients; 0 with a zero gradient.
  at::Tensor cosines() const {
    const at::Tensor norm = norms(), product = norm.unsqueeze(1) * norm.unsqueeze(0);
    return (gramian / product.where(product > 0.0, 1.0)).where(product > 0.0, 0.0);
  }
  /// @brief 0-dim: ‖Σ w_t G_t‖ = √(wᵀ K w).
  at::Tensor combined_norm() const {
    check_step();
    return weights.dot(gramian.mv(weights)).clamp_min(0.0).sqrt();
  }

 private:
  void check_step() const {
    HTL_CHECK_STATE(gramian.defined(), "htl::GradientReport: there is no Gramian yet; micro-batches accumulate until a backward without options.accumulate");
  }
};

}  // namespace htl

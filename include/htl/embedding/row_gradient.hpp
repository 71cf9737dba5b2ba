// SPDX-License-Identifier: Apache-2.0
/// @file row_gradient.hpp
/// @brief RowGradient: the gradient of a table for one step, as touched rows; the contract between backward and optimizers.
#pragma once

#include <htl/task/check.hpp>

#include <ATen/ops/zeros.h>

#include <utility>

namespace htl::inline v0_1_0 {

/// @brief {rows, values} of one step, owned by the table. Backward writes it, clipping scales it, optimizers read it and clear it.
///
/// Every row appears once (grouped during the lookup; nothing is grouped again). Not thread-safe: one step at a time.
/// LibTorch's own `.grad` can't carry this: it drops the coalesced flag, so each reader would sort again.
struct RowGradient {
  /// [S] int64 distinct rows of the table; S = touched rows on the CPU, a fixed number of slots on CUDA.
  at::Tensor rows = {};
  /// [S, d] the rows' gradients in the table's element type.
  at::Tensor values = {};
  /// [S] bool, CUDA only: which slots are in use; an unused slot holds row 0 and value 0. Undefined = all.
  at::Tensor valid = {};

  /// @brief Whether a backward has written since the last clear().
  bool defined() const { return values.defined(); }
  /// @brief Forgets the step.
  void clear() { rows = values = valid = at::Tensor(); }
  /// @brief Σ values², a float64 scalar on the table's device; when undefined a 0 on the CPU. No synchronisation.
  at::Tensor squared_norm() const { return defined() ? values.to(at::kDouble).square().sum() : at::zeros({}, at::kDouble); }
  /// @brief Multiplies by a factor (0-dim tensor or number). No synchronisation.
  void scale_(const at::Tensor& factor) {
    if (defined()) values.mul_(factor.to(values.scalar_type()));
  }
};

}  // namespace htl

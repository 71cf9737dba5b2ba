// SPDX-License-Identifier: Apache-2.0
/// @file scale_invariant_balance.hpp
/// @brief ScaleInvariantBalance: the total is the sum of the losses' logarithms.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/balance/per_task.hpp>

#include <cmath>

namespace htl::inline v0_1_0 {

/// @brief Scale-invariant loss, SI (as in Navon et al., "Multi-Task Learning as a Bargaining Game", ICML 2022, section 6): f = Σ log(L_t + offset), so that w_t
/// = 1 / (L_t + offset).
///
/// With offset 0 a factor of a loss changes nothing. Offset 1 is the form of SamsungLabs' repository, log1p, which weighs no loss by more than 1: a large loss
/// as SI does, a small one as the plain sum. L_t + offset below `floor` counts as that, in f and in w; a Balancer refuses it below 0. **Inactive tasks**:
/// weight 0, not in f. **Device**: ATen without branches or synchronisation.
struct ScaleInvariantBalance {
  double offset = 0.0;  ///< ≥ 0
  double floor = 1e-8;  ///< > 0

  /// @brief −offset
  double least_loss() const { return 0.0 - offset; }
  /// @brief w [T] and f.
  /// @throws c10::ValueError unless offset ≥ 0 and floor > 0
  BalanceTerms weights(const BalanceInput& input) const {
    HTL_CHECK(offset >= 0.0 && std::isfinite(offset), "htl::ScaleInvariantBalance: expected a finite offset ≥ 0, got ", offset);
    HTL_CHECK(floor > 0.0 && std::isfinite(floor), "htl::ScaleInvariantBalance: expected a finite floor > 0, got ", floor);
    const at::Tensor values = (input.losses + offset).clamp_min(floor);
    const at::Tensor logs = values.log();
    return {values.reciprocal(), {}, (input.active.defined() ? logs.masked_fill(input.active.logical_not(), 0.0) : logs).sum()};
  }
};

}  // namespace htl

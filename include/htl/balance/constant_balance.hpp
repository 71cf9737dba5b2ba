// SPDX-License-Identifier: Apache-2.0
/// @file constant_balance.hpp
/// @brief ConstantBalance: weights of the losses that you give.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/balance/per_task.hpp>

namespace htl::inline v0_1_0 {

/// @brief w_t = values[t], whatever the losses: `ConstantBalance{{1.0, 0.5, 2.0}}`. Without values the plain sum.
///
/// Beside TaskSpec::weight(), which is part of the reported loss, these weights leave the reported losses as they are. **Device**: written by kernels.
struct ConstantBalance {
  std::vector<double> values = {};  ///< one finite number for each task, in the order of the TaskSet, or one for all; empty = 1

  /// @brief The values [T].
  /// @throws c10::ValueError unless they are finite, and one or T
  BalanceTerms weights(const BalanceInput& input) const {
    return detail::per_task("htl::ConstantBalance", "values", values, input.tasks(), input.losses.options(), 1.0);
  }
};

}  // namespace htl

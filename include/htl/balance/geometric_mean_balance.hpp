// SPDX-License-Identifier: Apache-2.0
/// @file geometric_mean_balance.hpp
/// @brief GeometricMeanBalance: the total is the geometric mean of the losses.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/balance/per_task.hpp>

#include <cmath>

namespace htl::inline v0_1_0 {

/// @brief Geometric loss strategy, GLS (Chennupati et al., "MultiNet++: Multi-Stream Feature Aggregation and Geometric Loss Strategy for Multi-Task Learning",
/// CVPR workshops 2019): f = (Π L_t)^{1/n}, so that w_t = f / (n L_t), over the n active tasks.
///
/// A loss's scale scales the whole step, and does not move weight between tasks. Losses below `floor` count as that, in f and in w, so both are finite for
/// losses ≤ 0 too; a Balancer refuses those below 0. **Inactive tasks**: weight 0, not in f. One task: weight 1. **Device**: ATen without branches or
/// synchronisation. LibMTL reports other weights than it uses.
struct GeometricMeanBalance {
  double floor = 1e-8;  ///< > 0

  /// @brief 0
  double least_loss() const { return 0.0; }
  /// @brief w [T] and f.
  /// @throws c10::ValueError unless floor > 0
  BalanceTerms weights(const BalanceInput& input) const {
    HTL_CHECK(floor > 0.0 && std::isfinite(floor), "htl::GeometricMeanBalance: expected a finite floor > 0, got ", floor);
    const at::Tensor losses = input.losses_or(1.0).clamp_min(floor), logs = losses.log();  // log 1 = 0: an inactive task leaves the product as it is
    if (!input.active.defined()) {
      const at::Tensor mean = logs.mean();
      return {(mean - logs).exp() / static_cast<double>(input.tasks()), {}, mean.exp()};
    }
    const at::Tensor count = input.mask().sum().clamp_min(1.0), mean = logs.sum() / count;
    return {(mean - logs).exp() / count, {}, mean.exp().mul(input.active.any().to(at::kDouble))};
  }
};

}  // namespace htl

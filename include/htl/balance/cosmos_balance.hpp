// SPDX-License-Identifier: Apache-2.0
/// @file cosmos_balance.hpp
/// @brief COSMOSBalance: the weighted sum, and a pull of the losses' direction towards a preference.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/balance/per_task.hpp>

#include <cmath>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief COSMOS's scalarisation (Ruchte and Grabocka, "Scalable Pareto Front Approximation for Deep Multi-Objective Learning", ICDM 2021):
/// f = Σ r_t L_t − λ cos(r, L), for one preference r.
///
/// w = r − λ (r / (‖r‖ ‖L‖) − cos(r, L) L / ‖L‖²), which may be negative for a loss that is larger than its part of r. ‖L‖ below `floor` counts as that. The
/// paper's network also takes r as an input, drawn at each step; set `preferences` between steps for that. **Inactive tasks**: weight 0; they leave r, L and
/// the cosine. **Device**: ATen without branches or synchronisation.
struct COSMOSBalance {
  double lambda = 1.0;                   ///< λ, finite: how strong the pull is; to be tuned
  std::vector<double> preferences = {};  ///< r ≥ 0, one number or one for each task; empty = 1/T
  double floor = 1e-8;                   ///< > 0

  /// @brief w [T] and f.
  /// @throws c10::ValueError with options outside their ranges
  BalanceTerms weights(const BalanceInput& input) const {
    HTL_CHECK(std::isfinite(lambda), "htl::COSMOSBalance: expected a finite lambda, got ", lambda);
    HTL_CHECK(floor > 0.0 && std::isfinite(floor), "htl::COSMOSBalance: expected a finite floor > 0, got ", floor);
    const int64_t tasks = input.tasks();
    at::Tensor r = detail::per_task("htl::COSMOSBalance", "preferences", preferences, tasks, input.losses.options(), 1.0 / static_cast<double>(tasks));
    for (const double value : preferences) HTL_CHECK(value >= 0.0, "htl::COSMOSBalance: expected preferences ≥ 0, got ", value);
    const at::Tensor losses = input.losses_or(0.0);
    if (input.active.defined()) r = r * input.mask();
    const at::Tensor direction = r / r.norm().clamp_min(1e-300), raw = losses.norm(), norm = raw.clamp_min(floor), sum = (r * losses).sum();
    const at::Tensor unit = losses / norm, cosine = (direction * unit).sum(), turning = unit * raw.gt(floor);  // a norm that is held does not move
    return {r - (lambda / norm) * (direction - cosine * turning), {}, sum - lambda * cosine};
  }
};

}  // namespace htl

// SPDX-License-Identifier: Apache-2.0
/// @file pbi_balance.hpp
/// @brief PBIBalance: how far the losses are along a preference, and a penalty for how far they are from it.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/balance/per_task.hpp>

#include <cmath>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief Penalty-based boundary intersection (Zhang and Li, "MOEA/D", IEEE TEVC 2007, section II-C): f = d_1 + θ d_2 with the unit preference λ̂,
/// d_1 = (L − z) · λ̂ and d_2 = √(‖v‖² + 1e-12), v = L − z − d_1 λ̂, as TorchJD has it.
///
/// w = λ̂ + θ v / d_2. From θ = min λ̂ on (0.58 for three tasks alike) a weight may be negative: a loss below its part of the preference is driven up, which in
/// training unlearns its task. The paper, whose search does not follow gradients, has θ = 5. At v = 0 the gradient is λ̂. **Inactive
/// tasks**: weight 0; they leave λ̂, L and z. One task: weight 1. **Device**: ATen without branches or synchronisation.
struct PBIBalance {
  double theta = 0.1;                    ///< θ ≥ 0
  std::vector<double> preferences = {};  ///< λ ≥ 0, one number or one for each task; empty = all alike
  std::vector<double> ideal = {};        ///< z, one number or one for each task; empty = 0

  /// @brief w [T] and f.
  /// @throws c10::ValueError with options outside their ranges
  BalanceTerms weights(const BalanceInput& input) const {
    HTL_CHECK(theta >= 0.0 && std::isfinite(theta), "htl::PBIBalance: expected a finite theta ≥ 0, got ", theta);
    const int64_t tasks = input.tasks();
    at::Tensor direction = detail::per_task("htl::PBIBalance", "preferences", preferences, tasks, input.losses.options(), 1.0), from_ideal = input.losses;
    for (const double value : preferences) HTL_CHECK(value >= 0.0, "htl::PBIBalance: expected preferences ≥ 0, got ", value);
    if (!ideal.empty()) from_ideal = from_ideal - detail::per_task("htl::PBIBalance", "ideal", ideal, tasks, input.losses.options(), 0.0);
    if (input.active.defined()) {
      direction = direction * input.mask();
      from_ideal = from_ideal.masked_fill(input.active.logical_not(), 0.0);
    }
    direction = direction / direction.norm().clamp_min(1e-300);
    const at::Tensor along = (from_ideal * direction).sum(), away = from_ideal - along * direction, distance = (away.square().sum() + 1e-12).sqrt();
    return {direction + (theta / distance) * away, {}, along + theta * distance};
  }
};

}  // namespace htl

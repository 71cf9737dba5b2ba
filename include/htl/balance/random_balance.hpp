// SPDX-License-Identifier: Apache-2.0
/// @file random_balance.hpp
/// @brief RandomBalance: other weights of the losses at every step; the baseline that balancers must beat.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/balance/balance_method.hpp>
#include <htl/weighting/random_weighting.hpp>
#include <htl/weighting/scale.hpp>

namespace htl::inline v0_1_0 {

/// @brief Random loss weighting, RLW (Lin et al., "Reasonable Effectiveness of Random Weighting", TMLR 2022): w = softmax(z), z ~ N(0, I).
///
/// RandomWeighting's weights, for the losses: the tasks' own layers get them too. They add up to 1, as in the paper, TorchJD and LibMTL, or to the number of
/// active tasks. **Inactive tasks**: weight 0; the softmax is over the active ones. **Random numbers**: T normal ones a step from input.generator, else from
/// the default generator of the losses' device. **Device**: ATen without branches or synchronisation.
struct RandomBalance {
  WeightScale scale = WeightScale::one;  ///< what the weights add up to

  /// @brief [T] float64 weights.
  BalanceTerms weights(const BalanceInput& input) const {
    const int64_t tasks = input.tasks();  // of the matrix only its size, type and device are read
    at::Tensor result = RandomWeighting{}.weights({.matrix = input.losses.expand({tasks, tasks}), .active = input.active, .generator = input.generator});
    return scale == WeightScale::one ? result : result * input.mask().sum();
  }
};

}  // namespace htl

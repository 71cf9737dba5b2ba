// SPDX-License-Identifier: Apache-2.0
/// @file fair_grad.hpp
/// @brief FairGrad: α-fairness between the tasks.
#pragma once

#include <htl/task/check.hpp>
#include <htl/task/tensor_operators.hpp>
#include <htl/weighting/memory.hpp>
#include <htl/weighting/solvers/fairness.hpp>

namespace htl::inline v0_1_0 {

/// @brief The direction in a ball that maximises Σ (G_t · d)^(1−α) / (1 − α), which is d ∝ Σ w_t G_t with K w = w^(−1/α), w > 0.
///
/// α = 0 maximises the sum (the plain mean, 1/T each), 1 is proportional fairness (Nash-MTL's equation), 2 minimises the sum of potential delays, and α → ∞ is
/// max–min fairness. All tasks improve: G_t · g = w_t^(−1/α) > 0. wᵀKw = Σ w^(1 − 1/α).
///
/// **Where no solution exists** (a combination of gradients with weights ≥ 0 is zero; see fairness()) the weights are 1/T each, and GradientReport::fallbacks
/// counts it.
///
/// **Inactive tasks** leave the problem. **Device**: on the CPU by fairness(), about 1 µs at T = 3, 35 µs at T = 32 with α = 1, half as much again with another
/// α; on CUDA it waits for the Gramian, a CUDA graph can't capture it.
///
/// Source: Ban & Ji, ICML 2024 (Fair resource allocation in multi-task learning), Algorithm 1. Others: the authors' code, LibMTL and TorchJD use
/// scipy's least_squares from 1/T, default α = 1 there and 2 in the authors' experiments; where it does not converge they take what it returns.
struct FairGrad {
  double alpha = 1.0;  ///< α ≥ 0

  /// @brief What a run remembers.
  using State = FallbackCount;

  /// @brief [T] float64 weights.
  /// @throws c10::ValueError with an α outside its range
  at::Tensor weights(const TaskGramian& gramian, State& state) const;
};

inline at::Tensor FairGrad::weights(const TaskGramian& gramian, State& state) const {
  HTL_CHECK(alpha >= 0.0 && std::isfinite(alpha), "htl::FairGrad: expected a finite alpha ≥ 0, got ", alpha);
  bool solved = true;
  at::Tensor weights = detail::weights_of_active(gramian, [&](SquareMatrix k, std::span<double> w) {
    if (alpha > 0.0) solved = fairness(k, alpha, w);
    if (alpha == 0.0 || !solved) std::fill(w.begin(), w.end(), 1.0 / static_cast<double>(w.size()));
  });
  detail::count_fallback(state.fallbacks, !solved);
  return weights;
}

}  // namespace htl

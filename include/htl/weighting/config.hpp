// SPDX-License-Identifier: Apache-2.0
/// @file config.hpp
/// @brief ConFIG: the direction with the same angle to every task gradient, as long as the gradients' projections on it.
#pragma once

#include <htl/task/check.hpp>
#include <htl/weighting/memory.hpp>
#include <htl/weighting/solvers/equal_angles.hpp>

namespace htl::inline v0_1_0 {

/// @brief Conflict-free inverse gradients (Liu et al., "ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks", ICLR 2025, section 3).
///
/// With U the unit gradients u_t = g_t / ‖g_t‖ in rows: d = U⁺ 1 / ‖U⁺ 1‖ and g = (Σ_t g_t · d) d. Through K: U⁺ = Uᵀ C⁺ with the cosines C = U Uᵀ, so
/// y = C⁺ 1, ‖U⁺ 1‖² = yᵀ C y, and w_t = (Σ_s ‖g_s‖ (C y)_s) y_t / (‖g_t‖ yᵀ C y). Where the gradients are independent, g has the same positive
/// cosine with each; then no task is opposed. All weights are 0 where there is no such direction, as for two opposed gradients, and
/// GradientReport::fallbacks counts it.
///
/// **Inactive tasks** and zero gradients have weight 0. One task: weight 1. **Device**: on CUDA it waits for the Gramian; a CUDA graph can't capture it.
/// **Cost** O(T³), some µs for three tasks.
/// TorchJD takes U⁺ of the gradients themselves, so it tells directions apart to angles of 1e-15, from K they are known to some 1e-8. The authors' code is in
/// scale the same.
struct ConFIG {
  double cutoff = 1e-12;  ///< in [0, 1): eigenvalues of the cosines up to `cutoff` times the largest count as 0; two gradients at an angle of 1e-6 are parallel

  /// @brief What a run remembers.
  using State = FallbackCount;

  /// @brief [T] float64 weights.
  /// @throws c10::ValueError with a cutoff outside its range
  at::Tensor weights(const TaskGramian& gramian, State& state) const {
    HTL_CHECK(cutoff >= 0.0 && cutoff < 1.0, "htl::ConFIG: expected cutoff in [0, 1), got ", cutoff);
    bool opposed = false;
    at::Tensor weights = detail::weights_of_active(gramian, [&](SquareMatrix k, std::span<double> w) {
      const detail::EqualAngles angles(k, cutoff);
      if (angles.square == 0.0) {
        opposed = k.trace() > 0.0;
        return;
      }
      double length = 0.0;  // Σ g_t · d, times ‖U⁺ 1‖
      for (size_t s = 0; s < w.size(); ++s) length += angles.norms[s] * angles.cosine[s];
      for (size_t t = 0; t < w.size(); ++t)
        if (angles.y[t] != 0.0) w[t] = length / angles.norms[t] * (angles.y[t] / angles.square);
    });
    detail::count_fallback(state.fallbacks, opposed);
    return weights;
  }
};

}  // namespace htl

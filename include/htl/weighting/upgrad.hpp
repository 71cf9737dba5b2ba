// SPDX-License-Identifier: Apache-2.0
/// @file upgrad.hpp
/// @brief UPGrad: each task's gradient is turned until it opposes none, then they are added.
#pragma once

#include <htl/weighting/scale.hpp>
#include <htl/weighting/solvers/dual_cone.hpp>

namespace htl::inline v0_1_0 {

/// @brief Unconflicting projection of gradients: g = Σ p_t π(G_t), π the projection onto the cone {d : G_s · d ≥ 0 for all s}, p = 1/T or 1.
///
/// In weights: w = Σ_t p_t v_t with v_t = argmin vᵀKv over v ≥ e_t, T times DualCone. No task is opposed, G_s · g ≥ 0; scaling a gradient scales its part of g
/// (linear under scaling), and g is 0 where no direction serves all. With two tasks and Preference::sum it is PCGrad.
///
/// **Inactive tasks** leave the problem, also the mean's T. **Device**: on the CPU, exactly, about 1 µs at T = 3, 5 µs at T = 8, 200 µs at T = 32; on CUDA it
/// waits for the Gramian, a CUDA graph can't capture it.
///
/// Source: Quinton & Rey 2024 (Jacobian descent for multi-objective optimization), section 3.2 and proposition 1. Others: TorchJD divides K by its trace, adds
/// 1e-4 to the diagonal and returns 0 for a trace below 1e-4; its weights differ by as much. Here nothing is added (but see DualCone).
struct UPGrad {
  Preference preference = Preference::mean;  ///< p_t

  /// @brief [T] float64 weights.
  at::Tensor weights(const TaskGramian& gramian) const {
    return detail::weights_of_active(gramian, [this](SquareMatrix k, std::span<double> w) {
      const double preferred = detail::preferred(preference, w.size());
      DualCone cone(k);
      std::vector<double> storage(2 * w.size());
      const std::span<double> one(storage.data(), w.size()), v(storage.data() + w.size(), w.size());
      for (size_t t = 0; t < w.size(); ++t) {
        one[t] = 1.0;
        cone.project(one, v);
        one[t] = 0.0;
        for (size_t i = 0; i < w.size(); ++i) w[i] += preferred * v[i];
      }
    });
  }
};

}  // namespace htl

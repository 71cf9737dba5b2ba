// SPDX-License-Identifier: Apache-2.0
/// @file dual_proj.hpp
/// @brief DualProj: the mean gradient, turned until it opposes no task.
#pragma once

#include <htl/weighting/scale.hpp>
#include <htl/weighting/solvers/dual_cone.hpp>

namespace htl::inline v0_1_0 {

/// @brief The projection of the mean (or sum) of the task gradients onto the cone {d : G_t · d ≥ 0 for all t}: w = argmin vᵀKv over v ≥ p, p = 1/T or 1.
///
/// Where the mean opposes no task it stays as it is, and w = p. Gradient episodic memory's projection with the tasks' gradients as its memory.
///
/// **Inactive tasks** leave the problem, also the mean's T. **Device**: on the CPU by DualCone, exactly, about 0.5 µs at T = 3, 5 µs at T = 32; on CUDA it
/// waits for the Gramian, a CUDA graph can't capture it.
///
/// Source: Lopez-Paz & Ranzato, NeurIPS 2017, Eq. 8–11; Quinton & Rey 2024, section 4 (as an aggregator). Others: TorchJD divides K by its trace and adds 1e-4
/// to the diagonal, which changes weights by as much.
struct DualProj {
  Preference preference = Preference::mean;  ///< p

  /// @brief [T] float64 weights.
  at::Tensor weights(const TaskGramian& gramian) const {
    return detail::weights_of_active(gramian, [this](SquareMatrix k, std::span<double> w) {
      const std::vector<double> preferred(w.size(), detail::preferred(preference, w.size()));
      DualCone(k).project(preferred, w);
    });
  }
};

}  // namespace htl

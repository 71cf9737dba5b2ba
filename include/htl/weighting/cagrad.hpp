// SPDX-License-Identifier: Apache-2.0
/// @file cagrad.hpp
/// @brief CAGrad: the direction near the mean gradient that serves the worst-served task best.
#pragma once

#include <htl/task/check.hpp>
#include <htl/weighting/scale.hpp>
#include <htl/weighting/solvers/conflict_averse.hpp>
#include <htl/weighting/solvers/dual_cone.hpp>

namespace htl::inline v0_1_0 {

/// @brief Conflict-averse gradient descent: g = argmax of min_t G_t · d over ‖d − g_0‖ ≤ c ‖g_0‖, g_0 = Σ G_t / T.
///
/// By the dual: w = argmin over the simplex of g_w · g_0 + c ‖g_0‖ ‖g_w‖, g_w = Σ w_t G_t, and g = g_0 + c ‖g_0‖ g_w / ‖g_w‖, so the weights are
/// 1/T + (c ‖g_0‖ / ‖g_w‖) w. The tasks with w_t > 0 are served alike: their G_t · g are equal and the smallest. For c ≥ 1 no task is opposed. c = 0 is the
/// mean.
///
/// **Where ‖g_w‖ = 0** (up to rounding, below about 1e-7 of the gradients: Pareto-stationary points, opposed gradients, a gradient of 0) the formula has no
/// value. Then every d of the ball that no task opposes is a maximiser; g is the nearest of them to g_0, which is DualProj's.
///
/// **Inactive tasks** leave the problem, also its T. **Device**: on the CPU by conflict_averse(), about 1 µs at T = 3, 25 µs at T = 32; on CUDA it waits for
/// the Gramian, a CUDA graph can't capture it.
///
/// Source: Liu et al., NeurIPS 2021, section 3 and Algorithm 1. Others: the authors' code and LibMTL solve by SLSQP or SGD and divide by 1 + c² (rescale = 1,
/// LibMTL's c is 0.5, nash-mtl's 0.4, and nash-mtl multiplies by T: WeightScale::tasks); TorchJD has no rescale, no default c, and returns 0 where ‖g_w‖ < 1e-4
/// √tr K.
struct CAGrad {
  double c = 0.5;                        ///< radius of the ball in parts of ‖g_0‖, ≥ 0
  int64_t rescale = 0;                   ///< the result as it is (0), divided by 1 + c² (1), or by 1 + c (2), as the authors' code numbers them
  WeightScale scale = WeightScale::one;  ///< as above, or times the number of active tasks

  /// @brief [T] float64 weights.
  /// @throws c10::ValueError with options outside their ranges
  at::Tensor weights(const TaskGramian& gramian) const;
};

inline at::Tensor CAGrad::weights(const TaskGramian& gramian) const {
  HTL_CHECK(c >= 0.0 && std::isfinite(c), "htl::CAGrad: expected a finite c ≥ 0, got ", c);
  HTL_CHECK(rescale >= 0 && rescale <= 2, "htl::CAGrad: expected rescale 0 (as it is), 1 (divided by 1 + c²) or 2 (by 1 + c), got ", rescale);
  const double divisor = rescale == 0 ? 1.0 : rescale == 1 ? 1.0 + c * c : 1.0 + c;
  return detail::weights_of_active(gramian, [&](SquareMatrix k, std::span<double> w) {
    const double mean = 1.0 / static_cast<double>(w.size());
    const ConflictAverse found = conflict_averse(k, c, w);
    if (found.vanishes) {
      const std::vector<double> means(w.size(), mean);
      DualCone(k).project(means, w);
    } else {
      for (double& weight : w) weight = mean + found.factor * weight;
    }
    for (double& weight : w) weight /= divisor;
    detail::scale_weights(w, scale);
  });
}

}  // namespace htl

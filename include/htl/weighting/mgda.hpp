// SPDX-License-Identifier: Apache-2.0
/// @file mgda.hpp
/// @brief MGDA: the shortest convex combination of the task gradients.
#pragma once

#include <htl/weighting/scale.hpp>
#include <htl/weighting/solvers/simplex_qp.hpp>

namespace htl::inline v0_1_0 {

/// @brief Multiple-gradient descent: w = argmin ‖Σ w_t G_t‖² over w ≥ 0, Σw = 1.
///
/// The shared gradient is the point of the gradients' convex hull that is nearest to 0: no task opposes it, G_t · g ≥ ‖g‖² for all t, and it is 0 exactly at
/// Pareto-stationary points. A short gradient dominates it; a task with the gradient 0 gets weight 1, so that g = 0. Equal gradients share a weight, it is not
/// defined how; where K is 0, all weights are equal.
///
/// **Inactive tasks** leave the problem. **Device**: on the CPU by simplex_qp(), about 1 µs at T = 3, 15 µs at T = 32; on CUDA it waits for the Gramian, a CUDA
/// graph can't capture it.
///
/// Source: Désidéri 2012 (C. R. Acad. Sci.), section 2; Sener & Koltun, NeurIPS 2018, Eq. 3. Others: TorchJD (Frank–Wolfe, at most 100 steps, until a step is
/// below 0.001) and LibMTL (the same for T > 2, weights clipped to [0.001, 0.999] for T = 2) stop earlier; nash-mtl's repository multiplies by T, which is
/// WeightScale::tasks. LibMTL can divide gradients by norms or losses before; here no.
struct MGDA {
  WeightScale scale = WeightScale::one;  ///< what the weights add up to

  /// @brief [T] float64 weights.
  at::Tensor weights(const TaskGramian& gramian) const {
    return detail::weights_of_active(gramian, [this](SquareMatrix k, std::span<double> w) {
      std::fill(w.begin(), w.end(), 1.0 / static_cast<double>(w.size()));
      if (detail::largest_diagonal(k) > 0.0) simplex_qp(k, w);
      detail::scale_weights(w, scale);
    });
  }
};

}  // namespace htl

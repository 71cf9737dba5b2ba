// SPDX-License-Identifier: Apache-2.0
/// @file aligned_mtl.hpp
/// @brief AlignedMTL: the task gradients made orthogonal and equally long, as near to what they were as that allows.
#pragma once

#include <htl/task/check.hpp>
#include <htl/weighting/scale.hpp>
#include <htl/weighting/solvers/symmetric_eigen.hpp>

#include <span>

namespace htl::inline v0_1_0 {

/// @brief Which of the principal components' sizes all of them get.
enum class AlignedScale {
  min,     ///< the smallest singular value of the gradients: the published way, which cannot diverge
  median,  ///< the middle one, the lower of two
  rmse     ///< the root of the mean square
};

/// @brief Aligned-MTL (Senushkin et al., "Independent Component Alignment for Multi-Task Learning", CVPR 2023, Algorithm 1).
///
/// With K = V Λ Vᵀ the gradients' matrix J becomes σ times its nearest orthogonal one: B = σ V Λ^{-1/2} Vᵀ, w = B p with the preference p, g = Jᵀ w. σ² is the
/// smallest, the lower median or the mean eigenvalue of those that count. Where the gradients are orthogonal and equally long, w = p.
///
/// Components whose eigenvalue is up to `cutoff` times the largest are left out; where none is left, w = p. With AlignedScale::min the update is as small as
/// the least of the components, so a task whose gradient nearly vanishes stops all of them, until it falls below the cut-off.
/// **Inactive tasks** have weight 0 and are not counted. One task: weight 1. **Device**: on CUDA it waits for the Gramian; a CUDA graph can't capture it.
/// **Cost** O(T³), some µs for three tasks.
/// The authors' code and LibMTL sum (p = 1, the default here), TorchJD takes the mean; their cut-off is T ε ≈ 1e-15 · T of the largest eigenvalue, which lets
/// rounding decide what duplicates of a gradient are worth.
struct AlignedMTL {
  AlignedScale scale = AlignedScale::min;   ///< the size that all components get
  Preference preference = Preference::sum;  ///< p
  double cutoff = 1e-12;                    ///< in [0, 1), of the largest eigenvalue: components 1e6 times smaller than the largest do not count

  /// @brief [T] float64 weights.
  /// @throws c10::ValueError with a cutoff outside its range
  at::Tensor weights(const TaskGramian& gramian) const {
    HTL_CHECK(cutoff >= 0.0 && cutoff < 1.0, "htl::AlignedMTL: expected cutoff in [0, 1), got ", cutoff);
    return detail::weights_of_active(gramian, [&](SquareMatrix k, std::span<double> w) {
      const double p = preference == Preference::sum ? 1.0 : 1.0 / static_cast<double>(k.n);
      const SymmetricEigen eigen(k);
      const double largest = eigen.values.back();
      int64_t first = k.n;
      while (first > 0 && eigen.values[static_cast<size_t>(first - 1)] > cutoff * largest) --first;
      if (first == k.n) {
        std::fill(w.begin(), w.end(), p);
        return;
      }
      const double size = size_of(std::span(eigen.values).subspan(static_cast<size_t>(first)));
      for (int64_t m = first; m < k.n; ++m) {
        const double* const vector = eigen.vector(m);
        const double part = p * std::sqrt(size / eigen.values[static_cast<size_t>(m)]) * std::accumulate(vector, vector + k.n, 0.0);
        for (int64_t t = 0; t < k.n; ++t) w[static_cast<size_t>(t)] += part * vector[t];
      }
    });
  }

 private:
  double size_of(std::span<const double> ascending) const {
    if (scale == AlignedScale::min) return ascending.front();
    if (scale == AlignedScale::median) return ascending[(ascending.size() - 1) / 2];
    double mean = 0.0;
    for (const double value : ascending) mean += value / static_cast<double>(ascending.size());
    return mean;
  }
};

}  // namespace htl

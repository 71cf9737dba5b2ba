// SPDX-License-Identifier: Apache-2.0
/// @file imtlg.hpp
/// @brief IMTLG: the combination whose projections on all task gradients are equal.
#pragma once

#include <htl/task/check.hpp>
#include <htl/weighting/memory.hpp>
#include <htl/weighting/solvers/equal_angles.hpp>

namespace htl::inline v0_1_0 {

/// @brief Impartial multi-task learning's gradient balance, IMTL-G (Liu et al., "Towards Impartial Multi-task Learning", ICLR 2021, section 3.1).
///
/// The weights with Σ w_t = 1 for which g = Σ w_t g_t has the same projection on every unit gradient g_t / ‖g_t‖, whatever the sizes of the gradients:
/// w = v / Σ v with v = K⁻¹ √diag(K) = D⁻¹ C⁻¹ 1, where D = √diag(K) and C = D⁻¹ K D⁻¹ are the cosines. Weights may be negative. Where C is singular its
/// pseudo-inverse stands for C⁻¹, which keeps the method blind to sizes: of two gradients g and 2g it gives 2/3 and 1/3, the limit of nearly parallel ones. All
/// weights are 0 where |Σ v| < 1e-12 Σ |v|: such gradients cancel each other, and GradientReport::fallbacks counts it.
///
/// **Inactive tasks** and zero gradients have weight 0. One task: weight 1. **Device**: on CUDA it waits for the Gramian; a CUDA graph can't capture it.
/// **Cost** O(T³), some µs for three tasks.
/// The authors' formula needs independent gradients. TorchJD takes K⁺ √diag(K): the same weights where K is not singular, others (1/3 and 2/3 above) where it
/// is, and a task whose gradient is 1e8 times smaller than another's is lost to its cut-off.
struct IMTLG {
  double cutoff = 1e-12;  ///< in [0, 1): eigenvalues of the cosines up to `cutoff` times the largest count as 0; two gradients at an angle of 1e-6 are parallel

  /// @brief What a run remembers.
  using State = FallbackCount;

  /// @brief [T] float64 weights.
  /// @throws c10::ValueError with a cutoff outside its range
  at::Tensor weights(const TaskGramian& gramian, State& state) const {
    HTL_CHECK(cutoff >= 0.0 && cutoff < 1.0, "htl::IMTLG: expected cutoff in [0, 1), got ", cutoff);
    bool cancels = false;
    at::Tensor weights = detail::weights_of_active(gramian, [&](SquareMatrix k, std::span<double> w) {
      const detail::EqualAngles angles(k, cutoff);
      double smallest = 0.0;  // so that no quotient overflows
      for (size_t i = 0; i < w.size(); ++i)
        if (angles.y[i] != 0.0 && (smallest == 0.0 || angles.norms[i] < smallest)) smallest = angles.norms[i];
      double sum = 0.0, size = 0.0;
      for (size_t i = 0; i < w.size(); ++i) {
        w[i] = angles.y[i] != 0.0 ? angles.y[i] * (smallest / angles.norms[i]) : 0.0;
        sum += w[i];
        size += std::abs(w[i]);
      }
      cancels = size > 0.0 ? std::abs(sum) < 1e-12 * size : k.trace() > 0.0;
      for (double& weight : w) weight = cancels || size == 0.0 ? 0.0 : weight / sum;
    });
    detail::count_fallback(state.fallbacks, cancels);
    return weights;
  }
};

}  // namespace htl

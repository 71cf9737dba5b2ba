// SPDX-License-Identifier: Apache-2.0
/// @file nash_mtl.hpp
/// @brief NashMTL: the Nash bargaining solution between the tasks.
#pragma once

#include <htl/task/tensor_operators.hpp>
#include <htl/weighting/memory.hpp>
#include <htl/weighting/solvers/fairness.hpp>

namespace htl::inline v0_1_0 {

/// @brief Bargaining over the update: the direction in a ball that maximises Σ log (G_t · d), which is d ∝ Σ w_t G_t with K w = 1/w, w > 0.
///
/// Always wᵀKw = T, so the shared gradient has the norm √T whatever the losses' size; `max_norm` 1 makes that norm constantly 1. Doubling a gradient halves its
/// weight: g does not depend on the tasks' scales. It is FairGrad with α = 1.
///
/// **Where no solution exists** (a combination of gradients with weights ≥ 0 is zero: Pareto-stationary points, a gradient of 0, opposed gradients; see
/// fairness() for how near to that counts) the weights are the last ones, or 1/T each before there are any, and GradientReport::fallbacks counts it.
/// **Every `update_every` steps** (of `gramian.step`) it is solved; between, and where an active task has a weight from before, the last weights serve.
/// Clipping is always by the present K.
///
/// **Inactive tasks** leave the problem; what is remembered of them stays. **Device**: on the CPU by fairness(), about 1 µs at T = 3, 35 µs at T = 32; on CUDA
/// it waits for the Gramian, a CUDA graph can't capture it.
///
/// Source: Navon et al., ICML 2022, section 3, Algorithm 1. Others: the authors' code and TorchJD solve 20 convex approximations by cvxpy for K / ‖K‖_F, so
/// their weights before clipping are larger by √‖K‖_F, and keep the last weights when a solver fails, silently.
struct NashMTL {
  double max_norm = 1.0;     ///< bound > 0 of the shared gradient's norm; infinity = none
  int64_t update_every = 1;  ///< ≥ 1

  /// @brief What a run remembers.
  struct State {
    at::Tensor previous;   ///< [T] float64, on the CPU: the last solution, before clipping; 0 for a task that has none
    at::Tensor fallbacks;  ///< [] int64, on the CPU: how often there was no solution, as FallbackCount
    /// @brief Names the tensors for saving, loading, resetting and moving.
    template <class Visit>
    void fields(Visit&& visit) {
      visit("previous", previous);
      visit("fallbacks", fallbacks);
    }
  };

  /// @brief [T] float64 weights.
  /// @throws c10::ValueError with options outside their ranges, or a state of another number of tasks
  at::Tensor weights(const TaskGramian& gramian, State& state) const;
};

inline at::Tensor NashMTL::weights(const TaskGramian& gramian, State& state) const {
  HTL_CHECK(max_norm > 0.0, "htl::NashMTL: expected max_norm > 0 (infinity = no bound), got ", max_norm);
  HTL_CHECK(update_every >= 1, "htl::NashMTL: expected update_every ≥ 1, got ", update_every);
  const int64_t tasks = gramian.tasks();
  detail::prepare_memory("htl::NashMTL", state.previous, {tasks}, at::kCPU);
  const detail::ActiveGramian active(gramian);
  const SquareMatrix k = active.matrix();
  const size_t n = active.tasks.size();
  auto* const previous = state.previous.mutable_data_ptr<double>();
  std::vector<double> w(n);
  bool all_known = true, solved = true;
  for (size_t i = 0; i < n; ++i) {
    w[i] = previous[active.tasks[i]];
    all_known = all_known && w[i] > 0.0;
  }
  if (n > 0 && (!all_known || gramian.step % update_every == 0)) {
    solved = fairness(k, 1.0, w);
    if (solved) {
      for (size_t i = 0; i < n; ++i) previous[active.tasks[i]] = w[i];
    } else if (!all_known) {
      std::fill(w.begin(), w.end(), 1.0 / static_cast<double>(n));
    }
  }
  detail::count_fallback(state.fallbacks, !solved);
  if (std::isfinite(max_norm) && n > 0) {
    const double scale = detail::unit_scale(detail::largest_diagonal(k)), largest = *std::max_element(w.begin(), w.end());
    double square = 0.0;  // of the norm, with K and w scaled to 1
    for (size_t i = 0; i < n; ++i)
      for (size_t j = 0; j < n; ++j) square += (w[i] / largest) * (k(static_cast<int64_t>(i), static_cast<int64_t>(j)) * scale) * (w[j] / largest);
    const double norm = std::sqrt(std::max(square, 0.0)) * largest / std::sqrt(scale);
    if (norm > max_norm)
      for (double& weight : w) weight *= max_norm / norm;
  }
  return active.scattered(w, gramian.matrix);
}

}  // namespace htl

// SPDX-License-Identifier: Apache-2.0
/// @file gradvac.hpp
/// @brief GradVac: pairs of task gradients are turned towards the angle that they usually have.
#pragma once

#include <htl/weighting/memory.hpp>
#include <htl/weighting/order.hpp>

#include <cmath>

namespace htl::inline v0_1_0 {

/// @brief Gradient vaccine (Wang et al., "Gradient Vaccine", ICLR 2021, Algorithm 1).
///
/// For each task i: ĝ_i = g_i; for every other task j in the order, with φ = cos(ĝ_i, g_j) and the remembered target φ̂_ij, which starts at 0: if φ < φ̂_ij,
/// ĝ_i ← ĝ_i + ‖ĝ_i‖ (φ̂_ij √(1 − φ²) − φ √(1 − φ̂_ij²)) / (‖g_j‖ √(1 − φ̂_ij²)) g_j, after which cos(ĝ_i, g_j) = φ̂_ij; then always
/// φ̂_ij ← (1 − β) φ̂_ij + β φ. The shared gradient is Σ_i ĝ_i. Exact in K, as in PCGrad, which its first step equals.
///
/// A target beyond ±(1 − 1e-8) counts as that. Where ĝ_i or g_j is 0, or projections cancelled ĝ_i to below 1e-14 of its square, there is no angle: the step
/// and the target's change are left out. **Inactive tasks** have weight 0 and their targets stand still. One task: weight 1.
/// **Random numbers**: n² from gramian.generator where n > 2 tasks are active and the order is random. **Device**: on CUDA it waits for the Gramian; a
/// CUDA graph can't capture it; the memory stays on the CPU. **Cost** O(T³).
/// TorchJD and LibMTL also change every target; the code of SamsungLabs changes it only where φ < φ̂. LibMTL adds 1e-8 to the denominator.
struct GradVac {
  double beta = 0.5;                ///< how fast the targets follow, in [0, 1]
  Order order = Order::random;      ///< in which order a task visits the others
  std::vector<int64_t> given = {};  ///< a permutation of all tasks, for Order::given

  /// @brief What a run remembers.
  struct State {
    at::Tensor targets;  ///< [T, T] float64: φ̂_ij, the usual cosine of g_i, as changed by earlier visits, and g_j; the diagonal stays 0
    /// @brief Names the tensors for saving, loading, resetting and moving.
    template <class Visit>
    void fields(Visit&& visit) {
      visit("targets", targets);
    }
  };

  /// @brief [T] float64 weights.
  /// @throws c10::ValueError where beta or `given` do not fit, or the state was made for other tasks
  at::Tensor weights(const TaskGramian& gramian, State& state) const;
};

inline at::Tensor GradVac::weights(const TaskGramian& gramian, State& state) const {
  HTL_CHECK(beta >= 0.0 && beta <= 1.0, "htl::GradVac: expected beta in [0, 1], got ", beta);
  const int64_t tasks = gramian.tasks();
  detail::check_order("htl::GradVac", order, given, tasks);
  detail::prepare_memory("htl::GradVac", state.targets, {tasks, tasks}, at::kCPU);
  auto* const targets = state.targets.mutable_data_ptr<double>();
  const detail::ActiveGramian active(gramian);
  const SquareMatrix k = active.matrix();
  const int64_t n = k.n;
  const std::vector<int64_t> others = detail::visits(order, given, active.tasks, gramian.generator);
  constexpr double steepest = 1.0 - 1e-8;
  std::vector<double> result(static_cast<size_t>(n), 0.0), work(static_cast<size_t>(2 * n));
  double* const product = work.data();      // ĝ_i · g_j for all j
  double* const coefficient = product + n;  // ĝ_i = Σ_k coefficient[k] g_k
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) product[j] = k(i, j);
    std::fill(coefficient, coefficient + n, 0.0);
    coefficient[i] = 1.0;
    double largest = k(i, i);  // the square of the largest of the vectors that made ĝ_i
    for (int64_t visit = 0; visit < n; ++visit) {
      const int64_t j = others[static_cast<size_t>(i * n + visit)];
      if (j == i) continue;
      double square = 0.0;
      for (int64_t m = 0; m < n; ++m) square += coefficient[m] * product[m];
      if (!(square > 1e-14 * largest) || !(k(j, j) > 0.0)) continue;
      const double norm = std::sqrt(square), other = std::sqrt(k(j, j));
      const double cosine = std::clamp(product[j] / norm / other, -1.0, 1.0);
      double& target = targets[active.tasks[static_cast<size_t>(i)] * tasks + active.tasks[static_cast<size_t>(j)]];
      if (cosine < target) {
        const double wanted = std::clamp(target, -steepest, steepest), across = std::sqrt((1.0 - wanted) * (1.0 + wanted));
        const double part = norm / other * (wanted * std::sqrt((1.0 - cosine) * (1.0 + cosine)) / across - cosine);
        coefficient[j] += part;
        for (int64_t m = 0; m < n; ++m) product[m] += part * k(j, m);
        largest = std::max(largest, part * part * k(j, j));
      }
      target += beta * (cosine - target);
    }
    for (int64_t j = 0; j < n; ++j) result[static_cast<size_t>(j)] += coefficient[j];
  }
  return active.scattered(result, gramian.matrix);
}

}  // namespace htl

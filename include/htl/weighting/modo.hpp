// SPDX-License-Identifier: Apache-2.0
/// @file modo.hpp
/// @brief MoDo: weights that follow the shortest combination of the task gradients by one projected step a batch.
#pragma once

#include <htl/task/tensor_operators.hpp>
#include <htl/weighting/active_gramian.hpp>
#include <htl/weighting/memory.hpp>
#include <htl/weighting/solvers/simplex_projection.hpp>

#include <cmath>

namespace htl::inline v0_1_0 {

/// @brief Multi-objective descent with double sampling: λ ← Π(λ − γ (A λ + ρ λ)), Π the projection onto the simplex; the weights are the new λ.
///
/// A_st = G_s of a first batch · G_t of a second one (`gramian.cross`), whose mean is the Gramian of the mean gradients, as one batch's is not; the weights
/// apply to a third. Without `cross` A is the one Gramian there is. γ multiplies A as it is, so its useful size is 1 / ‖G‖²; with γ far above that λ jumps
/// between corners.
///
/// λ starts at 1/T. **Inactive tasks** keep their λ; the active ones share theirs, the step is made on λ divided by their sum. Its numbers are finite for every
/// finite A. **Device**: loops on the CPU, some µs; on CUDA it waits for A, a CUDA graph can't capture it.
///
/// Source: Chen, Fernando, Ying & Chen, NeurIPS 2023, Algorithm 2. Others: TorchJD has γ = 0.1, LibMTL 0.001, both ρ = 0.1 and 1/T to start with.
struct MoDo {
  double gamma = 0.1;  ///< step size γ ≥ 0
  double rho = 0.1;    ///< ρ ≥ 0, the pull to equal weights

  /// @brief What a run remembers.
  struct State {
    at::Tensor lambda;  ///< [T] float64, Σ = 1
    /// @brief Names the tensors for saving, loading, resetting and moving.
    template <class Visit>
    void fields(Visit&& visit) {
      visit("lambda", lambda);
    }
  };

  /// @brief Two batches for the weights, one for the step.
  int64_t batches() const { return 3; }

  /// @brief [T] float64 weights, Σ = 1 over the active tasks.
  /// @throws c10::ValueError with options outside their ranges, or a state of another number of tasks
  at::Tensor weights(const TaskGramian& gramian, State& state) const;
};

inline at::Tensor MoDo::weights(const TaskGramian& gramian, State& state) const {
  HTL_CHECK(gamma >= 0.0 && std::isfinite(gamma), "htl::MoDo: expected a finite gamma ≥ 0, got ", gamma);
  HTL_CHECK(rho >= 0.0 && std::isfinite(rho), "htl::MoDo: expected a finite rho ≥ 0, got ", rho);
  const int64_t tasks = gramian.tasks();
  detail::prepare_memory("htl::MoDo", state.lambda, {tasks}, gramian.matrix.device(), 1.0 / static_cast<double>(tasks));
  const detail::ActiveGramian active(gramian);
  const SquareMatrix a = active.cross();
  at::Tensor lambda = state.lambda.to(at::kCPU, at::kDouble, /*non_blocking=*/false, /*copy=*/true).contiguous();
  auto* const all = lambda.mutable_data_ptr<double>();
  const size_t n = active.tasks.size();
  double sum = 0.0;
  for (const int64_t t : active.tasks) sum += all[t];
  std::vector<double> before(n), after(n);
  for (size_t i = 0; i < n; ++i) before[i] = sum > 0.0 ? all[active.tasks[i]] / sum : 1.0 / static_cast<double>(n);
  for (size_t i = 0; i < n; ++i) {
    double slope = rho * before[i];
    for (size_t j = 0; j < n; ++j) slope += a(static_cast<int64_t>(i), static_cast<int64_t>(j)) * before[j];
    after[i] = std::clamp(before[i] - gamma * slope, -1e300, 1e300);
  }
  simplex_projection(after);
  for (size_t i = 0; i < n; ++i) all[active.tasks[i]] = sum * after[i];
  state.lambda = lambda.to(gramian.matrix.device());
  return active.scattered(after, gramian.matrix);
}

}  // namespace htl

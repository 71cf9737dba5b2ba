// SPDX-License-Identifier: Apache-2.0
/// @file core_task.hpp
/// @brief CoreTask: HTLNet's gradient adjustment; the other tasks yield to the core task in direction and size.
#pragma once

#include <htl/task/tensor_operators.hpp>
#include <htl/weighting/memory.hpp>
#include <htl/weighting/weighting.hpp>

#include <ATen/TensorOperators.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <optional>

namespace htl::inline v0_1_0 {

/// @brief Which norm of G_t the magnitude ratio ‖G_c‖ / ‖G_t‖ takes.
enum class NormReference {
  before_projection,  ///< ‖G_t‖ as it came
  after_projection,   ///< ‖G_t‖ after its part against the core was taken off
  moving_average      ///< exponential moving averages of the norms before projection (as in MetaBalance, He et al., WWW 2022)
};

/// @brief What several core tasks mean.
enum class SeveralCores {
  combined,  ///< G_c = Σ of the cores' gradients
  own        ///< each other task against the sum of the cores that it precedes in the graph
};

/// @brief HTLNet's adjustment (Tang et al., "Touch the Core", RecSys 2024, Algorithm 1, Eq. 16–17), as weights of the task gradients.
///
/// For each task t that is not a core:
/// 1. direction: if G_t · G_c < 0, G_t ← G_t − α (G_t · G_c / ‖G_c‖²) G_c;
/// 2. size: r = clip(‖G_c‖ / ‖G_t‖, 1/C, C), G_t ← γ r G_t + (1 − γ) G_t;
/// 3. the shared gradient is G_c + Σ_t G_t.
///
/// All of it is linear in the gradients given K, so with a_t = α min(K_tc, 0) / K_cc and s_t = γ r + 1 − γ: w_t = s_t, w_c = 1 − Σ_t s_t a_t.
/// α = 1 projects onto the core's normal plane; then no adjusted G_t opposes G_c. Zero gradients are safe: K_cc = 0 or K_tt = 0 mean no projection and
/// ratio 1; a G_t that the projection cancels (below 1e-14 of its square) has ratio C, or 1 where C = ∞; several cores that cancel each other (below
/// 1e-14 of their squares) count as K_cc = 0.
///
/// **Inactive tasks**: their gradient is 0, their averages stand still. **Cores**: none is refused; several by `several_cores`, or the one that `core` names;
/// the cores among themselves keep the plain sum. **Device**: loops in float64 on the CPU; on CUDA ATen without branches or synchronisation, and a
/// CUDA graph can capture it (with moving averages after a first step, which makes them). The paper does not say which norm step 2 takes after step 1; the
/// default is the one before.
struct CoreTask {
  double alpha = 1.0;                                     ///< part of the conflicting component that is removed, ≥ 0; 0 = no projection
  double gamma = 0.5;                                     ///< how far sizes are adapted to the core's, in [0, 1]
  double clip_ratio = 100.0;                              ///< C ≥ 1; infinity = no clip
  NormReference norm = NormReference::before_projection;  ///< the norm in step 2
  SeveralCores several_cores = SeveralCores::combined;    ///< the meaning of several cores
  double average_decay = 0.9;                             ///< decay β in [0, 1) of the moving averages
  std::optional<int64_t> core = {};                       ///< the position of the one core task, instead of the cores that the TaskGramian has

  /// @brief What a run remembers: the moving averages of the norms.
  struct State {
    at::Tensor core_norms;  ///< [T] float64, the average of ‖G_c‖ over the steps in which the task was active; both averages start at 0, so their ratio needs
                            ///< no correction
    at::Tensor task_norms;  ///< [T] float64, the average of ‖G_t‖
    /// @brief Names the tensors for saving, loading, resetting and moving.
    template <class Visit>
    void fields(Visit&& visit) {
      visit("core_norms", core_norms);
      visit("task_norms", task_norms);
    }
  };

  /// @brief [T] float64 weights.
  /// @throws c10::ValueError without a core task, or with options outside their ranges
  at::Tensor weights(const TaskGramian& gramian, State& state) const;

  /// @brief The same by plain loops: the CPU's way. `weights()` checks and prepares the state before.
  at::Tensor weights_by_loops(const TaskGramian& gramian, State& state) const;
  /// @brief The same by ATen without branches, on any device: CUDA's way. `weights()` checks and prepares the state before.
  at::Tensor weights_by_tensors(const TaskGramian& gramian, State& state) const;

 private:
  std::vector<std::vector<int64_t>> cores_of_tasks(const TaskGramian& gramian) const;
  void check(const TaskGramian& gramian) const;
  double ratio(double core_square, double task, double floor) const;
};

inline void CoreTask::check(const TaskGramian& gramian) const {
  HTL_CHECK(!core || (*core >= 0 && *core < gramian.tasks()), "htl::CoreTask: expected core in 0 … ", gramian.tasks() - 1, ", got ", core.value_or(0));
  HTL_CHECK(core || !gramian.cores.empty(), "htl::CoreTask: expected at least one core task, got none; mark one with .core(), set .core, or use htl::Sum");
  HTL_CHECK(alpha >= 0.0 && std::isfinite(alpha), "htl::CoreTask: expected a finite alpha ≥ 0, got ", alpha);
  HTL_CHECK(gamma >= 0.0 && gamma <= 1.0, "htl::CoreTask: expected gamma in [0, 1], got ", gamma);
  HTL_CHECK(clip_ratio >= 1.0, "htl::CoreTask: expected clip_ratio ≥ 1, got ", clip_ratio);
  HTL_CHECK(average_decay >= 0.0 && average_decay < 1.0, "htl::CoreTask: expected average_decay in [0, 1), got ", average_decay);
}

/// sqrt(core_square / task), clipped; `floor` is the square below which a task's gradient counts as cancelled.
inline double CoreTask::ratio(double core_square, double task, double floor) const {
  if (core_square <= 0.0) return 1.0;
  if (task <= floor) return floor > 0.0 && std::isfinite(clip_ratio) ? clip_ratio : 1.0;
  return std::min(std::max(std::sqrt(core_square / task), 1.0 / clip_ratio), clip_ratio);
}

inline at::Tensor CoreTask::weights(const TaskGramian& gramian, State& state) const {
  check(gramian);
  if (norm == NormReference::moving_average)
    for (at::Tensor* average : {&state.core_norms, &state.task_norms})
      detail::prepare_memory("htl::CoreTask", *average, {gramian.tasks()}, gramian.matrix.device());
  if (core) {
    TaskGramian one = gramian;
    one.cores = {*core};
    one.cores_after.clear();
    return one.matrix.is_cpu() ? weights_by_loops(one, state) : weights_by_tensors(one, state);
  }
  return gramian.matrix.is_cpu() ? weights_by_loops(gramian, state) : weights_by_tensors(gramian, state);
}

/// The cores that each task yields to; none for cores.
inline std::vector<std::vector<int64_t>> CoreTask::cores_of_tasks(const TaskGramian& gramian) const {
  const bool own = several_cores == SeveralCores::own && !gramian.cores_after.empty();
  std::vector<std::vector<int64_t>> result;
  for (int64_t t = 0; t < gramian.tasks(); ++t) {
    const bool is_core = std::find(gramian.cores.begin(), gramian.cores.end(), t) != gramian.cores.end();
    result.push_back(is_core ? std::vector<int64_t>{} : own ? gramian.cores_after[static_cast<size_t>(t)] : gramian.cores);
  }
  return result;
}

inline at::Tensor CoreTask::weights_by_loops(const TaskGramian& gramian, State& state) const {
  const int64_t tasks = gramian.tasks();
  const at::Tensor matrix = gramian.matrix.contiguous(), active = gramian.active.defined() ? gramian.active.contiguous() : at::Tensor();
  const double* k = matrix.const_data_ptr<double>();
  at::Tensor result = at::ones({tasks}, gramian.matrix.options());
  auto* w = result.mutable_data_ptr<double>();
  const std::vector<std::vector<int64_t>> cores = cores_of_tasks(gramian);
  for (int64_t t = 0; t < tasks; ++t) {
    if (std::find(gramian.cores.begin(), gramian.cores.end(), t) != gramian.cores.end()) continue;
    double core_square = 0.0, cross = 0.0, squares = 0.0;
    for (const int64_t c : cores[static_cast<size_t>(t)]) {
      cross += k[t * tasks + c];
      squares += k[c * tasks + c];
      for (const int64_t e : cores[static_cast<size_t>(t)]) core_square += k[c * tasks + e];
    }
    if (core_square <= 1e-14 * squares) core_square = 0.0;
    const double own = k[t * tasks + t];
    const double a = core_square > 0.0 ? alpha * std::min(cross, 0.0) / core_square : 0.0;
    double r = 1.0;
    if (norm == NormReference::moving_average) {
      double& core_norm = state.core_norms.mutable_data_ptr<double>()[t];
      double& task_norm = state.task_norms.mutable_data_ptr<double>()[t];
      if (core_square > 0.0 && (!active.defined() || active.const_data_ptr<bool>()[t])) {
        core_norm += (1.0 - average_decay) * (std::sqrt(core_square) - core_norm);
        task_norm += (1.0 - average_decay) * (std::sqrt(std::max(own, 0.0)) - task_norm);
      }
      r = ratio(core_norm * core_norm, task_norm * task_norm, 0.0);
    } else if (norm == NormReference::after_projection) {
      r = ratio(core_square, std::max(own - 2.0 * a * cross + a * a * core_square, 0.0), 1e-14 * std::max(own, 0.0));
    } else {
      r = ratio(core_square, own, 0.0);
    }
    const double s = gamma * r + 1.0 - gamma;
    w[t] = s;
    for (const int64_t c : cores[static_cast<size_t>(t)]) w[c] -= s * a;
  }
  return result;
}

inline at::Tensor CoreTask::weights_by_tensors(const TaskGramian& gramian, State& state) const {
  const at::Tensor& matrix = gramian.matrix;
  const int64_t tasks = gramian.tasks();
  // filled by kernels: a copy from the host would synchronise, and could not be captured
  const at::Tensor others = at::ones({tasks}, matrix.options()), members = at::zeros({tasks, tasks}, matrix.options());  // members[c, t]
  for (const int64_t c : gramian.cores) others.select(0, c).fill_(0.0);
  const std::vector<std::vector<int64_t>> cores = cores_of_tasks(gramian);
  if (several_cores == SeveralCores::combined || gramian.cores_after.empty()) {
    for (const int64_t c : gramian.cores) members.select(0, c).copy_(others);
  } else {
    for (int64_t t = 0; t < tasks; ++t)
      for (const int64_t c : cores[static_cast<size_t>(t)]) members.select(0, c).select(0, t).fill_(1.0);
  }
  const at::Tensor own = matrix.diagonal(), cross = (matrix * members.t()).sum(1), squares = (members * own.unsqueeze(1)).sum(0);
  at::Tensor core_square = (members * matrix.mm(members)).sum(0);
  core_square = core_square.masked_fill(core_square <= 1e-14 * squares, 0.0);
  const at::Tensor has_core = core_square > 0.0;
  const at::Tensor a = (alpha * cross.clamp_max(0.0) / core_square.where(has_core, 1.0)).where(has_core, 0.0);
  const auto ratio_of = [&](const at::Tensor& numerator, const at::Tensor& denominator, const at::Tensor& floor) {
    const at::Tensor cancelled = denominator <= floor;
    const at::Tensor clipped = (numerator / denominator.where(cancelled.logical_not(), 1.0)).sqrt().clamp(1.0 / clip_ratio, clip_ratio);
    const at::Tensor limit = at::ones_like(floor).masked_fill(floor > 0.0, std::isfinite(clip_ratio) ? clip_ratio : 1.0);
    return clipped.where(cancelled.logical_not(), limit).where(numerator > 0.0, 1.0);
  };
  at::Tensor r;
  if (norm == NormReference::moving_average) {
    const at::Tensor active = (gramian.active.defined() ? gramian.active.logical_and(has_core) : has_core).to(at::kDouble) * others;
    const at::Tensor step = active * (1.0 - average_decay);
    state.core_norms.add_(step * (core_square.sqrt() - state.core_norms));
    state.task_norms.add_(step * (own.clamp_min(0.0).sqrt() - state.task_norms));
    r = ratio_of(state.core_norms.square(), state.task_norms.square(), at::zeros_like(own));
  } else if (norm == NormReference::after_projection) {
    r = ratio_of(core_square, (own - 2.0 * a * cross + a * a * core_square).clamp_min(0.0), 1e-14 * own.clamp_min(0.0));
  } else {
    r = ratio_of(core_square, own, at::zeros_like(own));
  }
  const at::Tensor s = (gamma * r + 1.0 - gamma) * others;
  return s + (1.0 - others) - members.mv(s * a);
}

}  // namespace htl

// SPDX-License-Identifier: Apache-2.0
/// @file famo.hpp
/// @brief FAMO: weights from the losses before and after each step, for equal relative progress of all tasks.
#pragma once

#include <htl/task/tensor_operators.hpp>
#include <htl/weighting/memory.hpp>
#include <htl/weighting/weighting.hpp>

#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <limits>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief Fast adaptive multitask optimization (Liu et al., "FAMO: Fast Adaptive Multitask Optimization", NeurIPS 2023, Algorithm 1).
///
/// With logits ξ, z = softmax(ξ), D_t = L_t − b_t + 1e-8 and c = 1 / Σ z_t / D_t: w_t = c z_t / D_t, which add up to 1: the gradient of c Σ z_t log D_t. After
/// the step `observe` hears the new losses of the same batch: δ_t = log D_t − log D'_t, and ξ takes a step of Adam (0.9, 0.999, 1e-8) along z_t (δ_t − Σ z_s
/// δ_s) + λ ξ_t: a task that progressed more than the others loses weight. Without `observe` the logits stand still.
///
/// D_t is kept at 1e-8 or above: losses must be above their minima b. The Gramian's matrix is read only where `max_norm` is finite.
/// **Inactive tasks**: weight 0, z is over the active ones; logits and moments of a task that was inactive in `weights`, or whose new loss is not finite, stand
/// still in `observe`, and each task counts its own steps for Adam's correction. One task: weight 1. **Device**: ATen without branches or synchronisation; a
/// CUDA graph can capture it after a first step, which makes the memory. **Cost** some 20 small operators. The authors' code clips the shared gradient's norm
/// to 1 by default and has λ = 1e-5; TorchJD and LibMTL have λ = 1e-3. Here nothing is clipped by default.
struct FAMO {
  double learning_rate = 0.025;                               ///< of Adam, ≥ 0
  double weight_decay = 1e-3;                                 ///< λ ≥ 0
  double max_norm = std::numeric_limits<double>::infinity();  ///< > 0: the weights shrink until √(wᵀ K w) is at most this
  std::vector<double> min_losses = {};                        ///< b: the least loss of each task, below what is ever seen; empty = 0

  /// @brief What a run remembers.
  struct State {
    at::Tensor logits;      ///< [T] float64: ξ
    at::Tensor first;       ///< [T] float64: Adam's first moments
    at::Tensor second;      ///< [T] float64: Adam's second moments
    at::Tensor steps;       ///< [T] float64: steps of Adam, for each task
    at::Tensor log_before;  ///< [T] float64: log D_t of the last `weights`
    at::Tensor active;      ///< [T] float64: 1 where the task was active in the last `weights`, else 0
    /// @brief Names the tensors for saving, loading, resetting and moving.
    template <class Visit>
    void fields(Visit&& visit) {
      visit("logits", logits);
      visit("first", first);
      visit("second", second);
      visit("steps", steps);
      visit("log_before", log_before);
      visit("active", active);
    }
  };

  /// @brief [T] float64 weights; remembers the losses.
  /// @throws c10::ValueError without losses, with options outside their ranges, or where the state was made for other tasks
  at::Tensor weights(const TaskGramian& gramian, State& state) const;
  /// @brief Hears the losses after the step and learns from what they changed.
  /// @param losses [T]: of the batch of the last `weights`, with the parameters after the step
  /// @param state what `weights` remembered
  /// @throws c10::ValueError on a wrong shape; c10::Error where `weights` was not asked before
  void observe(const at::Tensor& losses, State& state) const;

 private:
  at::Tensor distances(const at::Tensor& losses) const;
  static at::Tensor shares(const State& state);
};

/// D
inline at::Tensor FAMO::distances(const at::Tensor& losses) const {
  at::Tensor result = losses + 1e-8;
  for (size_t t = 0; t < min_losses.size(); ++t)
    if (min_losses[t] != 0.0) result.select(0, static_cast<int64_t>(t)).sub_(min_losses[t]);
  return result.clamp_min(1e-8);
}

/// z over the active tasks
inline at::Tensor FAMO::shares(const State& state) {
  const at::Tensor parts = (state.logits - state.logits.amax()).clamp_min(-600.0).exp() * state.active;
  return parts / parts.sum().clamp_min(1e-300);
}

inline at::Tensor FAMO::weights(const TaskGramian& gramian, State& state) const {
  const int64_t tasks = gramian.tasks();
  HTL_CHECK(learning_rate >= 0.0 && std::isfinite(learning_rate), "htl::FAMO: expected a finite learning_rate ≥ 0, got ", learning_rate);
  HTL_CHECK(weight_decay >= 0.0 && std::isfinite(weight_decay), "htl::FAMO: expected a finite weight_decay ≥ 0, got ", weight_decay);
  HTL_CHECK(max_norm > 0.0, "htl::FAMO: expected max_norm > 0, got ", max_norm);
  HTL_CHECK(min_losses.empty() || static_cast<int64_t>(min_losses.size()) == tasks, "htl::FAMO: expected min_losses of ", tasks, " tasks or none, got ",
            min_losses.size());
  for (const double least : min_losses) HTL_CHECK(std::isfinite(least), "htl::FAMO: expected finite min_losses, got ", least);
  HTL_CHECK(gramian.losses.defined(), "htl::FAMO: expected the tasks' losses in TaskGramian::losses, got none; htl::backward gives them");
  check_shape("htl::FAMO", "the losses", gramian.losses, {tasks});
  const at::Tensor& k = gramian.matrix;
  for (at::Tensor* field : {&state.logits, &state.first, &state.second, &state.steps, &state.log_before, &state.active})
    detail::prepare_memory("htl::FAMO", *field, {tasks}, k.device());
  at::Tensor losses = gramian.losses.to(k.options());
  if (gramian.active.defined()) losses = losses.masked_fill(gramian.active.logical_not(), 1.0);  // an inactive task's may be anything
  const at::Tensor distance = distances(losses);
  state.log_before.copy_(distance.log());
  if (gramian.active.defined())
    state.active.copy_(gramian.active);
  else
    state.active.fill_(1.0);
  const at::Tensor parts = shares(state) / distance;
  at::Tensor result = parts / parts.sum().clamp_min(1e-300);
  if (std::isfinite(max_norm)) {
    const at::Tensor norm = k.mv(result).dot(result).clamp_min(0.0).sqrt();
    result = result * (max_norm / norm.clamp_min(max_norm));
  }
  return result;
}

inline void FAMO::observe(const at::Tensor& losses, State& state) const {
  HTL_CHECK_STATE(state.log_before.defined(), "htl::FAMO: expected weights() before observe(), got no losses from before the step");
  check_shape("htl::FAMO", "the losses after the step", losses, {state.log_before.size(0)});
  const at::Tensor after = distances(losses.to(state.logits.options())).log(), z = shares(state);
  const at::Tensor taking_part = (state.active > 0.0).logical_and(after.isfinite()), counts = taking_part.to(z.options());
  const at::Tensor progress = at::where(taking_part, state.log_before - after, at::zeros({}, z.options()));
  const at::Tensor gradient = z * (progress - (z * progress).sum()) + weight_decay * state.logits;
  constexpr double decay = 0.9, square_decay = 0.999;
  state.steps.add_(counts);
  state.first.copy_(at::where(taking_part, decay * state.first + (1.0 - decay) * gradient, state.first));
  state.second.copy_(at::where(taking_part, square_decay * state.second + (1.0 - square_decay) * gradient.square(), state.second));
  const at::Tensor steps = state.steps.clamp_min(1.0);
  const at::Tensor mean = state.first / (1.0 - (steps * std::log(decay)).exp()), square = state.second / (1.0 - (steps * std::log(square_decay)).exp());
  state.logits.sub_(counts * learning_rate * mean / (square.sqrt() + 1e-8));
}

}  // namespace htl

// SPDX-License-Identifier: Apache-2.0
/// @file gradnorm.hpp
/// @brief GradNorm: weights learn to give every task a gradient norm that fits its pace of training.
#pragma once

#include <htl/task/tensor_operators.hpp>
#include <htl/weighting/memory.hpp>
#include <htl/weighting/weighting.hpp>

#include <ATen/ops/ones_like.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief GradNorm (Chen et al., "GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks", ICML 2018, Algorithm 1).
///
/// Weights start at 1. With norms G_t = w_t ‖g_t‖, their mean Ḡ, the losses relative to the first ones L̃_t = L_t / L_t(0) and r_t = L̃_t / mean L̃, each step
/// returns w, and then w_t ← w_t − η sign(G_t − Ḡ r_tᵅ) ‖g_t‖: a step of gradient descent on Σ |G_t − Ḡ r_tᵅ| with the target held constant. Weights below
/// 1e-3 are raised to it, then all are scaled to add up to T.
///
/// Losses should be positive: an L̃_t that is not counts as 0, and where all are 0, r = 1. A first loss of exactly 0 is taken anew.
/// **Inactive tasks**: weight 0; their weight and first loss stand still, means and sums are over the active ones. One task: weight 1.
/// The step η ‖g_t‖ grows with the gradients, as published: choose the learning rate for their size.
/// **Device**: loops on the CPU; on CUDA ATen without branches or synchronisation; a CUDA graph can capture it after a first step, which makes the memory.
/// **Cost** some 30 small operators. LibMTL learns T softmax(θ) and takes the first epoch's mean losses; lucidrains' has the opposite sign of α; torch-rechub's
/// ignores r_t.
struct GradNorm {
  double alpha = 1.5;            ///< ≥ 0: how much larger the gradient of a task that lags is to be; 0 = equal norms
  double learning_rate = 0.025;  ///< η ≥ 0

  /// @brief What a run remembers.
  struct State {
    at::Tensor weights;         ///< [T] float64: w
    at::Tensor initial_losses;  ///< [T] float64: L_t(0); 0 before the task's first active step
    /// @brief Names the tensors for saving, loading, resetting and moving.
    template <class Visit>
    void fields(Visit&& visit) {
      visit("weights", weights);
      visit("initial_losses", initial_losses);
    }
  };

  /// @brief [T] float64 weights.
  /// @throws c10::ValueError without losses, with options outside their ranges, or where the state was made for other tasks
  at::Tensor weights(const TaskGramian& gramian, State& state) const;

  /// @brief The same by plain loops: the CPU's way. `weights()` checks and prepares the state before.
  at::Tensor weights_by_loops(const TaskGramian& gramian, State& state) const;
  /// @brief The same by ATen without branches, on any device: CUDA's way. `weights()` checks and prepares the state before.
  at::Tensor weights_by_tensors(const TaskGramian& gramian, State& state) const;

 private:
  static constexpr double least = 1e-3;
};

inline at::Tensor GradNorm::weights(const TaskGramian& gramian, State& state) const {
  HTL_CHECK(alpha >= 0.0 && std::isfinite(alpha), "htl::GradNorm: expected a finite alpha ≥ 0, got ", alpha);
  HTL_CHECK(learning_rate >= 0.0 && std::isfinite(learning_rate), "htl::GradNorm: expected a finite learning_rate ≥ 0, got ", learning_rate);
  const int64_t tasks = gramian.tasks();
  HTL_CHECK(gramian.losses.defined(), "htl::GradNorm: expected the tasks' losses in TaskGramian::losses, got none; htl::backward gives them");
  check_shape("htl::GradNorm", "the losses", gramian.losses, {tasks});
  detail::prepare_memory("htl::GradNorm", state.weights, {tasks}, gramian.matrix.device(), 1.0);
  detail::prepare_memory("htl::GradNorm", state.initial_losses, {tasks}, gramian.matrix.device());
  return gramian.matrix.is_cpu() ? weights_by_loops(gramian, state) : weights_by_tensors(gramian, state);
}

inline at::Tensor GradNorm::weights_by_loops(const TaskGramian& gramian, State& state) const {
  const int64_t tasks = gramian.tasks();
  const at::Tensor matrix = gramian.matrix.contiguous(), mask = gramian.active.defined() ? gramian.active.contiguous() : at::Tensor();
  const at::Tensor losses = gramian.losses.to(matrix.options()).contiguous();
  const double* const loss = losses.const_data_ptr<double>();
  const auto active = [&](int64_t t) { return !mask.defined() || mask.const_data_ptr<bool>()[t]; };
  at::Tensor result = at::zeros({tasks}, matrix.options());
  auto* const w = result.mutable_data_ptr<double>();
  auto* const next = state.weights.mutable_data_ptr<double>();
  auto* const initial = state.initial_losses.mutable_data_ptr<double>();
  std::vector<double> norms(static_cast<size_t>(tasks), 0.0), relative(norms);
  double count = 0.0, mean = 0.0, mean_norm = 0.0, before = 0.0, after = 0.0;
  for (int64_t t = 0; t < tasks; ++t) {
    if (!active(t)) continue;
    const auto i = static_cast<size_t>(t);
    if (initial[t] == 0.0) initial[t] = loss[t];
    w[t] = next[t];
    norms[i] = std::sqrt(std::max(matrix.const_data_ptr<double>()[t * tasks + t], 0.0));
    relative[i] = std::max(initial[t] != 0.0 ? loss[t] / initial[t] : loss[t], 0.0);
    count += 1.0;
    mean += relative[i];
    mean_norm += w[t] * norms[i];
    before += w[t];
  }
  mean /= std::max(count, 1.0);
  mean_norm /= std::max(count, 1.0);
  for (int64_t t = 0; t < tasks; ++t) {
    if (!active(t)) continue;
    const auto i = static_cast<size_t>(t);
    const double difference = w[t] * norms[i] - mean_norm * std::pow(mean > 0.0 ? relative[i] / mean : 1.0, alpha);
    const double sign = difference > 0.0 ? 1.0 : difference < 0.0 ? -1.0 : 0.0;
    next[t] = std::max(w[t] - learning_rate * sign * norms[i], least);
    after += next[t];
  }
  for (int64_t t = 0; t < tasks; ++t)  // what the active ones add up to stays, and so does T
    if (active(t)) next[t] *= before / after;
  return result;
}

inline at::Tensor GradNorm::weights_by_tensors(const TaskGramian& gramian, State& state) const {
  const at::Tensor& k = gramian.matrix;
  at::Tensor losses = gramian.losses.to(k.options());
  if (gramian.active.defined()) losses = losses.masked_fill(gramian.active.logical_not(), 0.0);  // an inactive task's may be anything
  const at::Tensor active = gramian.active.defined() ? gramian.active.to(k.options()) : at::ones_like(losses);
  const at::Tensor taking_part = active > 0.0, count = active.sum().clamp_min(1.0);
  state.initial_losses.copy_(at::where(taking_part.logical_and(state.initial_losses == 0.0), losses, state.initial_losses));
  at::Tensor result = state.weights * active;

  const at::Tensor started = state.initial_losses != 0.0;
  const at::Tensor relative = (losses / at::where(started, state.initial_losses, at::ones_like(losses))).clamp_min(0.0) * active;
  const at::Tensor mean = relative.sum() / count;
  const at::Tensor pace = at::where(mean > 0.0, relative / at::where(mean > 0.0, mean, at::ones_like(mean)), at::ones_like(losses)).pow(alpha);
  const at::Tensor norms = k.diagonal().clamp_min(0.0).sqrt() * active, weighted = result * norms;
  const at::Tensor slope = (weighted - weighted.sum() / count * pace).sign() * norms;
  at::Tensor next = (state.weights - learning_rate * slope).clamp_min(least);
  next = next * (result.sum() / (next * active).sum().clamp_min(least));  // what the active ones add up to stays, and so does T
  state.weights.copy_(at::where(taking_part, next, state.weights));
  return result;
}

}  // namespace htl

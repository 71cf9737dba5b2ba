// SPDX-License-Identifier: Apache-2.0
/// @file famo_balance.hpp
/// @brief FAMOBalance: FAMO's weights for the losses themselves.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/balance/balance_method.hpp>
#include <htl/weighting/famo.hpp>

#include <ATen/ops/where.h>

#include <algorithm>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief Fast adaptive multitask optimization (Liu et al., NeurIPS 2023, Algorithm 1), as FAMO, on the losses: f = c Σ z_t log D_t with c = 1 / Σ z_t / D_t
/// held constant, so that w_t = c z_t / D_t, which add up to 1.
///
/// As a gradient method (htl::FAMO) the weights are for the shared parameters and every task's own layers learn from its plain loss; here they learn from the
/// weighted one, as in the authors' code. Without Balancer::observe() after each step it learns nothing.
///
/// A loss that is not finite teaches nothing: its logit stands still. **Inactive tasks**: weight 0; their logits stand still. Formula, floor of D, device and
/// cost: FAMO's.
struct FAMOBalance {
  double learning_rate = 0.025;         ///< of Adam, ≥ 0
  double weight_decay = 1e-3;           ///< ≥ 0: TorchJD's and LibMTL's; the authors' code has 1e-5
  std::vector<double> min_losses = {};  ///< b: the least loss of each task, below what is ever seen; empty = 0

  /// @brief What a run remembers: FAMO's.
  using State = FAMO::State;

  /// @brief 0, or the least of min_losses
  double least_loss() const { return min_losses.empty() ? 0.0 : *std::min_element(min_losses.begin(), min_losses.end()); }
  /// @brief w [T] and f; remembers the losses.
  /// @throws c10::ValueError with options outside their ranges, or where the state was made for other tasks
  BalanceTerms weights(const BalanceInput& input, State& state) const {
    const int64_t tasks = input.tasks();  // of the matrix only its size, type and device are read: there is no max_norm
    const at::Tensor shape = input.losses.expand({tasks, tasks});
    const at::Tensor result = method().weights({.matrix = shape, .active = detail::taking_part(input), .losses = input.losses}, state);
    return {result, {}, (result * state.log_before.exp() * state.log_before).sum()};
  }
  /// @brief Hears the losses after the step and learns from what they changed.
  /// @throws c10::ValueError on a wrong shape; c10::Error where `weights` was not asked before
  void observe(const at::Tensor& losses, State& state) const { method().observe(losses, state); }

 private:
  FAMO method() const { return {.learning_rate = learning_rate, .weight_decay = weight_decay, .min_losses = min_losses}; }
};

}  // namespace htl

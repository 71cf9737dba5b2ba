// SPDX-License-Identifier: Apache-2.0
/// @file dwa_balance.hpp
/// @brief DWABalance: more weight for losses that fall more slowly.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/balance/per_task.hpp>
#include <htl/weighting/memory.hpp>

#include <ATen/ops/cat.h>
#include <ATen/ops/where.h>

namespace htl::inline v0_1_0 {

/// @brief Dynamic weight average (Liu, Johns and Davison, "End-to-End Multi-Task Learning with Attention", CVPR 2019, eq. 7).
///
/// w = n softmax(r / τ) over the n active tasks, with the rate r_t = L̄_t(e − 1) / L̄_t(e − 2) of the mean losses of the last two epochs that
/// Balancer::end_epoch() closed, for each task those in which it had labels; a task with fewer has r_t = 1. So all weights are 1 in the first two epochs.
///
/// With `window` = n > 0 the means are of the last n losses of a task, this batch's included, and of the n before them; epochs don't count then. nash-mtl does
/// so, with n = 25 and, before that, losses of 1 in the place of those that are not there yet.
///
/// A mean ≤ 0 of the earlier losses has no rate: r_t = 1; one of the later losses counts as 0. A loss that is not finite enters no mean.
/// **Inactive tasks**: weight 0, their means stand still. **Device**: ATen without branches or synchronisation.
struct DWABalance {
  double temperature = 2.0;  ///< τ > 0
  int64_t window = 0;        ///< 0 = epochs; else n ≥ 1

  /// @brief What a run remembers.
  struct State {
    at::Tensor sums;     ///< [T] float64: of this epoch's losses
    at::Tensor counts;   ///< [T] float64: how many they are
    at::Tensor last;     ///< [T] float64: the mean of the last epoch
    at::Tensor earlier;  ///< [T] float64: the mean of the one before it
    at::Tensor known;    ///< [T] float64: epochs with labels, or losses in a window
    at::Tensor recent;   ///< [T, 2n] float64: the last losses, the newest at the end
    /// @brief Names the tensors for saving, loading, resetting and moving.
    template <class Visit>
    void fields(Visit&& visit) {
      visit("sums", sums);
      visit("counts", counts);
      visit("last", last);
      visit("earlier", earlier);
      visit("known", known);
      visit("recent", recent);
    }
  };

  /// @brief [T] float64: the weights.
  /// @throws c10::ValueError with options outside their ranges, or where the state was made for other tasks or another window
  BalanceTerms weights(const BalanceInput& input, State& state) const {
    HTL_CHECK(temperature > 0.0 && std::isfinite(temperature), "htl::DWABalance: expected a finite temperature > 0, got ", temperature);
    HTL_CHECK(window >= 0, "htl::DWABalance: expected window ≥ 0, got ", window);
    const int64_t tasks = input.tasks();
    detail::prepare_memory("htl::DWABalance", state.known, {tasks}, input.losses.device());
    const at::Tensor rates = window > 0 ? rates_of_window(input, state) : rates_of_epochs(input, state);
    return detail::shares_of_active(input, rates / temperature).shares * input.mask().sum();
  }
  /// @brief Closes an epoch: its means become the last ones, for the tasks that had labels.
  void end_epoch(State& state) const {
    if (!state.sums.defined()) return;
    const at::Tensor had_labels = state.counts > 0.0;
    state.earlier = at::where(had_labels, state.last, state.earlier);
    state.last = at::where(had_labels, state.sums / state.counts, state.last);
    state.known = state.known + had_labels.to(state.known.options());
    state.sums.zero_();
    state.counts.zero_();
  }

 private:
  static at::Tensor rate(const at::Tensor& last, const at::Tensor& earlier, const at::Tensor& is_known) {
    return at::where(is_known.logical_and(earlier > 0.0), (last / earlier).clamp(0.0, 1e100), 1.0);
  }
  static at::Tensor rates_of_epochs(const BalanceInput& input, State& state) {
    for (at::Tensor* field : {&state.sums, &state.counts, &state.last, &state.earlier})
      detail::prepare_memory("htl::DWABalance", *field, {input.tasks()}, input.losses.device());
    const at::Tensor counts = detail::taking_part(input);
    state.sums.add_(at::where(counts, input.losses, 0.0));
    state.counts.add_(counts.to(state.counts.options()));
    return rate(state.last, state.earlier, state.known >= 2.0);
  }
  at::Tensor rates_of_window(const BalanceInput& input, State& state) const {
    HTL_CHECK(!state.recent.defined() || (state.recent.dim() == 2 && state.recent.size(1) == 2 * window),
              "htl::DWABalance: expected the memory of a window of ", window, " losses, got the shape ", shape_of(state.recent),
              "; forget it, or set window back");
    detail::prepare_memory("htl::DWABalance", state.recent, {input.tasks(), 2 * window}, input.losses.device());
    const at::Tensor counts = detail::taking_part(input);
    const at::Tensor moved = at::cat({state.recent.narrow(1, 1, 2 * window - 1), input.losses.unsqueeze(1)}, 1);
    state.recent.copy_(at::where(counts.unsqueeze(1), moved, state.recent));
    state.known.add_(counts.to(state.known.options()));
    return rate(state.recent.narrow(1, window, window).mean(1), state.recent.narrow(1, 0, window).mean(1), state.known >= static_cast<double>(2 * window));
  }
};

}  // namespace htl

// SPDX-License-Identifier: Apache-2.0
/// @file uncertainty_balance.hpp
/// @brief UncertaintyBalance: each task's loss is weighed by a learned variance.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/balance/bounded_parameter.hpp>

#include <ATen/ops/zeros.h>

#include <string>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief What the loss of a task with the learned log variance s becomes.
enum class UncertaintyForm {
  regression,      ///< ½ e^{−s} L + ½ s for all tasks; TorchJD's and LibMTL's
  kendall,         ///< as published: ½ e^{−s} L + ½ s for regression tasks, e^{−s} L + ½ s for the others
  classification,  ///< e^{−s} L + ½ s for all tasks; SamsungLabs'
  liebel           ///< ½ e^{−s} L + log(1 + e^s): what is added is never negative
};

/// @brief Homoscedastic uncertainty (Kendall, Gal and Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and Semantics", CVPR
/// 2018, eq. 7 and 10; the form `liebel`: Liebel and Körner, "Auxiliary Tasks in Multi-task Learning", 2018).
///
/// It learns s_t = log σ_t², the parameter `log_variance` [T], by the balanced loss itself: give it to an optimizer, without weight decay. Its optimum is log L
/// where the factor of the loss is ½ e^{−s}, log 2L where it is e^{−s}, and log(L/4 + √(L²/16 + L/2)) for `liebel`, so that each task's gradient is taken
/// relative to its loss.
///
/// **The balanced losses may be negative**, and go on falling while s falls: judge a training by the unweighted losses, or take `liebel`, or bounds. Losses
/// have to be positive: one that reaches 0 drives s to −∞ and its weight to ∞, for which bounds are there too: `{.bounds = {-5.0, 5.0}}`. At a bound the
/// gradient only leads back. **Inactive tasks**: s gets the gradient 0, nothing is added. (The momentum of an optimizer may still move it; plain SGD does not.)
/// **Device**: ATen without branches or synchronisation.
struct UncertaintyBalance {
  UncertaintyForm form = UncertaintyForm::regression;  ///< see there
  std::vector<double> initial = {};                    ///< s at first, one number or one for each task; empty = 0. LibMTL begins at −0.5
  ParameterBounds bounds = {};                         ///< s is kept in them

  /// @brief "log_variance".
  std::string parameter_name() const { return "log_variance"; }
  /// @brief [T]: s at first.
  /// @throws c10::ValueError unless `initial` is finite, and one or T
  at::Tensor initial_parameter(int64_t tasks) const { return detail::per_task("htl::UncertaintyBalance", "initial", initial, tasks, at::kDouble, 0.0); }
  /// @brief The factors of the losses, and what is added, with their graphs to the parameter.
  /// @throws c10::ValueError where the bounds are turned round, or for `kendall` without the tasks' kinds
  BalanceTerms weights(const BalanceInput& input, const at::Tensor& parameter) const {
    const at::Tensor s = detail::bounded("htl::UncertaintyBalance", parameter, bounds), precision = s.neg().exp();
    switch (form) {
      case UncertaintyForm::regression:
        break;
      case UncertaintyForm::kendall:
        return {precision * factors(input), s * 0.5};
      case UncertaintyForm::classification:
        return {precision, s * 0.5};
      case UncertaintyForm::liebel:
        return {precision * 0.5, s.logaddexp(at::zeros({}, s.options()))};
    }
    return {precision * 0.5, s * 0.5};
  }

 private:
  static at::Tensor factors(const BalanceInput& input) {
    HTL_CHECK(static_cast<int64_t>(input.kinds.size()) == input.tasks(), "htl::UncertaintyBalance: the form kendall expects a kind for each of ", input.tasks(),
              " tasks in BalanceInput::kinds, got ", input.kinds.size(), "; htl::Balancer gives them");
    std::vector<double> result;
    for (const TaskKind kind : input.kinds) result.push_back(kind == TaskKind::regression ? 0.5 : 1.0);
    return detail::per_task("htl::UncertaintyBalance", "factors", result, input.tasks(), input.losses.options(), 1.0);
  }
};

}  // namespace htl

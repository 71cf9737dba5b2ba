// SPDX-License-Identifier: Apache-2.0
/// @file imtl_l_balance.hpp
/// @brief IMTLLBalance: learned scales bring all losses to 1.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/balance/bounded_parameter.hpp>

#include <string>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief IMTL-L (Liu et al., "Towards Impartial Multi-task Learning", ICLR 2021, section 3.2): Σ e^{s_t} L_t − s_t.
///
/// It learns s_t, the parameter `log_scale` [T]; the optimum is s = −log L, where every scaled loss is 1. It is twice UncertaintyBalance's `regression` at −s.
/// With IMTLG as the gradient method it is the paper's IMTL. Losses have to be positive, as there; bounds and inactive tasks as there too.
/// **Device**: ATen without branches or synchronisation.
struct IMTLLBalance {
  std::vector<double> initial = {};  ///< s at first, one number or one for each task; empty = 0
  ParameterBounds bounds = {};       ///< s is kept in them

  /// @brief "log_scale".
  std::string parameter_name() const { return "log_scale"; }
  /// @brief [T]: s at first.
  /// @throws c10::ValueError unless `initial` is finite, and one or T
  at::Tensor initial_parameter(int64_t tasks) const { return detail::per_task("htl::IMTLLBalance", "initial", initial, tasks, at::kDouble, 0.0); }
  /// @brief e^s and −s, with their graphs.
  /// @throws c10::ValueError where the bounds are turned round
  BalanceTerms weights(const BalanceInput& /*input*/, const at::Tensor& parameter) const {
    const at::Tensor s = detail::bounded("htl::IMTLLBalance", parameter, bounds);
    return {s.exp(), s.neg()};
  }
};

}  // namespace htl

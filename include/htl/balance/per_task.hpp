// SPDX-License-Identifier: Apache-2.0
/// @file per_task.hpp
/// @brief An option with a number for each task, as a tensor; shares of the active tasks.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/balance/balance_method.hpp>

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include <cmath>
#include <string_view>
#include <vector>

namespace htl::inline v0_1_0::detail {

/// Refuses an option that is not finite, or neither one number for all tasks nor one for each.
inline void check_per_task(std::string_view who, std::string_view what, const std::vector<double>& values, int64_t tasks) {
  const auto count = static_cast<int64_t>(values.size());
  HTL_CHECK(count <= 1 || count == tasks, who, ": expected ", what, " as one number, or one for each of ", tasks, " tasks, got ", count);
  for (const double value : values) HTL_CHECK(std::isfinite(value), who, ": expected ", what, " as finite numbers, got ", value);
}

/// The option as [T]: one number is for all tasks, none is `standard`. Written by kernels, without a copy from the host.
inline at::Tensor per_task(std::string_view who, std::string_view what, const std::vector<double>& values, int64_t tasks, at::TensorOptions options,
                           double standard) {
  check_per_task(who, what, values, tasks);
  if (static_cast<int64_t>(values.size()) != tasks) return at::full({tasks}, values.empty() ? standard : values.front(), options.dtype(at::kDouble));
  at::Tensor result = at::empty({tasks}, options.dtype(at::kDouble));
  for (int64_t t = 0; t < tasks; ++t) {
    const double value = values[static_cast<size_t>(t)];
    if (result.is_cpu())
      result.mutable_data_ptr<double>()[t] = value;
    else
      result.select(0, t).fill_(value);
  }
  return result;
}

/// softmax over the active tasks, 0 for the others, and log Σ exp over the active ones.
struct ActiveShares {
  at::Tensor shares;   // [T]
  at::Tensor log_sum;  // []: 0 where no task is active
};
inline ActiveShares shares_of_active(const BalanceInput& input, const at::Tensor& exponents) {
  const at::Tensor seen = input.active.defined() ? exponents.masked_fill(input.active.logical_not(), -1e300) : exponents;
  const at::Tensor top = seen.amax();
  at::Tensor parts = (seen - top).exp();
  if (!input.active.defined()) {
    const at::Tensor sum = parts.sum();
    return {parts / sum, top + sum.log()};
  }
  parts = parts.masked_fill(input.active.logical_not(), 0.0);
  const at::Tensor sum = parts.sum().clamp_min(1e-300);
  return {parts / sum, (top + sum.log()).masked_fill(input.active.any().logical_not(), 0.0)};
}

}  // namespace htl::detail

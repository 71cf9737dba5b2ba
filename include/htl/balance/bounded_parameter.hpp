// SPDX-License-Identifier: Apache-2.0
/// @file bounded_parameter.hpp
/// @brief A learned number that is kept within bounds, and can come back from them.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/balance/per_task.hpp>
#include <htl/task/tensor_operators.hpp>

#include <torch/csrc/autograd/custom_function.h>

#include <limits>

namespace htl::inline v0_1_0 {

/// @brief The interval of a learned number; infinite by default.
struct ParameterBounds {
  double low = -std::numeric_limits<double>::infinity();  ///< the smallest
  double high = std::numeric_limits<double>::infinity();  ///< the largest
};

namespace detail {

/// clamp(s, low, high), whose gradient is 0 only where a step down it would lead further out. A plain clamp's is 0 everywhere outside: a step that overshoots
/// a bound once would hold the number there for ever.
template <class = void>
struct BoundedFunction : torch::autograd::Function<BoundedFunction<>> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& s, double low, double high) {
    context->save_for_backward({s});
    context->saved_data["low"] = low;
    context->saved_data["high"] = high;
    return s.clamp(low, high);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, const torch::autograd::variable_list& gradients) {
    const at::Tensor s = context->get_saved_variables().front(), &g = gradients.front();
    const at::Tensor outward = s.le(context->saved_data["low"].toDouble()).logical_and_(g.gt(0.0));
    outward.logical_or_(s.ge(context->saved_data["high"].toDouble()).logical_and_(g.lt(0.0)));
    return {g.masked_fill(outward, 0.0), at::Tensor(), at::Tensor()};
  }
};

/// The parameter [T] in float64, within its bounds.
template <class = void>
at::Tensor bounded(const char* who, const at::Tensor& parameter, const ParameterBounds& bounds) {
  HTL_CHECK(bounds.low <= bounds.high, who, ": expected bounds with low ≤ high, got ", bounds.low, " and ", bounds.high);
  at::Tensor exact = parameter.to(at::kDouble);
  if (std::isinf(bounds.low) && std::isinf(bounds.high)) return exact;
  return BoundedFunction<>::apply(exact, bounds.low, bounds.high);
}

}  // namespace detail
}  // namespace htl

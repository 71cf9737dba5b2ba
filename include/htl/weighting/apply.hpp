// SPDX-License-Identifier: Apache-2.0
/// @file apply.hpp
/// @brief weights() and aggregate(): a gradient method by itself, on a Gramian or on a Jacobian, without any model.
#pragma once

#include <htl/weighting/gradient_parts.hpp>

#include <ATen/ops/mm.h>
#include <ATen/ops/mv.h>

namespace htl::inline v0_1_0 {

namespace detail {
struct NoMemory {};
/// The memory with which a method begins: what its `initial_state()` gives, else an empty State; nothing for methods without one.
template <class M>
auto initial_state(const M& method) {
  if constexpr (requires { method.initial_state(); }) {
    return method.initial_state();
  } else if constexpr (requires { typename M::State; }) {
    return typename M::State{};
  } else {
    return NoMemory{};
  }
}
}  // namespace detail

/// @brief What a method remembers between calls; empty for methods without memory.
template <GradientMethod M>
using MethodMemory = decltype(detail::initial_state(std::declval<const M&>()));

/// @brief The weights [T] of a method with memory.
template <GramianWeighting M>
at::Tensor weights(const M& method, const TaskGramian& gramian, MethodMemory<M>& memory) {
  detail::check_gramian("htl::weights", gramian);
  if constexpr (StatefulWeighting<M>) {
    return method.weights(gramian, memory);
  } else {
    return method.weights(gramian);
  }
}
/// @brief The weights [T] that a method gives a Gramian: `htl::weights(htl::CAGrad{.c = 0.4}, {.matrix = K})`. A method with memory begins anew.
/// @throws c10::ValueError unless the matrix is [T, T] and what else is given is for its T tasks; c10::TypeError unless float64; what the method throws
template <GramianWeighting M>
at::Tensor weights(const M& method, const TaskGramian& gramian) {
  MethodMemory<M> memory = detail::initial_state(method);
  return weights(method, gramian, memory);
}

/// @brief A Jacobian [T, P] as task gradients; with widths, as several shared tensors side by side.
/// @param jacobian [T, P] floating point: row t is the gradient of task t; half types become float32
/// @param columns widths of the tensors, together P; empty = one tensor
/// @throws c10::ValueError on a wrong shape
inline TaskGradients task_gradients(const at::Tensor& jacobian, const std::vector<int64_t>& columns = {}) {
  check_shape("htl::task_gradients", "the Jacobian", jacobian, {-1, -1});
  TaskGradients result;
  const at::Tensor exact = jacobian.to(at::kDouble), values = jacobian.scalar_type() == at::kDouble ? jacobian : jacobian.to(at::kFloat);
  result.gramian.matrix = exact.mm(exact.t());
  int64_t first = 0;
  for (const int64_t width : columns.empty() ? std::vector<int64_t>{jacobian.size(1)} : columns) {
    HTL_CHECK(width >= 0 && first + width <= jacobian.size(1), "htl::task_gradients: expected widths of together ", jacobian.size(1), " columns, got ",
              at::IntArrayRef(columns));
    result.parts.push_back({.name = std::to_string(result.parts.size()), .values = values.narrow(1, first, width).unsqueeze(0)});
    first += width;
  }
  HTL_CHECK(first == jacobian.size(1), "htl::task_gradients: expected widths of together ", jacobian.size(1), " columns, got ", at::IntArrayRef(columns));
  return result;
}

/// @brief The shared gradient that a method makes of task gradients, and its weights where it has some.
template <GradientMethod M>
SharedGradient aggregate(const M& method, const TaskGradients& gradients, MethodMemory<M>& memory) {
  if constexpr (StatefulAggregator<M>) {
    return method.aggregate(gradients, memory);
  } else if constexpr (StatelessAggregator<M>) {
    return method.aggregate(gradients);
  } else {
    SharedGradient result;
    result.weights = weights(method, gradients.gramian, memory);
    for (const TaskGradients::Part& part : gradients.parts) result.parts.push_back({detail::weighted_sum(part.values, result.weights), part.rows, part.valid});
    return result;
  }
}
/// @brief The shared gradient [P] that a method makes of a Jacobian [T, P]: `htl::aggregate(htl::PCGrad{}, jacobian)`.
/// @throws c10::ValueError on a wrong shape; what the method throws
template <GradientMethod M>
at::Tensor aggregate(const M& method, const at::Tensor& jacobian) {
  MethodMemory<M> memory = detail::initial_state(method);
  return aggregate(method, task_gradients(jacobian), memory).parts.front().values.squeeze(0);
}

}  // namespace htl

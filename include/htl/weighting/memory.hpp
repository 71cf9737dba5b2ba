// SPDX-License-Identifier: Apache-2.0
/// @file memory.hpp
/// @brief A field of a method's memory, made on first use and checked afterwards; and how often a method had no solution.
#pragma once

#include <htl/task/check.hpp>
#include <htl/task/tensor_operators.hpp>

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

namespace htl::inline v0_1_0 {

/// @brief The memory of a method whose problem may have no solution: how often it took its fallback. GradientReport::fallbacks shows it.
struct FallbackCount {
  at::Tensor fallbacks;  ///< [] int64, on the CPU; undefined before the first call
  /// @brief Names the tensors for saving, loading, resetting and moving.
  template <class Visit>
  void fields(Visit&& visit) {
    visit("fallbacks", fallbacks);
  }
};

namespace detail {

/// One more fallback, or none; a copy of the state that was taken before stays what it is.
inline void count_fallback(at::Tensor& fallbacks, bool taken) {
  if (!fallbacks.defined()) fallbacks = at::zeros({}, at::kLong);
  if (taken) fallbacks = fallbacks + 1;
}

/// What a method's memory says of its fallbacks; undefined where it doesn't count any.
template <class State>
at::Tensor fallbacks_of(const State& state) {
  if constexpr (requires { at::Tensor(state.fallbacks()); }) {  // around some other method's
    return state.fallbacks();
  } else if constexpr (requires { at::Tensor(state.fallbacks); }) {
    return state.fallbacks;
  } else {
    return {};
  }
}

/// Makes an undefined field, filled with `start`; a loaded one comes to the device, in float64 and contiguous.
/// @throws c10::ValueError where it was made for another number of tasks
inline void prepare_memory(const char* who, at::Tensor& field, at::IntArrayRef sizes, at::Device device, double start = 0.0) {
  if (!field.defined()) field = at::full(sizes, start, at::TensorOptions().dtype(at::kDouble).device(device));
  HTL_CHECK(field.sizes() == sizes, who, ": the state was made for ", shape_of(field), " tasks, this batch has ", sizes[0], "; forget it");
  if (field.device() != device || field.scalar_type() != at::kDouble) field = field.to(device, at::kDouble);
  if (!field.is_contiguous()) field = field.contiguous();
}

}  // namespace detail
}  // namespace htl

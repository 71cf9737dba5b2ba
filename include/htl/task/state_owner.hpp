// SPDX-License-Identifier: Apache-2.0
/// @file state_owner.hpp
/// @brief StateOwner: a module that remembers more than parameters and buffers, and names it, so that it is saved with the model.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/scalar_tensor.h>

#include <functional>
#include <string>

namespace htl::inline v0_1_0 {

/// @brief Is shown a field of somebody's state, and may copy into the tensor or replace it.
using FieldVisitor = std::function<void(const std::string& name, at::Tensor& field)>;

/// @brief A module whose state is more than its parameters and buffers; TrainingState saves it below the module's path, without a further line.
class StateOwner {
 public:
  virtual ~StateOwner() = default;
  /// @brief Shows every field once, always in the same order; an undefined tensor is one that was not needed yet.
  virtual void visit_state(const FieldVisitor& visit) = 0;
};

namespace detail {

/// Shows a whole number as an int64 scalar, and takes what the visitor left there.
template <class Visit>
void visit_number(Visit&& visit, const char* name, int64_t& number) {
  at::Tensor field = at::scalar_tensor(number, at::kLong);
  visit(name, field);
  number = field.item<int64_t>();
}

/// Gives a memory that was copied its own tensors.
template <class State>
void own_fields(State& state) {
  const auto own = [](const char*, at::Tensor& field) {
    if (field.defined()) field = field.clone();
  };
  if constexpr (requires { state.fields(own); }) state.fields(own);
}

}  // namespace detail
}  // namespace htl

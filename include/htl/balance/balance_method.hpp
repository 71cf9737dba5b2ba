// SPDX-License-Identifier: Apache-2.0
/// @file balance_method.hpp
/// @brief BalanceMethod: what a balancer's method is — a function from the tasks' losses to the weights of these losses.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/task/task_kind.hpp>
#include <htl/task/tensor_operators.hpp>
#include <htl/weighting/apply.hpp>

#include <ATen/core/Generator.h>
#include <ATen/ops/ones.h>

#include <concepts>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief The losses of a batch, and what else a balancer's method may read.
struct BalanceInput {
  /// [T] float64, without a graph. An inactive task's may be anything.
  at::Tensor losses;
  /// [T] bool on the losses' device: false for a task without a label in this batch. Undefined = all active.
  at::Tensor active = {};
  /// Each task's kind; empty where nobody knows them.
  std::vector<TaskKind> kinds = {};
  /// How many times the balancer was called before in training, from 0.
  int64_t step = 0;
  /// How many epochs were ended before, from 0.
  int64_t epoch = 0;
  /// The generator of methods that draw; nothing = LibTorch's default one.
  std::optional<at::Generator> generator = std::nullopt;

  /// @brief T.
  int64_t tasks() const { return losses.size(0); }
  /// @brief [T] float64: the losses, and `other` for inactive tasks.
  at::Tensor losses_or(double other) const { return active.defined() ? losses.masked_fill(active.logical_not(), other) : losses; }
  /// @brief [T] float64: 1 for active tasks, else 0.
  at::Tensor mask() const { return active.defined() ? active.to(losses.options()) : at::ones({tasks()}, losses.options()); }
};

/// @brief What a method says of a batch: task t's balanced loss is weights[t] · L_t + offsets[t], and the total is their sum unless it is given.
struct BalanceTerms {
  /// [T] float64: ∂total / ∂L_t. With a graph to what the method learns; constants else. An inactive task's is free: it does not count.
  at::Tensor weights;
  /// [T] float64: what is added, with its graph; undefined = 0.
  at::Tensor offsets = {};
  /// [] float64: the value of a total that is not Σ (weights · losses + offsets); undefined = it is.
  at::Tensor total = {};

  /// @brief Weights, and perhaps offsets and a total.
  BalanceTerms(at::Tensor all_weights, at::Tensor all_offsets = {}, at::Tensor value = {})  // NOLINT(google-explicit-constructor): a tensor of weights is all
      : weights(std::move(all_weights)), offsets(std::move(all_offsets)), total(std::move(value)) {}
};

/// @brief A method without memory: `weights(input) → [T] float64` on the losses' device, or BalanceTerms.
///
/// A pure function but for what it draws: finite for all finite losses, without synchronisation unless its documentation says so.
template <class B>
concept StatelessBalance = std::copy_constructible<B> && requires(const B& method, const BalanceInput& input) {
  { method.weights(input) } -> std::convertible_to<BalanceTerms>;
};

/// @brief A method with memory: `weights(input, state)`. `B::State` names its tensors once, by `fields(visit)`, as a StatefulWeighting's does.
template <class B>
concept StatefulBalance = std::copy_constructible<B> && std::default_initializable<typename B::State> &&
    requires(const B& method, const BalanceInput& input, typename B::State& state) {
  { method.weights(input, state) } -> std::convertible_to<BalanceTerms>;
  state.fields([](const char*, at::Tensor&) {});
};

/// @brief A method that learns a number a task by its loss: the balancer registers `initial_parameter(T)` [T] as the parameter `parameter_name()` and
/// calls `weights(input, parameter)`, or `weights(input, parameter, state)` with a State. What comes back has the graph to the parameter.
template <class B>
concept LearnedBalance = std::copy_constructible<B> && requires(const B& method, int64_t tasks) {
  { method.parameter_name() } -> std::convertible_to<std::string>;
  { method.initial_parameter(tasks) } -> std::same_as<at::Tensor>;
} &&(
    requires(const B& method, const BalanceInput& input, const at::Tensor& parameter) {
      { method.weights(input, parameter) } -> std::convertible_to<BalanceTerms>;
    } ||
    requires(const B& method, const BalanceInput& input, const at::Tensor& parameter, typename B::State& state) {
      { method.weights(input, parameter, state) } -> std::convertible_to<BalanceTerms>;
      state.fields([](const char*, at::Tensor&) {});
    });

/// @brief Whatever balances losses. Adding one is adding one file in balance/.
///
/// One that takes logarithms or roots says by `double least_loss() const` below which loss it has no meaning: a Balancer refuses less on the CPU.
template <class B>
concept BalanceMethod = StatelessBalance<B> || StatefulBalance<B> || LearnedBalance<B>;

/// @brief A method that hears the losses after the step (FAMO's kind): `observe(losses [T] float64, state)`.
template <class B>
concept BalanceObserver = BalanceMethod<B> && requires(const B& method, const at::Tensor& losses, typename B::State& state) {
  method.observe(losses, state);
};

/// @brief A method whose memory closes with each epoch (DWA's kind): `end_epoch(state)`.
template <class B>
concept EpochBalance = BalanceMethod<B> && requires(const B& method, typename B::State& state) {
  method.end_epoch(state);
};

namespace detail {

/// Below which loss a method has no meaning; −∞ where it says nothing of it.
template <class B>
double least_loss(const B& method) {
  if constexpr (requires { method.least_loss(); }) return method.least_loss();
  return -std::numeric_limits<double>::infinity();
}

/// BalanceMethod for templates that should say what a type lacks.
template <class B>
struct CheckedBalance {
  using Method = B;
  static_assert(BalanceMethod<B>,
                "expected a BalanceMethod: weights(const BalanceInput&) const that gives [T] float64 or BalanceTerms; with a State also State&");
  // clang-format off
  static_assert(!requires { &B::observe; } || BalanceObserver<B>,
                "expected a BalanceObserver: a method with a State and observe(const at::Tensor& losses, State&) const; this one's would not be heard");
  static_assert(!requires { &B::end_epoch; } || EpochBalance<B>,
                "expected an EpochBalance: a method with a State and end_epoch(State&) const; this one's would not be called");
  // clang-format on
};

/// Where the memory may take up a task's loss: it is active, and its loss is finite.
inline at::Tensor taking_part(const BalanceInput& input) {
  const at::Tensor finite = input.losses.isfinite();
  return input.active.defined() ? finite.logical_and(input.active) : finite;
}

}  // namespace detail

/// @brief What a method remembers between calls; empty for methods without memory.
template <BalanceMethod B>
using BalanceMemory = decltype(detail::initial_state(std::declval<const B&>()));

/// @brief What a method says of a batch, whatever its kind.
/// @param method the method
/// @param input the losses
/// @param parameter [T] what a LearnedBalance learns; not read by others
/// @param memory what it remembers; not read by methods without memory
template <BalanceMethod B>
BalanceTerms balance(const B& method, const BalanceInput& input, const at::Tensor& parameter, BalanceMemory<B>& memory) {
  if constexpr (LearnedBalance<B>) {
    if constexpr (requires { method.weights(input, parameter, memory); }) {
      return method.weights(input, parameter, memory);
    } else {
      return method.weights(input, parameter);
    }
  } else if constexpr (StatefulBalance<B>) {
    return method.weights(input, memory);
  } else {
    return method.weights(input);
  }
}
/// @brief The same for a first batch: `htl::balance(htl::GeometricMeanBalance{}, {.losses = losses}).weights`.
template <BalanceMethod B>
BalanceTerms balance(const B& method, const BalanceInput& input) {
  BalanceMemory<B> memory = detail::initial_state(method);
  at::Tensor parameter;
  if constexpr (LearnedBalance<B>) parameter = method.initial_parameter(input.tasks());
  return balance(method, input, parameter, memory);
}

}  // namespace htl

// SPDX-License-Identifier: Apache-2.0
/// @file task_gradients.hpp
/// @brief GradientAggregator: a method that sees the task gradients themselves, number by number, where a Gramian is not enough.
#pragma once

#include <htl/weighting/weighting.hpp>

#include <string>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief The T task gradients on everything that the tasks share, tensor by tensor.
struct TaskGradients {
  /// @brief One shared tensor: a parameter, or the touched rows of a table.
  struct Part {
    /// Of the parameter or table.
    std::string name;
    /// [A, T, C]: C numbers a task in each of A rows. A parameter is one row, A = 1 and C = its numel. float32 or float64; not to be changed in place.
    at::Tensor values;
    /// [A] int64: which rows of the table these are, each once. Undefined: all of them, in order (a parameter).
    at::Tensor rows = {};
    /// [A] bool, CUDA only: slots in use; an unused slot holds row 0 and zeros. Undefined = all.
    at::Tensor valid = {};
    /// The number of rows of the whole table; 1 for a parameter. A method that remembers something for each number keeps [total_rows, …, C].
    int64_t total_rows = 1;
    /// Whether the numbers belong to this batch's samples (a split representation): in the next step they are others, and nothing of them can be remembered.
    bool of_batch = false;
  };
  /// Always the same tensors in the same order, step after step.
  std::vector<Part> parts;
  /// The Gramian of all parts as one vector, losses, active tasks, generator.
  TaskGramian gramian;
};

/// @brief What a GradientAggregator makes of task gradients: the gradient of each part, [A, C].
struct SharedGradient {
  /// @brief The gradient of one shared tensor.
  struct Part {
    /// [A, C] in the type of the part's values.
    at::Tensor values;
    /// [A] int64 rows, as in TaskGradients::Part; a method with a memory may write rows that this batch did not touch.
    at::Tensor rows = {};
    /// [A] bool, as in TaskGradients::Part.
    at::Tensor valid = {};
  };
  /// One for each part of the task gradients.
  std::vector<Part> parts;
  /// [T] float64 where the gradient is Σ w_t G_t, or what comes nearest to it, for the report; undefined where there is nothing of the kind.
  at::Tensor weights = {};
};

/// @brief An aggregator without memory: `aggregate(gradients) → SharedGradient`. No synchronisation on CUDA unless its documentation says so.
template <class M>
concept StatelessAggregator = std::copy_constructible<M> && requires(const M& method, const TaskGradients& gradients) {
  { method.aggregate(gradients) } -> std::same_as<SharedGradient>;
};
/// @brief An aggregator with memory: `aggregate(gradients, state)`; `M::State` names its tensors as a StatefulWeighting's does.
template <class M>
concept StatefulAggregator = std::copy_constructible<M> && std::default_initializable<typename M::State> &&
    requires(const M& method, const TaskGradients& gradients, typename M::State& state) {
  { method.aggregate(gradients, state) } -> std::same_as<SharedGradient>;
  state.fields([](const char*, at::Tensor&) {});
};
/// @brief A method that sees the task gradients themselves (GradDrop, TrimmedMean, …).
template <class M>
concept GradientAggregator = StatelessAggregator<M> || StatefulAggregator<M>;

namespace detail {
/// Stands in for the kind of method that a type is not.
struct SomeAggregator {
  SharedGradient aggregate(const TaskGradients& gradients) const;
};
template <class M>
concept SeesGradients = GradientAggregator<M> || requires {
  &M::aggregate;
};
template <class M>
struct MethodKinds : WeightingForms<M> {
  using Aggregator = SomeAggregator;
};
template <SeesGradients M>
struct MethodKinds<M> : WeightingForms<WeightingOfBothForms> {
  using Aggregator = M;
};
}  // namespace detail

/// @brief Whatever combines task gradients: a GradientAggregator if it has a member `aggregate`, else a GramianWeighting.
template <class M>
concept GradientMethod = requires {  // nested, as in GramianWeighting
  requires StatelessWeighting<typename detail::MethodKinds<M>::Stateless>;
  requires StatefulWeighting<typename detail::MethodKinds<M>::Stateful>;
  requires GradientAggregator<typename detail::MethodKinds<M>::Aggregator>;
};

/// @brief A method whose memory hears the losses after the step (FAMO's kind): `observe(losses [T] float64 after, state)`.
template <class M>
concept LossObserver = StatefulWeighting<M> && requires(const M& method, const at::Tensor& losses, typename M::State& state) {
  method.observe(losses, state);
};

namespace detail {
/// GradientMethod for templates that should say what a type lacks of the kind of method that it is: of a concept with nested ones a compiler names only these.
template <class M>
struct Checked {
  using Method = M;
  static_assert(StatelessWeighting<typename MethodKinds<M>::Stateless>, "expected a GradientMethod; this one has no State, so it is a StatelessWeighting");
  static_assert(StatefulWeighting<typename MethodKinds<M>::Stateful>, "expected a GradientMethod; this one has a State, so it is a StatefulWeighting");
  static_assert(GradientAggregator<typename MethodKinds<M>::Aggregator>, "expected a GradientMethod; this one has aggregate(), so it is a GradientAggregator");
  // clang-format off
  static_assert(!requires { &M::observe; } || LossObserver<M>,
                "expected a LossObserver: a weighting with a State and observe(const at::Tensor& losses, State&) const; this one's would not be heard");
  // clang-format on
};
}  // namespace detail

/// @brief A weighting that wants the task gradients of several independent batches: `batches()` = 2 or 3 (MoDo, SDMGrad). It finds G_s(batch 1) · G_t(batch 2)
/// in TaskGramian::cross; its weights apply to the last batch.
template <class M>
concept BatchesWeighting = GramianWeighting<M> && requires(const M& method) {
  { method.batches() } -> std::convertible_to<int64_t>;
};

}  // namespace htl

// SPDX-License-Identifier: Apache-2.0
/// @file weighting.hpp
/// @brief GramianWeighting: what a gradient method is — a small function from the task gradients' Gramian to weights.
#pragma once

#include <htl/task/named.hpp>

#include <ATen/core/Generator.h>

#include <concepts>
#include <optional>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief The inner products of the task gradients on the shared parameters, and what else a method may read.
struct TaskGramian {
  /// [T, T] float64, symmetric positive semi-definite: K_st = G_s · G_t.
  at::Tensor matrix;
  /// [T] bool on the matrix's device: false for a task without a label in this batch, or in one of several batches. Undefined = all active.
  at::Tensor active = {};
  /// [T, T] float64: G_s of a first batch · G_t of a second one, for methods that ask for several batches; undefined else.
  at::Tensor cross = {};
  /// Positions of the core tasks.
  std::vector<int64_t> cores = {};
  /// For each task the core tasks that it precedes in the task graph; empty = every core.
  std::vector<std::vector<int64_t>> cores_after = {};
  /// [T] float64 the losses; undefined where nobody knows them.
  at::Tensor losses = {};
  /// How many times weights were asked before, from 0.
  int64_t step = 0;
  /// The generator of methods that draw; nothing = LibTorch's default one.
  std::optional<at::Generator> generator = std::nullopt;

  /// @brief T.
  int64_t tasks() const { return matrix.size(0); }
};

/// @brief A method without memory: `weights(gramian) → [T] float64` on the matrix's device; the shared gradient is Σ w_t G_t.
///
/// A pure function but for what it draws from the Gramian's generator: finite for every finite Gramian, without synchronisation on CUDA unless its
/// documentation says so; an inactive task's weight is free: it does not count.
template <class W>
concept StatelessWeighting = std::copy_constructible<W> && requires(const W& method, const TaskGramian& gramian) {
  { method.weights(gramian) } -> std::same_as<at::Tensor>;
};

/// @brief A method with memory: `W::State` is default-constructible and names its tensors once, by `fields(visit)` that calls
/// `visit("name", tensor)` for each; from that alone it is saved, loaded, reset and moved. `weights(gramian, state) → [T]`.
template <class W>
concept StatefulWeighting = std::copy_constructible<W> && std::default_initializable<typename W::State> &&
    requires(const W& method, const TaskGramian& gramian, typename W::State& state) {
  { method.weights(gramian, state) } -> std::same_as<at::Tensor>;
  state.fields([](const char*, at::Tensor&) {});
};

namespace detail {
/// Has both forms; stands in for the form that a method does not have.
struct WeightingOfBothForms {
  struct State {
    void fields(auto&&) {}
  };
  at::Tensor weights(const TaskGramian& gramian) const;
  at::Tensor weights(const TaskGramian& gramian, State& state) const;
};
template <class W>
struct WeightingForms {
  using Stateless = W;
  using Stateful = WeightingOfBothForms;
};
template <class W>
  requires requires { typename W::State; }
struct WeightingForms<W> {
  using Stateless = WeightingOfBothForms;
  using Stateful = W;
};
}  // namespace detail

/// @brief A gradient method: with memory if it has a type `State`, else without. Adding one is adding one file in weighting/.
template <class W>
concept GramianWeighting = requires {  // nested: asked in one expression, GCC 12 may lose what W::Stateful::State stands for
  requires StatelessWeighting<typename detail::WeightingForms<W>::Stateless>;
  requires StatefulWeighting<typename detail::WeightingForms<W>::Stateful>;
};

}  // namespace htl

// SPDX-License-Identifier: Apache-2.0
/// @file method_state.hpp
/// @brief MethodState: a gradient method with what it remembers, as backward() sees it, whatever its kind.
#pragma once

#include <htl/gradient/parts.hpp>
#include <htl/task/state_owner.hpp>
#include <htl/weighting/apply.hpp>

#include <torch/csrc/autograd/function.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief Over what a method forms one Gramian and remembers one state.
enum class GradientScope {
  whole,   ///< everything shared is one vector
  module,  ///< each thing that was named in shared(), each table and each split representation for itself
  tensor   ///< each parameter and each table for itself
};

namespace detail {

class ForkCall;

/// Earlier micro-batches: task gradients, tasks that had a label in one of them, sums of the losses.
struct Accumulated {
  std::vector<SharedPart> parts;
  at::Tensor active;
  at::Tensor losses;
};

/// What backward() knows of a fork, whatever its method.
class ForkState {
 public:
  virtual ~ForkState() = default;
  virtual at::Tensor weights(size_t group, const TaskGramian& gramian) = 0;
  virtual SharedGradient aggregate(size_t group, const TaskGradients& gradients) = 0;
  virtual bool sees_gradients() const = 0;
  /// How many batches the method wants for one step.
  virtual int64_t batches() const = 0;

  std::vector<std::string> names;
  std::vector<int64_t> cores;
  std::vector<std::vector<int64_t>> cores_after;
  GradientScope scope = GradientScope::whole;
  int64_t step = 0;
  std::optional<at::Generator> generator;
  std::vector<std::pair<std::weak_ptr<torch::autograd::Node>, c10::weak_intrusive_ptr<ForkCall>>> calls;  // whose graphs are alive
  Accumulated accumulated;
};

template <GradientMethod W>
class MethodState final : public ForkState {
 public:
  explicit MethodState(W configuration) : method(std::move(configuration)) { forget(); }

  at::Tensor weights(size_t group, const TaskGramian& gramian) override {
    if constexpr (GramianWeighting<W>) {
      return htl::weights(method, gramian, memory(group));
    } else {
      HTL_CHECK_STATE(false, "htl::GradientFork: this method has no weights: it sees the task gradients themselves");
    }
  }
  SharedGradient aggregate(size_t group, const TaskGradients& gradients) override { return htl::aggregate(method, gradients, memory(group)); }
  bool sees_gradients() const override {
    if constexpr (requires { method.sees_gradients(); }) {
      return method.sees_gradients();
    } else {
      return GradientAggregator<W>;
    }
  }
  int64_t batches() const override {
    if constexpr (requires { method.batches(); }) {
      return method.batches();
    } else {
      return 1;
    }
  }
  void observe(const at::Tensor& losses) requires LossObserver<W> {
    for (MethodMemory<W>& own : memories) method.observe(losses, own);
  }

  /// Shows the fields of each group's memory; with one group for all under their own names.
  template <class Visit>
  void fields(Visit&& visit) {
    if constexpr (requires { typename W::State; }) {
      if (scope == GradientScope::whole) {
        memories.front().fields(visit);
        return;
      }
      auto groups = static_cast<int64_t>(memories.size());
      visit_number(visit, "groups", groups);
      HTL_CHECK(groups >= 1 && groups <= 1'000'000, "htl::GradientFork: expected the memories of at least one group, got ", groups);
      memory(static_cast<size_t>(groups) - 1);
      memories.resize(static_cast<size_t>(groups), initial_state(method));
      for (size_t g = 0; g < memories.size(); ++g)
        memories[g].fields([&](const auto& name, at::Tensor& field) { visit((std::to_string(g) + "/" + name).c_str(), field); });
    }
  }
  /// Begins anew.
  void forget() {
    memories.clear();
    memories.push_back(initial_state(method));
    step = 0;
    accumulated = {};
  }

  W method;

 private:
  MethodMemory<W>& memory(size_t group) {
    while (memories.size() <= group) memories.push_back(initial_state(method));
    return memories[group];
  }

  std::vector<MethodMemory<W>> memories;
};

}  // namespace detail
}  // namespace htl

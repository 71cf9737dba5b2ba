// SPDX-License-Identifier: Apache-2.0
/// @file method_state.hpp
/// @brief MethodState: a gradient method with what it remembers, as backward() sees it, whatever its kind.
#pragma once

#include <htl/gradient/parts.hpp>
#include <htl/task/state_owner.hpp>
#include <htl/weighting/apply.hpp>
#include <htl/weighting/memory.hpp>

#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/function.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
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
  /// How often it took its fallback, over all groups; undefined where it counts none.
  virtual at::Tensor fallbacks() const = 0;
  /// Whether it remembers more than that.
  virtual bool remembers() = 0;
  /// How many memories it has, one a group; 0 before it was asked.
  virtual size_t memories() const = 0;

  std::vector<std::string> names;
  std::vector<int64_t> cores;
  std::vector<std::vector<int64_t>> cores_after;
  GradientScope scope = GradientScope::whole;
  int64_t step = 0;
  std::optional<at::Generator> generator;
  std::vector<std::pair<std::weak_ptr<torch::autograd::Node>, c10::weak_intrusive_ptr<ForkCall>>> calls;  // whose graphs are alive
  Accumulated accumulated;
  std::vector<std::string> known_parts;  // names and shapes of what the memory is of
};

/// Tensors of one type and any shapes as one flat tensor and their shapes [G, 1 + D]: dimensions (−1: undefined), sizes.
inline std::pair<at::Tensor, at::Tensor> pack_tensors(const std::vector<at::Tensor>& tensors) {
  int64_t dimensions = 0;
  std::vector<at::Tensor> flat;
  for (const at::Tensor& tensor : tensors) {
    if (!tensor.defined()) continue;
    dimensions = std::max(dimensions, tensor.dim());
    flat.push_back(tensor.reshape({-1}));
  }
  at::Tensor shapes = at::zeros({static_cast<int64_t>(tensors.size()), 1 + dimensions}, at::kLong);
  auto* to = shapes.mutable_data_ptr<int64_t>();
  for (const at::Tensor& tensor : tensors) {
    to[0] = tensor.defined() ? tensor.dim() : -1;
    for (int64_t d = 0; tensor.defined() && d < tensor.dim(); ++d) to[1 + d] = tensor.size(d);
    to += 1 + dimensions;
  }
  return {flat.empty() ? at::zeros({0}, at::kDouble) : at::cat(flat), std::move(shapes)};
}
/// What pack_tensors() packed.
inline std::vector<at::Tensor> unpack_tensors(const at::Tensor& flat, const at::Tensor& shapes) {
  const at::Tensor table = shapes.to(at::kCPU, at::kLong).contiguous();
  std::vector<at::Tensor> result;
  int64_t first = 0;
  for (int64_t g = 0; g < table.size(0); ++g) {
    const int64_t* const row = table.const_data_ptr<int64_t>() + g * table.size(1);
    if (row[0] < 0) {
      result.emplace_back();
      continue;
    }
    HTL_CHECK(row[0] < table.size(1), "htl::GradientFork: the state's shapes are damaged");
    const at::IntArrayRef sizes(row + 1, static_cast<size_t>(row[0]));
    const int64_t count = c10::multiply_integers(sizes);
    HTL_CHECK(count >= 0 && first + count <= flat.numel(), "htl::GradientFork: the state has fewer numbers than its shapes say");
    result.push_back(flat.narrow(0, first, count).view(sizes).clone());
    first += count;
  }
  return result;
}

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
  at::Tensor fallbacks() const override {
    at::Tensor sum;
    for (const MethodMemory<W>& own : memories_)
      if (const at::Tensor count = fallbacks_of(own); count.defined()) sum = sum.defined() ? sum + count : count;
    return sum;
  }
  bool remembers() override {
    if constexpr (requires { typename W::State; }) {
      bool result = false;
      if (sees_gradients()) {  // whether it is one that remembers: to show what costs
        MethodMemory<W> fresh = initial_state(method);
        fresh.fields([&](const auto&, at::Tensor&) { result = true; });
      } else {
        for (MethodMemory<W>& own : memories_)
          own.fields([&](std::string_view name, at::Tensor& field) { result = result || (field.defined() && !name.ends_with("fallbacks")); });
      }
      return result;
    } else {
      return false;
    }
  }
  size_t memories() const override { return asked_ ? memories_.size() : 0; }
  void observe(const at::Tensor& losses) requires LossObserver<W> {
    for (MethodMemory<W>& own : memories_) method.observe(losses, own);
  }

  /// Shows the fields of the memory. With several groups each field is one tensor of all groups' numbers and one of their shapes: how many groups there are is
  /// only known once the fork was asked, and who loads a state wants to know its fields before.
  template <class Visit>
  void fields(Visit&& visit) {
    if constexpr (requires { typename W::State; }) {
      if (scope == GradientScope::whole) {
        memories_.front().fields(visit);
      } else {
        fields_of_groups(visit);
      }
    }
  }
  /// Begins anew.
  void forget() {
    memories_.clear();
    memories_.push_back(initial_state(method));
    asked_ = false;
    step = 0;
    accumulated = {};
    known_parts.clear();
  }

  W method;

 private:
  MethodMemory<W>& memory(size_t group) {
    asked_ = true;
    while (memories_.size() <= group) memories_.push_back(initial_state(method));
    return memories_[group];
  }

  /// The fields of one memory, in order. Copies: a field may be a tensor that is only made to be shown (detail::visit_number).
  static std::vector<std::pair<std::string, at::Tensor>> shown(MethodMemory<W>& memory) {
    std::vector<std::pair<std::string, at::Tensor>> result;
    memory.fields([&](const std::string& name, at::Tensor& field) { result.emplace_back(name, field); });
    return result;
  }
  template <class Visit>
  void fields_of_groups(Visit&& visit) {
    std::vector<std::vector<std::pair<std::string, at::Tensor>>> before;
    for (MethodMemory<W>& memory : memories_) before.push_back(shown(memory));
    const size_t count = before.front().size();
    std::vector<at::Tensor> numbers, shapes;
    bool changed = false;
    for (size_t f = 0; f < count; ++f) {
      std::vector<at::Tensor> of_groups;
      for (const auto& of_group : before) of_groups.push_back(of_group[f].second);
      auto [packed, sizes] = asked_ ? pack_tensors(of_groups) : std::pair<at::Tensor, at::Tensor>();
      for (auto& [part, suffix] : {std::pair<at::Tensor*, const char*>(&packed, ""), {&sizes, ".shapes"}}) {
        const at::Tensor old = *part;
        const int64_t version = old.defined() ? old._version() : 0;
        visit((before.front()[f].first + suffix).c_str(), *part);
        changed = changed || !old.is_same(*part) || (old.defined() && old._version() != version);
      }
      numbers.push_back(packed);
      shapes.push_back(sizes);
    }
    if (!changed) return;
    std::vector<std::vector<at::Tensor>> after;  // [fields][groups]
    for (size_t f = 0; f < count; ++f) {
      after.push_back(shapes[f].defined() ? unpack_tensors(numbers[f], shapes[f]) : std::vector<at::Tensor>());
      HTL_CHECK(after[f].size() == after.front().size(), "htl::GradientFork: the state's field \"", before.front()[f].first, "\" is of ", after[f].size(),
                " groups, the first one of ", after.front().size());
    }
    asked_ = count > 0 && !after.front().empty();
    memories_.assign(asked_ ? after.front().size() : 1, initial_state(method));
    for (size_t g = 0; asked_ && g < memories_.size(); ++g) {
      size_t f = 0;
      memories_[g].fields([&](const auto&, at::Tensor& field) { field = after[f++].at(g); });
    }
  }

  std::vector<MethodMemory<W>> memories_;
  bool asked_ = false;
};

}  // namespace detail
}  // namespace htl

// SPDX-License-Identifier: Apache-2.0
/// @file fork.hpp
/// @brief GradientFork: one shared input, T views of it, and a method that combines the T gradients which come back.
#pragma once

#include <htl/gradient/method_state.hpp>
#include <htl/gradient/report.hpp>
#include <htl/task/task_set.hpp>

#include <ATen/ops/stack.h>
#include <torch/nn/cloneable.h>

#include <cmath>
#include <memory>
#include <ostream>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

namespace detail {

/// One split: what its node needs in backward. View (t, i) — task t, lookup i — is output t · n + i of the node.
class ForkCall : public torch::CustomClassHolder {
 public:
  int64_t tasks = 0;
  std::vector<c10::intrusive_ptr<LookupData>> lookups;  // row form
  at::Tensor base;                                      // representation form
  int64_t version = 0;                                  // of the base's data when it was split
  bool used = false;                                    // its gradient was emitted

  // set by backward() for the duration of one pass
  bool armed = false;
  std::vector<int64_t> task_of_view;
  std::vector<std::vector<at::Tensor>> collected;  // [T][n]

  int64_t inputs() const { return base.defined() ? 1 : static_cast<int64_t>(lookups.size()); }

  /// The fork knows its calls weakly: what they hold goes with the graph, not with the fork's list.
  void release_resources() override {
    lookups.clear();
    base = at::Tensor();
    collected.clear();
  }
};

struct ForkFunction : torch::autograd::Function<ForkFunction> {
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* context, at::TensorList /*differentiable*/,
                                                const std::vector<at::Tensor>& values, const c10::intrusive_ptr<ForkCall>& call) {
    context->set_materialize_grads(false);
    context->saved_data["call"] = c10::IValue::make_capsule(call);
    torch::autograd::variable_list views;
    for (int64_t t = 0; t < call->tasks; ++t)
      for (const at::Tensor& value : values) views.push_back(value.view(value.sizes()));
    return views;
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, const torch::autograd::variable_list& gradients) {
    refuse_second_derivative("htl::GradientFork");
    const auto call = c10::static_intrusive_pointer_cast<ForkCall>(context->saved_data["call"].toCapsule());
    HTL_CHECK_STATE(call->armed,
                    "htl::GradientFork: a plain backward() reached the fork, which could only add the task gradients up; "
                    "call htl::backward(losses, fork) instead");
    const int64_t inputs = call->inputs();
    for (size_t view = 0; view < gradients.size(); ++view) {
      if (!gradients[view].defined()) continue;
      const int64_t task = call->task_of_view[view];
      HTL_CHECK_STATE(task >= 0,
                      "htl::GradientFork: a gradient came back through a view that no loss was seen to reach; "
                      "change no part of the graph between the forward and htl::backward()");
      at::Tensor& sum = call->collected[static_cast<size_t>(task)][view % static_cast<size_t>(inputs)];
      sum = sum.defined() ? sum + gradients[view] : gradients[view];
    }
    return torch::autograd::variable_list(static_cast<size_t>(inputs) + 2);  // backward() goes on below by itself
  }
};

}  // namespace detail

/// @brief Splits what tasks share into one view a task, and lets a method weigh the task gradients that come back.
///
/// *Row form*, `split(lookup)`: stands directly on table rows. Backward groups the T gradients by row once, forms the Gramian of the **rows** (entries that
/// hit the same row add up first, so it is the Gramian of the table's true gradients), asks the method, and writes Σ w_t G_t as the table's RowGradient.
/// *Representation form*, `split(tensor)`: what the tensor comes from is shared. With it named in backward() (`htl::shared(*bottom, tables)`) the Gramian is
/// that of the true gradients of those parameters and rows, by T products below the tensor. Without, it is the Gramian of the gradients **at the tensor**, the
/// approximation known as MGDA-UB (Sener & Koltun 2018), and one backward runs below with Σ w_t D_t.
///
/// A fork may split several times in one forward — tables and a representation, or the levels of PLE, one on top of the other with shared() — and all of it is
/// one vector with one Gramian, or several by `scope`. Views share the storage of what was split; LibTorch refuses to change them in place. Differentiate with
/// `htl::backward(losses, fork)` only: a plain `.backward()` is refused with a sentence. Under no-grad and inference mode, or where nothing shared requires a
/// gradient, split is the identity.
/// **Memory**: T gradients of the split values, and T gradients of the touched rows and named parameters. **Clone**: configuration and the method's state, not
/// pending graphs.
/// @tparam W the method, a GradientMethod: a GramianWeighting or a GradientAggregator
template <GradientMethod W>
class GradientForkImpl : public torch::nn::Cloneable<GradientForkImpl<W>>, public StateOwner {
 public:
  /// @brief A fork for the tasks of a set.
  /// @param tasks gives T, names, core tasks and their order
  /// @param method the method's configuration
  /// @param scope what the method sees as one vector
  explicit GradientForkImpl(const TaskSet& tasks, W method = {}, GradientScope scope = GradientScope::whole)
      : state_(std::make_shared<detail::MethodState<W>>(std::move(method))) {
    state_->names = tasks.names();
    state_->cores = tasks.cores();
    state_->scope = scope;
    for (int64_t t = 0; t < tasks.size(); ++t) {
      std::vector<int64_t> after;
      for (const int64_t core : state_->cores)
        if (tasks.precedes(t, core)) after.push_back(core);
      state_->cores_after.push_back(std::move(after));
    }
  }

  /// @brief Gives a clone its own state; nothing is registered.
  void reset() override {
    auto own = std::make_shared<detail::MethodState<W>>(*state_);
    own->calls.clear();
    own->accumulated = {};
    if (own->generator) own->generator = own->generator->clone();
    detail::own_fields(*own);
    state_ = std::move(own);
  }
  /// @brief Prints "htl::GradientFork(tasks=3)".
  void pretty_print(std::ostream& stream) const override { stream << "htl::GradientFork(tasks=" << state_->names.size() << ")"; }

  /// @brief Row form over one lookup: T views [B, D], in the order of the TaskSet.
  std::vector<at::Tensor> split(const Lookup& lookup) {
    std::vector<at::Tensor> result;
    for (std::vector<at::Tensor>& views : split(std::vector<Lookup>{lookup})) result.push_back(std::move(views.front()));
    return result;
  }
  /// @brief Row form over several lookups (of one or several tables, of any widths) as one shared vector: [T][n] views. Of a frozen table every view is its
  /// plain values, and the method sees nothing of it.
  /// @throws c10::ValueError without lookups, or for two RowTables made over one weight
  std::vector<std::vector<at::Tensor>> split(const std::vector<Lookup>& lookups) {
    HTL_CHECK(!lookups.empty(), "htl::GradientFork: expected at least one lookup to split, got none");
    std::vector<at::Tensor> values, weights;
    auto call = c10::make_intrusive<detail::ForkCall>();
    std::vector<std::vector<at::Tensor>> result(static_cast<size_t>(tasks()));
    for (const Lookup& lookup : lookups) {
      for (std::vector<at::Tensor>& of_task : result) of_task.push_back(lookup.raw());
      if (!lookup.requires_grad()) continue;
      values.push_back(lookup.raw());
      weights.push_back(lookup.table().weight());
      for (const auto& other : call->lookups)
        HTL_CHECK(other->table.is_same(lookup.table()) || !other->table.weight().is_same(lookup.table().weight()), "htl::GradientFork: \"", other->table.name(),
                  "\" and \"", lookup.table().name(),
                  "\" are two tables over one weight, each with its own row gradient; copy one RowTable so that both lookups share it");
      call->lookups.push_back(lookup.data());
    }
    if (weights.empty()) return result;
    const std::vector<at::Tensor> views = apply(call, weights, values);
    size_t next = 0;
    for (std::vector<at::Tensor>& of_task : result)
      for (size_t i = 0; i < lookups.size(); ++i)
        if (lookups[i].requires_grad()) of_task[i] = views[next++];
    return result;
  }
  /// @brief Representation form: T views of a tensor [B, …] that everything shared leads to.
  std::vector<at::Tensor> split(const at::Tensor& representation) {
    HTL_CHECK(representation.defined(), "htl::GradientFork: expected a tensor to split, got an undefined one");
    if (!c10::GradMode::is_enabled() || !representation.requires_grad()) return std::vector<at::Tensor>(static_cast<size_t>(tasks()), representation);
    auto call = c10::make_intrusive<detail::ForkCall>();
    call->base = representation;
    call->version = representation._version();
    return apply(call, {representation}, {representation.detach()});
  }

  /// @brief T.
  int64_t tasks() const { return static_cast<int64_t>(state_->names.size()); }
  /// @brief The method's configuration; may be changed between steps.
  W& method() { return state_->method; }
  /// @brief How many times the method was asked.
  int64_t& step() { return state_->step; }
  /// @brief The generator of methods that draw; nothing = LibTorch's default.
  std::optional<at::Generator>& generator() { return state_->generator; }
  /// @brief Visits the method's memory, `visit("name", tensor)`: for saving and loading.
  template <class Visit>
  void fields(Visit&& visit) {
    state_->fields(std::forward<Visit>(visit));
  }
  /// @brief Shows the step, the generator's state where there is one, and the method's memory: what a checkpoint of the model needs.
  /// @throws c10::Error between micro-batches that accumulate; save when the method was asked
  void visit_state(const FieldVisitor& visit) override {
    HTL_CHECK_STATE(state_->accumulated.parts.empty(),
                    "htl::GradientFork: its state can't be saved or loaded while micro-batches are accumulated; do it after the backward that asks the method");
    detail::visit_number(visit, "step", state_->step);
    if (state_->generator) {
      at::Tensor drawn = state_->generator->get_state();
      visit("generator", drawn);
      state_->generator->set_state(drawn);
    }
    state_->fields([&](const char* name, at::Tensor& field) { visit(name, field); });
  }
  /// @brief Forgets the method's memory, the step and accumulated micro-batches.
  void forget() { state_->forget(); }
  /// @brief Tells a method that wants them (FAMO's kind) the losses after the step, of the same batch: `fork->observe(loss(net(batch), batch.labels))`.
  ///
  /// The losses are read, not differentiated; compute them under no-grad.
  /// @throws c10::ValueError unless they are the fork's tasks' losses
  void observe(const TaskLosses& losses) requires LossObserver<W> {
    HTL_CHECK(losses.values.names() == state_->names, "htl::GradientFork: expected losses of the fork's tasks ", quoted(state_->names), ", got ",
              quoted(losses.values.names()));
    std::vector<at::Tensor> values;
    for (const auto& [name, loss] : losses.values) {
      values.push_back(loss.detach().reshape({}).to(at::kDouble));
      if (!values.back().is_cpu() || std::isfinite(values.back().item<double>())) continue;
      HTL_CHECK(losses.active.defined() && !losses.active[static_cast<int64_t>(values.size()) - 1].item<bool>(), "htl::GradientFork: the loss of task \"", name,
                "\" after the step is ", values.back().item<double>(),
                ", and the method would remember it; where a batch has no label of a task, say so by TaskLosses::active");
    }
    state_->observe(at::stack(values));
  }
  /// @brief What the method sees as one vector.
  GradientScope scope() const { return state_->scope; }
  /// @brief For backward().
  const std::shared_ptr<detail::MethodState<W>>& state() const { return state_; }

 private:
  std::vector<at::Tensor> apply(const c10::intrusive_ptr<detail::ForkCall>& call, const std::vector<at::Tensor>& differentiable,
                                const std::vector<at::Tensor>& values) {
    call->tasks = tasks();
    std::vector<at::Tensor> views = detail::ForkFunction::apply(at::TensorList(differentiable), values, call);
    std::erase_if(state_->calls, [](const auto& entry) { return entry.first.expired(); });
    state_->calls.emplace_back(views.front().grad_fn(), call);
    return views;
  }

  std::shared_ptr<detail::MethodState<W>> state_;
};

/// @brief Holder of GradientForkImpl, as LibTorch's modules have one; a member that is set later is declared `{nullptr}`.
///
/// `GradientFork<CoreTask> fork(tasks, {.alpha = 0.5});`
/// @tparam W the method, a GradientMethod
template <class W>
class GradientFork : public torch::nn::ModuleHolder<GradientForkImpl<typename detail::Checked<W>::Method>> {
 public:
  using torch::nn::ModuleHolder<GradientForkImpl<W>>::ModuleHolder;
  /// @brief The empty holder.
  GradientFork(std::nullptr_t) : torch::nn::ModuleHolder<GradientForkImpl<W>>(nullptr) {}  // NOLINT(google-explicit-constructor): as TORCH_MODULE
  /// @brief A fork for the tasks of a set.
  explicit GradientFork(const TaskSet& tasks, W method = {}, GradientScope scope = GradientScope::whole)
      : torch::nn::ModuleHolder<GradientForkImpl<W>>(std::make_shared<GradientForkImpl<W>>(tasks, std::move(method), scope)) {}
};

}  // namespace htl

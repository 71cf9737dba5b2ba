// SPDX-License-Identifier: Apache-2.0
/// @file balancer.hpp
/// @brief Balancer: weights of the tasks' losses, between the loss and the gradient method.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/balance/balanced_losses.hpp>
#include <htl/task/state_owner.hpp>
#include <htl/task/task_set.hpp>

#include <c10/core/DefaultDtype.h>
#include <c10/core/GradMode.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/pimpl.h>

#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief Makes balanced losses of a batch's losses: one scalar a task, same names and `active`, for any gradient method or a plain backward.
///
///     htl::Balancer<htl::UncertaintyBalance> balancer(tasks);
///     htl::TaskLosses losses = loss(net(batch), batch.labels);  // unweighted: what to report
///     htl::backward(balancer(losses), net->fork);               // the method sees the weighted ones
///     balancer->weights();                                      // [T], for the log
///
/// The balanced loss of task t is w_t L_t + c_t (BalanceTerms); d Σ / dθ is the gradient of the method's total, and the tasks' graphs stay apart, so that
/// htl::backward's one pass stays one. Learned numbers are ordinary parameters (`log_variance` [T]): give `balancer->parameters()` to an optimizer, best
/// without weight decay. What the method remembers, with step and epoch, is saved with the module by TrainingState; `to(dtype)` does not touch it, and it
/// follows the losses to their device.
///
/// **Inactive tasks** have weight 0, enter no mean, maximum or softmax, and neither memory nor gradient of a learned number hears of them. **In eval mode**
/// a call with losses remembers and counts nothing (observe() and end_epoch() do, as a forward for them may be in eval mode); random weights are drawn as ever.
/// **Device**: the losses'; on the CPU losses and weights that are not finite are refused, elsewhere there are no checks and no synchronisation. **Precision**:
/// weights in float64, balanced losses in the losses' type, float32 where that is narrower. **Cost** some 20 to 70 small operators: 20 to 70 µs with three
/// tasks, their backward included. **Clone**: a memory and parameters of its own.
/// @tparam B the method, a BalanceMethod
template <BalanceMethod B>
class BalancerImpl : public torch::nn::Cloneable<BalancerImpl<B>>, public StateOwner {
 public:
  /// @brief A balancer for the tasks of a set.
  /// @param tasks gives T, names and kinds
  /// @param method the method's configuration
  explicit BalancerImpl(const TaskSet& tasks, B method = {}) : method_(std::move(method)), memory_(detail::initial_state(method_)), names_(tasks.names()) {
    for (const TaskSpec& task : tasks) kinds_.push_back(task.kind());
    reset();
  }

  /// @brief Makes what the method learns anew, and gives a clone its own memory.
  void reset() override {
    memory_ = copy_of(memory_);
    if (generator_) generator_ = generator_->clone();
    parameter_ = at::Tensor();
    if constexpr (LearnedBalance<B>)
      if (const at::Tensor initial = initial_parameter(); initial.defined()) parameter_ = this->register_parameter(method_.parameter_name(), initial);
  }
  /// @brief Prints "htl::Balancer(tasks=3)".
  void pretty_print(std::ostream& stream) const override { stream << "htl::Balancer(tasks=" << names_.size() << ")"; }

  /// @brief The balanced losses.
  /// @param losses one number a task, names and order as in the TaskSet, with their graphs
  /// @throws c10::ValueError on other tasks or shapes, on the CPU for losses or weights that are not finite and for a loss below least_loss() (an active
  ///   task's); what the method throws.
  ///   Where the losses are refused, memory and step are as they were
  TaskLosses forward(const TaskLosses& losses) {
    const at::Tensor values = detail::read_losses(losses, names_, "");
    HTL_CHECK(!parameter_.defined() || parameter_.device() == values.device(), "htl::Balancer: its parameter is on ", parameter_.device(), ", the losses on ",
              values.device(), "; call balancer->to(device)");
    detail::check_least(detail::least_loss(method_), values, losses.active, names_);
    const BalanceInput input{.losses = values, .active = losses.active, .kinds = kinds_, .step = step_, .epoch = epoch_, .generator = generator_};
    BalanceTerms terms = at::Tensor();
    if (this->is_training()) {
      terms = balance(method_, input, parameter_, memory_);
    } else {
      BalanceMemory<B> scratch = copy_of(memory_);
      terms = balance(method_, input, parameter_, scratch);
    }
    detail::check_terms(terms, input, losses, names_);
    if (this->is_training()) ++step_;
    last_ = {terms.weights.detach(), terms.offsets.defined() ? terms.offsets.detach() : at::Tensor(), terms.total};
    last_losses_ = input.losses_or(0.0);
    return detail::balanced_losses(losses, terms);
  }

  /// @brief [T] float64: ∂total / ∂L_t at the last call, without a graph; 0 for inactive tasks.
  /// @throws c10::Error before the first call
  const at::Tensor& weights() const {
    check_called();
    return last_.weights;
  }
  /// @brief [] float64: the method's total at the last call, without a graph: the sum of the balanced losses, or the value of its own formula (geometric mean,
  /// STCH, …) of which they have the gradient.
  /// @throws c10::Error before the first call
  at::Tensor total() const {
    check_called();
    if (last_.total.defined()) return last_.total.detach();
    const at::Tensor sum = (last_.weights * last_losses_).sum();
    return last_.offsets.defined() ? sum + last_.offsets.sum() : sum;
  }

  /// @brief Tells a method that wants them (FAMO's kind) the losses after the step, of the same batch: `balancer->observe(loss(net(batch), batch.labels))`.
  ///
  /// They are the unweighted ones. They are read, not differentiated; compute them under no-grad.
  /// @throws c10::ValueError unless they are the balancer's tasks' losses, and on the CPU finite
  void observe(const TaskLosses& losses) requires BalanceObserver<B> { method_.observe(detail::read_losses(losses, names_, " after the step"), memory_); }
  /// @brief Ends an epoch: for methods with epochs (DWA, STCH's warm-up) and schedules by epoch. Others only count it.
  void end_epoch() {
    if constexpr (EpochBalance<B>) method_.end_epoch(memory_);
    ++epoch_;
  }

  /// @brief T.
  int64_t tasks() const { return static_cast<int64_t>(names_.size()); }
  /// @brief The method's configuration; may be changed between steps.
  B& method() { return method_; }
  /// @brief [T]: what the method learns; undefined where it learns nothing.
  const at::Tensor& parameter() const { return parameter_; }
  /// @brief How many times it was called in training.
  int64_t& step() { return step_; }
  /// @brief How many epochs were ended.
  int64_t& epoch() { return epoch_; }
  /// @brief The generator of methods that draw; nothing = LibTorch's default.
  std::optional<at::Generator>& generator() { return generator_; }
  /// @brief Visits the method's memory, `visit("name", tensor)`.
  template <class Visit>
  void fields(Visit&& visit) {
    if constexpr (requires { memory_.fields(visit); }) memory_.fields(visit);
  }
  /// @brief Shows step and epoch, the generator's state where there is one, and the method's memory: what a checkpoint of the model needs beside parameters.
  void visit_state(const FieldVisitor& visit) override {
    detail::visit_number(visit, "step", step_);
    detail::visit_number(visit, "epoch", epoch_);
    if (generator_) {
      at::Tensor drawn = generator_->get_state();
      visit("generator", drawn);
      generator_->set_state(drawn);
    }
    fields([&](const char* name, at::Tensor& field) { visit(name, field); });
  }
  /// @brief Begins anew: forgets the method's memory, step and epoch, and sets what is learned to its first value.
  void forget() {
    memory_ = detail::initial_state(method_);
    step_ = epoch_ = 0;
    last_ = at::Tensor();
    const c10::NoGradGuard no_grad;
    if (parameter_.defined()) parameter_.copy_(initial_parameter());
  }

 private:
  static BalanceMemory<B> copy_of(const BalanceMemory<B>& memory) {
    BalanceMemory<B> result = memory;
    detail::own_fields(result);
    return result;
  }
  at::Tensor initial_parameter() const {
    if constexpr (LearnedBalance<B>) {
      const at::Tensor initial = method_.initial_parameter(tasks());
      return initial.defined() ? initial.to(c10::get_default_dtype_as_scalartype()) : initial;
    } else {
      return {};
    }
  }
  void check_called() const { HTL_CHECK_STATE(last_.weights.defined(), "htl::Balancer: there are no weights before it is called with losses"); }

  B method_;
  BalanceMemory<B> memory_;
  std::vector<std::string> names_;
  std::vector<TaskKind> kinds_;
  int64_t step_ = 0, epoch_ = 0;
  std::optional<at::Generator> generator_;
  at::Tensor parameter_;
  BalanceTerms last_ = at::Tensor();
  at::Tensor last_losses_;
};

/// @brief Holder of BalancerImpl, as LibTorch's modules have one; a member that is set later is declared `{nullptr}`.
///
/// `Balancer<DWABalance> balancer(tasks, {.temperature = 2.0});`
/// @tparam B the method, a BalanceMethod
template <class B>
class Balancer : public torch::nn::ModuleHolder<BalancerImpl<typename detail::CheckedBalance<B>::Method>> {
 public:
  using torch::nn::ModuleHolder<BalancerImpl<B>>::ModuleHolder;
  /// @brief The empty holder.
  Balancer(std::nullptr_t) : torch::nn::ModuleHolder<BalancerImpl<B>>(nullptr) {}  // NOLINT(google-explicit-constructor): as TORCH_MODULE
  /// @brief A balancer for the tasks of a set.
  explicit Balancer(const TaskSet& tasks, B method = {})
      : torch::nn::ModuleHolder<BalancerImpl<B>>(std::make_shared<BalancerImpl<B>>(tasks, std::move(method))) {}
};

}  // namespace htl

// SPDX-License-Identifier: Apache-2.0
/// @file any_balance.hpp
/// @brief AnyBalance: any balancer's method as a value, for methods that are chosen at run time.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/balance/balance_method.hpp>
#include <htl/task/state_owner.hpp>
#include <htl/weighting/any_weighting.hpp>

#include <memory>
#include <string>
#include <utility>

namespace htl::inline v0_1_0 {

namespace detail {

/// Has a method's member functions. Asked before BalanceMethod, which asks for copies; see HasMethodMembers.
template <class B>
concept HasBalanceMembers = requires(const B& method, const BalanceInput& input) {
  method.weights(input);
}
|| requires(const B& method, const BalanceInput& input, const at::Tensor& parameter) { method.weights(input, parameter); }
|| requires(const B& method, const BalanceInput& input, typename B::State& state) { method.weights(input, state); }
|| requires(const B& method, const BalanceInput& input, const at::Tensor& parameter, typename B::State& state) { method.weights(input, parameter, state); };

/// Some balancer's method.
struct AnyBalanceMethod {
  AnyBalanceMethod() = default;
  AnyBalanceMethod(const AnyBalanceMethod&) = delete;
  AnyBalanceMethod(AnyBalanceMethod&&) = delete;
  AnyBalanceMethod& operator=(const AnyBalanceMethod&) = delete;
  AnyBalanceMethod& operator=(AnyBalanceMethod&&) = delete;
  virtual ~AnyBalanceMethod() = default;
  virtual std::unique_ptr<AnyBalanceMethod> clone() const = 0;
  virtual BalanceTerms weights(const BalanceInput& input, const at::Tensor& parameter, AnyWeightingState& state, const std::string& name) const = 0;
  virtual std::string parameter_name() const = 0;
  virtual at::Tensor initial_parameter(int64_t tasks) const = 0;
  virtual double least_loss() const = 0;
  virtual bool observes() const = 0;
  virtual void observe(const at::Tensor& losses, AnyWeightingState& state, const std::string& name) const = 0;
  virtual void end_epoch(AnyWeightingState& state, const std::string& name) const = 0;
  virtual AnyWeightingState initial_state() const = 0;
};

template <BalanceMethod B>
struct BalanceMemoryOf final : AnyMemory {
  explicit BalanceMemoryOf(BalanceMemory<B> value) : memory(std::move(value)) {}
  std::unique_ptr<AnyMemory> clone() const override {
    auto result = std::make_unique<BalanceMemoryOf>(memory);
    own_fields(result->memory);
    return result;
  }
  void fields(const std::function<void(const char*, at::Tensor&)>& visit) override {
    if constexpr (requires { memory.fields(visit); }) memory.fields(visit);
  }
  at::Tensor fallbacks() const override { return {}; }
  BalanceMemory<B> memory;
};

template <BalanceMethod B>
struct BalanceMethodOf final : AnyBalanceMethod {
  explicit BalanceMethodOf(B value) : method(std::move(value)) {}
  std::unique_ptr<AnyBalanceMethod> clone() const override { return std::make_unique<BalanceMethodOf>(method); }
  BalanceTerms weights(const BalanceInput& input, const at::Tensor& parameter, AnyWeightingState& state, const std::string& name) const override {
    return balance(method, input, parameter, memory_in(state, name));
  }
  std::string parameter_name() const override {
    if constexpr (LearnedBalance<B>) return method.parameter_name();
    return {};
  }
  at::Tensor initial_parameter(int64_t tasks) const override {
    if constexpr (LearnedBalance<B>) return method.initial_parameter(tasks);
    return {};
  }
  double least_loss() const override { return detail::least_loss(method); }
  bool observes() const override { return BalanceObserver<B>; }
  void observe(const at::Tensor& losses, AnyWeightingState& state, const std::string& name) const override {
    if constexpr (BalanceObserver<B>) method.observe(losses, memory_in(state, name));
  }
  void end_epoch(AnyWeightingState& state, const std::string& name) const override {
    if constexpr (EpochBalance<B>) method.end_epoch(memory_in(state, name));
  }
  AnyWeightingState initial_state() const override { return AnyWeightingState(std::make_unique<BalanceMemoryOf<B>>(detail::initial_state(method))); }

  BalanceMemory<B>& memory_in(AnyWeightingState& state, const std::string& name) const {
    if (state.empty()) state = initial_state();
    auto* const own = dynamic_cast<BalanceMemoryOf<B>*>(state.held());
    HTL_CHECK_STATE(own, "htl::AnyBalance: the state is the memory of another method than \"", name,
                    "\"; begin with initial_state() of this one, or call the balancer's forget()");
    return own->memory;
  }

  B method;
};

}  // namespace detail

/// @brief Any BalanceMethod: what a configuration file or a command line names, as one type.
///
///     htl::AnyBalance method = htl::DWABalance{};  // every method converts
///     method = htl::built_in_balancers().make("dwa", {{"temperature", 2.0}});
///     htl::Balancer<htl::AnyBalance> balancer(tasks, method);
///
/// It gives the bits that the method itself gives, and a balancer of it has the parameters and the memory of the method's own. A copy is deep. A call costs one
/// virtual call more; device, inactive tasks and errors are the method's.
class AnyBalance {
 public:
  /// @brief The held method's memory.
  using State = AnyWeightingState;

  /// @brief Holds a method.
  /// @param method any BalanceMethod
  /// @param name for sentences; empty = its type's name, as "htl::DWABalance"
  template <class B>
    requires(!std::same_as<B, AnyBalance>)
  &&detail::HasBalanceMembers<B>&& BalanceMethod<B>       // in this order: asking BalanceMethod<AnyBalance> here would ask itself
  AnyBalance(B method, std::string name = std::string())  // NOLINT(google-explicit-constructor): a method is an AnyBalance
      : held_(std::make_unique<detail::BalanceMethodOf<B>>(std::move(method))),
  name_(name.empty() ? detail::type_name<B>() : std::move(name)) {}
  /// @brief An independent copy.
  AnyBalance(const AnyBalance& other) : held_(other.held_->clone()), name_(other.name_) {}
  /// @brief Takes the other's method; the other can then only be assigned to.
  AnyBalance(AnyBalance&& other) noexcept = default;
  /// @brief An independent copy.
  AnyBalance& operator=(const AnyBalance& other) { return *this = AnyBalance(other); }
  /// @brief Takes the other's method; the other can then only be assigned to.
  AnyBalance& operator=(AnyBalance&& other) noexcept = default;
  ~AnyBalance() = default;

  /// @brief What it is called.
  const std::string& name() const { return name_; }
  /// @brief The same method under another name.
  AnyBalance named(std::string name) const {
    AnyBalance result = *this;
    result.name_ = std::move(name);
    return result;
  }

  /// @brief What the method says of a batch.
  /// @param input the losses
  /// @param parameter what it learns; not read by methods that learn nothing
  /// @param state its memory; an empty one becomes it
  /// @throws c10::Error with the memory of another method; what the method throws
  BalanceTerms weights(const BalanceInput& input, const at::Tensor& parameter, State& state) const { return held_->weights(input, parameter, state, name_); }
  /// @brief The name of what it learns; empty where it learns nothing.
  std::string parameter_name() const { return held_->parameter_name(); }
  /// @brief [T]: what it learns, at first; undefined where it learns nothing.
  at::Tensor initial_parameter(int64_t tasks) const { return held_->initial_parameter(tasks); }
  /// @brief Below which loss the method has no meaning; −∞ where it takes any.
  double least_loss() const { return held_->least_loss(); }
  /// @brief Whether the method wants to hear the losses after a step (BalanceObserver).
  bool observes() const { return held_->observes(); }
  /// @brief Tells the losses [T] float64 after a step to a BalanceObserver; other methods don't listen.
  void observe(const at::Tensor& losses, State& state) const { held_->observe(losses, state, name_); }
  /// @brief Closes an epoch in the memory of an EpochBalance.
  void end_epoch(State& state) const { held_->end_epoch(state, name_); }
  /// @brief The memory before the first step, with the method's fields, so that a checkpoint can be loaded into it.
  State initial_state() const { return held_->initial_state(); }

  /// @brief The method itself if it is a B, else nullptr. Its options may be changed there.
  template <class B>
  B* get_if() {
    auto* const held = dynamic_cast<detail::BalanceMethodOf<B>*>(held_.get());
    return held ? &held->method : nullptr;
  }
  /// @brief The method itself if it is a B, else nullptr.
  template <class B>
  const B* get_if() const {
    const auto* const held = dynamic_cast<const detail::BalanceMethodOf<B>*>(held_.get());
    return held ? &held->method : nullptr;
  }

 private:
  std::unique_ptr<detail::AnyBalanceMethod> held_;
  std::string name_;
};

}  // namespace htl

// SPDX-License-Identifier: Apache-2.0
/// @file any_weighting.hpp
/// @brief AnyWeighting: any gradient method as a value, for methods that are chosen at run time.
#pragma once

#include <htl/task/state_owner.hpp>
#include <htl/weighting/apply.hpp>
#include <htl/weighting/memory.hpp>

#include <c10/util/Type.h>

#include <functional>
#include <memory>
#include <string>
#include <typeinfo>
#include <utility>

namespace htl::inline v0_1_0 {

namespace detail {

/// "htl::Sum" for Sum: the type's name without the namespace of the version.
template <class M>
std::string type_name() {
  const std::string known = c10::demangle(typeid(NoMemory).name());  // "htl::VERSION::detail::NoMemory"
  const std::string version = known.substr(5, known.find("detail") - 5);
  std::string name = c10::demangle(typeid(M).name());
  for (size_t at = name.find(version); at != std::string::npos; at = name.find(version)) name.erase(at, version.size());
  return name;
}

/// Has a method's member functions. Asked before GradientMethod, which asks for copies: whether a class that takes an AnyWeighting can be copied must not
/// depend on whether it is a method, for which it would have to be copied.
template <class M>
concept HasMethodMembers = requires(const M& method, const TaskGramian& gramian) {
  method.weights(gramian);
}
|| requires(const M& method, const TaskGramian& gramian, typename M::State& state) { method.weights(gramian, state); }
|| requires(const M& method, const TaskGradients& gradients) { method.aggregate(gradients); }
|| requires(const M& method, const TaskGradients& gradients, typename M::State& state) { method.aggregate(gradients, state); };

/// Some method's memory.
struct AnyMemory {
  AnyMemory() = default;
  AnyMemory(const AnyMemory&) = delete;
  AnyMemory(AnyMemory&&) = delete;
  AnyMemory& operator=(const AnyMemory&) = delete;
  AnyMemory& operator=(AnyMemory&&) = delete;
  virtual ~AnyMemory() = default;
  virtual std::unique_ptr<AnyMemory> clone() const = 0;
  virtual void fields(const std::function<void(const char*, at::Tensor&)>& visit) = 0;
  virtual at::Tensor fallbacks() const = 0;
};

template <GradientMethod M>
struct MemoryOf final : AnyMemory {
  explicit MemoryOf(MethodMemory<M> value) : memory(std::move(value)) {}
  std::unique_ptr<AnyMemory> clone() const override {
    auto result = std::make_unique<MemoryOf>(memory);
    own_fields(result->memory);
    return result;
  }
  void fields(const std::function<void(const char*, at::Tensor&)>& visit) override {
    if constexpr (requires { memory.fields(visit); }) memory.fields(visit);
  }
  at::Tensor fallbacks() const override { return fallbacks_of(memory); }
  MethodMemory<M> memory;
};

}  // namespace detail

/// @brief The memory of whatever method an AnyWeighting holds. A copy is deep: it shares no tensor.
class AnyWeightingState {
 public:
  /// @brief Empty; it becomes the memory of the first method that is asked with it.
  AnyWeightingState() = default;
  /// @brief For AnyWeighting.
  explicit AnyWeightingState(std::unique_ptr<detail::AnyMemory> held) : held_(std::move(held)) {}
  /// @brief A deep copy.
  AnyWeightingState(const AnyWeightingState& other) : held_(other.held_ ? other.held_->clone() : nullptr) {}
  /// @brief Takes the other's memory.
  AnyWeightingState(AnyWeightingState&& other) noexcept = default;
  /// @brief A deep copy.
  AnyWeightingState& operator=(const AnyWeightingState& other) {
    if (this != &other) held_ = other.held_ ? other.held_->clone() : nullptr;
    return *this;
  }
  /// @brief Takes the other's memory.
  AnyWeightingState& operator=(AnyWeightingState&& other) noexcept = default;
  ~AnyWeightingState() = default;

  /// @brief Whether it is no method's memory yet.
  bool empty() const { return held_ == nullptr; }
  /// @brief Names the held method's tensors, by `visit("name", tensor)`; none where it is empty.
  template <class Visit>
  void fields(Visit&& visit) {
    if (held_) held_->fields([&](const char* name, at::Tensor& field) { visit(name, field); });
  }
  /// @brief How often the held method took its fallback; undefined where it counts none, or there is no method yet.
  at::Tensor fallbacks() const { return held_ ? held_->fallbacks() : at::Tensor(); }
  /// @brief For AnyWeighting.
  detail::AnyMemory* held() const { return held_.get(); }

 private:
  std::unique_ptr<detail::AnyMemory> held_;
};

namespace detail {

/// Some method.
struct AnyMethod {
  AnyMethod() = default;
  AnyMethod(const AnyMethod&) = delete;
  AnyMethod(AnyMethod&&) = delete;
  AnyMethod& operator=(const AnyMethod&) = delete;
  AnyMethod& operator=(AnyMethod&&) = delete;
  virtual ~AnyMethod() = default;
  virtual std::unique_ptr<AnyMethod> clone() const = 0;
  virtual at::Tensor weights(const TaskGramian& gramian, AnyWeightingState& state, const std::string& name) const = 0;
  virtual SharedGradient aggregate(const TaskGradients& gradients, AnyWeightingState& state, const std::string& name) const = 0;
  virtual bool sees_gradients() const = 0;
  virtual int64_t batches() const = 0;
  virtual bool observes() const = 0;
  virtual void observe(const at::Tensor& losses, AnyWeightingState& state, const std::string& name) const = 0;
  virtual AnyWeightingState initial_state() const = 0;
};

template <GradientMethod M>
struct MethodOf final : AnyMethod {
  explicit MethodOf(M value) : method(std::move(value)) {}
  std::unique_ptr<AnyMethod> clone() const override { return std::make_unique<MethodOf>(method); }
  at::Tensor weights(const TaskGramian& gramian, AnyWeightingState& state, const std::string& name) const override {
    if constexpr (GramianWeighting<M>) {
      return htl::weights(method, gramian, memory_in(state, name));
    } else {
      HTL_CHECK(false, "htl::AnyWeighting: method \"", name, "\" sees the task gradients themselves and has no weights of a Gramian; ask aggregate()");
    }
  }
  SharedGradient aggregate(const TaskGradients& gradients, AnyWeightingState& state, const std::string& name) const override {
    return htl::aggregate(method, gradients, memory_in(state, name));
  }
  bool sees_gradients() const override { return GradientAggregator<M>; }
  int64_t batches() const override {
    if constexpr (BatchesWeighting<M>) {
      return method.batches();
    } else {
      return 1;
    }
  }
  bool observes() const override {
    if constexpr (requires(const M& m) { m.observes(); }) {  // a method around another one knows at run time only
      return method.observes();
    } else {
      return LossObserver<M>;
    }
  }
  void observe(const at::Tensor& losses, AnyWeightingState& state, const std::string& name) const override {
    if constexpr (LossObserver<M>) method.observe(losses, memory_in(state, name));
  }
  AnyWeightingState initial_state() const override { return AnyWeightingState(std::make_unique<MemoryOf<M>>(detail::initial_state(method))); }

  MethodMemory<M>& memory_in(AnyWeightingState& state, const std::string& name) const {
    if (state.empty()) state = initial_state();
    auto* const own = dynamic_cast<MemoryOf<M>*>(state.held());
    HTL_CHECK_STATE(own, "htl::AnyWeighting: the state is the memory of another method than \"", name,
                    "\"; begin with initial_state() of this one, or call the fork's forget()");
    return own->memory;
  }

  M method;
};

}  // namespace detail

/// @brief Any GradientMethod: what a configuration file or a command line names, as one type.
///
///     htl::AnyWeighting method = htl::PCGrad{};  // every method converts
///     method = htl::built_in_methods().make("cagrad", {{"c", 0.4}});
///     htl::GradientFork<htl::AnyWeighting> fork(tasks, method);
///
/// It gives the bits that the method itself gives. A copy is deep: it has options of its own. A call costs one virtual call more; device, synchronisation,
/// inactive tasks and errors are the method's.
class AnyWeighting {
 public:
  /// @brief The held method's memory.
  using State = AnyWeightingState;

  /// @brief Holds a method.
  /// @param method any GradientMethod
  /// @param name for reports and sentences; empty = the method's own `name()` where it has one, else its type's name, as "htl::Sum"
  template <class M>
    requires(!std::same_as<M, AnyWeighting>)
  &&detail::HasMethodMembers<M>&& GradientMethod<M>         // in this order: asking GradientMethod<AnyWeighting> here would ask itself
  AnyWeighting(M method, std::string name = std::string())  // NOLINT(google-explicit-constructor): a method is an AnyWeighting
      : name_(std::move(name)) {
    if constexpr (requires { std::string(method.name()); }) {
      if (name_.empty()) name_ = method.name();
    }
    if (name_.empty()) name_ = detail::type_name<M>();
    held_ = std::make_unique<detail::MethodOf<M>>(std::move(method));
  }
  /// @brief An independent copy.
  AnyWeighting(const AnyWeighting& other) : held_(other.held_->clone()), name_(other.name_) {}
  /// @brief Takes the other's method; the other can then only be assigned to.
  AnyWeighting(AnyWeighting&& other) noexcept = default;
  /// @brief An independent copy.
  AnyWeighting& operator=(const AnyWeighting& other) { return *this = AnyWeighting(other); }
  /// @brief Takes the other's method; the other can then only be assigned to.
  AnyWeighting& operator=(AnyWeighting&& other) noexcept = default;
  ~AnyWeighting() = default;

  /// @brief What it is called.
  const std::string& name() const { return name_; }
  /// @brief The same method under another name.
  AnyWeighting named(std::string name) const {
    AnyWeighting result = *this;
    result.name_ = std::move(name);
    return result;
  }

  /// @brief [T] float64: the method's weights.
  /// @param gramian the task gradients' Gramian
  /// @param state the method's memory; an empty one becomes it
  /// @throws c10::ValueError for a method that sees the gradients themselves; c10::Error with the memory of another method; what the method throws
  at::Tensor weights(const TaskGramian& gramian, State& state) const { return held_->weights(gramian, state, name_); }
  /// @brief The shared gradient by any method: where it only weighs, Σ_t w_t G_t as htl::aggregate makes it.
  /// @throws c10::Error with the memory of another method; what the method throws
  SharedGradient aggregate(const TaskGradients& gradients, State& state) const { return held_->aggregate(gradients, state, name_); }
  /// @brief Whether the method sees the task gradients themselves (GradientAggregator), so that a Gramian is not enough.
  bool sees_gradients() const { return held_->sees_gradients(); }
  /// @brief How many independent batches a step takes: 1 but for a BatchesWeighting.
  int64_t batches() const { return held_->batches(); }
  /// @brief Whether the method wants to hear the losses after a step (LossObserver).
  bool observes() const { return held_->observes(); }
  /// @brief Tells the losses [T] float64 after a step to a LossObserver; other methods don't listen.
  void observe(const at::Tensor& losses, State& state) const { held_->observe(losses, state, name_); }
  /// @brief The memory before the first step, with the method's fields, so that a checkpoint can be loaded into it.
  State initial_state() const { return held_->initial_state(); }

  /// @brief The method itself if it is an M, else nullptr. Its options may be changed there.
  template <class M>
  M* get_if() {
    auto* const held = dynamic_cast<detail::MethodOf<M>*>(held_.get());
    return held ? &held->method : nullptr;
  }
  /// @brief The method itself if it is an M, else nullptr.
  template <class M>
  const M* get_if() const {
    const auto* const held = dynamic_cast<const detail::MethodOf<M>*>(held_.get());
    return held ? &held->method : nullptr;
  }

 private:
  std::unique_ptr<detail::AnyMethod> held_;
  std::string name_;
};

}  // namespace htl

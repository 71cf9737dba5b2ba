// SPDX-License-Identifier: Apache-2.0
/// @file calibrator.hpp
/// @brief Calibrator: what a trained model's prediction still needs to be true on average; AnyCalibrator: any of them as a value.
#pragma once

#include <htl/task/label.hpp>
#include <htl/task/option.hpp>
#include <htl/task/task_kind.hpp>

#include <ATen/ops/ones.h>

#include <concepts>
#include <memory>
#include <string>
#include <utility>

namespace htl::inline v0_1_0 {

/// @brief What a calibrator must offer. It is a value; fitting makes a new one.
///
/// - `name()`: a short word, as in configuration files;
/// - `fits(kind)`: whether a task of that kind can have it;
/// - `fitted(prediction, label, weight)`: a copy fitted to float64 rows [n], n ≥ 1, all finite, weights > 0;
/// - `is_fitted()`; `apply(prediction)`: elementwise, keeps shape, type and device; monotone, so that rankings stay (ties may form);
/// - `parameters()`: its Options; `statistics()`: the fitted numbers by name; `with_statistics(numbers)`: the same with given numbers.
template <class C>
concept Calibrator = std::copy_constructible<C> && requires(const C& calibrator, const at::Tensor& rows, TaskKind kind, const Options& numbers) {
  { calibrator.name() } -> std::convertible_to<std::string>;
  { calibrator.fits(kind) } -> std::same_as<bool>;
  { calibrator.fitted(rows, rows, rows) } -> std::same_as<C>;
  { calibrator.is_fitted() } -> std::same_as<bool>;
  { calibrator.apply(rows) } -> std::same_as<at::Tensor>;
  { calibrator.parameters() } -> std::same_as<Options>;
  { calibrator.statistics() } -> std::same_as<Options>;
  { calibrator.with_statistics(numbers) } -> std::same_as<C>;
};

/// @brief Any Calibrator as a copyable value; until it is fitted it changes nothing.
class AnyCalibrator {
 public:
  /// @brief None: nothing is changed, ever.
  AnyCalibrator() = default;
  /// @brief Wraps a calibrator.
  template <class C>
    requires(!std::same_as<C, AnyCalibrator>)
  &&Calibrator<C>  // in this order: asking Calibrator<AnyCalibrator> here would ask itself
  AnyCalibrator(C calibrator) : held_(std::make_shared<Held<C>>(std::move(calibrator))) {}  // NOLINT(google-explicit-constructor): a calibrator is one

  /// @brief Whether there is one.
  explicit operator bool() const { return held_ != nullptr; }
  /// @brief Its short word; "none".
  std::string name() const { return held_ ? held_->name() : "none"; }
  /// @brief Whether a task of that kind can have it.
  bool fits(TaskKind kind) const { return !held_ || held_->fits(kind); }
  /// @brief Whether it changes predictions.
  bool is_fitted() const { return held_ && held_->is_fitted(); }
  /// @brief A copy fitted to the rows that have a label, by their weights.
  /// @param prediction [n] in the label's unit
  /// @param label [n] what was observed
  /// @throws c10::ValueError on wrong shapes, without an observed row, or where one is not finite
  AnyCalibrator fitted(const at::Tensor& prediction, const Label& label) const {
    if (!held_) return {};
    std::string who = "htl::";
    who += name();
    check_shape(who, "predictions", prediction, {label.value.size(0)});
    const at::Tensor rows = label.observed_rows();
    const auto column = [&](const at::Tensor& values) {
      return (rows.defined() ? values.index_select(0, rows) : values).detach().to(at::kCPU, at::kDouble).contiguous();
    };
    const at::Tensor of_model = column(prediction), seen = column(label.value);
    const at::Tensor weight = label.weight.defined() ? column(label.weight) : at::ones({seen.size(0)}, at::kDouble);
    HTL_CHECK(seen.numel() > 0, who, ": expected at least one observed label to fit to, got none");
    for (const at::Tensor& values : {of_model, seen, weight})
      HTL_CHECK(values.isfinite().all().item<bool>(), who, ": expected finite predictions, labels and weights, got NaN or infinity; mask those rows");
    HTL_CHECK(weight.gt(0).all().item<bool>(), who, ": expected weights ≥ 0, got ", weight.min().item<double>());
    return held_->fitted(of_model, seen, weight);
  }
  /// @brief The calibrated prediction; the prediction itself before it is fitted.
  at::Tensor apply(const at::Tensor& prediction) const { return is_fitted() ? held_->apply(prediction) : prediction; }
  /// @brief Its options by name.
  Options parameters() const { return held_ ? held_->parameters() : Options(); }
  /// @brief The fitted numbers by name.
  Options statistics() const { return held_ ? held_->statistics() : Options(); }
  /// @brief The same with given numbers, as read from a file.
  AnyCalibrator with_statistics(const Options& numbers) const { return held_ ? held_->with_statistics(numbers) : AnyCalibrator(); }
  /// @brief The calibrator itself if it is a C, else nullptr.
  template <class C>
  const C* get_if() const {
    const auto* const held = dynamic_cast<const Held<C>*>(held_.get());
    return held ? &held->calibrator : nullptr;
  }

 private:
  struct Base {
    virtual ~Base() = default;
    virtual std::string name() const = 0;
    virtual bool fits(TaskKind kind) const = 0;
    virtual AnyCalibrator fitted(const at::Tensor& prediction, const at::Tensor& label, const at::Tensor& weight) const = 0;
    virtual bool is_fitted() const = 0;
    virtual at::Tensor apply(const at::Tensor& prediction) const = 0;
    virtual Options parameters() const = 0;
    virtual Options statistics() const = 0;
    virtual AnyCalibrator with_statistics(const Options& numbers) const = 0;
  };
  template <class C>
  struct Held final : Base {
    explicit Held(C value) : calibrator(std::move(value)) {}
    std::string name() const override { return calibrator.name(); }
    bool fits(TaskKind kind) const override { return calibrator.fits(kind); }
    AnyCalibrator fitted(const at::Tensor& prediction, const at::Tensor& label, const at::Tensor& weight) const override {
      return calibrator.fitted(prediction, label, weight);
    }
    bool is_fitted() const override { return calibrator.is_fitted(); }
    at::Tensor apply(const at::Tensor& prediction) const override { return calibrator.apply(prediction); }
    Options parameters() const override { return calibrator.parameters(); }
    Options statistics() const override { return calibrator.statistics(); }
    AnyCalibrator with_statistics(const Options& numbers) const override { return calibrator.with_statistics(numbers); }
    C calibrator;
  };
  std::shared_ptr<const Base> held_;
};

}  // namespace htl

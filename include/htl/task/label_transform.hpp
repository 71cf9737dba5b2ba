// SPDX-License-Identifier: Apache-2.0
/// @file label_transform.hpp
/// @brief Transforms of continuous labels, with the statistics that they carry and their exact inverse.
#pragma once

#include <htl/task/label.hpp>
#include <htl/task/option.hpp>

#include <cmath>
#include <concepts>
#include <memory>
#include <string>
#include <vector>

namespace htl::inline v0_1_0 {

namespace detail {
/// Has both forms; stands in for the form that a transform does not have.
struct TransformOfBothForms {
  std::vector<std::string> context() const;
  TransformOfBothForms fitted(const at::Tensor& values) const;
  TransformOfBothForms fitted(const at::Tensor& values, const Named<at::Tensor>& context) const;
  at::Tensor apply(const at::Tensor& values) const;
  at::Tensor apply(const at::Tensor& values, const Named<at::Tensor>& context) const;
  at::Tensor inverse(const at::Tensor& values) const;
  at::Tensor inverse(const at::Tensor& values, const Named<at::Tensor>& context) const;
};
template <class F>
struct TransformForms {
  using Plain = F;
  using Contextual = TransformOfBothForms;
};
template <class F>
  requires requires(const F& transform) { transform.context(); }
struct TransformForms<F> {
  using Plain = TransformOfBothForms;
  using Contextual = F;
};
}  // namespace detail

/// @brief What a label transform must offer. A transform is a value; fitting makes a new one.
///
/// - `name()`: a short word, as in configuration files;
/// - `fitted(values)`: a copy with the statistics of the float64 values [n] (n ≥ 1, all finite);
/// - `is_fitted()`; `apply(values)` and `inverse(values)`: elementwise, keep shape, type and device, differentiable;
/// - `statistics()`: the fitted numbers by name; `with_statistics(numbers)`: the same transform with given numbers.
///
/// Optional:
/// - `parameters()`: its Options, from which label_transform() makes it again, unfitted;
/// - `context()`: names of the context columns that it reads (duration); `fitted`, `apply` and `inverse` then take `(values, context)`.
template <class F>
concept LabelTransform = std::copy_constructible<F> && requires(const F& transform, const Options& numbers) {
  { transform.name() } -> std::convertible_to<std::string>;
  { transform.is_fitted() } -> std::same_as<bool>;
  { transform.statistics() } -> std::same_as<Options>;
  { transform.with_statistics(numbers) } -> std::same_as<F>;
} && requires(const typename detail::TransformForms<F>::Plain& transform, const at::Tensor& values) {
  { transform.fitted(values) } -> std::same_as<typename detail::TransformForms<F>::Plain>;
  { transform.apply(values) } -> std::same_as<at::Tensor>;
  { transform.inverse(values) } -> std::same_as<at::Tensor>;
} && requires(const typename detail::TransformForms<F>::Contextual& transform, const at::Tensor& values, const Named<at::Tensor>& context) {
  { transform.context() } -> std::same_as<std::vector<std::string>>;
  { transform.fitted(values, context) } -> std::same_as<typename detail::TransformForms<F>::Contextual>;
  { transform.apply(values, context) } -> std::same_as<at::Tensor>;
  { transform.inverse(values, context) } -> std::same_as<at::Tensor>;
};

/// @brief No transform: the label in its own unit.
struct IdentityTransform {
  /// @brief "none"
  std::string name() const { return "none"; }
  /// @brief Itself.
  IdentityTransform fitted(const at::Tensor&) const { return *this; }
  /// @brief Always true.
  bool is_fitted() const { return true; }
  /// @brief y
  at::Tensor apply(const at::Tensor& values) const { return values; }
  /// @brief y
  at::Tensor inverse(const at::Tensor& values) const { return values; }
  /// @brief None.
  Options statistics() const { return {}; }
  /// @brief Itself.
  IdentityTransform with_statistics(const Options&) const { return *this; }
};

/// @brief z = (y − mean) / sd, with the population standard deviation of the training labels. A constant label has sd = 1.
struct ZScoreTransform {
  double mean = 0.0;  ///< in the label's unit
  double sd = 0.0;    ///< in the label's unit; 0 = not fitted

  /// @brief "z_score"
  std::string name() const { return "z_score"; }
  /// @brief A copy with mean and sd of the values.
  ZScoreTransform fitted(const at::Tensor& values) const {
    const double least = values.min().item<double>();
    if (least == values.max().item<double>()) return {least, 1.0};  // equal labels: their computed mean may be one rounding away from them
    const double center = values.mean().item<double>();
    const double spread = std::sqrt(values.sub(center).square().mean().item<double>());
    HTL_CHECK(std::isfinite(spread), "htl::z_score: the squares of labels from ", least, " to ", values.max().item<double>(),
              " are beyond what float64 holds; clip or rescale them");
    return {center, spread > 0.0 ? spread : 1.0};  // 0 where the squares are below what a double holds
  }
  /// @brief Whether statistics are there.
  bool is_fitted() const { return sd > 0.0; }
  /// @brief (y − mean) / sd
  at::Tensor apply(const at::Tensor& values) const { return values.sub(mean).div(sd); }
  /// @brief z · sd + mean
  at::Tensor inverse(const at::Tensor& values) const { return values.mul(sd).add(mean); }
  /// @brief mean, sd
  Options statistics() const { return {{"mean", mean}, {"sd", sd}}; }
  /// @brief A copy with given mean and sd.
  ZScoreTransform with_statistics(const Options& numbers) const {
    const double center = numbers["mean"].number(), spread = numbers["sd"].number();
    HTL_CHECK(spread > 0.0 && std::isfinite(spread) && std::isfinite(center), "htl::z_score: expected a finite mean and a finite sd > 0, got mean ", center,
              ", sd ", spread);
    return {center, spread};
  }
};

/// @brief z = log(1 + y) for labels ≥ 0; the inverse is exp(z) − 1 (a median-like value: the inverse of a mean of logs is not the mean), held at z = 80, which
/// is 5.5e34, with gradient 0 beyond.
struct Log1pTransform {
  /// @brief "log1p"
  std::string name() const { return "log1p"; }
  /// @brief Itself.
  /// @throws c10::ValueError if a label is below 0
  Log1pTransform fitted(const at::Tensor& values) const {
    const double least = values.min().item<double>();
    HTL_CHECK(least >= 0.0, "htl::log1p: expected labels ≥ 0, got ", least, "; use z_score() for a label that can be negative");
    return *this;
  }
  /// @brief Always true.
  bool is_fitted() const { return true; }
  /// @brief log(1 + y)
  at::Tensor apply(const at::Tensor& values) const { return values.log1p(); }
  /// @brief exp(z) − 1
  at::Tensor inverse(const at::Tensor& values) const { return values.clamp_max(80.0).expm1(); }
  /// @brief None.
  Options statistics() const { return {}; }
  /// @brief Itself.
  Log1pTransform with_statistics(const Options&) const { return *this; }
};

/// @brief Any LabelTransform as a copyable value.
class AnyLabelTransform {
 public:
  /// @brief The identity.
  AnyLabelTransform() : AnyLabelTransform(IdentityTransform{}) {}
  /// @brief Wraps a transform.
  template <class F>
    requires(!std::same_as<F, AnyLabelTransform>)
  &&LabelTransform<F>  // in this order: asking LabelTransform<AnyLabelTransform> here would ask itself
  AnyLabelTransform(F transform) : held_(std::make_shared<Held<F>>(std::move(transform))) {}  // NOLINT(google-explicit-constructor): a transform is one

  /// @brief The transform's short word.
  std::string name() const { return held_->name(); }
  /// @brief Whether its statistics are there.
  bool is_fitted() const { return held_->is_fitted(); }
  /// @brief A copy fitted to the observed rows of a label; a row of weight 0 is none, any other counts once.
  /// @param label the training labels
  /// @param columns context columns of the same rows, for transforms that read them
  /// @throws c10::ValueError if no row is observed, or an observed label is not finite; c10::IndexError if a context column is missing
  AnyLabelTransform fitted(const Label& label, const Named<at::Tensor>& columns = {}) const {
    at::Tensor values = label.value.detach().to(at::kCPU, at::kDouble), rows = label.observed_rows();
    if (rows.defined()) rows = rows.to(at::kCPU), values = values.index_select(0, rows);
    HTL_CHECK(values.numel() > 0, "htl::", name(), ": expected at least one observed label to fit to, got none");
    HTL_CHECK(values.isfinite().all().item<bool>(), "htl::", name(), ": expected finite labels, got NaN or infinity; mask those rows");
    Named<at::Tensor> observed;
    for (const std::string& column : context()) {
      const at::Tensor whole = columns[column].detach().to(at::kCPU, at::kDouble);
      observed.set(column, rows.defined() ? whole.index_select(0, rows) : whole);
    }
    return held_->fitted(values, observed);
  }
  /// @brief Label → target.
  /// @throws c10::Error if it was not fitted
  at::Tensor apply(const at::Tensor& values, const Named<at::Tensor>& columns = {}) const {
    check_fitted();
    return held_->apply(values, columns);
  }
  /// @brief Target → label's unit.
  /// @throws c10::Error if it was not fitted
  at::Tensor inverse(const at::Tensor& values, const Named<at::Tensor>& columns = {}) const {
    check_fitted();
    return held_->inverse(values, columns);
  }
  /// @brief Its options by name; empty where it has none.
  Options parameters() const { return held_->parameters(); }
  /// @brief The fitted numbers by name.
  Options statistics() const { return held_->statistics(); }
  /// @brief The same transform with given numbers, as read from a file.
  AnyLabelTransform with_statistics(const Options& numbers) const { return held_->with_statistics(numbers); }
  /// @brief Names of the context columns that it reads.
  std::vector<std::string> context() const { return held_->context(); }
  /// @brief The transform itself if it is an F, else nullptr.
  template <class F>
  const F* get_if() const {
    const auto* const held = dynamic_cast<const Held<F>*>(held_.get());
    return held ? &held->transform : nullptr;
  }

 private:
  struct Base {
    virtual ~Base() = default;
    virtual std::string name() const = 0;
    virtual bool is_fitted() const = 0;
    virtual AnyLabelTransform fitted(const at::Tensor& values, const Named<at::Tensor>& columns) const = 0;
    virtual at::Tensor apply(const at::Tensor& values, const Named<at::Tensor>& columns) const = 0;
    virtual at::Tensor inverse(const at::Tensor& values, const Named<at::Tensor>& columns) const = 0;
    virtual Options parameters() const = 0;
    virtual Options statistics() const = 0;
    virtual AnyLabelTransform with_statistics(const Options& numbers) const = 0;
    virtual std::vector<std::string> context() const = 0;
  };
  template <class F>
  struct Held final : Base {
    explicit Held(F value) : transform(std::move(value)) {}
    static constexpr bool kReadsContext = requires(const F& f) { f.context(); };
    std::string name() const override { return transform.name(); }
    bool is_fitted() const override { return transform.is_fitted(); }
    AnyLabelTransform fitted(const at::Tensor& values, const Named<at::Tensor>& columns) const override {
      if constexpr (kReadsContext) {
        return transform.fitted(values, columns);
      } else {
        return transform.fitted(values);
      }
    }
    at::Tensor apply(const at::Tensor& values, const Named<at::Tensor>& columns) const override {
      if constexpr (kReadsContext) {
        return transform.apply(values, columns);
      } else {
        return transform.apply(values);
      }
    }
    at::Tensor inverse(const at::Tensor& values, const Named<at::Tensor>& columns) const override {
      if constexpr (kReadsContext) {
        return transform.inverse(values, columns);
      } else {
        return transform.inverse(values);
      }
    }
    Options parameters() const override {
      if constexpr (requires { transform.parameters(); }) return transform.parameters();
      return {};
    }
    Options statistics() const override { return transform.statistics(); }
    AnyLabelTransform with_statistics(const Options& numbers) const override { return transform.with_statistics(numbers); }
    std::vector<std::string> context() const override {
      if constexpr (kReadsContext) return transform.context();
      return {};
    }
    F transform;
  };
  void check_fitted() const {
    HTL_CHECK_STATE(is_fitted(), "htl::", name(), ": expected fitted statistics, got none; call tasks.fitted(training_labels) and use its result");
  }
  std::shared_ptr<const Base> held_;
};

/// @brief No transform.
inline AnyLabelTransform no_transform() { return IdentityTransform{}; }
/// @brief z = (y − mean) / sd.
inline AnyLabelTransform z_score() { return ZScoreTransform{}; }
/// @brief z = log(1 + y).
inline AnyLabelTransform log1p() { return Log1pTransform{}; }

}  // namespace htl

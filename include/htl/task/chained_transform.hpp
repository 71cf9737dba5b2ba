// SPDX-License-Identifier: Apache-2.0
/// @file chained_transform.hpp
/// @brief ChainedTransform: one label transform behind another.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/task/nested_options.hpp>

#include <utility>

namespace htl::inline v0_1_0 {

/// @brief One transform behind another: z = second(first(y)), each fitted to what reaches it. `chained(log1p(), z_score())` is the usual form of a long tail.
struct ChainedTransform {
  AnyLabelTransform first = {};   ///< of the label
  AnyLabelTransform second = {};  ///< of what the first gives

  /// @brief "chained"
  std::string name() const { return "chained"; }
  /// @brief A copy of which both are fitted.
  ChainedTransform fitted(const at::Tensor& values, const Named<at::Tensor>& columns) const {
    const AnyLabelTransform one = first.fitted({values}, columns);
    return {one, second.fitted({one.apply(values, columns)}, columns)};
  }
  /// @brief Whether both are fitted.
  bool is_fitted() const { return first.is_fitted() && second.is_fitted(); }
  /// @brief second(first(y))
  at::Tensor apply(const at::Tensor& values, const Named<at::Tensor>& columns) const { return second.apply(first.apply(values, columns), columns); }
  /// @brief first⁻¹(second⁻¹(z))
  at::Tensor inverse(const at::Tensor& values, const Named<at::Tensor>& columns) const { return first.inverse(second.inverse(values, columns), columns); }
  /// @brief first, second
  Options parameters() const { return {{"first", detail::spec_of(first)}, {"second", detail::spec_of(second)}}; }
  /// @brief Those of both, under "first." and "second."
  Options statistics() const {
    Options result;
    detail::add_below(result, "first.", first.statistics());
    detail::add_below(result, "second.", second.statistics());
    return result;
  }
  /// @brief A copy with given statistics.
  ChainedTransform with_statistics(const Options& numbers) const {
    return {first.with_statistics(detail::options_below(numbers, "first.")), second.with_statistics(detail::options_below(numbers, "second."))};
  }
  /// @brief The columns of both.
  std::vector<std::string> context() const { return detail::joined(first.context(), second.context()); }
};

/// @brief One transform behind another.
inline AnyLabelTransform chained(AnyLabelTransform first, AnyLabelTransform second) { return ChainedTransform{std::move(first), std::move(second)}; }

}  // namespace htl

// SPDX-License-Identifier: Apache-2.0
/// @file clipped_transform.hpp
/// @brief ClippedTransform: labels beyond a quantile count as that quantile.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/task/nested_options.hpp>
#include <htl/task/sorted_quantile.hpp>

#include <cmath>
#include <limits>
#include <utility>

namespace htl::inline v0_1_0 {

/// @brief Labels beyond quantiles of the training labels are taken for these, and then transformed: single rows can't dominate.
///
/// The inverse is that of the inner transform: predictions are not clipped, and clipped labels are lost, so means are too low by what was cut.
struct ClippedTransform {
  double upper = 0.99;                                     ///< the level of the highest label that is kept, in (0, 1]
  double lower = 0.0;                                      ///< the level of the lowest label that is kept, in [0, upper)
  AnyLabelTransform inner = {};                            ///< of what is kept
  double low = std::numeric_limits<double>::quiet_NaN();   ///< the lowest label that is kept; NaN = not fitted
  double high = std::numeric_limits<double>::quiet_NaN();  ///< the highest label that is kept

  /// @brief "clipped"
  std::string name() const { return "clipped"; }
  /// @brief A copy with the quantiles of the values; the inner one is fitted to the clipped ones.
  ClippedTransform fitted(const at::Tensor& values, const Named<at::Tensor>& columns) const {
    HTL_CHECK(lower >= 0.0 && lower < upper && upper <= 1.0, "htl::clipped: expected levels 0 ≤ lower < upper ≤ 1, got lower ", lower, ", upper ", upper);
    ClippedTransform copy = *this;
    const at::Tensor sorted = std::get<0>(values.to(at::kDouble).contiguous().sort());
    const auto at_level = [&](double level) { return detail::quantile_of(sorted.const_data_ptr<double>(), static_cast<size_t>(sorted.numel()), level); };
    copy.low = at_level(lower);
    copy.high = at_level(upper);
    copy.inner = inner.fitted({values.clamp(copy.low, copy.high)}, columns);
    return copy;
  }
  /// @brief Whether statistics are there.
  bool is_fitted() const { return std::isfinite(low) && std::isfinite(high) && inner.is_fitted(); }
  /// @brief inner(clip(y))
  at::Tensor apply(const at::Tensor& values, const Named<at::Tensor>& columns) const { return inner.apply(values.clamp(low, high), columns); }
  /// @brief inner⁻¹(z)
  at::Tensor inverse(const at::Tensor& values, const Named<at::Tensor>& columns) const { return inner.inverse(values, columns); }
  /// @brief upper, lower, inner
  Options parameters() const { return {{"upper", upper}, {"lower", lower}, {"inner", detail::spec_of(inner)}}; }
  /// @brief low, high, and the inner one's under "inner."
  Options statistics() const {
    Options result = {{"low", low}, {"high", high}};
    detail::add_below(result, "inner.", inner.statistics());
    return result;
  }
  /// @brief A copy with given statistics.
  ClippedTransform with_statistics(const Options& numbers) const {
    ClippedTransform copy = *this;
    copy.low = numbers["low"].number();
    copy.high = numbers["high"].number();
    HTL_CHECK(std::isfinite(copy.low) && std::isfinite(copy.high) && copy.low <= copy.high, "htl::clipped: expected finite ends low ≤ high, got ", copy.low,
              " and ", copy.high);
    copy.inner = inner.with_statistics(detail::options_below(numbers, "inner."));
    return copy;
  }
  /// @brief The inner one's.
  std::vector<std::string> context() const { return inner.context(); }
};

/// @brief Labels above a quantile of the training labels are taken for it, and then transformed.
inline AnyLabelTransform clipped(AnyLabelTransform inner, double upper = 0.99) { return ClippedTransform{.upper = upper, .inner = std::move(inner)}; }

}  // namespace htl

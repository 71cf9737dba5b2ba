// SPDX-License-Identifier: Apache-2.0
/// @file quantile_transform.hpp
/// @brief QuantileTransform: a label's rank among the training labels.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/task/label_transform.hpp>
#include <htl/task/sorted_quantile.hpp>
#include <htl/task/tensor_operators.hpp>

#include <ATen/ops/searchsorted.h>
#include <ATen/ops/special_ndtr.h>
#include <ATen/ops/special_ndtri.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <cmath>

namespace htl::inline v0_1_0 {

namespace detail {

/// Evenly spaced quantiles of values, the first and last their ends.
inline std::vector<double> quantiles_of(const at::Tensor& values, int64_t points) {
  const at::Tensor sorted = std::get<0>(values.to(at::kDouble).contiguous().sort());
  std::vector<double> result;
  for (int64_t p = 0; p < points; ++p)
    result.push_back(
        quantile_of(sorted.const_data_ptr<double>(), static_cast<size_t>(sorted.numel()), static_cast<double>(p) / static_cast<double>(points - 1)));
  return result;
}

/// F(y): the rank of y in [0, 1] by linear interpolation between the table's points; the middle of the ranks where points are equal; 0 and 1 outside.
inline at::Tensor rank_in(const at::Tensor& table, const at::Tensor& values) {
  const auto last = table.numel() - 1;
  const at::Tensor y = values.contiguous();
  const at::Tensor first = at::searchsorted(table, y), end = at::searchsorted(table, y, /*out_int32=*/false, /*right=*/true);
  const at::Tensor below = (first - 1).clamp(0, last - 1);
  const at::Tensor low = table.index_select(0, below.flatten()).view_as(y), high = table.index_select(0, (below + 1).flatten()).view_as(y);
  const at::Tensor width = high - low, between = below + (y - low) / at::where(width > 0, width, 1.0);
  const at::Tensor rank = at::where(end > first, (first + end - 1).to(y.scalar_type()) / 2.0, between);
  return (rank / static_cast<double>(last)).clamp(0.0, 1.0);
}

/// The label of a rank, by linear interpolation; ranks outside [0, 1] are kept at the ends. Differentiable in the rank.
inline at::Tensor label_of_rank(const at::Tensor& table, const at::Tensor& ranks) {
  const auto last = table.numel() - 1;
  const at::Tensor at = ranks.clamp(0.0, 1.0).mul(static_cast<double>(last));
  const at::Tensor below = at.detach().floor().nan_to_num(0.0).clamp(0, last - 1).to(at::kLong);
  const at::Tensor low = table.index_select(0, below.flatten()).view_as(at), high = table.index_select(0, (below + 1).flatten()).view_as(at);
  return low + (at - below) * (high - low);
}

}  // namespace detail

/// @brief z = F(y), the empirical distribution of the training labels; or Φ⁻¹ of it, a normal label.
///
/// F is a table of evenly spaced quantiles with linear interpolation between them; equal labels, such as many zeros, get the middle of their ranks. Labels
/// beyond the training range get its ends. With `normal`, z = Φ⁻¹(ε + (1 − 2ε) F(y)), ε = 1e-7: |z| ≤ 5.2.
///
/// **Inverse** exact at the table's points and between them; constant, with gradient 0, beyond the ends. That of a mean is not the mean: smeared() corrects it.
/// O(B log points). On other devices than the CPU the table is copied there in each call, which synchronises.
struct QuantileTransform {
  int64_t points = 1001;  ///< quantiles in the table, ≥ 2
  bool normal = false;    ///< whether the ranks are mapped to a standard normal label
  at::Tensor table = {};  ///< [points] float64, ascending; undefined = not fitted

  /// @brief "quantile"
  std::string name() const { return "quantile"; }
  /// @brief A copy with the quantiles of the values.
  QuantileTransform fitted(const at::Tensor& values) const {
    HTL_CHECK(points >= 2, "htl::quantile: expected at least 2 points, got ", points);
    return {points, normal, at::tensor(detail::quantiles_of(values, points), at::kDouble)};
  }
  /// @brief Whether statistics are there.
  bool is_fitted() const { return table.defined(); }
  /// @brief F(y), or the normal label of that rank
  at::Tensor apply(const at::Tensor& values) const {
    const at::Tensor y = wide(values), rank = detail::rank_in(table.to(y.options()), y);
    return (normal ? at::special_ndtri(rank.mul(1.0 - 2.0 * kEnd).add(kEnd)) : rank).to(values.scalar_type());
  }
  /// @brief F⁻¹
  at::Tensor inverse(const at::Tensor& values) const {
    const at::Tensor z = wide(values), rank = normal ? at::special_ndtr(z).sub(kEnd).div(1.0 - 2.0 * kEnd) : z;
    return detail::label_of_rank(table.to(z.options()), rank).to(values.scalar_type());
  }
  /// @brief points, normal
  Options parameters() const { return {{"points", points}, {"normal", normal}}; }
  /// @brief table
  Options statistics() const {
    if (!is_fitted()) return {};
    const double* const values = table.const_data_ptr<double>();
    return {{"table", std::vector<double>(values, values + table.numel())}};
  }
  /// @brief A copy with a given table.
  QuantileTransform with_statistics(const Options& numbers) const {
    const std::vector<double>& given = numbers["table"].numbers();
    HTL_CHECK(given.size() >= 2 && std::is_sorted(given.begin(), given.end()) && std::isfinite(given.front()) && std::isfinite(given.back()),
              "htl::quantile: expected a table of at least 2 finite numbers in ascending order, got ", given.size(), " numbers");
    return {static_cast<int64_t>(given.size()), normal, at::tensor(given, at::kDouble)};
  }

 private:
  static constexpr double kEnd = 1e-7;
  static at::Tensor wide(const at::Tensor& values) { return values.scalar_type() == at::kDouble ? values : values.to(at::kFloat); }  // ranks need the digits
};

/// @brief z = F(y), the label's rank among the training labels.
inline AnyLabelTransform quantile_ranks(int64_t points = 1001) { return QuantileTransform{.points = points}; }

}  // namespace htl

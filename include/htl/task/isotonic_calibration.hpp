// SPDX-License-Identifier: Apache-2.0
/// @file isotonic_calibration.hpp
/// @brief IsotonicCalibration: the monotone curve from predictions to labels that fits best.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/task/calibrator.hpp>
#include <htl/task/tensor_operators.hpp>

#include <ATen/ops/searchsorted.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief y' = f(ŷ), the non-decreasing f that minimises Σ w (y − f(ŷ))² on the rows that it is fitted to.
///
/// By pooling adjacent violators, O(n log n). Between the pools' ends linear, beyond the first and last constant. For binary tasks and regressions. It needs
/// some thousand rows, or it learns their noise; PlattScaling and ScaleCalibration need some hundred. On other devices than the CPU apply() copies the curve
/// there in each call, which synchronises.
/// **Source.** Barlow et al., Statistical Inference under Order Restrictions, 1972; Zadrozny and Elkan, KDD 2002.
struct IsotonicCalibration {
  at::Tensor from = {};  ///< [m] float64, ascending: predictions; undefined = not fitted
  at::Tensor to = {};    ///< [m] float64, non-decreasing: what they become

  /// @brief "isotonic"
  std::string name() const { return "isotonic"; }
  /// @brief Binary and regression tasks.
  bool fits(TaskKind kind) const { return kind != TaskKind::multiclass; }
  /// @brief A copy with the curve.
  IsotonicCalibration fitted(const at::Tensor& prediction, const at::Tensor& label, const at::Tensor& weight) const;
  /// @brief Whether there is a curve.
  bool is_fitted() const { return from.defined(); }
  /// @brief f(ŷ)
  at::Tensor apply(const at::Tensor& prediction) const {
    const at::Tensor x = prediction.to(at::kDouble), knots = from.to(x.device()), values = to.to(x.device());
    if (knots.numel() == 1) return values.expand(x.sizes()).to(prediction.scalar_type());
    const at::Tensor kept = x.clamp(knots[0], knots[-1]).nan_to_num(0.0).contiguous();
    const at::Tensor below = (at::searchsorted(knots, kept, /*out_int32=*/false, /*right=*/true) - 1).clamp(0, knots.numel() - 2);
    const auto at_knot = [&](const at::Tensor& table, int64_t next) { return table.index_select(0, (below + next).flatten()).view_as(x); };
    const at::Tensor low = at_knot(knots, 0), part = (x.clamp(knots[0], knots[-1]) - low) / (at_knot(knots, 1) - low);
    const at::Tensor start = at_knot(values, 0);
    return (start + part * (at_knot(values, 1) - start)).to(prediction.scalar_type());
  }
  /// @brief None.
  Options parameters() const { return {}; }
  /// @brief from, to
  Options statistics() const {
    if (!is_fitted()) return {};
    const auto list = [](const at::Tensor& t) { return std::vector<double>(t.const_data_ptr<double>(), t.const_data_ptr<double>() + t.numel()); };
    return {{"from", list(from)}, {"to", list(to)}};
  }
  /// @brief A copy with a given curve.
  IsotonicCalibration with_statistics(const Options& numbers) const {
    const std::vector<double>&x = numbers["from"].numbers(), &y = numbers["to"].numbers();
    HTL_CHECK(
        !x.empty() && x.size() == y.size() && std::adjacent_find(x.begin(), x.end(), std::greater_equal<>()) == x.end() && std::is_sorted(y.begin(), y.end()),
        "htl::IsotonicCalibration: expected as many ascending numbers in \"from\" as non-decreasing ones in \"to\", got ", x.size(), " and ", y.size());
    return {at::tensor(x, at::kDouble), at::tensor(y, at::kDouble)};
  }
};

inline IsotonicCalibration IsotonicCalibration::fitted(const at::Tensor& prediction, const at::Tensor& label, const at::Tensor& weight) const {
  const at::Tensor order = std::get<1>(prediction.sort(/*stable=*/true, /*dim=*/0, /*descending=*/false));
  const at::Tensor x = prediction.index_select(0, order), y = label.index_select(0, order), w = weight.index_select(0, order);
  struct Pool {
    double first, last, weight, sum;
    double mean() const { return sum / weight; }
  };
  std::vector<Pool> pools;
  for (int64_t row = 0; row < x.numel(); ++row) {
    const double at = x.const_data_ptr<double>()[row], mass = w.const_data_ptr<double>()[row], sum = mass * y.const_data_ptr<double>()[row];
    if (!pools.empty() && pools.back().last == at) {  // equal predictions become equal
      pools.back().weight += mass;
      pools.back().sum += sum;
    } else {
      pools.push_back({at, at, mass, sum});
    }
    const bool tie_follows = row + 1 < x.numel() && x.const_data_ptr<double>()[row + 1] == at;
    while (!tie_follows && pools.size() > 1 && pools[pools.size() - 2].mean() >= pools.back().mean()) {
      Pool& before = pools[pools.size() - 2];
      before = {before.first, pools.back().last, before.weight + pools.back().weight, before.sum + pools.back().sum};
      pools.pop_back();
    }
  }
  std::vector<double> knots, values;
  for (const Pool& pool : pools)
    for (const double end : {pool.first, pool.last}) {
      if (!knots.empty() && knots.back() == end) continue;
      knots.push_back(end);
      values.push_back(pool.mean());
    }
  return {at::tensor(knots, at::kDouble), at::tensor(values, at::kDouble)};
}

}  // namespace htl

// SPDX-License-Identifier: Apache-2.0
/// @file statistics.hpp
/// @brief Means over seeds, paired differences with Student's t, and the gain over single-task models.
#pragma once

#include <htl/task/check.hpp>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace compare {

inline constexpr double undefined = std::numeric_limits<double>::quiet_NaN();

/// @brief Mean and sample standard deviation.
struct Moments {
  double mean = undefined;  ///< NaN of nothing
  double sd = undefined;    ///< over n − 1; NaN of fewer than two
  int64_t count = 0;
};

/// @brief The moments of the values that are numbers.
inline Moments moments_of(const std::vector<double>& values) {
  Moments result;
  double sum = 0.0, squares = 0.0;
  for (const double value : values)
    if (std::isfinite(value)) {
      sum += value;
      ++result.count;
    }
  if (result.count == 0) return result;
  result.mean = sum / static_cast<double>(result.count);
  for (const double value : values)
    if (std::isfinite(value)) squares += (value - result.mean) * (value - result.mean);
  if (result.count > 1) result.sd = std::sqrt(squares / static_cast<double>(result.count - 1));
  return result;
}

/// @brief The regularised incomplete beta function I_x(a, b), by Lentz's evaluation of its continued fraction.
inline double incomplete_beta(double a, double b, double x) {
  if (x <= 0.0 || x >= 1.0) return x <= 0.0 ? 0.0 : 1.0;
  if (x > (a + 1.0) / (a + b + 2.0)) return 1.0 - incomplete_beta(b, a, 1.0 - x);  // where the fraction converges fast
  constexpr double tiny = 1e-300;
  const auto away_from_zero = [](double value) { return std::abs(value) < tiny ? tiny : value; };
  double c = 1.0, d = 1.0 / away_from_zero(1.0 - (a + b) * x / (a + 1.0)), fraction = d;
  for (int m = 1; m <= 500; ++m) {
    double last = 1.0;
    for (const bool even : {true, false}) {
      const double factor = even ? m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m)) : -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
      d = 1.0 / away_from_zero(1.0 + factor * d);
      c = away_from_zero(1.0 + factor / c);
      last = c * d;
      fraction *= last;
    }
    if (std::abs(last - 1.0) < 1e-15) break;
  }
  return std::exp(std::lgamma(a + b) - std::lgamma(a) - std::lgamma(b) + a * std::log(x) + b * std::log1p(-x)) * fraction / a;
}
/// @brief P(|T| ≥ |t|) of Student's t with that many degrees of freedom.
inline double student_two_sided(double t, double freedom) { return incomplete_beta(0.5 * freedom, 0.5, freedom / (freedom + t * t)); }

/// @brief A difference over pairs: two models of the same seed.
struct PairedDifference {
  double mean = undefined;
  double sd = undefined;
  double p = undefined;  ///< two-sided, of Student's t; NaN of fewer than two pairs
};

/// @brief a − b over the pairs in which both are numbers. Differences that are all equal have p = 0, or 1 where they are 0.
/// @throws c10::ValueError for lists of different lengths
inline PairedDifference paired_difference(const std::vector<double>& a, const std::vector<double>& b) {
  HTL_CHECK(a.size() == b.size(), "compare: expected pairs, got ", a.size(), " and ", b.size(), " values");
  std::vector<double> differences;
  for (size_t i = 0; i < a.size(); ++i) differences.push_back(a[i] - b[i]);
  const Moments moments = moments_of(differences);
  PairedDifference result{moments.mean, moments.sd, undefined};
  if (moments.count < 2) return result;
  const double n = static_cast<double>(moments.count);
  if (moments.sd > 0.0) {
    result.p = student_two_sided(moments.mean / moments.sd * std::sqrt(n), n - 1.0);
  } else {
    result.p = moments.mean == 0.0 ? 1.0 : 0.0;
  }
  return result;
}

/// @brief Δ: the mean over tasks of (multi − single) / single, with its sign turned for errors; 0.01 is one per cent better.
///
/// Source: Maninis et al., "Attentive Single-Tasking of Multiple Tasks", CVPR 2019, with one metric a task.
/// @param greater_is_better for each task
/// @returns NaN unless all are numbers and no single-task value is 0
inline double relative_gain(const std::vector<double>& multi, const std::vector<double>& single, const std::vector<bool>& greater_is_better) {
  HTL_CHECK(multi.size() == single.size() && multi.size() == greater_is_better.size() && !multi.empty(),
            "compare: expected a value of both for each task, got ", multi.size(), ", ", single.size(), " and ", greater_is_better.size());
  double sum = 0.0;
  for (size_t t = 0; t < multi.size(); ++t) sum += (greater_is_better[t] ? 1.0 : -1.0) * (multi[t] - single[t]) / std::abs(single[t]);
  const double gain = sum / static_cast<double>(multi.size());
  return std::isfinite(gain) ? gain : undefined;
}

/// @brief Which points no other one beats in both coordinates.
/// @param x,y of the points; greater is better in both
inline std::vector<bool> pareto_front(const std::vector<double>& x, const std::vector<double>& y) {
  std::vector<bool> front(x.size(), false);
  for (size_t i = 0; i < x.size(); ++i) {
    bool beaten = !std::isfinite(x[i]) || !std::isfinite(y[i]);
    for (size_t j = 0; j < x.size() && !beaten; ++j) beaten = x[j] >= x[i] && y[j] >= y[i] && (x[j] > x[i] || y[j] > y[i]);
    front[i] = !beaten;
  }
  return front;
}

}  // namespace compare

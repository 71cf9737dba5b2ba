// SPDX-License-Identifier: Apache-2.0
/// @file loss_references.hpp
/// @brief LossReference: a loss as its formula in long double, with derivatives; and the comparison with it.
#pragma once

#include "support/loss_cases.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

namespace htl::test {

using Long = long double;

/// @brief A long double with its derivative by one output.
struct Dual {
  Long value = 0;  ///< the number
  Long slope = 0;  ///< its derivative
  /// @brief Plain numbers have the derivative 0.
  Dual(Long number = 0, Long derivative = 0) : value(number), slope(derivative) {}
};
/// @brief Arithmetic of Duals. @{
inline Dual operator+(Dual a, Dual b) { return {a.value + b.value, a.slope + b.slope}; }
inline Dual operator-(Dual a, Dual b) { return {a.value - b.value, a.slope - b.slope}; }
inline Dual operator-(Dual a) { return {-a.value, -a.slope}; }
inline Dual operator*(Dual a, Dual b) { return {a.value * b.value, a.slope * b.value + a.value * b.slope}; }
inline Dual operator/(Dual a, Dual b) { return {a.value / b.value, (a.slope - a.value / b.value * b.slope) / b.value}; }
inline Dual exp(Dual a) { return {std::exp(a.value), a.slope * std::exp(a.value)}; }
inline Dual expm1(Dual a) { return {std::expm1(a.value), a.slope * std::exp(a.value)}; }
inline Dual log(Dual a) { return {std::log(a.value), a.slope / a.value}; }
inline Dual log1p(Dual a) { return {std::log1p(a.value), a.slope / (1 + a.value)}; }
inline Dual sqrt(Dual a) { return {std::sqrt(a.value), a.slope / (2 * std::sqrt(a.value))}; }
inline Dual abs(Dual a) { return {std::abs(a.value), a.value == 0 ? 0 : a.value > 0 ? a.slope : -a.slope}; }
inline Dual square(Dual a) { return a * a; }
inline Dual sigmoid(Dual a) { return {1 / (1 + std::exp(-a.value)), a.slope / (1 + std::exp(-a.value)) / (1 + std::exp(a.value))}; }
inline Dual softplus(Dual a) { return {std::max<Long>(a.value, 0) + std::log1p(std::exp(-std::abs(a.value))), a.slope / (1 + std::exp(-a.value))}; }
inline Dual relu(Dual a) { return a.value > 0 ? a : Dual(0); }
inline Dual clamp(Dual a, Long low, Long high) { return a.value < low ? Dual(low) : a.value > high ? Dual(high) : a; }
inline Dual huber(Dual error, Long delta) { return std::abs(error.value) <= delta ? square(error) / 2 : delta * (abs(error) - delta / 2); }
inline Dual detached(Dual a) { return a.value; }
/// @}

/// @brief log Σ e^x
inline Dual log_sum_exp(const std::vector<Dual>& x) {
  Dual top = x[0], sum = 0;
  for (const Dual& one : x) top = one.value > top.value ? one : top;
  for (const Dual& one : x) sum = sum + exp(one - top.value);
  return log(sum) + top.value;
}
/// @brief −log softmax(x)_k, small numbers too.
inline Dual cross_entropy(const std::vector<Dual>& x, size_t k) {
  Dual others = 0;
  for (size_t j = 0; j < x.size(); ++j) others = j == k ? others : others + exp(x[j] - x[k]);
  return log1p(others);
}
/// @brief −y·log σ(z) − (1 − y)·log(1 − σ(z))
inline Dual log_loss(Dual z, Long y) { return y * softplus(-z) + (1 - y) * softplus(z); }

/// @brief A loss beside its formula.
struct LossReference {
  LossCase one;                                                             ///< the loss and a batch, mostly of one row, whose outputs are replaced
  std::vector<double> labels;                                               ///< each in turn is the label; none: those of the batch stay
  std::function<Dual(const std::vector<Dual>& outputs, Long label)> value;  ///< the shares' sum from all outputs, its own first
  at::Tensor share = at::ones({1}, at::kDouble);                            ///< of the rows
  /// Size of the terms that cancel in one pass, by which digits are lost
  std::function<Long(const std::vector<Dual>& outputs, Long label)> cancels = [](const std::vector<Dual>&, Long) { return 0.0L; };
};

/// @brief One pass and rows, in both types, have the value and derivatives of the formula at random outputs.
///
/// One pass in fp64 keeps its digits however small the value is, in fp32 but for the last rounding of the result; rows keep them of the largest term.
/// @param reference loss and formula
/// @param random of the outputs
/// @param far the numbers that outputs are picked from
/// @param points how many outputs for each label
inline void expect_long_doubles(const LossReference& reference, Random& random, const std::vector<double>& far, int points) {
  const std::vector<double> labels = reference.labels.empty() ? std::vector<double>{0} : reference.labels;
  for (size_t index = 0; index < labels.size() * static_cast<size_t>(points); ++index) {
    const double label = labels[index % labels.size()];
    LossCase moved = reference.one;
    std::vector<at::Tensor> outputs;
    for (const at::Tensor& output : moved.outputs()) {
      std::vector<double> numbers(static_cast<size_t>(output.numel()));
      for (double& number : numbers) number = random.pick(far);
      outputs.push_back(at::tensor(numbers, at::kDouble).view(output.sizes()));
    }
    if (!reference.labels.empty()) moved.label = at::full_like(moved.label, label);
    for (const at::ScalarType type : {at::kDouble, at::kFloat})
      for (const bool pass : {true, false}) {
        const LossCase now = moved.with(outputs).to(type).leaves();
        const at::Tensor share = reference.share.to(type), value = pass ? now.reduced(share) : weighted_sum(now.rows(share), share);
        value.backward();
        std::vector<Dual> x;
        std::vector<double> slopes;
        for (const at::Tensor& output : now.outputs()) {
          const at::Tensor numbers = output.detach().to(at::kDouble).contiguous();
          const at::Tensor gradient = output.grad().defined() ? output.grad().to(at::kDouble).contiguous() : at::zeros_like(numbers);
          x.insert(x.end(), numbers.const_data_ptr<double>(), numbers.const_data_ptr<double>() + numbers.numel());
          slopes.insert(slopes.end(), gradient.const_data_ptr<double>(), gradient.const_data_ptr<double>() + numbers.numel());
        }
        const Long y = now.label.to(at::kDouble)[0].item<double>(), exact = reference.value(x, y).value;
        std::ostringstream where;
        where << now.text() << (pass ? " reduced" : " per row") << " in " << type << " at";
        for (const Dual& number : x) where << " " << static_cast<double>(number.value);
        where << ", label " << static_cast<double>(y);
        Long moves = 0, steepest = 1, largest = 1;  // by what a rounding of the outputs moves the value; …
        std::vector<Long> truth;
        for (Dual& number : x) {
          number.slope = 1;
          truth.push_back(reference.value(x, y).slope);
          number.slope = 0;
          moves += std::abs(truth.back() * number.value);
          steepest = std::max(steepest, std::abs(truth.back()));
          largest = std::max(largest, std::abs(number.value));
        }
        const Long unit = type == at::kDouble ? 2.3e-16L : 1.2e-7L, step = 16 * (pass ? 2.3e-16L : unit), lost = reference.cancels(x, y);
        const Long rounding = 2 * unit * std::abs(exact) + step * (std::abs(exact) + moves + lost + (pass ? 0 : largest));
        ASSERT_LT(std::abs(exact), 3e38L) << where.str();  // beyond a float
        EXPECT_NEAR(value.item<double>(), static_cast<double>(exact), static_cast<double>(rounding) + 1e-44) << where.str();
        for (const double slope : slopes) EXPECT_TRUE(std::isfinite(slope)) << where.str();
        if (!pass && now.stiff && (type == at::kFloat || std::abs(exact) > 1e12L)) continue;  // as documented of terms that swamp others
        for (size_t i = 0; i < x.size(); ++i) {
          const Long allowed = 2 * unit * std::abs(truth[i]) + step * ((1 + lost) * std::abs(truth[i]) + lost + (pass ? 0 : steepest));
          EXPECT_NEAR(slopes[i], static_cast<double>(truth[i]), static_cast<double>(allowed) + 1e-44) << where.str() << ", output " << i;
        }
      }
  }
}

}  // namespace htl::test

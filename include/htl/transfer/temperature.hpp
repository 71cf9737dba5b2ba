// SPDX-License-Identifier: Apache-2.0
/// @file temperature.hpp
/// @brief Temperature: how soft a Gumbel-Softmax is, as a function of the training step.
#pragma once

#include <htl/task/check.hpp>
#include <htl/task/tensor_operators.hpp>

#include <ATen/core/Tensor.h>
#include <ATen/ops/pow.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <string>
#include <string_view>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief τ > 0 as a function of the step n = 0, 1, …; a value.
///
/// constant: τ = start · exponential: τ = max(end, start · factor^⌊n / every⌋) · linear: from start to end over `every` steps, then end.
class Temperature {
 public:
  /// @brief τ = 1.
  Temperature() = default;
  /// @brief The same τ for ever.
  /// @throws c10::ValueError unless finite and > 0
  static Temperature constant(double value) { return {Kind::constant, value, 1.0, 1, value}; }
  /// @brief τ = max(floor, start · factor^⌊n / every⌋). HTLNet's Python re-readings use (10, 0.9, 5000, 0.5).
  /// @throws c10::ValueError unless start ≥ floor > 0, 0 < factor ≤ 1, every ≥ 1
  static Temperature exponential(double start, double factor, int64_t every, double floor) { return {Kind::exponential, start, factor, every, floor}; }
  /// @brief A straight line from start (n = 0) to end (n ≥ steps).
  /// @throws c10::ValueError unless start, end > 0 and steps ≥ 1
  static Temperature linear(double start, double end, int64_t steps) { return {Kind::linear, start, 1.0, steps, end}; }
  /// @brief From text: "constant:1" (or a bare number), "exponential:10,0.9,5000,0.5", "linear:10,0.5,50000".
  /// @throws c10::ValueError with the three forms
  static Temperature parse(std::string_view text);

  /// @brief τ at a step ≥ 0.
  double at(int64_t step) const {
    const auto n = static_cast<double>(step);
    switch (kind_) {
      case Kind::constant:
        break;
      case Kind::exponential:
        return std::max(end_, start_ * std::pow(factor_, std::floor(n / static_cast<double>(every_))));
      case Kind::linear:
        return start_ + (end_ - start_) * std::min(1.0, n / static_cast<double>(every_));
    }
    return start_;
  }
  /// @brief τ at a step that lives on a device: int64 scalar → fp32 scalar there. No synchronisation, so a captured step moves on when replayed.
  at::Tensor at(const at::Tensor& step) const {
    const at::Tensor n = step.to(at::kFloat);
    const auto every = static_cast<double>(every_);
    switch (kind_) {
      case Kind::constant:
        break;
      case Kind::exponential:
        return at::pow(factor_, (n / every).floor()).mul(start_).clamp_min(end_);
      case Kind::linear:
        return (n / every).clamp_max(1.0).mul(end_ - start_).add(start_);
    }
    return n.mul(0.0).add(start_);
  }
  /// @brief Whether τ never changes.
  bool is_constant() const { return kind_ == Kind::constant; }
  /// @brief As parse() reads it.
  std::string to_string() const {
    const auto shortest = [](double number) {
      char text[32];
      return std::string(text, std::to_chars(text, text + sizeof text, number).ptr);
    };
    if (kind_ == Kind::exponential) return c10::str("exponential:", shortest(start_), ",", shortest(factor_), ",", every_, ",", shortest(end_));
    if (kind_ == Kind::linear) return c10::str("linear:", shortest(start_), ",", shortest(end_), ",", every_);
    return c10::str("constant:", shortest(start_));
  }

 private:
  enum class Kind { constant, exponential, linear };
  Temperature(Kind kind, double start, double factor, int64_t every, double end) : kind_(kind), start_(start), factor_(factor), every_(every), end_(end) {
    const bool is_positive = std::isfinite(start) && std::isfinite(end) && start > 0.0 && end > 0.0;
    HTL_CHECK(is_positive && every >= 1 && factor > 0.0 && factor <= 1.0 && (kind != Kind::exponential || start >= end),
              "htl::Temperature: expected temperatures > 0, steps ≥ 1, a factor in (0, 1] and a start not below the floor, got ", to_string());
  }

  Kind kind_ = Kind::constant;
  double start_ = 1.0, factor_ = 1.0;
  int64_t every_ = 1;
  double end_ = 1.0;
};

inline Temperature Temperature::parse(std::string_view text) {
  const size_t colon = text.find(':');
  const std::string_view kind = colon == std::string_view::npos ? "constant" : text.substr(0, colon);
  std::string_view rest = colon == std::string_view::npos ? text : text.substr(colon + 1);
  std::vector<double> numbers;
  bool is_good = true;
  while (is_good) {
    const std::string_view word = rest.substr(0, rest.find(','));
    double number = 0.0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), number);
    is_good = error == std::errc() && end == word.data() + word.size();
    numbers.push_back(number);
    if (word.size() == rest.size()) break;
    rest.remove_prefix(word.size() + 1);
  }
  const auto whole = [&](double number) {
    is_good = is_good && number >= 1.0 && number <= 1e15 && number == std::floor(number);
    return is_good ? static_cast<int64_t>(number) : int64_t{1};
  };
  if (is_good && kind == "constant" && numbers.size() == 1) return constant(numbers[0]);
  if (is_good && kind == "exponential" && numbers.size() == 4) {
    const int64_t every = whole(numbers[2]);
    if (is_good) return exponential(numbers[0], numbers[1], every, numbers[3]);
  }
  if (is_good && kind == "linear" && numbers.size() == 3) {
    const int64_t steps = whole(numbers[2]);
    if (is_good) return linear(numbers[0], numbers[1], steps);
  }
  HTL_CHECK(
      false, "htl::Temperature: can't read \"", text,
      "\"; write \"constant:VALUE\", \"exponential:START,FACTOR,EVERY,FLOOR\" or \"linear:START,END,STEPS\", for example \"exponential:10,0.9,5000,0.5\"");
}

}  // namespace htl

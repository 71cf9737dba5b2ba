// SPDX-License-Identifier: Apache-2.0
/// @file expression.hpp
/// @brief Expression: a formula over the tasks' predictions, as in `click^.6 * watch_time`.
#pragma once

#include <htl/task/check.hpp>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace compare {

/// @brief Numbers, names, + - * / ^ and parentheses, log(x), log1p(x). A name of other characters than letters, digits and "_" stands in double quotes. A power
/// binds tighter than a sign before it and groups to the right: -a^b^c is -(a^(b^c)).
class Expression {
 public:
  /// @brief Reads a formula.
  /// @param text the formula
  /// @param names what it may name; values are given in this order
  /// @throws c10::ValueError saying what was expected where, and naming the nearest name
  Expression(std::string text, std::vector<std::string> names) : text_(std::move(text)), names_(std::move(names)) {
    sum();
    skip();
    if (at_ < text_.size()) fail("the end or an operator");
  }

  /// @brief The value of one row.
  /// @param values one for each name
  double operator()(const std::vector<double>& values) const {
    std::vector<double> stack;
    for (const Step& step : steps_) {
      if (step.operation == Operation::number || step.operation == Operation::name) {
        stack.push_back(step.operation == Operation::number ? step.number : values.at(static_cast<size_t>(step.number)));
        continue;
      }
      const double right = stack.back();
      const bool is_unary = step.operation == Operation::negate || step.operation == Operation::log || step.operation == Operation::log1p;
      if (!is_unary) stack.pop_back();
      stack.back() = apply(step.operation, stack.back(), right);
    }
    return stack.back();
  }
  /// @brief The formula as it was given.
  const std::string& text() const { return text_; }

 private:
  enum class Operation { number, name, add, subtract, multiply, divide, power, negate, log, log1p };
  struct Step {
    Operation operation;
    double number = 0.0;  // or the position of a name
  };

  static double apply(Operation operation, double left, double right) {
    switch (operation) {
      case Operation::add:
        return left + right;
      case Operation::subtract:
        return left - right;
      case Operation::multiply:
        return left * right;
      case Operation::divide:
        return left / right;
      case Operation::power:
        return std::pow(left, right);
      case Operation::negate:
        return -right;
      case Operation::log:
        return std::log(right);
      default:
        return std::log1p(right);
    }
  }
  [[noreturn]] void fail(const std::string& expected) const {
    HTL_CHECK(false, "compare: in the score \"", text_, "\" expected ", expected, at_ < text_.size() ? " at \"" + text_.substr(at_) + "\"" : " at its end");
  }
  void skip() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t')) ++at_;
  }
  bool take(char symbol) {
    skip();
    const bool found = at_ < text_.size() && text_[at_] == symbol;
    at_ += found ? 1 : 0;
    return found;
  }
  void push(Operation operation, double number = 0.0) { steps_.push_back({operation, number}); }

  void sum() {
    product();
    while (true) {
      const bool adds = take('+');
      if (!adds && !take('-')) return;
      product();
      push(adds ? Operation::add : Operation::subtract);
    }
  }
  void product() {
    signed_power();
    while (true) {
      const bool multiplies = take('*');
      if (!multiplies && !take('/')) return;
      signed_power();
      push(multiplies ? Operation::multiply : Operation::divide);
    }
  }
  void signed_power() {
    HTL_CHECK(++depth_ <= 200, "compare: the score \"", text_, "\" is nested more than 200 deep");
    if (take('-')) {
      signed_power();
      push(Operation::negate);
    } else {
      atom();
      if (take('^')) {
        signed_power();
        push(Operation::power);
      }
    }
    --depth_;
  }
  void atom() {
    if (take('(')) {
      sum();
      if (!take(')')) fail("\")\"");
      return;
    }
    const auto is_letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; };
    const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
    if (at_ < text_.size() && (is_digit(text_[at_]) || text_[at_] == '.')) {
      double number = 0.0;
      const auto [stop, error] = std::from_chars(text_.data() + at_, text_.data() + text_.size(), number);
      if (error != std::errc()) fail("a number");
      at_ = static_cast<size_t>(stop - text_.data());
      return push(Operation::number, number);
    }
    if (take('"')) {
      const size_t end = text_.find('"', at_);
      if (end == std::string::npos) fail("a name and \"");
      const std::string quoted = text_.substr(at_, end - at_);
      at_ = end + 1;
      return push_name(quoted);
    }
    const size_t begin = at_;
    while (at_ < text_.size() && (is_letter(text_[at_]) || (at_ > begin && is_digit(text_[at_])))) ++at_;
    if (at_ == begin) fail("a number, a task or \"(\"");
    const std::string name = text_.substr(begin, at_ - begin);
    if ((name == "log" || name == "log1p") && take('(')) {
      sum();
      if (!take(')')) fail("\")\"");
      return push(name == "log" ? Operation::log : Operation::log1p);
    }
    push_name(name);
  }
  void push_name(const std::string& name) {
    const auto found = std::find(names_.begin(), names_.end(), name);
    HTL_CHECK(found != names_.end(), "compare: the score \"", text_, "\" names \"", name, "\", which is no task; did you mean \"", htl::nearest(name, names_),
              "\"? Tasks: ", htl::quoted(names_));
    push(Operation::name, static_cast<double>(found - names_.begin()));
  }

  std::string text_;
  std::vector<std::string> names_;
  std::vector<Step> steps_;
  size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace compare
